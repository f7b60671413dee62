//! What the tasks of the control thread have in common, and what they tell the workers.
//!
//! Lives on the control thread and is shared by its tasks through an `Rc`. Nothing here waits but
//! [`Desk::heard`]: a mailbox that is full belongs to a worker that is stuck, and what matters is
//! told again by [`Desk::keep_house`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluicegate_l7::policy::breaker::BreakerState;
use tokio::sync::{Notify, oneshot};

use super::instance::Instance;
use super::membership::{Change, names_of};
use crate::balance::Roster;
use crate::config::plan::{OnDown, Outlier, Plan, Pool};
use crate::health::{Ejection, ejection};
use crate::http::shared_limits::Unavailable;
use crate::observe::clock;
use crate::observe::events::EventKind;
use crate::observe::logger::Log;
use crate::registry::{PoolId, ServerId, ServerState, Snapshot};
use crate::runtime::mail::Mail;

/// How long an operator waits for the workers. A turn takes microseconds.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Desk {
    pub instance: Arc<Instance>,
    pub log: Log,
    /// Version of the snapshot each worker was given.
    told: RefCell<Vec<u64>>,
    /// By worker: mail that must arrive and found its box full.
    unsent: RefCell<Vec<VecDeque<Mail>>>,
    /// Names that have neither resolved nor failed yet.
    names_open: Cell<usize>,
    /// Rings when the last of them has.
    names_answered: Notify,
    /// Workers that have ended, for whatever reason: they make no turns any more.
    pub workers_ended: RefCell<BTreeSet<u16>>,
    /// Another process has taken over.
    pub handed_over: Cell<bool>,
    /// Rings with each of them, and with a failure.
    pub worker_news: Notify,
    pub worker_failed: RefCell<Option<String>>,
    /// Pools whose Redis decides nothing, and for which worker.
    stores_silent: RefCell<BTreeSet<(u16, u16)>>,
}

/// A pool of the plan, which is held meanwhile.
#[derive(Debug)]
pub(super) struct Planned(Arc<Plan>, usize);

impl std::ops::Deref for Planned {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.0.pools[self.1]
    }
}

impl Desk {
    pub fn new(instance: Arc<Instance>, log: Log) -> Self {
        let version = instance.snapshot().version;
        let told = vec![version; instance.shared.workers.len()];
        Self {
            log,
            unsent: RefCell::new(told.iter().map(|_| VecDeque::new()).collect()),
            told: RefCell::new(told),
            names_open: Cell::new(names_of(&instance.plan()).count()),
            names_answered: Notify::new(),
            workers_ended: RefCell::default(),
            handed_over: Cell::default(),
            worker_news: Notify::new(),
            worker_failed: RefCell::new(None),
            stores_silent: RefCell::default(),
            instance,
        }
    }

    /// What the configuration says of a server's pool now.
    pub fn plan_of(&self, state: &ServerState) -> Planned {
        Planned(self.instance.plan(), usize::from(state.pool.0))
    }

    /// `pg/pg1 (10.0.0.11:5432)`.
    pub fn describe(&self, state: &ServerState) -> String {
        format!("{}/{} ({})", self.plan_of(state).name, state.name, state.address)
    }

    /// Posts to every worker, as [`Desk::post`].
    pub fn post_all(&self, mail: impl Fn() -> Mail) {
        for worker in &self.instance.shared.workers {
            self.post(worker.id, mail());
        }
    }

    /// Posts to one worker, later if its box is full; to one that has ended, nothing.
    pub fn post(&self, worker: u16, mail: Mail) {
        if self.workers_ended.borrow().contains(&worker) {
            return;
        }
        let at = usize::from(worker);
        let mailbox = &self.instance.shared.workers[at].mailbox;
        let unsent = &mut self.unsent.borrow_mut()[at];
        unsent.push_back(mail);
        while let Some(mail) = unsent.pop_front() {
            if let Err(mail) = mailbox.post(mail) {
                unsent.push_front(mail);
                return;
            }
        }
    }

    /// What [`Desk::post`] could not post.
    fn post_unsent(&self) {
        for at in 0..self.instance.shared.workers.len() {
            let first = self.unsent.borrow_mut()[at].pop_front();
            if let Some(mail) = first {
                let rest = std::mem::take(&mut self.unsent.borrow_mut()[at]);
                for mail in std::iter::once(mail).chain(rest) {
                    self.post(at as u16, mail);
                }
            }
        }
    }

    /// A server may get traffic from now on.
    pub fn came_up(&self, state: &ServerState, warms_up: bool) {
        if warms_up && self.plan_of(state).slow_start.is_some() {
            state.warm_from.store(clock::now().0, Ordering::Relaxed);
        }
        state.errors_in_row.store(0, Ordering::Relaxed);
        state.up.store(true, Ordering::Release);
        self.release_waiters(state.pool);
    }

    pub fn went_down(&self, state: &ServerState) {
        state.up.store(false, Ordering::Release);
        if self.plan_of(state).on_down == OnDown::CloseSessions {
            let id = state.id;
            self.post_all(|| Mail::CloseSessionsOn(id));
        }
    }

    /// Lets clients go that wait for a server, as many as may be on their way at once. Their
    /// workers let the next ones go.
    pub fn release_waiters(&self, pool: PoolId) {
        let snapshot = self.instance.snapshot();
        let (id, pool) = (pool, &snapshot.pools[usize::from(pool.0)]);
        let workers = &self.instance.shared.workers;
        while pool.state.release(pool.places(clock::now()), |waiter| {
            let mail =
                Mail::Released { pool: id, slot: waiter.slot, generation: waiter.generation };
            workers.get(usize::from(waiter.worker)).is_some_and(|it| it.mailbox.post(mail).is_ok())
        }) {}
    }

    /// A lookup has ended; `first`: the first one of its name.
    pub fn name_answered(&self, first: bool) {
        if first {
            self.names_open.set(self.names_open.get().saturating_sub(1));
            self.names_answered.notify_one();
        }
    }

    /// Resolves when every name has been looked up once.
    pub async fn names_answered(&self) {
        while self.names_open.get() > 0 {
            self.names_answered.notified().await;
        }
    }

    /// Tells the workers of a new membership, and the world of what is different.
    pub fn publish(&self, change: &Change) {
        for state in &change.added {
            let text = format!("server {} was added by its name", self.describe(state));
            self.log.info(&text);
            self.instance.events.push(EventKind::MemberAdded, text);
        }
        for state in &change.removed {
            let text = format!("server {} is gone from its name", self.describe(state));
            self.log.info(&text);
            self.instance.events.push(EventKind::MemberRemoved, text);
        }
        self.tell_membership(&change.snapshot);
        for state in &change.added {
            self.release_waiters(state.pool);
        }
    }

    /// Gives every worker the snapshot, if it has an older one.
    pub fn tell_membership(&self, snapshot: &Arc<Snapshot>) {
        let workers = &self.instance.shared.workers;
        for (worker, told) in workers.iter().zip(self.told.borrow_mut().iter_mut()) {
            let behind = *told < snapshot.version;
            if behind && worker.mailbox.post(Mail::Snapshot(snapshot.clone())).is_ok() {
                *told = snapshot.version;
            }
        }
    }

    /// Waits until every worker that makes turns has read what was posted to it: what an answer
    /// to the operator claims must be so for the next client, whichever worker it meets.
    pub async fn heard(&self) {
        let mut asked = Vec::new();
        for worker in &self.instance.shared.workers {
            let (reply, heard) = oneshot::channel();
            // A full mailbox: it is stuck, and house-keeping tells it later.
            if worker.mailbox.post(Mail::Heard(reply)).is_ok() {
                asked.push(heard);
            }
        }
        let all = async {
            for heard in asked {
                // It ended: nothing is asked of it any more.
                let _ = heard.await;
            }
        };
        if tokio::time::timeout(HEARD_WITHIN, all).await.is_err() {
            self.log.warn(format_args!("a worker is stuck: it has not taken the change yet"));
        }
    }

    /// Once a second: what was lost to a full mailbox, or had no moment of its own.
    pub fn keep_house(&self) {
        self.instance.shared.read_wall();
        self.instance.sample_busy();
        let snapshot = self.instance.snapshot();
        self.tell_membership(&snapshot);
        self.post_unsent();
        let now = clock::now();
        for (id, pool) in snapshot.pools.iter().enumerate() {
            // An ejection has ended, or a release was lost: nobody else would let them go.
            let waiting = pool.state.waiting.load(Ordering::Relaxed) > 0;
            if waiting && pool.members.iter().any(|member| member.state.is_eligible(now)) {
                self.release_waiters(PoolId(id as u16));
            }
        }
    }

    /// A worker saw `outlier.errors` failures in a row at a server.
    pub fn consider_ejection(&self, server: ServerId) {
        let snapshot = self.instance.snapshot();
        let Some(state) = snapshot.servers.get(server.0 as usize) else { return };
        let Some(outlier) = self.plan_of(state).outlier else { return };
        let members = &snapshot.pools[usize::from(state.pool.0)].members;
        let Some(at) = members.iter().position(|member| member.state.id == server) else { return };
        let mut roster = Roster::new(members);
        roster.refresh(members, None, clock::now());
        let standings: Vec<_> = roster.candidates().iter().map(|one| one.standing).collect();
        match ejection(&standings, at, outlier.max_ejected_percent) {
            Ejection::Eject => self.eject(state, &outlier),
            // What was under way when it was ejected says nothing of how it does afterwards.
            Ejection::NotUp => state.errors_in_row.store(0, Ordering::Relaxed),
            Ejection::LastOne | Ejection::ShareOut => {
                // Start counting anew, so that the question comes back if it goes on failing.
                state.errors_in_row.store(0, Ordering::Relaxed);
                self.log.debug(format_args!(
                    "server {} fails its clients, but too few others are left to eject it",
                    self.describe(state)
                ));
            }
        }
    }

    /// A breaker has opened (servers are not asked) or closed.
    pub fn tell_breaker(&self, pool: PoolId, state: BreakerState) {
        let plan = &self.instance.snapshot().plan;
        let name = &plan.pools[usize::from(pool.0)].name;
        let (kind, text) = match state {
            BreakerState::Closed => {
                let text = format!("breaker of {name} is closed: its probes went well");
                self.log.info(&text);
                (EventKind::BreakerClosed, text)
            }
            BreakerState::Open | BreakerState::HalfOpen => {
                let text = format!("breaker of {name} is open: too many requests fail or are slow");
                self.log.warn(&text);
                (EventKind::BreakerOpened, text)
            }
        };
        self.instance.events.push(kind, text);
    }

    /// A Redis decides no more, or again: told when that begins for the first worker, and when it
    /// has ended for the last.
    pub fn tell_store(&self, worker: u16, pool: PoolId, decides: Result<(), Unavailable>) {
        let plan = &self.instance.snapshot().plan;
        let name = &plan.pools[usize::from(pool.0)].name;
        let mut silent = self.stores_silent.borrow_mut();
        let among = |silent: &BTreeSet<(u16, u16)>| silent.iter().any(|(at, _)| *at == pool.0);
        let (before, own) = (among(&silent), (pool.0, worker));
        if let Err(why) = decides {
            silent.insert(own);
            if !before {
                let text = "does not decide about limits, so `on_error` of its policy holds";
                self.log.warn(format_args!("{name} {text}: {why}"));
            }
        } else {
            silent.remove(&own);
            if before && !among(&silent) {
                self.log.info(format_args!("{name} decides about limits again"));
            }
        }
    }

    fn eject(&self, state: &ServerState, outlier: &Outlier) {
        let until = clock::now() + outlier.eject_for;
        state.ejected_until.store(until.0, Ordering::Release);
        state.errors_in_row.store(0, Ordering::Relaxed);
        let text = format!(
            "server {} is ejected for {:?}: {} failures in a row",
            self.describe(state),
            outlier.eject_for,
            outlier.errors
        );
        self.log.warn(&text);
        self.instance.events.push(EventKind::ServerEjected, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::control::membership::Membership;
    use crate::runtime::engine::Engine;
    use crate::runtime::worker::Shared;

    /// Two servers that are ejected after failures, on a desk without workers.
    fn desk() -> Desk {
        let servers = ["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().unwrap());
        let mut plan = fixture::plan(&servers);
        plan.pools[0].outlier = Some(Outlier {
            errors: std::num::NonZeroU32::MIN,
            eject_for: std::time::Duration::from_secs(60),
            max_ejected_percent: 100,
        });
        let plan = Arc::new(plan);
        let shared = Arc::new(Shared::new(&plan, &[], Engine::Epoll).unwrap());
        let membership = Membership::plain(&plan);
        Desk::new(Arc::new(Instance::new(shared, membership, vec![], None)), Log::memory())
    }

    #[test]
    fn a_server_that_fails_its_clients_is_ejected_but_never_the_last_one() {
        let desk = desk();
        let now = clock::now();
        desk.consider_ejection(ServerId(0));
        desk.consider_ejection(ServerId(1));
        let servers = &desk.instance.snapshot().servers;
        let ejected: Vec<_> = servers.iter().map(|state| state.is_ejected(now)).collect();
        assert_eq!(ejected, [true, false]);
        let events = desk.instance.events.since(0);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].kind, EventKind::ServerEjected);
    }

    #[test]
    fn a_breaker_that_opens_and_closes_is_told_by_the_name_of_its_pool() {
        let desk = desk();
        let name = desk.instance.snapshot().plan.pools[0].name.clone();
        for state in [BreakerState::Open, BreakerState::Closed] {
            desk.tell_breaker(PoolId(0), state);
        }
        let events = desk.instance.events.since(0);
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::BreakerOpened, EventKind::BreakerClosed]);
        assert!(events.iter().all(|event| event.text.contains(&*name)), "{events:?}");
    }

    #[test]
    fn a_server_that_came_up_again_warms_up_only_if_its_pool_does() {
        let desk = desk();
        let state = &desk.instance.snapshot().servers[0];
        desk.came_up(state, true);
        assert_eq!(state.warm_from.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_old_server_id_that_is_gone_is_no_trouble() {
        desk().consider_ejection(ServerId(77));
    }
}
