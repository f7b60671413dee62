//! Compression of answers: whether, with what, and which fields change with it.
//!
//! Pure decisions on the two heads; [`Encoder`] does the work. A body is never encoded twice,
//! never against `no-transform`, and never when only a part of it passes. What a cache may keep
//! stays right: `Vary` is set whenever the client's `Accept-Encoding` made the difference, and a
//! strong ETag, which promises equal bytes, becomes weak.

mod encoder;

pub use encoder::Encoder;

use crate::route::spec::{Algorithm, CompressionSpec};
use crate::route::{Fields, lines};
use crate::text::is_grpc;

/// What becomes of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passes as it is.
    Untouched,
    /// Passes as it is, but another client would get it compressed: `Vary`.
    Plain,
    /// `Content-Encoding`, `Vary`, the changes of [`change`], no `Content-Length`.
    Compress(Algorithm),
}

/// What becomes of one field line of an answer that is compressed, or whose body is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Keep,
    /// Speaks of the bytes as they were.
    Drop,
    /// A strong ETag: `W/` before it.
    Weaken,
}

/// An answer's head, as far as it matters here.
#[derive(Clone, Copy)]
pub struct Response<'r> {
    pub status: u16,
    pub fields: &'r dyn Fields,
    /// In bytes; `None` when it is not known beforehand.
    pub length: Option<u64>,
    /// To a HEAD request.
    pub is_head: bool,
}

impl std::fmt::Debug for Response<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response {{ {} }}", self.status)
    }
}

/// What a request lets become of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Of ours, what the client likes.
    algorithm: Option<Algorithm>,
    /// It asks for the body as it is.
    no_transform: bool,
}

impl Accepts {
    #[must_use]
    pub fn of(request: &dyn Fields, ours: &[Algorithm]) -> Self {
        Self { algorithm: negotiate(request, ours), no_transform: says_no_transform(request) }
    }
}

/// Decides for one answer.
#[must_use]
pub fn decide(spec: &CompressionSpec, accepts: Accepts, response: &Response<'_>) -> Outcome {
    if !is_compressible(spec, response) || accepts.no_transform {
        return Outcome::Untouched;
    }
    match accepts.algorithm {
        // Without a body there is nothing to compress; the same GET would differ.
        Some(algorithm) if !response.is_head => Outcome::Compress(algorithm),
        _ => Outcome::Plain,
    }
}

fn is_compressible(spec: &CompressionSpec, response: &Response<'_>) -> bool {
    // 206 is a part of the body as it is; pages of errors are compressed too.
    let has_body = !matches!(response.status, 100..=199 | 204..=206 | 304);
    let fields = response.fields;
    has_body
        && fields.line("content-range", 0).is_none()
        && lines(fields, "content-encoding").all(|line| line.eq_ignore_ascii_case(b"identity"))
        && response.length.is_none_or(|length| length >= spec.size_min.max(1))
        && !says_no_transform(fields)
        && fields.line("content-type", 1).is_none()
        && fields.line("content-type", 0).is_some_and(|line| fits_types(line, &spec.types))
}

/// RFC 9111 §5.2.1.6, §5.2.2.6
fn says_no_transform(fields: &dyn Fields) -> bool {
    items(fields, "cache-control").any(|item| item.eq_ignore_ascii_case(b"no-transform"))
}

/// `text/*`, `application/*+json`: one `*` stands for anything.
fn fits_types(content_type: &[u8], types: &[String]) -> bool {
    let media_type = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    let media_type = media_type.trim_ascii();
    // gRPC has a compression of its own, message by message, and knows no other.
    if is_grpc(media_type) {
        return false;
    }
    types.iter().any(|pattern| match pattern.split_once('*') {
        None => media_type.eq_ignore_ascii_case(pattern.as_bytes()),
        Some(("", "/*")) => true,
        Some((start, end)) => {
            let (start, end) = (start.as_bytes(), end.as_bytes());
            media_type.len() >= start.len() + end.len()
                && media_type[..start.len()].eq_ignore_ascii_case(start)
                && media_type[media_type.len() - end.len()..].eq_ignore_ascii_case(end)
        }
    })
}

/// What the client takes, best first by its `q`, then by the order of `ours` (RFC 9110 §12.5.3).
///
/// `None`: as it is. Also when the client refuses that too: an answer that it can throw away
/// serves it better than a 406.
#[must_use]
pub fn negotiate(request: &dyn Fields, ours: &[Algorithm]) -> Option<Algorithm> {
    let mut accepted = Accepted::default();
    for item in items(request, "accept-encoding") {
        let mut parts = item.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let quality = parts.next().map_or(Some(QUALITY_MAX), quality).unwrap_or(0);
        accepted.note(coding, quality);
    }
    let mut best: Option<(u16, Algorithm)> = None;
    for &algorithm in ours {
        let quality = accepted.quality(algorithm);
        if quality > best.map_or(0, |(best, _)| best) {
            best = Some((quality, algorithm));
        }
    }
    let (quality, algorithm) = best?;
    (quality >= accepted.identity.unwrap_or(0)).then_some(algorithm)
}

/// In thousandths; `None`: not mentioned.
#[derive(Clone, Copy, Debug, Default)]
struct Accepted {
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Accepted {
    fn note(&mut self, coding: &[u8], quality: u16) {
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        if is("br") {
            self.brotli = Some(quality);
        } else if is("gzip") || is("x-gzip") {
            self.gzip = Some(quality);
        } else if is("identity") {
            self.identity = Some(quality);
        } else if is("*") {
            self.others = Some(quality);
        }
    }

    fn quality(&self, algorithm: Algorithm) -> u16 {
        let own = match algorithm {
            Algorithm::Brotli => self.brotli,
            Algorithm::Gzip => self.gzip,
        };
        own.or(self.others).unwrap_or(0)
    }
}

/// `q=1`: three digits are all that a weight may have.
const QUALITY_MAX: u16 = 1000;

/// `q=0.5` in thousandths (RFC 9110 §12.4.2).
fn quality(parameter: &[u8]) -> Option<u16> {
    let at = memchr::memchr(b'=', parameter)?;
    let (name, value) = (parameter[..at].trim_ascii(), parameter[at + 1..].trim_ascii());
    let (whole, fraction) = value.split_first()?;
    let fraction = match fraction {
        [] => &[],
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let digit = |at: usize| u16::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    match whole {
        _ if !name.eq_ignore_ascii_case(b"q") => None,
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(QUALITY_MAX),
        _ => None,
    }
}

/// The items of all lines called `name`.
fn items<'f>(fields: &'f dyn Fields, name: &'f str) -> impl Iterator<Item = &'f [u8]> + 'f {
    lines(fields, name).flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether `Vary: Accept-Encoding` is to be added.
#[must_use]
pub fn lacks_vary(fields: &dyn Fields) -> bool {
    !items(fields, "vary").any(|item| item == b"*" || item.eq_ignore_ascii_case(b"accept-encoding"))
}

/// What becomes of a line of an answer that is compressed, or whose body is changed.
#[must_use]
pub fn change(name: &[u8], value: &[u8]) -> Change {
    const OF_THE_BYTES: [&str; 7] = [
        "content-length",
        "content-encoding",
        "accept-ranges",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
    ];
    if OF_THE_BYTES.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())) {
        return Change::Drop;
    }
    let is_strong = name.eq_ignore_ascii_case(b"etag") && value.starts_with(b"\"");
    if is_strong { Change::Weaken } else { Change::Keep }
}

/// The value of `Content-Encoding`.
#[must_use]
pub const fn coding(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Brotli => "br",
        Algorithm::Gzip => "gzip",
    }
}

#[cfg(test)]
mod tests;
