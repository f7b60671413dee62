//! Heads of requests.
//!
//! `httparse` finds the tokens; before it the line ends and the bounds are checked, after it
//! everything that decides where the message ends and whom it is for.

use std::mem::MaybeUninit;

use memchr::{memchr, memchr2, memchr3};

use super::fields::{Fields, Span};
use super::framing::{self, Framing, is_token};
use super::head::{self, Options, Seen};
use super::host;
use super::reject::Reject;
use super::{Limits, Version};

/// Longer ones are answered with 501 (RFC 9112 §3); the longest registered has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Methods by what the gateway does differently for them. Names are case-sensitive
/// (RFC 9110 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Any other token.
    Other,
}

impl Method {
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Doing it twice is the same as once (RFC 9110 §9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }
}

/// A request head that has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the buffer that it takes, an empty line before it included.
    pub len: usize,
    pub method: Method,
    pub method_name: Span,
    /// Path and query, of an absolute-form the part behind the authority: may then be empty or
    /// begin with `?`. `*` if [`Self::asterisk`].
    pub target: Span,
    /// The request is for the server as a whole (`OPTIONS *`).
    pub asterisk: bool,
    /// The target was an absolute-form; `host` is then its authority.
    pub absolute: bool,
    pub version: Version,
    /// Valid, as written; only an HTTP/1.0 request may have none.
    pub host: Option<Span>,
    pub framing: Framing,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The protocol to switch to: the first one named that is not HTTP or TLS itself. `None` if
    /// the request has a body, which would have to pass before the switch.
    pub upgrade: Option<Span>,
}

/// Parses the head at the beginning of `buf`; `None` if more bytes are needed.
///
/// # Errors
///
/// When the head, or what there is of it, has no single meaning or is out of bounds.
pub fn parse(
    buf: &[u8],
    limits: &Limits,
    fields: &mut Fields,
) -> Result<Option<RequestHead>, Reject> {
    fields.clear();
    let Some(start) = skip_empty_line(buf)? else { return Ok(None) };
    check_line(head::first_line(buf, start), limits)?;
    let Some(end) = head::end_of(buf, start, limits)? else { return Ok(None) };

    let mut headers = [const { MaybeUninit::uninit() }; Limits::HEADERS_MAX as usize];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&buf[start..end], &mut headers) {
        Ok(httparse::Status::Complete(len)) if len == end - start => {}
        // It saw another end than we did.
        Ok(_) => return Err(Reject::LineEnd),
        Err(httparse::Error::Version) => return Err(version_reject(buf, start)),
        Err(error) => return Err(head::reject_of(error, Reject::RequestLine)),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Reject::RequestLine);
    };
    let line = Line {
        method: Span::within(buf, method.as_bytes()),
        target: Span::within(buf, target.as_bytes()),
        version: if minor == 0 { Version::Http10 } else { Version::Http11 },
    };
    let seen = head::collect(buf, request.headers, limits.underscores_keep, fields);
    understand(buf, end, line, &seen, fields).map(Some)
}

/// The request line, taken apart.
#[derive(Clone, Copy)]
struct Line {
    method: Span,
    target: Span,
    version: Version,
}

/// Gives the head its one meaning, or says why it has none.
fn understand(
    buf: &[u8],
    len: usize,
    line: Line,
    seen: &Seen,
    fields: &mut Fields,
) -> Result<RequestHead, Reject> {
    let Line { method: method_name, target, version } = line;
    if matches!(method_name.of(buf), b"CONNECT" | b"TRACE") {
        return Err(Reject::MethodRefused);
    }
    let method = Method::of(method_name.of(buf));
    // RFC 9112 §6.3, item 7: without a length there is no body; it never ends with the
    // connection.
    let framing = framing::declared(buf, seen, version)?.unwrap_or(Framing::None);
    let host_field = host_field(buf, seen, version)?;
    let target = Target::parse(buf, target, method, host_field)?;
    let options = head::connection(buf, seen, fields, head::From::Client)?;
    Ok(RequestHead {
        len,
        method,
        method_name,
        target: target.path,
        asterisk: target.path.of(buf) == b"*",
        absolute: target.authority.is_some(),
        version,
        host: target.authority.or(host_field),
        framing,
        keep_alive: match version {
            Version::Http11 => !options.close,
            Version::Http10 => options.keep_alive && !options.close,
        },
        expect_continue: expects_continue(buf, seen, version)? && framing != Framing::None,
        upgrade: upgrade(buf, seen, version, options).filter(|_| framing == Framing::None),
    })
}

/// RFC 9112 §2.2: one CRLF before the request line is ignored, it may trail an earlier body.
/// Answers where the request line begins; `None` if more bytes are needed to know.
fn skip_empty_line(buf: &[u8]) -> Result<Option<usize>, Reject> {
    let start = match buf {
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => 2,
        [b'\r', ..] => return Err(Reject::RequestLine),
        _ => 0,
    };
    match buf.get(start) {
        None => Ok(None),
        Some(b'\r' | b'\n') if start > 0 => Err(Reject::EmptyLines),
        Some(b'\n') => Err(Reject::BareLf),
        Some(_) => Ok(Some(start)),
    }
}

/// Checks of a request line that may not be complete yet: what is no HTTP, or too long, is
/// refused at once and not after a timeout.
fn check_line(line: &[u8], limits: &Limits) -> Result<(), Reject> {
    let shown = &line[..line.len().min(METHOD_BYTES_MAX + 1)];
    let method = memchr(b' ', shown).unwrap_or(shown.len());
    if method == 0 || !line[..method].iter().all(|&byte| is_token(byte)) {
        return Err(Reject::RequestLine);
    }
    if method > METHOD_BYTES_MAX {
        return Err(Reject::MethodTooLong);
    }
    let Some(rest) = line.get(method + 1..) else { return Ok(()) };
    if memchr(b' ', rest).unwrap_or(rest.len()) > limits.uri_bytes_max as usize {
        return Err(Reject::UriTooLong);
    }
    Ok(())
}

/// A version of the right form, where the version stands, is one we do not speak (505); else the
/// line is malformed.
fn version_reject(buf: &[u8], start: usize) -> Reject {
    let mut words = head::first_line(buf, start).split(|&byte| byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some(version), None) if head::is_version(version) => Reject::VersionUnsupported,
        (Some(_), Some(_)) => Reject::RequestLine,
        _ => Reject::VersionSyntax,
    }
}

/// RFC 9112 §3.2: exactly one, valid; HTTP/1.0 may have none.
fn host_field(buf: &[u8], seen: &Seen, version: Version) -> Result<Option<Span>, Reject> {
    match seen.host.count {
        0 if version == Version::Http10 => Ok(None),
        0 => Err(Reject::HostMissing),
        1 => {
            host::parse(seen.host.first.of(buf))?;
            Ok(Some(seen.host.first))
        }
        _ => Err(Reject::HostRepeated),
    }
}

/// The request target by its form, RFC 9112 §3.2.
struct Target {
    /// Of an absolute-form.
    authority: Option<Span>,
    path: Span,
}

impl Target {
    fn parse(
        buf: &[u8],
        target: Span,
        method: Method,
        host_field: Option<Span>,
    ) -> Result<Self, Reject> {
        let bytes = target.of(buf);
        // A fragment is never sent.
        if memchr(b'#', bytes).is_some() {
            return Err(Reject::Target);
        }
        if bytes.starts_with(b"/") || (bytes == b"*" && method == Method::Options) {
            return Ok(Self { authority: None, path: target });
        }
        let (scheme, port) = absolute(bytes).ok_or(Reject::Target)?;
        let authority_end =
            memchr2(b'/', b'?', &bytes[scheme..]).map_or(bytes.len(), |n| n + scheme);
        let at = target.start as usize;
        let authority = Span::new(at + scheme, at + authority_end);
        let host = host::parse(authority.of(buf))?;
        // RFC 9112 §3.2.2 lets the target win over Host; servers that heed Host would see
        // another host than the routes did.
        if let Some(field) = host_field
            && !host.is_same(&host::parse(field.of(buf))?, port)
        {
            return Err(Reject::HostUnlikeTarget);
        }
        Ok(Self {
            authority: Some(authority),
            path: Span::new(at + authority_end, at + bytes.len()),
        })
    }
}

/// Length of `scheme://`, and the scheme's port.
fn absolute(target: &[u8]) -> Option<(usize, u16)> {
    let starts = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if starts(b"http://") {
        Some((7, 80))
    } else if starts(b"https://") {
        Some((8, 443))
    } else {
        None
    }
}

/// RFC 9110 §10.1.1: HTTP/1.0 clients cannot wait for an interim answer.
fn expects_continue(buf: &[u8], seen: &Seen, version: Version) -> Result<bool, Reject> {
    match seen.expect.count {
        0 => Ok(false),
        1 if seen.expect.first.of(buf).eq_ignore_ascii_case(b"100-continue") => {
            Ok(version == Version::Http11)
        }
        _ => Err(Reject::ExpectationUnknown),
    }
}

/// The protocol to switch to (RFC 9110 §7.8). Never HTTP/2 or TLS: behind such a switch nobody
/// here would see the requests.
fn upgrade(buf: &[u8], seen: &Seen, version: Version, options: Options) -> Option<Span> {
    if version == Version::Http10 || !options.upgrade || seen.upgrade.count != 1 {
        return None;
    }
    let is_ours = |protocol: &[u8]| {
        let name = memchr3(b'/', b' ', b'\t', protocol).map_or(protocol, |end| &protocol[..end]);
        [b"h2c".as_slice(), b"h2", b"http", b"tls"].iter().any(|own| name.eq_ignore_ascii_case(own))
    };
    head::members(seen.upgrade.first.of(buf))
        .find(|protocol| !is_ours(protocol))
        .map(|protocol| Span::within(buf, protocol))
}

#[cfg(test)]
mod tests;
