//! The seam: every kernel call of a worker goes through [`Driver`].
//!
//! It is a type parameter, so it costs nothing at run time. `uring` is the product, `epoll` the
//! same where io_uring is refused, `sim` a seeded model with a virtual clock and faults.
//!
//! Contract:
//! - D1: `submit_*` yields completions that carry its token; exactly one of them, the last,
//!   has `more == false`, also after a cancel, and never from inside the call itself.
//! - D2: `*_now` acts at once and never blocks; it yields no completion.
//! - D3: a received byte arrives in a chunk of [`Driver::buffers`], owned by whoever gets the
//!   completion until it is given back by [`Driver::release`].
//! - D4: a descriptor is closed only when nothing submitted on it is still to complete.

use std::io::IoSlice;
use std::net::SocketAddr;

use nix::errno::Errno;

use super::buffers::{Buffers, ChunkId};
use super::time::Time;
use super::token::Token;
use crate::net::Endpoint;

/// A descriptor number. A bare number on purpose: who closes it, and when, is the session's
/// state (see `l4/ending.rs`), and the simulation has numbers without a kernel behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// Index of a pipe in the driver's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeId(pub u16);

/// What `submit_poll` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Readable,
    Writable,
    /// Mask 0: silent on data, completes on a reset. A FIN may make it complete as well, with
    /// more to come and without [`POLL_ERR`].
    Reset,
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub token: Token,
    /// A count, a descriptor or a poll mask; or the error.
    pub result: Result<u32, Errno>,
    /// The chunk that holds received bytes (their number is `result`, and the chunk's length).
    pub chunk: Option<ChunkId>,
    /// More completions of the same operation will come.
    pub more: bool,
}

/// Bits of a poll completion that matter here.
pub const POLL_ERR: u32 = libc::POLLERR as u32;
pub const POLL_HUP: u32 = libc::POLLHUP as u32;

/// Whether a poll mask means a reset. The error may have been taken by another operation; but
/// a hang-up of a TCP socket that we sent no FIN on is none in order either.
#[must_use]
pub const fn is_reset(mask: u32, fin_sent: bool) -> bool {
    mask & POLL_ERR != 0 || (mask & POLL_HUP != 0 && !fin_sent)
}

/// Options of a socket that a worker opens towards a server.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Local address to bind first.
    pub source: Option<std::net::IpAddr>,
}

/// Options both sides of a session get (listeners hand theirs down to what they accept).
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
    /// First keep-alive probe after this much silence, in seconds.
    pub keepalive_secs: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds; 0 leaves the kernel's.
    pub user_timeout_ms: u32,
}

/// The way to a peer, as TCP has measured it (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Smoothed round trip and its variation, in microseconds.
    pub rtt_us: u32,
    pub rttvar_us: u32,
    /// Segments sent again since the connection began.
    pub retransmits: u32,
}

pub trait Driver: 'static {
    /// The cached clock: taken once a turn.
    fn now(&self) -> Time;

    /// The clock, looked at now: for what is short against a turn.
    fn clock(&self) -> Time;

    /// Submits what is queued, waits for at least one completion or until `deadline`, and
    /// appends all completions there are to `out`. Does not wait if `deadline <= now`.
    ///
    /// # Errors
    /// Only what no worker can go on from (the ring itself refused).
    fn turn(&mut self, deadline: Time, out: &mut Vec<Completion>) -> std::io::Result<()>;

    // ---- operations: one final completion each (D1) ----

    /// Accepts one connection, or with `many` until cancelled or failed. `result` is the fd,
    /// non-blocking and close-on-exec.
    fn submit_accept(&mut self, listener: Fd, many: bool, token: Token);
    fn submit_connect(&mut self, fd: Fd, to: &Endpoint, token: Token);
    /// Receives into ring buffers, once or with `many` until EOF, error or cancel.
    /// `ENOBUFS` when no ring buffer is free.
    fn submit_recv(&mut self, fd: Fd, many: bool, token: Token);
    /// Receives once into the free tail of a block or large chunk that the caller owns; the
    /// completion brings the count and no chunk, and the caller extends the chunk.
    fn submit_recv_into(&mut self, fd: Fd, chunk: ChunkId, token: Token);
    /// Sends the bytes of `chunk`. With `wait_all`, completes when all are sent or an error
    /// came (then the count is short); without, sends what fits now, or `EAGAIN`.
    fn submit_send(&mut self, fd: Fd, chunk: ChunkId, wait_all: bool, token: Token);
    fn submit_poll(&mut self, fd: Fd, interest: Interest, token: Token);
    /// Asks the operation with `token` to end soon. Its final completion still comes.
    fn submit_cancel(&mut self, token: Token);

    // ---- at once (D2) ----

    /// Sends the bytes of `chunk` without waiting.
    ///
    /// # Errors
    /// send(2)'s; `EAGAIN` when the socket takes nothing now.
    fn send_now(&mut self, fd: Fd, chunk: ChunkId) -> Result<u32, Errno>;
    /// Sends bytes that are in no chunk.
    ///
    /// # Errors
    /// As [`Driver::send_now`].
    fn send_bytes_now(&mut self, fd: Fd, bytes: &[u8]) -> Result<u32, Errno>;
    /// Sends the parts one after the other without waiting.
    ///
    /// # Errors
    /// As [`Driver::send_now`].
    fn send_parts_now(&mut self, fd: Fd, parts: &[IoSlice<'_>]) -> Result<u32, Errno>;
    /// Receives into `room` without waiting. 0 is EOF.
    ///
    /// # Errors
    /// recv(2)'s; `EAGAIN` when there is nothing now.
    fn recv_bytes_now(&mut self, fd: Fd, room: &mut [u8]) -> Result<u32, Errno>;
    /// Accepts a client that is in the queue already, or `EAGAIN`.
    ///
    /// # Errors
    /// accept(2)'s.
    fn accept_now(&mut self, listener: Fd) -> Result<Fd, Errno>;
    /// Lets no new client into the listener's queue; who is in it can still be accepted.
    fn bar_now(&mut self, listener: Fd);
    /// A non-blocking stream socket for `to`, with `TCP_NODELAY`, bound to a source.
    ///
    /// # Errors
    /// socket(2)'s and bind(2)'s: no descriptor left, not a local address.
    fn open_now(&mut self, to: &Endpoint, options: &StreamOptions) -> Result<Fd, Errno>;
    /// After a connect that ended with `EADDRNOTAVAIL`: lets the socket take any local port, where
    /// it was offered a few. False if it had all: there is none left.
    fn lift_ports_now(&mut self, fd: Fd) -> bool;
    /// Sets keep-alive and user timeout of a TCP socket.
    fn keep_alive_now(&mut self, fd: Fd, options: &TcpOptions);
    /// Puts the FIN on the wire after what is queued: `shutdown(SHUT_WR)`.
    fn finish_now(&mut self, fd: Fd);
    /// Sends an RST and ends every operation armed on `fd`: `connect(AF_UNSPEC)`. On a unix
    /// socket, `shutdown(SHUT_RDWR)`.
    fn reset_now(&mut self, fd: Fd);
    fn close_now(&mut self, fd: Fd);
    /// Another worker gets the descriptor: nothing of it stays here, and it stays open. D4 holds as
    /// for a close.
    fn forget_now(&mut self, fd: Fd);
    /// Bytes the peer has not acknowledged (`SIOCOUTQ`).
    fn unsent_now(&mut self, fd: Fd) -> u32;
    /// What the kernel has measured on the way to the peer, at about the cost of a small send;
    /// `None` for a unix socket, or when nothing was measured. A reset forgets it.
    fn path_now(&mut self, fd: Fd) -> Option<PathInfo>;
    /// The peer's address; `None` for a unix socket or a connection that is gone.
    fn peer_now(&mut self, fd: Fd) -> Option<SocketAddr>;
    /// The local address of a connection, for the PROXY header.
    fn local_now(&mut self, fd: Fd) -> Option<SocketAddr>;

    // ---- splice, through a bounded pool of pipes ----

    /// An empty pipe, or `None` when the pool is used up.
    fn take_pipe(&mut self) -> Option<PipeId>;
    /// Gives an empty pipe back. A pipe that still holds bytes is closed instead.
    fn give_pipe(&mut self, pipe: PipeId, empty: bool);
    /// How many bytes a pipe takes.
    fn pipe_capacity(&self, pipe: PipeId) -> u32;
    /// Moves up to `max` bytes from the socket into the pipe. 0 is EOF.
    ///
    /// # Errors
    /// splice(2)'s; `EAGAIN` when the socket is empty or the pipe full.
    fn splice_in_now(&mut self, fd: Fd, pipe: PipeId, max: u32) -> Result<u32, Errno>;
    /// Moves up to `max` bytes from the pipe into the socket.
    ///
    /// # Errors
    /// splice(2)'s; `EAGAIN` when the socket takes nothing now.
    fn splice_out_now(&mut self, pipe: PipeId, fd: Fd, max: u32) -> Result<u32, Errno>;
    /// Reads bytes out of the pipe into the free tail of `chunk`, extending it.
    fn read_pipe_now(&mut self, pipe: PipeId, chunk: ChunkId) -> u32;

    // ---- memory ----

    fn buffers(&mut self) -> &mut Buffers;
    /// Gives a chunk back: a ring buffer to the kernel, a block to its slab.
    fn release(&mut self, chunk: ChunkId);
    /// Ring buffers that the kernel could fill now.
    fn ring_free(&self) -> u32;
}

#[cfg(test)]
mod tests;
