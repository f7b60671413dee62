//! A strict HTTP/1 server for one test: it records what it is sent, byte for byte, and takes
//! nothing that RFC 9112 does not allow.
//!
//! It shares no code with the product: what the two read differently shows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which of the accepted connections it came on.
    pub connection: usize,
    /// Start line and fields, with their CRLFs.
    pub head: String,
    pub body: Vec<u8>,
    /// Lines behind a body in chunks, with their CRLFs.
    pub trailers: String,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.split("\r\n").skip(1).find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What to answer: bytes, and whether the connection then ends.
pub struct Reply {
    pub bytes: Vec<u8>,
    pub closes: bool,
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        let length = body.len();
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        Self { bytes: bytes.into_bytes(), closes: false }
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), closes: true }
    }
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    /// What was no request.
    broken: Vec<String>,
    connections: usize,
}

/// A running server; its threads end with the test's process.
pub struct Backend {
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Backend {
    /// Answers each request by `answer`.
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let record = Arc::new(Mutex::new(Record::default()));
        let (kept, answer) = (Arc::clone(&record), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (record, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                let connection = {
                    let mut record = record.lock().expect("not poisoned");
                    record.connections += 1;
                    record.connections
                };
                thread::spawn(move || converse(stream, connection, &record, &*answer));
            }
        });
        Self { address, record }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.record.lock().expect("not poisoned").seen.clone()
    }

    /// What was no request.
    pub fn broken(&self) -> Vec<String> {
        self.record.lock().expect("not poisoned").broken.clone()
    }

    pub fn connections(&self) -> usize {
        self.record.lock().expect("not poisoned").connections
    }

    pub fn forget(&self) {
        self.record.lock().expect("not poisoned").seen.clear();
    }
}

fn converse(
    mut stream: TcpStream,
    connection: usize,
    record: &Mutex<Record>,
    answer: &(impl Fn(&Seen) -> Reply + ?Sized),
) {
    let mut bytes = Vec::new();
    loop {
        let request = loop {
            match parse(&bytes) {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                Err(why) => {
                    let text = format!("{why}: {:?}", String::from_utf8_lossy(&bytes));
                    record.lock().expect("not poisoned").broken.push(text);
                    return;
                }
            }
            let mut chunk = [0; 16 << 10];
            match stream.read(&mut chunk) {
                Ok(n @ 1..) => bytes.extend_from_slice(&chunk[..n]),
                _ => return,
            }
        };
        let (mut seen, len) = request;
        seen.connection = connection;
        bytes.drain(..len);
        let reply = answer(&seen);
        record.lock().expect("not poisoned").seen.push(seen);
        if stream.write_all(&reply.bytes).is_err() || reply.closes {
            return;
        }
    }
}

/// One request at the beginning of `bytes`, and its length.
fn parse(bytes: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end + 2]).into_owned();
    let mut lines = head.split("\r\n");
    let start: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    if start.len() != 3 || start[2] != "HTTP/1.1" || start.iter().any(|word| word.is_empty()) {
        return Err("a start line".into());
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { return Err("a field".into()) };
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
            return Err("a field".into());
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_some() => return Err("two lengths".into()),
            "content-length" => match value.trim().parse::<usize>() {
                Ok(n) if value.trim().bytes().all(|b| b.is_ascii_digit()) => length = Some(n),
                _ => return Err("a length".into()),
            },
            "transfer-encoding" if value.trim() == "chunked" && !chunked => chunked = true,
            "transfer-encoding" => return Err("a coding".into()),
            _ => {}
        }
    }
    if hosts != 1 || chunked && length.is_some() {
        return Err("Host, or the framing".into());
    }
    let at = end + 4;
    if chunked {
        let Some((body, len)) = unchunk(&bytes[at..])? else { return Ok(None) };
        let section = &bytes[at..at + len - 2];
        let last = section.windows(5).rposition(|five| five == b"\r\n0\r\n");
        let from = last.map_or(b"0\r\n".len(), |last| last + 5);
        let trailers = String::from_utf8_lossy(&section[from..]).into_owned();
        return Ok(Some((Seen { connection: 0, head, body, trailers }, at + len)));
    }
    let length = length.unwrap_or(0);
    if bytes.len() < at + length {
        return Ok(None);
    }
    let body = bytes[at..at + length].to_vec();
    Ok(Some((Seen { connection: 0, head, body, trailers: String::new() }, at + length)))
}

fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let digits = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(|_| format!("chunk {digits:?}"))?;
        at += end + 2;
        if size == 0 {
            // Trailer lines end with an empty one.
            let rest = &bytes[at..];
            if rest.starts_with(b"\r\n") {
                return Ok(Some((body, at + 2)));
            }
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            return Ok(end.map(|end| (body, at + end + 4)));
        }
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Err("the end of a chunk".into());
        }
        at += size + 2;
    }
}
