//! Requests that end before their answer does: the client resets, the time is up, the process stops.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::deadline::until;
use super::gate::Gate;

const ASK: &[u8] = b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A server that takes requests, says `begins`, and then nothing more.
fn silent(begins: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let held = Mutex::new(Vec::new());
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            // Who is gone meanwhile is not told.
            let _ = stream.write_all(begins);
            held.lock().expect("not poisoned").push(stream);
        }
    });
    address
}

fn gate(server: SocketAddr, more: &str) -> Gate {
    gate_to(&format!("[pool.app.servers]\na = \"{server}\"\n"), more)
}

fn gate_to(pool: &str, more: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[runtime]\ndrain_timeout = \"200ms\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\n{more}{pool}"
    ))
}

/// Waits until so many hold a place at the server.
fn until_active(gate: &Gate, count: f64) {
    let metric = "sluicegate_upstream_active{pool=\"app\",server=\"a\"}";
    until("the places are as they should be", || match gate.metric(metric) {
        Some(active) if active == count => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
}

#[test]
fn a_client_that_resets_while_the_server_is_silent_gives_its_places_back() {
    let gate = gate(silent(b""), "");
    let mut clients: Vec<TcpStream> = (0..3).map(|_| gate.connect("web")).collect();
    for client in &mut clients {
        client.write_all(ASK).expect("sent");
    }
    until_active(&gate, 3.0);
    // One that has only said its end is answered still.
    clients[0].shutdown(std::net::Shutdown::Write).expect("connected");
    clients.drain(1..).for_each(reset);
    until_active(&gate, 1.0);
    for line in gate.log(2) {
        assert_eq!((&line["reason"], &line["status"]), (&"client-reset".into(), &499.into()));
    }
}

#[test]
fn a_client_that_resets_while_it_waits_for_a_place_leaves_the_queue() {
    let server = silent(b"");
    let pool = format!(
        "[pool.app]\nhold = \"1h\"\n[pool.app.servers]\n\
         a = {{ addr = \"{server}\", max_conns = 1 }}\n"
    );
    let gate = gate_to(&pool, "");
    let mut first = gate.connect("web");
    first.write_all(ASK).expect("sent");
    until_active(&gate, 1.0);
    let mut second = gate.connect("web");
    second.write_all(ASK).expect("sent");
    let held = || gate.metric("sluicegate_pool_held{pool=\"app\"}");
    until("it waits", || if held() == Some(1.0) { Ok(()) } else { Err(held()) });
    reset(second);
    until("it has left", || if held() == Some(0.0) { Ok(()) } else { Err(held()) });
}

#[test]
fn what_total_timeout_cuts_off_is_counted() {
    let server = silent(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456");
    let gate = gate(server, "total_timeout = \"300ms\"\n");
    let mut client = gate.connect("web");
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")
        .expect("sent");
    let mut answer = Vec::new();
    let end = client.read_to_end(&mut answer);
    assert!(end.is_err(), "an answer in the middle does not end in order");
    assert!(answer.ends_with(b"\r\n\r\n0123456"), "{}", answer.escape_ascii());
    let line = &gate.log(1)[0];
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &7.into()), "{line}");
    assert_eq!(line["reason"], "request-timeout");
}

#[test]
fn requests_that_the_end_of_the_process_cuts_off_have_their_lines() {
    let mut gate = gate(silent(b""), "");
    let mut client = gate.connect("web");
    client.write_all(ASK).expect("sent");
    until_active(&gate, 1.0);
    gate.signal(Signal::SIGTERM);
    gate.wait_exit();
    let line = &gate.log(1)[0];
    assert_eq!((&line["reason"], &line["path"]), (&"drain-timeout".into(), &"/slow".into()));
}
