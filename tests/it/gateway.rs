//! Policies of the real binary: who passes, how often, and what either side sees.

use std::io::{Read, Write};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::backend::{Backend, Reply, Seen};
use super::deadline::until;
use super::gate::Gate;

/// SHA-256 of `k-0123456789abcdef`.
const KEY: &str = "k-0123456789abcdef";
pub const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

pub fn key_hash(key: &str) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    digest.as_ref().iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn gate(backend: &Backend, listener: &str, rest: &str) -> Gate {
    Gate::start(&config(backend, listener, rest))
}

pub fn config(backend: &Backend, listener: &str, rest: &str) -> String {
    let address = backend.address;
    format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n{listener}\n\
         {rest}\n[pool.app.servers]\na = \"{address}\"\n"
    )
}

pub fn echo() -> Backend {
    Backend::start(|seen| Reply::ok(seen.path()))
}

/// Sends `request` on a connection of its own and reads to the end.
pub fn ask(gate: &Gate, request: &[u8]) -> String {
    let mut stream = gate.connect("web");
    stream.write_all(request).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and an end");
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn get(gate: &Gate, path: &str, lines: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\r\n");
    ask(gate, head.as_bytes())
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

pub fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.split("\r\n").skip(1).find_map(|line| {
        let (own, value) = line.split_once(": ")?;
        own.eq_ignore_ascii_case(name).then_some(value)
    })
}

pub fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// A token signed with [`SECRET`].
pub fn token(claims: &Value) -> String {
    token_by(SECRET, claims)
}

pub fn token_by(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn bearer(claims: &Value) -> String {
    format!("Authorization: Bearer {}\r\n", token(claims))
}

fn alice() -> String {
    format!("[consumer.alice]\nkeys = [\"{}\"]\ngroups = [\"gold\", \"staff\"]\n", key_hash(KEY))
}

pub fn last(backend: &Backend) -> Seen {
    backend.seen().last().expect("a request").clone()
}

#[test]
fn a_key_lets_its_consumer_in_and_the_server_learns_who_it_is_but_not_the_key() {
    let backend = echo();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/key/*\" }}\npolicies = [\"keys\"]\n\
         pool = \"app\"\nresponse_headers = {{ set = {{ X-Frame-Options = \"DENY\" }} }}\n\
         [policy.keys]\ntype = \"api-key\"\nrealm = \"the \\\"api\\\"\"\n{}",
        alice()
    );
    let gate = gate(&backend, "", &rest);
    let refused = get(&gate, "/key", "");
    assert_eq!(status(&refused), 401, "{refused}");
    assert_eq!(field(&refused, "WWW-Authenticate"), Some("ApiKey realm=\"the \\\"api\\\"\""));
    assert!(refused.contains("\"error\":\"unauthorized\""), "{refused}");
    assert_eq!(field(&refused, "X-Frame-Options"), Some("DENY"));
    let spoofed = format!("X-Api-Key: {KEY}\r\nX-Consumer-Id: root\r\nX-Consumer-Groups: root\r\n");
    let passed = get(&gate, "/key/a", &spoofed);
    assert_eq!(status(&passed), 200, "{passed}");
    let seen = last(&backend);
    assert_eq!(seen.field("X-Consumer-Id"), Some("alice"));
    assert_eq!(seen.field("X-Consumer-Groups"), Some("gold,staff"));
    assert_eq!(seen.field("X-Consumer-Auth"), Some("keys"));
    assert_eq!(seen.field("X-Api-Key"), None, "{}", seen.head);
    assert_eq!(backend.seen().len(), 1);
    let logged = gate.log(2);
    // Two workers, two queues: the lines need not come in the order of the requests.
    let with = |status: u16| logged.iter().find(|line| line["status"] == status).expect("a line");
    let (refused, passed) = (with(401), with(200));
    assert_eq!((&refused["consumer"], &refused["reason"]), (&Value::Null, &json!("unauthorized")));
    assert_eq!(passed["consumer"], "alice");
    assert!(passed["policy_us"].is_u64(), "{passed}");
}

#[test]
fn no_bad_key_and_no_way_to_write_a_path_gets_past_a_protected_route() {
    let backend = echo();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/admin/*\" }}\npolicies = [\"keys\"]\n\
         websocket = true\npool = \"app\"\n[[listener.web.route]]\n\
         match = {{ path = \"/key\" }}\npolicies = [\"keys\"]\npool = \"app\"\n\
         [policy.keys]\ntype = \"api-key\"\n{}",
        alice()
    );
    let gate = gate(&backend, "", &rest);
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/apikey.jsonl");
    let text = std::fs::read_to_string(corpus).expect("the corpus");
    let mut run = 0;
    for case in text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let bytes = case["bytes"].as_str().expect("bytes");
        if bytes.is_empty() {
            continue; // no fixed bytes: of these, other tests
        }
        run += 1;
        let latin: Vec<u8> = bytes.chars().map(|c| c as u8).collect();
        let closing = latin.strip_suffix(b"\r\n").expect("an end").to_vec();
        let answer = ask(&gate, &[&closing[..], b"Connection: close\r\n\r\n"].concat());
        let wanted = case["expect"].as_array().expect("statuses");
        let exact = wanted.iter().any(|one| *one == status(&answer));
        // What is not there is not protected either: `/ADMIN` is another path.
        let elsewhere = status(&answer) == 200 && !bytes.contains("/admin ");
        assert!(exact || elsewhere || status(&answer) == 400, "{}: {answer}", case["id"]);
    }
    assert!(run >= 15, "only {run} cases");
    over_http2(&gate, &text);
    for seen in backend.seen() {
        let path = seen.path().to_ascii_lowercase();
        assert!(
            !path.ends_with("/admin") || seen.path().contains("ADMIN") || path.contains("%c0"),
            "{}",
            seen.head
        );
    }
}

/// The same paths as pseudo-header fields.
fn over_http2(gate: &Gate, corpus: &str) {
    if !super::peers::need(&["curl"]) {
        return;
    }
    for case in corpus.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let target = case["bytes"].as_str().and_then(|bytes| bytes.split(' ').nth(1));
        let printable =
            |path: &&str| path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let Some(path) = target.filter(printable) else { continue };
        let said = super::peers::run(super::peers::command("curl").args([
            "--silent",
            "--http2-prior-knowledge",
            "--path-as-is",
            "--globoff",
            "--max-time",
            "20",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--header",
            "Host: a.test",
            &format!("http://{}{path}", gate.address("web")),
        ]));
        let elsewhere = path.contains("ADMIN") || path.contains("%c0");
        let refused = ["400", "401", "403", "404"].contains(&said.trim());
        assert!(refused || elsewhere && said.trim() == "200", "{}: {said}", case["id"]);
    }
}

#[test]
fn changes_that_only_run_dry_are_not_made() {
    let backend = Backend::start(|seen| Reply::ok(&String::from_utf8_lossy(&seen.body)));
    let rest = "[policy.marks]\ntype = \"headers\"\ndry_run = true\n\
                headers = { set = { X-Marked = \"1\" } }\n\
                response_headers = { set = { X-Marked = \"1\" } }\n[policy.reshape]\n\
                type = \"transform\"\ndry_run = true\nmax_body = \"10B\"\n\
                request = { set = { a = 1 } }\nresponse = { set = { a = 2 } }\n\
                query = { set = { a = \"3\" } }\n";
    let gate = gate(&backend, "policies = [\"marks\", \"reshape\"]\n", rest);
    let body = "{\"long\":\"more than ten bytes\"}";
    let head = format!(
        "POST /a?b=c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(&gate, head.as_bytes());
    assert_eq!((status(&answer), field(&answer, "X-Marked")), (200, None), "{answer}");
    assert!(answer.ends_with(body), "{answer}");
    let seen = last(&backend);
    assert_eq!((seen.path(), seen.field("X-Marked")), ("/a?b=c", None), "{}", seen.head);
}

#[test]
fn a_token_is_judged_and_its_claims_go_on() {
    let backend = echo();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/gold/*\" }}\npolicies = [\"gold\"]\n\
         pool = \"app\"\n[policy.token]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\n\
         issuer = \"https://idp.test/\"\naudience = \"api\"\nrequired = {{ scope = \"read\" }}\n\
         groups = \"claim:/realm/roles\"\nforward_claims = {{ X-Tenant = \"claim:tenant\" }}\n\
         declared = \"merge\"\n[policy.gold]\ntype = \"acl\"\nallow = [\"group:gold\"]\n{}",
        alice()
    );
    let gate = gate(&backend, "policies = [\"token\"]", &rest);
    let claims = |edit: fn(&mut Value)| {
        let mut claims = json!({
            "iss": "https://idp.test/", "aud": ["api", "web"], "exp": unix_now() + 600,
            "sub": "bob", "scope": "read write", "tenant": "blue", "realm": { "roles": ["ops"] },
        });
        edit(&mut claims);
        bearer(&claims)
    };
    let good = get(&gate, "/a", &format!("{}X-Tenant: red\r\n", claims(|_| {})));
    assert_eq!(status(&good), 200, "{good}");
    let seen = last(&backend);
    assert_eq!(seen.field("X-Consumer-Id"), Some("bob"));
    assert_eq!(seen.field("X-Consumer-Groups"), Some("ops"));
    assert_eq!(seen.field("X-Tenant"), Some("blue"), "{}", seen.head);
    assert_eq!(seen.head.matches("X-Tenant").count(), 1, "{}", seen.head);

    let expired = get(&gate, "/a", &claims(|claims| claims["exp"] = json!(1_000)));
    assert_eq!(status(&expired), 401);
    let told = field(&expired, "WWW-Authenticate").unwrap_or_default();
    assert!(told.starts_with("Bearer realm=\"token\", error=\"invalid_token\""), "{told}");
    assert_eq!(status(&get(&gate, "/a", &claims(|claims| claims["iss"] = json!("x")))), 401);
    assert_eq!(status(&get(&gate, "/a", &claims(|claims| claims["scope"] = json!("write")))), 403);
    assert_eq!(status(&get(&gate, "/a", "")), 401);

    assert_eq!(status(&get(&gate, "/gold", &claims(|_| {}))), 403, "bob is no member");
    let member = get(&gate, "/gold", &claims(|claims| claims["sub"] = json!("alice")));
    assert_eq!(status(&member), 200, "the claim is the name of a consumer: {member}");
    assert_eq!(last(&backend).field("X-Consumer-Groups"), Some("ops,gold,staff"));
}

#[test]
fn a_bucket_lets_so_many_pass_and_says_when_to_come_back() {
    let backend = echo();
    let rest = "[policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"3/h\"\n\
        [policy.dry]\ntype = \"rate-limit\"\nkey = \"route\"\nlimit = \"1/h\"\ndry_run = true\n";
    let gate = gate(&backend, "policies = [\"few\", \"dry\"]", rest);
    let answers: Vec<String> = (0..5).map(|_| get(&gate, "/a", "")).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| status(answer)).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429], "{answers:?}");
    let lines = field(&answers[0], "RateLimit").unwrap_or_default();
    assert!(lines.starts_with("\"few\";r=2;t="), "{}", answers[0]);
    let policy = field(&answers[0], "RateLimit-Policy").unwrap_or_default();
    assert_eq!(policy, "\"few\";q=3;w=3600, \"dry\";q=1;w=3600");
    let after: u64 = field(&answers[3], "Retry-After").and_then(|text| text.parse().ok()).unwrap();
    assert!((1_100..=1_200).contains(&after), "{}", answers[3]);
    assert!(answers[3].contains("\"error\":\"rate-limited\""), "{}", answers[3]);
    let sample = |text: &str| gate.metric(&format!("sluicegate_{text}"));
    until("all are counted", || {
        let limited = sample("ratelimit_total{policy=\"few\",result=\"limited\"}");
        if limited == Some(2.0) { Ok(()) } else { Err(limited) }
    });
    assert_eq!(sample("ratelimit_total{policy=\"few\",result=\"allowed\"}"), Some(3.0));
    assert_eq!(sample("policy_denied_total{policy=\"dry\",route=\"\"}"), Some(2.0));
    assert_eq!(sample("policy_seconds_count{policy=\"few\",route=\"\"}"), Some(5.0));
    let slow = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["ctl", "--admin", &format!("http://{}", gate.address("admin")), "status", "--slow"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&slow.stdout);
    assert!(said.contains("few     rate-limit  -      5         2"), "{said}");
}

#[test]
fn a_limit_of_an_unknown_header_counts_by_address_and_forwarded_addresses_of_strangers_do_not_help()
{
    let backend = echo();
    let rest = "[policy.few]\ntype = \"rate-limit\"\nkey = \"header:X-Key\"\nlimit = \"2/h\"\nearly = true\n";
    let gate = gate(&backend, "policies = [\"few\"]", rest);
    let one = |at: u32| status(&get(&gate, "/a", &format!("X-Forwarded-For: 10.9.0.{at}\r\n")));
    assert_eq!([one(0), one(1), one(2)], [200, 200, 429]);
    assert_eq!(status(&get(&gate, "/a", "X-Key: own\r\n")), 200);
}

#[test]
fn a_browser_of_another_origin_is_told_what_it_may_also_when_it_is_refused() {
    let backend = echo();
    let rest = format!(
        "[policy.pages]\ntype = \"cors\"\norigins = [\"https://app.test\"]\ncredentials = true\n\
         methods = [\"GET\", \"PUT\"]\n[policy.keys]\ntype = \"api-key\"\n{}",
        alice()
    );
    let gate = gate(&backend, "policies = [\"keys\", \"pages\"]", &rest);
    let preflight = ask(
        &gate,
        b"OPTIONS /a HTTP/1.1\r\nHost: a.test\r\nOrigin: https://app.test\r\n\
          Access-Control-Request-Method: PUT\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status(&preflight), 204, "{preflight}");
    assert_eq!(field(&preflight, "Access-Control-Allow-Methods"), Some("GET, PUT"));
    assert_eq!(field(&preflight, "Access-Control-Allow-Origin"), Some("https://app.test"));
    assert!(backend.seen().is_empty(), "preflights are answered here");
    let refused = get(&gate, "/a", "Origin: https://app.test\r\n");
    assert_eq!(
        (status(&refused), field(&refused, "Access-Control-Allow-Origin")),
        (401, Some("https://app.test"))
    );
    let stranger = get(&gate, "/a", &format!("Origin: https://evil.test\r\nX-Api-Key: {KEY}\r\n"));
    assert_eq!((status(&stranger), field(&stranger, "Access-Control-Allow-Origin")), (200, None));
}

#[test]
fn a_body_over_the_limit_is_refused_at_once_or_while_it_streams() {
    let backend = echo();
    let rest = "[policy.small]\ntype = \"size-limit\"\nbody = \"8B\"\nheader = \"512B\"\n";
    let gate = gate(&backend, "policies = [\"small\"]", rest);
    let post = |framing: &str, body: &str| {
        let head = format!(
            "POST /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{framing}\r\n\r\n{body}"
        );
        status(&ask(&gate, head.as_bytes()))
    };
    assert_eq!(post("Content-Length: 8", "12345678"), 200);
    assert_eq!(post("Content-Length: 9", "123456789"), 413);
    assert_eq!(post("Transfer-Encoding: chunked", "8\r\n12345678\r\n0\r\n\r\n"), 200);
    assert_eq!(post("Transfer-Encoding: chunked", "8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n"), 413);
    assert_eq!(status(&get(&gate, "/a", &format!("X-Long: {}\r\n", "x".repeat(600)))), 431);
}

#[test]
fn bodies_of_json_and_queries_are_changed_both_ways() {
    let backend = Backend::start(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let kind = if seen.path().starts_with("/text") { "text/plain" } else { "application/json" };
        let length = body.len();
        Reply::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    });
    let rest = "[policy.reshape]\ntype = \"transform\"\nmax_body = \"100B\"\n\
        request = { remove = [\"debug\"], rename = { user = \"owner\" }, set = { v = 2 } }\n\
        response = { remove = [\"owner\"], add = { ok = true } }\n\
        query = { remove = [\"debug\"], set = { v = \"2\" } }\n";
    let gate = gate(&backend, "policies = [\"reshape\"]", rest);
    let post = |kind: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST /a?debug=1&q=x HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\
             Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        ask(&gate, head.as_bytes())
    };
    let answer = post("application/json", "{\"debug\":1,\"user\":\"a\",\"n\":1.50}");
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = last(&backend);
    assert_eq!(seen.path(), "/a?q=x&v=2");
    assert_eq!(String::from_utf8_lossy(&seen.body), "{\"owner\":\"a\",\"n\":1.50,\"v\":2}");
    assert_eq!(seen.field("Content-Length"), Some("28"));
    assert_eq!(seen.field("Accept-Encoding"), None);
    assert!(answer.ends_with("\r\n\r\n{\"n\":1.50,\"v\":2,\"ok\":true}"), "{answer}");

    assert_eq!(status(&post("application/json", "{\"a\":")), 400);
    assert_eq!(
        status(&post("application/json", &format!("{{\"a\":\"{}\"}}", "x".repeat(100)))),
        413
    );
    let text = "POST /text HTTP/1.1\r\nHost: a.test\r\nContent-Type: text/plain\r\n\
        Content-Length: 5\r\nConnection: close\r\n\r\ndebug";
    assert!(ask(&gate, text.as_bytes()).ends_with("\r\n\r\ndebug"), "only JSON is touched");
    let encoded = "POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\n\
        Content-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxx";
    assert_eq!(status(&ask(&gate, encoded.as_bytes())), 415);
}

#[test]
fn a_pool_that_fails_gets_a_pause_and_clients_get_the_fallback() {
    let backend = Backend::start(|seen| {
        let code = if seen.path() == "/bad" { "500 Oops" } else { "200 OK" };
        Reply {
            bytes: format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            closes: false,
        }
    });
    let rest = "[pool.app.breaker]\nerrors = \"50%\"\nmin_requests = 4\nopen_for = \"300ms\"\nprobes = 1\n\
        fallback = { status = 503, body = '{\"error\":\"pause\"}', content_type = \"application/json\" }\n";
    let gate = gate(&backend, "", rest);
    for _ in 0..4 {
        assert_eq!(status(&get(&gate, "/bad", "")), 500);
    }
    let asked = backend.seen().len();
    let shed = get(&gate, "/good", "");
    assert!(status(&shed) == 503 && shed.ends_with("{\"error\":\"pause\"}"), "{shed}");
    assert_eq!(backend.seen().len(), asked, "the pool is left alone");
    let state = || gate.metric("sluicegate_breaker_state{pool=\"app\"}");
    assert_eq!(state(), Some(2.0));
    until("a probe goes well", || match status(&get(&gate, "/good", "")) {
        200 => Ok(()),
        status => Err(status),
    });
    assert_eq!(state(), Some(0.0));
    let reasons: Vec<Value> = gate.log(6).iter().map(|line| line["reason"].clone()).collect();
    assert!(reasons.contains(&json!("breaker-open")), "{reasons:?}");
    until("both changes are told", || {
        let said = gate.diagnostics();
        let told = ["breaker of app is open", "breaker of app is closed"];
        if told.iter().all(|words| said.contains(words)) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_password_is_looked_at_beside_the_workers_and_guessing_is_slowed_down() {
    let backend = echo();
    // bcrypt of "open sesame", with the least cost.
    let rest = "[policy.login]\ntype = \"basic\"\nmax_failures = \"3/h\"\n\
        [consumer.alice]\nbasic = \"$2b$04$bLGYbLGYbLGYbLGYbLGYbOmzkzsoJvSBKAdhuHC1e6qN5DgMfKaPy\"\n";
    let hash = bcrypt_of("open sesame");
    let rest = rest.replace("$2b$04$bLGYbLGYbLGYbLGYbLGYbOmzkzsoJvSBKAdhuHC1e6qN5DgMfKaPy", &hash);
    let gate = gate(&backend, "policies = [\"login\"]", &rest);
    let login = |pair: &str| {
        let line = format!("Authorization: Basic {}\r\n", STANDARD.encode(pair));
        get(&gate, "/a", &line)
    };
    let refused = get(&gate, "/a", "");
    assert_eq!(
        field(&refused, "WWW-Authenticate"),
        Some("Basic realm=\"login\", charset=\"UTF-8\"")
    );
    for _ in 0..2 {
        assert_eq!(status(&login("alice:open sesame")), 200);
    }
    let seen = last(&backend);
    assert_eq!((seen.field("X-Consumer-Id"), seen.field("Authorization")), (Some("alice"), None));
    let tries: Vec<u16> =
        ["alice:x", "bob:open sesame", "alice:"].map(|pair| status(&login(pair))).to_vec();
    assert_eq!(tries, [401, 401, 401]);
    let waits = login("alice:open sesame");
    assert_eq!(status(&waits), 429, "also a right guess has to wait");
    assert_eq!(field(&waits, "RateLimit-Policy"), Some("\"login\";q=3;w=3600"), "{waits}");
    let told = field(&waits, "RateLimit").unwrap_or_default();
    assert!(told.starts_with("\"login\";r=0;t="), "{told}");
}

fn bcrypt_of(password: &str) -> String {
    bcrypt::hash_with_salt(password, 4, [7; 16]).expect("a hash").to_string()
}

#[test]
fn alternatives_go_by_the_credential_that_is_there_and_a_route_drops_what_it_does_not_want() {
    let backend = echo();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/open\" }}\npolicies = [\"!either\"]\npool = \"app\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/maybe\" }}\npolicies = [\"!*\", \"loose\"]\npool = \"app\"\n\
         [policy.token]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\n[policy.keys]\ntype = \"api-key\"\n\
         [policy.loose]\ntype = \"api-key\"\noptional = true\n\
         [policy.either]\ntype = \"any\"\nof = [\"token\", \"keys\"]\n{}",
        alice()
    );
    let gate = gate(&backend, "policies = [\"either\"]", &rest);
    let good = bearer(&json!({"sub": "bob", "exp": unix_now() + 60}));
    let key = format!("X-Api-Key: {KEY}\r\n");
    assert_eq!(status(&get(&gate, "/a", &good)), 200);
    assert_eq!(last(&backend).field("X-Consumer-Auth"), Some("token"));
    assert_eq!(status(&get(&gate, "/a", &key)), 200);
    assert_eq!(last(&backend).field("X-Consumer-Auth"), Some("keys"));
    let bad = format!("Authorization: Bearer x.y.z\r\n{key}");
    assert_eq!(status(&get(&gate, "/a", &bad)), 401, "the first that is there decides");
    let neither = get(&gate, "/a", "");
    assert_eq!(neither.matches("WWW-Authenticate").count(), 2, "{neither}");
    assert_eq!(status(&get(&gate, "/open", "")), 200);
    assert_eq!(status(&get(&gate, "/maybe", "")), 200);
    assert_eq!(status(&get(&gate, "/maybe", "X-Api-Key: wrong\r\n")), 401, "bad is not absent");
}

#[test]
fn so_many_at_once_and_no_more() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (arrived, arrival) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |seen| {
        if seen.path() == "/slow" {
            arrived.send(()).expect("the test waits");
            let _ = wait.lock().expect("not poisoned").recv();
        }
        Reply::ok("done")
    });
    let rest = "[policy.one]\ntype = \"concurrency\"\nkey = \"ip\"\nlimit = 1\n";
    let gate = gate(&backend, "policies = [\"one\"]", rest);
    let mut first = gate.connect("web");
    first.write_all(b"GET /slow HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    arrival.recv().expect("it is with the server");
    let second = get(&gate, "/b", "");
    assert_eq!(status(&second), 429, "{second}");
    assert!(second.contains("\"error\":\"overloaded\""), "{second}");
    release.send(()).expect("it waits");
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 200);
    until("its place is free", || match status(&get(&gate, "/b", "")) {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn no_secret_is_shown_anywhere() {
    let backend = echo();
    let hash = bcrypt_of("planted-password");
    let rest = format!(
        "[policy.token]\ntype = \"jwt\"\nsecret = \"planted-secret-of-more-than-32-bytes\"\n\
         [policy.keys]\ntype = \"api-key\"\nquery = \"key\"\n[policy.login]\ntype = \"basic\"\n\
         [policy.either]\ntype = \"any\"\nof = [\"token\", \"keys\", \"login\"]\n\
         [policy.shared]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1000/s\"\n\
         store = {{ redis = \"redis://user:planted-redis@127.0.0.1:1\" }}\n\
         [consumer.alice]\nkeys = [\"{}\"]\nbasic = \"{hash}\"\n",
        key_hash("planted-key")
    );
    let gate = gate(&backend, "policies = [\"either\", \"shared\"]", &rest);
    let login = STANDARD.encode("alice:planted-password");
    get(&gate, "/a?key=planted-key", "");
    get(&gate, "/a?key=planted-wrong", "");
    get(&gate, "/a", &format!("Authorization: Basic {login}\r\n"));
    get(&gate, "/a", "Authorization: Bearer planted.token.here\r\n");
    let mut shown: Vec<String> = gate.log(4).iter().map(Value::to_string).collect();
    for path in ["/v1/status", "/metrics", "/v1/config"] {
        shown.push(gate.admin("GET", path).1);
    }
    let file = gate.dir.path().join("main.toml");
    for words in [
        vec!["check"],
        vec![
            "explain",
            "--listener",
            "web",
            "--request",
            "GET http://a.test/a?key=planted-key",
            "--config",
        ],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(&words)
            .arg(&file)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        // The question itself is repeated.
        shown.push(said.replace("?key=planted-key", ""));
    }
    for text in shown {
        assert!(!text.contains("planted"), "{text}");
        assert!(!text.contains(&hash) && !text.contains(&key_hash("planted-key")), "{text}");
        assert!(!text.contains(&login), "{text}");
    }
}
