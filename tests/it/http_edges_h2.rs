//! Requests at the edges of HTTP/2: what it has no form for, servers that give requests up one by
//! one or all at once, and an upload that is slow to go on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::authority::Authority;
use super::backend::{Backend, Reply, Seen};
use super::deadline::PATIENCE;
use super::gate::Gate;
use super::http::{ask, get};
use super::http_edges::errors;
use super::http2_frames::{PREFACE, block, frame};
use super::talk::Talk;

// Kinds of frames, and their flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A header block of `:status: 200`, which stands in the static table (RFC 7541, appendix A).
const OK: u8 = 0x88;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn read_frame(from: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// A gate whose one worker speaks HTTP/2 to `server`, so that it has one connection there.
fn gate(server: SocketAddr, more: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\n{more}\n[pool.app]\nprotocol = \"h2c\"\n\
         [pool.app.servers]\na = \"{server}\"\n"
    ))
}

/// The same in front of one that speaks HTTP/1 to the server.
fn gates(backend: &Backend, more: &str) -> (Gate, Gate) {
    let inner = super::http::gate(backend, "", "", "");
    (gate(inner.address("web"), more), inner)
}

#[test]
fn what_http_1_lets_pass_goes_to_servers_of_http_2_too() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let (outer, _inner) = gates(&backend, "");
    let odd = "GET /a?q=\"x\"<y> HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answer = ask(&outer, odd);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let old = ask(&outer, "GET /old HTTP/1.0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.1 200 ") && old.ends_with("\r\n\r\n/old"), "{old}");
    let seen = backend.seen();
    let paths: Vec<&str> = seen.iter().map(Seen::path).collect();
    assert_eq!(paths, ["/a?q=%22x%22%3Cy%3E", "/old"]);
    assert_eq!(errors(&outer), 0);
}

#[test]
fn a_target_that_http_2_has_no_form_for_is_refused_and_no_fault_of_the_server() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let limits = "http = { max_uri = \"96KiB\", max_header = \"128KiB\" }";
    let (outer, _inner) = gates(&backend, limits);
    // Where the crate that both ends stand on has its bound: at 65,534 bytes.
    let long = format!("/{}", "x".repeat(70_000));
    let answer = get(&outer, &long);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{}", &answer[..answer.len().min(200)]);
    assert_eq!(outer.log(1)[0]["reason"], "bad-request");
    assert_eq!(errors(&outer), 0);
    assert!(get(&outer, "/short").ends_with("\r\n\r\n/short"), "others are served as before");
    assert_eq!(backend.seen().len(), 1);
}

/// A frame of a request, as a server heard it.
struct Heard {
    connection: usize,
    stream: u32,
    is_head: bool,
    /// The request ends with it.
    ends: bool,
}

/// Connection and stream of each request, in the order of their heads.
type Asked = Arc<Mutex<Vec<(usize, u32)>>>;

/// A server of HTTP/2 that says what `answer` says to each frame of a request. Its threads end
/// with their connections.
fn server(answer: impl Fn(&Heard) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let asked = Asked::default();
    let (kept, answer) = (Arc::clone(&asked), Arc::new(answer));
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().flatten().enumerate() {
            let (asked, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            thread::spawn(move || converse(stream, connection, &asked, &*answer));
        }
    });
    (address, asked)
}

fn converse(
    mut stream: TcpStream,
    connection: usize,
    asked: &Mutex<Vec<(usize, u32)>>,
    answer: &impl Fn(&Heard) -> Vec<u8>,
) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE.len()])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let got = read_frame(&mut stream)?;
        let said = match got.kind {
            SETTINGS if got.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if got.flags & ACK == 0 => frame(PING, ACK, 0, &got.payload),
            HEADERS | DATA => {
                let (stream, is_head) = (got.stream, got.kind == HEADERS);
                if is_head {
                    asked.lock().expect("not poisoned").push((connection, stream));
                }
                let ends = got.flags & END_STREAM != 0;
                answer(&Heard { connection, stream, is_head, ends })
            }
            _ => continue,
        };
        stream.write_all(&said)?;
    }
}

/// An answer without a body.
fn fine(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[OK])
}

#[test]
fn a_request_that_its_server_gives_up_is_no_stale_connection() {
    let (address, asked) = server(|heard| match (heard.connection, heard.stream) {
        _ if !heard.ends => Vec::new(),
        (0, 1) => fine(1),
        // INTERNAL_ERROR; the connection goes on.
        (_, stream) => frame(RST_STREAM, 0, stream, &2_u32.to_be_bytes()),
    });
    let once = "[[listener.web.route]]\npool = \"app\"\nretries = { attempts = 1 }\n";
    let gate = gate(address, once);
    let mut talk = Talk::to(&gate, "web");
    assert_eq!(talk.get("/good").status, 200);
    let said = talk.get("/bad");
    assert_eq!(said.status, 502, "{}", said.head);
    assert_eq!(*asked.lock().expect("not poisoned"), [(0, 1), (0, 3)]);
    assert_eq!(errors(&gate), 1);
    assert_eq!(gate.log(2)[1]["reason"], "server-reset");
}

#[test]
fn a_request_behind_the_last_that_a_goodbye_names_is_sent_again() {
    let (address, asked) = server(|heard| match (heard.connection, heard.stream) {
        (0, 1) if heard.ends => fine(1),
        // The last stream is 1, NO_ERROR. What else comes on this connection is not answered.
        (0, 3..) if heard.is_head => frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
        (1.., stream) if heard.ends => fine(stream),
        _ => Vec::new(),
    });
    let gate = gate(address, "");
    let mut talk = Talk::to(&gate, "web");
    assert_eq!(talk.get("/first").status, 200);
    let said = talk.ask("POST", "/second", "Content-Length: 5\r\n", b"hello");
    assert_eq!(said.status, 200, "{}", said.head);
    assert_eq!(*asked.lock().expect("not poisoned"), [(0, 1), (0, 3), (1, 1)]);
}

/// A body that fills the window of a stream, and so may be sent in one go: in whole frames.
const UPLOAD: usize = 256 << 10;
const FRAME: usize = 16 << 10;

fn identity(authority: &Authority) -> Arc<ServerConfig> {
    let cert = CertificateDer::from_pem_file(authority.path("inner.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(authority.path("inner.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the usual versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key);
    Arc::new(config.expect("a pair"))
}

/// A listener for whose connections neither kernel keeps more than some ten kilobytes: what a
/// sender's takes goes by the size of segments and by what may be on its way.
fn narrow() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2 << 10).expect("an option of a socket");
    socket.set_tcp_mss(360).expect("an option of a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
    socket.listen(16).expect("it is bound");
    socket.into()
}

/// A server of TLS and HTTP/1.1 that does not begin with anybody before it is told to; it tells
/// what it got.
fn slow_server(authority: &Authority, begin: Receiver<()>) -> (SocketAddr, Receiver<Vec<u8>>) {
    let (listener, config) = (narrow(), identity(authority));
    let address = listener.local_addr().expect("bound");
    let (tell, told) = channel();
    thread::spawn(move || {
        if begin.recv().is_err() {
            return; // the test is over
        }
        let (stream, _) = listener.accept().expect("the gate");
        let connection = ServerConnection::new(config).expect("a connection");
        let mut stream = StreamOwned::new(connection, stream);
        if let Ok(body) = take_upload(&mut stream) {
            let _ = tell.send(body);
            // Until the gateway ends it.
            let _ = stream.read(&mut [0]);
        }
    });
    (address, told)
}

fn take_upload(stream: &mut (impl Read + Write)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut body = vec![0; UPLOAD];
    stream.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    stream.flush()?;
    Ok(body)
}

/// Frames up to the first that is `wanted`.
fn until_frame(client: &mut TcpStream, wanted: impl Fn(&Frame) -> bool) -> Frame {
    loop {
        let got = read_frame(client).expect("a frame");
        if wanted(&got) {
            return got;
        }
        if (got.kind, got.flags) == (PING, 0) {
            client.write_all(&frame(PING, ACK, 0, &got.payload)).expect("it is sent");
        }
    }
}

/// A connection on which as much may be sent as the gateway lets clients send.
fn greet(gate: &Gate) -> TcpStream {
    let mut client = gate.connect("web");
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    client.write_all(&hello).expect("it is sent");
    until_frame(&mut client, |got| got.kind == SETTINGS && got.flags & ACK == 0);
    // The window of streams is what its settings say once they are acknowledged.
    client.write_all(&frame(SETTINGS, ACK, 0, &[])).expect("it is sent");
    until_frame(&mut client, |got| got.kind == WINDOW_UPDATE && got.stream == 0);
    client
}

/// A POST of `body` on stream 1.
fn upload(body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/up"),
        (":authority", "a.test"),
        ("content-length", length.as_str()),
    ];
    let mut frames = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    let pieces = body.chunks(FRAME);
    let last = pieces.len() - 1;
    for (at, piece) in pieces.enumerate() {
        let flags = if at == last { END_STREAM } else { 0 };
        frames.extend(frame(DATA, flags, 1, piece));
    }
    frames
}

#[test]
fn the_end_of_an_upload_does_not_stay_behind_in_the_tls_to_a_slow_server() {
    let (authority, (begin, begins)) = (Authority::new(), channel());
    let (address, told) = slow_server(&authority, begins);
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nrequest_timeout = \"15s\"\nhandshake_timeout = \"1m\"\n\
         [pool.app]\ntls = {{ verify = \"insecure\" }}\n[pool.app.servers]\na = \"{address}\"\n"
    ));
    let body: Vec<u8> = (0..UPLOAD).map(|at| (at % 251) as u8).collect();
    let mut client = greet(&gate);
    client.write_all(&upload(&body)).expect("it is sent");
    // All of it is in the gateway before the server takes the first byte: so the last piece that
    // goes on is a large one, more than the kernel takes at once.
    client.write_all(&frame(PING, 0, 0, b"all here")).expect("it is sent");
    until_frame(&mut client, |got| (got.kind, got.flags) == (PING, ACK));
    begin.send(()).expect("the server waits");
    let answer = until_frame(&mut client, |got| got.kind == HEADERS && got.stream == 1);
    assert_eq!(answer.payload.first(), Some(&OK), "{:?}", gate.log(1));
    let got = told.recv_timeout(PATIENCE).expect("the server had all of it");
    assert!(got == body, "another body");
    assert_eq!(gate.log(1)[0]["reason"], "ok");
}
