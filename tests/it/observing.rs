//! What can be seen of HTTP and TLS from outside: log lines, metrics, status, `explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;
use super::peers::{command, need};
use super::talk::Talk;

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

const REQUEST_FIELDS: &str = "ts listener route client method host path status reason consumer \
                              pool server attempts duration_ms upstream_ms policy_us bytes_in \
                              bytes_out request_id proto tls dry_run";

fn config(backend: &Backend) -> String {
    format!(
        r#"
version = 1
[admin]
bind = "{{admin}}"
[log]
access = "stdout"
[listener.web]
bind = "127.0.0.1:0"
mode = "http"
pool = "app"
trusted_proxies = ["127.0.0.0/8"]
[[listener.web.route]]
name = "users"
match = {{ path = "/users/*", methods = ["GET", "POST"] }}
pool = "app"
[[listener.web.route]]
match = {{ path = "/healthz" }}
respond = {{ status = 200, body = "ok" }}
access_log = false
[listener.few]
bind = "127.0.0.1:0"
mode = "http"
[[listener.few.route]]
match = {{ path = "/only" }}
pool = "app"
[listener.quiet]
bind = "127.0.0.1:0"
mode = "http"
access_log = false
[[listener.quiet.route]]
match = {{ path = "/loud" }}
respond = {{ status = 200, body = "loud" }}
access_log = true
[[listener.quiet.route]]
match = {{ path = "/still" }}
respond = {{ status = 200, body = "still" }}
[pool.app]
[pool.app.servers]
a = "{}"
"#,
        backend.address
    )
}

fn ask(gate: &Gate, listener: &str, line: &str, fields: &str) -> String {
    let mut stream = gate.connect(listener);
    let request =
        format!("{line} HTTP/1.1\r\nHost: A.test:81\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and an end");
    String::from_utf8_lossy(&answer).into_owned()
}

fn fields_of(line: &Value) -> BTreeSet<String> {
    line.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn each_request_is_one_line_with_every_field() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = Gate::start(&config(&backend));
    let id = "X-Forwarded-For: 192.0.2.9\r\nX-Request-Id: id-1\r\n";
    ask(&gate, "web", "GET /users/7?secret=1", id);
    ask(&gate, "web", "GET /other", "");
    ask(&gate, "few", "GET /nowhere", "");
    ask(&gate, "web", "GET /a%2Fb", "");
    let lines = gate.log(4);
    let wanted: BTreeSet<String> = REQUEST_FIELDS.split_whitespace().map(str::to_owned).collect();
    for line in &lines {
        assert_eq!(fields_of(line), wanted, "{line}");
    }
    // Two workers, two queues: their lines need not come in the order of the requests.
    let with = |path: &str| lines.iter().find(|line| line["path"] == path).expect("its line");
    let users = with("/users/7");
    for (field, value) in [
        ("listener", "web"),
        ("route", "users"),
        ("client", "192.0.2.9"),
        ("method", "GET"),
        ("host", "A.test:81"),
        ("path", "/users/7"),
        ("reason", "ok"),
        ("pool", "app"),
        ("server", "a"),
        ("request_id", "id-1"),
        ("proto", "HTTP/1.1"),
    ] {
        assert_eq!(users[field], value, "{field}: {users}");
    }
    assert_eq!((users["status"].as_u64(), users["attempts"].as_u64()), (Some(200), Some(1)));
    assert!(users["upstream_ms"].as_f64() <= users["duration_ms"].as_f64(), "{users}");
    assert!(users["tls"].is_null() && users["consumer"].is_null(), "{users}");
    let fallback = with("/other");
    assert_eq!((fallback["route"].as_str(), fallback["pool"].as_str()), (Some(""), Some("app")));
    assert_eq!(fallback["client"], "127.0.0.1");
    let nowhere = with("/nowhere");
    assert_eq!(
        (nowhere["status"].as_u64(), nowhere["reason"].as_str()),
        (Some(404), Some("no-route"))
    );
    assert!(nowhere["route"] == "" && nowhere["pool"].is_null() && nowhere["server"].is_null());
    let bad = with("/a%2Fb");
    assert_eq!((bad["status"].as_u64(), bad["reason"].as_str()), (Some(400), Some("bad-request")));
}

#[test]
fn a_route_may_log_where_its_listener_does_not_and_the_other_way_round() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = Gate::start(&config(&backend));
    assert!(ask(&gate, "web", "GET /healthz", "").ends_with("ok"));
    assert!(ask(&gate, "quiet", "GET /still", "").ends_with("still"));
    assert!(ask(&gate, "quiet", "GET /loud", "").ends_with("loud"));
    // What is not logged is counted all the same; then the last line is there, and alone.
    let counted =
        "sluicegate_http_requests_total{listener=\"quiet\",route=\"/still\",code=\"200\"}";
    assert_eq!(gate.metric(counted), Some(1.0));
    let lines = gate.log(1);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["path"], "/loud");
}

#[test]
fn a_connection_of_an_http_listener_has_no_line_of_its_own() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let mut gate = Gate::start(&config(&backend));
    drop(gate.connect("web"));
    ask(&gate, "web", "GET /users/1", "");
    gate.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gate.wait_exit().success());
    let lines = gate.log(usize::MAX);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["path"], "/users/1");
}

/// The rules of the text format 0.0.4, and what Prometheus' own linter asks for: one HELP and
/// TYPE a family, before its samples; families in one piece; no series twice; names by type;
/// histograms that add up.
fn lint(text: &str) {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut current = "";
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("words of help");
            assert!(!words.is_empty() && helped.insert(name), "{line}");
            current = name;
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "TYPE apart from HELP: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(types.insert(name, kind).is_none(), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(sample), "twice: {line}");
        let name = sample.split('{').next().expect("a name");
        let suffixes = ["_bucket", "_sum", "_count"];
        let family = suffixes.iter().find_map(|end| name.strip_suffix(end));
        let family = family.filter(|_| types.get(current) == Some(&"histogram")).unwrap_or(name);
        assert_eq!(family, current, "outside its family: {line}");
    }
    for (name, kind) in &types {
        if *kind == "histogram" {
            check_histogram(text, name);
        }
    }
}

fn check_histogram(text: &str, name: &str) {
    let (bucket, count) = (format!("{name}_bucket{{"), format!("{name}_count"));
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(&bucket)) {
        let (labels, rest) = line[bucket.len()..].split_once("le=\"").expect("le is there");
        let value: f64 = rest.rsplit_once(' ').expect("a value").1.parse().expect("a number");
        let before = last.insert(labels.trim_end_matches(',').to_owned(), value);
        assert!(before.is_none_or(|before| before <= value), "not cumulative: {line}");
    }
    for (labels, infinite) in last {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        assert!(text.contains(&format!("\n{count}{labels} {infinite}\n")), "{count}{labels}");
    }
}

#[test]
fn metrics_count_requests_by_route_and_status_and_keep_the_format() {
    let backend = Backend::start(|seen| match seen.path() {
        "/users/teapot" => Reply::raw("HTTP/1.1 418 T\r\nContent-Length: 0\r\n\r\n"),
        _ => Reply::ok("hello"),
    });
    let gate = Gate::start(&config(&backend));
    for path in ["/users/1", "/users/2", "/users/teapot", "/x"] {
        ask(&gate, "web", &format!("GET {path}"), "");
    }
    ask(&gate, "few", "GET /nowhere", "");
    ask(&gate, "few", "GET /only", "");
    for (sample, value) in [
        ("http_requests_total{listener=\"web\",route=\"users\",code=\"200\"}", 2.0),
        ("http_requests_total{listener=\"web\",route=\"users\",code=\"418\"}", 1.0),
        ("http_requests_total{listener=\"web\",route=\"\",code=\"200\"}", 1.0),
        ("http_requests_total{listener=\"few\",route=\"\",code=\"404\"}", 1.0),
        ("http_request_seconds_count{listener=\"web\",route=\"users\"}", 3.0),
        ("http_request_seconds_count{listener=\"web\",route=\"/healthz\"}", 0.0),
        ("upstream_request_seconds_count{pool=\"app\",server=\"a\"}", 5.0),
        ("retries_total{pool=\"app\",reason=\"connect\"}", 0.0),
        ("retries_total{pool=\"app\",reason=\"reset\"}", 0.0),
    ] {
        assert_eq!(gate.metric(&format!("sluicegate_{sample}")), Some(value), "{sample}");
    }
    lint(&gate.admin("GET", "/metrics").1);
    let status = gate.status();
    assert_eq!(status["listeners"]["web"]["mode"], "http");
    assert_eq!(status["listeners"]["web"]["tls"], false);
    let latency = &status["pools"]["app"]["servers"]["a"]["latency_ms"];
    assert!(latency["request"]["p99"].as_f64().is_some_and(|ms| ms > 0.0), "{latency}");
    let admin = format!("http://{}", gate.address("admin"));
    let table = sluicegate(&["ctl", "--admin", &admin, "status"]).1;
    assert!(table.contains("MODE") && table.contains("REQUEST p50/p99"), "{table}");
}

fn sluicegate(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate")).args(args).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn explain_says_where_a_request_goes_that_then_goes_there() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = Gate::start(&config(&backend));
    let file = gate.dir.path().join("main.toml");
    let of = |listener: &str, request: &str| {
        let file = file.to_str().expect("UTF-8");
        sluicegate(&["explain", "--config", file, "--listener", listener, "--request", request])
    };
    let (code, text, _) = of("web", "GET http://A.test:81/users//7");
    assert_eq!(code, Some(0));
    assert!(text.contains("route     `users` (route 1)"), "{text}");
    assert!(text.contains("sends     GET /users/7 HTTP/1.1, Host: A.test:81"), "{text}");
    ask(&gate, "web", "GET /users//7", "");
    assert_eq!(backend.seen()[0].line(), "GET /users/7 HTTP/1.1");
    let (code, text, _) = of("few", "GET http://a.test/nowhere");
    assert_eq!(code, Some(0));
    assert!(text.contains("404, reason `no-route`"), "{text}");
    let (code, _, error) = of("few", "nowhere");
    assert_eq!(code, Some(2));
    assert!(error.contains("'GET https://host/path'"), "{error}");
}

/// Puts the pair `stem` where the listener reads its own.
fn install(dir: &Path, stem: &str) {
    for kind in ["pem", "key"] {
        let bytes = std::fs::read(format!("{CERTS}/{stem}.{kind}")).expect("it is there");
        // Renamed into place, as renewers do: nobody reads half a file.
        let (new, live) = (dir.join(format!("new.{kind}")), dir.join(format!("live.{kind}")));
        std::fs::write(&new, bytes).expect("written");
        std::fs::rename(&new, &live).expect("renamed");
    }
}

fn secure(dir: &Path, server: &str) -> Gate {
    let live = dir.join("live");
    let live = live.display();
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.secure]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         tls = {{ cert = \"file:{live}.pem\", key = \"file:{live}.key\" }}\n\
         [pool.app]\n[pool.app.servers]\na = \"{server}\"\n"
    ))
}

fn subject(gate: &Gate) -> String {
    let address = gate.address("secure").to_string();
    let script = "exec openssl s_client -connect \"$0\" </dev/null 2>&1";
    let output = command("sh").args(["-c", script, &address]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().to_owned()
}

#[test]
fn a_changed_certificate_is_taken_into_use_and_a_broken_one_is_not() {
    if !need(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    install(dir.path(), "www");
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = secure(dir.path(), &backend.address.to_string());
    assert!(subject(&gate).contains("www.example.com"));
    let listener = || gate.status()["listeners"]["secure"].clone();
    assert!(listener()["certificates"][0]["names"].to_string().contains("www.example.com"));

    install(dir.path(), "api");
    until("the new certificate", || {
        let names = listener()["certificates"][0]["names"].to_string();
        if names.contains("api.example.com") { Ok(()) } else { Err(names) }
    });
    // Workers get it by mail, a moment after the status has it.
    until("a handshake with it", || {
        let subject = subject(&gate);
        if subject.contains("api.example.com") { Ok(()) } else { Err(subject) }
    });
    assert!(listener()["tls_error"].is_null(), "{}", listener());

    std::fs::write(dir.path().join("live.key"), "no key").expect("written");
    let error = until("the error", || {
        let error = listener()["tls_error"].clone();
        error.as_str().map(str::to_owned).ok_or(error)
    });
    assert!(error.contains("live.key"), "{error}");
    assert!(subject(&gate).contains("api.example.com"));
    let successful = "sluicegate_cert_last_reload_successful{listener=\"secure\"}";
    assert_eq!(gate.metric(successful), Some(0.0));
    lint(&gate.admin("GET", "/metrics").1);
    let said = gate.diagnostics();
    assert_eq!(said.matches("cannot be used").count(), 1, "{said}");

    install(dir.path(), "api");
    until("all well again", || {
        let error = listener()["tls_error"].clone();
        if error.is_null() { Ok(()) } else { Err(error) }
    });
}

#[test]
fn handshakes_are_counted_and_a_line_tells_what_was_agreed() {
    if !need(&["curl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    install(dir.path(), "www");
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = secure(dir.path(), &backend.address.to_string());
    let url = format!("https://{}/a", gate.address("secure"));
    let curl = ["--silent", "--insecure", "--http1.1", &url];
    assert!(command("curl").args(curl).status().expect("it runs").success());
    let line = &gate.log(1)[0];
    assert_eq!(line["tls"]["version"], "TLSv1.3", "{line}");
    assert!(line["tls"]["cipher"].as_str().is_some_and(|name| name.starts_with("TLS_")), "{line}");
    // No TLS at all.
    let mut plain = gate.connect("secure");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is sent");
    let _ = plain.read_to_end(&mut Vec::new());
    let handshakes = |result: &str| {
        let labels = format!("{{listener=\"secure\",result=\"{result}\"}}");
        gate.metric(&format!("sluicegate_tls_handshakes_total{labels}"))
    };
    assert_eq!(handshakes("ok"), Some(1.0));
    until("the failed one", || match handshakes("failed") {
        Some(1.0) => Ok(()),
        other => Err(other),
    });
    let cert = dir.path().join("live.pem");
    let labels = format!("{{listener=\"secure\",cert=\"{}\"}}", cert.display());
    let not_after = gate.metric(&format!("sluicegate_cert_not_after_seconds{labels}"));
    assert!(not_after.is_some_and(|seconds| seconds > 1.7e9), "{not_after:?}");
}

#[test]
fn servers_count_requests_and_those_that_they_failed_beside_sessions() {
    let backend = Backend::start(|seen| match seen.path() {
        "/bad" => Reply::raw("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        "/gone" => Reply::raw(""),
        _ => Reply::ok("hello"),
    });
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [listener.raw]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let mut talk = Talk::to(&gate, "web");
    for _ in 0..3 {
        assert_eq!(talk.get("/").status, 200);
    }
    let counts = || {
        let server = gate.status()["pools"]["app"]["servers"]["a"].clone();
        [&server["total"], &server["errors"]].map(|count| count.as_u64().expect("a number"))
    };
    assert_eq!(counts(), [3, 0], "over one connection");
    assert_eq!(talk.get("/bad").status, 503);
    assert_eq!(counts(), [4, 1]);
    // Not to be repeated, so it is one attempt.
    assert_eq!(talk.ask("POST", "/gone", "Content-Length: 0\r\n", b"").status, 502);
    assert_eq!(counts(), [5, 2]);
    assert_eq!(Talk::to(&gate, "raw").get("/").status, 200);
    assert_eq!(counts(), [6, 2], "a session is one, whatever it asks for");
}

#[test]
fn bytes_of_a_session_are_counted_while_it_lasts_and_once() {
    let server = super::named_echo::echo("a");
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\n\
         access = \"off\"\n[listener.db]\nbind = \"127.0.0.1:0\"\npool = \"db\"\n\
         [pool.db.servers]\na = \"{server}\"\n"
    ));
    let name =
        |way| format!("sluicegate_session_bytes_total{{listener=\"db\",direction=\"{way}\"}}");
    let is_counted = |bytes: [f64; 2]| {
        until("the bytes", || {
            let counted = ["in", "out"].map(|way| gate.metric(&name(way)));
            (counted == bytes.map(Some)).then_some(()).ok_or(counted)
        });
    };
    let (mut client, _) = super::named_echo::open(gate.address("db")).expect("a session");
    super::named_echo::say(&mut client, b"hello").expect("an echo");
    is_counted([5.0, 7.0]); // with the server's greeting
    super::named_echo::say(&mut client, b"again").expect("an echo");
    is_counted([10.0, 12.0]);
    super::named_echo::say(&mut client, b"bye").expect("an echo");
    drop(client);
    until("it has ended", || {
        let active = gate.status()["listeners"]["db"]["active"].as_u64();
        (active == Some(0)).then_some(()).ok_or(active)
    });
    is_counted([13.0, 15.0]);
}
