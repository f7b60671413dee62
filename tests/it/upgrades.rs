//! Connections that stop being HTTP: what a relay promises holds for them as well.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::deadline::until;
use super::engine::{reset, with_deadline};
use super::gate::Gate;

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
    Upgrade: lines\r\n\r\n";

const AGREED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\nwelcome";

/// More than any buffer on the way holds.
const BULK: usize = 24 << 20;

/// Serves one connection: agrees, and does `then` with it.
fn server<T: Send + 'static>(
    then: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let serving = std::thread::spawn(move || {
        let mut stream = with_deadline(listener.accept().expect("a client").0);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the rest of a head");
            head.push(byte[0]);
        }
        stream.write_all(AGREED).expect("it is sent");
        then(stream)
    });
    (address, serving)
}

fn gate(server: SocketAddr, pool: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\nwebsocket = true\npool = \"app\"\n[pool.app]\n{pool}\n\
         [pool.app.servers]\na = \"{server}\"\n"
    ))
}

fn active(gate: &Gate) -> u64 {
    gate.status()["pools"]["app"]["servers"]["a"]["active"].as_u64().expect("a count")
}

/// Asks for the upgrade, with `behind` right after the request, and reads up to the welcome.
fn upgraded(gate: &Gate, behind: &[u8]) -> TcpStream {
    let mut client = gate.connect("web");
    client.write_all(&[ASK, behind].concat()).expect("it is sent");
    let mut heard = Vec::new();
    while !heard.ends_with(b"welcome") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the rest of the answer");
        heard.push(byte[0]);
    }
    assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", heard.escape_ascii());
    client
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..BULK).map(|at| (at.wrapping_mul(31) >> 3).wrapping_add(seed) as u8).collect()
}

/// Sends and receives at the same time, and returns what came up to the end.
fn both_ways(stream: TcpStream, sends: Vec<u8>) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a descriptor");
    let writing = std::thread::spawn(move || {
        writer.write_all(&sends).expect("all of it goes");
        writer.shutdown(Shutdown::Write).expect("a FIN");
    });
    let (mut reader, mut heard) = (stream, Vec::new());
    reader.read_to_end(&mut heard).expect("an end in order");
    writing.join().expect("it wrote");
    heard
}

#[test]
fn bytes_of_both_sides_and_their_ends_pass_whole_and_the_line_counts_them() {
    let (address, serving) = server(|stream| both_ways(stream, pattern(1)));
    let gate = gate(address, "");
    let client = upgraded(&gate, b"first ");
    until("the place is taken", || match active(&gate) {
        1 => Ok(()),
        other => Err(other),
    });
    let heard = both_ways(client, pattern(2));
    assert!(heard == pattern(1), "{} bytes came", heard.len());
    let seen = serving.join().expect("it served");
    assert!(seen == [b"first ".to_vec(), pattern(2)].concat(), "{} bytes came", seen.len());
    let line = &gate.log(1)[0];
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"ok".into()), "{line}");
    assert_eq!(line["bytes_in"], BULK + "first ".len(), "{line}");
    assert_eq!(line["bytes_out"], BULK + "welcome".len(), "{line}");
    assert_eq!(line["server"], "a");
    until("the place is free", || match active(&gate) {
        0 => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    let (address, serving) = server(|mut stream| stream.read(&mut [0; 1]).map_err(|e| e.kind()));
    let of_clients = gate(address, "");
    reset(upgraded(&of_clients, b""));
    assert_eq!(serving.join().expect("it served"), Err(ErrorKind::ConnectionReset));
    assert_eq!(of_clients.log(1)[0]["reason"], "client-reset");

    let (address, serving) = server(|mut stream| {
        // The client has the answer: its own reset would take it away.
        stream.read_exact(&mut [0; 2]).expect("a word");
        reset(stream);
    });
    let of_servers = gate(address, "");
    let mut client = upgraded(&of_servers, b"");
    client.write_all(b"go").expect("it is sent");
    serving.join().expect("it served");
    let error = client.read(&mut [0; 1]).expect_err("no end in order");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(of_servers.log(1)[0]["reason"], "server-reset");
}

#[test]
fn a_silent_connection_ends_by_the_idle_timeout_of_its_pool() {
    let (address, serving) = server(|mut stream| stream.read(&mut [0; 1]));
    let gate = gate(address, "idle_timeout = \"300ms\"");
    let mut client = upgraded(&gate, b"");
    assert_eq!(client.read(&mut [0; 1]).expect("an end in order"), 0);
    assert_eq!(serving.join().expect("it served").expect("an end in order"), 0);
    drop(client);
    assert_eq!(gate.log(1)[0]["reason"], "idle-timeout");
}
