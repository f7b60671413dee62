//! Heads of answers from servers.
//!
//! As strict as for requests: a client behind the gateway may read an ambiguous answer in another
//! way, and what is left over would become the answer to someone else's request. Every reject
//! here is a 502 to the client.

use std::mem::MaybeUninit;

use super::fields::{Fields, Span};
use super::framing::{self, Framing};
use super::head::{self, Options, Seen};
use super::known::Known;
use super::reject::Reject;
use super::{Limits, Version};

/// What was asked, as far as it decides how the answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The request was HEAD.
    pub head: bool,
    /// The request was forwarded with `Upgrade`.
    pub upgrade: bool,
}

/// An answer's head that has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the buffer that it takes.
    pub len: usize,
    pub version: Version,
    /// 100–599.
    pub status: u16,
    pub reason: Span,
    /// [`Framing::None`] after 101: what follows is no longer HTTP.
    pub framing: Framing,
    /// The connection may be used again once the body has ended.
    pub keep_alive: bool,
    /// Of a 101: the protocol that is switched to.
    pub upgrade: Option<Span>,
}

impl ResponseHead {
    /// Another head follows for the same request.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Parses the head at the beginning of `buf`; `None` if more bytes are needed.
///
/// # Errors
///
/// When the head, or what there is of it, has no single meaning or is out of bounds.
pub fn parse(
    buf: &[u8],
    limits: &Limits,
    asked: Asked,
    fields: &mut Fields,
) -> Result<Option<ResponseHead>, Reject> {
    fields.clear();
    // What cannot become a status line is refused before its end.
    let known = buf.len().min(5);
    if buf[..known] != b"HTTP/"[..known] {
        return Err(Reject::Status);
    }
    let Some(end) = head::end_of(buf, 0, limits)? else { return Ok(None) };

    let mut headers = [const { MaybeUninit::uninit() }; Limits::HEADERS_MAX as usize];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, &buf[..end], &mut headers) {
        Ok(httparse::Status::Complete(len)) if len == end => {}
        Ok(_) => return Err(Reject::LineEnd),
        Err(httparse::Error::Version) => return Err(Reject::VersionUnsupported),
        Err(error) => return Err(head::reject_of(error, Reject::Status)),
    }
    let (Some(minor), Some(status)) = (response.version, response.code) else {
        return Err(Reject::Status);
    };
    if !(100..600).contains(&status) {
        return Err(Reject::Status);
    }
    // Names with `_` are the server's business; no CGI reads an answer.
    let seen = head::collect(buf, response.headers, true, fields);
    let line = Line {
        version: if minor == 0 { Version::Http10 } else { Version::Http11 },
        status,
        reason: reason(head::first_line(buf, 0)),
    };
    understand(buf, end, line, &seen, asked, fields).map(Some)
}

/// The status line, taken apart.
#[derive(Clone, Copy)]
struct Line {
    version: Version,
    status: u16,
    reason: Span,
}

fn understand(
    buf: &[u8],
    len: usize,
    line: Line,
    seen: &Seen,
    asked: Asked,
    fields: &mut Fields,
) -> Result<ResponseHead, Reject> {
    let Line { version, status, reason } = line;
    let declared = framing::declared(buf, seen, version)?;
    let options = head::connection(buf, seen, fields, head::From::Server)?;
    let framing = body(declared, status, asked)?;
    let persistent = match version {
        Version::Http11 => !options.close,
        Version::Http10 => options.keep_alive && !options.close,
    };
    Ok(ResponseHead {
        len,
        version,
        status,
        reason,
        framing,
        keep_alive: persistent && framing != Framing::UntilClose && !is_doubtful(declared, status),
        upgrade: if status == 101 {
            Some(switch(buf, seen, options, asked, fields)?)
        } else {
            None
        },
    })
}

/// RFC 9112 §6.3, items 1, 4, 6 and 8.
fn body(declared: Option<Framing>, status: u16, asked: Asked) -> Result<Framing, Reject> {
    match status {
        // RFC 9110 §8.6, RFC 9112 §6.1: must not declare a body. Some peers would wait for it.
        100..200 if matches!(declared, Some(Framing::Chunked | Framing::Length(_))) => {
            Err(Reject::FramingOfBodiless)
        }
        100..200 | 204 | 304 => Ok(Framing::None),
        _ if asked.head => Ok(Framing::None),
        _ => Ok(declared.unwrap_or(Framing::UntilClose)),
    }
}

/// A 204 that declares a body may send one; the next answer would begin with it.
fn is_doubtful(declared: Option<Framing>, status: u16) -> bool {
    status == 204 && matches!(declared, Some(Framing::Chunked | Framing::Length(_)))
}

/// Checks a 101: asked for, and naming what it switches to (RFC 9110 §15.2.2). A WebSocket must
/// also prove that the server has read the key (RFC 6455 §4.2.2), else a page could reflect a
/// 101 of its choice.
fn switch(
    buf: &[u8],
    seen: &Seen,
    options: Options,
    asked: Asked,
    fields: &Fields,
) -> Result<Span, Reject> {
    if !asked.upgrade || !options.upgrade || seen.upgrade.count != 1 {
        return Err(Reject::Switch);
    }
    let protocol = seen.upgrade.first;
    if protocol.is_empty()
        || (protocol.of(buf).eq_ignore_ascii_case(b"websocket")
            && fields.first(buf, Known::SecWebsocketAccept).is_none())
    {
        return Err(Reject::Switch);
    }
    Ok(protocol)
}

/// The reason phrase; a server may leave it out, with the space before it or without.
fn reason(line: &[u8]) -> Span {
    // `HTTP/1.1 200 `, checked by the tokeniser.
    const BEFORE: usize = 13;
    Span::new(BEFORE.min(line.len()), line.len())
}

#[cfg(test)]
mod tests;
