//! Requests to an HTTP listener: the route, what it makes of the request, and one line for each
//! route that was not taken.

use std::fmt::Write;
use std::sync::Arc;

use sluicegate_l7::route::spec::{ActionSpec, MirrorSpec, SplitBy};

use super::{Asked, Question, Sticky, pool};
use crate::config::plan::{HttpListener, Plan};
use crate::config::units::size_text;
use crate::http::explain::{Explained, Fate, explain as judge, head_of, names_server};
use crate::http::{Rules, Site};
use crate::observe::labels::Labels;
use crate::registry::ListenerId;

/// Appends what becomes of the request.
///
/// # Errors
/// When the question has no request, or one that cannot be read.
pub(super) fn explain(
    plan: &Arc<Plan>,
    id: ListenerId,
    http: &HttpListener,
    question: &Question,
    text: &mut String,
) -> Result<(), String> {
    let listener = &plan.listeners[usize::from(id.0)];
    let name = &listener.name;
    if question.sni.is_some() {
        return Err(format!("listener `{name}` is `mode = \"http\"`: ask with --request"));
    }
    let Some(request) = &question.request else {
        return Err(format!(
            "listener `{name}` is `mode = \"http\"` and wants a request: --request 'GET \
             https://host/path'"
        ));
    };
    let head = head_of(request, &question.headers)?;
    let rules = Arc::new(Rules::new(plan));
    let site = Site::new(id, listener, http, &rules, &plan.log, &mut Labels::default())
        .map_err(|error| format!("route {} cannot be built: {:?}", error.route + 1, error.why))?;
    let _ = writeln!(text, "request   {request}");
    match judge(plan, &site, &head, question.client) {
        Ok(found) => said(plan, &site, question, &found, text),
        Err(refused) => {
            let (status, reason) = (refused.status, refused.reason.as_str());
            let _ = writeln!(text, "answer    {status}, reason `{reason}`: {}", refused.detail);
        }
    }
    Ok(())
}

fn said(plan: &Arc<Plan>, site: &Site, question: &Question, found: &Explained, text: &mut String) {
    let Explained { scheme, host, path, .. } = found;
    let host = if host.is_empty() { "(no host)" } else { host };
    let _ = writeln!(text, "matched   as {scheme}://{host}{path}");
    let asked = question.request.as_deref().unwrap_or_default();
    if !asked.contains(&format!(" {scheme}://")) && asked.contains("://") {
        let _ =
            writeln!(text, "          the scheme is the listener's, or what a trusted peer says");
    }
    if let Some(client) = found.client.filter(|_| found.client != question.client) {
        let _ = writeln!(text, "for       {client}, named by X-Forwarded-For of a trusted peer");
    }
    for &policy in &found.policies {
        let spec = &plan.policies[policy];
        let dry = if spec.dry_run { ", dry run" } else { "" };
        let _ = writeln!(text, "policy    {} ({}{dry})", spec.name, spec.type_word());
    }
    match &found.fate {
        Fate::Forward { route, pool: at, line, host, flow, sticky } => {
            let _ = writeln!(text, "route     {}", route_name(site, *route));
            let cookie = site.table.spec(*route).sticky.as_ref().zip(*sticky);
            let sticky = cookie.map(|(spec, value)| Sticky { spec, value });
            if let ActionSpec::Split { pools, by } = &site.table.spec(*route).action {
                let named = sticky.as_ref().filter(|own| names_server(plan, *at, own.value));
                let _ = writeln!(text, "split     {}", shares(plan, pools, *by, named));
            }
            let _ = writeln!(text, "sends     {line}, Host: {host}");
            if let Some(mirror) = &site.table.spec(*route).mirror {
                let _ = writeln!(text, "mirror    {}", copies(plan, mirror));
            }
            pool(plan, *at, &Asked { client: found.client, flow: *flow, sticky }, text);
        }
        Fate::Redirect { route, status, location } => {
            let _ = writeln!(text, "route     {}", route_name(site, *route));
            let _ = writeln!(text, "answer    {status}, Location: {location}");
        }
        Fate::Respond { route, status } => {
            let _ = writeln!(text, "route     {}", route_name(site, *route));
            let _ = writeln!(text, "answer    {status}, as the route says it");
        }
        Fate::Preflight { route, policy } => {
            let _ = writeln!(text, "route     {}", route_name(site, *route));
            let name = &plan.policies[*policy].name;
            let _ = writeln!(text, "answer    204, a preflight is answered by `{name}`");
        }
        Fate::NoRoute => {
            let _ = writeln!(text, "route     none");
            let _ = writeln!(text, "answer    404, reason `no-route`");
        }
        Fate::Method { allow } => {
            let _ = writeln!(text, "route     none takes this method");
            let _ = writeln!(text, "answer    405, reason `method`, Allow: {allow}");
        }
    }
    let taken = match &found.fate {
        Fate::Forward { route, .. }
        | Fate::Redirect { route, .. }
        | Fate::Preflight { route, .. }
        | Fate::Respond { route, .. } => Some(*route),
        Fate::NoRoute | Fate::Method { .. } => None,
    };
    for (route, why) in found.routes.iter().filter(|(route, _)| Some(*route) != taken) {
        let _ = writeln!(text, "not route {}: {why}", route_name(site, *route));
    }
}

/// A route by name and place, as people find it in the file.
fn route_name(site: &Site, route: usize) -> String {
    match site.table.spec(route).name.as_str() {
        "" => "the listener's own `pool`, after all routes".into(),
        name => format!("`{name}` (route {})", route + 1),
    }
}

/// Where copies go, and which requests are copied.
fn copies(plan: &Plan, mirror: &MirrorSpec) -> String {
    let pool = &plan.pools[mirror.pool].name;
    let share = match mirror.share_percent {
        100 => "each request".to_owned(),
        percent => format!("{percent}% of the requests"),
    };
    format!(
        "a copy of {share} goes to {pool}, unless its body is over {} or {} copies are on their way",
        size_text(mirror.body_max),
        mirror.in_flight_max
    )
}

/// `named`: the cookie that chose the pool.
fn shares(plan: &Plan, pools: &[(usize, u32)], by: SplitBy, named: Option<&Sticky<'_>>) -> String {
    let total: u32 = pools.iter().map(|(_, weight)| weight).sum();
    let share =
        |(pool, weight): &(usize, u32)| format!("{} {weight} of {total}", plan.pools[*pool].name);
    let all: Vec<String> = pools.iter().map(share).collect();
    if let Some(Sticky { spec, .. }) = named {
        let cookie = &spec.cookie;
        return format!("{}: by the cookie `{cookie}`, which names a server", all.join(", "));
    }
    let by = match by {
        SplitBy::Request => "by chance; what follows is an example",
        SplitBy::Client => "by the client's address",
        SplitBy::Consumer => "by the consumer; what follows is an example",
    };
    format!("{}: {by}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::*;

    const CONFIG: &str = r#"
version = 1
[listener.web]
bind = "127.0.0.1:0"
mode = "http"
pool = "site"
trusted_proxies = ["10.0.0.0/8"]
[[listener.web.route]]
match = { host = "api.example.com", path = "/v1/users/*" }
rewrite = { strip_prefix = "/v1" }
pool = "users"
[[listener.web.route]]
match = { path = "/v1/*", methods = ["POST"] }
pool = "users"
[[listener.web.route]]
match = { path = "/old/*" }
redirect = { to = "/new/*" }
[[listener.web.route]]
match = { path = "/beta", headers = { x-beta = "1" } }
respond = { status = 200, body = "beta" }
[[listener.web.route]]
match = { path = "/canary" }
split = { site = 90, users = 10 }
mirror = { pool = "shadow", share = "25%" }
[pool.site]
servers = { s1 = "10.0.0.11:8080" }
[pool.shadow]
servers = { x1 = "10.0.2.11:8080" }
[pool.users]
balance = "ip-hash"
servers = { u1 = "10.0.1.11:8080", u2 = "10.0.1.12:8080" }
"#;

    fn ask(request: &str, headers: &[&str], client: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.toml");
        std::fs::write(&file, CONFIG).unwrap();
        let plan = config::load(&file).unwrap_or_else(|_| panic!("it is right")).plan;
        let question = Question {
            client: client.map(|client| client.parse().unwrap()),
            request: Some(request.into()),
            headers: headers.iter().map(|&line| line.to_owned()).collect(),
            sni: None,
        };
        explain(&Arc::new(plan), "web", &question)
    }

    fn said(request: &str, headers: &[&str]) -> String {
        ask(request, headers, None).unwrap()
    }

    #[test]
    fn says_the_route_the_rewritten_head_the_server_and_why_not_the_others() {
        let text = said("GET http://API.example.com//v1/%75sers/7?x=1", &[]);
        for line in [
            "matched   as http://api.example.com/v1/users/7",
            "route     `api.example.com/v1/users/*` (route 1)",
            "sends     GET /users/7?x=1 HTTP/1.1, Host: API.example.com",
            "pool      users, balance ip-hash",
            "not route `/v1/*` (route 2): the method does not match",
            "not route `/old/*` (route 3): the path does not match",
            "not route the listener's own `pool`, after all routes: another names the host closer",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\n\n{text}");
        }
        assert_eq!(text.matches("\nnot route ").count(), 5, "{text}");
    }

    #[test]
    fn what_the_gateway_answers_itself_is_said_with_its_status() {
        let redirect = said("GET http://x.test/old/a?b=c", &[]);
        assert!(redirect.contains("answer    308, Location: /new/a"), "{redirect}");
        let respond = said("GET http://x.test/beta", &["X-Beta: 1"]);
        assert!(respond.contains("answer    200, as the route says it"), "{respond}");
        let missed = said("GET http://x.test/beta", &["X-Beta: 2"]);
        assert!(missed.contains("header `x-beta` does not match"), "{missed}");
    }

    #[test]
    fn a_bad_request_is_answered_as_a_session_would() {
        let text = said("GET http://x.test/a%2Fb", &[]);
        assert!(text.contains("answer    400, reason `bad-request`: "), "{text}");
        let text = said("GET /a", &[]);
        assert!(text.contains("answer    400, reason `bad-request`: "), "{text}");
    }

    #[test]
    fn a_split_is_told_with_its_shares() {
        let text = said("GET http://x.test/canary", &[]);
        assert!(text.contains("split     site 90 of 100, users 10 of 100: by chance"), "{text}");
    }

    #[test]
    fn a_mirror_is_told_with_its_pool_and_its_bounds() {
        let text = said("GET http://x.test/canary", &[]);
        let line = "mirror    a copy of 25% of the requests goes to shadow, unless its body is \
                    over 64KiB or 100 copies are on their way\n";
        assert!(text.contains(line), "{text}");
        assert!(!said("GET http://x.test/v1/a", &[]).contains("mirror"));
    }

    /// A pool of eight that goes by `hash`.
    fn hashed(hash: &str, request: &str, headers: &[&str], client: Option<&str>) -> String {
        let servers: Vec<String> =
            (1..=8).map(|at| format!("s{at} = \"10.0.0.{at}:80\"\n")).collect();
        let servers = servers.concat();
        let plan = config::load_text(
            "a.toml",
            format!(
                "version = 1\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
                 pool = \"app\"\n[pool.app]\nbalance = \"maglev\"\nhash = \"{hash}\"\n\
                 [pool.app.servers]\n{servers}"
            )
            .as_bytes(),
        );
        let plan = plan.unwrap_or_else(|report| panic!("{}", report.render(false))).plan;
        let question = Question {
            client: client.map(|client| client.parse().unwrap()),
            request: Some(request.into()),
            headers: headers.iter().map(|&line| line.to_owned()).collect(),
            sni: None,
        };
        explain(&Arc::new(plan), "web", &question).unwrap()
    }

    #[test]
    fn a_pool_goes_by_what_its_hash_names_and_by_the_address_without_it() {
        let server =
            |text: &str| text.lines().find(|line| line.starts_with("server ")).unwrap().to_owned();
        let get = "GET http://x.test/a?b=c";
        let cases = [
            ("header:X-Tenant", ["X-Tenant: one", "x-tenant: two"], "the header `x-tenant`"),
            ("cookie:sid", ["Cookie: a=b; sid=1", "Cookie: sid=7"], "the cookie `sid`"),
            ("consumer", ["", ""], "the consumer"),
        ];
        for (hash, [one, other], word) in cases {
            let found = |line: &str, client| {
                let lines = [line];
                let lines = if line.is_empty() { &[][..] } else { &lines[..] };
                hashed(hash, get, lines, Some(client))
            };
            let by_address = server(&hashed("ip", get, &[], Some("10.9.9.9")));
            assert_eq!(server(&found("", "10.9.9.9")), by_address, "{hash}: it stands in");
            assert!(found("", "10.9.9.9").contains(&format!("nothing is known of {word}")));
            if one.is_empty() {
                continue;
            }
            let (here, there) = (found(one, "10.9.9.9"), found(one, "10.1.2.3"));
            assert_eq!(server(&here), server(&there), "{hash}: whoever asks");
            assert!(here.contains(&format!("by {word} of the request, always")), "{here}");
            assert_ne!(server(&here), server(&found(other, "10.9.9.9")), "{hash}: another value");
        }
        let path = |path: &str| {
            server(&hashed("path", &format!("GET http://x.test{path}"), &[], Some("10.9.9.9")))
        };
        assert_eq!(path("/a/b?c=d"), path("/a//b"), "in normal form, without the query");
        assert_ne!(path("/a"), path("/b"));
    }

    #[test]
    fn a_trusted_peer_speaks_for_its_client() {
        let forwarded = ["X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"];
        let text = ask("GET http://x.test/v1/a", &forwarded, Some("10.1.1.1")).unwrap();
        assert!(text.contains("for       192.0.2.9"), "{text}");
        assert!(text.contains("matched   as https://x.test/v1/a"), "{text}");
        let text = ask("GET http://x.test/v1/a", &forwarded, Some("192.0.2.1")).unwrap();
        assert!(!text.contains("192.0.2.9"), "{text}");
        assert!(text.contains("matched   as http://x.test/v1/a"), "{text}");
    }

    /// What is said with `routes`, before a pool of eight servers.
    fn with_routes(routes: &str, request: &str, headers: &[&str]) -> String {
        let servers: Vec<String> =
            (1..=8).map(|at| format!("s{at} = \"10.0.0.{at}:80\"\n")).collect();
        let text = format!(
            "version = 1\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{routes}\n\
             [pool.app.servers]\n{}",
            servers.concat()
        );
        let plan = config::load_text("a.toml", text.as_bytes());
        let plan = plan.unwrap_or_else(|report| panic!("{}", report.render(false))).plan;
        let question = Question {
            request: Some(request.into()),
            headers: headers.iter().map(|&line| line.to_owned()).collect(),
            ..Question::default()
        };
        explain(&Arc::new(plan), "web", &question).unwrap()
    }

    #[test]
    fn a_sticky_cookie_names_the_server() {
        let route = "[[listener.web.route]]\npool = \"app\"\nsticky = { cookie = \"sg\" }\n";
        let get = "GET http://x.test/";
        let address = crate::net::Endpoint::Ip("10.0.0.7:80".parse().unwrap());
        let value = crate::balance::sticky_key("app", "s7", &address);
        let told = with_routes(route, get, &[&format!("Cookie: a=b; sg={value:016x}")]);
        let line = "server    s7 (10.0.0.7:80), weight 1\n          by the cookie `sg`, while";
        assert!(told.contains(line), "{told}");
        assert_eq!(told.matches("\nnot       s").count(), 7, "{told}");
        let stranger = with_routes(route, get, &["Cookie: sg=0000000000000001"]);
        assert_eq!(stranger, with_routes(route, get, &[]), "it names nobody");
    }

    #[test]
    fn a_sticky_cookie_chooses_the_pool_of_a_split() {
        let route = "[[listener.web.route]]\nsplit = { app = 1, other = 1 }\n\
                     sticky = { cookie = \"sg\" }\n[pool.other]\nservers = { o = \"10.1.0.1:80\" }\n";
        for (pool, server, address) in [("app", "s7", "10.0.0.7:80"), ("other", "o", "10.1.0.1:80")]
        {
            let at = crate::net::Endpoint::Ip(address.parse().unwrap());
            let value = crate::balance::sticky_key(pool, server, &at);
            let cookie = format!("Cookie: sg={value:016x}");
            let told = with_routes(route, "GET http://x.test/", &[&cookie]);
            assert!(
                told.contains(&format!("server    {server} ({address}), weight 1\n")),
                "{told}"
            );
            let split =
                "split     app 1 of 2, other 1 of 2: by the cookie `sg`, which names a server\n";
            assert!(told.contains(split), "{told}");
        }
        let stranger = with_routes(route, "GET http://x.test/", &["Cookie: sg=0000000000000001"]);
        assert!(stranger.contains("by chance"), "{stranger}");
    }

    #[test]
    fn a_preflight_is_answered_where_a_policy_says_who_may_read_answers() {
        let rules = |more: &str| {
            format!(
                "[[listener.web.route]]\nmatch = {{ path = \"/a\", methods = [\"PUT\"] }}\n\
                 policies = [\"office\", \"pages\", \"keys\"]\npool = \"app\"\n\
                 [policy.office]\ntype = \"ip\"\nallow = [\"10.0.0.0/8\"]\n\
                 [policy.keys]\ntype = \"api-key\"\n[consumer.c]\nkeys = [\"sha256:{}\"]\n\
                 [policy.pages]\ntype = \"cors\"\norigins = [\"https://app.test\"]\n{more}",
                "0".repeat(64)
            )
        };
        let asked = ["Origin: https://app.test", "Access-Control-Request-Method: PUT"];
        let ask = |more: &str| with_routes(&rules(more), "OPTIONS http://x.test/a", &asked);
        let told = ask("");
        assert!(told.contains("answer    204, a preflight is answered by `pages`\n"), "{told}");
        assert!(told.contains("policy    office (ip)\npolicy    pages (cors)\nroute"), "{told}");
        assert!(!told.contains("pool      "), "{told}");
        let dry = ask("dry_run = true\n");
        assert!(dry.contains("sends     OPTIONS /a HTTP/1.1"), "{dry}");
    }

    #[test]
    fn an_http_listener_wants_a_request() {
        assert!(ask("nonsense", &[], None).unwrap_err().contains("is not a request"));
    }
}
