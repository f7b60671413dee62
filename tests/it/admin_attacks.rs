//! The admin API among people who mean it harm, or do not know better.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::admin::{json, talk};
use super::deadline::{PATIENCE, until};
use super::engine::{self, echo};
use super::gate::Gate;

const FULL: &str = "full-token-0123456";

/// A gate with a TCP listener `front` over an echo.
pub fn gate(admin: &str) -> Gate {
    let server = engine::server(echo);
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n{admin}\n\
         [log]\naccess = \"off\"\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app.servers]\na = \"{server}\"\n"
    ))
}

/// Sends a head and as much of a body as is taken, and returns the answer.
pub fn flood(gate: &Gate, head: &str, chunk: &[u8], times: usize) -> String {
    let mut stream = gate.connect("admin");
    stream.write_all(head.as_bytes()).expect("the head is sent");
    for _ in 0..times {
        if stream.write_all(chunk).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // What was sent after the answer may have reset the connection; the answer came before.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const SERVER: &str = "/v1/pools/app/servers/a";

#[test]
fn a_body_without_end_is_refused_unread() {
    let gate = gate("");
    let memory = gate.resident();
    let json = "Host: localhost\r\nContent-Type: application/json\r\n";
    let declared = format!("PATCH {SERVER} HTTP/1.1\r\n{json}Content-Length: 1073741824\r\n\r\n");
    let answer = flood(&gate, &declared, &[b' '; 64 << 10], 1_024);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunked = format!("PATCH {SERVER} HTTP/1.1\r\n{json}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"8000\r\n".as_slice(), &[b' '; 0x8000], b"\r\n"].concat();
    let answer = flood(&gate, &chunked, &chunk, 2_048);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let grown = gate.resident().saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

#[test]
fn a_head_without_end_is_refused() {
    let gate = gate("");
    let line = format!("X-Long: {}\r\n", "x".repeat(1_000));
    let answer = flood(&gate, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", line.as_bytes(), 64);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn a_change_needs_no_content_type_but_a_page_of_our_own() {
    let gate = gate("");
    let body = br#"{"state":"drain"}"#;
    let ask = |fields: &str| {
        let fields = format!("{fields}Content-Length: {}\r\n", body.len());
        talk(&gate).ask("PATCH", SERVER, &fields, body)
    };
    let typed = "Content-Type: application/json; charset=utf-8\r\n";
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let said = ask(&format!("{typed}Origin: {origin}\r\n"));
        assert_eq!((said.status, &json(&said)["error"]), (403, &"origin".into()), "{origin}");
        let said = talk(&gate).ask("GET", "/v1/status", &format!("Origin: {origin}\r\n"), b"");
        assert_eq!(said.status, 403, "reading too: {origin}");
        let said = talk(&gate).ask("GET", "/healthz", &format!("Origin: {origin}\r\n"), b"");
        assert_eq!(said.status, 200, "{origin}");
    }
    assert_eq!(gate.status()["pools"]["app"]["servers"]["a"]["state"], "up");
    assert_eq!(ask(&format!("{typed}Origin: http://localhost\r\n")).status, 200);
    for kind in ["", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let said = ask(&format!("{kind}Origin: http://evil.example\r\n"));
        assert_eq!(said.status, 403, "{kind}");
        assert_eq!(ask(kind).status, 200, "{kind}");
    }
    let mut rebound = talk(&gate);
    rebound.host = "evil.example".into();
    assert_eq!(rebound.get("/v1/status").status, 421);
}

#[test]
fn the_configuration_is_shown_without_its_secrets_and_not_to_readers() {
    let planted = "read-token-planted-0123456";
    let gate = gate(&format!("token = \"{FULL}\"\nread_token = \"{planted}\""));
    let ask = |token: &str| {
        talk(&gate).ask("GET", "/v1/config", &format!("Authorization: Bearer {token}\r\n"), b"")
    };
    assert_eq!(talk(&gate).get("/v1/config").status, 401);
    assert_eq!(ask(planted).status, 403);
    let said = ask(FULL);
    assert_eq!(said.status, 200);
    let text = String::from_utf8_lossy(&said.body).into_owned();
    assert!(!text.contains(FULL) && !text.contains(planted), "{text}");
    let config = json(&said);
    assert_eq!(config["admin"]["token"], "***");
    assert_eq!(config["listener"]["front"]["pool"], "app");
}

/// More than may be connected.
const CROWD: usize = 1_000;

#[test]
fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let gate = gate("");
    let before = gate.descriptors();
    let address = gate.address("admin");
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|at| {
            TcpStream::connect_timeout(&address, PATIENCE)
                .unwrap_or_else(|error| panic!("connection {at}: {error}"))
        })
        .collect();
    assert_eq!(talk(&gate).get("/healthz").status, 200);
    assert_eq!(gate.status()["ready"], true);
    let open = gate.descriptors();
    assert!(open < before + 300, "{open} descriptors, {before} before");
    // The first of them made room long ago.
    let mut first = &crowd[0];
    first.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "closed");
    let mut client = gate.connect("front");
    client.write_all(b"ping").expect("it is sent");
    let mut back = [0; 4];
    client.read_exact(&mut back).expect("it comes back");
    drop(crowd);
    until("the places to be free", || match gate.descriptors() {
        open if open < before + 10 => Ok(()),
        open => Err(open),
    });
}

#[test]
fn a_crowd_whose_bodies_do_not_come_keeps_nobody_out() {
    let gate = gate("");
    let head = format!("PATCH {SERVER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
    let crowd: Vec<TcpStream> = (0..CROWD / 2)
        .map(|_| {
            let mut stream = gate.connect("admin");
            stream.write_all(head.as_bytes()).expect("it is sent");
            stream
        })
        .collect();
    let mut stream = gate.connect("admin");
    // Less than any of them is waited for.
    stream.set_read_timeout(Some(Duration::from_secs(8))).expect("an option of a socket");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer before theirs");
    assert_eq!(&head, b"HTTP/1.1 200");
    drop(crowd);
}

#[test]
fn streams_of_events_are_bounded_and_leave_room_for_questions() {
    let gate = gate("");
    let open = |_| {
        let mut stream = gate.connect("admin");
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        (stream, String::from_utf8_lossy(&head).into_owned())
    };
    let streams: Vec<_> = (0..CROWD / 4).map(open).collect();
    let open_ones = streams.iter().filter(|(_, head)| head == "HTTP/1.1 200").count();
    let refused = streams.iter().filter(|(_, head)| head == "HTTP/1.1 503").count();
    assert!(open_ones > 0 && refused > 0, "{open_ones} open, {refused} refused");
    assert_eq!(open_ones + refused, streams.len());
    assert_eq!(gate.status()["ready"], true);
}
