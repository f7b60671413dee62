//! From an accepted client to a connected server: limits, pick, connect, retry, wait.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::gate::Gate;
use super::measure;
use super::proxy_protocol::Header;
use super::session::{Flow, Op, Phase, Session, Side, Tried, WaitFor};
use crate::balance::{FlowKey, Nobody, TRIED_MAX};
use crate::config::plan::SendProxy;
use crate::http::{TICKET, Told};
use crate::net::Peer;
use crate::observe::counters::{ConnectResult, RetryCause};
use crate::observe::reason::Reason;
use crate::pools::Asking;
use crate::registry::{ListenerId, PoolId, ServerId, Waiter};
use crate::runtime::driver::{Completion, Driver, Fd, StreamOptions};
use crate::runtime::mail::Mail;
use crate::runtime::time::Time;

/// How often a waiting client looks whether the queue can move on, should a wake-up be lost.
const WAIT_LOOK: Duration = Duration::from_millis(250);

impl<D: Driver> Gate<D> {
    /// A client was accepted, here or by a busier worker. Its descriptor is counted already.
    pub(super) fn admit(&mut self, fd: Fd, listener: ListenerId, peer: Peer, unix: bool) {
        let now = self.driver.now();
        let pool = PoolId(self.listeners[usize::from(listener.0)].pool as u16);
        let make = |generation| Session::new(generation, listener, pool, peer, now);
        let slot = self.sessions.insert(make);
        self.publish_sessions();
        self.make_room(slot);
        let session = &mut self.sessions[slot];
        session.phase = Phase::Connecting { started: now, timed_out: false };
        session.holds.descriptor = true;
        session.socket_mut(Side::Client).fd = Some(fd);
        session.socket_mut(Side::Client).unix = unix;
        self.counts.listener(listener).connections.add(1);
        // A client behind a proxy is judged when it is known who it is.
        let limits =
            if self.is_proxied(slot) { Ok(()) } else { self.check_limits(slot, peer.ip()) };
        match limits {
            Ok(()) if self.listeners[usize::from(listener.0)].front.is_none() => self.place(slot),
            Ok(()) => self.begin_prologue(slot),
            Err(reason) => self.reset_both(slot, reason),
        }
        self.settle(slot);
    }

    /// What a session may ever need of the tables is there from its beginning: later nothing allocates.
    fn make_room(&mut self, slot: u32) {
        let sessions = self.sessions.len();
        // Two receives each, and a timer.
        self.starved.reserve((2 * sessions).saturating_sub(self.starved.len()));
        self.expired.reserve(sessions.saturating_sub(self.expired.len()));
        if slot as usize >= self.counted.len() {
            self.counted.resize(slot as usize + 1, [0; 2]);
        }
    }

    /// The TCP peer is one that has to send a PROXY header first.
    pub(super) fn is_proxied(&self, slot: u32) -> bool {
        let session = &self.sessions[slot];
        self.listeners[usize::from(session.listener.0)].front.proxied(session.peer.ip())
    }

    pub(super) fn check_limits(&mut self, slot: u32, ip: Option<IpAddr>) -> Result<(), Reason> {
        let now = self.driver.now();
        let id = self.sessions[slot].listener;
        let at = usize::from(id.0);
        if ip.is_some_and(|ip| !self.listeners[at].access.permits(ip)) {
            return Err(Reason::Denied);
        }
        let limit = self.plan_listener(id).limit;
        let max = limit.max_conns.map_or(u32::MAX, std::num::NonZero::get);
        let active = &self.snapshot.listeners[at].active;
        if active.fetch_add(1, Ordering::Relaxed) >= max {
            active.fetch_sub(1, Ordering::Relaxed);
            return Err(Reason::ListenerLimit);
        }
        self.sessions[slot].holds.listener = true;
        if let (Some(table), Some(ip)) = (self.shared.per_ip(id), ip) {
            table.admit(ip, now, &limit).map_err(crate::limits::Refusal::reason)?;
            self.sessions[slot].holds.per_ip = true;
        }
        Ok(())
    }

    /// Finds a server for the client: connects, waits, or gives up.
    pub(super) fn place(&mut self, slot: u32) {
        if self.is_torn(slot) {
            return self.reset_both(slot, Reason::TlsFailed);
        }
        let session = &self.sessions[slot];
        let pool = &self.snapshot.pools[usize::from(session.pool.0)];
        // Who comes while others wait goes behind them.
        let newcomer = session.tried.is_empty() && session.arrival.is_none();
        if newcomer && pool.state.waiting.load(Ordering::Acquire) > 0 {
            let hold = self.plan_pool(slot).hold;
            return self.wait_in_queue(slot, pool.behind_others(self.driver.now(), hold));
        }
        match self.choose(slot) {
            Ok(server) => self.connect(slot, server),
            Err(Nobody::AllTried) => self.give_up(slot),
            Err(nobody) => self.wait_in_queue(slot, nobody),
        }
    }

    /// Picks a server and reserves a place there.
    fn choose(&mut self, slot: u32) -> Result<ServerId, Nobody> {
        let session = &self.sessions[slot];
        let at = usize::from(session.pool.0);
        let tried = session.tried.ids();
        let asking = Asking {
            key: FlowKey::of(session.peer.ip(), &mut self.rng),
            tried: &tried,
            now: self.driver.now(),
        };
        let slow_start = self.snapshot.plan.pools[at].slow_start;
        let members = &self.snapshot.pools[at].members;
        let reserved = self.pools[at].reserve(members, slow_start, &asking, &mut self.rng)?;
        self.counts.pick_races.add(u64::from(reserved.raced));
        Ok(reserved.server)
    }

    fn wait_in_queue(&mut self, slot: u32, nobody: Nobody) {
        let now = self.driver.now();
        let plan = self.plan_pool(slot);
        let (hold, max) = (plan.hold, plan.max_held);
        let up = nobody != Nobody::AllFull;
        let (limit, reason) = if up {
            (hold.unwrap_or(Duration::ZERO), Reason::NoServer)
        } else {
            (plan.wait_for_room(self.timeouts(slot).connect), Reason::ServerFull)
        };
        let session = &mut self.sessions[slot];
        session.last_failure = reason;
        let until = *session.waits_until.get_or_insert(now + limit);
        let (generation, arrival) = (session.generation, session.arrival);
        if until <= now {
            return self.reset_both(slot, reason);
        }
        let pool = &self.snapshot.pools[usize::from(self.sessions[slot].pool.0)].state;
        let arrival = match arrival {
            Some(arrival) => {
                pool.wait_again(Waiter { worker: self.worker, slot, generation, arrival });
                arrival
            }
            None => match pool.wait(self.worker, slot, generation, max) {
                Some(arrival) => arrival,
                None => return self.reset_both(slot, Reason::ServerFull),
            },
        };
        let session = &mut self.sessions[slot];
        session.arrival = Some(arrival);
        session.tried = Tried::default();
        self.enter_wait(slot, if up { WaitFor::Up } else { WaitFor::Room }, until);
        self.done_released(slot);
    }

    fn enter_wait(&mut self, slot: u32, wait: WaitFor, until: Time) {
        self.sessions[slot].phase = Phase::Waiting { wait, until };
        if self.sessions[slot].half(Side::Client).flow == Flow::New {
            self.watch(slot, Side::Client);
        }
        let look = self.driver.now() + WAIT_LOOK;
        self.arm_timer(slot, until.min(look));
    }

    pub(super) fn on_wait_timer(&mut self, slot: u32, wait: WaitFor, until: Time) {
        let now = self.driver.now();
        if until <= now {
            let reason = match wait {
                WaitFor::Descriptor => Reason::FdLimit,
                WaitFor::Up | WaitFor::Room => self.sessions[slot].last_failure,
            };
            return self.reset_both(slot, reason);
        }
        match wait {
            WaitFor::Descriptor => self.place(slot),
            WaitFor::Up | WaitFor::Room => {
                self.arm_timer(slot, until.min(now + WAIT_LOOK));
                self.release_next(self.sessions[slot].pool);
            }
        }
    }

    /// Takes a client that ends while it waits out of its pool's queue.
    pub(super) fn leave_queue(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        if let Some(arrival) = session.arrival {
            self.snapshot.pools[usize::from(session.pool.0)].state.leave(arrival);
        }
    }

    /// Lets the first waiting client of the pool go, if a server could take it.
    pub(super) fn release_next(&mut self, id: PoolId) {
        let now = self.driver.now();
        let pool = &self.snapshot.pools[usize::from(id.0)];
        if pool.state.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let workers = &self.shared.workers;
        pool.state.release(pool.places(now), |waiter| {
            let Waiter { slot, generation, .. } = waiter;
            let mail = Mail::Released { pool: id, slot, generation };
            workers[usize::from(waiter.worker)].mailbox.post(mail).is_ok()
        });
    }

    /// What a request waits for is here.
    pub fn on_told(&mut self, told: Told) {
        self.office.on_told(told);
    }

    /// A server has room for this client, it is said.
    pub fn on_released(&mut self, pool: PoolId, slot: u32, generation: u32) {
        if slot & TICKET != 0 {
            return self.office.on_released(pool, slot & !TICKET, generation);
        }
        let waiting = self
            .sessions
            .current(slot, generation)
            .is_some_and(|session| matches!(session.phase, Phase::Waiting { .. }));
        if !waiting {
            // It gave up while the word was on its way: the next one may go.
            self.snapshot.pools[usize::from(pool.0)].state.done_released();
            return self.release_next(pool);
        }
        self.sessions[slot].holds.released = true;
        self.place(slot);
        self.settle(slot);
    }

    /// A released client has connected, gone, or gone back: the next may go.
    pub(super) fn done_released(&mut self, slot: u32) {
        let session = &mut self.sessions[slot];
        let pool = session.pool;
        if std::mem::take(&mut session.holds.released) {
            self.snapshot.pools[usize::from(pool.0)].state.done_released();
            if !matches!(self.sessions[slot].phase, Phase::Waiting { .. }) {
                self.release_next(pool);
            }
        }
    }

    /// Gives the place at the server back, and tells who waits for one.
    pub(super) fn unreserve(&mut self, slot: u32) {
        if self.leave_server(slot) {
            self.release_next(self.sessions[slot].pool);
        }
    }

    /// Gives the place at the server back, if the session has one.
    fn leave_server(&mut self, slot: u32) -> bool {
        let session = &mut self.sessions[slot];
        let Some(server) = session.server else { return false };
        let held = std::mem::take(&mut session.holds.server);
        if held {
            self.snapshot.servers[server.0 as usize].load.fetch_sub(1, Ordering::AcqRel);
        }
        held
    }

    fn connect(&mut self, slot: u32, server: ServerId) {
        let now = self.driver.now();
        let timeouts = self.timeouts(slot);
        let address = self.snapshot.servers[server.0 as usize].address.clone();
        let at = usize::from(self.sessions[slot].pool.0);
        let source = self.pools[at].next_source(&self.snapshot.plan.pools[at].source, &address);
        let session = &mut self.sessions[slot];
        session.server = Some(server);
        session.holds.server = true;
        if session.tried.is_empty() {
            session.connect_until = now + 2 * timeouts.connect;
        }
        let options = StreamOptions { source };
        let fd = match self.driver.open_now(&address, &options) {
            Ok(fd) => fd,
            Err(Errno::EMFILE | Errno::ENFILE) => return self.wait_for_descriptor(slot),
            Err(_) => return self.attempt_failed(slot, ConnectResult::Local),
        };
        let session = &mut self.sessions[slot];
        session.socket_mut(Side::Upstream).fd = Some(fd);
        session.socket_mut(Side::Upstream).unix = address.is_unix();
        session.phase = Phase::Connecting { started: now, timed_out: false };
        let until = session.connect_until.min(now + timeouts.connect);
        let token = self.start(slot, Op::Connect);
        self.driver.submit_connect(fd, &address, token);
        self.arm_timer(slot, until);
        if self.needs_tunnel(slot) {
            self.watch(slot, Side::Client);
        } else if self.sessions[slot].half(Side::Client).flow == Flow::New {
            self.resume(slot, Side::Client);
        }
    }

    fn wait_for_descriptor(&mut self, slot: u32) {
        self.unreserve(slot);
        let until = self.driver.now() + self.timeouts(slot).connect;
        let until = *self.sessions[slot].waits_until.get_or_insert(until);
        self.enter_wait(slot, WaitFor::Descriptor, until);
    }

    pub(super) fn on_connect_timer(&mut self, slot: u32) {
        if let Phase::Connecting { timed_out, .. } = &mut self.sessions[slot].phase {
            *timed_out = true;
        }
        self.cancel(slot, Op::Connect);
    }

    pub(super) fn on_connected(&mut self, slot: u32, completion: Completion) {
        let now = self.driver.now();
        let session = &mut self.sessions[slot];
        let Phase::Connecting { started, timed_out } = session.phase else { return };
        let Some(server) = session.server else { return };
        if let Err(errno) = completion.result {
            if errno == Errno::EADDRNOTAVAIL
                && !timed_out
                && self.connect_from_any_port(slot, server)
            {
                return;
            }
            let result = match errno {
                Errno::ECANCELED if timed_out => ConnectResult::Timeout,
                errno => ConnectResult::of(errno),
            };
            return self.attempt_failed(slot, result);
        }
        let took = now.since(started);
        session.connect_us = u32::try_from(took.as_micros()).ok();
        self.counts.server(server).connects[ConnectResult::Ok as usize].add(1);
        measure::record(&mut self.histograms.connect, server, took);
        self.done_released(slot);
        if self.is_torn(slot) {
            self.reset_both(slot, Reason::TlsFailed);
        } else if !self.send_proxy_header(slot) {
            self.attempt_failed(slot, ConnectResult::Reset);
        } else if self.needs_tunnel(slot) {
            self.begin_tunnel(slot);
        } else {
            self.begin_relay(slot);
        }
    }

    /// The few local ports that were offered are taken. False if all are.
    fn connect_from_any_port(&mut self, slot: u32, server: ServerId) -> bool {
        let Some(fd) = self.fd(slot, Side::Upstream) else { return false };
        let lifted = self.driver.lift_ports_now(fd);
        if lifted {
            let address = self.snapshot.servers[server.0 as usize].address.clone();
            let token = self.start(slot, Op::Connect);
            self.driver.submit_connect(fd, &address, token);
        }
        lifted
    }

    /// The PROXY header goes first. False if the new connection did not take it.
    fn send_proxy_header(&mut self, slot: u32) -> bool {
        let version = self.plan_pool(slot).send_proxy;
        let (Some(client), Some(upstream)) =
            (self.fd(slot, Side::Client), self.fd(slot, Side::Upstream))
        else {
            return false;
        };
        if version == SendProxy::Off {
            return true;
        }
        let source = self.sessions[slot].peer.address();
        let header = Header::for_session(version, source, self.driver.local_now(client));
        // An empty send buffer takes 232 bytes, or the connection is broken.
        let sent = self.driver.send_bytes_now(upstream, header.as_bytes());
        sent == Ok(header.as_bytes().len() as u32)
    }

    /// One server did not take the session: count it, tell control, try another.
    fn attempt_failed(&mut self, slot: u32, result: ConnectResult) {
        let now = self.driver.now();
        if let Some(fd) = self.sessions[slot].socket_mut(Side::Upstream).fd.take() {
            self.driver.close_now(fd); // nothing but the connect was armed on it
        }
        // Nobody is told of the place: who waits would try the same server at once, in a loop.
        self.leave_server(slot);
        let session = &mut self.sessions[slot];
        session.last_failure = result.reason();
        let (Some(server), pool) = (session.server, session.pool) else { return };
        session.tried.push(server);
        let again = session.tried.len() < TRIED_MAX && now < session.connect_until;
        self.counts.server(server).connects[result as usize].add(1);
        if result != ConnectResult::Local {
            let outlier = self.snapshot.plan.pools[usize::from(pool.0)].outlier;
            let state = &self.snapshot.servers[server.0 as usize];
            self.shared.suspect(state, outlier, Some(result));
        }
        if again {
            let before = self.sessions[slot].server;
            self.place(slot);
            let session = &mut self.sessions[slot];
            if session.server != before || matches!(session.phase, Phase::Connecting { .. }) {
                session.retries = session.retries.saturating_add(1);
                self.counts.server(server).retries[RetryCause::Connect as usize].add(1);
            }
        } else {
            self.give_up(slot);
        }
    }

    /// Every attempt failed. With `hold` the client waits for a server to come back.
    fn give_up(&mut self, slot: u32) {
        let reason = self.sessions[slot].last_failure;
        let holds = self.plan_pool(slot).hold.is_some() && reason != Reason::PortsExhausted;
        if holds {
            self.wait_in_queue(slot, Nobody::NoneUp);
        } else {
            self.reset_both(slot, reason);
        }
    }
}
