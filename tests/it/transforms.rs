//! Bodies that are changed on their way, and sides that do not send them in one go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::gate::Gate;
use super::http::{read_answer, read_head};

/// A server that lets `converse` answer the request whose head it has read.
fn server(converse: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            read_head(&mut stream);
            converse(stream);
        }
    });
    address
}

fn gate(server: SocketAddr, changes: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nbody_timeout = \"1s\"\npolicies = [\"reshape\"]\n\
         [policy.reshape]\ntype = \"transform\"\n{changes}\n\
         [pool.app]\nservers = {{ a = \"{server}\" }}\n"
    ))
}

fn post(length: usize) -> String {
    format!(
        "POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

/// More than all buffers on the way hold.
const LARGE: usize = 64 << 20;

#[test]
fn a_request_goes_on_while_the_answer_to_it_is_read_as_a_whole() {
    let server = server(|mut stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n";
        stream.write_all(format!("{head}{{\"a\"").as_bytes()).expect("it is sent");
        let mut body = Vec::new();
        let got = (&stream).take(LARGE as u64).read_to_end(&mut body).expect("a body");
        assert_eq!(got, LARGE);
        stream.write_all(b":1}").expect("it is sent");
    });
    let gate = gate(server, "response = { set = { b = 2 } }");
    let mut client = gate.connect("web");
    let mut sender = client.try_clone().expect("a second handle");
    thread::spawn(move || {
        let request = [post(LARGE).as_bytes(), &vec![b' '; LARGE]].concat();
        // A gateway that has given up is seen by what it says.
        let _ = sender.write_all(&request);
    });
    let (head, body) = read_answer(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"{\"a\":1,\"b\":2}");
}

/// Five pieces of JSON, whose last comes long after `body_timeout`, and none after its neighbour.
fn drip(stream: &mut TcpStream) {
    for piece in ["{", "\"a\"", ":", "1", "}"] {
        stream.write_all(piece.as_bytes()).expect("it is sent");
        thread::park_timeout(Duration::from_millis(300));
    }
}

#[test]
fn a_body_that_comes_slowly_is_waited_for_as_long_as_it_comes() {
    let server = server(|mut stream| {
        let mut body = [0; 13];
        stream.read_exact(&mut body).expect("a body");
        assert_eq!(&body, b"{\"a\":1,\"b\":2}");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("it is sent");
        drip(&mut stream);
    });
    let changes = "request = { set = { b = 2 } }\nresponse = { set = { c = 3 } }";
    let gate = gate(server, changes);
    let mut client = gate.connect("web");
    client.write_all(post(7).as_bytes()).expect("it is sent");
    drip(&mut client);
    let (head, body) = read_answer(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"{\"a\":1,\"c\":3}");
}
