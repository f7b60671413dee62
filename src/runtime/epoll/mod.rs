//! The epoll driver: for containers and kernels that refuse io_uring.
//!
//! The same operations as the ring has, made of readiness and calls that do not wait. A
//! descriptor is added once, edge-triggered, with everything that can be told about it; what was
//! told is kept in its [`Socket`] until a call finds that it no longer holds. An operation is
//! tried when its descriptor is due: it became ready, or is said to be ready still.
//!
//! ```text
//! submit ─▶ list of the descriptor ──(ready)──▶ due ─ turn ─▶ try ─▶ completion
//!                     ▲                                        │ EAGAIN: no longer ready
//!                     └────────────────────────────────────────┘
//! ```
//!
//! - E1: a bit of readiness is taken away only by who has seen that it does not hold: EAGAIN, a
//!   poll(2), a short read of a TCP socket about which nothing else was told. The kernel tells of
//!   every change after that, so no wake-up is lost.
//! - E2: a completion is made only in a turn, never in a submit (D1).
//! - E3: one descriptor makes at most [`TRIES_MAX`] completions a turn of one operation; then the
//!   others have their go, and it stays due.
//! - E4: when the ring buffers run out in the turn that gave some away, whoever comes too late
//!   waits for the next turn, before which most of them are back. `ENOBUFS` is for a turn that
//!   begins with none.
//!
//! Ring buffers are those of the same [`Buffers`]; here they stand in a plain list, the one that
//! was used last first, because it is in the cache.

mod ops;
mod ready;
mod tries;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use self::ops::{Kind, NONE, Ops};
use self::ready::Socket;
use super::buffers::{self, Buffers, ChunkId, Sizes};
use super::calls::shared_calls;
use super::driver::{
    Completion, Driver, Fd, Interest, PathInfo, PipeId, StreamOptions, TcpOptions,
};
use super::pipes::Pipes;
use super::ports::Ports;
use super::sys;
use super::time::Time;
use super::token::Token;
use crate::net::Endpoint;

/// The longest one wait lasts, as the ring's.
const WAIT_MAX_NS: u64 = 1_000_000_000;

/// Events taken by one call. More come with the next.
const EVENTS_MAX: usize = 512;

/// Completions of one operation in one turn (E3): an eighth of a ring of 64, so that one busy
/// socket does not take it whole.
const TRIES_MAX: u32 = 8;

/// A worker's driver. Nothing in it belongs to a thread.
#[derive(Debug)]
pub struct Epoll {
    set: OwnedFd,
    events: Box<[libc::epoll_event]>,
    /// Waits are to the nanosecond.
    fine: bool,
    /// By number of the descriptor.
    sockets: Vec<Socket>,
    ops: Ops,
    /// Descriptors to look at.
    due: VecDeque<i32>,
    buffers: Buffers,
    /// Ring buffers that nobody has.
    free: Vec<ChunkId>,
    /// Some were given out in this turn.
    gave: bool,
    pipes: Pipes,
    ports: Ports,
    now: Time,
}

impl Epoll {
    /// # Errors
    /// No descriptor left, or no memory.
    pub fn new(sizes: Sizes, pipes_max: u16, pipe_bytes: u32) -> io::Result<Self> {
        let buffers = Buffers::new(sizes)?;
        let free = (0..sizes.ring_count).rev().map(|number| buffers.ring_chunk(number)).collect();
        Ok(Self {
            set: sys::epoll_new()?,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX].into(),
            fine: true,
            sockets: Vec::new(),
            ops: Ops::default(),
            due: VecDeque::new(),
            buffers,
            free,
            gave: false,
            pipes: Pipes::new(pipes_max, pipe_bytes),
            ports: Ports::of_host(),
            now: Time(sys::monotonic_ns()),
        })
    }

    fn socket(&mut self, fd: Fd) -> &mut Socket {
        let at = fd.0.max(0) as usize;
        if at >= self.sockets.len() {
            self.sockets.resize_with(at + 1, Socket::default);
        }
        &mut self.sockets[at]
    }

    /// A number that the kernel has just given: nothing known of it holds any more.
    fn fresh(&mut self, fd: i32) -> Fd {
        *self.socket(Fd(fd)) = Socket::default();
        Fd(fd)
    }

    /// Looks at `fd` in this turn, or in the next if this one has looked.
    fn make_due(&mut self, fd: Fd) {
        let socket = self.socket(fd);
        if !socket.due {
            socket.due = true;
            self.due.push_back(fd.0);
        }
    }

    /// Says what a call on `fd` has shown not to hold (E1).
    fn spent<T>(&mut self, fd: Fd, bit: u8, result: Result<T, Errno>) -> Result<T, Errno> {
        if matches!(result, Err(Errno::EAGAIN)) {
            self.socket(fd).ready &= !bit;
        }
        result
    }

    /// What a read of `fd` gave, with the reset that a connect has taken the error of.
    fn read(&mut self, fd: Fd, result: Result<u32, Errno>) -> Result<u32, Errno> {
        match result {
            Ok(0) if std::mem::take(&mut self.socket(fd).reset) => Err(Errno::ECONNRESET),
            result => result,
        }
    }

    fn submit(&mut self, fd: Fd, kind: Kind, token: Token) {
        // connect(2) comes first: before it, the kernel says that the socket has hung up.
        let begins = matches!(kind, Kind::Connect { to: Some(_) });
        let mut first = self.socket(fd).first;
        let key = self.ops.insert(&mut first, fd, kind, token);
        self.socket(fd).first = first;
        if !begins && let Err(errno) = self.add(fd) {
            self.ops.get_mut(key).end = Some(errno);
            return self.make_due(fd);
        }
        // One that was just added is told of by the next wait.
        if begins || self.socket(fd).ready & self.ops[key].needs() != 0 {
            self.make_due(fd);
        }
    }

    /// Asks to be told about `fd`, if that was not done before.
    fn add(&mut self, fd: Fd) -> Result<(), Errno> {
        if self.socket(fd).added {
            return Ok(());
        }
        sys::epoll_add(&self.set, fd.0, ready::EVENTS)?;
        let domain = sys::option(fd.0, libc::SOL_SOCKET, libc::SO_DOMAIN);
        let socket = self.socket(fd);
        socket.added = true;
        socket.tcp = matches!(domain, Some(libc::AF_INET | libc::AF_INET6));
        Ok(())
    }

    /// Waits for events and makes their descriptors due.
    fn wait(&mut self, wait_ns: u64) -> io::Result<()> {
        let wait_ns = if self.due.is_empty() { wait_ns } else { 0 };
        let count = sys::epoll_wait(&self.set, &mut self.events, wait_ns, &mut self.fine)?;
        for at in 0..count {
            let libc::epoll_event { events, u64: data } = self.events[at];
            let fd = Fd(data as i32);
            let socket = self.socket(fd);
            socket.ready |= ready::bits(events);
            if socket.first != NONE {
                self.make_due(fd);
            }
        }
        Ok(())
    }

    /// Looks once at every descriptor that is due; who becomes due meanwhile is for later.
    fn work(&mut self, out: &mut Vec<Completion>) {
        for _ in 0..self.due.len() {
            let Some(fd) = self.due.pop_front() else { return };
            let fd = Fd(fd);
            self.socket(fd).due = false;
            let mut at = self.socket(fd).first;
            while at != NONE {
                let next = self.ops[at].next;
                self.attempt(fd, at, out);
                at = next;
            }
        }
    }
}

impl Driver for Epoll {
    fn now(&self) -> Time {
        self.now
    }

    fn clock(&self) -> Time {
        Time(sys::monotonic_ns())
    }

    fn turn(&mut self, deadline: Time, out: &mut Vec<Completion>) -> io::Result<()> {
        let begun = sys::monotonic_ns();
        let end = deadline.0.min(begun + WAIT_MAX_NS);
        let mut wait = end.saturating_sub(begun);
        self.gave = false;
        loop {
            self.wait(wait)?;
            self.now = Time(sys::monotonic_ns());
            self.work(out);
            wait = end.saturating_sub(self.now.0);
            if !out.is_empty() || wait == 0 {
                return Ok(());
            }
        }
    }

    fn submit_accept(&mut self, listener: Fd, many: bool, token: Token) {
        self.submit(listener, Kind::Accept { many }, token);
        self.socket(listener).listens = true;
    }

    fn submit_connect(&mut self, fd: Fd, to: &Endpoint, token: Token) {
        self.submit(fd, Kind::Connect { to: Some(Box::new(to.clone())) }, token);
    }

    fn submit_recv(&mut self, fd: Fd, many: bool, token: Token) {
        self.submit(fd, Kind::Recv { many }, token);
    }

    fn submit_recv_into(&mut self, fd: Fd, chunk: ChunkId, token: Token) {
        self.submit(fd, Kind::RecvInto { chunk }, token);
    }

    fn submit_send(&mut self, fd: Fd, chunk: ChunkId, wait_all: bool, token: Token) {
        let len = self.buffers.len(chunk);
        self.submit(fd, Kind::Send { chunk, len, done: 0, wait_all }, token);
        if !wait_all {
            // It says EAGAIN now rather than waiting until it would not.
            self.make_due(fd);
        }
    }

    fn submit_poll(&mut self, fd: Fd, interest: Interest, token: Token) {
        self.submit(fd, Kind::Poll { interest, told: 0 }, token);
    }

    fn submit_cancel(&mut self, token: Token) {
        let Some(key) = self.ops.find(token) else { return };
        let op = self.ops.get_mut(key);
        op.end = op.end.or(Some(Errno::ECANCELED));
        let fd = op.fd;
        self.make_due(fd);
    }

    fn send_now(&mut self, fd: Fd, chunk: ChunkId) -> Result<u32, Errno> {
        let result = sys::send(fd.0, self.buffers.span(chunk));
        self.spent(fd, ready::WRITE, result)
    }

    fn send_bytes_now(&mut self, fd: Fd, bytes: &[u8]) -> Result<u32, Errno> {
        let result = sys::send(fd.0, (bytes.as_ptr(), bytes.len() as u32));
        self.spent(fd, ready::WRITE, result)
    }

    fn send_parts_now(&mut self, fd: Fd, parts: &[IoSlice<'_>]) -> Result<u32, Errno> {
        let result = sys::send_parts(fd.0, parts);
        self.spent(fd, ready::WRITE, result)
    }

    fn recv_bytes_now(&mut self, fd: Fd, room: &mut [u8]) -> Result<u32, Errno> {
        let result = sys::recv(fd.0, room);
        let result = self.read(fd, result);
        self.spent(fd, ready::READ, result)
    }

    fn accept_now(&mut self, listener: Fd) -> Result<Fd, Errno> {
        sys::accept(listener.0).map(|fd| self.fresh(fd))
    }

    fn bar_now(&mut self, listener: Fd) {
        sys::drop_syns(listener.0);
    }

    fn open_now(&mut self, to: &Endpoint, options: &StreamOptions) -> Result<Fd, Errno> {
        let fd = sys::open(to, options)?;
        if let Endpoint::Ip(to) = to {
            self.ports.offer(fd, *to);
        }
        Ok(self.fresh(fd))
    }

    fn reset_now(&mut self, fd: Fd) {
        // What is armed on it finds the socket dead: the kernel tells of that as of any error. A
        // connect could not tell it from a reset by the peer.
        sys::disconnect(fd.0);
        let mut at = self.socket(fd).first;
        while at != NONE {
            let op = self.ops.get_mut(at);
            if matches!(op.kind, Kind::Connect { .. }) {
                op.end = op.end.or(Some(Errno::ECONNABORTED));
            }
            at = op.next;
        }
        self.make_due(fd);
    }

    fn close_now(&mut self, fd: Fd) {
        let socket = std::mem::take(self.socket(fd));
        debug_assert!(socket.first == NONE, "D4: {fd:?} is closed under an operation");
        if socket.listens {
            // Another process may have the same socket, and then it would stay in the set.
            sys::epoll_remove(&self.set, fd.0);
        }
        sys::close(fd.0);
    }

    fn forget_now(&mut self, fd: Fd) {
        let socket = std::mem::take(self.socket(fd));
        debug_assert!(socket.first == NONE, "D4: {fd:?} is forgotten under an operation");
        if socket.added {
            sys::epoll_remove(&self.set, fd.0);
        }
    }

    shared_calls!();

    fn splice_in_now(&mut self, fd: Fd, pipe: PipeId, max: u32) -> Result<u32, Errno> {
        // EAGAIN says nothing about the socket here: it may have been the pipe that is full (E1).
        let result = sys::splice(fd.0, self.pipes.end(pipe, 1), max);
        self.read(fd, result)
    }

    fn release(&mut self, chunk: ChunkId) {
        match self.buffers.kind(chunk) {
            buffers::Kind::Ring => {
                debug_assert!(self.free.len() < self.buffers.sizes().ring_count as usize, "B1");
                self.free.push(chunk);
            }
            buffers::Kind::Block | buffers::Kind::Large => self.buffers.give(chunk),
        }
    }

    fn ring_free(&self) -> u32 {
        self.free.len() as u32
    }
}
