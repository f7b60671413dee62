//! HTTP/1 messages as bytes: heads, framing, bodies.
//!
//! ```text
//!   bytes ──▶ request::parse / response::parse ──▶ head + Fields + Framing
//!                                                               │
//!                              body::Body::next ◀───────────────┘   (again and again)
//! ```
//!
//! Invariants:
//! 1. What two parsers could read in two ways is a [`Reject`]; the caller answers and closes.
//! 2. No message costs an allocation once [`Fields`] has grown to the longest head seen.
//!    Only trailers are copied, because they may arrive in pieces.
//! 3. Every span lies within the buffer that was parsed.
//!
//! It does not read, wait, route, or decide which fields go on: it marks those that must not
//! pass to the next hop ([`FieldSpan::hop`]).

pub mod body;
pub mod chunked;
pub mod fields;
pub mod framing;
mod head;
pub mod host;
pub mod known;
pub mod reject;
pub mod request;
pub mod response;

pub use body::{Body, Piece};
pub use fields::{FieldSpan, Fields, Lines, Span};
pub use framing::Framing;
pub use host::host_for_matching;
pub use known::{Class, Known};
pub use reject::Reject;
pub use request::{Method, RequestHead};
pub use response::{Asked, ResponseHead};

/// Bounds of one head and what passes through it, from the listener's `http` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, start line included; of a trailer section likewise.
    pub header_bytes_max: u32,
    /// Field lines of a head, of a trailer section likewise. At most [`Limits::HEADERS_MAX`].
    pub headers_max: u16,
    /// Bytes of a request target.
    pub uri_bytes_max: u32,
    /// `%2F` in a path stays as it is instead of being refused.
    pub encoded_slash_keep: bool,
    /// Field names with `_` pass; otherwise they vanish, since CGI reads `_` and `-` alike.
    pub underscores_keep: bool,
}

impl Limits {
    /// Above this `headers_max` has no effect: the table the tokeniser fills is on the stack
    /// (32 bytes each).
    pub const HEADERS_MAX: u16 = 256;

    /// The same for answers, whose names with `_` pass: no CGI reads an answer.
    #[must_use]
    pub const fn of_answers(self) -> Self {
        Self { underscores_keep: true, ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 * 1024,
            headers_max: 128,
            uri_bytes_max: 16 * 1024,
            encoded_slash_keep: false,
            underscores_keep: false,
        }
    }
}

/// The two versions that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}
