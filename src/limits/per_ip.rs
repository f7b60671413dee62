//! Limits per client address, exact over all workers, in bounded memory.
//!
//! An address is an IPv4 address (mapped or not) or an IPv6 /64: one subscriber has a whole /64
//! and could otherwise come from a new address each time. Its entry holds how many sessions
//! it has and how far its token bucket is used up.
//!
//! - P1: an entry exists while its count is above 0 or its bucket is not full. Forgetting it
//!   earlier would give an address a fresh start; nobody can bring that about, because a full
//!   table refuses new addresses and evicts none.
//! - P2: `idle` names exactly the entries whose count is 0, by the time their bucket is full.
//!   Each call drops at most [`REAPED_PER_CALL`] of those whose time has come, and adds at most
//!   one, so the table shrinks under any traffic.
//!
//! Shards have a lock each, held for one map operation or two: the only lock that workers
//! share when a session starts and ends, and only on listeners with such a limit.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use crossbeam::utils::CachePadded;
use siphasher::sip::SipHasher13;
use sluicegate_l7::policy::rate::Bucket;

use super::lock;
use crate::config::plan::ConnLimit;
use crate::observe::reason::Reason;
use crate::runtime::time::Time;

/// Addresses in one table: as many as a process with two million descriptors has sessions. Some
/// 100 MiB if they all are there; the table starts empty.
pub const ENTRIES_MAX: usize = 1 << 20;

/// Enough that eight workers seldom meet in one.
const SHARDS: usize = 64;

/// More than one, so that the idle entries become fewer even while each call adds one.
const REAPED_PER_CALL: usize = 2;

/// The table of one listener.
#[derive(Debug)]
pub struct PerIp {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    keyed: Keyed,
    /// Entries in one shard.
    shard_max: usize,
}

/// Which limit was reached. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The address has `conns_per_ip` sessions.
    Conns,
    /// The address has used up `new_conns_per_ip` for now.
    Rate,
    /// The address is new and there is no room for its entry.
    TableFull,
}

impl Refusal {
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Conns | Self::TableFull => Reason::IpLimit,
            Self::Rate => Reason::IpRateLimit,
        }
    }
}

impl PerIp {
    /// Room for `entries_max` addresses. `secret` is random in production, so that nobody can
    /// choose addresses that fill one shard.
    #[must_use]
    pub fn new(entries_max: usize, secret: [u64; 2]) -> Self {
        Self::with_shards(SHARDS, entries_max.div_ceil(SHARDS), secret)
    }

    fn with_shards(shards: usize, shard_max: usize, secret: [u64; 2]) -> Self {
        let keyed = Keyed(secret);
        let shard = || Mutex::new(Shard::new(keyed)).into();
        Self { shards: (0..shards).map(|_| shard()).collect(), keyed, shard_max }
    }

    /// Whether a listener with this limit needs a table at all. If so, every session of it is
    /// admitted and released.
    #[must_use]
    pub const fn is_needed(limit: &ConnLimit) -> bool {
        limit.conns_per_ip.is_some() || limit.new_conns_per_ip.is_some()
    }

    /// Takes a place and a token for a session from `ip`, or neither.
    ///
    /// # Errors
    /// When a limit is reached: which one.
    pub fn admit(&self, ip: IpAddr, now: Time, limit: &ConnLimit) -> Result<(), Refusal> {
        let key = Key::of(ip);
        self.shard(key).admit(key, now, limit, self.shard_max)
    }

    /// Counts a session that was there before there was a limit: it is judged by none, and those
    /// that come are judged with it. False: there is no room for its address, as for a new one's.
    #[must_use]
    pub fn adopt(&self, ip: IpAddr, now: Time) -> bool {
        let none = ConnLimit { max_conns: None, conns_per_ip: None, new_conns_per_ip: None };
        self.admit(ip, now, &none).is_ok()
    }

    /// Gives the place of one admitted session back. Tokens are not given back.
    pub fn release(&self, ip: IpAddr, now: Time) {
        let key = Key::of(ip);
        self.shard(key).release(key, now);
    }

    /// Entries there are now, for status. Takes every lock in turn.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        // The upper half: the map inside goes by the lower bits and the topmost seven.
        let hash = (self.keyed.hash_one(key) >> 32) as usize;
        lock(&self.shards[hash % self.shards.len()])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

impl Key {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.into()),
            IpAddr::V6(ip) => Self::V6((u128::from(ip) >> 64) as u64),
        }
    }
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<Key, Entry, Keyed>,
    /// Entries without sessions, by when their bucket is full (P2).
    idle: BTreeSet<(Time, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sessions: u32,
    bucket: Bucket,
}

/// The first moment at which a bucket is full.
fn full_at(bucket: Bucket) -> Time {
    Time(bucket.full_at.saturating_add(u64::from(bucket.part > 0)))
}

impl Shard {
    fn new(keyed: Keyed) -> Self {
        Self { entries: HashMap::with_hasher(keyed), idle: BTreeSet::new() }
    }

    fn admit(
        &mut self,
        key: Key,
        now: Time,
        limit: &ConnLimit,
        entries_max: usize,
    ) -> Result<(), Refusal> {
        self.reap(now);
        let len = self.entries.len();
        let known = self.entries.get_mut(&key);
        let (sessions, bucket) =
            known.as_ref().map_or((0, Bucket::FULL), |entry| (entry.sessions, entry.bucket));
        if known.is_none() && len >= entries_max {
            return Err(Refusal::TableFull);
        }
        if limit.conns_per_ip.is_some_and(|max| sessions >= max.get()) {
            return Err(Refusal::Conns);
        }
        let taken = match limit.new_conns_per_ip {
            Some(rate) => bucket.take(rate.in_nanos(), now.0).ok_or(Refusal::Rate)?,
            None => bucket,
        };
        let entry = Entry { sessions: sessions + 1, bucket: taken };
        match known {
            Some(known) => {
                if sessions == 0 {
                    self.idle.remove(&(full_at(bucket), key));
                }
                *known = entry;
            }
            None => {
                self.entries.insert(key, entry);
            }
        }
        Ok(())
    }

    fn release(&mut self, key: Key, now: Time) {
        self.reap(now);
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.sessions > 0) else {
            debug_assert!(false, "released a session of {key:?} that was not admitted");
            return;
        };
        entry.sessions -= 1;
        if entry.sessions > 0 {
            return;
        }
        let full_at = full_at(entry.bucket);
        if full_at <= now {
            self.entries.remove(&key);
        } else {
            self.idle.insert((full_at, key));
        }
    }

    fn reap(&mut self, now: Time) {
        for _ in 0..REAPED_PER_CALL {
            match self.idle.first() {
                Some(&(full_at, key)) if full_at <= now => {
                    self.idle.pop_first();
                    self.entries.remove(&key);
                }
                _ => return,
            }
        }
    }
}

/// The secret that addresses are hashed with.
#[derive(Clone, Copy)]
struct Keyed([u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(…)")
    }
}

#[cfg(test)]
mod tests;
