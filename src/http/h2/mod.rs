//! HTTP/2: connections of clients, by ALPN or by prior knowledge, and to servers.
//!
//! Frames, HPACK, stream states and flow control are the `h2` crate's, over the worker's own
//! I/O. Each stream is a task with a session of its own, to which it looks like an HTTP/1
//! connection with one request: what is done about a request is decided in one place.
//!
//! ```text
//!  stream of a listener ─ io (guard) ─ h2 ─┬─ task: message ─ session ─▶ HTTP/1 server
//!                                          ├─ task: message ─ session ─┐
//!                                          └─ …                        │
//!  line to a server ──── io (guard) ─ h2 ─── message ◀─────────────────┘
//! ```
//!
//! - `server` a client's connection and its streams
//! - `upstream` shared connections to servers
//! - `message` one stream in HTTP/1's form, `head` and `body` its parts
//! - `guard` what a peer may make us do for nothing
//! - `io` the connection as `h2` reads and writes it
//! - `watch` who is to be called when the worker drains

mod body;
mod guard;
mod head;
mod io;
mod message;
mod server;
mod upstream;
mod watch;

pub(super) use server::{hear_out, serve};
pub(super) use upstream::Lines;
pub(super) use watch::Bells;

/// Bytes of one body that the peer may send before we have passed them on.
const WINDOW_STREAM: u32 = 256 << 10;

/// The same for all bodies of a connection: what a connection may cost at most.
const WINDOW_CONNECTION: u32 = 1 << 20;

/// Bytes of one body that are with `h2` and not with the kernel.
const SEND_BUFFER_MAX: usize = 64 << 10;

/// Bytes of the table with which the peer compresses what it sends (RFC 7541 §4.2), its default.
const HEADER_TABLE: u32 = 4096;

/// What the first bytes of a connection without TLS say about HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    Here,
    /// So far it could be.
    Perhaps,
    Not,
}

impl Preface {
    pub fn of(bytes: &[u8]) -> Self {
        let known = bytes.len().min(guard::PREFACE.len());
        match bytes[..known] == guard::PREFACE[..known] {
            true if known == guard::PREFACE.len() => Self::Here,
            true => Self::Perhaps,
            false => Self::Not,
        }
    }
}
