//! What all workers know of rates and quotas, by policy and key: one decision is one token,
//! whatever the worker.
//!
//! A key is a keyed hash of what is limited (a consumer, an address, a header), so that an
//! entry has one size and nobody can choose keys that meet in one shard. Shards have a lock
//! each, held for one decision: some hundred nanoseconds.
//!
//! - T1: what is decided under a shard's lock is decided at the latest moment that was seen
//!   there, so a worker whose clock is older neither gains nor spoils anything.
//! - T2: memory is bounded by `entries` of each policy (see `shelf.rs` for what happens there,
//!   and [`ENTRY_BYTES_MAX`] for how much).

use std::hash::Hasher as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crossbeam::utils::CachePadded;
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use sluicegate_l7::policy::quota::{Count, QuotaSpec};
use sluicegate_l7::policy::rate::{Bucket, Decision, Rate, take_all};

use super::in_flight::{InFlight, Permit};
use super::lock;
use super::shelf::{Bound, Shelf, State};

/// Entries of a policy that says nothing of them: some 50 MB if they all are there.
pub const POLICY_ENTRIES: usize = 1_000_000;

/// What an entry with one rate or quota takes at most, in a table of more than a few: its key
/// and state, an eighth of that unused, and its place in the index. Each further rate adds
/// [`RATE_BYTES_MAX`].
pub const ENTRY_BYTES_MAX: usize = 50;

/// What each further rate of a policy adds to an entry: one bucket, an eighth unused.
pub const RATE_BYTES_MAX: usize = 18;

/// Enough that eight workers seldom meet in one, and that the index of one is soon moved when
/// it grows.
const SHARDS: usize = 64;

/// Rates, quotas and requests in flight of all policies.
pub struct LimitTable {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    /// By policy.
    bounds: Mutex<Vec<Option<Arc<Bound>>>>,
    in_flight: Arc<InFlight>,
    secret: [u64; 2],
}

impl std::fmt::Debug for LimitTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LimitTable").finish_non_exhaustive()
    }
}

/// How full the table is with one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub entries: usize,
    pub entries_max: usize,
    /// Decisions on keys for which there was no room.
    pub overflowed: u64,
    pub bytes: usize,
}

impl LimitTable {
    /// `secret` is random in production, so that nobody can choose keys that collide.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default()).into()).collect(),
            bounds: Mutex::default(),
            in_flight: Arc::new(InFlight::new()),
            secret,
        }
    }

    /// The key of a scope: its parts, each of which begins where the one before ends.
    #[must_use]
    pub fn key(&self, parts: &[&[u8]]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }

    /// Bounds a policy to so many keys. Fewer than there are lets none in until enough are over.
    pub fn set_entries(&self, policy: u16, entries: usize) {
        self.bound(policy).max.store(entries, Ordering::Relaxed);
    }

    /// Takes a token of each rate, or none. `now` is in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn take(&self, policy: u16, key: u128, rates: &[Rate], now: u64) -> Decision {
        if rates.is_empty() {
            return Decision::UNLIMITED;
        }
        let mut shard = lock(self.shard(key));
        let now = shard.latest.max(now);
        shard.latest = now;
        let entries = shelf(&mut shard.rates, policy, || self.bound(policy));
        take_all(rates, entries.states(key, rates.len(), now), now)
    }

    /// What [`LimitTable::take`] would say, without taking anything.
    #[must_use]
    pub fn look(&self, policy: u16, key: u128, rates: &[Rate], now: u64) -> Decision {
        let shard = lock(self.shard(key));
        let now = shard.latest.max(now);
        let entries = shard.rates.get(usize::from(policy)).and_then(Option::as_ref);
        match entries.and_then(|entries| entries.find(key)) {
            Some(states) => take_all(rates, &mut states.to_vec(), now),
            None => Decision::UNLIMITED,
        }
    }

    /// Takes one of a quota.
    #[must_use]
    pub fn count(&self, policy: u16, key: u128, quota: &QuotaSpec, unix_seconds: u64) -> Decision {
        let mut shard = lock(self.shard(key));
        let entries = shelf(&mut shard.quotas, policy, || self.bound(policy));
        entries.states(key, 1, unix_seconds)[0].take(*quota, unix_seconds)
    }

    /// A place among at most `limit` in flight, until the permit is dropped.
    #[must_use]
    pub fn enter(&self, policy: u16, key: u128, limit: u32) -> Option<Permit> {
        InFlight::enter(&self.in_flight, policy, key, limit)
    }

    /// Drops the entries of a policy that is no more, so that its number may be used again.
    pub fn forget(&self, policy: u16) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let at = usize::from(policy);
            let gone = (
                shard.rates.get_mut(at).and_then(Option::take),
                shard.quotas.get_mut(at).and_then(Option::take),
            );
            drop(shard);
            drop(gone);
        }
        self.set_entries(policy, POLICY_ENTRIES);
    }

    /// How much of the table a policy uses. Takes every lock in turn.
    #[must_use]
    pub fn usage(&self, policy: u16) -> Usage {
        let (bound, at) = (self.bound(policy), usize::from(policy));
        let bytes = |shard: &CachePadded<Mutex<Shard>>| {
            let shard = lock(shard);
            let rates = shard.rates.get(at).and_then(Option::as_deref).map_or(0, Shelf::bytes);
            let quotas = shard.quotas.get(at).and_then(Option::as_deref).map_or(0, Shelf::bytes);
            rates + quotas
        };
        Usage {
            entries: bound.used.load(Ordering::Relaxed),
            entries_max: bound.max.load(Ordering::Relaxed),
            overflowed: bound.overflowed.load(Ordering::Relaxed),
            bytes: self.shards.iter().map(bytes).sum(),
        }
    }

    fn bound(&self, policy: u16) -> Arc<Bound> {
        let (mut bounds, at) = (lock(&self.bounds), usize::from(policy));
        if at >= bounds.len() {
            bounds.resize_with(at + 1, || None);
        }
        Arc::clone(bounds[at].get_or_insert_with(|| Arc::new(Bound::new(POLICY_ENTRIES))))
    }

    fn shard(&self, key: u128) -> &Mutex<Shard> {
        // The upper half: the index inside goes by the lower one.
        &self.shards[(key >> 64) as usize % SHARDS]
    }
}

/// Entries whose keys fall together, by policy.
#[derive(Default)]
struct Shard {
    rates: Vec<Option<Box<Shelf<Bucket>>>>,
    quotas: Vec<Option<Box<Shelf<Count>>>>,
    /// The latest moment at which anybody took from a rate here (T1).
    latest: u64,
}

fn shelf<S: State>(
    shelves: &mut Vec<Option<Box<Shelf<S>>>>,
    policy: u16,
    bound: impl FnOnce() -> Arc<Bound>,
) -> &mut Shelf<S> {
    let at = usize::from(policy);
    if at >= shelves.len() {
        shelves.resize_with(at + 1, || None);
    }
    shelves[at].get_or_insert_with(|| Box::new(Shelf::new(bound())))
}

impl State for Bucket {
    fn is_over(&self, now: u64) -> bool {
        self.is_full(now)
    }
}

impl State for Count {
    fn is_over(&self, now: u64) -> bool {
        Self::is_over(*self, now)
    }
}

#[cfg(test)]
mod tests;
