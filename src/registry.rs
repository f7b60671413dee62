//! Run-time state that all workers and the control thread share, by stable id.
//!
//! A plan says what should be; this is what is: sessions per server, health, who waits. It
//! lives as long as the process, so a session may hold an id across any change of the
//! membership. What workers write is two padded atomics per server (`load`, and `errors_in_row`,
//! which only a failing one has), one per listener (`active`), a hint about unused connections (`kept_by`), which changes rarely, and the wait
//! queue, which only matters when a pool is out of servers; what they count of retries has a part
//! for each of them. All else is written by the control thread and read by workers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam::utils::CachePadded;
use rustls::pki_types::ServerName;
use sluicegate_l7::policy::breaker::BreakerPlan;

use crate::balance::{Nobody, sticky_key};
use crate::config::plan;
use crate::fronts::Fronts;
use crate::limits::{PoolBreaker, RetryBudget};
use crate::net::Endpoint;
use crate::runtime::time::Time;

/// Index of a listener, the same in plan, registry and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// Index of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

/// A (pool, server name, address), never reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// Servers that ever existed in one process: names can come and go by DNS, so ids are bounded.
/// Sixteen bytes of table and a few counters each; a process that needs more is restarted.
pub const SERVERS_MAX: usize = 16_384;
pub const LISTENERS_MAX: usize = 1_024;
/// Names of pools that one process can tell apart.
pub const POOLS_MAX: usize = 16_384;

/// What workers and control share about one server.
#[derive(Debug)]
pub struct ServerState {
    pub id: ServerId,
    pub pool: PoolId,
    /// The name in the configuration; members of one DNS name share it.
    pub name: Arc<str>,
    pub address: Endpoint,
    /// Sessions that hold a place here, over all workers: reserved before connect.
    pub load: CachePadded<AtomicU32>,
    /// Health says it may get traffic. Written by control.
    pub up: AtomicBool,
    /// What the operator has said, an [`AdminState`]. Written by control.
    admin: AtomicU8,
    /// No longer in the plan or in DNS: gets nothing new, stays until its sessions end.
    pub removed: AtomicBool,
    /// Ejected by `outlier` until this [`Time`]; 0 is not.
    pub ejected_until: AtomicU64,
    /// When `slow_start` began; 0 is not warming up.
    pub warm_from: AtomicU64,
    /// Failures in a row as workers see them; reset by an answer.
    pub errors_in_row: CachePadded<AtomicU32>,
    /// A bit for each of the first 64 workers: it may have unused connections.
    pub kept_by: AtomicU64,
    /// What a cookie that keeps a client here says, once one was asked for.
    sticky: OnceLock<u64>,
    /// The last check in words, for status. Locked by control only.
    pub last_check: Mutex<Option<CheckResult>>,
}

/// What the operator wants of a server, whatever its health is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AdminState {
    #[default]
    Ready,
    /// Gets nothing new; checks go on, sessions live on.
    Drain,
    /// Counts as down, and is not checked.
    Maint,
}

impl AdminState {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maint];

    /// The word of the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What a server counts as: the `state` word of status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    // In this order the best of several addresses speaks for their name.
    Up,
    Ejected,
    Down,
    /// By the operator, or no longer configured or resolved; its sessions end on their own.
    Draining,
    /// By the operator: counts as down, and is not checked.
    Maint,
}

impl Condition {
    pub const ALL: [Self; 5] = [Self::Up, Self::Down, Self::Draining, Self::Maint, Self::Ejected];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Maint => "maint",
        }
    }
}

/// What the last active check said.
#[derive(Clone, Debug)]
pub struct CheckResult {
    pub ok: bool,
    /// For example `connected in 0.3 ms`, `refused`, `status 500, expected 200-399`.
    pub detail: String,
    pub at: SystemTime,
}

impl ServerState {
    #[must_use]
    pub fn new(id: ServerId, pool: PoolId, name: &str, address: Endpoint, up: bool) -> Self {
        Self {
            id,
            pool,
            name: name.into(),
            address,
            load: CachePadded::new(AtomicU32::new(0)),
            up: AtomicBool::new(up),
            admin: AtomicU8::new(AdminState::Ready as u8),
            removed: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            warm_from: AtomicU64::new(0),
            errors_in_row: CachePadded::new(AtomicU32::new(0)),
            sticky: OnceLock::new(),
            kept_by: AtomicU64::new(0),
            last_check: Mutex::new(None),
        }
    }

    /// What a cookie that keeps a client here says: the same in every instance.
    pub fn sticky_value(&self, pool: &str) -> u64 {
        *self.sticky.get_or_init(|| sticky_key(pool, &self.name, &self.address))
    }

    /// It answered: no failure of before is followed by another in a row.
    pub fn trust(&self) {
        // Read first: a store would take the line from all other workers.
        if self.errors_in_row.load(Ordering::Relaxed) != 0 {
            self.errors_in_row.store(0, Ordering::Relaxed);
        }
    }

    /// It gets traffic again, and its failures count anew.
    pub fn end_ejection(&self) {
        self.ejected_until.store(0, Ordering::Relaxed);
        self.errors_in_row.store(0, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_ejected(&self, now: Time) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now.0
    }

    /// What the operator has said.
    #[must_use]
    pub fn admin(&self) -> AdminState {
        match self.admin.load(Ordering::Relaxed) {
            0 => AdminState::Ready,
            1 => AdminState::Drain,
            _ => AdminState::Maint,
        }
    }

    /// The control thread alone says so.
    pub fn set_admin(&self, state: AdminState) {
        self.admin.store(state as u8, Ordering::Release);
    }

    /// Nothing is kept for its next session: there is none to be expected.
    #[must_use]
    pub fn is_taken_out(&self) -> bool {
        self.removed.load(Ordering::Relaxed) || self.admin() != AdminState::Ready
    }

    #[must_use]
    pub fn condition(&self, now: Time) -> Condition {
        if self.admin() == AdminState::Maint {
            Condition::Maint
        } else if self.is_taken_out() {
            Condition::Draining
        } else if !self.up.load(Ordering::Relaxed) {
            Condition::Down
        } else if self.is_ejected(now) {
            Condition::Ejected
        } else {
            Condition::Up
        }
    }

    /// May get a new session, as far as health and the operator go.
    #[must_use]
    pub fn is_eligible(&self, now: Time) -> bool {
        self.is_healthy(now) && !self.is_taken_out()
    }

    /// May get the next request of a client that was there before: a server that drains may,
    /// if the route's cookie says `on_drain = "keep"`.
    #[must_use]
    pub fn is_eligible_again(&self, now: Time) -> bool {
        let stays = !self.removed.load(Ordering::Relaxed) && self.admin() != AdminState::Maint;
        self.is_healthy(now) && stays
    }

    fn is_healthy(&self, now: Time) -> bool {
        self.up.load(Ordering::Relaxed) && !self.is_ejected(now)
    }
}

/// A client that waits for a server: which worker has it, and under which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub worker: u16,
    pub slot: u32,
    pub generation: u32,
    /// Order of arrival in the pool; a waiter that goes back keeps its place.
    pub arrival: u64,
}

/// What workers and control share about one pool.
#[derive(Debug)]
pub struct PoolState {
    pub name: Arc<str>,
    /// Waiters, so that the common case reads one atomic and takes no lock.
    pub waiting: AtomicU32,
    /// Waiters released and not yet connected: bounds the rush at a server that comes back.
    pub released: AtomicU32,
    /// For HTTP: whether requests go to the pool at all. Counts while the plan has one.
    breaker: OnceLock<Arc<PoolBreaker>>,
    /// For HTTP: how much may be tried again.
    pub retries: RetryBudget,
    queue: Mutex<WaitQueue>,
}

#[derive(Debug, Default)]
struct WaitQueue {
    waiters: VecDeque<Waiter>,
    arrivals: u64,
}

/// Clients that go to a server that has just come back before one of them has connected.
/// Enough to fill a listen backlog's start, too few to knock a cold server over.
pub const RELEASED_MAX: u32 = 64;

impl PoolState {
    #[must_use]
    pub fn new(name: &str, breaker: Option<BreakerPlan>) -> Self {
        let pool = Self {
            breaker: OnceLock::new(),
            retries: RetryBudget::default(),
            name: name.into(),
            waiting: AtomicU32::new(0),
            released: AtomicU32::new(0),
            queue: Mutex::new(WaitQueue::default()),
        };
        pool.renew_breaker(breaker);
        pool
    }

    /// Takes the numbers of a new plan; one that is open stays so.
    pub fn renew_breaker(&self, breaker: Option<BreakerPlan>) {
        let Some(plan) = breaker else { return };
        self.breaker.get_or_init(|| PoolBreaker::new(plan)).set_plan(plan);
    }

    /// The breaker, if any plan has had one.
    #[must_use]
    pub fn breaker(&self) -> Option<&Arc<PoolBreaker>> {
        self.breaker.get()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WaitQueue> {
        // The queue is valid between any two statements that hold it, so a panic elsewhere
        // in a session that held the lock leaves nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a client at the end of the queue, unless `max` wait already. Returns its arrival.
    pub fn wait(&self, worker: u16, slot: u32, generation: u32, max: u32) -> Option<u64> {
        let mut queue = self.lock();
        if queue.waiters.len() >= max as usize {
            return None;
        }
        queue.arrivals += 1;
        let arrival = queue.arrivals;
        queue.waiters.push_back(Waiter { worker, slot, generation, arrival });
        self.waiting.store(queue.waiters.len() as u32, Ordering::Release);
        Some(arrival)
    }

    /// Puts a client that found no room after all back where it stood.
    pub fn wait_again(&self, waiter: Waiter) {
        let mut queue = self.lock();
        let at = queue.waiters.partition_point(|other| other.arrival < waiter.arrival);
        queue.waiters.insert(at, waiter);
        self.waiting.store(queue.waiters.len() as u32, Ordering::Release);
    }

    /// Takes a client out that gave up or was reset. `false` if it had been released already.
    pub fn leave(&self, arrival: u64) -> bool {
        let mut queue = self.lock();
        let at = queue.waiters.partition_point(|other| other.arrival < arrival);
        let found = queue.waiters.get(at).is_some_and(|other| other.arrival == arrival);
        if found {
            queue.waiters.remove(at);
            self.waiting.store(queue.waiters.len() as u32, Ordering::Release);
        }
        found
    }

    /// A released client has connected, ended or gone back to wait.
    pub fn done_released(&self) {
        self.released.fetch_sub(1, Ordering::AcqRel);
    }

    /// The next client to be let go, if fewer than [`RELEASED_MAX`] are on their way, and fewer
    /// than there are places: of two on their way to one place the later may be the faster.
    /// `send` tells its worker; if it cannot, the client stays first.
    pub fn release(&self, places: u32, send: impl FnOnce(Waiter) -> bool) -> bool {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut queue = self.lock();
        // Counted up under the lock, so that two who see one place do not both fill it.
        if self.released.load(Ordering::Acquire) >= places.min(RELEASED_MAX) {
            return false;
        }
        let Some(&waiter) = queue.waiters.front() else { return false };
        if !send(waiter) {
            return false;
        }
        queue.waiters.pop_front();
        self.waiting.store(queue.waiters.len() as u32, Ordering::Release);
        self.released.fetch_add(1, Ordering::AcqRel);
        true
    }
}

/// What workers and control share about one listener.
#[derive(Debug)]
pub struct ListenerState {
    pub name: Arc<str>,
    /// Sessions over all workers, for `limit.max_conns`.
    pub active: CachePadded<AtomicU32>,
}

/// One server as a pool uses it now.
#[derive(Clone, Debug)]
pub struct Member {
    pub state: Arc<ServerState>,
    pub weight: u16,
    pub max_conns: Option<u32>,
    pub backup: bool,
}

impl Member {
    /// Takes a place at the server, whatever state it is in; false if all are taken.
    #[must_use]
    pub fn reserve(&self) -> bool {
        let max = self.max_conns.unwrap_or(u32::MAX);
        let more = |load: u32| (load < max).then(|| load + 1);
        self.state.load.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }
}

/// What a worker holds: the plan, and the run-time state that goes with it. Replaced as a
/// whole when the membership changes; the old one goes back to control to be dropped.
#[derive(Debug)]
pub struct Snapshot {
    pub plan: Arc<plan::Plan>,
    pub listeners: Vec<Arc<ListenerState>>,
    pub pools: Vec<PoolSnapshot>,
    /// Every server that ever was, by [`ServerId`].
    pub servers: Vec<Arc<ServerState>>,
    /// TLS and HTTP of listeners and pools, ready to use.
    pub fronts: Arc<Fronts>,
    /// Grows by one with every change; a worker rebuilds its balancing state on a new one.
    pub version: u64,
}

impl Snapshot {
    /// The member of a pool that the value of a sticky cookie names.
    #[must_use]
    pub fn named_by_cookie(&self, pool: PoolId, value: u64) -> Option<&Member> {
        let at = usize::from(pool.0);
        let name = &self.plan.pools[at].name;
        self.pools[at].members.iter().find(|member| member.state.sticky_value(name) == value)
    }

    /// The name that a server's certificate has to have, unless the pool's `sni` says another:
    /// that of its `dns:` entry, or its address.
    #[must_use]
    pub fn server_name(&self, id: ServerId) -> ServerName<'static> {
        let state = &self.servers[id.0 as usize];
        let pool = &self.plan.pools[usize::from(state.pool.0)];
        let planned = pool.servers.iter().find(|server| *server.name == *state.name);
        if let Some(plan::ServerAddr::Dns { host, .. }) = planned.map(|server| &server.address)
            && let Ok(name) = ServerName::try_from(host.clone())
        {
            return name;
        }
        match &state.address {
            Endpoint::Ip(address) => ServerName::from(address.ip()),
            // A unix socket's server is this machine.
            Endpoint::Unix(_) => ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// The Host of requests to a server: the name of a `dns:` one, else its address, with its port
    /// unless it is the usual one.
    #[must_use]
    pub fn host_of(&self, server: &ServerState) -> String {
        let tls = self.plan.pools[usize::from(server.pool.0)].tls.is_some();
        self.host_at(server, None, tls)
    }

    /// The same for a check, which may go to another port, and without TLS.
    #[must_use]
    pub fn host_at(&self, server: &ServerState, checked: Option<u16>, tls: bool) -> String {
        let pool = &self.plan.pools[usize::from(server.pool.0)];
        let usual = if tls { 443 } else { 80 };
        let planned = pool.servers.iter().find(|planned| *planned.name == *server.name);
        let (host, port) = match (planned.map(|planned| &planned.address), &server.address) {
            (Some(plan::ServerAddr::Dns { host, port }), _) => {
                (host.trim_end_matches('.').to_owned(), *port)
            }
            (_, Endpoint::Ip(SocketAddr::V6(address))) => {
                (format!("[{}]", address.ip()), address.port())
            }
            (_, Endpoint::Ip(address)) => (address.ip().to_string(), address.port()),
            (_, Endpoint::Unix(_)) => return "localhost".to_owned(),
        };
        let port = checked.unwrap_or(port);
        if port == usual { host } else { format!("{host}:{port}") }
    }
}

#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    pub state: Arc<PoolState>,
    pub members: Vec<Member>,
}

impl PoolSnapshot {
    /// Sessions that the servers which may get one have room for; backups only while no other
    /// server is up.
    #[must_use]
    pub fn places(&self, now: Time) -> u32 {
        self.room(now).unwrap_or(0)
    }

    /// What a client is told that has to go behind others. Where a server seems to have room,
    /// those in front are waiting for it to answer: with a `hold`, that is the time for them all.
    #[must_use]
    pub fn behind_others(&self, now: Time, hold: Option<Duration>) -> Nobody {
        match self.room(now) {
            None => Nobody::NoneUp,
            Some(1..) if hold.is_some() => Nobody::NoneUp,
            Some(_) => Nobody::AllFull,
        }
    }

    /// `places`, or nothing while no server is up.
    fn room(&self, now: Time) -> Option<u32> {
        let up = |member: &&Member| member.state.is_eligible(now);
        let backup = !self.members.iter().any(|member| !member.backup && up(&member));
        let eligible = self.members.iter().filter(|member| member.backup == backup && up(member));
        let free = eligible.map(|member| {
            let load = member.state.load.load(Ordering::Acquire);
            member.max_conns.map_or(u32::MAX, |max| max.saturating_sub(load))
        });
        free.reduce(u32::saturating_add)
    }
}
