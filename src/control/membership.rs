//! Which addresses belong to which pool now, and the run-time state that goes with each.
//!
//! Written by the control thread alone; read by whoever shows the state. Static servers are
//! members from the start, names become members when they resolve. Every change makes a new
//! [`Snapshot`] with the next version, which the caller mails to the workers.
//!
//! - M1: a (pool, server name, address) has one [`ServerState`] for ever. An address that
//!   comes back finds its counters, and a session's id never means another server.
//! - M2: a member that goes is marked `removed` and stays in [`Snapshot::servers`].
//! - M3: ids are the index into that list.
//! - M4: what the admin API has said about a server holds for all its addresses, and for those
//!   that its name brings later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crossbeam::utils::CachePadded;

use super::overrides::{Override, Overrides, Wanted};
use crate::config::TooMany;
use crate::config::plan::{Init, Plan, Pool, Server, ServerAddr};
use crate::fronts::Fronts;
use crate::net::Endpoint;
use crate::registry::{
    AdminState, ListenerState, Member, PoolId, PoolSnapshot, PoolState, SERVERS_MAX, ServerId,
    ServerState, Snapshot,
};

/// Addresses that one name may bring. More than a pool has use for, and little enough that a
/// name server gone wrong costs nothing.
pub const MEMBERS_MAX: usize = 64;

/// One address a name resolved to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub address: Endpoint,
    pub weight: u16,
    pub backup: bool,
}

/// Where a name stands.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    pub members: Vec<Found>,
    /// The last answer was an error; `members` are older than it.
    pub stale: bool,
    /// What the last lookup said in words.
    pub detail: String,
    pub at: Option<SystemTime>,
}

/// What a change did.
#[derive(Debug)]
pub struct Change {
    pub snapshot: Arc<Snapshot>,
    pub added: Vec<Arc<ServerState>>,
    pub removed: Vec<Arc<ServerState>>,
}

/// A server of the plan, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId {
    pub pool: PoolId,
    pub server: Arc<str>,
}

impl NameId {
    #[must_use]
    pub fn new(pool: PoolId, server: &Server) -> Self {
        Self { pool, server: server.name.as_str().into() }
    }

    /// What the plan says of it.
    #[must_use]
    pub fn of<'p>(&self, plan: &'p Plan) -> Option<&'p Server> {
        let servers = &plan.pools.get(usize::from(self.pool.0))?.servers;
        servers.iter().find(|server| *server.name == *self.server)
    }
}

#[derive(Debug)]
pub struct Membership(Mutex<Book>);

#[derive(Debug)]
struct Book {
    by_key: HashMap<(PoolId, Arc<str>, Endpoint), ServerId>,
    names: BTreeMap<NameId, Resolution>,
    overrides: Overrides,
    snapshot: Arc<Snapshot>,
}

impl Membership {
    /// Without TLS and HTTP: for a plan whose servers are only asked about.
    #[must_use]
    pub fn plain(plan: &Arc<Plan>) -> Self {
        Self::new(plan, Arc::new(Fronts::plain(plan)))
    }

    /// Static servers are members, names have none yet.
    #[must_use]
    pub fn new(plan: &Arc<Plan>, fronts: Arc<Fronts>) -> Self {
        let empty = Snapshot {
            plan: plan.clone(),
            listeners: Vec::new(),
            pools: Vec::new(),
            servers: Vec::new(),
            fronts,
            version: 0,
        };
        let mut book = Book {
            by_key: HashMap::new(),
            names: BTreeMap::new(),
            overrides: Overrides::default(),
            snapshot: Arc::new(empty),
        };
        let fronts = book.snapshot.fronts.clone();
        book.rebuild(plan, &fronts);
        Self(Mutex::new(book))
    }

    /// Puts another plan in place, which has the seats of the one before it. Servers, listeners
    /// and pools that stay keep all that was counted and found out about them. Also returns the
    /// overrides that end with it.
    ///
    /// # Errors
    /// When one process cannot tell so many addresses apart; nothing has changed then.
    pub fn replan(
        &self,
        plan: &Arc<Plan>,
        fronts: &Arc<Fronts>,
    ) -> Result<(Change, Vec<(String, Override)>), TooMany> {
        let mut book = self.lock();
        let most = |pool: &Pool| pool.servers.len();
        let known = book.snapshot.servers.len();
        if known + plan.pools.iter().map(most).sum::<usize>() > SERVERS_MAX {
            let fresh = book.fresh(plan);
            if known + fresh > SERVERS_MAX {
                return Err(TooMany(format!(
                    "this process has had {known} server addresses, can tell {SERVERS_MAX} apart \
                     and would get {fresh} more; restart it, or upgrade it in place"
                )));
            }
        }
        let same = |name: &NameId| {
            let (old, new) = (name.of(&book.snapshot.plan), name.of(plan));
            old.zip(new).is_some_and(|(old, new)| old.address == new.address)
        };
        let gone: Vec<_> = book.names.keys().filter(|name| !same(name)).cloned().collect();
        for name in gone {
            book.names.remove(&name);
        }
        for (name, entry) in &mut book.names {
            let Some(server) = name.of(plan) else { continue };
            if let ServerAddr::Dns { .. } = server.address {
                // The file says it, and no record: it needs no lookup to hold.
                for found in &mut entry.members {
                    (found.weight, found.backup) = (server.weight, server.backup);
                }
            }
        }
        let ended = book.overrides.on_reload(plan);
        let change = book.rebuild(plan, fronts);
        for member in change.snapshot.pools.iter().flat_map(|pool| &pool.members) {
            let state = &member.state;
            let pool = &change.snapshot.plan.pools[usize::from(state.pool.0)];
            if pool.check.is_none() && state.admin() != AdminState::Maint {
                // Nobody finds out otherwise any more.
                state.up.store(true, Ordering::Release);
            }
            if pool.outlier.is_none() {
                state.end_ejection();
            }
        }
        Ok((change, ended))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Each change is computed first and stored last, so a panic leaves the book whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// Replaces TLS and HTTP of listeners and pools; the members stay.
    pub fn refront(&self, renew: impl FnOnce(&Fronts) -> Fronts) -> Arc<Snapshot> {
        let mut book = self.lock();
        let old = book.snapshot.clone();
        let snapshot = Arc::new(Snapshot {
            plan: old.plan.clone(),
            listeners: old.listeners.clone(),
            pools: old.pools.clone(),
            servers: old.servers.clone(),
            fronts: Arc::new(renew(&old.fronts)),
            version: old.version + 1,
        });
        book.snapshot = snapshot.clone();
        snapshot
    }

    /// Where each name of the plan stands.
    #[must_use]
    pub fn resolutions(&self) -> BTreeMap<NameId, Resolution> {
        self.lock().names.clone()
    }

    /// What the admin API has changed.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        self.lock().overrides.clone()
    }

    /// Somebody wants something of a server of the plan. Returns what holds now, and the
    /// snapshot with it.
    pub fn change(&self, server: &NameId, wanted: Wanted) -> (Override, Arc<Snapshot>) {
        let mut book = self.lock();
        let plan = book.snapshot.plan.clone();
        let fronts = book.snapshot.fronts.clone();
        let pool = &plan.pools[usize::from(server.pool.0)];
        let holds = server
            .of(&plan)
            .map(|server| book.overrides.change(&pool.name, server, wanted))
            .unwrap_or_default();
        (holds, book.rebuild(&plan, &fronts).snapshot)
    }

    /// A name resolved. `None`: to the members it had.
    pub fn resolved(&self, name: NameId, found: Vec<Found>, detail: String) -> Option<Change> {
        let mut book = self.lock();
        let entry = book.names.entry(name).or_default();
        let same = entry.members == found;
        let (stale, at) = (false, Some(SystemTime::now()));
        *entry = Resolution { members: found, stale, detail, at };
        if same {
            return None;
        }
        let (plan, fronts) = (book.snapshot.plan.clone(), book.snapshot.fronts.clone());
        Some(book.rebuild(&plan, &fronts))
    }

    /// A name did not resolve: its last members stay.
    pub fn unresolved(&self, name: NameId, detail: String) {
        let mut book = self.lock();
        let entry = book.names.entry(name).or_default();
        entry.stale = !entry.members.is_empty();
        entry.detail = detail;
    }
}

/// The servers of `plan` that are names.
pub fn names_of(plan: &Plan) -> impl Iterator<Item = NameId> + '_ {
    plan.pools.iter().enumerate().flat_map(|(pool, at)| {
        let is_name = |server: &&Server| {
            matches!(server.address, ServerAddr::Dns { .. } | ServerAddr::Srv { .. })
        };
        let id = PoolId(pool as u16);
        at.servers.iter().filter(is_name).map(move |server| NameId::new(id, server))
    })
}

/// What a server counts as before its first check result.
fn is_up_at_first(pool: &Pool) -> bool {
    pool.check.as_ref().is_none_or(|check| check.init == Init::Up)
}

impl Book {
    /// Makes the next snapshot from the plan and what the names resolved to.
    fn rebuild(&mut self, plan: &Arc<Plan>, fronts: &Arc<Fronts>) -> Change {
        for name in names_of(plan) {
            self.names.entry(name).or_default();
        }
        let old = self.snapshot.clone();
        let mut servers = old.servers.clone();
        let mut pools = Vec::with_capacity(plan.pools.len());
        for (at, pool) in plan.pools.iter().enumerate() {
            let id = PoolId(at as u16);
            let mut members = Vec::new();
            for server in &pool.servers {
                let holds = self.overrides.of(&pool.name, &server.name);
                for found in self.addresses(&NameId::new(id, server), server) {
                    let Some(mut member) = self.member(&mut servers, pool, id, server, found)
                    else {
                        continue;
                    };
                    // Before anybody can see it as one that takes clients (M4).
                    member.state.set_admin(holds.admin());
                    member.weight = holds.weight.map_or(member.weight, |weight| weight.weight);
                    members.push(member);
                }
            }
            let breaker = pool.breaker.as_ref().map(|policy| policy.breaker);
            let state = if let Some(known) = old.pools.get(at) {
                known.state.renew_breaker(breaker);
                known.state.clone()
            } else {
                Arc::new(PoolState::new(&pool.name, breaker))
            };
            pools.push(PoolSnapshot { state, members });
        }
        let new = |name: &str| {
            Arc::new(ListenerState { name: name.into(), active: CachePadded::default() })
        };
        let listeners = plan.listeners.iter().enumerate();
        let listeners = listeners
            .map(|(at, one)| old.listeners.get(at).cloned().unwrap_or_else(|| new(&one.name)));
        let snapshot = Arc::new(Snapshot {
            plan: plan.clone(),
            listeners: listeners.collect(),
            pools,
            servers,
            fronts: fronts.clone(),
            version: old.version + 1,
        });
        let (before, after) = (ids_of(&old), ids_of(&snapshot));
        let of = |ids: &HashSet<ServerId>, but: &HashSet<ServerId>| -> Vec<_> {
            let all = snapshot.servers.iter();
            all.filter(|s| ids.contains(&s.id) && !but.contains(&s.id)).cloned().collect()
        };
        let (added, removed) = (of(&after, &before), of(&before, &after));
        for state in &added {
            // One that comes back starts as a new one does; its counters go on (M1).
            let pool = &snapshot.plan.pools[usize::from(state.pool.0)];
            state.up.store(is_up_at_first(pool), Ordering::Relaxed);
            state.errors_in_row.store(0, Ordering::Relaxed);
            state.removed.store(false, Ordering::Release);
        }
        for state in &removed {
            state.removed.store(true, Ordering::Release);
        }
        self.snapshot = snapshot.clone();
        Change { snapshot, added, removed }
    }

    /// How many addresses of `plan` are not known yet.
    fn fresh(&self, plan: &Plan) -> usize {
        let of = |(at, pool): (usize, &Pool)| {
            let id = PoolId(at as u16);
            let fresh = |server: &&Server| {
                let found = self.addresses(&NameId::new(id, server), server);
                let key = |one: Found| (id, Arc::from(server.name.as_str()), one.address);
                found.into_iter().any(|one| !self.by_key.contains_key(&key(one)))
            };
            pool.servers.iter().filter(fresh).count()
        };
        plan.pools.iter().enumerate().map(of).sum()
    }

    fn addresses(&self, name: &NameId, server: &Server) -> Vec<Found> {
        let fixed = |address| vec![Found { address, weight: server.weight, backup: server.backup }];
        match &server.address {
            ServerAddr::Ip(address) => fixed(Endpoint::Ip(*address)),
            ServerAddr::Unix(path) => fixed(Endpoint::Unix(path.as_path().into())),
            ServerAddr::Dns { .. } | ServerAddr::Srv { .. } => {
                self.names.get(name).map(|entry| entry.members.clone()).unwrap_or_default()
            }
        }
    }

    /// The state of one address, made if it is new. `None`: [`SERVERS_MAX`] is reached.
    fn member(
        &mut self,
        servers: &mut Vec<Arc<ServerState>>,
        pool: &Pool,
        id: PoolId,
        server: &Server,
        found: Found,
    ) -> Option<Member> {
        let key = (id, Arc::from(server.name.as_str()), found.address.clone());
        let state = if let Some(known) = self.by_key.get(&key) {
            servers[known.0 as usize].clone()
        } else {
            if servers.len() >= SERVERS_MAX {
                return None;
            }
            let new = ServerId(servers.len() as u32);
            let up = is_up_at_first(pool);
            servers.push(Arc::new(ServerState::new(new, id, &server.name, found.address, up)));
            self.by_key.insert(key, new);
            servers[new.0 as usize].clone()
        };
        Some(Member {
            state,
            weight: found.weight,
            max_conns: server.max_conns.map(Into::into),
            backup: found.backup,
        })
    }
}

fn ids_of(snapshot: &Snapshot) -> HashSet<ServerId> {
    let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
    members.map(|member| member.state.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    fn name() -> NameId {
        NameId { pool: PoolId(0), server: "named".into() }
    }

    fn found(last: u8) -> Found {
        let address = std::net::SocketAddr::from(([127, 0, 0, last], 80));
        Found { address: Endpoint::Ip(address), weight: 1, backup: false }
    }

    /// One static server and one name.
    fn membership() -> Membership {
        let mut plan = fixture::plan(&["127.0.0.1:80".parse().unwrap()]);
        let name = ServerAddr::Dns { host: "be.test".into(), port: 80 };
        let named =
            Server { name: "named".into(), address: name, ..plan.pools[0].servers[0].clone() };
        plan.pools[0].servers.push(named);
        Membership::plain(&Arc::new(plan))
    }

    #[test]
    fn a_name_has_no_members_until_it_resolves() {
        let membership = membership();
        assert_eq!(membership.snapshot().pools[0].members.len(), 1);
        let change = membership.resolved(name(), vec![found(2), found(3)], String::new()).unwrap();
        assert_eq!((change.added.len(), change.removed.len()), (2, 0));
        assert_eq!(change.snapshot.pools[0].members.len(), 3);
    }

    #[test]
    fn the_same_answer_changes_nothing() {
        let membership = membership();
        membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        assert!(membership.resolved(name(), vec![found(2)], String::new()).is_none());
    }

    #[test]
    fn a_removed_member_keeps_its_id_and_state_when_it_returns() {
        let membership = membership();
        let first = membership.resolved(name(), vec![found(2)], String::new()).unwrap().added;
        first[0].load.store(5, Ordering::Relaxed);
        let gone = membership.resolved(name(), vec![found(3)], String::new()).unwrap();
        assert_eq!(gone.removed[0].id, first[0].id);
        assert!(first[0].removed.load(Ordering::Relaxed));
        assert!(gone.snapshot.servers.iter().any(|state| state.id == first[0].id));
        let back = membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        assert_eq!(back.added[0].id, first[0].id);
        assert_eq!(back.added[0].load.load(Ordering::Relaxed), 5);
        assert!(!back.added[0].removed.load(Ordering::Relaxed));
    }

    #[test]
    fn an_override_holds_for_every_address_and_for_those_that_come_later() {
        let membership = membership();
        membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        let wanted = Wanted { state: Some(AdminState::Drain), weight: Some(9) };
        let (holds, snapshot) = membership.change(&name(), wanted);
        assert_eq!(holds.admin(), AdminState::Drain);
        let of = |snapshot: &Snapshot| -> Vec<_> {
            let members = snapshot.pools[0].members.iter();
            members.map(|member| (member.state.admin(), member.weight)).collect()
        };
        let (static_one, drained) = ((AdminState::Ready, 1), (AdminState::Drain, 9));
        assert_eq!(of(&snapshot), [static_one, drained]);
        let change = membership.resolved(name(), vec![found(2), found(3)], String::new()).unwrap();
        assert_eq!(of(&change.snapshot), [static_one, drained, drained]);
        let back = Wanted { state: Some(AdminState::Ready), weight: Some(1) };
        assert_eq!(of(&membership.change(&name(), back).1), [static_one; 3]);
    }

    #[test]
    fn the_weight_that_a_reload_gives_a_name_holds_before_the_next_lookup() {
        let membership = membership();
        membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        let mut plan = Plan::clone(&membership.snapshot().plan);
        let server = &mut plan.pools[0].servers[1];
        (server.weight, server.backup) = (7, true);
        let plan = Arc::new(plan);
        let (change, _) = membership.replan(&plan, &Arc::new(Fronts::plain(&plan))).unwrap();
        let member = &change.snapshot.pools[0].members[1];
        assert_eq!((member.weight, member.backup), (7, true));
        assert_eq!(membership.resolutions()[&name()].members[0].weight, 7, "as status shows it");
    }

    #[test]
    fn a_failed_lookup_keeps_the_members_and_says_so() {
        let membership = membership();
        membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        membership.unresolved(name(), "NXDOMAIN".into());
        let entry = membership.resolutions().remove(&name()).unwrap();
        assert!(entry.stale);
        assert_eq!(entry.members, [found(2)]);
        assert_eq!(membership.snapshot().pools[0].members.len(), 2);
    }

    #[test]
    fn versions_grow_by_one_with_every_change() {
        let membership = membership();
        let before = membership.snapshot().version;
        let change = membership.resolved(name(), vec![found(2)], String::new()).unwrap();
        assert_eq!(change.snapshot.version, before + 1);
    }
}
