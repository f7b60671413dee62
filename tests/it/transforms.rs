//! Bodies that are changed on their way, and sides that do not send them in one go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::http::{read_answer, read_head};
use super::talk::Talk;

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

/// What a server says of the bytes of its document.
const OF_THE_BYTES: [(&str, &str); 6] = [
    ("ETag", "\"v1\""),
    ("Accept-Ranges", "bytes"),
    ("Content-MD5", "bXk="),
    ("Digest", "sha-256=bXk="),
    ("Content-Digest", "sha-256=:bXk=:"),
    ("Repr-Digest", "sha-256=:bXk=:"),
];

/// A gate that changes the answers of a server with one document, of which it also gives a part
/// unasked.
fn with_document(kind: &'static str) -> (Gate, Backend) {
    let backend = Backend::start(move |seen| {
        let lines = OF_THE_BYTES.map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields = format!("Content-Type: {kind}\r\n{}", lines.concat());
        let (status, more, body) = match (seen.field("If-None-Match"), seen.path()) {
            (Some(_), _) => ("304 Not Modified", "Content-Length: 7\r\n", ""),
            (_, "/part") => {
                let more = "Content-Range: bytes 0-2/7\r\nContent-Length: 3\r\n";
                ("206 Partial Content", more, "{\"a")
            }
            _ => ("200 OK", "Content-Length: 7\r\n", "{\"a\":1}"),
        };
        let body = if seen.line().starts_with("HEAD ") { "" } else { body };
        Reply::raw(format!("HTTP/1.1 {status}\r\n{fields}{more}\r\n{body}"))
    });
    (gate(backend.address, "response = { set = { b = 2 } }"), backend)
}

#[test]
fn a_part_of_a_document_passes_as_it_is() {
    let (gate, _backend) = with_document("application/json");
    let said = Talk::to(&gate, "web").get("/part");
    assert_eq!((said.status, &said.body[..]), (206, &b"{\"a"[..]), "{}", said.head);
    for (name, value) in OF_THE_BYTES {
        assert_eq!(said.field(name), Some(value), "{}", said.head);
    }
}

#[test]
fn what_a_server_says_of_bytes_that_are_changed_goes_with_them() {
    let (gate, _backend) = with_document("application/json");
    let mut talk = Talk::to(&gate, "web");
    let whole = talk.get("/");
    assert_eq!(whole.body, b"{\"a\":1,\"b\":2}");
    assert_eq!(whole.field("Content-Length"), Some("13"));
    let head = talk.ask("HEAD", "/", "", b"");
    let known = talk.ask("GET", "/", "If-None-Match: W/\"v1\"\r\n", b"");
    for said in [&head, &known] {
        assert_eq!(said.field("Content-Length"), None, "{}", said.head);
    }
    for said in [&whole, &head, &known] {
        assert_eq!(said.field("ETag"), Some("W/\"v1\""), "{}", said.head);
        for (name, _) in &OF_THE_BYTES[1..] {
            assert_eq!(said.field(name), None, "{}", said.head);
        }
    }
    assert_eq!((head.status, known.status), (200, 304));
}

#[test]
fn what_is_said_of_bytes_that_no_policy_changes_stays() {
    let (gate, _backend) = with_document("text/plain");
    let mut talk = Talk::to(&gate, "web");
    for method in ["GET", "HEAD"] {
        let said = talk.ask(method, "/", "", b"");
        assert_eq!(said.field("Content-Length"), Some("7"), "{}", said.head);
        for (name, value) in OF_THE_BYTES {
            assert_eq!(said.field(name), Some(value), "{}", said.head);
        }
    }
}
