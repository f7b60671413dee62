//! Answers that are compressed on their way: how many at once, and when their bytes come.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread;

use flate2::read::GzDecoder;

use super::deadline::{PATIENCE, until};
use super::gate::Gate;

fn gate(address: SocketAddr) -> Gate {
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[log]\naccess = \"off\"\n[listener.web]\n\
         bind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\ncompression = {{}}\n\
         [pool.app]\nservers = {{ a = \"{address}\" }}\n"
    ))
}

/// A server that reads a head on each connection, and leaves the rest to `serve`.
fn server(serve: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || {
                head(&mut stream);
                serve(stream);
            });
        }
    });
    address
}

/// Up to the empty line, or what there is.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

fn ask(gate: &Gate, coding: &str) -> TcpStream {
    let mut stream = gate.connect("web");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is a time");
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: {coding}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    stream
}

#[test]
fn answers_beyond_the_encoders_that_fit_go_out_as_they_are_and_say_vary() {
    let door = Arc::new(RwLock::new(()));
    let (closed, leaving) = (door.write().expect("it is new"), Arc::clone(&door));
    let gate = gate(server(move |mut stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"one\"\r\n\
                    Content-Length: 100000\r\n\r\nbeginning";
        let _ = stream.write_all(head.as_bytes());
        // The rest does not come, and the connections end when the test says so.
        drop(leaving.read());
    }));
    let mut streams = Vec::new();
    let mut ask = || {
        let mut stream = ask(&gate, "br");
        let head = head(&mut stream);
        streams.push(stream);
        head
    };
    let heads: Vec<String> = (0..70).map(|_| ask()).collect();
    let is_compressed = |head: &String| head.contains("\r\nContent-Encoding: br\r\n");
    let (small, plain): (Vec<_>, Vec<_>) = heads.into_iter().partition(is_compressed);
    assert_eq!((small.len(), plain.len()), (56, 14), "64 MiB of encoders");
    for head in small.iter().chain(&plain) {
        assert!(head.contains("\r\nVary: Accept-Encoding\r\n"), "{head}");
    }
    for head in &plain {
        assert!(head.contains("\r\nContent-Length: 100000\r\n"), "{head}");
        assert!(head.contains("\r\nETag: \"one\"\r\n"), "{head}");
    }
    drop(closed);
    until("there is room again", || {
        let head = head(&mut self::ask(&gate, "br"));
        if is_compressed(&head) { Ok(()) } else { Err(head) }
    });
}

/// The payload of chunks, as they come; it ends with them.
struct Chunks {
    stream: TcpStream,
    left: usize,
    ended: bool,
    /// Bytes so far.
    total: usize,
}

impl Chunks {
    fn line(&mut self) -> std::io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line).expect("ASCII"))
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            self.left = usize::from_str_radix(&self.line()?, 16).expect("a size");
            self.ended = self.left == 0;
            if self.ended {
                return self.line().map(|_| 0);
            }
        }
        let n = self.left.min(into.len());
        let n = self.stream.read(&mut into[..n])?;
        (self.left, self.total) = (self.left - n, self.total + n);
        if self.left == 0 {
            self.line()?;
        }
        Ok(n)
    }
}

fn body(mut stream: TcpStream) -> Chunks {
    let head = head(&mut stream);
    assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
    Chunks { stream, left: 0, ended: false, total: 0 }
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_body_in_chunks_of_one_byte_gets_smaller_all_the_same() {
    const BYTES: usize = 20_000;
    let gate = gate(server(|mut stream| {
        let chunks = "1\r\na\r\n1\r\nb\r\n".repeat(BYTES / 2);
        let answer = format!("{HEAD}{chunks}0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    }));
    let mut decoder = GzDecoder::new(body(ask(&gate, "gzip")));
    let mut plain = String::new();
    decoder.read_to_string(&mut plain).expect("a whole body");
    assert_eq!(plain.len(), BYTES);
    let total = decoder.get_ref().total;
    assert!(total < BYTES / 10, "{total} bytes of {BYTES}");
}

#[test]
fn a_server_that_pauses_leaves_no_bytes_in_the_encoder() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let gate = gate(server(move |mut stream| {
        for part in [HEAD, "5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
            let _ = stream.write_all(part.as_bytes());
            if part != HEAD {
                // Goes on when the client has seen this one.
                let _ = wait.lock().expect("nobody panics").recv_timeout(PATIENCE);
            }
        }
    }));
    let mut decoder = GzDecoder::new(body(ask(&gate, "gzip")));
    for part in ["first", "second"] {
        let mut bytes = vec![0; part.len()];
        decoder.read_exact(&mut bytes).expect("it comes before the next one is sent");
        assert_eq!(bytes, part.as_bytes());
        go.send(()).expect("the server waits");
    }
    assert_eq!(decoder.read(&mut [0]).expect("the end"), 0);
}
