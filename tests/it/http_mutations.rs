//! Requests made by a grammar and then broken, against a strict server and a lax one: neither may
//! ever count a request otherwise than the log of the gateway does.
//!
//! The seed is printed; `SLUICEGATE_SEED` repeats it, and `SLUICEGATE_MUTATIONS_FULL=1` sends
//! 100,000 instead of 2,000.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use sluicegate::balance::Rng;

use super::backend::{Backend, Reply, Seen};
use super::deadline::until;
use super::gate::Gate;
use super::http::bytes_of;
use super::lenient::{Lenient, READERS, Reader};
use super::stream::seed;

const METHODS: &[&str] =
    &["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "get", "M-X"];
const TARGETS: &[&str] = &["/", "/a/b?c=d", "/%41", "http://a.test/x", "*", "//a//b", "/a/../b"];
const VERSIONS: &[&str] = &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"];
const FIELDS: &[&str] = &[
    "Accept: */*",
    "X-Empty:",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Content-Length",
    "Connection: Transfer-Encoding, X-Empty",
    "Keep-Alive: 5",
    "TE: trailers",
    "Trailer: X-Sum",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Cookie: a=b; c=d",
    "X_Under: score",
    "Content_Length: 9",
    "Transfer_Encoding: chunked",
    "X-Long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];
/// Said of a length of 5.
const LENGTHS: &[&str] = &[
    "5",
    "+5",
    "5 ",
    " 5",
    "05",
    "5,5",
    "5, 6",
    "-5",
    "5e0",
    "0x5",
    "",
    "5;",
    "5\t",
    "5\0",
    "5_0",
    "99999999999999999999",
    "4",
    "6",
    "0",
];
const CODINGS: &[&str] = &[
    "chunked",
    "Chunked",
    "chunked ",
    "\tchunked",
    "xchunked",
    "chunked, identity",
    "identity, chunked",
    "gzip, chunked",
    "\"chunked\"",
    "chunked;q=1",
    "chunked,",
    ", chunked",
    "chunked\0",
    "identity",
    "",
    "chun\u{6b}ed, chunked",
];
const SIZES: &[&str] = &[
    "5",
    "05",
    "5 ",
    " 5",
    "5;a=b",
    "5;a=\"b\\\"c\"",
    "0x5",
    "+5",
    "-5",
    "5;\n",
    "5\n",
    "5\r",
    "5;\ra",
    "0000000000000005",
    "00000000000000005",
    "5g",
    "",
    "FFFFFFFFFFFFFFFF",
    "5\t;x",
    "4",
    "6",
];
const TRAILERS: &[&str] =
    &["", "X-Sum: 1\r\n", "Content-Length: 3\r\n", "Host: b.test\r\n", ": x\r\n"];
/// Put in anywhere.
const SPLINTERS: &[&str] = &[
    "\r",
    "\n",
    "\0",
    " ",
    "\t",
    "\u{b}",
    "\r\n",
    "\n\n",
    "\r\n\r\n",
    "\r\n ",
    ":",
    ",",
    ";",
    "\"",
    "\\",
    "\u{80}",
    "0\r\n\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b.test\r\n",
];
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: hidden\r\n\r\n";

/// Makes requests, sound ones first.
struct Maker(Rng);

impl Maker {
    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.0.below(of.len() as u64) as usize]
    }

    /// One time in `of`.
    fn chance(&mut self, of: u64) -> bool {
        self.0.below(of) == 0
    }

    /// The first of `of` mostly, else any.
    fn mostly<'t>(&mut self, of: &[&'t str]) -> &'t str {
        if self.chance(4) { self.one(of) } else { of[0] }
    }

    fn request(&mut self) -> Vec<u8> {
        let (method, target, version) = (self.one(METHODS), self.one(TARGETS), self.one(VERSIONS));
        let mut lines = vec!["Host: a.test".to_owned()];
        for _ in 0..self.0.below(4) {
            lines.push(self.one(FIELDS).to_owned());
        }
        let framing = self.0.below(8);
        if matches!(framing, 1..=3 | 7) {
            lines.push(format!("Content-Length: {}", self.mostly(LENGTHS)));
        }
        if framing >= 4 {
            lines.push(format!("Transfer-Encoding: {}", self.mostly(CODINGS)));
        }
        if self.chance(12) {
            let again = self.0.below(lines.len() as u64) as usize;
            lines.push(lines[again].clone());
        }
        for at in (1..lines.len()).rev() {
            lines.swap(at, self.0.below(at as u64 + 1) as usize);
        }
        let body = match framing {
            0 => String::new(),
            1..=3 => "hello".to_owned(),
            _ => self.chunked(),
        };
        let head = lines.join("\r\n");
        let mut bytes: Vec<u8> = format!("{method} {target} {version}\r\n{head}\r\n\r\n{body}")
            .chars()
            .map(|c| c as u32 as u8)
            .collect();
        if self.chance(2) {
            for _ in 0..=self.0.below(3) {
                self.break_once(&mut bytes);
            }
        }
        bytes
    }

    fn chunked(&mut self) -> String {
        let (size, last, trailer) = (
            self.mostly(SIZES),
            self.mostly(&["0", "00", "0;x", "-0", "0 "]),
            self.mostly(TRAILERS),
        );
        let data = if self.chance(3) {
            format!("{:x}\r\n{HIDDEN}\r\n", HIDDEN.len())
        } else {
            String::new()
        };
        format!("{size}\r\nhello\r\n{data}{last}\r\n{trailer}\r\n")
    }

    fn break_once(&mut self, bytes: &mut Vec<u8>) {
        let at = self.0.below(bytes.len() as u64) as usize;
        match self.0.below(6) {
            0 => drop(bytes.remove(at)),
            1 => bytes[at] = self.0.below(256) as u8,
            2 => {
                let end = (at + 1 + self.0.below(20) as usize).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            // A line's end that is only half of one.
            3 => {
                let feed = bytes.iter().enumerate().skip(at).find(|(_, byte)| **byte == b'\n');
                if let Some((feed, _)) = feed.filter(|(feed, _)| *feed > 0) {
                    bytes.remove(feed - usize::from(self.chance(2)));
                }
            }
            _ => {
                let splinter: Vec<u8> =
                    self.one(SPLINTERS).chars().map(|c| c as u32 as u8).collect();
                bytes.splice(at..at, splinter);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
}

fn gate(server: SocketAddr) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"file:access.log\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app.servers]\na = \"{server}\"\n"
    ))
}

/// Sends `bytes` on a connection of their own, and reads to its end.
fn send(gate: &Gate, bytes: &[u8]) {
    let mut stream = gate.connect("web");
    // Who is refused may be cut off before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Sends as many as are wanted, one to three on a connection, and a sound one at last.
fn send_all(gate: &Gate, seed: u64, count: u64) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count {
                        return;
                    }
                    let mut maker = Maker(Rng::new(seed ^ nth.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
                    let many = 1 + maker.0.below(6) / 4 + maker.0.below(8) / 7;
                    let bytes: Vec<u8> = (0..many).flat_map(|_| maker.request()).collect();
                    send(gate, &bytes);
                }
            });
        }
    });
    send(gate, b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
}

/// What the log says was sent to a server: how often, and whether an answer of it came.
fn logged(gate: &Gate) -> BTreeMap<String, (u64, bool)> {
    let text = std::fs::read_to_string(gate.dir.path().join("access.log")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut sent = BTreeMap::new();
    for line in whole.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        if !record["server"].is_null() {
            let id = record["request_id"].as_str().expect("an id").to_owned();
            let attempts = record["attempts"].as_u64().expect("a number");
            let answered = record["status"] == 200 && record["reason"] == "ok";
            let before = sent.insert(id, (attempts, answered));
            assert!(before.is_none(), "one id, one record: {line}");
        }
    }
    sent
}

/// The servers' count and the log's are the same.
fn assert_same(gate: &Gate, ids: impl Fn() -> Vec<String>) -> usize {
    until("the log and the server agree", || {
        let (sent, mut seen) = (logged(gate), BTreeMap::<String, u64>::new());
        for id in ids() {
            *seen.entry(id).or_default() += 1;
        }
        for (id, count) in &seen {
            match sent.get(id) {
                None => return Err(format!("a server saw {id:?}, which is not in the log")),
                Some((attempts, _)) if count > attempts => {
                    return Err(format!("a server saw {id} {count} times of {attempts}"));
                }
                Some(_) => {}
            }
        }
        let unseen = sent.iter().find(|(id, (_, answered))| *answered && !seen.contains_key(*id));
        match unseen {
            Some((id, _)) => Err(format!("no server saw {id}, which was answered")),
            None => Ok(seen.len()),
        }
    })
}

fn count() -> u64 {
    if std::env::var_os("SLUICEGATE_MUTATIONS_FULL").is_some() { 100_000 } else { 2_000 }
}

#[test]
fn a_strict_server_counts_what_the_log_does_and_finds_nothing_broken() {
    let backend = Backend::start(|_: &Seen| Reply {
        bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        closes: false,
    });
    let gate = gate(backend.address);
    let (seed, count) = (seed(), count());
    send_all(&gate, seed, count);
    let id = |seen: &Seen| seen.field("X-Request-Id").unwrap_or_default().to_owned();
    let passed = assert_same(&gate, || backend.seen().iter().map(id).collect());
    println!("{count} connections of broken requests, {passed} requests passed");
    assert_eq!(backend.broken(), Vec::<String>::new());
    assert!(passed as u64 > count / 10, "hardly any was sound");
}

/// Every reader finds the same requests in what came, and those of the log.
fn assert_nothing_hidden(gate: &Gate, lenient: &Lenient) -> usize {
    let strict = Reader::default();
    let ids = || lenient.heard().iter().flat_map(|bytes| strict.requests(bytes).0).collect();
    let passed = assert_same(gate, ids);
    for bytes in lenient.heard() {
        let want = strict.requests(&bytes);
        for reader in READERS {
            let got = reader.requests(&bytes);
            let text = String::from_utf8_lossy(&bytes[want.1.min(got.1).saturating_sub(600)..]);
            assert_eq!(got, want, "{reader:?} in the end of {text:?}");
        }
    }
    passed
}

#[test]
fn a_lax_server_counts_what_the_log_does_in_whatever_it_is_lax() {
    let lenient = Lenient::start();
    let gate = gate(lenient.address);
    let (seed, count) = (seed(), count());
    send_all(&gate, seed, count);
    let passed = assert_nothing_hidden(&gate, &lenient);
    println!("{count} connections of broken requests, {passed} requests passed");
}

#[test]
fn a_lax_server_finds_no_request_hidden_in_a_case_of_the_corpus() {
    let lenient = Lenient::start();
    let gate = gate(lenient.address);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/http1.jsonl");
    let corpus = std::fs::read_to_string(file).expect("the corpus");
    let mut cases = 0;
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        if case["expect"].is_array() {
            cases += 1;
            send(&gate, &bytes_of(&case["bytes"]));
        }
    }
    send(&gate, b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let passed = assert_nothing_hidden(&gate, &lenient);
    println!("{cases} cases, {passed} requests passed");
}
