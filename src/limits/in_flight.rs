//! How many requests are in flight by key, over all workers.
//!
//! An entry lives while its count is above 0, so there are never more than requests in flight;
//! a bound besides keeps one shard from growing beyond what is sensible.

use std::sync::{Arc, Mutex};

use crossbeam::utils::CachePadded;
use hashbrown::HashTable;

use super::lock;

/// Enough that eight workers seldom meet in one.
const SHARDS: usize = 64;

/// Keys in one shard: a million in all, as many requests as a process with as many descriptors
/// has. Beyond, new keys share one count.
const SHARD_MAX: usize = (1 << 20) / SHARDS;

/// The key that those without room share.
const OVERFLOW: u128 = u128::MAX;

#[derive(Debug)]
pub(super) struct InFlight {
    shards: Box<[CachePadded<Mutex<HashTable<Entry>>>]>,
    shard_max: usize,
}

#[derive(Debug)]
struct Entry {
    key: u128,
    policy: u16,
    count: u32,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self::with_shards(SHARDS, SHARD_MAX)
    }

    fn with_shards(shards: usize, shard_max: usize) -> Self {
        let shard = || Mutex::new(HashTable::new()).into();
        Self { shards: (0..shards).map(|_| shard()).collect(), shard_max }
    }

    pub(super) fn enter(self: &Arc<Self>, policy: u16, key: u128, limit: u32) -> Option<Permit> {
        let at = (key >> 64) as usize % self.shards.len();
        let mut shard = lock(&self.shards[at]);
        let is_new = |key| shard.find(hash(key, policy), is(key, policy)).is_none();
        let key = if shard.len() >= self.shard_max && is_new(key) { OVERFLOW } else { key };
        match shard.find_mut(hash(key, policy), is(key, policy)) {
            Some(entry) if entry.count >= limit => return None,
            Some(entry) => entry.count += 1,
            None if limit == 0 => return None,
            None => {
                let entry = Entry { key, policy, count: 1 };
                let rehash = |entry: &Entry| hash(entry.key, entry.policy);
                shard.insert_unique(hash(key, policy), entry, rehash);
            }
        }
        drop(shard);
        Some(Permit { table: Arc::clone(self), shard: at as u16, policy, key })
    }

    fn leave(&self, shard: u16, policy: u16, key: u128) {
        let mut shard = lock(&self.shards[usize::from(shard)]);
        let Ok(mut entry) = shard.find_entry(hash(key, policy), is(key, policy)) else {
            debug_assert!(false, "a permit of {key:x} was given back twice");
            return;
        };
        entry.get_mut().count -= 1;
        if entry.get().count == 0 {
            entry.remove();
        }
    }

    #[cfg(test)]
    fn entries(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

const fn hash(key: u128, policy: u16) -> u64 {
    // An odd factor, so that the policies of one key part in the lower bits and the topmost.
    key as u64 ^ (policy as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn is(key: u128, policy: u16) -> impl Fn(&Entry) -> bool {
    move |entry| entry.key == key && entry.policy == policy
}

/// One request in flight. Dropping it makes room, on whichever worker that happens.
#[derive(Debug)]
#[must_use = "dropping it at once lets everybody in"]
pub struct Permit {
    table: Arc<InFlight>,
    shard: u16,
    policy: u16,
    key: u128,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.table.leave(self.shard, self.policy, self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    fn table(shards: usize, shard_max: usize) -> Arc<InFlight> {
        Arc::new(InFlight::with_shards(shards, shard_max))
    }

    #[test]
    fn a_key_has_so_many_in_flight_and_gets_a_place_back_when_one_ends() {
        let table = table(4, 64);
        let first = table.enter(1, 7, 2).unwrap();
        let _second = table.enter(1, 7, 2).unwrap();
        assert!(table.enter(1, 7, 2).is_none());
        assert!(table.enter(1, 8, 2).is_some(), "another key");
        assert!(table.enter(2, 7, 2).is_some(), "another policy");
        drop(first);
        assert!(table.enter(1, 7, 2).is_some());
        assert!(table.enter(1, 9, 0).is_none());
    }

    #[test]
    fn keys_without_room_share_one_count_and_known_ones_keep_theirs() {
        let table = table(1, 2);
        let known = [table.enter(1, 1, 2).unwrap(), table.enter(1, 2, 2).unwrap()];
        let shared = [table.enter(1, 3, 2).unwrap(), table.enter(1, 4, 2).unwrap()];
        assert!(table.enter(1, 5, 2).is_none());
        assert!(table.enter(1, 1, 2).is_some());
        drop(known);
        assert!(table.enter(1, 5, 2).is_some(), "there is room again");
        drop(shared);
        assert_eq!(table.entries(), 0);
    }

    #[test]
    fn threads_that_come_and_go_never_exceed_the_limit_and_leave_nothing() {
        const LIMIT: u32 = 3;
        let table = table(4, 64);
        let inside: [AtomicU32; 5] = Default::default();
        thread::scope(|scope| {
            for worker in 0..8_u32 {
                let (table, inside) = (&table, &inside);
                scope.spawn(move || {
                    for step in 0..10_000_u32 {
                        let n = (step.wrapping_mul(2_654_435_761) >> 16).wrapping_add(worker) % 5;
                        let Some(permit) = table.enter(0, u128::from(n), LIMIT) else { continue };
                        assert!(inside[n as usize].fetch_add(1, Ordering::SeqCst) < LIMIT);
                        inside[n as usize].fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(table.entries(), 0);
    }
}
