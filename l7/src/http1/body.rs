//! One body, however it is framed.

use super::chunked::Decoder;
use super::reject::Reject;
use super::{Framing, Limits};
use std::ops::Range;

/// What one call found in its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Bytes of the body, within what was consumed.
    pub payload: Range<usize>,
    /// The body has ended; what follows is the next message.
    pub end: bool,
}

/// How much of a body is still to come.
#[derive(Debug)]
pub enum Body {
    Done,
    Length { left: u64 },
    Chunked(Decoder),
    UntilClose,
}

impl Body {
    /// `limits` bounds the trailer section; for an answer, [`Limits::of_answers`].
    #[must_use]
    pub const fn new(framing: Framing, limits: &Limits) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(left) => Self::Length { left },
            Framing::Chunked => Self::Chunked(Decoder::new(limits)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Reads on; call again with what was not consumed, until `end`.
    ///
    /// # Errors
    ///
    /// When a chunked body is malformed.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Reject> {
        match self {
            Self::Done => Ok(Piece { consumed: 0, payload: 0..0, end: true }),
            Self::Length { left } => {
                let take = (*left).min(input.len() as u64);
                *left -= take;
                let end = *left == 0;
                let take = take as usize;
                Ok(Piece { consumed: take, payload: 0..take, end })
            }
            Self::Chunked(decoder) => decoder.feed(input),
            Self::UntilClose => {
                Ok(Piece { consumed: input.len(), payload: 0..input.len(), end: false })
            }
        }
    }

    /// The connection has ended: was that where the body ends?
    ///
    /// # Errors
    ///
    /// When it was not.
    pub fn close(&self) -> Result<(), Reject> {
        match self {
            Self::UntilClose => Ok(()),
            _ if self.is_done() => Ok(()),
            _ => Err(Reject::BodyTruncated),
        }
    }

    #[must_use]
    pub const fn is_done(&self) -> bool {
        match self {
            Self::Done | Self::Length { left: 0 } => true,
            Self::Chunked(decoder) => decoder.is_done(),
            Self::Length { .. } | Self::UntilClose => false,
        }
    }

    /// Trailer lines to forward, see [`Decoder::trailers`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Chunked(decoder) => decoder.trailers(),
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(framing: Framing) -> Body {
        Body::new(framing, &Limits::default())
    }

    #[test]
    fn a_length_takes_its_bytes_and_leaves_the_next_message() {
        let mut body = body(Framing::Length(5));
        assert_eq!(body.next(b"hel"), Ok(Piece { consumed: 3, payload: 0..3, end: false }));
        assert_eq!(body.close(), Err(Reject::BodyTruncated));
        assert_eq!(body.next(b""), Ok(Piece { consumed: 0, payload: 0..0, end: false }));
        assert_eq!(body.next(b"loGET"), Ok(Piece { consumed: 2, payload: 0..2, end: true }));
        assert_eq!(body.next(b"GET"), Ok(Piece { consumed: 0, payload: 0..0, end: true }));
        assert_eq!(body.close(), Ok(()));
    }

    #[test]
    fn no_body_is_done_at_once() {
        assert!(body(Framing::None).is_done());
        assert_eq!(body(Framing::None).next(b"GET").map(|piece| piece.end), Ok(true));
    }

    #[test]
    fn only_a_body_without_a_length_may_end_with_the_connection() {
        let mut open = body(Framing::UntilClose);
        assert_eq!(open.next(b"abc"), Ok(Piece { consumed: 3, payload: 0..3, end: false }));
        assert_eq!((open.close(), open.is_done()), (Ok(()), false));
        let mut chunked = body(Framing::Chunked);
        assert_eq!(chunked.next(b"3\r\nabc\r\n").map(|piece| piece.payload), Ok(3..6));
        assert_eq!(chunked.close(), Err(Reject::BodyTruncated));
        assert_eq!(chunked.next(b"0\r\nX-Sum: 1\r\n\r\n").map(|piece| piece.end), Ok(true));
        assert_eq!((chunked.close(), chunked.trailers()), (Ok(()), &b"X-Sum: 1\r\n"[..]));
    }
}
