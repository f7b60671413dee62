//! Servers of HTTP/2 that send frames without end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::deadline::PATIENCE;
use super::gate::Gate;
use super::http2_frames::{PREFACE, block, frame};

/// A server that answers the first request of a connection with `flood`, again and again, until
/// the connection ends. Tells how many bytes that took.
fn flooder(flood: Vec<u8>) -> (SocketAddr, Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (tell, flood) = (tell.clone(), flood.clone());
            // Nobody listens once the test is over.
            thread::spawn(move || serve(stream, &flood).map(|sent| tell.send(sent)));
        }
    });
    (address, told)
}

/// `None`: it ended before there was a request.
fn serve(mut stream: TcpStream, flood: &[u8]) -> Option<usize> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).ok()?;
    stream.write_all(&frame(4, 0, 0, &[])).ok()?;
    let mut head = [0; 9];
    while head[3] != 1 {
        stream.read_exact(&mut head).ok()?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; len]).ok()?;
    }
    let mut sent = 0;
    while let Ok(n) = stream.write(flood) {
        sent += n;
    }
    Some(sent)
}

#[test]
fn a_server_that_floods_loses_its_connection_and_the_request_fails() {
    let interim = block(&[(":status", "103")]);
    for (what, one, reason) in [
        ("WINDOW_UPDATE", frame(8, 0, 1, &[0, 0, 0, 1]), "server-reset"),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 16]), "server-reset"),
        ("PING", frame(6, 1, 0, b"not ours"), "server-reset"),
        ("unknown", frame(0xFE, 0, 0, b""), "server-reset"),
        // The request has had enough of them before the connection has.
        ("103", frame(1, 4, 1, &interim), "bad-upstream"),
    ] {
        let (address, told) = flooder(one.repeat(1_000));
        let gate = Gate::start(&format!(
            "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
             mode = \"http\"\npool = \"app\"\n[pool.app]\nprotocol = \"h2c\"\n\
             [pool.app.servers]\na = \"{address}\"\n"
        ));
        let mut client = gate.connect("web");
        let asked = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        client.write_all(asked).expect("it is sent");
        let mut said = String::new();
        // Hints that came before the end are the client's.
        client.read_to_string(&mut said).expect("an answer and an end");
        let sent = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} goes on"));
        println!("{what}: {sent} bytes");
        assert!(said.contains("HTTP/1.1 502 "), "{what}: {said}");
        assert!(sent < 16 << 20, "{what}: {sent} bytes");
        assert_eq!(gate.log(1)[0]["reason"], reason, "{what}");
    }
}
