//! Reads one HTTP/1.1 response at a time, strictly, from whatever pieces arrive.
//!
//! The parser is `l7`'s, as strict as the gateway is towards its servers: anything that two
//! readers could understand differently is an error here. This file only joins the pieces of a
//! head and drops the body. It knows requests only as "was GET".

use sluicegate_l7::http1::response::{self, Asked};
use sluicegate_l7::http1::{Body, Fields, Framing, Limits, Reject};

/// A head longer than this is an error: four times what common servers allow.
pub const HEAD_MAX: usize = 64 << 10;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl From<Reject> for Malformed {
    fn from(reject: Reject) -> Self {
        Self(reject.detail())
    }
}

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
    /// The unfinished head; empty otherwise.
    partial: Vec<u8>,
    fields: Fields,
    /// `None`: the head is still to come.
    body: Option<Body>,
    status: u16,
    close: bool,
    done: bool,
}

impl ResponseReader {
    /// Makes it ready for the next response, keeping its memory.
    pub fn reset(&mut self) {
        self.partial.clear();
        self.body = None;
        self.done = false;
    }

    /// Nothing of the response has arrived.
    #[cfg(test)]
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.body.is_none() && self.partial.is_empty() && !self.done
    }

    /// Takes the next bytes. `Some` when they end the response.
    ///
    /// # Errors
    /// When they are not what RFC 9112 allows, or bytes follow the end: nothing was asked yet.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        while !bytes.is_empty() {
            if self.done {
                return Err(Malformed("bytes after the end of the response"));
            }
            bytes = match &mut self.body {
                None => self.on_head(bytes)?,
                Some(body) => {
                    let piece = body.next(bytes)?;
                    self.done = piece.end;
                    &bytes[piece.consumed..]
                }
            };
        }
        Ok(self.done.then_some(self.answer()))
    }

    /// The peer has sent its FIN.
    ///
    /// # Errors
    /// When that cuts the response short.
    pub fn end(&mut self) -> Result<Answer, Malformed> {
        if !matches!(self.body, Some(Body::UntilClose)) {
            return Err(Malformed("the connection ended inside the response"));
        }
        self.done = true;
        Ok(self.answer())
    }

    const fn answer(&self) -> Answer {
        Answer { status: self.status, close: self.close }
    }

    /// What is left of `bytes` behind the head, or nothing if it is not complete.
    fn on_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let limits = Limits { header_bytes_max: HEAD_MAX as u32, ..Limits::default() }.of_answers();
        let before = self.partial.len();
        // The usual case: the whole head in one piece, parsed where it lies.
        let joined = if before == 0 {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            &self.partial
        };
        let Some(head) = response::parse(joined, &limits, Asked::default(), &mut self.fields)?
        else {
            if before == 0 {
                self.partial.extend_from_slice(bytes);
            }
            return Ok(&[]);
        };
        let rest = &bytes[head.len - before..];
        self.partial.clear();
        if !head.is_interim() {
            self.status = head.status;
            self.close = !head.keep_alive || head.framing == Framing::UntilClose;
            let body = Body::new(head.framing, &limits);
            self.done = body.is_done();
            self.body = Some(body);
        }
        Ok(rest)
    }
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
        for bad in ["3\r\nhello\r\n0\r\n\r\n", "+3\r\nhel\r\n", "3\nhel\r\n"] {
            assert!(read(&format!("{head}{bad}")).is_err(), "{bad:?}");
        }
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
        for text in [
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_endless_head_is_an_error() {
        let mut reader = ResponseReader::default();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        let line = [b"A: ".as_slice(), &[b'a'; 1000], b"\r\n"].concat();
        let result = (0..100).find_map(|_| reader.feed(&line).err());
        assert_eq!(result, Some(Malformed::from(Reject::HeaderTooLarge)));
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
