//! The head of an answer as the client gets it, and how its body is framed.

use std::time::Duration;

use sluicegate_l7::compress::{self, Change, Outcome};
use sluicegate_l7::http1::{Fields, Framing, Known, Lines, Method, ResponseHead, Version};
use sluicegate_l7::route::spec::Algorithm;
use sluicegate_l7::route::{headers, sticky};
use sluicegate_l7::text::push_decimal;

use super::errand::Errand;
use super::site::Site;

/// How the body goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// As it comes; its length was told, or the connection's end is its end.
    Raw,
    Chunked,
}

/// What is known when an answer's head goes out.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub passage: Passage,
    pub compress: Option<Algorithm>,
    /// A policy changes the body: what the server says of its bytes is true no more.
    pub changed: bool,
    /// Another client would get it compressed: caches have to know.
    pub varies: bool,
    /// Of the cookie that keeps the client at this server.
    pub sticky: Option<u64>,
    /// What the server took for its head.
    pub upstream: Option<Duration>,
    /// The connection ends with this answer.
    pub closes: bool,
}

/// Decides how an answer goes on. `room`: whether there may be one more encoder; an answer without
/// one tells caches all the same that others get it compressed.
pub fn terms(
    site: &Site,
    errand: &Errand,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    mut closes: bool,
    room: impl FnOnce(Algorithm) -> bool,
) -> Terms {
    let lines = Lines { bytes, fields };
    let spec = site.table.spec(errand.route);
    let compression = match &spec.compression {
        Some(own) => own.as_ref(),
        None => site.plan.compression.as_ref(),
    };
    let length = match head.framing {
        Framing::Length(length) => Some(length),
        _ => None,
    };
    let is_head = errand.method == Method::Head;
    let response = compress::Response { status: head.status, fields: &lines, length, is_head };
    let outcome = compression
        .map_or(Outcome::Untouched, |spec| compress::decide(spec, errand.accepts, &response));
    let compress = match outcome {
        Outcome::Compress(algorithm) if head.framing != Framing::None && room(algorithm) => {
            Some(algorithm)
        }
        _ => None,
    };
    let varies = outcome != Outcome::Untouched;
    let passage = match head.framing {
        Framing::None => Passage::Raw,
        Framing::Length(_) if compress.is_none() => Passage::Raw,
        _ if errand.version == Version::Http11 => Passage::Chunked,
        _ => {
            closes = true;
            Passage::Raw
        }
    };
    Terms { passage, compress, changed: false, varies, sticky: None, upstream: None, closes }
}

/// Appends the head for the client.
pub fn write_head(
    site: &Site,
    errand: &Errand,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    terms: Terms,
    out: &mut Vec<u8>,
) {
    let route = site.table.spec(errand.route);
    write_status(bytes, head, out);
    let from = out.len();
    write_lines(site, errand, bytes, head, fields, terms, out);
    write_framing(head, terms, out);
    if terms.varies && compress::lacks_vary(&Lines { bytes, fields }) {
        out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
    if let (Some(spec), Some(value)) = (&route.sticky, terms.sticky) {
        out.extend_from_slice(b"Set-Cookie: ");
        sticky::write_cookie(spec, value, errand.is_https, out);
        out.extend_from_slice(b"\r\n");
    }
    errand.id.write_line(out);
    if head.status == 101 {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(head.upgrade.map_or(&b""[..], |span| span.of(bytes)));
        out.extend_from_slice(b"\r\n");
    } else if terms.closes {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if errand.version == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    errand.gate.write_timing(terms.upstream, out);
    out.extend_from_slice(&errand.answer_lines);
    headers::drop_lines(&site.replaced(errand.route()).answer, from, out);
    out.extend_from_slice(&errand.route_lines);
    out.extend_from_slice(b"\r\n");
}

fn write_framing(head: &ResponseHead, terms: Terms, out: &mut Vec<u8>) {
    match (terms.compress, head.framing) {
        (Some(Algorithm::Gzip), _) => out.extend_from_slice(b"Content-Encoding: gzip\r\n"),
        (Some(Algorithm::Brotli), _) => out.extend_from_slice(b"Content-Encoding: br\r\n"),
        (None, Framing::Length(length)) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        (None, _) => {}
    }
    if terms.passage == Passage::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
}

/// Appends an interim answer (1xx other than 101) for the client.
pub fn write_interim(
    site: &Site,
    errand: &Errand,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    out: &mut Vec<u8>,
) {
    let terms = Terms {
        passage: Passage::Raw,
        compress: None,
        changed: false,
        varies: false,
        sticky: None,
        upstream: None,
        closes: false,
    };
    write_status(bytes, head, out);
    let from = out.len();
    write_lines(site, errand, bytes, head, fields, terms, out);
    headers::drop_lines(&site.replaced(errand.route()).answer, from, out);
    out.extend_from_slice(b"\r\n");
}

fn write_status(bytes: &[u8], head: &ResponseHead, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(head.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
}

/// Appends the lines of the server that pass.
fn write_lines(
    site: &Site,
    errand: &Errand,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    terms: Terms,
    out: &mut Vec<u8>,
) {
    let cors = site.replaced(errand.route()).cors;
    let other_bytes = terms.changed || terms.compress.is_some();
    let keeps_length = !other_bytes && tells_length(head);
    for field in fields.end_to_end() {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        let dropped = match field.known {
            Some(Known::Server | Known::XPoweredBy | Known::Via | Known::XRequestId) => true,
            Some(Known::ContentLength) => !keeps_length,
            _ => cors && is_cors(name),
        };
        if dropped {
            continue;
        }
        let change = if other_bytes { compress::change(name, value) } else { Change::Keep };
        let weak: &[u8] = match change {
            Change::Drop => continue,
            Change::Weaken => b"W/",
            Change::Keep => b"",
        };
        for part in [name, b": ", weak, value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

/// Whether a length without a body is true: none, or to HEAD and of 304 that of a body which
/// another request would get. Of 1xx and 204 there never is one, and some clients wait for it
/// (RFC 9110 §8.6).
fn tells_length(head: &ResponseHead) -> bool {
    head.framing == Framing::None && head.status >= 200 && head.status != 204
}

/// Whether a field, or the line of one, is of CORS.
pub(super) fn is_cors(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"access-control-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}
