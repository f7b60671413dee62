//! Connections to servers: a place reserved, one kept alive and watched, or a new one.
//!
//! An unused connection has a receive armed on it: whatever completes it, be it bytes or an end,
//! makes it one that is never used again.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::office::{Office, ServerRef};
use super::retry::Attempt;
use super::session::Peers;
use crate::config::plan::{KeepAlive, Protocol, SendProxy, Timeouts};
use crate::l4::proxy_protocol::Header;
use crate::observe::counters::ConnectResult;
use crate::observe::reason::Reason;
use crate::registry::{PoolId, ServerId, ServerState};
use crate::runtime::driver::{Driver, StreamOptions};
use crate::runtime::time::Time;
use crate::stream::Stream;

/// Between two looks at unused connections.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// Unused connections of a worker, whatever its pools would keep.
const KEPT_MAX: usize = 4096;

/// A place at a server, given back when dropped.
pub struct Place<D: Driver> {
    office: Rc<Office<D>>,
    pub state: ServerRef,
}

impl<D: Driver> Place<D> {
    pub(super) const fn new(office: Rc<Office<D>>, state: ServerRef) -> Self {
        Self { office, state }
    }
}

impl<D: Driver> std::fmt::Debug for Place<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Place").field(&self.state.id).finish()
    }
}

impl<D: Driver> Drop for Place<D> {
    fn drop(&mut self) {
        self.state.load.fetch_sub(1, Ordering::AcqRel);
        self.office.note_room(self.state.pool);
    }
}

/// A connection to a server, and the place there that it counts for while it is used.
#[derive(Debug)]
pub struct Upstream<D: Driver> {
    pub stream: Stream<D>,
    pub place: Place<D>,
    /// It has carried a request before: an end now may only mean that the server had closed it.
    pub reused: bool,
    /// How the pool's servers were spoken to when it was opened.
    pub manner: Manner,
}

impl<D: Driver> Upstream<D> {
    /// That an attempt failed on it may only mean that the server had closed it. A server that
    /// gives up one message of a connection has not, unless it says that it has not looked.
    pub(super) fn may_be_stale(&self, attempt: &Attempt) -> bool {
        let unseen = matches!(attempt, Attempt::Unseen(_));
        self.reused && (unseen || !self.stream.lives_on())
    }
}

/// How long to try to reach a server.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To be connected by then.
    pub connect: Time,
    /// For the TLS handshake that follows.
    pub handshake: Duration,
    /// For all of it.
    pub whole: Time,
}

impl Patience {
    pub fn new(timeouts: &Timeouts, now: Time, whole: Time) -> Self {
        let connect = whole.min(now + timeouts.connect);
        Self { connect, handshake: timeouts.handshake, whole }
    }

    /// When even the slowest has to be through.
    pub fn end(&self) -> Time {
        self.whole.min(self.connect + self.handshake)
    }
}

/// Counts how often a worker has learned to speak otherwise to the servers of a pool: with other
/// TLS, protocol or PROXY header. Who was spoken to in another way than the last is not again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner(u32);

impl Manner {
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// An unused connection.
struct Idle<D: Driver> {
    stream: Stream<D>,
    since: Time,
}

/// How long connections to a server may be unused.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    /// Unused since before this, they close.
    pub oldest: Time,
    /// So many may stay; of the others, those unused since before `settled` close. What is
    /// taken up again within that time is in use, and opening it anew for each request would
    /// cost more than the request.
    pub idle_max: u32,
    pub settled: Time,
}

impl Stay {
    /// None may stay.
    pub const NONE: Self = Self { oldest: Time::NEVER, idle_max: 0, settled: Time::NEVER };

    /// All may stay.
    pub const ALL: Self = Self { oldest: Time::ZERO, idle_max: u32::MAX, settled: Time::ZERO };

    pub fn new(keepalive: KeepAlive, now: Time) -> Self {
        let (oldest, settled) = (before(now, keepalive.timeout), before(now, PRUNE_EVERY));
        Self { oldest, idle_max: keepalive.idle_max, settled }
    }
}

/// So long ago.
pub(super) const fn before(now: Time, time: Duration) -> Time {
    Time(now.0.saturating_sub(time.as_nanos() as u64))
}

/// Unused connections of one worker, by server; the last one in is the first out.
pub struct Kept<D: Driver> {
    worker: u16,
    by_server: Vec<Rack<D>>,
    count: usize,
    prune_at: Time,
}

/// Those to one server.
struct Rack<D: Driver> {
    /// The first has been unused the longest.
    list: Vec<Idle<D>>,
    /// Whose hint says that there may be some here. It does while there are, and for a while
    /// longer: what is taken mostly comes back, and the hint is every worker's.
    hinted: Option<Arc<ServerState>>,
    /// Other workers are asked for theirs from then on.
    ask_at: Time,
}

impl<D: Driver> Rack<D> {
    const fn new() -> Self {
        Self { list: Vec::new(), hinted: None, ask_at: Time::ZERO }
    }

    /// Takes the hint back if there is nothing here.
    fn settle_hint(&mut self, bit: u64) {
        if self.list.is_empty()
            && let Some(state) = self.hinted.take()
        {
            state.kept_by.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

impl<D: Driver> Kept<D> {
    pub const fn new(worker: u16) -> Self {
        Self { worker, by_server: Vec::new(), count: 0, prune_at: Time::NEVER }
    }

    /// In the hints of servers; a worker that has none gives nothing away.
    fn bit(&self) -> u64 {
        1_u64.checked_shl(u32::from(self.worker)).unwrap_or(0)
    }

    fn rack(&mut self, server: ServerId) -> &mut Rack<D> {
        let at = server.0 as usize;
        if at >= self.by_server.len() {
            self.by_server.resize_with(at + 1, Rack::new);
        }
        &mut self.by_server[at]
    }

    /// A connection on which nothing has happened since it was put here.
    pub fn take(&mut self, server: ServerId, oldest: Time) -> Option<Stream<D>> {
        let list = &mut self.by_server.get_mut(server.0 as usize)?.list;
        while let Some(idle) = list.pop() {
            self.count -= 1;
            if idle.since >= oldest && idle.stream.socket().look_quiet() {
                return Some(idle.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(&mut self, server: &Arc<ServerState>, stream: Stream<D>, since: Time) {
        if self.count >= KEPT_MAX {
            return;
        }
        if self.count == 0 {
            self.prune_at = since + PRUNE_EVERY;
        }
        self.count += 1;
        stream.socket().arm_recv();
        let bit = self.bit();
        let rack = self.rack(server.id);
        if rack.hinted.is_none() {
            server.kept_by.fetch_or(bit, Ordering::Relaxed);
            rack.hinted = Some(Arc::clone(server));
        }
        // At the end, unless it was another worker's.
        let at = rack.list.partition_point(|idle| idle.since <= since);
        rack.list.insert(at, Idle { stream, since });
    }

    /// The connection that has been unused the longest, and since when, if that is neither before
    /// `oldest` nor after `latest`.
    pub fn give(
        &mut self,
        server: ServerId,
        oldest: Time,
        latest: Time,
    ) -> Option<(Stream<D>, Time)> {
        let bit = self.bit();
        let rack = self.by_server.get_mut(server.0 as usize)?;
        let fits = |idle: &Idle<D>| idle.since >= oldest && idle.stream.socket().is_quiet();
        let first = rack.list.iter().position(fits);
        let given = first.filter(|&at| rack.list[at].since <= latest);
        let given = given.map(|at| rack.list.remove(at));
        self.count -= usize::from(given.is_some());
        rack.settle_hint(bit);
        given.map(|Idle { stream, since }| (stream, since))
    }

    /// Closes those that have been unused the longest, whatever their servers: `count` of them, or
    /// all. How many.
    pub fn spare(&mut self, count: usize) -> usize {
        let (bit, count) = (self.bit(), count.min(self.count));
        for _ in 0..count {
            let first = |rack: &Rack<D>| rack.list.first().map_or(Time::NEVER, |idle| idle.since);
            if let Some(rack) = self.by_server.iter_mut().min_by_key(|rack| first(rack)) {
                drop(rack.list.remove(0));
                rack.settle_hint(bit);
            }
        }
        self.count -= count;
        count
    }

    /// Another worker that may have an unused connection to the server, chosen by `random`; none
    /// while it is too soon to ask again.
    pub fn whom_to_ask(&self, server: &ServerState, now: Time, random: u64) -> Option<u16> {
        let others = server.kept_by.load(Ordering::Relaxed) & !self.bit();
        let rack = self.by_server.get(server.id.0 as usize);
        if others == 0 || rack.is_some_and(|rack| now < rack.ask_at) {
            return None;
        }
        let turns = (random % 64) as u32;
        Some(((others.rotate_right(turns).trailing_zeros() + turns) % 64) as u16)
    }

    /// Nobody is asked again before `then`.
    pub fn ask_later(&mut self, server: ServerId, then: Time) {
        self.rack(server).ask_at = then;
    }

    /// Closes those that have ended, and those that `stay` says are too many or too old.
    pub fn prune(&mut self, now: Time, mut stay: impl FnMut(ServerId) -> Stay) {
        let bit = self.bit();
        for (at, rack) in self.by_server.iter_mut().enumerate() {
            if rack.hinted.is_none() {
                continue; // nor is anything here
            }
            let (stay, list) = (stay(ServerId(at as u32)), &mut rack.list);
            let mut surplus = list.len().saturating_sub(stay.idle_max as usize);
            list.retain(|idle| {
                let is_surplus = surplus > 0 && idle.since < stay.settled;
                surplus -= usize::from(is_surplus);
                !is_surplus && idle.since >= stay.oldest && idle.stream.socket().is_quiet()
            });
            rack.settle_hint(bit);
        }
        self.count = self.by_server.iter().map(|rack| rack.list.len()).sum();
        self.prune_at = if self.count == 0 { Time::NEVER } else { now + PRUNE_EVERY };
    }

    /// When [`Kept::prune`] wants to be called.
    pub const fn deadline(&self) -> Time {
        self.prune_at
    }
}

/// Why there is no connection to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Connect(ConnectResult),
    Tls,
    /// No descriptor is left: the server was not asked.
    Descriptor,
}

impl Failed {
    /// What a connect(2) has come to that failed.
    const fn of(errno: Errno) -> Self {
        match errno {
            Errno::EMFILE | Errno::ENFILE => Self::Descriptor,
            errno => Self::Connect(ConnectResult::of(errno)),
        }
    }

    /// As counted at the server.
    pub const fn result(self) -> ConnectResult {
        match self {
            Self::Connect(result) => result,
            Self::Tls => ConnectResult::Reset,
            Self::Descriptor => ConnectResult::Local,
        }
    }

    /// The reason of a request that has come no further.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Connect(result) => result.reason(),
            Self::Tls => Reason::TlsFailed,
            Self::Descriptor => Reason::FdLimit,
        }
    }
}

impl<D: Driver> Office<D> {
    /// A connection to the server of `place`: a kept one, or a new one.
    ///
    /// # Errors
    /// Why the server could not be reached.
    pub async fn reach(
        self: &Rc<Self>,
        pool: PoolId,
        place: Place<D>,
        fresh: bool,
        peers: &Peers,
        patience: Patience,
    ) -> Result<Upstream<D>, Failed> {
        if self.pool_plan(pool).protocol != Protocol::Http1 {
            return Box::pin(self.share(pool, place, fresh, patience)).await;
        }
        let (server, oldest) = (place.state.id, self.oldest(pool, self.now()));
        let manner = self.manner(pool);
        // A connection that speaks for one client carries no requests of others.
        let proxy = Header::for_session(self.pool_plan(pool).send_proxy, peers.source, peers.local);
        let own = fresh || !proxy.as_bytes().is_empty();
        let mut kept = if own { None } else { self.kept().take(server, oldest) };
        if kept.is_none()
            && !own
            && let Some(owner) = self.whom_to_ask(&place.state)
        {
            kept = Box::pin(self.steal(owner, &place.state, patience.connect)).await;
        }
        if let Some(stream) = kept {
            return Ok(Upstream { stream, place, reused: true, manner });
        }
        let opened = Box::pin(self.open_new(pool, &place.state, &proxy, patience)).await?;
        Ok(Upstream { stream: opened, place, reused: false, manner })
    }

    /// Connections to servers of the pool that were unused since before this are not used again.
    pub(super) fn oldest(&self, pool: PoolId, now: Time) -> Time {
        before(now, self.pool_plan(pool).keepalive.timeout)
    }

    async fn open_new(
        self: &Rc<Self>,
        pool: PoolId,
        server: &ServerState,
        proxy: &Header,
        patience: Patience,
    ) -> Result<Stream<D>, Failed> {
        let started = self.now();
        let opened = {
            let connecting = pin!(self.connect(pool, server, proxy, patience));
            self.shell().timeout(patience.end(), connecting).await
        };
        let result = opened.unwrap_or(Err(Failed::Connect(ConnectResult::Timeout)));
        let word = result.as_ref().map_or_else(|failed| failed.result(), |_| ConnectResult::Ok);
        self.count_connect(server, word, started);
        result
    }

    pub(super) async fn connect(
        self: &Rc<Self>,
        pool: PoolId,
        server: &ServerState,
        proxy: &Header,
        patience: Patience,
    ) -> Result<Stream<D>, Failed> {
        let shell = Rc::clone(self.shell());
        if !shell.room(patience.connect).await {
            return Err(Failed::Descriptor);
        }
        let options = StreamOptions { source: self.next_source(pool, &server.address) };
        let socket = {
            let connecting = pin!(shell.connect(&server.address, &options));
            shell.timeout(patience.connect, connecting).await
        };
        let socket = socket.map_err(|_| Failed::Connect(ConnectResult::Timeout))?;
        let socket = socket.map_err(Failed::of)?;
        socket.belongs_to(server.id.0);
        socket.keep_alive(&self.tcp_options(pool));
        let sent = socket.send(proxy.as_bytes()).await;
        sent.map_err(|errno| Failed::Connect(ConnectResult::of(errno)))?;
        let mut stream = Stream::plain(socket);
        if let Some((tls, name)) = self.pool_tls(pool, server) {
            let shaking = pin!(crate::l4::connect_tls(&mut stream, &tls, name, false));
            let shaken = shell.timeout(shell.now() + patience.handshake, shaking).await;
            if !matches!(shaken, Ok(Ok(()))) {
                return Err(Failed::Tls);
            }
        }
        Ok(stream)
    }

    /// A connection that may carry another request.
    pub fn keep(&self, pool: PoolId, upstream: Upstream<D>) {
        let server = upstream.place.state.id;
        // A line of HTTP/2 is shared anyway; a PROXY header speaks for one client.
        if !upstream.stream.is_message() {
            self.measure_path(server, upstream.stream.socket());
        }
        if upstream.stream.is_message() || self.pool_plan(pool).send_proxy != SendProxy::Off {
            return;
        }
        let keeps = self.pool_plan(pool).keepalive.idle_max > 0 && !self.is_draining();
        let keeps = keeps && upstream.manner == self.manner(pool);
        if keeps && !upstream.place.state.is_taken_out() {
            self.kept().put(&upstream.place.state, upstream.stream, self.now());
        }
    }
}

#[cfg(test)]
mod tests;
