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
use crate::config::plan::{Init, Plan, Pool, Server, ServerAddr};
use crate::fronts::Fronts;
use crate::net::Endpoint;
use crate::registry::{
    ListenerState, Member, PoolId, PoolSnapshot, PoolState, SERVERS_MAX, ServerId, ServerState,
    Snapshot,
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

/// A server of the plan: pool, and place in the pool's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameId {
    pub pool: PoolId,
    pub index: usize,
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
        let listeners = plan.listeners.iter().map(|listener| {
            Arc::new(ListenerState {
                name: listener.name.as_str().into(),
                active: CachePadded::default(),
            })
        });
        let pools = plan.pools.iter().map(|pool| PoolSnapshot {
            state: Arc::new(PoolState::new(
                &pool.name,
                pool.breaker.as_ref().map(|policy| policy.breaker),
            )),
            members: Vec::new(),
        });
        let empty = Snapshot {
            plan: plan.clone(),
            listeners: listeners.collect(),
            pools: pools.collect(),
            servers: Vec::new(),
            fronts,
            version: 0,
        };
        let mut book = Book {
            by_key: HashMap::new(),
            names: names_of(plan).map(|name| (name, Resolution::default())).collect(),
            overrides: Overrides::default(),
            snapshot: Arc::new(empty),
        };
        book.rebuild();
        Self(Mutex::new(book))
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
    pub fn change(&self, server: NameId, wanted: Wanted) -> (Override, Arc<Snapshot>) {
        let mut book = self.lock();
        let plan = book.snapshot.plan.clone();
        let pool = &plan.pools[usize::from(server.pool.0)];
        let holds = book.overrides.change(&pool.name, &pool.servers[server.index], wanted);
        (holds, book.rebuild().snapshot)
    }

    /// A name resolved. `None`: to the members it had.
    pub fn resolved(&self, name: NameId, found: Vec<Found>, detail: String) -> Option<Change> {
        let mut book = self.lock();
        let entry = book.names.entry(name).or_default();
        let same = entry.members == found;
        let (stale, at) = (false, Some(SystemTime::now()));
        *entry = Resolution { members: found, stale, detail, at };
        if same { None } else { Some(book.rebuild()) }
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
        at.servers.iter().enumerate().filter_map(move |(index, server)| {
            matches!(server.address, ServerAddr::Dns { .. } | ServerAddr::Srv { .. })
                .then_some(NameId { pool: PoolId(pool as u16), index })
        })
    })
}

/// What a server counts as before its first check result.
fn is_up_at_first(pool: &Pool) -> bool {
    pool.check.as_ref().is_none_or(|check| check.init == Init::Up)
}

impl Book {
    /// Makes the next snapshot from the plan and what the names resolved to.
    fn rebuild(&mut self) -> Change {
        let old = self.snapshot.clone();
        let mut servers = old.servers.clone();
        let mut pools = Vec::with_capacity(old.pools.len());
        for (id, pool) in old.plan.pools.iter().enumerate() {
            let id = PoolId(id as u16);
            let mut members = Vec::new();
            for (index, server) in pool.servers.iter().enumerate() {
                let holds = self.overrides.of(&pool.name, &server.name);
                for found in self.addresses(NameId { pool: id, index }, server) {
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
            pools.push(PoolSnapshot { state: old.pools[usize::from(id.0)].state.clone(), members });
        }
        let snapshot = Arc::new(Snapshot {
            plan: old.plan.clone(),
            listeners: old.listeners.clone(),
            pools,
            servers,
            fronts: old.fronts.clone(),
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

    fn addresses(&self, name: NameId, server: &Server) -> Vec<Found> {
        let fixed = |address| vec![Found { address, weight: server.weight, backup: server.backup }];
        match &server.address {
            ServerAddr::Ip(address) => fixed(Endpoint::Ip(*address)),
            ServerAddr::Unix(path) => fixed(Endpoint::Unix(path.as_path().into())),
            ServerAddr::Dns { .. } | ServerAddr::Srv { .. } => {
                self.names.get(&name).map(|entry| entry.members.clone()).unwrap_or_default()
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
    use crate::registry::AdminState;

    const NAME: NameId = NameId { pool: PoolId(0), index: 1 };

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
        let change = membership.resolved(NAME, vec![found(2), found(3)], String::new()).unwrap();
        assert_eq!((change.added.len(), change.removed.len()), (2, 0));
        assert_eq!(change.snapshot.pools[0].members.len(), 3);
    }

    #[test]
    fn the_same_answer_changes_nothing() {
        let membership = membership();
        membership.resolved(NAME, vec![found(2)], String::new()).unwrap();
        assert!(membership.resolved(NAME, vec![found(2)], String::new()).is_none());
    }

    #[test]
    fn a_removed_member_keeps_its_id_and_state_when_it_returns() {
        let membership = membership();
        let first = membership.resolved(NAME, vec![found(2)], String::new()).unwrap().added;
        first[0].load.store(5, Ordering::Relaxed);
        let gone = membership.resolved(NAME, vec![found(3)], String::new()).unwrap();
        assert_eq!(gone.removed[0].id, first[0].id);
        assert!(first[0].removed.load(Ordering::Relaxed));
        assert!(gone.snapshot.servers.iter().any(|state| state.id == first[0].id));
        let back = membership.resolved(NAME, vec![found(2)], String::new()).unwrap();
        assert_eq!(back.added[0].id, first[0].id);
        assert_eq!(back.added[0].load.load(Ordering::Relaxed), 5);
        assert!(!back.added[0].removed.load(Ordering::Relaxed));
    }

    #[test]
    fn an_override_holds_for_every_address_and_for_those_that_come_later() {
        let membership = membership();
        membership.resolved(NAME, vec![found(2)], String::new()).unwrap();
        let wanted = Wanted { state: Some(AdminState::Drain), weight: Some(9) };
        let (holds, snapshot) = membership.change(NAME, wanted);
        assert_eq!(holds.admin(), AdminState::Drain);
        let of = |snapshot: &Snapshot| -> Vec<_> {
            let members = snapshot.pools[0].members.iter();
            members.map(|member| (member.state.admin(), member.weight)).collect()
        };
        let (static_one, drained) = ((AdminState::Ready, 1), (AdminState::Drain, 9));
        assert_eq!(of(&snapshot), [static_one, drained]);
        let change = membership.resolved(NAME, vec![found(2), found(3)], String::new()).unwrap();
        assert_eq!(of(&change.snapshot), [static_one, drained, drained]);
        let back = Wanted { state: Some(AdminState::Ready), weight: Some(1) };
        assert_eq!(of(&membership.change(NAME, back).1), [static_one; 3]);
    }

    #[test]
    fn a_failed_lookup_keeps_the_members_and_says_so() {
        let membership = membership();
        membership.resolved(NAME, vec![found(2)], String::new()).unwrap();
        membership.unresolved(NAME, "NXDOMAIN".into());
        let entry = membership.resolutions().remove(&NAME).unwrap();
        assert!(entry.stale);
        assert_eq!(entry.members, [found(2)]);
        assert_eq!(membership.snapshot().pools[0].members.len(), 2);
    }

    #[test]
    fn versions_grow_by_one_with_every_change() {
        let membership = membership();
        let before = membership.snapshot().version;
        let change = membership.resolved(NAME, vec![found(2)], String::new()).unwrap();
        assert_eq!(change.snapshot.version, before + 1);
    }
}
