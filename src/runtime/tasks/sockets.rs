//! The connections of tasks: what is in flight on each, and what came of it.
//!
//! ```text
//! insert ─▶ owned by a Socket ─▶ orphaned (its end is decided) ─▶ nothing in flight ─▶ gone
//! ```

use std::task::{Context, Poll, Waker};

use nix::errno::Errno;

use crate::net::Endpoint;
use crate::runtime::budget::Cover;
use crate::runtime::buffers::ChunkId;
use crate::runtime::driver::{Completion, Driver, Fd, Interest};
use crate::runtime::mail::Stolen;
use crate::runtime::token::{Tag, Token};

/// One direction's operation. A socket has two: receive, and connect or wait for room.
const RECV: u8 = 0;
const WRITE: u8 = 1;

/// A socket whose owner gave it back, with nothing in flight any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// To the session it was borrowed from, which the owner named.
    Returned { to: u64 },
    /// To another worker: without a descriptor, if something had happened on it.
    Parted(Stolen),
}

/// What becomes of a descriptor once nothing is in flight on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Close,
    /// It stays open and goes back to whom it was borrowed from.
    Return {
        to: u64,
    },
    /// It stays open and goes to another worker, if nothing has come on it.
    Part(Stolen),
}

/// What a receive brought.
#[derive(Clone, Copy, Debug)]
pub(super) enum Got {
    /// Bytes, in a chunk that is the taker's.
    Chunk(ChunkId),
    /// There is something to receive, or the end.
    Readable,
    Eof,
    Failed(Errno),
}

#[derive(Debug, Default)]
enum State<T> {
    #[default]
    Idle,
    Armed,
    Done(T),
}

#[derive(Debug)]
struct Operation<T> {
    state: State<T>,
    waker: Option<Waker>,
}

impl<T> Default for Operation<T> {
    fn default() -> Self {
        Self { state: State::Idle, waker: None }
    }
}

impl<T> Operation<T> {
    const fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed)
    }

    fn finish(&mut self, result: T) {
        self.state = State::Done(result);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<T> {
        match std::mem::take(&mut self.state) {
            State::Done(result) => Poll::Ready(result),
            other => {
                self.state = other;
                match &mut self.waker {
                    Some(known) if known.will_wake(cx.waker()) => {}
                    known => *known = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    fd: Fd,
    generation: u32,
    unix: bool,
    /// A connection to a server, which the worker's tasks share: [`Cover`] counts it.
    shared: bool,
    /// The number of that server, once somebody has said it.
    server: Option<u32>,
    used: bool,
    recv: Operation<Got>,
    /// The receive in flight only waits for readability.
    recv_polls: bool,
    write: Operation<Result<(), Errno>>,
    /// Sticky: the kernel tells of a reset once.
    reset_seen: bool,
    end: Option<End>,
}

/// All sockets of a worker's tasks, by slot.
#[derive(Debug)]
pub(super) struct Sockets {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Orphans that [`Sockets::sweep`] has to look at.
    orphans: Vec<u32>,
    pub cover: Cover,
}

impl Sockets {
    pub const fn new(cover: Cover) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), orphans: Vec::new(), cover }
    }

    /// A connection to a server.
    pub fn insert_shared(&mut self, fd: Fd, unix: bool) -> u32 {
        let slot = self.insert(fd, unix);
        self.entries[slot as usize].shared = true;
        self.cover.opened();
        slot
    }

    pub fn insert(&mut self, fd: Fd, unix: bool) -> u32 {
        let entry = |generation| Entry {
            fd,
            generation,
            unix,
            shared: false,
            server: None,
            used: true,
            recv: Operation::default(),
            recv_polls: false,
            write: Operation::default(),
            reset_seen: false,
            end: None,
        };
        if let Some(slot) = self.free.pop() {
            let old = &mut self.entries[slot as usize];
            *old = entry(old.generation.wrapping_add(1));
            return slot;
        }
        self.entries.push(entry(1));
        self.entries.len() as u32 - 1
    }

    pub fn belongs_to(&mut self, slot: u32, server: u32) {
        self.entries[slot as usize].server = Some(server);
    }

    /// Resets the connections to a server, whatever is in flight on them.
    pub fn reset_server(&mut self, server: u32, driver: &mut impl Driver) {
        let own = |entry: &&mut Entry| entry.used && entry.server == Some(server);
        for entry in self.entries.iter_mut().filter(own) {
            entry.reset_seen = true;
            driver.reset_now(entry.fd);
        }
    }

    pub fn fd(&self, slot: u32) -> Fd {
        self.entries[slot as usize].fd
    }

    pub fn is_unix(&self, slot: u32) -> bool {
        self.entries[slot as usize].unix
    }

    fn token(&self, slot: u32, op: u8) -> Token {
        Token::new(Tag::Task, op, slot, self.entries[slot as usize].generation)
    }

    /// Sockets there are, orphans included.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Asks for the next bytes, unless that is under way or done.
    pub fn arm_recv(&mut self, slot: u32, driver: &mut impl Driver) {
        let token = self.token(slot, RECV);
        let entry = &mut self.entries[slot as usize];
        if matches!(entry.recv.state, State::Idle) {
            entry.recv.state = State::Armed;
            entry.recv_polls = false;
            driver.submit_recv(entry.fd, false, token);
        }
    }

    /// As [`Sockets::arm_recv`], without a buffer: waits until there is something.
    pub fn arm_readable(&mut self, slot: u32, driver: &mut impl Driver) {
        let token = self.token(slot, RECV);
        let entry = &mut self.entries[slot as usize];
        if matches!(entry.recv.state, State::Idle) {
            entry.recv.state = State::Armed;
            entry.recv_polls = true;
            driver.submit_poll(entry.fd, Interest::Readable, token);
        }
    }

    pub fn poll_recv(&mut self, slot: u32, cx: &Context<'_>) -> Poll<Got> {
        self.entries[slot as usize].recv.poll(cx)
    }

    /// Nothing is known to have come of the receive: no bytes, no end, no error. That no ring
    /// buffer was free for it says nothing about the peer.
    pub fn is_quiet(&self, slot: u32) -> bool {
        let state = &self.entries[slot as usize].recv.state;
        !matches!(state, State::Done(_)) || is_unknown(state)
    }

    /// As [`Sockets::is_quiet`], of the socket itself where the receive cannot say.
    pub fn look_quiet(&mut self, slot: u32, driver: &mut impl Driver) -> bool {
        let entry = &mut self.entries[slot as usize];
        if is_unknown(&entry.recv.state) {
            entry.recv.state = State::Idle;
            return driver.recv_bytes_now(entry.fd, &mut [0]) == Err(Errno::EAGAIN);
        }
        self.is_quiet(slot)
    }

    /// No receive is in flight or has brought something.
    pub fn is_recv_idle(&self, slot: u32) -> bool {
        matches!(self.entries[slot as usize].recv.state, State::Idle)
    }

    /// Nothing is in flight or waits to be taken, and no reset was seen.
    pub fn is_at_rest(&self, slot: u32) -> bool {
        let entry = &self.entries[slot as usize];
        let idle = matches!((&entry.recv.state, &entry.write.state), (State::Idle, State::Idle));
        idle && !entry.reset_seen
    }

    pub fn connect(&mut self, slot: u32, to: &Endpoint, driver: &mut impl Driver) {
        let token = self.token(slot, WRITE);
        let entry = &mut self.entries[slot as usize];
        entry.write.state = State::Armed;
        driver.submit_connect(entry.fd, to, token);
    }

    /// Asks for word when the socket takes bytes again.
    pub fn arm_writable(&mut self, slot: u32, driver: &mut impl Driver) {
        let token = self.token(slot, WRITE);
        let entry = &mut self.entries[slot as usize];
        if matches!(entry.write.state, State::Idle) {
            entry.write.state = State::Armed;
            driver.submit_poll(entry.fd, Interest::Writable, token);
        }
    }

    pub fn poll_write(&mut self, slot: u32, cx: &Context<'_>) -> Poll<Result<(), Errno>> {
        self.entries[slot as usize].write.poll(cx)
    }

    pub fn see_reset(&mut self, slot: u32) {
        self.entries[slot as usize].reset_seen = true;
    }

    pub fn reset_seen(&self, slot: u32) -> bool {
        self.entries[slot as usize].reset_seen
    }

    /// The owner is gone.
    pub fn orphan(&mut self, slot: u32, end: End) {
        let entry = &mut self.entries[slot as usize];
        debug_assert!(entry.end.is_none(), "a socket has one owner");
        entry.end = Some(end);
        entry.recv.waker = None;
        entry.write.waker = None;
        if entry.shared {
            self.cover.closes();
        }
        self.orphans.push(slot);
    }

    /// Something is left to do for sockets whose owner is gone.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// One of the operations here has completed.
    pub fn complete(&mut self, completion: Completion, driver: &mut impl Driver) {
        let token = completion.token;
        let known = self.entries.get_mut(token.slot() as usize);
        let Some(entry) = known.filter(|e| e.used && e.generation == token.generation()) else {
            debug_assert!(false, "a completion without a socket: {token:?}");
            return;
        };
        if token.op() == WRITE {
            entry.write.finish(completion.result.map(drop));
        } else {
            let got = entry.received(completion);
            if let (Got::Eof, Some(chunk)) = (got, completion.chunk) {
                driver.release(chunk);
            }
            entry.recv.finish(got);
        }
        if entry.end.is_some() {
            self.orphans.push(token.slot());
        }
    }

    /// Ends what orphans have in flight, and lets go of those that have nothing.
    pub fn sweep(&mut self, driver: &mut impl Driver, released: &mut Vec<Released>) {
        while let Some(slot) = self.orphans.pop() {
            let (recv, write) = (self.token(slot, RECV), self.token(slot, WRITE));
            let entry = &mut self.entries[slot as usize];
            let Some(end) = entry.end.filter(|_| entry.used) else { continue };
            if let State::Done(Got::Chunk(chunk)) = entry.recv.state {
                entry.recv.state = State::Idle;
                driver.release(chunk);
            }
            if entry.recv.is_armed() || entry.write.is_armed() {
                if entry.recv.is_armed() {
                    driver.submit_cancel(recv);
                }
                if entry.write.is_armed() {
                    driver.submit_cancel(write);
                }
                // Its last completion puts it on the list again.
                continue;
            }
            match end {
                End::Return { to } => released.push(Released::Returned { to }),
                End::Part(stolen) => {
                    let fd = entry.part(driver);
                    released.push(Released::Parted(Stolen { fd, ..stolen }));
                }
                End::Close => driver.close_now(entry.fd),
            }
            entry.used = false;
            if entry.shared {
                self.cover.closed();
            }
            self.free.push(slot);
        }
    }
}

/// The receive has found no buffer, and whether there was something for it is not known.
const fn is_unknown(state: &State<Got>) -> bool {
    matches!(state, State::Done(Got::Failed(Errno::ENOBUFS)))
}

impl Entry {
    /// Leaves the descriptor to another driver; or closes it. A cancel may win against what came
    /// just before, so that only a look can tell whether something did.
    fn part(&self, driver: &mut impl Driver) -> Option<Fd> {
        let ended = matches!(self.recv.state, State::Done(Got::Failed(Errno::ECANCELED)));
        if ended && driver.recv_bytes_now(self.fd, &mut [0]) == Err(Errno::EAGAIN) {
            driver.forget_now(self.fd);
            return Some(self.fd);
        }
        driver.close_now(self.fd);
        None
    }

    fn received(&mut self, completion: Completion) -> Got {
        match completion.result {
            Ok(_) if self.recv_polls => Got::Readable,
            Ok(0) if self.reset_seen => Got::Failed(Errno::ECONNRESET),
            Ok(0) => Got::Eof,
            Ok(_) => match completion.chunk {
                Some(chunk) => Got::Chunk(chunk),
                None => Got::Readable,
            },
            Err(errno) => {
                if matches!(errno, Errno::ECONNRESET | Errno::EPIPE) {
                    self.reset_seen = true;
                }
                Got::Failed(errno)
            }
        }
    }
}
