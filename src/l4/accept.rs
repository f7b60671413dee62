//! The doors: listening sockets, the hand-over to a less busy worker, what is done when
//! descriptors run short.
//!
//! While plenty of descriptors are free a door accepts in multishot. Below [`PLENTY`] it waits
//! for word of a client and takes it in when there is a descriptor pair for it: a door that
//! nobody comes to holds nothing that another one needs. With none left, connections to servers
//! that nobody uses give way, here and on other workers; then clients wait in the backlog until a
//! session ends.

use std::os::fd::IntoRawFd as _;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::gate::Gate;
use super::session::Phase;
use crate::control::notice::Notice;
use crate::net::Peer;
use crate::observe::reason::Reason;
use crate::registry::{ListenerId, ServerId};
use crate::runtime::driver::{Completion, Driver, Fd, Interest};
use crate::runtime::mail::{DoorChanges, Mail};
use crate::runtime::time::Time;
use crate::runtime::token::{Tag, Token};
use crate::runtime::worker::{Listening, SocketId};

/// Free pairs from which on multishot accept is safe: it was seen to take 114 in one enter.
const PLENTY: i64 = 256;

/// Clients that one word of them lets in at most: the other doors have theirs.
const TAKEN_MAX: u32 = 16;

/// How long a door stays shut after the kernel said that descriptors are used up.
const SHUT: Duration = Duration::from_millis(100);

/// Between the two looks at the queue of a door that closes for good: a handshake under way.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Pairs that unused connections to servers give back at a time: what one word lets in.
const SPARED_MAX: u32 = TAKEN_MAX;

/// Other workers are asked to spare some no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How much busier than another worker this one must be to hand a connection over.
const IMBALANCE_MIN: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    No,
    /// Told when there is a client; of several workers at one unix socket all are.
    Waiting,
    Many,
}

/// One listening socket of this worker.
#[derive(Debug)]
pub struct Door {
    id: SocketId,
    listener: ListenerId,
    fd: Fd,
    unix: bool,
    /// See [`Listening::managed`].
    managed: bool,
    accepting: Accepting,
    /// Nobody new gets into its queue; from then on it closes.
    closing: Option<Time>,
    closed: bool,
}

impl<D: Driver> Gate<D> {
    /// Adds a listening socket; [`Gate::open_doors`] begins to accept.
    pub fn add_door(
        &mut self,
        id: SocketId,
        listener: ListenerId,
        fd: Fd,
        [unix, managed]: [bool; 2],
    ) {
        let (accepting, closing, closed) = (Accepting::No, None, false);
        let door = Door { id, listener, fd, unix, managed, accepting, closing, closed };
        // A door that is closed has no accept in flight (its place may be another's).
        match self.doors.iter_mut().find(|door| door.closed) {
            Some(free) => *free = door,
            None => self.doors.push(door),
        }
    }

    /// Adds the sockets that this worker was given.
    pub fn add_doors(&mut self, listening: Vec<Listening>) {
        for Listening { id, listener, fd, unix, managed } in listening {
            self.add_door(id, listener, Fd(fd.into_raw_fd()), [unix, managed]);
        }
    }

    /// What a reload does to the doors.
    pub fn change_doors(&mut self, changes: DoorChanges) {
        for (id, listener) in changes.moved {
            for door in self.doors.iter_mut().filter(|door| door.id == id) {
                door.listener = listener;
            }
        }
        for at in 0..self.doors.len() {
            if changes.closed.contains(&self.doors[at].id) {
                self.bar_door(at);
            }
        }
        let opened = !changes.opened.is_empty();
        self.add_doors(changes.opened);
        if opened {
            self.open_doors();
        }
    }

    /// Accepts where it may and does not yet.
    pub fn open_doors(&mut self) {
        self.doors_at = None;
        for at in 0..self.doors.len() {
            let door = &self.doors[at];
            if door.accepting != Accepting::No || door.closed || door.closing.is_some() {
                continue;
            }
            let token = Token::new(Tag::Accept, 0, at as u32, 0);
            let (fd, free) = (self.doors[at].fd, self.shared.budget.free());
            self.doors[at].accepting = if free >= PLENTY && !self.doors[at].unix {
                self.driver.submit_accept(fd, true, token);
                Accepting::Many
            } else if free > 0 {
                self.driver.submit_poll(fd, Interest::Readable, token);
                Accepting::Waiting
            } else {
                return self.shut();
            };
        }
    }

    pub(super) fn on_accepted(&mut self, completion: Completion) {
        let at = completion.token.slot() as usize;
        let Some(door) = self.doors.get_mut(at) else { return };
        let accepting = door.accepting;
        if !completion.more {
            door.accepting = Accepting::No;
        }
        match (completion.result, accepting) {
            (Ok(_), Accepting::Waiting) => self.take_in(at),
            (Ok(fd), _) => {
                self.shared.budget.take();
                self.enter(at, Fd(fd as i32));
                if self.doors[at].accepting == Accepting::Many && self.shared.budget.free() < PLENTY
                {
                    self.driver.submit_cancel(completion.token);
                }
            }
            (Err(errno), _) => self.mind(errno),
        }
        if self.doors[at].accepting == Accepting::No && self.doors_at.is_none() {
            self.open_doors();
        }
    }

    /// Accepts who is there, as far as there is room.
    fn take_in(&mut self, at: usize) {
        for _ in 0..TAKEN_MAX {
            if !self.shared.budget.reserve() {
                return self.shut();
            }
            match self.driver.accept_now(self.doors[at].fd) {
                Ok(fd) => self.enter(at, fd),
                Err(errno) => {
                    self.shared.budget.give();
                    return self.mind(errno);
                }
            }
        }
    }

    /// Lets nobody in for a while, and until there is room again.
    fn shut(&mut self) {
        self.doors_at = Some(self.driver.now() + SHUT);
        self.short = self.shared.budget.is_used_up();
    }

    /// Gives pairs back that no connection to a server needs, and makes those give way that nobody
    /// uses where descriptors are short.
    pub(super) fn settle_descriptors(&mut self) {
        let shell = Rc::clone(self.tasks.shell());
        let came = shell.cover().settle();
        if came && self.doors_at.is_some() {
            self.open_doors();
        }
        let short = std::mem::take(&mut self.short);
        if !short && !shell.cover().has_waiting() {
            return;
        }
        let lacks = shell.cover().lacks(if short { SPARED_MAX } else { 0 });
        let spared = self.office.spare(lacks);
        let (now, enough) = (self.driver.now(), spared > 0 && spared == lacks);
        if !enough && shell.cover().others_have_some() && now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            let own = usize::from(self.worker);
            for (_, other) in self.shared.workers.iter().enumerate().filter(|(at, _)| *at != own) {
                // A worker that is so far behind has other worries.
                let _ = other.mailbox.post(Mail::Spare);
            }
        }
    }

    /// Another worker lacks descriptors.
    pub fn on_spare(&mut self) {
        let lacks = self.tasks.shell().cover().lacks(SPARED_MAX);
        // As many as there are.
        let _ = self.office.spare(lacks);
    }

    /// Nobody was accepted, and perhaps nobody can be for a while.
    fn mind(&mut self, errno: Errno) {
        if matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) {
            self.doors_at = Some(self.driver.now() + SHUT);
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
        // Who drains as well may be done, and read no more mail.
        if workers.len() < 2 || self.draining {
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
        debug_assert!(usize::from(listener.0) < self.listeners.len(), "snapshots come first");
        self.admit(fd, listener, peer, peer == Peer::UNIX);
    }

    /// Stops accepting for good. Who is in an accept queue already is still served.
    pub fn drain(&mut self) {
        if !self.office.closes_idle() {
            self.draining = true;
            for at in 0..self.doors.len() {
                self.bar_door(at);
            }
            self.drain_http(true);
        }
    }

    /// Stops accepting because another process accepts from the same queues: who is in them is
    /// its to serve.
    pub fn leave(&mut self) {
        self.handed_over = true;
        let now = self.driver.now();
        for door in self.doors.iter_mut().filter(|door| !door.closed) {
            door.closing = Some(now);
        }
        self.closing_at = Some(now);
        if !self.draining {
            self.draining = true;
            self.drain_http(false);
        }
    }

    /// Begins to close a door: nobody new gets into its queue, unless that is another's too.
    fn bar_door(&mut self, at: usize) {
        if self.doors[at].closed || self.doors[at].closing.is_some() || self.handed_over {
            return;
        }
        if !self.doors[at].managed {
            self.driver.bar_now(self.doors[at].fd);
        }
        self.empty_queue(at);
        let at_last = self.driver.now() + LAST_LOOK;
        self.doors[at].closing = Some(at_last);
        self.closing_at = Some(self.closing_at.map_or(at_last, |other| other.min(at_last)));
    }

    /// Closes the doors whose time has come.
    pub(super) fn close_doors(&mut self) {
        let now = self.driver.now();
        self.closing_at = None;
        for at in 0..self.doors.len() {
            let (false, Some(due)) = (self.doors[at].closed, self.doors[at].closing) else {
                continue;
            };
            let mut again = Some(due);
            if due <= now {
                // Also where another process accepts from it: the kernel wakes one of those who
                // wait in accept, and a wake that met ours as it was cancelled is lost to it.
                self.empty_queue(at);
                if self.doors[at].accepting == Accepting::No {
                    self.doors[at].closed = true;
                    self.driver.close_now(self.doors[at].fd);
                    again = None;
                } else {
                    self.driver.submit_cancel(Token::new(Tag::Accept, 0, at as u32, 0));
                    again = Some(now + LAST_LOOK);
                }
            }
            if let Some(again) = again {
                self.doors[at].closing = Some(again);
                self.closing_at = Some(self.closing_at.map_or(again, |other| other.min(again)));
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

    /// Accepts in flight, and doors that are open.
    #[cfg(test)]
    pub(super) fn doors_now(&self) -> [usize; 2] {
        let count = |of: &dyn Fn(&Door) -> bool| self.doors.iter().filter(|door| of(door)).count();
        [count(&|door| door.accepting != Accepting::No), count(&|door| !door.closed)]
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
        self.office.stop(reason);
        // Requests end first: each has a line in the log.
        self.tasks.poll_all(&mut self.driver);
        self.run_tasks();
        self.close_where(reason, |_| true);
    }

    /// `on_down = "close-sessions"`: the server went down. Requests there find their connection
    /// reset, and go to another server where they may be sent again.
    pub fn close_sessions_on(&mut self, server: ServerId) {
        self.tasks.reset_server(server.0, &mut self.driver);
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
