//! Chunked bodies, RFC 9112 §7.1: a decoder for any fragmentation, and an encoder.
//!
//! ```text
//!          ┌───────────────── DataEnd(CR LF) ◀── Data ◀─┐ size > 0
//!          ▼                                            │
//!        Size ──▶ Extension ──▶ SizeLf ─────────────────┤
//!          └──────────────────────▲                     │ size = 0
//!                                 Done ◀── EndLf ◀── Trailer
//! ```
//!
//! Strict: CRLF only, nothing around the size but extensions, and those well-formed (and then
//! forgotten: they are for one hop). Bounded: digits of a size, extension bytes beyond data
//! bytes, trailer section. Trailers that would change how the message is read, or speak in the
//! gateway's name, vanish.

use super::framing::{LENGTH_MAX, is_token};
use super::head::field_line;
use super::known::{Class, Known};
use super::reject::Reject;
use super::{Limits, Piece};

/// Digits of a chunk size, zeros in front included.
const SIZE_DIGITS_MAX: u8 = 16;
/// Bytes of extensions that a body may have beyond its bytes of data. One byte of data in each
/// chunk with a long extension would otherwise cost a hundred times its worth.
const EXTENSION_SURPLUS_MAX: u64 = 4096;

/// Where in the syntax the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's size. Not one digit yet if `digits` is 0.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the semicolon, or the white space before it.
    Extension {
        size: u64,
        part: Part,
    },
    /// Behind the CR of the size line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In a trailer line, or before it.
    Trailer,
    /// Behind the CR of a trailer line.
    TrailerLf,
    Done,
}

/// Where in an extension: `name`, `name=token` or `name="quoted"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    NameStart,
    Name,
    ValueStart,
    Token,
    Quoted,
    Escaped,
    /// Behind a quoted value.
    After,
    /// In white space behind a name.
    NameSpace,
    /// In white space behind a size or a value.
    Space,
}

/// Reads a chunked body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Extension bytes so far, less the data bytes.
    surplus: u64,
    limits: Limits,
    /// Bytes and lines of the trailer section so far, dropped ones included.
    trailer_bytes: u32,
    trailer_lines: u16,
    /// Trailer lines that go on, and behind them the line that is arriving.
    trailers: Vec<u8>,
    /// Where the arriving line begins.
    line: usize,
}

impl Decoder {
    /// The trailer section has the bounds of a header section.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self {
            state: State::Size { size: 0, digits: 0 },
            surplus: 0,
            limits: *limits,
            trailer_bytes: 0,
            trailer_lines: 0,
            trailers: Vec::new(),
            line: 0,
        }
    }

    /// Reads on. Stops behind a run of data, at the end of the body or of `input`; call again
    /// with what was not consumed. After `end` it consumes nothing.
    ///
    /// # Errors
    ///
    /// When the body is malformed or out of bounds. The decoder is of no more use then.
    pub fn feed(&mut self, input: &[u8]) -> Result<Piece, Reject> {
        let mut at = 0;
        let mut payload = 0..0;
        while at < input.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                if !payload.is_empty() {
                    break;
                }
                let take = left.min((input.len() - at) as u64);
                payload = at..at + take as usize;
                at = payload.end;
                self.surplus = self.surplus.saturating_sub(take);
                self.state =
                    if left == take { State::DataCr } else { State::Data { left: left - take } };
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(Piece { consumed: at, payload, end: self.state == State::Done })
    }

    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Lines to forward behind the last chunk, each with its CRLF; complete once the body has
    /// ended.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers[..self.line]
    }

    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        match self.state {
            State::Size { size, digits } => size_byte(byte, size, digits),
            State::Extension { size, part } => {
                self.surplus += 1;
                if self.surplus > EXTENSION_SURPLUS_MAX {
                    return Err(Reject::ChunkExtensionsTooLarge);
                }
                extension_byte(byte, size, part)
            }
            State::SizeLf { size } if byte == b'\n' => {
                Ok(if size == 0 { State::Trailer } else { State::Data { left: size } })
            }
            State::SizeLf { .. } => Err(Reject::LineEnd),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::DataCr | State::DataLf => Err(Reject::ChunkEnd),
            State::Trailer | State::TrailerLf => self.trailer_byte(byte),
            // `feed` handles both.
            State::Data { .. } | State::Done => Ok(self.state),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Reject> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.limits.header_bytes_max {
            return Err(Reject::TrailerTooLarge);
        }
        match (self.state, byte) {
            (State::TrailerLf, b'\n') if self.trailers.len() == self.line => Ok(State::Done),
            (State::TrailerLf, b'\n') => {
                self.end_trailer_line()?;
                Ok(State::Trailer)
            }
            (State::TrailerLf, _) | (_, b'\n') => Err(Reject::Trailer),
            (_, b'\r') => Ok(State::TrailerLf),
            _ => {
                self.trailers.push(byte);
                Ok(State::Trailer)
            }
        }
    }

    /// Keeps the line that has arrived, or drops it.
    fn end_trailer_line(&mut self) -> Result<(), Reject> {
        self.trailer_lines += 1;
        if self.trailer_lines > self.limits.headers_max {
            return Err(Reject::TrailerTooLarge);
        }
        let line = &self.trailers[self.line..];
        let (name, _) = field_line(line).ok_or(Reject::Trailer)?;
        if passes(name, self.limits.underscores_keep) {
            self.trailers.extend_from_slice(b"\r\n");
        } else {
            self.trailers.truncate(self.line);
        }
        self.line = self.trailers.len();
        Ok(())
    }
}

/// Whether a trailer field goes on: not if it could change how the message is read, who sent it
/// or what it may do (RFC 9110 §6.5.1).
fn passes(name: &[u8], underscores_keep: bool) -> bool {
    Known::of(name).is_none_or(|known| known.class() == Class::Any)
        && (underscores_keep || !name.contains(&b'_'))
}

fn size_byte(byte: u8, size: u64, digits: u8) -> Result<State, Reject> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
        b';' if digits > 0 => return Ok(State::Extension { size, part: Part::NameStart }),
        b' ' | b'\t' if digits > 0 => return Ok(State::Extension { size, part: Part::Space }),
        _ => return Err(Reject::ChunkSize),
    };
    let size = size
        .checked_mul(16)
        .and_then(|size| size.checked_add(u64::from(digit)))
        .filter(|&size| size <= LENGTH_MAX && digits < SIZE_DIGITS_MAX)
        .ok_or(Reject::ChunkSize)?;
    Ok(State::Size { size, digits: digits + 1 })
}

/// RFC 9112 §7.1.1. White space around `;` and `=` is bad but must be read (RFC 9110 §5.6.3);
/// before the end of the line there is none.
fn extension_byte(byte: u8, size: u64, part: Part) -> Result<State, Reject> {
    let next = match (part, byte) {
        (Part::Name | Part::Token | Part::After, b'\r') => return Ok(State::SizeLf { size }),
        (Part::Name | Part::NameSpace | Part::Token | Part::After | Part::Space, b';') => {
            Part::NameStart
        }
        (Part::Name | Part::NameSpace, b'=') => Part::ValueStart,
        (Part::NameStart | Part::ValueStart, b' ' | b'\t') => part,
        (Part::Name | Part::NameSpace, b' ' | b'\t') => Part::NameSpace,
        (Part::Token | Part::After | Part::Space, b' ' | b'\t') => Part::Space,
        (Part::Quoted, b'"') => Part::After,
        (Part::Quoted, b'\\') => Part::Escaped,
        (Part::ValueStart, b'"') | (Part::Quoted | Part::Escaped, b'\t' | b' '..=0x7E | 0x80..) => {
            Part::Quoted
        }
        (Part::NameStart | Part::Name, _) if is_token(byte) => Part::Name,
        (Part::ValueStart | Part::Token, _) if is_token(byte) => Part::Token,
        _ => return Err(Reject::ChunkExtension),
    };
    Ok(State::Extension { size, part: next })
}

/// Bytes of the longest chunk head: 16 digits and CRLF.
pub const CHUNK_HEAD_MAX: usize = 18;

/// What stands before a chunk's data. Behind the data stands [`CHUNK_END`].
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; CHUNK_HEAD_MAX],
    from: u8,
}

/// What stands behind a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

impl ChunkHead {
    /// `len` must not be 0: that is the last chunk's size.
    #[must_use]
    pub fn new(len: u64) -> Self {
        debug_assert!(len > 0, "an empty chunk ends the body");
        let mut bytes = [0; CHUNK_HEAD_MAX];
        let mut from = CHUNK_HEAD_MAX - 2;
        bytes[from..].copy_from_slice(b"\r\n");
        let mut rest = len;
        loop {
            from -= 1;
            bytes[from] = b"0123456789abcdef"[(rest % 16) as usize];
            rest /= 16;
            if rest == 0 {
                break;
            }
        }
        Self { bytes, from: from as u8 }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..]
    }
}

/// Appends the last chunk with the trailers of [`Decoder::trailers`].
pub fn push_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
