//! The doors: listening sockets, the descriptor budget, the hand-over to a less busy worker.
//!
//! While plenty of descriptors are free a door accepts in multishot. Below [`PLENTY`] it takes
//! one client per descriptor pair it has reserved; with none left it takes nobody, and clients
//! wait in the backlog until a session ends.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::gate::Gate;
use super::session::Phase;
use crate::control::notice::Notice;
use crate::net::Peer;
use crate::observe::reason::Reason;
use crate::registry::{ListenerId, ServerId};
use crate::runtime::driver::{Completion, Driver, Fd};
use crate::runtime::mail::Mail;
use crate::runtime::token::{Tag, Token};

/// Free pairs from which on multishot accept is safe: it was seen to take 114 in one enter.
const PLENTY: i64 = 256;

/// How long a door stays shut after the kernel said that descriptors are used up.
const SHUT: Duration = Duration::from_millis(100);

/// Between the two looks at the queue of a door that closes for good: a handshake under way.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// How much busier than another worker this one must be to hand a connection over.
const IMBALANCE_MIN: u32 = 16;

/// Descriptor pairs that are left for sessions, over all workers.
#[derive(Debug)]
pub struct Budget(AtomicI64);

impl Budget {
    #[must_use]
    pub const fn new(pairs: u32) -> Self {
        Self(AtomicI64::new(pairs as i64))
    }

    pub(super) fn free(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a pair for a client that is here already.
    fn take(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a pair if one is left.
    fn reserve(&self) -> bool {
        let less = |free: i64| (free > 0).then(|| free - 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub fn give(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    No,
    /// One client, whose descriptor pair is reserved.
    One,
    Many,
}

/// One listening socket of this worker.
#[derive(Debug)]
pub struct Door {
    listener: ListenerId,
    fd: Fd,
    unix: bool,
    accepting: Accepting,
    closed: bool,
}

impl<D: Driver> Gate<D> {
    /// Adds a listening socket; [`Gate::open_doors`] begins to accept.
    pub fn add_door(&mut self, listener: ListenerId, fd: Fd, unix: bool) {
        let accepting = Accepting::No;
        self.doors.push(Door { listener, fd, unix, accepting, closed: false });
    }

    /// Accepts where it may and does not yet.
    pub fn open_doors(&mut self) {
        if self.draining {
            return self.close_doors();
        }
        self.doors_at = None;
        for at in 0..self.doors.len() {
            if self.doors[at].accepting != Accepting::No || self.doors[at].closed {
                continue;
            }
            let many = self.shared.budget.free() >= PLENTY && !self.doors[at].unix;
            if !many && !self.shared.budget.reserve() {
                self.doors_at = Some(self.driver.now() + SHUT);
                return;
            }
            self.doors[at].accepting = if many { Accepting::Many } else { Accepting::One };
            let token = Token::new(Tag::Accept, 0, at as u32, 0);
            self.driver.submit_accept(self.doors[at].fd, many, token);
        }
    }

    pub(super) fn on_accepted(&mut self, completion: Completion) {
        let at = completion.token.slot() as usize;
        let Some(door) = self.doors.get_mut(at) else { return };
        let accepting = door.accepting;
        if !completion.more {
            door.accepting = Accepting::No;
        }
        match completion.result {
            Ok(fd) => {
                if accepting == Accepting::Many {
                    self.shared.budget.take();
                }
                self.enter(at, Fd(fd as i32));
                if self.doors[at].accepting == Accepting::Many && self.shared.budget.free() < PLENTY
                {
                    self.driver.submit_cancel(completion.token);
                }
            }
            Err(errno) => {
                if accepting == Accepting::One {
                    self.shared.budget.give();
                }
                if matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) {
                    self.doors_at = Some(self.driver.now() + SHUT);
                    return;
                }
            }
        }
        if self.doors[at].accepting == Accepting::No && self.doors_at.is_none() {
            self.open_doors();
        }
    }

    /// A client came in: it is served here, or by a worker with clearly less to do.
    fn enter(&mut self, at: usize, fd: Fd) {
        let (listener, unix) = (self.doors[at].listener, self.doors[at].unix);
        let peer = match self.driver.peer_now(fd) {
            Some(address) => Peer::from(address),
            None if unix => Peer::UNIX,
            None => {
                // Reset while it waited in the queue: there is nobody to serve.
                self.driver.close_now(fd);
                return self.shared.budget.give();
            }
        };
        let Some(other) = self.less_busy() else { return self.admit(fd, listener, peer, unix) };
        let mailbox = &self.shared.workers[other].mailbox;
        match mailbox.post(Mail::Adopt { fd, listener, peer }) {
            Ok(()) => self.counts.handed_over.add(1),
            Err(_) => self.admit(fd, listener, peer, unix),
        }
    }

    /// Two choices: this worker and a random other.
    fn less_busy(&mut self) -> Option<usize> {
        let workers = &self.shared.workers;
        if workers.len() < 2 {
            return None;
        }
        let step = 1 + self.rng.below(workers.len() as u64 - 1) as usize;
        let other = (usize::from(self.worker) + step) % workers.len();
        let mine = self.sessions.len() as u32;
        let theirs = workers[other].counts.sessions.load(Ordering::Relaxed);
        (mine > theirs + theirs / 8 + IMBALANCE_MIN).then_some(other)
    }

    /// Serves a connection that a busier worker accepted.
    pub fn adopt(&mut self, fd: Fd, listener: ListenerId, peer: Peer) {
        self.admit(fd, listener, peer, peer == Peer::UNIX);
    }

    /// Stops accepting for good. Who is in an accept queue already is still served.
    pub fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            for at in 0..self.doors.len() {
                self.driver.bar_now(self.doors[at].fd);
                self.empty_queue(at);
            }
            self.doors_at = Some(self.driver.now() + LAST_LOOK);
            self.drain_http();
        }
    }

    fn close_doors(&mut self) {
        if self.doors_at.is_some_and(|at| at > self.driver.now()) {
            return;
        }
        self.doors_at = None;
        for at in 0..self.doors.len() {
            if self.doors[at].closed {
                continue;
            }
            self.empty_queue(at);
            if self.doors[at].accepting == Accepting::No {
                self.doors[at].closed = true;
                self.driver.close_now(self.doors[at].fd);
            } else {
                self.driver.submit_cancel(Token::new(Tag::Accept, 0, at as u32, 0));
                self.doors_at = Some(self.driver.now() + LAST_LOOK);
            }
        }
    }

    fn empty_queue(&mut self, at: usize) {
        if self.doors[at].closed {
            return;
        }
        while let Ok(fd) = self.driver.accept_now(self.doors[at].fd) {
            self.shared.budget.take();
            self.enter(at, fd);
        }
    }

    /// Accepts in flight, those of them that hold a reserved pair, and doors that are open.
    #[cfg(test)]
    pub(super) fn doors_now(&self) -> [usize; 3] {
        let count = |of: &dyn Fn(&Door) -> bool| self.doors.iter().filter(|door| of(door)).count();
        [
            count(&|door| door.accepting != Accepting::No),
            count(&|door| door.accepting == Accepting::One),
            count(&|door| !door.closed),
        ]
    }

    /// Draining, and the last session has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.draining
            && self.sessions.is_empty()
            && self.tasks.is_empty()
            && self.doors.iter().all(|door| door.closed)
    }

    /// Resets every session.
    pub fn stop(&mut self, reason: Reason) {
        self.close_where(reason, |_| true);
    }

    /// `on_down = "close-sessions"`: the server went down.
    pub fn close_sessions_on(&mut self, server: ServerId) {
        self.close_where(Reason::ServerDown, |on| on == Some(server));
    }

    fn close_where(&mut self, reason: Reason, chosen: impl Fn(Option<ServerId>) -> bool) {
        let slots: Vec<u32> = self
            .sessions
            .live()
            .filter(|(_, session)| !session.is_closing() && chosen(session.server))
            .filter(|(_, session)| {
                reason != Reason::ServerDown
                    || matches!(session.phase, Phase::Relaying | Phase::Tasked)
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in slots {
            self.reset_both(slot, reason);
            self.settle(slot);
        }
    }

    /// Sends an old snapshot back to control, where dropping it costs nobody time.
    pub fn post_old(&self, old: std::sync::Arc<crate::registry::Snapshot>) {
        self.shared.notices.post(Notice::Old(old));
    }
}
