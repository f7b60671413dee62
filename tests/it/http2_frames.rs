//! HTTP/2 of the real binary, frame by frame, and to servers that speak it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::backend::{Backend, Reply};
use super::deadline::PATIENCE;
use super::gate::Gate;
use super::peers;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn gate(backend: &Backend, listener: &str, pool: &str) -> Gate {
    let address = backend.address;
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n{listener}\n\
         [pool.app]\n{pool}\n[pool.app.servers]\na = \"{address}\"\n"
    ))
}

/// A gateway that speaks HTTP/2 to one that speaks HTTP/1 to the server.
fn gates(backend: &Backend) -> (Gate, Gate) {
    let inner = gate(backend, "", "");
    let address = inner.address("web");
    let outer = Gate::start(&format!(
        "version = 1\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [log]\naccess = \"stdout\"\n[pool.app]\nprotocol = \"h2c\"\n[pool.app.servers]\n\
         a = \"{address}\"\n"
    ));
    (outer, inner)
}

/// A frame as it is on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block without compression: literals that are not indexed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.extend([0, name.len() as u8]);
        bytes.extend(name.as_bytes());
        bytes.push(value.len() as u8);
        bytes.extend(value.as_bytes());
    }
    bytes
}

pub fn request(stream: u32, method: &str, path: &str, ends: bool) -> Vec<u8> {
    let fields =
        [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.test")];
    frame(1, 4 | u8::from(ends), stream, &block(&fields))
}

/// A connection of a client that says exactly what it is told to.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What a server said: kind, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

impl Client {
    fn new(gate: &Gate) -> Self {
        let stream = gate.connect("web");
        Self { stream, received: Vec::new() }
    }

    /// With the preface and empty settings sent.
    pub fn greet(gate: &Gate) -> Self {
        let mut client = Self::new(gate);
        client.send(&[PREFACE, &frame(4, 0, 0, &[])].concat());
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it is sent");
    }

    /// The next frame; `None` at the connection's end.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.received.get(..9) {
                let len =
                    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.received.len() >= 9 + len {
                    let payload = self.received[9..9 + len].to_vec();
                    self.received.drain(..9 + len);
                    if (kind, flags) == (6, 0) {
                        // The end of the connection may be quicker than this.
                        let _ = self.stream.write_all(&frame(6, 1, 0, &payload));
                    }
                    return Some((kind, flags, stream, payload));
                }
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(n @ 1..) => self.received.extend(&chunk[..n]),
                Ok(_) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a frame nor an end: {error}"),
            }
        }
    }

    /// Frames up to the first for which `last` says so, or the end.
    fn until(&mut self, last: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next() {
            frames.push(frame);
            if last(&frames[frames.len() - 1]) {
                break;
            }
        }
        frames
    }

    /// The body of the answer on a stream.
    fn body(&mut self, stream: u32) -> Vec<u8> {
        let frames = self.until(|frame| frame.2 == stream && frame.1 & 1 != 0 && frame.0 < 2);
        let data = frames.into_iter().filter(|frame| frame.0 == 0 && frame.2 == stream);
        data.flat_map(|frame| frame.3).collect()
    }
}

/// What a frame means for a case of the corpus.
fn word((kind, flags, _, payload): &Frame) -> Option<String> {
    let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    match kind {
        1 => Some(format!("status {}", status(payload))),
        3 => Some(format!("rst {}", code(0))),
        6 if flags & 1 != 0 && payload == b"are you?" => Some("alive".into()),
        7 => Some(format!("goaway {}", code(4))),
        _ => None,
    }
}

/// `:status` at the beginning of a connection's first header block, as the `h2` crate writes it:
/// from the static table, or a literal of Huffman's digits (RFC 7541, appendices A and B).
fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8E, ..] => {
            [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]
        }
        [0x48, 0x83, 0x68, 0x0D, 0xFF, ..] => 405,
        [0x48, 0x83, 0x69, 0x90, 0xFF, ..] => 431,
        [0x48, 0x82, 0x6C, 0x01, ..] => 501,
        other => panic!("a status that is not known here: {:02x?}", &other[..other.len().min(8)]),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hex") as u8;
    text.as_bytes().chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
}

/// Runs one case; what came, in words, and whether the connection ended.
fn run(gate: &Gate, case: &Value) -> (Vec<String>, bool) {
    let mut client = Client::new(gate);
    client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut sender = client.stream.try_clone().unwrap();
    let mut bytes = Vec::new();
    for part in case["parts"].as_array().unwrap() {
        let times = part[1].as_u64().unwrap() as usize;
        bytes.extend(hex(part[0].as_str().unwrap()).repeat(times));
    }
    bytes.extend(frame(6, 0, 0, b"are you?"));
    // A server that says GOAWAY need not read on, so sending may fail.
    let sending = std::thread::spawn(move || drop(sender.write_all(&bytes)));
    let mut wanted = texts(&case["want"]);
    wanted.extend(case["instead"][0].as_str());
    let closes = case["closes"].as_bool() == Some(true);
    let mut said: Vec<String> = Vec::new();
    let mut ended = false;
    while closes || !said.iter().any(|word| is_wanted(&wanted, word)) {
        let Some(frame) = client.next() else {
            ended = true;
            break;
        };
        said.extend(word(&frame));
    }
    drop(client);
    sending.join().unwrap();
    (said, ended)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn is_wanted(wanted: &[&str], said: &str) -> bool {
    let kind = said.split(' ').next().unwrap_or_default();
    wanted.iter().any(|want| *want == said || want.strip_suffix(" *") == Some(kind))
}

#[test]
fn bad_frames_end_as_the_rfc_says_and_reach_no_server() {
    let backend = Backend::start(|_| Reply::ok("served"));
    let gate = gate(&backend, "", "");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/h2.jsonl");
    let corpus = std::fs::read_to_string(corpus).unwrap();
    let (mut count, mut exact, mut allowed, mut wrong) = (0, 0, 0, Vec::new());
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        let wanted = texts(&case["want"]);
        let (said, ended) = run(&gate, &case);
        // What a crate of somebody else says in other words is as safe.
        let instead = case["instead"][0].as_str();
        let is_exact = wanted == ["closed"] || said.iter().any(|word| is_wanted(&wanted, word));
        let is_known = instead.is_some_and(|instead| said.iter().any(|word| word == instead));
        let ends = ended || case["closes"].as_bool() != Some(true);
        if is_exact == instead.is_some() || !is_exact && !is_known || !ends {
            wrong.push(format!("{id}: {said:?}, ended {ended}"));
        }
        let (seen, broken) = (backend.seen(), backend.broken());
        // All of them so far: one may come a moment later.
        allowed += case["forwarded"].as_u64().unwrap();
        assert!(seen.len() as u64 <= allowed && broken.is_empty(), "{id}: {seen:?} {broken:?}");
        count += 1;
        exact += u32::from(is_exact);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{count} cases: {exact} exact, {} safe, 0 unsafe", count - exact);
    let mut client = Client::greet(&gate);
    client.send(&request(1, "GET", "/", true));
    assert_eq!(client.body(1), b"served", "others are served as before");
}

#[test]
fn a_request_goes_to_an_http_1_server_as_one_of_its_own_and_is_logged_as_http_2() {
    let backend = Backend::start(|seen| {
        Reply::ok(&format!("{} {}", seen.path(), String::from_utf8_lossy(&seen.body)))
    });
    let gate = gate(&backend, "", "");
    let mut client = Client::greet(&gate);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a/./b?q"),
        (":authority", "A.test"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-consumer-id", "root"),
    ];
    client.send(&frame(1, 4, 1, &block(&fields)));
    client.send(&frame(0, 0, 1, b"one "));
    client.send(&frame(0, 1, 1, b"two"));
    assert_eq!(client.body(1), b"/a/b?q one two");
    let seen = &backend.seen()[0];
    assert_eq!(seen.line(), "POST /a/b?q HTTP/1.1");
    assert_eq!(seen.field("Host"), Some("A.test"));
    assert_eq!(seen.field("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.field("Transfer-Encoding"), Some("chunked"));
    assert_eq!(seen.field("x-consumer-id"), None);
    assert!(seen.field("Via").is_some_and(|via| via.starts_with("2.0 ")), "{}", seen.head);
    let line = &gate.log(1)[0];
    assert_eq!(line["proto"], "HTTP/2", "{line}");
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"ok".into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&7.into(), &14.into()), "{line}");
}

#[test]
fn streams_are_answered_as_their_servers_answer_not_in_order() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::start(move |seen| {
        if seen.path() == "/slow" {
            held.lock().unwrap().recv().unwrap();
        }
        Reply::ok(seen.path())
    });
    let gate = gate(&backend, "", "");
    let mut client = Client::greet(&gate);
    client.send(&[request(1, "GET", "/slow", true), request(3, "GET", "/quick", true)].concat());
    assert_eq!(client.body(3), b"/quick");
    release.send(()).unwrap();
    assert_eq!(client.body(1), b"/slow");
}

#[test]
fn a_client_that_resets_without_end_hears_enough() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::start(move |_| {
        let _ = held.lock().unwrap().recv();
        Reply::ok("late")
    });
    let gate = gate(&backend, "", "");
    let mut client = Client::greet(&gate);
    for at in 0..1000 {
        let stream = 2 * at + 1;
        let pair = [request(stream, "GET", "/", true), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
        if client.stream.write_all(&pair).is_err() {
            break;
        }
    }
    let frames = client.until(|frame| frame.0 == 7);
    assert_eq!(frames.last().and_then(word).as_deref(), Some("goaway 11"));
    drop(release);
    let mut other = Client::greet(&gate);
    other.send(&request(1, "GET", "/", true));
    assert_eq!(other.body(1), b"late", "another client is served");
}

#[test]
fn a_client_that_gives_up_ends_the_attempt_at_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut client = Client::greet(&gate);
    client.send(&request(1, "GET", "/", true));
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut chunk = [0; 4096];
    assert!(server.read(&mut chunk).unwrap() > 0, "the request");
    client.send(&frame(3, 0, 1, &[0, 0, 0, 8]));
    let end = server.read(&mut chunk).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    let line = &gate.log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client-reset".into()), "{line}");
}

#[test]
fn clients_that_stall_are_let_go() {
    let backend = Backend::start(|_| Reply::ok(&"x".repeat(100_000)));
    let gate = gate(&backend, "header_timeout = \"300ms\"\nbody_timeout = \"300ms\"", "");
    // A header block without an end.
    let mut client = Client::greet(&gate);
    let whole = request(1, "GET", "/", true);
    client.send(&[&whole[..4], &[1], &whole[5..]].concat());
    let frames = client.until(|frame| frame.0 == 7);
    assert_eq!(frames.last().and_then(word).as_deref(), Some("goaway 11"));
    // No request at all.
    let mut client = Client::greet(&gate);
    let frames = client.until(|frame| frame.0 == 7);
    assert_eq!(frames.last().and_then(word).as_deref(), Some("goaway 0"));
    // An answer that is not taken; the connection goes on.
    let mut client = Client::new(&gate);
    let window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]);
    client.send(&[PREFACE, &window, &request(1, "GET", "/", true)].concat());
    let frames = client.until(|frame| frame.0 == 3);
    assert_eq!(frames.last().map(|frame| frame.2), Some(1));
    client.send(&frame(6, 0, 0, b"are you?"));
    let frames = client.until(|frame| frame.0 == 6);
    assert_eq!(frames.last().and_then(word).as_deref(), Some("alive"));
}

#[test]
fn a_stopping_process_says_goaway_and_finishes_what_it_began() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::start(move |seen| {
        if seen.path() == "/slow" {
            held.lock().unwrap().recv().unwrap();
        }
        Reply::ok(seen.path())
    });
    let mut gate = gate(&backend, "", "");
    let mut idle = Client::greet(&gate);
    idle.send(&request(1, "GET", "/idle", true));
    assert_eq!(idle.body(1), b"/idle");
    let mut busy = Client::greet(&gate);
    busy.send(&[request(1, "GET", "/slow", true), request(3, "GET", "/quick", true)].concat());
    assert_eq!(busy.body(3), b"/quick");
    gate.signal(Signal::SIGTERM);
    for client in [&mut idle, &mut busy] {
        let frames = client.until(|frame| frame.0 == 7);
        assert_eq!(frames.last().and_then(word).as_deref(), Some("goaway 0"));
    }
    assert!(idle.until(|_| false).iter().all(|frame| frame.0 != 3), "it ends in order");
    release.send(()).unwrap();
    assert_eq!(busy.body(1), b"/slow");
    busy.until(|_| false);
    assert!(gate.wait_exit().success());
}

#[test]
fn grpc_clients_are_told_in_their_own_terms() {
    let backend = Backend::start(|_| Reply::ok(""));
    let gate = gate(
        &backend,
        "[[listener.web.route]]\nmatch = { path = \"/none\", methods = [\"PUT\"] }\npool = \"app\"",
        "",
    );
    let mut client = Client::greet(&gate);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/%2F"),
        (":authority", "a.test"),
        ("content-type", "application/grpc+proto"),
    ];
    client.send(&frame(1, 5, 1, &block(&fields)));
    let frames = client.until(|frame| frame.0 == 1);
    let (_, flags, _, payload) = frames.last().unwrap();
    assert_eq!((status(payload), flags & 1), (200, 1));
}

#[test]
fn a_gateway_speaks_http_2_to_servers_and_shares_one_connection() {
    if !peers::need(&["h2load", "curl"]) {
        return;
    }
    let backend = Backend::start(|seen| Reply::ok(&"x".repeat(seen.body.len() + 7)));
    let (outer, inner) = gates(&backend);
    let url = format!("http://{}/", outer.address("web"));
    let text =
        peers::run(peers::command("h2load").args(["-n", "500", "-c", "2", "-m", "20", &url]));
    assert!(text.contains("500 succeeded, 0 failed"), "{text}");
    let requests = inner.log(500);
    assert!(requests.iter().all(|line| line["proto"] == "HTTP/2"), "{}", requests[0]);
    let connections = inner.metric("sluicegate_connections_total{listener=\"web\"}").unwrap();
    let workers = std::thread::available_parallelism().unwrap().get() as f64;
    assert!(connections <= workers, "{connections} connections for 500 requests");
    // An HTTP/1 client of an HTTP/2 server.
    let text = peers::run(peers::command("curl").args(["--silent", "--data", "12345", &url]));
    assert_eq!(text, "x".repeat(12));
}

#[test]
fn large_bodies_pass_both_ways_through_two_gateways() {
    if !peers::need(&["curl", "nghttp"]) {
        return;
    }
    let backend = Backend::start(|seen| Reply::ok(&String::from_utf8_lossy(&seen.body)));
    let (outer, _inner) = gates(&backend);
    let url = format!("http://{}/echo", outer.address("web"));
    let file = outer.dir.path().join("body");
    let body: String = (0..500_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    std::fs::write(&file, &body).unwrap();
    let upload = format!("@{}", file.display());
    let mut curl = peers::command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--http2-prior-knowledge",
        "--data-binary",
        &upload,
        &url,
    ]);
    assert!(peers::run(&mut curl) == body, "the body differs");
    let mut nghttp = peers::command("nghttp");
    nghttp.arg("--data").arg(&file).arg(&url);
    assert!(peers::run(&mut nghttp) == body, "the body differs with trailers allowed");
}

#[test]
fn trailers_of_a_stream_are_judged_as_those_of_a_body_in_chunks() {
    let backend = Backend::start(|_| Reply::ok(""));
    let marks = "[[listener.web.route]]\npool = \"app\"\n\
                 headers = { set = { X-Own = \"1\" }, remove = [\"X-Gone\"] }\n";
    let gate = gate(&backend, &format!("http = {{ underscores = \"keep\" }}\n{marks}"), "");
    let mut client = Client::greet(&gate);
    let forged = ["x-own", "x_own", "x-gone", "x-forwarded-prefix", "x_consumer_id"];
    let trailers: Vec<_> = forged.into_iter().chain(["x-sum"]).map(|name| (name, "root")).collect();
    client.send(&request(1, "POST", "/", false));
    client.send(&frame(0, 0, 1, b"abc"));
    client.send(&frame(1, 4 | 1, 1, &block(&trailers)));
    client.body(1);
    let seen = backend.seen();
    assert_eq!((&*seen[0].body, &*seen[0].trailers), (&b"abc"[..], "x-sum: root\r\n"));
    assert_eq!(seen[0].field("X-Own"), Some("1"));
}

#[test]
fn streams_that_the_end_of_the_process_cuts_off_have_their_lines() {
    let asked = std::sync::Arc::new(std::sync::Barrier::new(2));
    let seen = std::sync::Arc::clone(&asked);
    let backend = Backend::start(move |_| {
        seen.wait();
        seen.wait(); // until the test is over
        Reply::ok("late")
    });
    let mut gate = Gate::start(&format!(
        "version = 1\n[runtime]\ndrain_timeout = \"200ms\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         http = {{ h2c = true }}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let mut client = Client::greet(&gate);
    client.send(&request(1, "GET", "/slow", true));
    asked.wait();
    gate.signal(Signal::SIGTERM);
    gate.wait_exit();
    let line = &gate.log(1)[0];
    assert_eq!((&line["reason"], &line["proto"]), (&"drain-timeout".into(), &"HTTP/2".into()));
    asked.wait();
}
