//! Sessions that a task has for a while: a prologue, a tunnel, an HTTP session.
//!
//! The slot stays the session's, with its places and its descriptors. The task borrows the
//! descriptors; while it does, [`Op::Task`] is in flight, like any other operation: a session
//! is joined when the task has given back what it borrowed. Then its outcome is read.
//!
//! ```text
//! accept ─▶ prologue ─▶ (TLS or PROXY limits) ─▶ place, connect ─▶ relay, or a tunnel ─▶ end
//!                  └──▶ HTTP session ──────────────────────────────────────────────────▶ end
//!                            └──▶ 101 between plain sides ─▶ relay ──────────────────▶ end
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::gate::{Gate, tcp_options};
use super::session::{Flow, Op, Phase, SIDES, Side};
use super::tunnel::{Passing, Watchers};
use crate::http::{Peers, Site};
use crate::net::Peer;
use crate::observe::counters::HandshakeResult;
use crate::observe::reason::Reason;
use crate::observe::record::SessionNames;
use crate::registry::{PoolId, ServerId};
use crate::runtime::buffers::Queue;
use crate::runtime::driver::{Driver, Fd};
use crate::runtime::mail::{Steal, Stolen};
use crate::runtime::tasks::{Inbox, Released, Socket, TaskId};
use crate::runtime::time::Time;
use crate::stream::{Stream, Tls};
use crate::tls::server::Admission;

/// What a task leaves when it has given its sockets back.
#[derive(Debug)]
pub enum Outcome {
    /// The prologue is through: the session goes on.
    Ready(Box<Welcome>),
    /// The prologue ended badly: there will be no session.
    Refused { reason: Reason, how: How, at: Stage, sni: Option<String> },
    /// The session is over.
    Ended { how: How, reason: Reason, bytes_in: u64, bytes_out: u64 },
    /// It goes on as a relay.
    Upgraded(Box<Upgrade>),
}

/// An HTTP session that has become something else, between two plain connections.
#[derive(Debug)]
pub struct Upgrade {
    /// The server's connection. It comes back like the client's, with nothing in flight.
    pub fd: Fd,
    pub unix: bool,
    pub pool: PoolId,
    /// A place is taken there for the session.
    pub server: ServerId,
    /// Bytes that are for the server.
    pub inbox: Inbox,
    /// Payload of the requests before this.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub epilogue: Epilogue,
}

/// What there is to say of a request when its relay is over.
pub struct Epilogue(Box<dyn FnOnce(RelayEnd)>);

/// How a relay ended.
#[derive(Clone, Copy, Debug)]
pub struct RelayEnd {
    pub reason: Reason,
    pub at: Time,
    /// Bytes of the client, and of the server.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Epilogue {
    pub fn new(say: impl FnOnce(RelayEnd) + 'static) -> Self {
        Self(Box::new(say))
    }
}

impl std::fmt::Debug for Epilogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Epilogue").finish_non_exhaustive()
    }
}

/// How far a prologue came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// A PROXY header, or a hello that goes on undecrypted.
    #[default]
    Before,
    Handshake,
}

/// What a prologue found out.
#[derive(Debug, Default)]
pub struct Welcome {
    /// There was to be a PROXY header: nobody was judged by limits before it.
    pub proxied: bool,
    /// Who it says is there.
    pub peer: Option<SocketAddr>,
    /// The pool that SNI chose.
    pub pool: Option<PoolId>,
    /// The name in a hello that goes on undecrypted.
    pub sni: Option<String>,
    pub stage: Stage,
    pub tls: Option<Box<Tls>>,
    /// The host that its handshake was with.
    pub admission: Option<Admission>,
    /// Bytes that are for the server.
    pub inbox: Inbox,
}

/// How a session's end looks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Both FINs are sent.
    Fin,
    /// FINs are sent, as far as it went; who does not answer is reset.
    Linger,
    Reset,
}

/// Where a task leaves its outcome.
pub type Slate = Rc<RefCell<Option<Outcome>>>;

/// A session's task, or what waits for the next one.
#[derive(Debug)]
pub struct Seat {
    task: Option<TaskId>,
    slate: Slate,
    /// Descriptors that the task has.
    borrowed: u8,
    /// The client's TLS, and what it sent, while a server is looked for.
    parked: Option<(Option<Box<Tls>>, Inbox)>,
    /// An HTTP session says here that it waits for a request.
    idle: Option<Rc<Cell<bool>>>,
    epilogue: Option<Epilogue>,
    /// What the log wants to know of TLS.
    names: Option<Box<SessionNames>>,
    /// The prologue has left a pool.
    placed: bool,
    /// Of its tunnel.
    passing: Passing,
}

impl<D: Driver> Gate<D> {
    fn seat(&mut self, slot: u32) -> &mut Seat {
        let at = slot as usize;
        if at >= self.seats.len() {
            self.seats.resize_with(at + 1, || None);
        }
        self.seats[at].get_or_insert_with(|| {
            Box::new(Seat {
                task: None,
                slate: Rc::default(),
                borrowed: 0,
                parked: None,
                idle: None,
                epilogue: None,
                names: None,
                placed: false,
                passing: Passing::default(),
            })
        })
    }

    /// Lends one of the session's descriptors to the task that is about to be started.
    fn lend(&mut self, slot: u32, side: Side, fd: Fd) -> Socket<D> {
        let unix = self.sessions[slot].socket(side).unix;
        let generation = self.sessions[slot].generation;
        let mut socket = self.tasks.shell().adopt(fd, unix);
        socket.return_to(u64::from(slot) | u64::from(generation) << 32);
        self.seat(slot).borrowed += 1;
        socket
    }

    /// Gives the session to a task until it has returned every socket it was lent.
    fn begin_task(&mut self, slot: u32, job: Pin<Box<dyn Future<Output = Outcome>>>) {
        self.timers.disarm(slot);
        self.sessions[slot].phase = Phase::Tasked;
        self.sessions[slot].ops.start(Op::Task);
        let slate = Rc::clone(&self.seat(slot).slate);
        let task = self.tasks.spawn(async move {
            let outcome = job.await;
            *slate.borrow_mut() = Some(outcome);
        });
        self.seat(slot).task = Some(task);
    }

    /// Reads the beginning of a connection, before there is a session to speak of.
    pub(super) fn begin_prologue(&mut self, slot: u32) {
        let Some(fd) = self.fd(slot, Side::Client) else { return };
        let session = &self.sessions[slot];
        let listener = usize::from(session.listener.0);
        let front = Rc::clone(&self.listeners[listener].front);
        if let Some(site) = front.site()
            && front.is_silent()
        {
            return self.begin_http(slot, site, None, None, Inbox::default());
        }
        let (timeouts, proxied) = (self.timeouts(slot), self.is_proxied(slot));
        let socket = self.lend(slot, Side::Client, fd);
        let job =
            Box::pin(
                async move { super::prologue::prologue(socket, &front, proxied, timeouts).await },
            );
        self.begin_task(slot, job);
    }

    /// Gives the connection to an HTTP session.
    pub(super) fn begin_http(
        &mut self,
        slot: u32,
        site: Arc<Site>,
        tls: Option<Box<Tls>>,
        admission: Option<Admission>,
        inbox: Inbox,
    ) {
        let Some(fd) = self.fd(slot, Side::Client) else { return };
        let peers = Peers {
            source: self.sessions[slot].peer.address(),
            local: self.driver.local_now(fd),
            tls: tls.as_ref().and_then(|tls| tls.info()).map(Arc::new),
            admission,
        };
        let idle = Rc::new(Cell::new(false));
        self.seat(slot).idle = Some(Rc::clone(&idle));
        self.sessions[slot].holds.covers = true;
        self.tasks.shell().cover().begin_session();
        let socket = self.lend(slot, Side::Client, fd);
        let office = Rc::clone(&self.office);
        let job = Box::pin(async move {
            let stream = Stream::new(socket, tls);
            crate::http::serve(office, site, stream, inbox, peers, idle).await
        });
        self.begin_task(slot, job);
    }

    /// HTTP connections end after their answer; those that wait for a request now if `hurry`, else
    /// after one more.
    pub(super) fn drain_http(&mut self, hurry: bool) {
        self.office.drain(hurry);
        if !hurry {
            return;
        }
        let idle = |seat: &Seat| seat.idle.as_ref().is_some_and(|idle| idle.get());
        let slots: Vec<u32> = (0..self.seats.len() as u32)
            .filter(|&slot| self.seats[slot as usize].as_deref().is_some_and(idle))
            .collect();
        for slot in slots {
            if !self.sessions[slot].is_closing() {
                self.on_task_ended(slot, How::Fin, Reason::Ok);
                self.settle(slot);
            }
        }
    }

    /// Polls the tasks, and goes on with the sessions that they have given back.
    pub(super) fn run_tasks(&mut self) {
        self.tasks.run(&mut self.driver);
        self.counts.panics.add(self.tasks.take_panics());
        while let Some(pool) = self.office.next_room() {
            self.release_next(pool);
        }
        while let Some(released) = self.tasks.next_released() {
            match released {
                Released::Returned { to } => {
                    let (slot, generation) = (to as u32, (to >> 32) as u32);
                    if self.sessions.current(slot, generation).is_some() {
                        self.on_returned(slot);
                    }
                }
                Released::Parted(stolen) => {
                    if let (Err(_), Some(fd)) = (self.office.answer(stolen), stolen.fd) {
                        self.driver.close_now(fd);
                    }
                }
            }
        }
        self.settle_descriptors();
    }

    /// Another worker wants one of our unused connections.
    pub fn on_steal(&mut self, steal: Steal) {
        self.office.on_steal(steal, self.driver.now());
    }

    /// Another worker has answered. A task takes it, because only those reach the driver.
    pub fn on_stolen(&mut self, stolen: Stolen) {
        let office = Rc::clone(&self.office);
        self.tasks.spawn(async move { office.on_stolen(stolen) });
    }

    fn on_returned(&mut self, slot: u32) {
        let seat = self.seat(slot);
        let upgraded = matches!(*seat.slate.borrow(), Some(Outcome::Upgraded(_)));
        if upgraded && seat.task.take().is_some() {
            // With the client's connection comes the server's.
            seat.borrowed += 1;
        }
        seat.borrowed -= 1;
        if seat.borrowed > 0 {
            return;
        }
        seat.task = None;
        let outcome = seat.slate.borrow_mut().take();
        self.sessions[slot].ops.end(Op::Task);
        if let Some(Outcome::Upgraded(upgrade)) = outcome {
            self.on_upgraded(slot, *upgrade);
        } else if !self.sessions[slot].is_closing() {
            match outcome {
                Some(Outcome::Ready(welcome)) => self.on_ready(slot, *welcome),
                Some(Outcome::Refused { reason, how, at, sni }) => {
                    self.note_refused(slot, reason, at, sni);
                    self.on_task_ended(slot, how, reason);
                }
                Some(Outcome::Ended { how, reason, bytes_in, bytes_out }) => {
                    self.sessions[slot].half_mut(Side::Client).total += bytes_in;
                    self.sessions[slot].half_mut(Side::Upstream).total += bytes_out;
                    self.on_task_ended(slot, how, reason);
                }
                // It panicked.
                None | Some(Outcome::Upgraded(_)) => self.reset_both(slot, Reason::Internal),
            }
        }
        self.settle(slot);
    }

    /// The server's connection is the session's, whatever becomes of it.
    fn on_upgraded(&mut self, slot: u32, upgrade: Upgrade) {
        let Upgrade { fd, unix, pool, server, inbox, bytes_in, bytes_out, epilogue } = upgrade;
        let session = &mut self.sessions[slot];
        (session.pool, session.server, session.holds.server) = (pool, Some(server), true);
        if std::mem::take(&mut session.holds.covers) {
            self.tasks.shell().cover().leave_session();
        }
        let socket = session.socket_mut(Side::Upstream);
        (socket.fd, socket.unix) = (Some(fd), unix);
        let counts = self.counts.listener(session.listener);
        counts.bytes_in.add(bytes_in);
        counts.bytes_out.add(bytes_out);
        self.seat(slot).epilogue = Some(epilogue);
        if self.sessions[slot].is_closing() {
            return self.driver.reset_now(fd);
        }
        if !inbox.is_empty() && !self.queue_pending(slot, inbox.bytes()) {
            return self.reset_both(slot, Reason::MemoryLimit);
        }
        self.begin_relay(slot);
        self.resume(slot, Side::Client);
    }

    /// Writes the line of the request that became this session. Whether one did.
    pub(super) fn say_epilogue(&mut self, slot: u32, end: RelayEnd) -> bool {
        let seat = self.seats.get_mut(slot as usize).and_then(Option::as_mut);
        let epilogue = seat.and_then(|seat| seat.epilogue.take());
        epilogue.is_some_and(|Epilogue(say)| {
            say(end);
            true
        })
    }

    fn on_task_ended(&mut self, slot: u32, how: How, reason: Reason) {
        if how == How::Reset {
            return self.reset_both(slot, reason);
        }
        for side in super::session::SIDES {
            if self.fd(slot, side).is_some() {
                self.sessions[slot].socket_mut(side).fin_sent = true;
            }
        }
        match how {
            How::Linger => self.linger(slot, reason),
            How::Fin | How::Reset => self.close(slot, reason),
        }
    }

    /// The prologue ended badly.
    fn note_refused(&mut self, slot: u32, reason: Reason, at: Stage, sni: Option<String>) {
        if at == Stage::Handshake {
            let result = match reason {
                Reason::ClientReset => HandshakeResult::Reset,
                _ => HandshakeResult::Failed,
            };
            self.count_handshake(slot, result);
        }
        if sni.is_some() {
            self.seat(slot).names = Some(Box::new(SessionNames { sni, tls: None }));
        }
    }

    fn count_handshake(&self, slot: u32, result: HandshakeResult) {
        let listener = self.sessions[slot].listener;
        self.counts.listener(listener).handshakes[result as usize].add(1);
    }

    /// Keeps for the log what the client's hello or handshake said.
    fn note_names(&mut self, slot: u32, sni: Option<String>, tls: Option<&Tls>) {
        let logged = self.listeners[usize::from(self.sessions[slot].listener.0)].logged;
        if logged && (sni.is_some() || tls.is_some()) {
            let tls = tls.and_then(Tls::info);
            let sni = sni.or_else(|| tls.as_ref().and_then(|tls| tls.sni.clone()));
            self.seat(slot).names = Some(Box::new(SessionNames { sni, tls }));
        }
    }

    /// What the log wants to know of TLS; the session is over.
    pub(super) fn take_names(&mut self, slot: u32) -> Option<Box<SessionNames>> {
        self.seats.get_mut(slot as usize)?.as_mut()?.names.take()
    }

    /// The session's pool is the one it was to go to, and not only the listener's first.
    pub(super) fn is_pool_known(&self, slot: u32) -> bool {
        let listener = usize::from(self.sessions[slot].listener.0);
        let seat = self.seats.get(slot as usize).and_then(Option::as_ref);
        !self.listeners[listener].front.chooses_pool() || seat.is_some_and(|seat| seat.placed)
    }

    /// The prologue is through: limits of a client that only now is known, then a server.
    fn on_ready(&mut self, slot: u32, welcome: Welcome) {
        let Welcome { proxied, peer, pool, sni, stage: _, tls, admission, inbox } = welcome;
        if tls.is_some() {
            self.count_handshake(slot, HandshakeResult::Ok);
        }
        self.note_names(slot, sni, tls.as_deref());
        if proxied {
            if let Some(peer) = peer {
                self.sessions[slot].peer = Peer::from(peer);
            }
            let ip = self.sessions[slot].peer.ip();
            if let Err(reason) = self.check_limits(slot, ip) {
                return self.reset_both(slot, reason);
            }
        }
        let listener = usize::from(self.sessions[slot].listener.0);
        if let Some(site) = self.listeners[listener].front.site() {
            return self.begin_http(slot, site, tls, admission, inbox);
        }
        if let Some(pool) = pool {
            self.sessions[slot].pool = pool;
            self.seat(slot).placed = true;
        }
        let now = self.driver.now();
        self.sessions[slot].phase = Phase::Connecting { started: now, timed_out: false };
        if tls.is_some() || self.speaks_tls(slot) {
            self.seat(slot).parked = Some((tls, inbox));
        } else if !inbox.is_empty() && !self.queue_pending(slot, inbox.bytes()) {
            return self.reset_both(slot, Reason::MemoryLimit);
        }
        self.place(slot);
    }

    /// Puts bytes that a prologue has read in front of what the client sends next.
    fn queue_pending(&mut self, slot: u32, mut bytes: &[u8]) -> bool {
        let mut queue = Queue::default();
        let whole = bytes.len() as u64;
        while !bytes.is_empty() {
            let Some(block) = self.driver.buffers().take_block() else { break };
            let n = self.driver.buffers().write(block, bytes);
            queue.push(block, self.driver.buffers());
            bytes = &bytes[n as usize..];
        }
        let half = self.sessions[slot].half_mut(Side::Client);
        half.queue = queue;
        half.total = whole;
        bytes.is_empty()
    }

    /// The pool's servers speak TLS.
    fn speaks_tls(&self, slot: u32) -> bool {
        let pool = usize::from(self.sessions[slot].pool.0);
        self.snapshot.fronts.pools[pool].tls.is_some()
    }

    /// One of the two sides speaks TLS: the bytes go through a tunnel.
    pub(super) fn needs_tunnel(&self, slot: u32) -> bool {
        let parked = self.seats.get(slot as usize).and_then(Option::as_ref);
        parked.is_some_and(|seat| seat.parked.is_some()) || self.speaks_tls(slot)
    }

    /// Bytes of the client are under way already as of a plain session, and meanwhile the plan has
    /// come to want TLS with its server.
    pub(super) fn is_torn(&self, slot: u32) -> bool {
        self.sessions[slot].half(Side::Client).flow != Flow::New && self.needs_tunnel(slot)
    }

    /// The server is connected.
    pub(super) fn begin_tunnel(&mut self, slot: u32) {
        let (Some(client), Some(upstream)) =
            (self.fd(slot, Side::Client), self.fd(slot, Side::Upstream))
        else {
            return;
        };
        let session = self.sessions[slot];
        let timeouts = self.timeouts(slot);
        // For as long as a task has the session, nothing else looks whether it has settled.
        self.driver.keep_alive_now(upstream, &tcp_options(&timeouts));
        let at = usize::from(session.pool.0);
        let back = self.snapshot.fronts.pools[at].tls.clone();
        let starttls = self.plan_pool(slot).tls.as_ref().is_some_and(|tls| tls.starttls_postgres);
        let back = back
            .zip(session.server)
            .map(|(tls, id)| (tls, self.snapshot.server_name(id), starttls));
        let (tls, inbox) = self.seat(slot).parked.take().unwrap_or_default();
        let client = self.lend(slot, Side::Client, client);
        let upstream = self.lend(slot, Side::Upstream, upstream);
        let accepted_at = session.accepted_at;
        let watchers = Watchers { witness: self.witness(slot), passing: Passing::default() };
        self.seat(slot).passing = watchers.passing.clone();
        let job = Box::pin(async move {
            let client = Stream::new(client, tls);
            super::prologue::tunnel(client, upstream, inbox, back, timeouts, accepted_at, watchers)
                .await
        });
        self.begin_task(slot, job);
    }

    /// A tunnel has moved something.
    pub(super) fn has_passing(&self, slot: u32) -> bool {
        let seat = self.seats.get(slot as usize).and_then(Option::as_ref);
        seat.is_some_and(|seat| seat.passing.is_some())
    }

    /// Takes over what a tunnel has moved so far.
    pub(super) fn take_passing(&mut self, slot: u32) {
        let Some(seat) = self.seats.get(slot as usize).and_then(Option::as_ref) else { return };
        let bytes = seat.passing.take();
        for side in SIDES {
            self.sessions[slot].half_mut(side).total += bytes[side as usize];
        }
    }

    /// Makes the session's task end: what it borrowed comes back.
    pub(super) fn abort_task(&mut self, slot: u32) {
        if let Some(task) = self.seat(slot).task {
            self.tasks.abort(task);
        }
    }

    /// The session is gone.
    pub(super) fn clear_seat(&mut self, slot: u32) {
        if let Some(seat) = self.seats.get_mut(slot as usize) {
            *seat = None;
        }
    }
}
