//! Requests at the edges of HTTP listeners: clients that stop reading, servers that never answer,
//! answers that policies change or make.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::admin::change;
use super::authority::Authority;
use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::gateway::{config, echo, get, last, status};
use super::http::read_head;
use super::published_keys::Key;
use super::tls_client::{shake, trusting};

/// What went wrong at the server `a` of the pool `app`, as far as it is the server's doing.
pub fn errors(gate: &Gate) -> u64 {
    let server = gate.status()["pools"]["app"]["servers"]["a"].clone();
    server["errors"].as_u64().unwrap_or_else(|| panic!("no count: {server}"))
}

/// All values of a field in the head of an answer.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// A server whose first answer has no end within any test's patience.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the gate");
        read_head(&mut stream);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
        stream.write_all(head.as_bytes()).expect("it is sent");
        // Until the gateway ends it.
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    address
}

#[test]
fn a_client_that_takes_no_more_of_an_answer_under_tls_has_body_timeout_for_it() {
    let authority = Authority::new();
    // Its `idle_timeout` is ten minutes: that of servers.
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nbody_timeout = \"300ms\"\n{}\n\
         [pool.app.servers]\na = \"{}\"\n",
        authority.listener(),
        endless()
    ));
    let trusting = trusting(&authority, None);
    let mut client = shake(&gate, "web", &trusting, "inner.test").expect("a handshake");
    client.write_all(b"GET / HTTP/1.1\r\nHost: inner.test\r\n\r\n").expect("it is sent");
    client.flush().expect("it is sent");
    // Nothing of the answer is read.
    assert_eq!(gate.log(1)[0]["reason"], "client-timeout");
    drop(client);
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Bytes of one fixed answer: as many as there may be.
const FIXED: usize = 1 << 20;

/// Requests whose answers are more than the buffers of the kernel hold: 4 MiB as it is set up.
const ASKED: usize = 16;

/// A client for whom its kernel takes next to nothing.
fn narrow(gate: &Gate) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("an option of a socket");
    socket.connect_timeout(&gate.address("web").into(), PATIENCE).expect("it is accepted");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("an option of a socket");
    stream
}

/// How many whole answers there are, and what stands behind them.
fn whole(mut got: &[u8]) -> (usize, &[u8]) {
    let mut count = 0;
    loop {
        let end = got.windows(4).position(|four| four == b"\r\n\r\n");
        let body = end.map(|end| end + 4).and_then(|at| got.get(at..at + FIXED));
        let (Some(end), Some(body)) = (end, body) else { return (count, got) };
        assert!(body.iter().all(|&byte| byte == b'x'), "another answer within answer {count}");
        got = &got[end + 4 + FIXED..];
        count += 1;
    }
}

#[test]
fn nothing_follows_a_fixed_answer_that_its_client_did_not_take_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("body");
    std::fs::write(&file, vec![b'x'; FIXED]).expect("it is written");
    let route =
        format!("[[listener.web.route]]\nrespond = {{ body = \"file:{}\" }}\n", file.display());
    let gate = super::http::gate(&echo(), "body_timeout = \"300ms\"", &route, "");
    let mut client = narrow(&gate);
    client.write_all(&ASK.repeat(ASKED)).expect("they are sent");
    until("the client is given up", || {
        let lines = gate.log(0);
        let is_given_up = lines.iter().any(|line| line["reason"] == "client-timeout");
        if is_given_up { Ok(()) } else { Err(lines) }
    });
    // The connection may be gone already; if it is not, this is one more request on it.
    let _ = client.write_all(ASK);
    let mut got = Vec::new();
    let end = client.read_to_end(&mut got).map_err(|error| error.kind());
    assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    let (count, rest) = whole(&got);
    assert!(count < ASKED, "all {count} answers came");
    let heads = String::from_utf8_lossy(rest).matches("HTTP/1.1 ").count();
    assert!(heads <= 1, "{heads} status lines behind {count} whole answers");
    let lines = gate.log(0);
    let reason = lines.last().map(|line| &line["reason"]);
    assert_eq!(reason, Some(&Value::from("client-timeout")), "nothing is asked behind it");
}

/// An identity provider that publishes `key` until it is `dead`, and counts who asks.
fn provider(key: &Key, dead: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> Backend {
    let document = json!({ "keys": [key.public()] }).to_string();
    let (dead, asked) = (Arc::clone(dead), Arc::clone(asked));
    Backend::start(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        if dead.load(Ordering::SeqCst) {
            return Reply::raw("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        }
        Reply { closes: true, ..Reply::ok(&document) }
    })
}

#[test]
fn fetched_keys_outlive_a_reload_that_changes_how_often_they_are_fetched() {
    let (dead, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let (backend, key) = (echo(), Key::new("one"));
    let provider = provider(&key, &dead, &asked);
    let refreshed = |every: &str| {
        let policy = format!(
            "[policy.token]\ntype = \"jwt\"\n[policy.token.jwks]\n\
             url = \"http://{}/jwks.json\"\nrefresh = \"{every}\"\n",
            provider.address
        );
        config(&backend, "policies = [\"token\"]", &policy)
    };
    let gate = Gate::start(&refreshed("1h"));
    let line = format!("Authorization: Bearer {}\r\n", key.token("ada"));
    let ask = || status(&get(&gate, "/a", &line));
    until("the first keys are here", || match ask() {
        200 => Ok(()),
        other => Err(other),
    });
    dead.store(true, Ordering::SeqCst);
    let before = asked.load(Ordering::SeqCst);
    gate.rewrite(&refreshed("2h"));
    let (code, said) = gate.admin("POST", "/v1/reload");
    assert_eq!(code, 200, "{said}");
    // With the new schedule they are fetched at once, in vain.
    until("it was asked again", || match asked.load(Ordering::SeqCst) {
        now if now > before => Ok(()),
        now => Err(now),
    });
    // On enough connections for each worker to be asked.
    for _ in 0..16 {
        assert_eq!(ask(), 200, "within the grace");
    }
}

#[test]
fn a_server_is_not_asked_for_a_part_of_what_a_policy_changes() {
    let backend = Backend::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n";
        Reply { bytes: format!("{head}{{\"a\":1}}").into_bytes(), closes: false }
    });
    let rest = "[[listener.web.route]]\nmatch = { path = \"/plain\" }\npool = \"app\"\n\
        policies = [\"!reshape\"]\n\
        [policy.reshape]\ntype = \"transform\"\nresponse = { set = { b = 2 } }\n";
    let gate = super::gateway::gate(&backend, "policies = [\"reshape\"]", rest);
    let lines = "Range: bytes=0-2\r\nIf-Range: \"v1\"\r\nX-Kept: 1\r\n";
    let asked = |path: &str| {
        let answer = get(&gate, path, lines);
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = last(&backend);
        let fields = ["Range", "If-Range", "X-Kept"];
        (answer, fields.map(|name| seen.field(name).map(str::to_owned)))
    };
    let (answer, fields) = asked("/changed");
    assert!(answer.ends_with("\r\n\r\n{\"a\":1,\"b\":2}"), "{answer}");
    assert_eq!(fields.each_ref().map(Option::as_deref), [None, None, Some("1")]);
    let (answer, fields) = asked("/plain");
    assert!(answer.ends_with("\r\n\r\n{\"a\":1}"), "{answer}");
    let sent = [Some("bytes=0-2"), Some("\"v1\""), Some("1")];
    assert_eq!(fields.each_ref().map(Option::as_deref), sent);
}

/// Failures that open the breaker in the test below.
const ENOUGH: u64 = 3;

#[test]
fn a_server_that_never_answers_within_total_timeout_fails_and_opens_the_breaker() {
    // The kernel accepts for it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let server = silent.local_addr().expect("bound");
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         total_timeout = \"300ms\"\n[pool.app]\nservers = {{ a = \"{server}\" }}\n\
         [pool.app.breaker]\ncount = [\"timeout\"]\nmin_requests = {ENOUGH}\nwindow = \"10m\"\n\
         open_for = \"10m\"\n"
    ));
    let shed = until("the breaker opens", || {
        let answer = get(&gate, "/", "");
        match status(&answer) {
            503 => Ok(answer),
            504 => Err(answer),
            _ => panic!("{answer}"),
        }
    });
    assert!(shed.contains("\"error\":\"breaker-open\""), "{shed}");
    let failed = errors(&gate);
    assert!(failed >= ENOUGH, "{failed} failures");
    assert_eq!(gate.log(1)[0]["reason"], "request-timeout");
}

#[test]
fn a_refusal_of_a_service_says_nothing_that_the_gateway_says_itself() {
    let auth = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 403 Forbidden\r\naccess-control-allow-origin: *\r\n\
             Access-Control-Allow-Credentials: true\r\nX-Request-Id: theirs\r\nX-Why: so\r\n\
             Content-Length: 0\r\n\r\n",
        )
    });
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/open\" }}\npool = \"app\"\n\
         policies = [\"!readers\"]\n\
         [policy.readers]\ntype = \"cors\"\norigins = [\"https://a.test\"]\n\
         [policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n",
        auth.address
    );
    let backend = echo();
    let gate = super::gateway::gate(&backend, "policies = [\"readers\", \"decider\"]", &rest);
    for (path, origin, credentials) in [("/a", "https://a.test", 0), ("/open", "*", 1)] {
        let answer = get(&gate, path, "Origin: https://a.test\r\n");
        assert_eq!(status(&answer), 403, "{answer}");
        assert_eq!(values(&answer, "Access-Control-Allow-Origin"), [origin], "{answer}");
        let allowed = values(&answer, "Access-Control-Allow-Credentials").len();
        assert_eq!(allowed, credentials, "{answer}");
        let ids = values(&answer, "X-Request-Id");
        assert!(ids.len() == 1 && ids[0] != "theirs", "{answer}");
        assert_eq!(values(&answer, "X-Why"), ["so"], "{answer}");
    }
    assert!(backend.seen().is_empty(), "nobody was let in");
}

#[test]
fn a_request_at_a_server_that_goes_down_goes_to_another_where_the_pool_says_so() {
    let (tell, asked) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let silent = Backend::start(move |_| {
        tell.lock().expect("no panic").send(()).expect("the test waits");
        loop {
            thread::park();
        }
    });
    let other = Backend::start(|_| Reply::ok("other"));
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\npool = \"app\"\nretries = {{ attempts = 2, on = [\"reset\"] }}\n\
         [pool.app]\non_down = \"close-sessions\"\n[pool.app.servers]\na = \"{}\"\n\
         b = {{ addr = \"{}\", backup = true }}\n",
        silent.address, other.address
    ));
    let mut client = gate.connect("web");
    client.write_all(ASK).expect("it is sent");
    asked.recv_timeout(PATIENCE).expect("the server has it");
    change(&gate, "app/a", "{\"state\": \"maint\"}");
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
