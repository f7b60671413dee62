//! What a worker has for all its HTTP sessions: the membership, the balancing state, kept
//! connections, counts.

mod measures;
mod renewal;
mod stores;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::pki_types::ServerName;
use sluicegate_l7::policy::claims::UnixTime;
use sluicegate_l7::policy::jwks::KeySet;

use super::flow::Asker;
use super::h2::{Bells, Lines};
use super::kept_answers::Kept;
use super::policies::{Passwords, Rules};
use super::site::Site;
use super::squeezing::Encoders;
use super::upstream::{Kept as Connections, Manner, Place, Stay};
use super::waiting::{Tickets, Told, Wait};
use crate::balance::{FlowKey, Nobody, Rng};
use crate::config::plan::{self, HashBy};
use crate::control::jwks::HeldKeys;
use crate::control::notice::Notice;
use crate::l4::gate::tcp_options;
use crate::limits::{LimitTable, RetryBudget};
use crate::net::Endpoint;
use crate::observe::counters::WorkerCounts;
use crate::observe::reason::Reason;
use crate::observe::requests::RequestCounts;
use crate::observe::sampling::Sampler;
use crate::pools::{self, Asking, PoolRun};
use crate::registry::{ListenerId, PoolId, PoolState, ServerId, ServerState, Snapshot};
use crate::runtime::driver::{Driver, TcpOptions};
use crate::runtime::mail::{Mail, Mailbox};
use crate::runtime::tasks::Shell;
use crate::runtime::time::Time;
use crate::runtime::worker::Shared;
use crate::tls::upstream::ClientTls;

/// A worker's hold on a server: its requests count who holds it, and no other worker writes there.
pub(super) type ServerRef = Rc<Arc<ServerState>>;

/// Shared by the HTTP sessions of one worker.
pub struct Office<D: Driver> {
    shell: Rc<Shell<D>>,
    worker: u16,
    snapshot: RefCell<Arc<Snapshot>>,
    pools: RefCell<Vec<PoolRun>>,
    /// By id, those that were asked for something.
    servers: RefCell<Vec<Option<ServerRef>>>,
    rng: RefCell<Rng>,
    kept: RefCell<Connections<D>>,
    lines: RefCell<Lines>,
    /// By pool: how its servers are spoken to now.
    manners: RefCell<Vec<Manner>>,
    /// Connections that want to know when the worker drains.
    bells: Bells,
    counts: Arc<WorkerCounts>,
    shared: Arc<Shared>,
    requests: RefCell<RequestCounts>,
    /// Which of the requests are logged.
    sampler: RefCell<Sampler>,
    connects: RefCell<Vec<(ServerId, hdrhistogram::Histogram<u32>)>>,
    rtt: RefCell<Vec<(ServerId, hdrhistogram::Histogram<u32>)>>,
    /// Requests since the way to a server was looked at.
    paths_skipped: Cell<u8>,
    /// Pools in which a place came free while somebody waits for one.
    room: RefCell<Vec<PoolId>>,
    tickets: RefCell<Tickets>,
    /// By policy: whose tokens were verified.
    answers: RefCell<Vec<Option<Kept>>>,
    passwords_known: RefCell<Option<Kept>>,
    /// By policy: the keys of its tokens.
    held_keys: RefCell<Vec<HeldKeys>>,
    /// By policy: where its limits are shared, and the connection there.
    stores: RefCell<Vec<Option<stores::Store<D>>>>,
    draining: Cell<bool>,
    /// Everything ends where it is.
    stopped: Cell<Option<Reason>>,
    /// Clients that ask nothing now are not waited for.
    closes_idle: Cell<bool>,
    encoders: Encoders,
    /// Heads under construction, kept for the next session that makes one.
    drafts: RefCell<Vec<Vec<u8>>>,
}

impl<D: Driver> std::fmt::Debug for Office<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl<D: Driver> Office<D> {
    #[must_use]
    pub fn new(
        shell: Rc<Shell<D>>,
        worker: u16,
        snapshot: Arc<Snapshot>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Rc<Self> {
        let counts = Arc::clone(&shared.workers[usize::from(worker)].counts);
        let pools = pools::renew(Vec::new(), &snapshot);
        Rc::new(Self {
            shell,
            worker,
            snapshot: RefCell::new(snapshot),
            pools: RefCell::new(pools),
            servers: RefCell::default(),
            rng: RefCell::new(Rng::new(seed)),
            kept: RefCell::new(Connections::new(worker)),
            lines: RefCell::default(),
            manners: RefCell::default(),
            bells: Bells::default(),
            counts,
            shared,
            requests: RefCell::default(),
            sampler: RefCell::default(),
            connects: RefCell::default(),
            rtt: RefCell::default(),
            paths_skipped: Cell::default(),
            room: RefCell::default(),
            tickets: RefCell::default(),
            answers: RefCell::default(),
            passwords_known: RefCell::default(),
            held_keys: RefCell::default(),
            stores: RefCell::default(),
            draining: Cell::new(false),
            stopped: Cell::new(None),
            closes_idle: Cell::new(false),
            encoders: Encoders::default(),
            drafts: RefCell::default(),
        })
    }

    #[must_use]
    pub const fn shell(&self) -> &Rc<Shell<D>> {
        &self.shell
    }

    #[must_use]
    pub fn now(&self) -> Time {
        self.shell.now()
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether a connection between two requests is to be closed. While it is not, its next
    /// request, which may be on its way, is answered, and then it closes.
    #[must_use]
    pub fn closes_idle(&self) -> bool {
        self.closes_idle.get()
    }

    /// The next request of a connection is its last; kept connections close. `idle`: so do those
    /// between two requests.
    pub fn drain(&self, idle: bool) {
        self.draining.set(true);
        self.closes_idle.set(idle || self.closes_idle.get());
        self.kept().prune(self.now(), |_| Stay::NONE);
        self.close_stores();
        self.bells.ring();
    }

    /// Ends requests, and what nobody waits for.
    pub fn stop(&self, reason: Reason) {
        self.stopped.set(Some(reason));
        self.bells.ring();
    }

    /// Why everything ends where it is, if it does.
    pub(super) fn stopped(&self) -> Option<Reason> {
        self.stopped.get()
    }

    /// When [`Office::prune`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.kept.borrow().deadline()
    }

    /// Closes connections that were not used for too long, or are too many.
    pub fn prune(&self, now: Time) {
        if now < self.deadline() {
            return;
        }
        let snapshot = self.snapshot.borrow();
        self.kept().prune(now, |server| {
            let state = &snapshot.servers[server.0 as usize];
            let keepalive = snapshot.plan.pools[usize::from(state.pool.0)].keepalive;
            if state.is_taken_out() { Stay::NONE } else { Stay::new(keepalive, now) }
        });
    }

    /// Closes so many connections that nobody uses, as far as there are any; how many.
    pub fn spare(&self, count: usize) -> usize {
        self.kept().spare(count)
    }

    pub(super) fn kept(&self) -> RefMut<'_, Connections<D>> {
        self.kept.borrow_mut()
    }

    pub(super) fn lines(&self) -> RefMut<'_, Lines> {
        self.lines.borrow_mut()
    }

    pub(super) const fn bells(&self) -> &Bells {
        &self.bells
    }

    pub(super) fn pool_plan(&self, pool: PoolId) -> Ref<'_, plan::Pool> {
        Ref::map(self.snapshot.borrow(), |snapshot| &snapshot.plan.pools[usize::from(pool.0)])
    }

    /// The L4 timeouts of a pool under this listener.
    pub(super) fn timeouts(&self, listener: ListenerId, pool: PoolId) -> plan::Timeouts {
        let snapshot = self.snapshot.borrow();
        let plan = &snapshot.plan;
        plan.timeouts_with(&plan.listeners[usize::from(listener.0)], usize::from(pool.0))
    }

    /// Options of connections to the servers of a pool.
    pub(super) fn tcp_options(&self, pool: PoolId) -> TcpOptions {
        let plan = self.pool_plan(pool);
        tcp_options(&plan.timeouts.over(plan.defaults))
    }

    /// The HTTP timeouts of a pool under this listener.
    pub(super) fn http_timeouts(&self, site: &Site, pool: usize) -> plan::HttpTimeouts {
        self.snapshot.borrow().plan.http_timeouts(&site.plan, pool)
    }

    /// This pool and that of its fallback, as far as they go by something else than addresses.
    pub(super) fn hashes(&self, pool: usize) -> Vec<(usize, HashBy)> {
        self.snapshot.borrow().plan.hashes(pool)
    }

    /// Picks a server and reserves a place there.
    pub(super) fn reserve(
        self: &Rc<Self>,
        pool: PoolId,
        asker: Asker,
        tried: &[ServerId],
    ) -> Result<Place<D>, Nobody> {
        let snapshot = self.snapshot.borrow();
        let at = usize::from(pool.0);
        let rng = &mut *self.rng.borrow_mut();
        let key = asker.key.unwrap_or_else(|| FlowKey::of(asker.client, rng));
        let asking = Asking { key, tried, now: self.now() };
        let members = &snapshot.pools[at].members;
        let slow_start = snapshot.plan.pools[at].slow_start;
        let reserved = self.pools.borrow_mut()[at].reserve(members, slow_start, &asking, rng)?;
        self.counts.pick_races.add(u64::from(reserved.raced));
        Ok(Place::new(Rc::clone(self), self.hold(&members[reserved.member].state)))
    }

    fn hold(&self, state: &Arc<ServerState>) -> ServerRef {
        let (mut servers, at) = (self.servers.borrow_mut(), state.id.0 as usize);
        if servers.len() <= at {
            servers.resize_with(at + 1, || None);
        }
        Rc::clone(servers[at].get_or_insert_with(|| Rc::new(Arc::clone(state))))
    }

    /// A place at the server that a sticky cookie names, if it can take the request. `keeps`:
    /// also while it drains.
    pub(super) fn reserve_sticky(
        self: &Rc<Self>,
        pool: PoolId,
        value: u64,
        keeps: bool,
    ) -> Option<Place<D>> {
        let (snapshot, now) = (self.snapshot.borrow(), self.now());
        let members = &snapshot.pools[usize::from(pool.0)].members;
        let member = snapshot.named_by_cookie(pool, value)?;
        let takes = member.state.is_eligible(now) || keeps && member.state.is_eligible_again(now);
        // Who was sent to a backup comes home once it is not needed.
        let primary_up = || members.iter().any(|one| !one.backup && one.state.is_eligible(now));
        if !takes || member.backup && primary_up() || !member.reserve() {
            return None;
        }
        Some(Place::new(Rc::clone(self), self.hold(&member.state)))
    }

    /// What a sticky cookie says for this server.
    pub(super) fn sticky_value(&self, server: &ServerState) -> u64 {
        let snapshot = self.snapshot.borrow();
        let pool = &snapshot.plan.pools[usize::from(server.pool.0)].name;
        server.sticky_value(pool)
    }

    /// Whether a client of a split stays with the pool that its cookie is of: while any server
    /// there takes requests, or with `keeps` the one that drains, so that a restart of one does
    /// not show the client another version.
    pub(super) fn keeps_client(&self, pool: usize, value: u64, keeps: bool) -> bool {
        let (snapshot, now) = (self.snapshot.borrow(), self.now());
        let named = snapshot.named_by_cookie(PoolId(pool as u16), value);
        named.is_some_and(|member| {
            keeps && member.state.is_eligible_again(now) || self.has_servers(pool)
        })
    }

    /// Waits in the pool's queue, in order of arrival, for a place at a server: `hold` while
    /// none is up, `connect_timeout` while all are full.
    pub(super) async fn wait_for_place(
        self: &Rc<Self>,
        listener: ListenerId,
        pool: PoolId,
        asker: Asker,
        until: Time,
    ) -> Result<Place<D>, Reason> {
        let connect = self.timeouts(listener, pool).connect;
        let mut wait = Wait::new(Rc::clone(self), pool, connect, until)?;
        loop {
            if wait.released() {
                match self.reserve(pool, asker, &[]) {
                    Ok(place) => return Ok(place),
                    Err(nobody) => wait.found(nobody),
                }
            }
            wait.next_turn().await?;
        }
    }

    /// Somebody in a pool's queue may try again.
    pub fn on_released(&self, pool: PoolId, ticket: u32, generation: u32) {
        if !self.tickets.borrow_mut().release(ticket, generation) {
            // It gave up while the word was on its way: the next one may go.
            self.pool_state(pool).done_released();
            self.room.borrow_mut().push(pool);
        }
    }

    pub(super) fn pool_state(&self, pool: PoolId) -> Arc<PoolState> {
        Arc::clone(&self.snapshot.borrow().pools[usize::from(pool.0)].state)
    }

    pub(super) fn push_room(&self, pool: PoolId) {
        self.room.borrow_mut().push(pool);
    }

    /// How much of the pool's requests may be tried again.
    pub(super) fn retry_budget(&self, pool: PoolId) -> Ref<'_, RetryBudget> {
        let at = usize::from(pool.0);
        Ref::map(self.snapshot.borrow(), |snapshot| &snapshot.pools[at].state.retries)
    }

    /// The clock, looked at now.
    pub(super) fn clock(&self) -> Time {
        self.shell.clock()
    }

    /// The time of the wall clock.
    pub(super) fn unix_time(&self) -> UnixTime {
        UnixTime(Duration::from_nanos(self.now().0.saturating_add_signed(self.shared.wall())))
    }

    /// The same in whole seconds.
    pub(super) fn unix_now(&self) -> u64 {
        self.unix_time().0.as_secs()
    }

    pub(super) fn limits(&self) -> &LimitTable {
        &self.shared.limits
    }

    pub(super) fn passwords(&self) -> &Passwords {
        &self.shared.passwords
    }

    /// Tells the control thread.
    pub(super) fn tell(&self, notice: Notice) {
        self.shared.notices.post(notice);
    }

    pub(super) fn mailbox(&self) -> Mailbox {
        self.shared.workers[usize::from(self.worker)].mailbox.clone()
    }

    /// Tells another worker; the mail comes back when that one's box is full.
    pub(super) fn post(&self, worker: u16, mail: Mail) -> Result<(), Mail> {
        self.shared.workers[usize::from(worker)].mailbox.post(mail)
    }

    /// A server that is known here: another worker may know of one more.
    pub(super) fn server(&self, id: ServerId) -> Option<Arc<ServerState>> {
        self.snapshot.borrow().servers.get(id.0 as usize).cloned()
    }

    /// A thread has an answer for somebody who waits.
    pub fn on_told(&self, told: Told) {
        self.tickets.borrow_mut().tell(told.ticket, told.generation, told.good);
    }

    /// Whether these are the rules of the plan at hand. A request that waited through a reload has
    /// those it came under, and a listener that is gone leaves its connections theirs; what they
    /// find must not be taken for what the new ones say.
    pub(super) fn are_current(&self, rules: &Arc<Rules>) -> bool {
        Arc::ptr_eq(rules, &self.snapshot.borrow().fronts.rules)
    }

    /// What is remembered of one policy's tokens; by rules that are out of date, nothing.
    pub(super) fn answers(&self, rules: &Arc<Rules>, policy: usize, entries: usize) -> Kept {
        if !self.are_current(rules) {
            return Kept::new(1);
        }
        let mut answers = self.answers.borrow_mut();
        if policy >= answers.len() {
            answers.resize(policy + 1, None);
        }
        answers[policy].get_or_insert_with(|| Kept::new(entries)).clone()
    }

    pub(super) fn passwords_known(&self, rules: &Arc<Rules>, entries: usize) -> Kept {
        if !self.are_current(rules) {
            return Kept::new(1);
        }
        self.passwords_known.borrow_mut().get_or_insert_with(|| Kept::new(entries)).clone()
    }

    /// The keys of a policy's tokens, and the generation they are of.
    pub(super) fn jwt_keys(&self, rules: &Arc<Rules>, policy: usize) -> Option<(Arc<KeySet>, u64)> {
        let shared = rules.keys(policy)?;
        if !self.are_current(rules) {
            let HeldKeys { generation, keys } = shared.read();
            return keys.map(|keys| (keys, generation));
        }
        let mut held = self.held_keys.borrow_mut();
        if policy >= held.len() {
            held.resize(policy + 1, HeldKeys::default());
        }
        held[policy].refresh(shared);
        held[policy].keys.clone().map(|keys| (keys, held[policy].generation))
    }

    pub(super) const fn worker(&self) -> u16 {
        self.worker
    }

    pub(super) fn tickets(&self) -> RefMut<'_, Tickets> {
        self.tickets.borrow_mut()
    }

    /// Somebody waits for a server of the pool, here or on another worker.
    pub(super) fn has_queue(&self, pool: PoolId) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.pools[usize::from(pool.0)].state.waiting.load(Ordering::Acquire) > 0
    }

    /// Why a request has to wait for a server of the pool.
    pub(super) fn nobody(&self, pool: PoolId) -> Nobody {
        let (at, snapshot) = (usize::from(pool.0), self.snapshot.borrow());
        snapshot.pools[at].behind_others(self.now(), snapshot.plan.pools[at].hold)
    }

    /// Whether any server of the pool could take a request now.
    pub(super) fn has_servers(&self, pool: usize) -> bool {
        let now = self.now();
        let snapshot = self.snapshot.borrow();
        snapshot.pools[pool].members.iter().any(|member| member.state.is_eligible(now))
    }

    pub(super) fn next_source(&self, pool: PoolId, server: &Endpoint) -> Option<IpAddr> {
        let at = usize::from(pool.0);
        let snapshot = self.snapshot.borrow();
        self.pools.borrow_mut()[at].next_source(&snapshot.plan.pools[at].source, server)
    }

    pub(super) fn pool_tls(
        &self,
        pool: PoolId,
        server: &ServerState,
    ) -> Option<(Arc<ClientTls>, ServerName<'static>)> {
        let snapshot = self.snapshot.borrow();
        let tls = snapshot.fronts.pools[usize::from(pool.0)].tls.clone()?;
        Some((tls, snapshot.server_name(server.id)))
    }

    /// The Host of a server, for those who ask for it.
    pub(super) fn host_of(&self, server: &ServerState) -> String {
        self.snapshot.borrow().host_of(server)
    }

    pub(super) fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// A request failed at this server.
    pub(super) fn suspect(&self, server: &ServerState) {
        let outlier = self.pool_plan(server.pool).outlier;
        self.shared.suspect(server, outlier, None);
    }

    /// A server answered.
    pub(super) fn trust(server: &ServerState) {
        server.trust();
    }

    /// A place in this pool came free.
    pub(super) fn note_room(&self, pool: PoolId) {
        if self.has_queue(pool) {
            self.room.borrow_mut().push(pool);
        }
    }

    /// A pool whose waiting clients may move on, since the last call.
    pub fn next_room(&self) -> Option<PoolId> {
        self.room.borrow_mut().pop()
    }

    pub(super) const fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// An empty buffer for a head.
    pub(super) fn draft(&self) -> Vec<u8> {
        self.drafts.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn put_away(&self, mut draft: Vec<u8>) {
        /// Drafts that are kept, and how large at most: heads are rarely larger.
        const KEPT_MAX: usize = 64;
        const BYTES_MAX: usize = 32 << 10;
        draft.clear();
        let mut drafts = self.drafts.borrow_mut();
        if drafts.len() < KEPT_MAX && draft.capacity() <= BYTES_MAX {
            drafts.push(draft);
        }
    }
}
