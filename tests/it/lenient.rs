//! An HTTP/1 server that takes nearly everything, and readers of what it was sent that are lax
//! each in a way of its own.
//!
//! It keeps the bytes of each connection as they came. How many requests they are is found again
//! by each [`Reader`]: where two differ, a request could be smuggled.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::deadline::PATIENCE;

/// In what a reader of requests is lax.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    /// A line feed alone ends a line.
    pub bare_feed: bool,
    /// A carriage return alone ends a line.
    pub bare_return: bool,
    /// Spaces and controls around a field's name do not count.
    pub trims_names: bool,
    /// A line that begins with a space goes on with the one before.
    pub folds: bool,
    /// A length is as many digits as there are, whatever stands around them.
    pub lax_numbers: bool,
    /// Of several lengths the last holds, not the first.
    pub last_length: bool,
    /// Anything with `chunked` in it is chunked.
    pub lax_chunked: bool,
    /// A length wins over chunks.
    pub length_wins: bool,
    /// A value ends at NUL.
    pub cuts_at_nul: bool,
}

/// Each alone, none, and most of them at once.
pub const READERS: [Reader; 11] = {
    const NONE: Reader = Reader {
        bare_feed: false,
        bare_return: false,
        trims_names: false,
        folds: false,
        lax_numbers: false,
        last_length: false,
        lax_chunked: false,
        length_wins: false,
        cuts_at_nul: false,
    };
    [
        NONE,
        Reader { bare_feed: true, ..NONE },
        Reader { bare_return: true, ..NONE },
        Reader { trims_names: true, ..NONE },
        Reader { folds: true, ..NONE },
        Reader { lax_numbers: true, ..NONE },
        Reader { last_length: true, ..NONE },
        Reader { lax_chunked: true, ..NONE },
        Reader { length_wins: true, ..NONE },
        Reader { cuts_at_nul: true, ..NONE },
        Reader {
            bare_feed: true,
            trims_names: true,
            folds: true,
            lax_numbers: true,
            lax_chunked: true,
            cuts_at_nul: true,
            ..NONE
        },
    ]
};

impl Reader {
    /// The whole requests in `bytes`, by the id that each has, and how many bytes they take.
    pub fn requests(&self, bytes: &[u8]) -> (Vec<String>, usize) {
        let (mut ids, mut at) = (Vec::new(), 0);
        while let Some((id, length)) = self.request(&bytes[at..]) {
            ids.push(id);
            at += length;
        }
        (ids, at)
    }

    fn request(&self, bytes: &[u8]) -> Option<(String, usize)> {
        let mut at = 0;
        // Empty lines before a request do not count.
        while bytes.len() > at && matches!(bytes[at], b'\r' | b'\n') {
            at += 1;
        }
        let mut lines: Vec<Vec<u8>> = Vec::new();
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            if line.is_empty() {
                break;
            }
            match (lines.last_mut(), line[0]) {
                (Some(last), b' ' | b'\t') if self.folds => last.extend_from_slice(line),
                _ => lines.push(line.to_vec()),
            }
        }
        let (mut id, mut lengths, mut chunked) = (String::new(), Vec::new(), false);
        for line in lines.iter().skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (text(&line[..colon]), text(&line[colon + 1..]));
            let name = if self.trims_names { name.trim_matches(|c| c <= ' ') } else { &name };
            let value = if self.cuts_at_nul { value.split('\0').next() } else { Some(&*value) };
            let value = value.unwrap_or_default().trim_matches([' ', '\t']);
            match name.to_ascii_lowercase().as_str() {
                "x-request-id" => value.clone_into(&mut id),
                "content-length" => lengths.extend(self.number(value, 10)),
                "transfer-encoding" if self.lax_chunked => {
                    chunked |= value.to_ascii_lowercase().contains("chunked");
                }
                "transfer-encoding" => chunked |= value.eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        let length = if self.last_length { lengths.last() } else { lengths.first() };
        let body = match (chunked, length) {
            (true, None) => self.chunks(&bytes[at..])?,
            (true, Some(_)) if !self.length_wins => self.chunks(&bytes[at..])?,
            (_, length) => length.copied().unwrap_or(0),
        };
        let end = at.checked_add(body)?;
        (bytes.len() >= end).then_some((id, end))
    }

    /// The first line without its end, and how many bytes it has with it.
    fn line<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], usize)> {
        let end = |at: usize| match &bytes[at..] {
            [b'\r', b'\n', ..] => Some(2),
            [b'\n', ..] if self.bare_feed => Some(1),
            // The last byte so far may be the first half of an end.
            [b'\r', _, ..] if self.bare_return => Some(1),
            _ => None,
        };
        (0..bytes.len()).find_map(|at| Some((&bytes[..at], at + end(at)?)))
    }

    fn number(&self, text: &str, radix: u32) -> Option<usize> {
        let digits = |text: &str| usize::from_str_radix(text, radix).ok();
        if !self.lax_numbers {
            return text.bytes().all(|b| (b as char).is_digit(radix)).then(|| digits(text))?;
        }
        let text = text.trim_matches(|c: char| !c.is_digit(radix));
        digits(text.split(|c: char| !c.is_digit(radix)).next()?)
    }

    /// How many bytes a body in chunks has.
    fn chunks(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            let line = text(line);
            let size = if self.lax_numbers { &*line } else { line.split(';').next()? };
            // What is no size ends it, for who does not look.
            let size = self.number(size.trim(), 16).unwrap_or(0);
            if size == 0 {
                break;
            }
            at = at.checked_add(size)?;
            at += self.line(bytes.get(at..)?)?.1;
        }
        loop {
            let (line, length) = self.line(&bytes[at..])?;
            at += length;
            if line.is_empty() {
                return Some(at);
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

type Record = Arc<Mutex<Vec<Vec<u8>>>>;

/// Answers whatever looks like a request to the laxest of the readers.
pub struct Lenient {
    pub address: SocketAddr,
    record: Record,
}

impl Lenient {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let record = Record::default();
        let kept = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&kept);
                let at = {
                    let mut record = record.lock().expect("not poisoned");
                    record.push(Vec::new());
                    record.len() - 1
                };
                thread::spawn(move || converse(stream, at, &record));
            }
        });
        Self { address, record }
    }

    /// What came on each connection so far.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.record.lock().expect("not poisoned").clone()
    }
}

fn converse(mut stream: TcpStream, at: usize, record: &Record) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let laxest = READERS[READERS.len() - 1];
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let (mut chunk, mut pending) = (vec![0; 16 << 10], Vec::new());
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        record.lock().expect("not poisoned")[at].extend_from_slice(&chunk[..n]);
        pending.extend_from_slice(&chunk[..n]);
        let (ids, used) = laxest.requests(&pending);
        pending.drain(..used);
        for _ in ids {
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

#[test]
fn lax_readers_find_what_strict_ones_do_not() {
    let hidden = b"POST / HTTP/1.1\r\nX-Request-Id: a\r\nContent-Length : 0\r\n\
                   Content-Length: 34\r\n\r\nGET / HTTP/1.1\r\nX-Request-Id: b\r\n\r\n";
    let count = |reader: Reader| reader.requests(hidden).0.len();
    assert_eq!(count(Reader::default()), 1);
    assert_eq!(count(Reader { trims_names: true, ..Reader::default() }), 2);
    let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    for reader in READERS {
        assert_eq!(reader.requests(chunked), (vec![String::new(); 2], chunked.len()), "{reader:?}");
    }
}
