//! The gate: all TCP sessions of one worker, and the step that every completion takes.
//!
//! Generic over the driver, so the same code runs on the kernel and in the simulation. The
//! files beside this one add to `Gate` in the order of a session's life: `accept`, `admit`,
//! `relay`, `bulk`, `ending`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accept::Door;
use super::prologue::Prelude;
use super::seats::Seat;
use super::session::{Flow, Op, Phase, Sending, Sessions, Side};
use crate::balance::Rng;
use crate::config::plan::{self, Timeouts};
use crate::http::Office;
use crate::limits::AccessList;
use crate::observe::counters::WorkerCounts;
use crate::observe::reason::Reason;
use crate::observe::sampling::Sampler;
use crate::pools::{self, PoolRun};
use crate::registry::{ListenerId, Snapshot};
use crate::runtime::driver::{Completion, Driver, Fd, Interest, TcpOptions};
use crate::runtime::mail::Histograms;
use crate::runtime::tasks::{Lent, Tasks};
use crate::runtime::time::Time;
use crate::runtime::timer::Wheel;
use crate::runtime::token::{Tag, Token};
use crate::runtime::worker::Shared;

/// More pipes than any driver has.
const PIPED_MAX: usize = 64;

/// With fewer completions than this in a turn a send is cheaper as a call than as an entry.
const BATCH_SEND_MIN: usize = 3;

#[derive(Debug)]
pub struct Gate<D: Driver> {
    pub driver: Lent<D>,
    /// Prologues, tunnels and HTTP sessions of this worker.
    pub(super) tasks: Tasks<D>,
    /// By slot: the sessions that a task has.
    pub(super) seats: Vec<Option<Box<Seat>>>,
    /// What HTTP sessions have in common.
    pub(super) office: Rc<Office<D>>,
    pub worker: u16,
    pub sessions: Sessions,
    pub(super) timers: Wheel,
    pub(super) doors: Vec<Door>,
    /// When the doors are looked at again after the descriptors ran out; not in the wheel,
    /// whose ids are sessions.
    pub(super) doors_at: Option<Time>,
    /// A door is shut because all descriptors are taken, and nothing was done about it yet.
    pub(super) short: bool,
    /// Other workers are asked to spare descriptors from then on.
    pub(super) ask_at: Time,
    /// When the next door that closes is looked at.
    pub(super) closing_at: Option<Time>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) listeners: Vec<ListenerRun>,
    pub(super) pools: Vec<PoolRun>,
    pub counts: Arc<WorkerCounts>,
    pub(super) shared: Arc<Shared>,
    pub(super) rng: Rng,
    /// Receives that found the buffer ring empty.
    pub(super) starved: VecDeque<(Token, Side)>,
    /// Completions of this turn.
    pub(super) batch: usize,
    pub(super) histograms: Histograms,
    pub(super) draining: bool,
    /// Another process has the same listening sockets, which must stay as they are.
    pub(super) handed_over: bool,
    /// Who holds a pipe with bytes in it: (slot, generation, side).
    pub(super) piped: Vec<(u32, u32, Side)>,
    pub(super) expired: Vec<u32>,
    /// By slot: bytes of either side that the counters have already.
    pub(super) counted: Vec<[u64; 2]>,
    /// Which sessions are logged.
    pub(super) sampler: Sampler,
}

/// What a listener needs at run time, worked out from the plan once.
#[derive(Debug)]
pub(super) struct ListenerRun {
    pub timeouts: Timeouts,
    pub access: AccessList,
    pub pool: usize,
    /// A line in the access log for each session.
    pub logged: bool,
    /// What comes before a session proper.
    pub front: Rc<Prelude>,
}

impl<D: Driver> Gate<D> {
    pub fn new(
        driver: D,
        worker: u16,
        snapshot: Arc<Snapshot>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Self {
        let now = driver.now();
        let counts = Arc::clone(&shared.workers[usize::from(worker)].counts);
        let tasks = Tasks::new(now, Arc::clone(&shared.budget));
        let office = Office::new(
            Rc::clone(tasks.shell()),
            worker,
            Arc::clone(&snapshot),
            Arc::clone(&shared),
            seed.rotate_left(32),
        );
        let mut gate = Self {
            driver: Lent::new(driver),
            tasks,
            office,
            seats: Vec::new(),
            worker,
            sessions: Sessions::default(),
            timers: Wheel::new(now),
            doors: Vec::new(),
            doors_at: None,
            short: false,
            ask_at: now,
            closing_at: None,
            listeners: Vec::new(),
            pools: Vec::new(),
            snapshot: Arc::clone(&snapshot),
            counts,
            shared,
            rng: Rng::new(seed),
            starved: VecDeque::new(),
            batch: 0,
            histograms: Histograms { worker, ..Histograms::default() },
            draining: false,
            handed_over: false,
            piped: Vec::with_capacity(PIPED_MAX),
            expired: Vec::new(),
            counted: Vec::new(),
            sampler: Sampler::default(),
        };
        gate.use_snapshot(snapshot);
        gate
    }

    /// Takes a new plan or membership into use; sessions keep what they have. Returns what is to
    /// be dropped elsewhere.
    pub fn use_snapshot(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        if snapshot.version < self.snapshot.version {
            return snapshot;
        }
        let plan = Arc::clone(&snapshot.plan);
        self.office.use_snapshot(&snapshot);
        self.pools = pools::renew(std::mem::take(&mut self.pools), &snapshot);
        self.listeners = plan
            .listeners
            .iter()
            .zip(&snapshot.fronts.listeners)
            .map(|(listener, front)| ListenerRun {
                timeouts: plan.timeouts(listener),
                access: AccessList::new(&listener.allow, &listener.deny),
                // Sessions of a listener without any go to none.
                pool: listener.first_pool().unwrap_or(0),
                // A line for each request says it all.
                logged: listener.http.is_none()
                    && listener.access_log
                    && plan.log.access != plan::AccessLog::Off,
                front: Rc::new(Prelude::new(listener, front)),
            })
            .collect();
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        if !Arc::ptr_eq(&before.plan, &self.snapshot.plan) {
            self.count_by_address();
        }
        before
    }

    /// Counts the sessions that were there before their listener had a limit by address, so that
    /// it holds for all of them from now on.
    fn count_by_address(&mut self) {
        let now = self.driver.now();
        let uncounted: Vec<u32> = self
            .sessions
            .live()
            .filter(|(_, session)| {
                // Who holds a place at the listener has been let in.
                session.holds.listener && !session.holds.per_ip && !session.is_closing()
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in uncounted {
            let session = &mut self.sessions[slot];
            if let (Some(table), Some(ip)) =
                (self.shared.per_ip(session.listener), session.peer.ip())
            {
                session.holds.per_ip = table.adopt(ip, now);
            }
        }
    }

    /// When [`Gate::tick`] wants to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        if !self.starved.is_empty() && self.driver.ring_free() > 0 {
            return Time::ZERO;
        }
        let sessions = self.timers.next_deadline().unwrap_or(Time::NEVER);
        let sessions = sessions.min(self.tasks.deadline()).min(self.office.deadline());
        [self.doors_at, self.closing_at].into_iter().flatten().fold(sessions, Time::min)
    }

    /// Says how many completions the turn brought, before they are stepped through.
    pub fn begin_turn(&mut self, completions: usize) {
        self.batch = completions;
    }

    /// Reacts to one completion.
    pub fn step(&mut self, completion: Completion) {
        let token = completion.token;
        match token.tag() {
            Tag::Session => self.step_session(completion),
            Tag::Accept => self.on_accepted(completion),
            Tag::Task => self.tasks.complete(completion, &mut self.driver),
            Tag::Driver | Tag::Mailbox | Tag::Load => {}
        }
    }

    fn step_session(&mut self, completion: Completion) {
        let token = completion.token;
        let (slot, op) = (token.slot(), Op::from_code(token.op()));
        let known = self.sessions.current(slot, token.generation()).is_some();
        let (true, Some(op)) = (known, op) else {
            // Of a session that is gone: cannot be (I1), but must not leak a buffer if it is.
            debug_assert!(false, "a completion without a session: {token:?}");
            return self.drop_chunk(completion);
        };
        if !completion.more {
            self.sessions[slot].ops.end(op);
        }
        match (self.sessions[slot].phase, op) {
            (Phase::Closing { .. }, op) => self.absorb(slot, op, completion),
            (_, Op::Task) => debug_assert!(false, "a task is no operation of the ring"),
            (_, Op::Connect) => self.on_connected(slot, completion),
            (_, Op::Watch(side)) => self.on_watch(slot, side, completion),
            (_, Op::Recv(side)) => match self.sessions[slot].half(side).flow {
                Flow::Bulk { .. } => self.on_readable(slot, side, completion),
                Flow::Filling { .. } => self.on_filled(slot, side, completion),
                _ => self.on_received(slot, side, completion),
            },
            (_, Op::Send(side)) => match self.sessions[slot].half(side.other()).sending {
                Sending::Writable => self.on_writable(slot, side, completion),
                _ => self.on_sent(slot, side, completion),
            },
        }
        self.settle(slot);
    }

    /// What was measured since the last time.
    pub fn take_histograms(&mut self) -> Histograms {
        self.count_relays();
        let worker = self.worker;
        let fresh = Histograms { worker, ..Histograms::default() };
        let mut measured = std::mem::replace(&mut self.histograms, fresh);
        self.office.take_measures(&mut measured);
        measured
    }

    /// What is due by the clock, and what the turn left over.
    pub fn tick(&mut self) {
        let now = self.driver.now();
        let mut expired = std::mem::take(&mut self.expired);
        self.timers.expire(now, &mut expired);
        for slot in expired.drain(..) {
            self.on_timer(slot);
            self.settle(slot);
        }
        self.expired = expired;
        if self.doors_at.is_some_and(|at| at <= now) {
            self.open_doors();
        }
        if self.closing_at.is_some_and(|at| at <= now) {
            self.close_doors();
        }
        self.feed_starved();
        self.office.prune(now);
        self.run_tasks();
    }

    fn on_timer(&mut self, slot: u32) {
        match self.sessions[slot].phase {
            Phase::Free | Phase::Tasked | Phase::Closing { .. } => {}
            Phase::Waiting { wait, until } => self.on_wait_timer(slot, wait, until),
            Phase::Connecting { .. } => self.on_connect_timer(slot),
            Phase::Relaying => self.on_idle_timer(slot),
            Phase::Lingering { reason } => self.reset_both(slot, reason),
            Phase::Flushing { .. } => self.on_flush_timer(slot),
        }
    }

    /// Receives that starved go on as buffers come back, as many as there are buffers.
    fn feed_starved(&mut self) {
        for _ in 0..self.starved.len().min(self.driver.ring_free() as usize) {
            let Some((token, side)) = self.starved.pop_front() else { return };
            if self.sessions.current(token.slot(), token.generation()).is_some() {
                self.resume(token.slot(), side);
                self.settle(token.slot());
            }
        }
    }

    /// A panic happened while this completion was stepped through: the session it belongs to
    /// ends, the others go on.
    pub fn poison(&mut self, token: Token) {
        self.counts.panics.add(1);
        if token.tag() == Tag::Session {
            let slot = token.slot();
            if self.sessions.current(slot, token.generation()).is_some() {
                if !self.sessions[slot].is_closing() {
                    self.reset_both(slot, Reason::Internal);
                }
                self.settle(slot);
            }
        }
    }

    // ---- the small things every file beside this one uses ----

    pub(super) fn token(&self, slot: u32, op: Op) -> Token {
        Token::new(Tag::Session, op.code(), slot, self.sessions[slot].generation)
    }

    /// Notes the operation as in flight and makes its token.
    pub(super) fn start(&mut self, slot: u32, op: Op) -> Token {
        self.sessions[slot].ops.start(op);
        self.token(slot, op)
    }

    pub(super) fn cancel(&mut self, slot: u32, op: Op) {
        if op == Op::Task {
            self.abort_task(slot);
        } else if self.sessions[slot].ops.has(op) {
            let token = self.token(slot, op);
            self.driver.submit_cancel(token);
        }
    }

    pub(super) fn fd(&self, slot: u32, side: Side) -> Option<Fd> {
        self.sessions[slot].socket(side).fd
    }

    /// Keeps a silent eye on a side that is not being received from.
    pub(super) fn watch(&mut self, slot: u32, side: Side) {
        let Some(fd) = self.fd(slot, side) else { return };
        let session = &self.sessions[slot];
        if session.ops.has(Op::Watch(side)) || session.socket(side).reset_seen {
            return;
        }
        let token = self.start(slot, Op::Watch(side));
        self.driver.submit_poll(fd, Interest::Reset, token);
    }

    pub(super) fn timeouts(&self, slot: u32) -> Timeouts {
        let session = &self.sessions[slot];
        let (listener, pool) = (usize::from(session.listener.0), usize::from(session.pool.0));
        if pool == self.listeners[listener].pool {
            return self.listeners[listener].timeouts;
        }
        let plan = &self.snapshot.plan;
        plan.timeouts_with(&plan.listeners[listener], pool)
    }

    pub(super) fn plan_pool(&self, slot: u32) -> &plan::Pool {
        &self.snapshot.plan.pools[usize::from(self.sessions[slot].pool.0)]
    }

    pub(super) fn plan_listener(&self, id: ListenerId) -> &plan::Listener {
        &self.snapshot.plan.listeners[usize::from(id.0)]
    }

    /// The worker is busy enough that a queued send is cheaper than a call.
    pub(super) const fn batches_sends(&self) -> bool {
        self.batch >= BATCH_SEND_MIN
    }

    pub(super) fn arm_timer(&mut self, slot: u32, at: Time) {
        self.timers.ensure(slot);
        self.timers.arm(slot, at);
    }

    pub(super) fn drop_chunk(&mut self, completion: Completion) {
        if let Some(chunk) = completion.chunk {
            self.driver.release(chunk);
        }
    }

    /// Sessions here, for the hand-over and status.
    pub(super) fn publish_sessions(&self) {
        self.counts.sessions.store(self.sessions.len() as u32, Ordering::Relaxed);
    }
}

/// Socket options of a session with these timeouts.
#[must_use]
pub fn tcp_options(timeouts: &Timeouts) -> TcpOptions {
    TcpOptions {
        keepalive_secs: secs(timeouts.keepalive),
        // The kernel also kills a live peer that stops reading, and that would pass for a reset
        // by the peer. So it comes after the idle timer, which may need two looks to see that
        // a send in flight does not move.
        user_timeout_ms: u32::try_from(timeouts.idle.as_millis() * 3).unwrap_or(u32::MAX),
    }
}

fn secs(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX).max(1)
}
