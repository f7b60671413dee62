//! What operators do to servers of a running gate: drain, maintenance, ready, weight.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::admin::{change, patch, server, start, talk};
use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::engine::{self, echo};
use super::gate::Gate;
use super::talk::Talk;

/// A server that says its letter first, then echoes.
fn lettered(letter: u8) -> SocketAddr {
    engine::server(move |mut stream| {
        if stream.write_all(&[letter]).is_ok() {
            echo(stream);
        }
    })
}

/// A TCP listener `front` over servers `a` and `b`.
fn two(more: &str) -> Gate {
    start(&format!(
        "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app]\n{more}\n[pool.app.servers]\na = \"{}\"\nb = {{ addr = \"{}\", weight = 2 }}\n",
        lettered(b'a'),
        lettered(b'b'),
    ))
}

/// A session, and the letter of its server; `None`: it was reset.
fn session(gate: &Gate) -> Option<(TcpStream, char)> {
    // A reset may come before the connect has been looked at.
    let mut stream = TcpStream::connect_timeout(&gate.address("front"), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    let mut letter = [0];
    stream.read_exact(&mut letter).ok()?;
    Some((stream, char::from(letter[0])))
}

/// Whose sessions the next ones are.
fn letters(gate: &Gate, count: usize) -> String {
    (0..count).filter_map(|_| session(gate)).map(|(_, letter)| letter).collect()
}

/// A session at `wanted`.
fn session_at(gate: &Gate, wanted: char) -> TcpStream {
    until("a session at that server", || match session(gate) {
        Some((stream, letter)) if letter == wanted => Ok(stream),
        other => Err(other.map(|(_, letter)| letter)),
    })
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"still").expect("it is sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(&back, b"still");
}

fn ctl(gate: &Gate, args: &[&str]) -> (Option<i32>, String, String) {
    let admin = format!("http://{}", gate.address("admin"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    let output = command.args(["ctl", "--admin", &admin]).args(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_server_that_drains_gets_nothing_new_and_its_sessions_live_on() {
    let gate = two("");
    let mut old = session_at(&gate, 'a');
    let said = change(&gate, "app/a", r#"{"state":"drain"}"#);
    assert_eq!(said["state"], "draining", "{said}");
    assert_eq!(said["admin"], "drain");
    assert_eq!(said["override"], serde_json::json!({"state": "drain", "weight": null}));
    assert_eq!(letters(&gate, 20), "b".repeat(20));
    echoes(&mut old);
    let sample = |state: &str| {
        let labels = format!("{{pool=\"app\",server=\"a\",state=\"{state}\"}}");
        gate.metric(&format!("sluicegate_upstream_state{labels}"))
    };
    assert_eq!((sample("draining"), sample("up")), (Some(1.0), Some(0.0)));
    // Also the last one, if that is what the operator wants.
    change(&gate, "app/b", r#"{"state":"drain"}"#);
    assert!(session(&gate).is_none(), "no server is left");
    echoes(&mut old);
    let said = change(&gate, "app/a", r#"{"state":"ready"}"#);
    assert_eq!((&said["state"], &said["override"]), (&"up".into(), &serde_json::Value::Null));
    assert_eq!(letters(&gate, 4), "aaaa");
}

#[test]
fn clients_that_wait_are_let_go_when_a_server_is_ready_again() {
    let gate = two("hold = \"20s\"");
    for server in ["app/a", "app/b"] {
        change(&gate, server, r#"{"state":"maint"}"#);
    }
    let mut waiting = gate.connect("front");
    until("the client to wait", || match gate.status()["pools"]["app"]["held"].as_u64() {
        Some(1) => Ok(()),
        other => Err(other),
    });
    change(&gate, "app/b", r#"{"state":"ready"}"#);
    let mut letter = [0];
    waiting.read_exact(&mut letter).expect("it is served");
    assert_eq!(&letter, b"b");
}

#[test]
fn a_weight_holds_for_clients_that_come_later_and_is_shown_beside_the_files() {
    let gate = two("");
    let said = change(&gate, "app/b", r#"{"weight":18}"#);
    assert_eq!((&said["weight"], &said["configured"]["weight"]), (&18.into(), &2.into()));
    assert_eq!(said["override"], serde_json::json!({"state": null, "weight": 18}));
    until("nineteen shares, one of them for the other", || {
        let sessions = letters(&gate, 38);
        let of_b = sessions.matches('b').count();
        // Each of two workers takes its own turns.
        if (34..38).contains(&of_b) { Ok(()) } else { Err(sessions) }
    });
    let said = change(&gate, "app/b", r#"{"weight":2}"#);
    assert!(said["override"].is_null(), "the file says the same: {said}");
}

#[test]
fn a_name_is_changed_with_all_its_addresses() {
    let gate = Gate::start(&format!(
        "version = 1\n[runtime.dns]\nrefuse = []\n[admin]\nbind = \"{{admin}}\"\n\
         [listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app]\ncheck = {{ type = \"tcp\" }}\n\
         [pool.app.servers]\nn = \"dns:localhost:{}\"\n",
        lettered(b'n').port()
    ));
    until("an address to pass", || {
        let said = server(&gate, "app", "n");
        if said["health"]["ok"] == true { Ok(()) } else { Err(said) }
    });
    let said = change(&gate, "app/n", r#"{"state":"drain","weight":7}"#);
    for member in said["members"].as_array().expect("members") {
        assert_eq!((&member["state"], &member["weight"]), (&"draining".into(), &7.into()));
        assert_eq!(member["configured"]["weight"], 1);
    }
    assert_eq!(said["health"]["ok"], true, "what drains is as well as before: {said}");
    assert!(session(&gate).is_none());
    change(&gate, "app/n", r#"{"state":"ready"}"#);
    assert!(session(&gate).is_some());
}

/// An HTTP server whose health can be switched and whose checks are counted.
struct Checked {
    backend: Backend,
    well: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
}

impl Checked {
    fn start(letter: &'static str) -> Self {
        let (well, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (is_well, counted) = (well.clone(), checks.clone());
        let backend = Backend::start(move |seen| {
            if seen.path() != "/health" {
                return Reply::ok(letter);
            }
            counted.fetch_add(1, Ordering::Relaxed);
            if is_well.load(Ordering::Relaxed) {
                Reply::ok("well")
            } else {
                Reply::raw("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
            }
        });
        Self { backend, well, checks }
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }

    /// Waits for so many checks more.
    fn wait_checks(&self, more: usize) {
        let wanted = self.checks() + more;
        until("checks", || if self.checks() >= wanted { Ok(()) } else { Err(self.checks()) });
    }
}

fn checked(servers: [&Checked; 2]) -> Gate {
    start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/moves\" }}\npool = \"app\"\n\
         sticky = {{ cookie = \"moves\" }}\n\
         [[listener.web.route]]\nmatch = {{ path = \"/keeps\" }}\npool = \"app\"\n\
         sticky = {{ cookie = \"keeps\", on_drain = \"keep\" }}\n\
         [[listener.web.route]]\npool = \"app\"\n\
         [pool.app]\ncheck = {{ type = \"http\", path = \"/health\", every = \"20ms\", fall = 1 }}\n\
         [pool.app.servers]\na = \"{}\"\nb = \"{}\"\n",
        servers[0].backend.address, servers[1].backend.address,
    ))
}

#[test]
fn a_cookie_keeps_a_client_in_its_pool_of_a_split_while_that_takes_requests() {
    let servers = ["p1", "p2", "q1"].map(|name| Backend::start(move |_| Reply::ok(name)));
    let gate = start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n[[listener.web.route]]\n\
         split = {{ p = 50, q = 50 }}\nsticky = {{ cookie = \"sg\" }}\n\
         [pool.p]\nservers = {{ p1 = \"{}\", p2 = \"{}\" }}\n\
         [pool.q]\nservers = {{ q1 = \"{}\" }}\n",
        servers[0].address, servers[1].address, servers[2].address,
    ));
    let mut talk = Talk::to(&gate, "web");
    let mut cookies = BTreeMap::new();
    until("a cookie of each server", || {
        let said = talk.get("/");
        let pair = said.field("Set-Cookie").and_then(|cookie| cookie.split(';').next());
        cookies.insert(said.body.clone(), format!("Cookie: {}\r\n", pair.expect("a cookie")));
        if cookies.len() == 3 { Ok(()) } else { Err(cookies.len()) }
    });
    for (server, cookie) in cookies.iter().flat_map(|one| [one; 20]) {
        let said = talk.ask("GET", "/", cookie, b"");
        assert_eq!((&said.body, said.field("Set-Cookie")), (server, None), "{}", said.head);
    }
    change(&gate, "p/p1", r#"{"state":"maint"}"#);
    let [of_p, of_q] = [&b"p1"[..], b"q1"].map(|name| cookies[name].clone());
    for _ in 0..20 {
        assert_eq!(talk.ask("GET", "/", &of_p, b"").body, b"p2", "the pool has another");
    }
    change(&gate, "q/q1", r#"{"state":"drain"}"#);
    for _ in 0..20 {
        let said = talk.ask("GET", "/", &of_q, b"");
        assert_eq!(said.body, b"p2", "a pool without servers yields its clients");
        assert!(said.field("Set-Cookie").is_some(), "{}", said.head);
    }
}

#[test]
fn a_server_in_maintenance_is_not_checked_and_comes_back_after_a_check() {
    let (a, b) = (Checked::start("a"), Checked::start("b"));
    let gate = checked([&a, &b]);
    let said = change(&gate, "app/a", r#"{"state":"maint"}"#);
    assert_eq!((&said["state"], &said["admin"]), (&"maint".into(), &"maint".into()));
    // One may have been on its way.
    b.wait_checks(2);
    let before = a.checks();
    b.wait_checks(10);
    assert_eq!(a.checks(), before, "not checked");
    a.well.store(false, Ordering::Relaxed);
    let said = change(&gate, "app/a", r#"{"state":"ready"}"#);
    assert_eq!((&said["state"], &said["admin"]), (&"down".into(), &"ready".into()), "{said}");
    a.wait_checks(3);
    assert_eq!(server(&gate, "app", "a")["state"], "down");
    let mut talk = Talk::to(&gate, "web");
    for _ in 0..6 {
        assert_eq!(talk.get("/").body, b"b");
    }
    a.well.store(true, Ordering::Relaxed);
    until("the server to be up", || match &server(&gate, "app", "a")["state"] {
        state if state == "up" => Ok(()),
        other => Err(other.clone()),
    });
    let (_, events) = events(&gate, "");
    let kinds: Vec<_> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["ready", "server-maint", "server-ready", "server-down", "server-up"]);
    assert!(events[1]["text"].as_str().is_some_and(|text| text.contains("app/a")), "{events:?}");
}

#[test]
fn kept_connections_and_cookies_respect_a_drain() {
    let (a, b) = (Checked::start("a"), Checked::start("b"));
    let gate = checked([&a, &b]);
    let mut talk = Talk::to(&gate, "web");
    let mut cookies = BTreeMap::new();
    for path in ["/moves", "/keeps"] {
        until("a cookie of server a", || {
            let said = talk.get(path);
            let pair = said.field("Set-Cookie").and_then(|cookie| cookie.split(';').next());
            cookies.insert(path, format!("Cookie: {}\r\n", pair.expect("a cookie")));
            if said.body == b"a" { Ok(()) } else { Err("b") }
        });
    }
    change(&gate, "app/a", r#"{"state":"drain"}"#);
    a.backend.forget();
    for _ in 0..6 {
        assert_eq!(talk.get("/").body, b"b");
        let said = talk.ask("GET", "/moves", &cookies["/moves"], b"");
        assert_eq!(said.body, b"b");
        assert!(said.field("Set-Cookie").is_some(), "it moves: {}", said.head);
        assert_eq!(talk.ask("GET", "/keeps", &cookies["/keeps"], b"").body, b"a");
    }
    let mut requests = a.backend.seen();
    requests.retain(|seen| seen.path() != "/health");
    assert!(requests.iter().all(|seen| seen.path() == "/keeps"), "{requests:?}");
    change(&gate, "app/a", r#"{"state":"maint"}"#);
    assert_eq!(talk.ask("GET", "/keeps", &cookies["/keeps"], b"").body, b"b");
}

/// Events of a stream until the last one that there was when it began, and their ids.
fn events(gate: &Gate, fields: &str) -> (Vec<u64>, Vec<serde_json::Value>) {
    let mut stream = gate.connect("admin");
    let head = format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).expect("it is sent");
    // All that is kept comes as one chunk, with the first words of the stream.
    let mut text = String::new();
    let mut bytes = [0; 4_096];
    while !text.contains("retry: ") || !text.ends_with("\n\n\r\n") {
        let count = stream.read(&mut bytes).expect("it comes");
        assert!(count > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).expect("UTF-8"));
    }
    let of = |prefix: &'static str| text.lines().filter_map(move |line| line.strip_prefix(prefix));
    let ids = of("id: ").map(|id| id.parse().expect("a number")).collect();
    let data = of("data: ").map(|data| serde_json::from_str(data).expect("JSON")).collect();
    (ids, data)
}

#[test]
fn a_reader_of_events_goes_on_after_its_last_id() {
    let gate = two("");
    change(&gate, "app/a", r#"{"state":"drain"}"#);
    let (ids, _) = events(&gate, "");
    assert_eq!(ids, [1, 2], "ready, and the drain");
    change(&gate, "app/a", r#"{"state":"ready","weight":3}"#);
    let (ids, data) = events(&gate, "Last-Event-ID: 2\r\n");
    assert_eq!(ids, [3, 4]);
    assert_eq!(
        (&data[0]["kind"], &data[1]["kind"]),
        (&"server-ready".into(), &"weight-changed".into())
    );
}

#[test]
fn a_stream_tells_of_what_happens_while_it_is_read() {
    let gate = two("");
    let admin = format!("http://{}", gate.address("admin"));
    let mut follower = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["ctl", "--admin", &admin, "events"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let stdout = std::io::BufReader::new(follower.stdout.take().expect("piped"));
    let mut lines = std::io::BufRead::lines(stdout).map(|line| line.expect("UTF-8"));
    assert!(lines.next().is_some_and(|line| line.contains("  ready ")));
    for (state, kind) in [("drain", "server-drained"), ("ready", "server-ready")] {
        change(&gate, "app/a", &format!("{{\"state\":\"{state}\"}}"));
        let line = lines.next().expect("a line");
        assert!(line.contains(kind) && line.contains("app/a"), "{line}");
    }
    follower.kill().expect("our own child");
    follower.wait().expect("our own child");
}

#[test]
fn what_cannot_be_done_is_said() {
    let gate = two("");
    for (server, body, status, says) in [
        ("app/c", "{}", 404, "pool `app` has no server `c`; there is `a`, `b`"),
        ("ap/a", "{}", 404, "no pool `ap`; did you mean `app`?"),
        ("app/a", r#"{"sate":"drain"}"#, 400, "did you mean `state`?"),
        ("app/a", r#"{"state":"down"}"#, 400, "found \"down\""),
        ("app/a", r#"{"weight":0}"#, 400, "from 1 to 1000"),
        ("app/a", r#"{"state":"drain","weight":1.5}"#, 400, "found 1.5"),
        ("app/a", "[]", 400, "must be an object"),
        ("app/a", "{", 400, "not JSON"),
    ] {
        let (code, said) = patch(&gate, server, body);
        let detail = said["detail"].as_str().unwrap_or_default();
        assert!(code == status && detail.contains(says), "{server} {body}: {code} {said}");
    }
    assert_eq!(server(&gate, "app", "a")["state"], "up", "nothing was changed");
    let said = talk(&gate).get("/v1/pools/app/servers/a");
    assert_eq!((said.status, said.field("Allow")), (405, Some("PATCH")));
}

#[test]
fn ctl_waits_for_the_last_session_and_says_how_many_are_left() {
    let gate = two("");
    let old = session_at(&gate, 'a');
    let (code, _, error) = ctl(&gate, &["drain", "app/a", "--wait", "1ms"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("app/a drains") && error.contains("left"), "{error}");
    // Those of the search for one at `a` may still be ending.
    let count = || server(&gate, "app", "a")["active"].as_u64();
    until("one session", || if count() == Some(1) { Ok(()) } else { Err(count()) });
    let (code, _, error) = ctl(&gate, &["drain", "app/a", "--wait", "1ms"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("1 session is left"), "{error}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ctl(&gate, &["drain", "app/a", "--wait", "20s", "--json"]));
        drop(old);
        let (code, json, error) = waiting.join().expect("no panic");
        assert_eq!(code, Some(0), "{error}");
        let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&status["active"], &status["state"]), (&0.into(), &"draining".into()));
    });
}

#[test]
fn ctl_changes_servers_and_explains_what_is_wrong() {
    let gate = two("");
    let (code, text, error) = ctl(&gate, &["maint", "app/a"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("app/a is maint"), "{text}");
    assert!(ctl(&gate, &["status"]).1.contains("maint"));
    let (code, text, error) = ctl(&gate, &["weight", "app/b", "5"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("weight 5, configured 2"), "{text}");
    assert!(ctl(&gate, &["status"]).1.contains("5 (file: 2)"));
    assert!(ctl(&gate, &["ready", "app/a"]).1.contains("app/a is up"));
    let (code, _, error) = ctl(&gate, &["drain", "apq/a"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("did you mean `app`?"), "{error}");
    for wrong in [["drain", "app"].as_slice(), &["weight", "app/a", "0"], &["weight", "app/a"]] {
        assert_eq!(ctl(&gate, wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn ctl_speaks_over_a_unix_socket_and_says_which_token_is_missing() {
    let socket = tempfile::tempdir().expect("a temporary directory");
    let path = socket.path().join("admin.sock");
    let bind = format!("unix:{}", path.display());
    let _gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{bind}\"\ntoken = \"file:token\"\nread_token = \"file:read\"\n\
         [log]\naccess = \"off\"\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app.servers]\na = \"127.0.0.1:9\"\n"
    )
    .replace("file:token", &secret(socket.path(), "token", "full-token-0123456"))
    .replace("file:read", &secret(socket.path(), "read", "read-token-0123456")));
    let ctl = |token: Option<&str>, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command.arg("ctl").args(args).env("SLUICEGATE_ADMIN", &bind).env_remove("SLUICEGATE_TOKEN");
        if let Some(token) = token {
            command.env("SLUICEGATE_TOKEN", token);
        }
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, error) = ctl(None, &["drain", "app/a"]);
    assert!(code == Some(1) && error.contains("wants a token: give it with --token"), "{error}");
    let (code, error) = ctl(Some("something-else"), &["drain", "app/a"]);
    assert!(code == Some(1) && error.contains("does not take this token"), "{error}");
    let (code, error) = ctl(Some("read-token-0123456"), &["drain", "app/a"]);
    assert!(code == Some(1) && error.contains("give `admin.token`"), "{error}");
    assert_eq!(ctl(Some("read-token-0123456"), &["status"]).0, Some(0));
    let (code, error) = ctl(Some("full-token-0123456"), &["drain", "app/a"]);
    assert_eq!(code, Some(0), "{error}");
}

/// Writes a secret and says where it is.
fn secret(dir: &std::path::Path, name: &str, value: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, value).expect("it is written");
    format!("file:{}", path.display())
}
