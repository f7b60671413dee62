//! What request and answer heads have in common: where they end, their fields, `Connection`.

use memchr::{memchr, memchr_iter};

use super::Limits;
use super::fields::{Fields, Span};
use super::framing::is_token;
use super::known::{Class, Known};
use super::reject::Reject;

/// Options of all `Connection` lines together. Each is compared with each field, so the product
/// with `headers_max` must stay small; messages in the wild have one to three.
const CONNECTION_OPTIONS_MAX: usize = 16;

/// How often a field stands in a head, and where its first value is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub count: u16,
    pub first: Span,
}

impl Tally {
    fn add(&mut self, value: Span) {
        if self.count == 0 {
            self.first = value;
        }
        self.count = self.count.saturating_add(1);
    }
}

/// The fields that decide how a message is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub host: Tally,
    pub length: Tally,
    pub coding: Tally,
    pub connection: Tally,
    pub upgrade: Tally,
    pub expect: Tally,
}

/// What `Connection` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

/// Finds the end of the head that begins at `start`; `None` if it is not there yet.
///
/// Every line must end in CRLF (RFC 9112 §2.2 lets a lone LF pass; who forwards to others who
/// may not let it pass must not). The bounds hold for a head that never ends, too.
pub(super) fn end_of(buf: &[u8], start: usize, limits: &Limits) -> Result<Option<usize>, Reject> {
    let bound = buf.len().min(start + limits.header_bytes_max as usize);
    let lines_max = usize::from(limits.headers_max.min(Limits::HEADERS_MAX)) + 1;
    let mut line = start;
    let mut lines = 0;
    for lf in memchr_iter(b'\n', &buf[start..bound]).map(|at| start + at) {
        if lf == line || buf[lf - 1] != b'\r' {
            return Err(Reject::BareLf);
        }
        if lf == line + 1 {
            return Ok(Some(lf + 1));
        }
        lines += 1;
        if lines > lines_max {
            return Err(Reject::FieldsTooMany);
        }
        line = lf + 1;
    }
    if buf.len() - start >= limits.header_bytes_max as usize {
        return Err(Reject::HeaderTooLarge);
    }
    Ok(None)
}

/// The first line from `start`, without its end if that has come.
pub(super) fn first_line(buf: &[u8], start: usize) -> &[u8] {
    let rest = &buf[start..];
    let line = memchr(b'\n', rest).map_or(rest, |lf| &rest[..lf]);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Fills `fields`, and counts the lines that decide how the message is read.
pub(super) fn collect(
    buf: &[u8],
    headers: &[httparse::Header<'_>],
    underscores_keep: bool,
    fields: &mut Fields,
) -> Seen {
    let mut seen = Seen::default();
    fields.reserve(headers.len());
    for header in headers {
        let name = header.name.as_bytes();
        if !underscores_keep && memchr(b'_', name).is_some() {
            continue;
        }
        let known = Known::of(name);
        let value = Span::within(buf, header.value);
        let tally = match known {
            Some(Known::Host) => Some(&mut seen.host),
            Some(Known::ContentLength) => Some(&mut seen.length),
            Some(Known::TransferEncoding) => Some(&mut seen.coding),
            Some(Known::Connection) => Some(&mut seen.connection),
            Some(Known::Upgrade) => Some(&mut seen.upgrade),
            Some(Known::Expect) => Some(&mut seen.expect),
            _ => None,
        };
        if let Some(tally) = tally {
            tally.add(value);
        }
        fields.push(Span::within(buf, name), value, known);
    }
    seen
}

/// Who named fields in `Connection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// May not take a field away that is meant for all recipients: a server must not judge
    /// another request than the gateway did.
    Client,
    /// Is trusted.
    Server,
}

/// Reads `Connection` and lets the fields that it names end here (RFC 9110 §7.6.1).
pub(super) fn connection(
    buf: &[u8],
    seen: &Seen,
    fields: &mut Fields,
    from: From,
) -> Result<Options, Reject> {
    let mut options = Options::default();
    if seen.connection.count == 0 {
        return Ok(options);
    }
    let mut left = CONNECTION_OPTIONS_MAX;
    for at in 0..fields.len() {
        let field = fields.as_slice()[at];
        if field.known != Some(Known::Connection) {
            continue;
        }
        for option in members(field.value.of(buf)) {
            left = left.checked_sub(1).ok_or(Reject::ConnectionOptions)?;
            if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                // Without these the next hop would read another message.
                match Known::of(option) {
                    Some(Known::Host | Known::ContentLength) => {
                        return Err(Reject::ConnectionOptions);
                    }
                    Some(known) if from == From::Client && known.class() != Class::Hop => {}
                    _ => fields.end_here(buf, option),
                }
            }
        }
    }
    Ok(options)
}

/// Members of a comma-separated list; empty ones do not count (RFC 9110 §5.6.1.2).
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// One field line without its CRLF, as name and value; `None` if it is malformed.
pub(super) fn field_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let control = |&byte: &u8| (byte < b' ' && byte != b'\t') || byte == 0x7F;
    if name.is_empty() || !name.iter().all(|&b| is_token(b)) || value.iter().any(control) {
        return None;
    }
    Some((name, value.trim_ascii()))
}

/// What the tokeniser found, in our words.
pub(super) fn reject_of(error: httparse::Error, start_line: Reject) -> Reject {
    match error {
        httparse::Error::HeaderName => Reject::FieldName,
        httparse::Error::HeaderValue => Reject::FieldValue,
        httparse::Error::NewLine => Reject::LineEnd,
        httparse::Error::TooManyHeaders => Reject::FieldsTooMany,
        httparse::Error::Status => Reject::Status,
        httparse::Error::Token => start_line,
        httparse::Error::Version => Reject::VersionSyntax,
    }
}

/// Whether this is `HTTP/` DIGIT `.` DIGIT (RFC 9112 §2.3).
pub(super) fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}
