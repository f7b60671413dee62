//! Answers that the gateway makes itself.
//!
//! Owns the one table from a reason's word to status and detail, and how such an answer is
//! written: a JSON body `{"error":"<reason>","detail":"…"}`, or the listener's own body for
//! that status, never stored by a cache. A detail names no server. gRPC clients get status 200
//! and a `grpc-status` instead.
//!
//! Does not decide whether the connection goes on, nor writes `Date`.

use std::io::Write as _;

use crate::route::headers;

/// One row: what the client is told for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The word in the log, and `error` in the body.
    pub reason: &'static str,
    pub status: u16,
    pub detail: &'static str,
    /// Seconds after which to try again, for `Retry-After`.
    pub retry_after: Option<u32>,
}

/// Seconds in `Retry-After` when nothing better is known: about one round of checks.
const RETRY_AFTER_USUAL: u32 = 2;

const fn row(reason: &'static str, status: u16, detail: &'static str) -> Answer {
    let retry_after = match status {
        429 | 503 => Some(RETRY_AFTER_USUAL),
        _ => None,
    };
    Answer { reason, status, detail, retry_after }
}

/// Every reason for which the gateway answers, in the order of statuses.
pub const ANSWERS: &[Answer] = &[
    row("bad-request", 400, "the request is malformed or could be read in two ways"),
    row("unauthorized", 401, "credentials are missing or not valid"),
    row("forbidden", 403, "this client may not do that"),
    row("denied", 403, "requests from this address are not accepted"),
    row("no-route", 404, "no route fits this host and path"),
    row("method", 405, "the method is not allowed here"),
    row("client-timeout", 408, "the request did not come in time"),
    row("too-large", 413, "the request is larger than allowed"),
    row("rate-limited", 429, "too many requests; try again later"),
    row("quota", 429, "the quota is used up; try again later"),
    row("ip-limit", 429, "too many connections from this address"),
    row("ip-rate-limit", 429, "too many connections from this address; try again later"),
    INTERNAL,
    row("bad-upstream", 502, "the server's answer was not valid"),
    row("server-reset", 502, "the server closed the connection before it answered"),
    row("connect-refused", 502, "no server accepted the connection"),
    row("connect-unreachable", 502, "no server could be reached"),
    row("tls-failed", 502, "no secure connection to a server could be made"),
    row("auth-unavailable", 503, "credentials cannot be checked at the moment"),
    row("overloaded", 503, "too many requests at the same time; try again later"),
    row("breaker-open", 503, "the service is failing and gets a pause; try again later"),
    row("no-server", 503, "no server is available; try again later"),
    row("server-full", 503, "all servers are busy; try again later"),
    row("server-down", 503, "the server went down; try again later"),
    row("listener-limit", 503, "too many connections; try again later"),
    row("ports-exhausted", 503, "the gateway is out of resources; try again later"),
    row("fd-limit", 503, "the gateway is out of resources; try again later"),
    row("memory-limit", 503, "the gateway is out of resources; try again later"),
    row("drain-timeout", 503, "the gateway is stopping; try again"),
    row("shutdown", 503, "the gateway is stopping; try again"),
    row("connect-timeout", 504, "no server accepted the connection in time"),
    row("request-timeout", 504, "the server did not answer in time"),
    row("idle-timeout", 504, "the server stopped answering"),
];

const INTERNAL: Answer = row("internal", 500, "the gateway failed; this is its fault, not yours");

impl Answer {
    /// The row of a reason; `internal` for a word without one.
    #[must_use]
    pub fn of(reason: &str) -> Self {
        let found = ANSWERS.iter().find(|row| row.reason == reason);
        found.copied().unwrap_or(INTERNAL)
    }

    /// The same reason with another status, where one has several: 414, 415, 417, 421, 431,
    /// 501, 505, 508, and 429 or 503 for `overloaded`.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self.detail = match status {
            414 => "the address of the request is too long",
            415 => "the body is in a format or encoding that is not accepted here",
            417 => "the expectation cannot be met",
            421 => "this connection is not good for that host",
            431 => "the headers of the request are too large",
            501 => "the gateway does not know how to do that",
            505 => "the version of HTTP is not supported",
            508 => "the request has come through this gateway before",
            _ => self.detail,
        };
        if matches!(status, 429 | 503) && self.retry_after.is_none() {
            self.retry_after = Some(RETRY_AFTER_USUAL);
        }
        self
    }

    #[must_use]
    pub const fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    /// In seconds; 0 becomes 1, as a client would come back at once.
    #[must_use]
    pub const fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(if seconds == 0 { 1 } else { seconds });
        self
    }

    /// `grpc-status` for a gRPC client, whose HTTP status is then 200.
    #[must_use]
    pub const fn grpc_status(&self) -> u8 {
        match self.status {
            401 => 16,
            403 => 7,
            404 => 12,
            429 => 8,
            502 | 503 => 14,
            504 => 4,
            _ => 13,
        }
    }

    /// Appends the JSON body.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":\"");
        write_json(self.reason, out);
        out.extend_from_slice(b"\",\"detail\":\"");
        write_json(self.detail, out);
        out.extend_from_slice(b"\"}");
    }

    /// Appends the whole answer for HTTP/1.
    pub fn write_http1(&self, how: &How<'_>, out: &mut Vec<u8>) {
        let mut made = Vec::new();
        let content = how.own_body.unwrap_or_else(|| {
            self.write_body(&mut made);
            Content { content_type: "application/json", body: &made }
        });
        let from = write_status_line(self.status, out);
        out.extend_from_slice(b"Cache-Control: no-store\r\n");
        if let Some(seconds) = self.retry_after {
            write_text(out, format_args!("Retry-After: {seconds}\r\n"));
        }
        write_rest(self.status, how, content, from, out);
    }
}

/// How an answer goes out, whatever it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct How<'h> {
    /// To a HEAD request: the head only.
    pub is_head: bool,
    /// `Connection: close`
    pub closes: bool,
    /// More lines, each with its CRLF: `Allow: GET\r\n`.
    pub lines: &'h [u8],
    /// Fields, in lower case, of which no line stays, and the lines that come in their place.
    pub replaced: &'h [String],
    pub last: &'h [u8],
    /// Of the listener's `errors`, for this status.
    pub own_body: Option<Content<'h>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Content<'c> {
    pub content_type: &'c str,
    pub body: &'c [u8],
}

/// Appends what a route says by itself: `respond`, a redirect (with its `Location` in
/// `how.lines` and an empty body), a breaker's fallback.
pub fn write_made(status: u16, content: Content<'_>, how: &How<'_>, out: &mut Vec<u8>) {
    let from = write_status_line(status, out);
    write_rest(status, how, content, from, out);
}

/// Says where it ends.
fn write_status_line(status: u16, out: &mut Vec<u8>) -> usize {
    write_text(out, format_args!("HTTP/1.1 {status} {}\r\n", phrase(status)));
    out.len()
}

/// What follows the lines that stand from `from` on.
fn write_rest(status: u16, how: &How<'_>, content: Content<'_>, from: usize, out: &mut Vec<u8>) {
    // RFC 9110 §6.4.1: these have no content, and 204 no Content-Length (§8.6).
    let bodiless = matches!(status, 100..=199 | 204 | 304);
    if !bodiless {
        if !content.body.is_empty() && !content.content_type.is_empty() {
            write_text(out, format_args!("Content-Type: {}\r\n", content.content_type));
        }
        write_text(out, format_args!("Content-Length: {}\r\n", content.body.len()));
    }
    if how.closes {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(how.lines);
    headers::drop_lines(how.replaced, from, out);
    out.extend_from_slice(how.last);
    out.extend_from_slice(b"\r\n");
    if !bodiless && !how.is_head {
        out.extend_from_slice(content.body);
    }
}

fn write_text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes every write.
    let _ = out.write_fmt(text);
}

/// RFC 8259 §7
fn write_json(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => write_text(out, format_args!("\\u{byte:04x}")),
            _ => out.push(byte),
        }
    }
}

/// The reason phrase (RFC 9110 §15); empty for a status that is not in it.
#[must_use]
pub const fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: Answer, how: &How<'_>) -> String {
        let mut out = Vec::new();
        answer.write_http1(how, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn an_answer_says_its_reason_and_is_not_stored() {
        let how = How { closes: true, lines: b"Allow: GET\r\n", ..How::default() };
        let body = r#"{"error":"method","detail":"the method is not allowed here"}"#;
        assert_eq!(
            written(Answer::of("method"), &how),
            format!(
                "HTTP/1.1 405 Method Not Allowed\r\nCache-Control: no-store\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\
                 Allow: GET\r\n\r\n{body}",
                body.len()
            )
        );
    }

    #[test]
    fn an_own_body_replaces_the_made_one() {
        let own_body = Some(Content { content_type: "text/html", body: b"<p>sorry" });
        let text = written(Answer::of("no-server"), &How { own_body, ..How::default() });
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        assert!(
            text.contains("Retry-After: 2\r\nContent-Type: text/html\r\nContent-Length: 8\r\n")
        );
        assert!(text.ends_with("\r\n\r\n<p>sorry"));
    }

    #[test]
    fn what_the_route_says_of_a_field_takes_the_place_of_what_is_usual() {
        let replaced = ["cache-control", "retry-after"].map(str::to_owned);
        let how = How { replaced: &replaced, last: b"Retry-After: 77\r\n", ..How::default() };
        let text = written(Answer::of("no-server"), &how);
        assert_eq!(text.matches("Retry-After: 77\r\n").count(), 1, "{text}");
        assert_eq!(text.matches("Retry-After").count(), 1, "{text}");
        assert!(!text.contains("Cache-Control"), "{text}");
    }

    #[test]
    fn a_head_request_gets_the_head_that_get_would() {
        let head = written(Answer::of("no-route"), &How { is_head: true, ..How::default() });
        let whole = written(Answer::of("no-route"), &How::default());
        assert!(whole.starts_with(&head) && head.ends_with("\r\n\r\n"));
        assert!(whole.len() > head.len());
    }

    #[test]
    fn answers_without_content_have_no_length() {
        let mut out = Vec::new();
        let content = Content { content_type: "text/plain", body: b"x" };
        write_made(204, content, &How::default(), &mut out);
        assert_eq!(out, b"HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_redirect_has_an_empty_body_and_its_location() {
        let mut out = Vec::new();
        let content = Content { content_type: "", body: b"" };
        let how = How { lines: b"Location: /new\r\n", ..How::default() };
        write_made(308, content, &how, &mut out);
        let text = "HTTP/1.1 308 Permanent Redirect\r\nContent-Length: 0\r\nLocation: /new\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), text);
    }

    #[test]
    fn every_row_has_a_status_with_a_phrase_and_clients_told_to_come_back_know_when() {
        for (at, row) in ANSWERS.iter().enumerate() {
            assert!(!phrase(row.status).is_empty(), "{row:?}");
            assert_eq!(row.retry_after.is_some(), matches!(row.status, 429 | 503), "{row:?}");
            assert!(ANSWERS[..at].iter().all(|other| other.reason != row.reason), "{row:?}");
            assert_eq!(Answer::of(row.reason), *row);
        }
        assert!(ANSWERS.is_sorted_by_key(|row| row.status));
        assert_eq!(Answer::of("no such word").status, 500);
    }

    #[test]
    fn grpc_statuses_follow_the_http_status() {
        let status = |reason| Answer::of(reason).grpc_status();
        assert_eq!(
            ["unauthorized", "forbidden", "no-route", "quota", "no-server", "request-timeout"]
                .map(status),
            [16, 7, 12, 8, 14, 4]
        );
        assert_eq!(status("bad-upstream"), 14);
        assert_eq!(status("bad-request"), 13);
    }

    #[test]
    fn a_status_of_its_own_has_words_of_its_own() {
        let answer = Answer::of("too-large").with_status(431);
        assert_eq!((answer.reason, answer.status), ("too-large", 431));
        assert!(answer.detail.contains("headers"));
        assert_eq!(Answer::of("overloaded").with_status(429).retry_after, Some(2));
        assert_eq!(Answer::of("quota").with_retry_after(0).retry_after, Some(1));
    }

    #[test]
    fn a_detail_cannot_leave_its_string() {
        let mut out = Vec::new();
        Answer::of("internal").with_detail("a\"b\\c\nd").write_body(&mut out);
        assert_eq!(out, br#"{"error":"internal","detail":"a\"b\\c\u000ad"}"#);
    }
}
