//! Claims about what a plan holds of TLS and HTTP. What is refused, and where, stands in the
//! corpus.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use sluicegate_l7::route::spec::{ActionSpec, PathSpec, RetrySpec, SplitBy, ValueSpec};

use super::{plan_of, rendered, repository};
use crate::config::plan::{
    CheckKind, ClientAuth, HashBy, HttpLimits, HttpTimeouts, KeepAlive, Mode, Pem, Protocol,
    TlsVersion, Verify,
};
use crate::config::{load, load_text};

const POOL: &str = "[pool.p]\nservers.s = \"10.0.0.1:2\"\n";

fn http(lines: &str) -> String {
    format!("[listener.a]\nbind = \"127.0.0.1:1\"\nmode = \"http\"\n{lines}{POOL}")
}

#[test]
fn an_http_listener_has_the_defaults_of_the_interface() {
    let plan = plan_of("a.toml", &http("pool = \"p\"\n"));
    let listener = &plan.listeners[0];
    let http = listener.http.as_ref().unwrap();
    assert_eq!(listener.mode, Mode::Http);
    assert_eq!((http.timeouts, http.limits), (HttpTimeouts::default(), HttpLimits::default()));
    assert!(http.compression.is_none() && http.errors.is_empty() && http.keep_headers.is_empty());
    // The listener's pool is the last route, for all.
    assert_eq!(http.routes.len(), 1);
    assert_eq!(http.routes[0].name, "");
    assert!(matches!(http.routes[0].action, ActionSpec::Pool(0)));
    let pool = &plan.pools[0];
    assert_eq!((pool.protocol, pool.keepalive), (Protocol::Http1, KeepAlive::default()));
    assert!(pool.tls.is_none());
}

#[test]
fn a_listener_that_answers_by_itself_has_no_pool_and_no_pools_timeouts() {
    let route = "[[listener.a.route]]\nredirect = { scheme = \"https\" }\n";
    let text = http(route).replace("[pool.p]\n", "[pool.p]\nhandshake_timeout = \"1s\"\n");
    let plan = plan_of("a.toml", &text);
    assert_eq!(plan.listeners[0].first_pool(), None);
    let handshake = plan.timeouts(&plan.listeners[0]).handshake;
    assert_eq!(handshake, crate::config::plan::Timeouts::default().handshake);
}

#[test]
fn a_listener_has_no_policies_to_drop() {
    let policy = "[policy.t]\ntype = \"size-limit\"\nbody = \"1MiB\"\n";
    let told = |policies: &str| {
        let route = "[[listener.a.route]]\npool = \"p\"\npolicies = [\"!*\"]\n";
        rendered("a.toml", &http(&format!("policies = {policies}\n{route}{policy}")))
    };
    assert_eq!(told("[\"t\"]"), "", "a route may");
    assert!(told("[\"!*\", \"t\"]").contains("drops nothing"), "{}", told("[\"!*\", \"t\"]"));
}

#[test]
fn no_bound_is_taken_that_would_not_be_kept() {
    for (line, key, most) in [
        ("http.max_header = \"161KiB\"\n", "`max_header`", "160KiB"),
        ("http.max_uri = \"161KiB\"\n", "`max_uri`", "160KiB"),
        ("http.max_headers = 257\n", "`max_headers`", "256"),
    ] {
        let told = rendered("a.toml", &http(&("pool = \"p\"\n".to_owned() + line)));
        assert!(told.contains(key) && told.contains(most), "{line}: {told}");
    }
    let lease = "store = { redis = \"redis://127.0.0.1\", lease = 1001 }\n";
    let policy = format!(
        "policies = [\"r\"]\npool = \"p\"\n[policy.r]\ntype = \"rate-limit\"\nkey = \"ip\"\n\
         limit = \"9/s\"\n{lease}"
    );
    let told = rendered("a.toml", &http(&policy));
    assert!(told.contains("`lease`") && told.contains("1000"), "{told}");
}

#[test]
fn tables_that_say_nothing_mean_their_defaults() {
    let plan = plan_of(
        "a.toml",
        &http(
            "http = {}\ncompression = {}\n[[listener.a.route]]\npool = \"p\"\nretries = {}\nsticky = {}\n",
        ),
    );
    let http = plan.listeners[0].http.as_ref().unwrap();
    let route = &http.routes[0];
    assert_eq!(http.limits, HttpLimits::default());
    assert_eq!(format!("{:?}", route.retries), format!("{:?}", RetrySpec::default()));
    let sticky = route.sticky.as_ref().unwrap();
    assert_eq!((sticky.cookie.as_str(), sticky.ttl, sticky.keep_on_drain), ("sg", None, false));
    let compression = http.compression.as_ref().unwrap();
    assert_eq!((compression.algorithms.len(), compression.size_min), (2, 1024));
    assert_eq!(compression.types, ["text/*", "application/json", "application/javascript"]);
}

#[test]
fn routes_without_a_name_are_called_by_host_and_path_and_repeats_are_numbered() {
    let route = |line: &str| format!("[[listener.a.route]]\n{line}\npool = \"p\"\n");
    let lines = [
        "match = { host = \"a.test\", path = \"/x/*\" }",
        "match = { host = \"a.test\", path = \"/x/*\", methods = \"GET\" }",
        "name = \"mine\"",
        "match.methods = \"POST\"",
        "match.path_regex = \"/r.*\"",
    ];
    let plan = plan_of("a.toml", &http(&lines.map(route).concat()));
    let names: Vec<&str> =
        plan.listeners[0].http.as_ref().unwrap().routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a.test/x/*", "a.test/x/* #2", "mine", "*", "/r.*"]);
}

#[test]
fn conditions_are_kept_in_the_form_they_are_compared_in() {
    let plan = plan_of(
        "a.toml",
        &http(
            "[[listener.a.route]]\npool = \"p\"\nmatch = { host = [\"A.Test\", \"*.b.test\"], path_regex = \"/v.*\", ignore_case = true, \
             methods = [\"get\"], headers = { X-Beta = [\"1\", \"2\"] }, cookies = { B = \"*\" } }\n",
        ),
    );
    let matches = &plan.listeners[0].http.as_ref().unwrap().routes[0].matches;
    assert_eq!(matches.hosts, ["a.test", "*.b.test"]);
    assert_eq!(matches.methods, ["GET"]);
    let two = ValueSpec::Any(vec!["1".into(), "2".into()]);
    assert_eq!(matches.headers, [("x-beta".to_owned(), two)]);
    assert_eq!(matches.cookies, [("B".to_owned(), ValueSpec::Present)]);
    let PathSpec::Regex(regex) = &matches.path else { panic!("{:?}", matches.path) };
    assert!(regex.is_match("/V1"));
}

#[test]
fn a_split_names_its_pools_with_their_shares() {
    let text = http("[[listener.a.route]]\nsplit = { p = 9, q = 1 }\nsplit_by = \"client\"\n")
        + "[pool.q]\nservers.s = \"10.0.0.1:3\"\n";
    let plan = plan_of("a.toml", &text);
    let ActionSpec::Split { pools, by } =
        &plan.listeners[0].http.as_ref().unwrap().routes[0].action
    else {
        panic!("no split")
    };
    assert_eq!((pools.as_slice(), *by), (&[(0, 9), (1, 1)][..], SplitBy::Client));
}

#[test]
fn http_timeouts_of_a_pool_hold_before_those_of_the_listener_and_these_before_the_defaults() {
    let text =
        "[defaults]\nrequest_timeout = \"1s\"\nbody_timeout = \"2s\"\ntotal_timeout = \"1h\"\n"
            .to_owned()
            + &http("pool = \"p\"\nbody_timeout = \"3s\"\nheader_timeout = \"4s\"\n")
            + "request_timeout = \"5s\"\ntotal_timeout = \"off\"\nhandshake_timeout = \"6s\"\n";
    let plan = plan_of("a.toml", &text);
    let listener = &plan.listeners[0];
    let times = plan.http_timeouts(listener.http.as_ref().unwrap(), 0);
    let seconds = Duration::from_secs;
    assert_eq!((times.request, times.body, times.header), (seconds(5), seconds(3), seconds(4)));
    assert_eq!((times.keepalive, times.total), (seconds(60), None));
    assert_eq!(plan.timeouts(listener).handshake, seconds(6));
}

#[test]
fn a_listener_that_only_redirects_needs_no_pool() {
    let text = "[defaults]\nidle_timeout = \"7s\"\n[listener.a]\nbind = \"127.0.0.1:1\"\nmode = \"http\"\n\
                [[listener.a.route]]\nredirect.scheme = \"https\"\n";
    let plan = plan_of("a.toml", text);
    assert!(plan.pools.is_empty());
    assert_eq!(plan.timeouts(&plan.listeners[0]).idle, Duration::from_secs(7));
    assert_eq!(rendered("a.toml", text), "");
}

#[test]
fn server_names_are_sorted_by_kind_and_lower_case() {
    let text = "[listener.a]\nbind = \"127.0.0.1:1\"\nsni = { \"DB.test\" = \"p\", \"*.Web.test\" = \"p\", \"*\" = \"p\" }\nno_sni = \"p\"\n".to_owned() + POOL;
    let sni = plan_of("a.toml", &text).listeners[0].sni.clone().unwrap();
    assert_eq!(sni.exact, [("db.test".to_owned(), 0)]);
    assert_eq!(sni.wildcard, [(".web.test".to_owned(), 0)]);
    assert_eq!((sni.any, sni.no_sni), (Some(0), Some(0)));
}

#[test]
fn a_certificate_asks_of_clients_what_the_listener_asks_unless_it_says_otherwise() {
    let plan = load(&repository("config/full.toml")).unwrap().plan;
    let tls = plan.listeners.iter().find(|l| l.name == "api").unwrap().tls.as_ref().unwrap();
    let auth: Vec<ClientAuth> = tls.certs.iter().map(|entry| entry.client_auth).collect();
    assert_eq!(auth, [ClientAuth::Require, ClientAuth::Request]);
    let ca = Pem::File(repository("config/certs/ca.pem"));
    assert!(tls.certs.iter().all(|entry| entry.client_ca.as_ref() == Some(&ca)));
    assert_eq!(tls.certs[0].names, ["api.example.com", "*.api.example.com"]);
    assert_eq!((tls.version_min, tls.alpn.len()), (TlsVersion::Tls12, 2));
    let pool = plan.pools.iter().find(|p| p.name == "db").unwrap();
    let to_servers = pool.tls.as_ref().unwrap();
    assert_eq!(to_servers.verify, Verify::File(repository("config/certs/ca.pem")));
    assert!(to_servers.client.is_some() && to_servers.starttls_postgres);
    assert!(pool.check.as_ref().unwrap().tls, "checks go the way of the traffic");
}

#[test]
fn toml_and_json_routes_give_the_same_plan() {
    let toml = http(
        "[[listener.a.route]]\nmatch.path = \"/o/{id}/*\"\npool = \"p\"\nheaders.set = { X-A = \"1\" }\n[[listener.a.route]]\nrespond = { body = \"ok\" }\n",
    );
    let json = r#"{"listener": {"a": {"bind": "127.0.0.1:1", "mode": "http", "route": [
        {"match": {"path": "/o/{id}/*"}, "pool": "p", "headers": {"set": {"X-A": "1"}}},
        {"respond": {"body": "ok"}}]}},
        "pool": {"p": {"servers": {"s": "10.0.0.1:2"}}}}"#;
    let shown = |name, text: &str| {
        let mut plan = plan_of(name, text);
        plan.hash = String::new();
        format!("{plan:#?}")
    };
    assert_eq!(shown("a.toml", &toml), shown("a.json", json));
}

#[test]
fn a_certificate_out_of_date_is_a_warning_and_starts() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let path = dir.path().join("a.toml");
    let text = http("pool = \"p\"\ntls = { cert = \"file:c.pem\", key = \"file:c.key\" }\n");
    std::fs::write(&path, text).unwrap();
    std::fs::write(dir.path().join("c.key"), key.serialize_pem()).unwrap();
    for (from, to, says) in [(2001, 2002, "has expired"), (3001, 3002, "is not valid yet")] {
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let loaded = load(&path).unwrap_or_else(|report| panic!("{}", report.render(false)));
        let shown = loaded.warnings.render(false);
        assert!(shown.contains("W412") && shown.contains(says), "{shown}");
        assert!(shown.contains("a.toml:5:16"), "{shown}");
    }
}

#[test]
fn authorities_that_policies_believe_are_read_when_the_file_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.pem"), "no certificate\n").unwrap();
    let path = dir.path().join("a.toml");
    let policies = "policies = [\"asked\", \"outside\", \"token\", \"rate\"]\n\
        [policy.asked]\ntype = \"introspection\"\nurl = \"https://a.test/i\"\nverify = \"file:bad.pem\"\n\
        client_id = \"a\"\nclient_secret = \"env:PATH\"\n\
        [policy.outside]\ntype = \"forward-auth\"\nurl = \"https://a.test/f\"\nverify = \"file:bad.pem\"\n\
        [policy.token]\ntype = \"jwt\"\nalgorithms = [\"RS256\"]\n\
        jwks = { url = \"https://a.test/j\", verify = \"file:bad.pem\" }\n\
        [policy.rate]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"9/s\"\n\
        store = { redis = \"rediss://a.test\", verify = \"file:bad.pem\" }\n";
    let text = http(&format!("pool = \"p\"\n{policies}"));
    std::fs::write(&path, &text).unwrap();
    let shown = load(&path).unwrap_err().render(false);
    assert_eq!(shown.matches("bad.pem, which has no certificate in it").count(), 4, "{shown}");
    for policy in ["asked", "outside", "token", "rate"] {
        assert!(shown.contains(&format!("policy `{policy}`")), "{shown}");
    }
}

#[test]
fn an_encrypted_key_is_told_from_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(dir.path().join("c.key"), pem).unwrap();
    let path = dir.path().join("a.toml");
    let cert = repository("config/certs/api.pem");
    let text = http(&format!(
        "pool = \"p\"\ntls = {{ cert = \"file:{}\", key = \"file:c.key\" }}\n",
        cert.display()
    ));
    std::fs::write(&path, text).unwrap();
    let shown = load(&path).unwrap_err().render(false);
    assert!(shown.contains("encrypted key") && shown.contains("openssl pkey"), "{shown}");
}

#[test]
fn a_check_asks_for_the_host_it_says_else_for_the_sni_of_its_pool() {
    let host = |check: &str, tls: &str| {
        let text = http("pool = \"p\"\n") + &format!("check = {{ type = \"http\"{check} }}\n{tls}");
        match plan_of("a.toml", &text).pools[0].check.clone().map(|check| check.kind) {
            Some(CheckKind::Http(check)) => check.host,
            other => panic!("{other:?}"),
        }
    };
    let tls = "tls = { sni = \"db.test\" }\n";
    assert_eq!(host("", tls).as_deref(), Some("db.test"));
    assert_eq!(host(", host = \"own.test\"", tls).as_deref(), Some("own.test"));
    assert_eq!(host("", "tls = {}\n"), None);
    assert_eq!(host("", ""), None);
}

#[test]
fn what_maglev_goes_by_suits_its_listeners() {
    let pool = |lines: &str| format!("[pool.q]\nservers.s = \"10.0.0.2:80\"\n{lines}");
    let of = |mode: &str, lines: &str| {
        let listener = format!("[listener.a]\nbind = \"127.0.0.1:1\"\nmode = \"{mode}\"\n");
        load_text("a.toml", format!("{listener}pool = \"q\"\n{}", pool(lines)).as_bytes())
    };
    let by = |hash: &str| {
        let lines = format!("balance = \"maglev\"\nhash = \"{hash}\"\n");
        let loaded = of("http", &lines);
        loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).plan.pools[0]
            .hash
            .clone()
    };
    assert_eq!(by("ip"), HashBy::Ip);
    assert_eq!(by("header:X-Tenant"), HashBy::Header("x-tenant".into()));
    assert_eq!(by("cookie:Sid"), HashBy::Cookie("Sid".into()));
    assert_eq!((by("consumer"), by("path")), (HashBy::Consumer, HashBy::Path));
    for (mode, lines, says, place) in [
        ("tcp", "balance = \"maglev\"\nhash = \"path\"\n", "tcp listener `a` sends to it", "8:8"),
        ("http", "hash = \"path\"\n", "write balance = \"maglev\"", "7:1"),
        ("http", "balance = \"maglev\"\nhash = \"cookie:\"\n", "\"cookie:NAME\"", "8:8"),
    ] {
        let shown = of(mode, lines).unwrap_err().render(false);
        assert!(shown.contains(says) && shown.contains(place), "{lines}: {shown}");
    }
    assert!(of("tcp", "balance = \"maglev\"\nhash = \"ip\"\n").is_ok());
}

#[test]
fn a_mirror_is_a_pool_alone_or_a_table_and_its_pool_is_not_unused() {
    const SHADOW: &str = "[pool.shadow.servers]\ns = \"10.0.0.2:80\"\n";
    let of = |mirror: &str| {
        let lines = format!("[[listener.a.route]]\npool = \"p\"\nmirror = {mirror}\n");
        load_text("a.toml", format!("{}{SHADOW}", http(&lines)).as_bytes())
    };
    let mirror = |text: &str| {
        let loaded = of(text).unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert_eq!(loaded.warnings.warnings(), 0, "{}", loaded.warnings.render(false));
        let mirror = loaded.plan.listeners[0].http.as_ref().unwrap().routes[0].mirror.clone();
        let mirror = mirror.expect("it is said");
        let pool = loaded.plan.pools[mirror.pool].name.clone();
        (pool, mirror.share_percent, mirror.body_max, mirror.in_flight_max)
    };
    assert_eq!(mirror("\"shadow\""), ("shadow".into(), 100, 64 << 10, 100));
    let all = "{ pool = \"shadow\", share = \"5%\", max_body = \"1MiB\", in_flight = 7 }";
    assert_eq!(mirror(all), ("shadow".into(), 5, 1 << 20, 7));
    for (wrong, says) in [
        ("\"shadw\"", "did you mean `shadow`?"),
        ("{ share = \"5%\" }", "`pool` is missing in `mirror`"),
        ("{ pool = \"shadow\", in_flight = 0 }", "in_flight"),
        ("{ pool = \"shadow\", retries = 1 }", "unknown key `retries`"),
    ] {
        let shown = of(wrong).unwrap_err().render(false);
        assert!(shown.contains(says) && shown.contains("a.toml:6:"), "{wrong}: {shown}");
    }
    let lines = "[[listener.a.route]]\nrespond = { body = \"x\" }\nmirror = \"shadow\"\n";
    let shown = load_text("a.toml", format!("{}{SHADOW}", http(lines)).as_bytes()).unwrap_err();
    assert!(shown.render(false).contains("does not go with `respond`"), "{}", shown.render(false));
}

#[test]
fn a_secret_that_is_too_short_for_tokens_is_told_the_rule_and_where_to_get_another() {
    let policy = "policies = [\"x\"]\n[policy.x]\ntype = \"jwt\"\nsecret = \"0123456789abcdef\"\n";
    let told = rendered("a.toml", &http(&format!("pool = \"p\"\n{policy}")));
    for words in ["RFC 7518 section 3.2", "at least 32 bytes", "has 16", "`openssl rand -hex 32`"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn what_a_route_without_servers_would_not_do_is_refused() {
    for action in ["respond = { body = \"x\" }", "redirect = { to = \"/new\" }"] {
        for key in ["compression = {}", "compression = false", "timeout = \"1s\""] {
            let lines = format!("[[listener.a.route]]\n{action}\n{key}\n");
            let told = rendered("a.toml", &http(&lines));
            let name = key.split(' ').next().unwrap();
            assert!(told.contains(&format!("`{name}` of ")), "{told}");
            assert!(told.contains("which asks no server"), "{told}");
        }
    }
}

#[test]
fn a_secret_is_as_long_as_the_longest_hash_that_it_is_to_sign_with() {
    let of = |algorithms: &str, bytes: usize| {
        let secret = "s".repeat(bytes);
        let policy = format!(
            "policies = [\"x\"]\n[policy.x]\ntype = \"jwt\"\nsecret = \"{secret}\"\n{algorithms}\n"
        );
        load_text("a.toml", http(&format!("pool = \"p\"\n{policy}")).as_bytes())
            .map_err(|report| report.render(false))
    };
    for (algorithms, min) in [
        ("", 32),
        ("algorithms = [\"HS256\"]", 32),
        ("algorithms = [\"HS256\", \"HS384\"]", 48),
        ("algorithms = [\"HS512\"]", 64),
    ] {
        assert!(of(algorithms, min).is_ok(), "{algorithms}");
        let told = of(algorithms, min - 1).expect_err("it is too short");
        assert!(told.contains(&format!("must have at least {min} bytes")), "{algorithms}: {told}");
        let rule = "(RFC 7518 section 3.2: no fewer than the hash)";
        assert!(told.contains(rule) && !told.contains("sss"), "{told}");
    }
}
