//! Reads one HTTP/1.1 response at a time, strictly, from whatever pieces arrive.
//!
//! ```text
//! Head ─▶ (1xx: Head again) ─▶ Length │ Chunk* │ UntilClose ─▶ done
//! ```
//!
//! Strict on purpose: the generator is also a check of what stands between it and the
//! servers, so anything that two readers could understand differently is an error here.
//! It does not keep the body, and knows requests only as "was GET".

use std::ops::ControlFlow;

/// A head longer than this is an error: four times what common servers allow.
pub const HEAD_MAX: usize = 64 << 10;

/// A chunk-size line or trailer section longer than this is an error.
const LINE_MAX: usize = 8 << 10;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A response that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The connection cannot carry another exchange.
    pub close: bool,
}

/// The state of one response.
#[derive(Debug, Default)]
pub struct ResponseReader {
    phase: Phase,
    /// The unfinished head or line; empty otherwise.
    partial: Vec<u8>,
    status: u16,
    close: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Head,
    /// Body bytes still to come.
    Length(u64),
    ChunkSize,
    /// Data bytes still to come in this chunk.
    Chunk(u64),
    /// The CRLF behind a chunk's data.
    ChunkEnd,
    Trailer,
    UntilClose,
    Done,
}

impl ResponseReader {
    /// Makes it ready for the next response, keeping its memory.
    pub fn reset(&mut self) {
        self.phase = Phase::Head;
        self.partial.clear();
    }

    /// Nothing of the response has arrived.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.phase == Phase::Head && self.partial.is_empty()
    }

    /// Takes the next bytes. `Some` when they end the response.
    ///
    /// # Errors
    /// When they are not what RFC 9112 allows, or bytes follow the end: nothing was asked yet.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        while !bytes.is_empty() {
            if self.phase == Phase::Done {
                return Err(Malformed("bytes after the end of the response"));
            }
            bytes = self.step(bytes)?;
        }
        Ok((self.phase == Phase::Done).then_some(self.answer()))
    }

    /// The peer has sent its FIN.
    ///
    /// # Errors
    /// When that cuts the response short.
    pub fn end(&mut self) -> Result<Answer, Malformed> {
        if self.phase != Phase::UntilClose {
            return Err(Malformed("the connection ended inside the response"));
        }
        self.phase = Phase::Done;
        Ok(self.answer())
    }

    const fn answer(&self) -> Answer {
        Answer { status: self.status, close: self.close }
    }

    /// Consumes at least one byte, or fails.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        match self.phase {
            Phase::Head => self.on_head(bytes),
            Phase::Length(left) => {
                let (taken, rest) = split(bytes, left);
                self.phase = if taken == left { Phase::Done } else { Phase::Length(left - taken) };
                Ok(rest)
            }
            Phase::ChunkSize | Phase::ChunkEnd | Phase::Trailer => self.on_line(bytes),
            Phase::Chunk(left) => {
                let (taken, rest) = split(bytes, left);
                self.phase =
                    if taken == left { Phase::ChunkEnd } else { Phase::Chunk(left - taken) };
                Ok(rest)
            }
            Phase::UntilClose => Ok(&[]),
            Phase::Done => Err(Malformed("bytes after the end of the response")),
        }
    }

    fn on_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        if self.partial.is_empty() {
            // The usual case: the whole head in one piece, parsed where it lies.
            if let Some(end) = head_end(bytes) {
                let head = Head::parse(&bytes[..end])?;
                self.begin_body(&head)?;
                return Ok(&bytes[end..]);
            }
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(HEAD_MAX + 1 - before)]);
        let Some(end) = head_end(&self.partial) else {
            if self.partial.len() > HEAD_MAX {
                return Err(Malformed("the head is larger than 64 KiB"));
            }
            return Ok(&[]);
        };
        let head = Head::parse(&self.partial[..end])?;
        self.begin_body(&head)?;
        self.partial.clear();
        Ok(&bytes[end - before..])
    }

    /// RFC 9112 §6.3: how long the body is, in the order of the list there.
    fn begin_body(&mut self, head: &Head) -> Result<(), Malformed> {
        self.status = head.status;
        self.close = head.close;
        self.phase = match (head.status, head.chunked, head.length) {
            (101, ..) => return Err(Malformed("status 101 without an upgrade asked for")),
            // Interim: the real one follows.
            (100..=199, false, None) => Phase::Head,
            (100..=199, ..) => return Err(Malformed("an interim response with a body")),
            (204, true, _) => return Err(Malformed("status 204 with Transfer-Encoding")),
            (204 | 304, ..) | (_, false, Some(0)) => Phase::Done,
            (_, true, Some(_)) => {
                return Err(Malformed("both Transfer-Encoding and Content-Length"));
            }
            (_, true, None) => Phase::ChunkSize,
            (_, false, Some(length)) => Phase::Length(length),
            (_, false, None) => {
                self.close = true;
                Phase::UntilClose
            }
        };
        Ok(())
    }

    /// One line of the chunked coding (RFC 9112 §7.1), which may arrive in pieces.
    fn on_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some(at) = bytes.iter().position(|&byte| byte == b'\n') else {
            self.partial.extend_from_slice(&bytes[..bytes.len().min(LINE_MAX + 1)]);
            if self.partial.len() > LINE_MAX {
                return Err(Malformed("a chunk line is larger than 8 KiB"));
            }
            return Ok(&[]);
        };
        self.partial.extend_from_slice(&bytes[..at]);
        let line =
            self.partial.strip_suffix(b"\r").ok_or(Malformed("a bare LF in the chunking"))?;
        self.phase = match self.phase {
            Phase::ChunkSize => match chunk_size(line)? {
                0 => Phase::Trailer,
                size => Phase::Chunk(size),
            },
            Phase::ChunkEnd if line.is_empty() => Phase::ChunkSize,
            Phase::ChunkEnd => return Err(Malformed("chunk data longer than its size")),
            Phase::Trailer if line.is_empty() => Phase::Done,
            _ => {
                field(line)?;
                Phase::Trailer
            }
        };
        self.partial.clear();
        Ok(&bytes[at + 1..])
    }
}

/// What a head says about the rest.
#[derive(Debug)]
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

impl Head {
    /// `bytes` end with the empty line.
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut lines = Lines(bytes);
        let (minor, status) = status_line(lines.next_line()?)?;
        let mut head = Self { status, length: None, chunked: false, close: minor == 0 };
        loop {
            let line = lines.next_line()?;
            if line.is_empty() {
                return Ok(head);
            }
            let (name, value) = field(line)?;
            head.note(name, value)?;
        }
    }

    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Malformed("Content-Length is not a number"))?;
            if self.length.replace(length).is_some_and(|other| other != length) {
                return Err(Malformed("two different Content-Length"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("Transfer-Encoding is not `chunked`"));
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            let _ = value.split(|&byte| byte == b',').try_for_each(|word| {
                let word = word.trim_ascii();
                if word.eq_ignore_ascii_case(b"close") {
                    self.close = true;
                    return ControlFlow::Break(());
                }
                if word.eq_ignore_ascii_case(b"keep-alive") {
                    self.close = false;
                }
                ControlFlow::Continue(())
            });
        }
        Ok(())
    }
}

/// Lines that end in CRLF.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Result<&'a [u8], Malformed> {
        let at = self.0.iter().position(|&byte| byte == b'\n').ok_or(Malformed("no line end"))?;
        let line = self.0[..at].strip_suffix(b"\r").ok_or(Malformed("a bare LF in the head"))?;
        self.0 = &self.0[at + 1..];
        Ok(line)
    }
}

/// `HTTP/1.1 200 OK` → minor version and status.
fn status_line(line: &[u8]) -> Result<(u8, u16), Malformed> {
    const BAD: Malformed = Malformed("the status line is not HTTP/1.x");
    let rest = line.strip_prefix(b"HTTP/1.").ok_or(BAD)?;
    let [minor @ (b'0' | b'1'), b' ', a, b, c, rest @ ..] = rest else { return Err(BAD) };
    if !matches!(rest, [] | [b' ', ..]) {
        return Err(BAD);
    }
    let status = decimal(&[*a, *b, *c]).ok_or(BAD)? as u16;
    if !(100..=599).contains(&status) {
        return Err(Malformed("the status is not between 100 and 599"));
    }
    Ok((minor - b'0', status))
}

/// `Name: value`, RFC 9112 §5: no space before the colon, no folded line, no control byte.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let at = line.iter().position(|&byte| byte == b':').ok_or(Malformed("a field without `:`"))?;
    let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(Malformed("a field name is not a token"));
    }
    if value.iter().any(|&byte| byte == 0x7f || (byte < 0x20 && byte != b'\t')) {
        return Err(Malformed("a control byte in a field value"));
    }
    Ok((name, value))
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// `1a` or `1a;extension`.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed("a chunk size is not a hexadecimal number"));
    }
    let fold =
        |size: u64, &digit: &u8| size * 16 + u64::from(char::from(digit).to_digit(16).unwrap_or(0));
    Ok(digits.iter().fold(0, fold))
}

/// Digits only, below 10^18.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Length of the head with its empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The part of `bytes` within `left`, as a count, and the rest.
fn split(bytes: &[u8], left: u64) -> (u64, &[u8]) {
    let taken = left.min(bytes.len() as u64);
    (taken, &bytes[taken as usize..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in every way to cut it in two, and byte by byte; all must agree.
    fn read(text: &str) -> Result<Option<Answer>, Malformed> {
        let bytes = text.as_bytes();
        let whole = ResponseReader::default().feed(bytes);
        for cut in 1..bytes.len() {
            let mut reader = ResponseReader::default();
            let pieces = reader.feed(&bytes[..cut]).and_then(|first| match first {
                Some(_) => Err(Malformed("bytes after the end of the response")),
                None => reader.feed(&bytes[cut..]),
            });
            assert_eq!(pieces, whole, "cut at {cut}");
        }
        whole
    }

    fn status(text: &str) -> u16 {
        read(text).expect("well formed").expect("complete").status
    }

    fn wrong(text: &str) -> &'static str {
        read(text).expect_err("malformed").0
    }

    #[test]
    fn a_length_ends_the_body() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(text), Ok(Some(Answer { status: 200, close: false })));
        assert_eq!(read(&text[..text.len() - 1]), Ok(None));
    }

    #[test]
    fn chunks_end_with_the_trailer() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            status(&format!("{head}5\r\nhello\r\nA;x=1\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n")),
            200
        );
        assert_eq!(
            wrong(&format!("{head}3\r\nhello\r\n0\r\n\r\n")),
            "chunk data longer than its size"
        );
        assert_eq!(
            wrong(&format!("{head}+3\r\nhel\r\n")),
            "a chunk size is not a hexadecimal number"
        );
        assert_eq!(wrong(&format!("{head}3\nhel\r\n")), "a bare LF in the chunking");
    }

    #[test]
    fn a_body_without_length_lasts_until_the_fin() {
        let mut reader = ResponseReader::default();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nsome"), Ok(None));
        assert_eq!(reader.end(), Ok(Answer { status: 200, close: true }));
    }

    #[test]
    fn a_fin_inside_a_body_of_known_length_is_an_error() {
        let mut reader = ResponseReader::default();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"), Ok(None));
        assert!(reader.end().is_err());
    }

    #[test]
    fn statuses_without_a_body_end_with_the_head() {
        assert_eq!(status("HTTP/1.1 204 No Content\r\n\r\n"), 204);
        assert_eq!(status("HTTP/1.1 304 \r\nContent-Length: 10\r\n\r\n"), 304);
        assert_eq!(status("HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n"), 503);
    }

    #[test]
    fn interim_responses_are_passed_over() {
        assert_eq!(
            status(
                "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            ),
            200
        );
    }

    #[test]
    fn connection_says_whether_another_exchange_may_follow() {
        let close = |version: &str, connection: &str| {
            let text = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{connection}\r\n");
            read(&text).expect("well formed").expect("complete").close
        };
        assert!(!close("1.1", ""));
        assert!(close("1.1", "Connection: x, Close\r\n"));
        assert!(close("1.0", ""));
        assert!(!close("1.0", "Connection: keep-alive\r\n"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_an_error() {
        for (text, what) in [
            ("HTTP/2 200\r\n\r\n", "the status line is not HTTP/1.x"),
            ("HTTP/1.1 99 x\r\n\r\n", "the status line is not HTTP/1.x"),
            ("HTTP/1.1 200 OK\nA: b\r\n\r\n", "a bare LF in the head"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "a field name is not a token"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "a field without `:`"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "Content-Length is not a number"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "two different Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "Transfer-Encoding is not `chunked`",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                "both Transfer-Encoding and Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
                "bytes after the end of the response",
            ),
        ] {
            assert_eq!(wrong(text), what, "{text:?}");
        }
    }

    #[test]
    fn an_endless_head_is_an_error() {
        let mut reader = ResponseReader::default();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        let line = [b"A: ".as_slice(), &[b'a'; 1000], b"\r\n"].concat();
        let result = (0..100).find_map(|_| reader.feed(&line).err());
        assert_eq!(result, Some(Malformed("the head is larger than 64 KiB")));
    }

    #[test]
    fn a_reader_serves_one_response_after_another() {
        let mut reader = ResponseReader::default();
        for _ in 0..3 {
            let answer = reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
            assert_eq!(answer, Ok(Some(Answer { status: 200, close: false })));
            reader.reset();
            assert!(reader.is_untouched());
        }
    }
}
