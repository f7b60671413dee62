//! What to write instead of a key that there is not: the nearest that there is, what a word of
//! another product is called here, or the section that has it.

use super::keys::{Section, nearest, nearest_over};
use super::table::ROOT;

/// A row: in a section, words that people bring, and what they mean.
struct Synonym {
    heading: &'static str,
    /// Lower case, with `_` between words.
    words: &'static [&'static str],
    /// A key of the section, or a sentence.
    means: &'static str,
}

const fn row(
    heading: &'static str,
    words: &'static [&'static str],
    means: &'static str,
) -> Synonym {
    Synonym { heading, words, means }
}

const TOP: &str = "Top level";
const LISTENER: &str = "[listener.NAME]";
const LISTENER_TLS: &str = "[listener.NAME.tls]";
const ROUTE: &str = "[[listener.NAME.route]]";
const MATCH: &str = "[listener.NAME.route.match]";
const POOL: &str = "[pool.NAME]";
const POOL_TLS: &str = "[pool.NAME.tls]";
const SERVER: &str = "[pool.NAME.servers.NAME]";
const CHECK: &str = "[pool.NAME.check]";

/// To add one: put the word into the row of what it means. A word that is a key of the section
/// has no row, which a test checks.
static SYNONYMS: &[Synonym] = &[
    row(TOP, &["listeners", "frontend", "frontends", "server"], "listener"),
    row(TOP, &["pools", "upstream", "upstreams", "backend", "backends", "clusters"], "pool"),
    row(TOP, &["policies", "plugins", "middleware", "middlewares"], "policy"),
    row(TOP, &["consumers", "users"], "consumer"),
    row(TOP, &["global"], "runtime"),
    row(TOP, &["logging", "logs"], "log"),
    row(TOP, &["api", "dashboard", "metrics", "stats", "status"], "admin"),
    row(TOP, &["servers"], "servers stand in their pool: `[pool.NAME.servers]`"),
    row(TOP, &["route", "routes"], "routes stand in their listener: `[[listener.NAME.route]]`"),
    row("[runtime]", &["nbthread", "threads", "worker_processes"], "workers"),
    row("[runtime]", &["max_connections", "maxconn", "worker_connections"], "max_conns"),
    row("[runtime]", &["nameservers", "resolver", "resolvers"], "dns"),
    row("[admin]", &["addr", "address", "listen", "port"], "bind"),
    row("[admin]", &["auth_token", "password"], "token"),
    row("[log]", &["access_log", "file", "path"], "access"),
    row("[log]", &["log_level", "loglevel"], "level"),
    row(LISTENER, &["addr", "address", "listen", "port"], "bind"),
    row(LISTENER, &["cert", "certificate", "certificates", "certs", "https", "ssl"], "tls"),
    row(
        LISTENER,
        &["max_connections", "max_conns", "maxconn"],
        "did you mean `limit.max_conns`? limit = { max_conns = 10000 }",
    ),
    row(LISTENER, &["proxy_protocol"], "accept_proxy"),
    row(LISTENER, &["backend", "backends", "default_backend", "upstream"], "pool"),
    row(LISTENER, &["location", "locations", "routes", "rules"], "route"),
    row(LISTENER, &["protocol", "type"], "mode"),
    row(LISTENER, &["middlewares", "plugins", "policy"], "policies"),
    row(LISTENER, &["whitelist"], "allow"),
    row(LISTENER, &["blacklist"], "deny"),
    row("[listener.NAME.limit]", &["max_connections", "maxconn"], "max_conns"),
    row(LISTENER_TLS, &["cert_file", "certificate", "crt", "ssl_certificate"], "cert"),
    row(LISTENER_TLS, &["key_file", "private_key", "ssl_certificate_key"], "key"),
    row(LISTENER_TLS, &["ca", "ca_file", "client_certificate"], "client_ca"),
    row(LISTENER_TLS, &["verify", "verify_client"], "client_auth"),
    row(LISTENER_TLS, &["min_protocol", "protocols", "versions"], "min_version"),
    row(ROUTE, &["backend", "cluster", "service", "upstream"], "pool"),
    row(ROUTE, &["middlewares", "plugins", "policy"], "policies"),
    row(ROUTE, &["retry"], "retries"),
    row(ROUTE, &["weights"], "split"),
    row(
        ROUTE,
        &["host", "hosts", "location", "method", "methods", "path", "paths", "prefix", "uri"],
        "it stands in `match`: match = { host = \"a.example.com\", path = \"/v1/*\" }",
    ),
    row(MATCH, &["path_prefix", "paths", "prefix", "uri", "url"], "path"),
    row(MATCH, &["domain", "hostname", "hosts"], "host"),
    row(MATCH, &["method"], "methods"),
    row(MATCH, &["regex"], "path_regex"),
    row(
        POOL,
        &[
            "algorithm",
            "lb",
            "lb_method",
            "lb_policy",
            "load_balancing",
            "method",
            "policy",
            "strategy",
        ],
        "balance",
    ),
    row(POOL, &["checks", "health", "health_check", "healthcheck"], "check"),
    row(
        POOL,
        &["backends", "endpoints", "hosts", "members", "nodes", "server", "targets", "upstreams"],
        "servers",
    ),
    row(
        POOL,
        &["max_connections", "max_conns", "maxconn"],
        "`max_conns` is a key of each server: { addr = \"10.0.0.11:8080\", max_conns = 200 }",
    ),
    row(POOL, &["accept_proxy", "proxy_protocol"], "send_proxy"),
    row(POOL, &["circuit_breaker"], "breaker"),
    row(POOL, &["outlier_detection", "passive_health_check"], "outlier"),
    row(POOL, &["ssl"], "tls"),
    row(POOL, &["queue", "queue_timeout"], "hold"),
    row(POOL_TLS, &["ca", "ca_cert", "ca_file"], "verify"),
    row(
        POOL_TLS,
        &["insecure", "insecure_skip_verify", "skip_verify"],
        "verify = \"insecure\" says that",
    ),
    row(POOL_TLS, &["server_name", "servername"], "sni"),
    row(POOL_TLS, &["cert", "certificate"], "client_cert"),
    row(POOL_TLS, &["key", "private_key"], "client_key"),
    row(SERVER, &["address", "endpoint", "host", "ip", "server", "target", "url"], "addr"),
    row(SERVER, &["port"], "it stands in `addr`: \"10.0.0.11:8080\""),
    row(SERVER, &["max_connections", "maxconn"], "max_conns"),
    row(
        SERVER,
        &["disabled", "down", "drain"],
        "files have no such key; use `sluicegate ctl drain POOL/SERVER`, or `maint`",
    ),
    row(CHECK, &["inter", "interval", "period"], "every"),
    row(CHECK, &["uri", "url"], "path"),
    row(CHECK, &["healthy_threshold", "success_threshold"], "rise"),
    row(CHECK, &["failure_threshold", "failures", "unhealthy_threshold"], "fall"),
    row(CHECK, &["code", "codes", "expected_status", "status"], "expect"),
];

/// What to say of an unknown key.
#[derive(Debug, Default)]
pub(super) struct Suggestion {
    /// Empty: nothing is near.
    pub hint: String,
    /// The key that was meant, perhaps.
    pub key: Option<&'static str>,
}

impl Suggestion {
    pub fn new(section: &'static Section, name: &str) -> Self {
        let keys = || section.keys.iter().map(|key| key.name);
        if let Some(means) = meaning(section.heading, name) {
            return match keys().find(|key| *key == means) {
                Some(key) => Self { hint: format!("did you mean `{key}`?"), key: Some(key) },
                None => Self { hint: means.to_owned(), key: None },
            };
        }
        if let Some(key) = nearest(name, keys()) {
            return Self { hint: format!("did you mean `{key}`?"), key: Some(key) };
        }
        elsewhere(name).unwrap_or_default()
    }
}

/// A key of another section, or nearly one.
fn elsewhere(name: &str) -> Option<Suggestion> {
    /// Among the keys of all sections a lesser likeness is an accident.
    const LIKENESS_MIN: f64 = 0.8;
    let sections = ROOT.all_below();
    let known = sections.iter().flat_map(|section| section.keys).map(|key| key.name);
    let key = nearest_over(LIKENESS_MIN, name, known)?;
    let section = sections.iter().find(|section| section.index(key).is_some())?;
    let heading = section.heading;
    let hint = if key == name {
        format!("it is a key of `{heading}`")
    } else {
        format!("did you mean `{key}`, a key of `{heading}`?")
    };
    Some(Suggestion { hint, key: Some(key) })
}

fn meaning(heading: &str, name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let mut rows = SYNONYMS.iter().filter(|row| row.heading == heading);
    rows.find(|row| row.words.contains(&name.as_str())).map(|row| row.means)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(heading: &str) -> &'static Section {
        let mut all = ROOT.all_below().into_iter();
        all.find(|section| section.heading == heading).expect(heading)
    }

    #[test]
    fn every_row_is_about_words_that_are_no_keys_and_means_a_key_or_a_sentence() {
        for (at, row) in SYNONYMS.iter().enumerate() {
            let section = section(row.heading);
            assert!(row.means.contains(' ') || section.index(row.means).is_some(), "{}", row.means);
            for word in row.words {
                assert!(section.index(word).is_none(), "`{word}` is a key of {}", row.heading);
                let first = SYNONYMS
                    .iter()
                    .position(|other| other.heading == row.heading && other.words.contains(word));
                assert_eq!(first, Some(at), "`{word}` has two meanings in {}", row.heading);
            }
        }
    }

    #[test]
    fn words_of_other_products_are_told_what_they_are_called_here() {
        for (heading, word, hint) in [
            (SERVER, "address", "`addr`"),
            (LISTENER, "Port", "`bind`"),
            (LISTENER, "ssl", "`tls`"),
            (LISTENER, "max-connections", "`limit.max_conns`"),
            (SERVER, "maxconn", "`max_conns`"),
            (LISTENER, "proxy_protocol", "`accept_proxy`"),
            (POOL, "proxy_protocol", "`send_proxy`"),
            (POOL, "algorithm", "`balance`"),
            (POOL, "healthcheck", "`check`"),
            (POOL, "targets", "`servers`"),
            (POOL, "max_conns", "a key of each server"),
            (LISTENER, "upstream", "`pool`"),
            (ROUTE, "backend", "`pool`"),
            // What is near in the section is meant before anything else, then what is elsewhere.
            (POOL, "blance", "did you mean `balance`?"),
            (LISTENER, "blance", "did you mean `balance`, a key of `[pool.NAME]`?"),
            (LISTENER, "balance", "it is a key of `[pool.NAME]`"),
        ] {
            let said = Suggestion::new(section(heading), word).hint;
            assert!(said.contains(hint), "{word}: {said}");
        }
        assert_eq!(Suggestion::new(section(POOL), "colour").hint, "");
    }
}
