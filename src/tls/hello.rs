//! A ClientHello, read for the name in it and otherwise left as it is.
//!
//! Takes all bytes that came so far and says what they are, so any fragmentation gives the same
//! answer: bytes, records, or a message over several records (RFC 8446 §5.1). Strict where two
//! readers could see two names: what the server behind us might read otherwise is refused.
//! Decrypts nothing, negotiates nothing, and answers nothing but an [`Alert`].

use std::borrow::Cow;
use std::net::IpAddr;

use super::Alert;
use crate::config::plan::SniRoutes;

/// Bytes of a hello with its record headers, at most. A message is up to 16 KiB, far more than
/// clients send (2 KB with post-quantum shares); the rest is room for headers of small records.
/// It bounds what a client that never finishes can hold.
pub const WIRE_MAX: usize = 18 << 10;

/// Bytes of the message without its 4 bytes of head, at most.
const MESSAGE_MAX: usize = 16 << 10;

/// Bytes of a plaintext record, at most (RFC 8446 §5.1).
const RECORD_MAX: usize = 16 << 10;

/// Bytes of a host name, at most (RFC 1035 §2.3.4, in the text form).
const NAME_MAX: usize = 253;

/// Bytes of one label, at most (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// What the bytes are, so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The beginning of a hello, perhaps.
    More,
    Hello(Hello),
    /// Another protocol, or SSL 2: there is nobody to whom an alert would speak.
    NotTls,
    /// TLS, and broken; the alert says how.
    Bad(Alert),
    /// More than [`WIRE_MAX`] without an end.
    TooLarge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Lower case, host characters only, without a last dot. An IP address is no name
    /// (RFC 6066 §3) and counts as none.
    pub server_name: Option<String>,
    /// Protocols in the client's order; empty without ALPN.
    pub alpn: Vec<Vec<u8>>,
}

/// Reads all that came so far. Stops at the end of the hello; what follows it is not looked at.
#[must_use]
pub fn read(bytes: &[u8]) -> Verdict {
    // Whoever comes with more at once gets the answer of one who comes byte by byte.
    let bytes = &bytes[..bytes.len().min(WIRE_MAX)];
    match message(bytes) {
        Ok(Some(message)) => match parse(&message) {
            Ok(hello) => Verdict::Hello(hello),
            Err(alert) => Verdict::Bad(alert),
        },
        Ok(None) if bytes.len() >= WIRE_MAX => Verdict::TooLarge,
        Ok(None) => Verdict::More,
        Err(verdict) => verdict,
    }
}

impl SniRoutes {
    /// The pool for a name as [`Hello::server_name`] has it: exact, then the longest wildcard,
    /// then `"*"`. Without a name only `no_sni` counts.
    #[must_use]
    pub fn choose(&self, name: Option<&str>) -> Option<usize> {
        let Some(name) = name else { return self.no_sni };
        if let Some((_, pool)) = self.exact.iter().find(|(exact, _)| exact == name) {
            return Some(*pool);
        }
        let fitting = self.wildcard.iter().filter(|(suffix, _)| {
            // At least one label stands before the suffix, which begins with its dot.
            name.len() > suffix.len() && name.ends_with(suffix.as_str())
        });
        fitting.max_by_key(|(suffix, _)| suffix.len()).map(|(_, pool)| *pool).or(self.any)
    }
}

/// The body of the hello out of its records; `None` while some of it is missing.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Verdict> {
    let mut rest = bytes;
    let mut joined = Cow::Borrowed(&[][..]);
    loop {
        let Some(record) = Record::next(&mut rest, joined.is_empty())? else { return Ok(None) };
        if joined.is_empty() {
            joined = Cow::Borrowed(record.body);
        } else {
            joined.to_mut().extend_from_slice(record.body);
        }
        if let Some(length) = message_length(&joined)? {
            let missing = (4 + length).checked_sub(joined.len() + record.missing);
            match missing {
                // More in the record than the hello: there is nothing to say before our answer.
                None => return Err(Verdict::Bad(Alert::UnexpectedMessage)),
                Some(0) if record.missing == 0 => return Ok(Some(without_head(joined))),
                Some(_) => {}
            }
        }
        if record.missing > 0 {
            return Ok(None);
        }
    }
}

fn without_head(message: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(whole) => Cow::Borrowed(&whole[4..]),
        Cow::Owned(mut whole) => Cow::Owned(whole.split_off(4)),
    }
}

/// The length that the head of the message gives, as soon as it is there.
fn message_length(message: &[u8]) -> Result<Option<usize>, Verdict> {
    const CLIENT_HELLO: u8 = 1;
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Verdict::Bad(Alert::UnexpectedMessage));
    }
    let Some(&[_, high, middle, low]) = message.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > MESSAGE_MAX { Err(Verdict::TooLarge) } else { Ok(Some(length)) }
}

/// One record, as far as it came.
struct Record<'a> {
    body: &'a [u8],
    /// Bytes that its head promises and that did not come yet.
    missing: usize,
}

impl<'a> Record<'a> {
    /// Takes the next record off `rest`; `None` if not even its head is there.
    fn next(rest: &mut &'a [u8], first: bool) -> Result<Option<Self>, Verdict> {
        const HANDSHAKE: u8 = 22;
        /// Change-cipher-spec, alert, handshake, application data, heartbeat.
        const KINDS: std::ops::RangeInclusive<u8> = 20..=24;
        let bytes = *rest;
        let Some(kind) = bytes.first() else { return Ok(None) };
        if !KINDS.contains(kind) {
            return Err(if first {
                Verdict::NotTls
            } else {
                Verdict::Bad(Alert::UnexpectedMessage)
            });
        }
        let Some(major) = bytes.get(1) else { return Ok(None) };
        if *major != 3 {
            return Err(if first { Verdict::NotTls } else { Verdict::Bad(Alert::DecodeError) });
        }
        if *kind != HANDSHAKE {
            return Err(Verdict::Bad(Alert::UnexpectedMessage));
        }
        let Some((&[_, _, _, high, low], after)) = bytes.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Empty fragments of a handshake message are forbidden (RFC 8446 §5.1).
        if length == 0 || length > RECORD_MAX {
            return Err(Verdict::Bad(Alert::DecodeError));
        }
        let body = &after[..length.min(after.len())];
        *rest = &after[body.len()..];
        Ok(Some(Self { body, missing: length - body.len() }))
    }
}

/// The whole body of a ClientHello (RFC 8446 §4.1.2, and RFC 5246 §7.4.1.2 for older clients).
fn parse(body: &[u8]) -> Result<Hello, Alert> {
    let mut body = Cursor(body);
    let &[major, _] = body.array::<2>()?;
    if major != 3 {
        return Err(Alert::ProtocolVersion);
    }
    let _random = body.array::<32>()?;
    if body.block8()?.0.len() > 32 {
        return Err(Alert::DecodeError);
    }
    let suites = body.block16()?.0;
    if suites.is_empty() || !suites.len().is_multiple_of(2) {
        return Err(Alert::DecodeError);
    }
    match body.block8()?.0 {
        [] => return Err(Alert::DecodeError),
        methods if !methods.contains(&0) => return Err(Alert::IllegalParameter),
        _ => {}
    }
    let mut hello = Hello::default();
    // A hello of TLS 1.2 may end here, without any extension (RFC 5246 §7.4.1.2).
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = body.block16()?;
    body.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let value = extensions.block16()?;
        seen.push(kind);
        match kind {
            0 => hello.server_name = server_name(value)?,
            16 => hello.alpn = alpn(value)?,
            _ => {}
        }
    }
    // No extension twice (RFC 8446 §4.2): two readers would take one each.
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Alert::IllegalParameter);
    }
    Ok(hello)
}

/// RFC 6066 §3. Other kinds of name than host names were never defined.
fn server_name(mut value: Cursor<'_>) -> Result<Option<String>, Alert> {
    let mut list = value.block16()?;
    value.end()?;
    let &[kind] = list.array::<1>()?;
    let name = list.block16()?.0;
    if kind != 0 || !list.0.is_empty() {
        return Err(Alert::IllegalParameter);
    }
    if name.is_empty() {
        return Err(Alert::DecodeError);
    }
    let text = std::str::from_utf8(name).map_err(|_| Alert::IllegalParameter)?;
    if text.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if is_host(text) { Ok(Some(text.to_ascii_lowercase())) } else { Err(Alert::IllegalParameter) }
}

/// RFC 7301 §3.1.
fn alpn(mut value: Cursor<'_>) -> Result<Vec<Vec<u8>>, Alert> {
    let mut list = value.block16()?;
    value.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        match list.block8()?.0 {
            [] => return Err(Alert::DecodeError),
            name => protocols.push(name.to_vec()),
        }
    }
    if protocols.is_empty() { Err(Alert::DecodeError) } else { Ok(protocols) }
}

/// Labels of letters, digits, `-` and the `_` that some hosts have.
pub(super) fn is_host(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.split('.').all(|label| {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(fine)
        })
}

/// What is left to read of a block. Whatever is missing is a decode error.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Alert> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Alert::DecodeError)?;
        self.0 = rest;
        Ok(array)
    }

    fn number(&mut self) -> Result<u16, Alert> {
        self.array().copied().map(u16::from_be_bytes)
    }

    fn block8(&mut self) -> Result<Self, Alert> {
        let &[length] = self.array()?;
        self.take(usize::from(length))
    }

    fn block16(&mut self) -> Result<Self, Alert> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    fn take(&mut self, length: usize) -> Result<Self, Alert> {
        let (block, rest) = self.0.split_at_checked(length).ok_or(Alert::DecodeError)?;
        self.0 = rest;
        Ok(Self(block))
    }

    const fn end(self) -> Result<(), Alert> {
        if self.0.is_empty() { Ok(()) } else { Err(Alert::DecodeError) }
    }
}
