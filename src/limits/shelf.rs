//! Entries of one policy in one shard: a dense list that is swept a little with every use.
//!
//! - H1: an entry is dropped only when it says the same as no entry (its buckets are full, its
//!   window is over). Whoever fills the table therefore cannot make anybody's be forgotten.
//! - H2: while there is no room, keys without an entry share one, the overflow: together they
//!   get what one key gets.
//! - H3: each call adds at most one entry and looks at [`SWEPT_PER_CALL`] old ones, so the list
//!   shrinks under any traffic, and no call is long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;

/// More than are added, so that the list shrinks once its entries are over.
const SWEPT_PER_CALL: usize = 2;

/// Looked at before a new key is sent to the overflow: costs no more than a page fault, and in
/// a table that is full of what is over it finds room with the first few.
const SWEPT_WHEN_FULL: usize = 32;

/// Room for entries of one policy in all shards.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) used: AtomicUsize,
    pub(super) max: AtomicUsize,
    /// Decisions that were made on an overflow.
    pub(super) overflowed: AtomicU64,
}

impl Bound {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            overflowed: AtomicU64::new(0),
        }
    }

    fn reserve(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let more = |used: usize| (used < max).then(|| used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn release(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What is kept of one key under one limit.
pub(super) trait State: Copy + Default {
    /// Whether it says the same as [`Default::default`] at this moment and later.
    fn is_over(&self, now: u64) -> bool;
}

#[derive(Debug)]
pub(super) struct Shelf<S> {
    bound: Arc<Bound>,
    /// Places in `keys`, by the lower half of the key.
    index: HashTable<u32>,
    keys: Vec<u128>,
    /// `stride` of them for each key.
    states: Vec<S>,
    stride: usize,
    overflow: Vec<S>,
    /// Where sweeping goes on.
    cursor: usize,
}

impl<S: State> Shelf<S> {
    pub(super) const fn new(bound: Arc<Bound>) -> Self {
        Self {
            bound,
            index: HashTable::new(),
            keys: Vec::new(),
            states: Vec::new(),
            stride: 1,
            overflow: Vec::new(),
            cursor: 0,
        }
    }

    /// The states of a key, at least `wide`, to be read and changed.
    pub(super) fn states(&mut self, key: u128, wide: usize, now: u64) -> &mut [S] {
        self.widen(wide);
        self.sweep(SWEPT_PER_CALL, now);
        let known = self.index.find(key as u64, |&at| self.keys[at as usize] == key);
        if let Some(&at) = known {
            return self.at(at as usize);
        }
        if !self.bound.reserve() {
            self.sweep(SWEPT_WHEN_FULL, now);
            if !self.bound.reserve() {
                self.bound.overflowed.fetch_add(1, Ordering::Relaxed);
                return &mut self.overflow;
            }
        }
        self.add(key);
        self.at(self.keys.len() - 1)
    }

    /// The states of a key that has an entry.
    pub(super) fn find(&self, key: u128) -> Option<&[S]> {
        let at = *self.index.find(key as u64, |&at| self.keys[at as usize] == key)? as usize;
        Some(&self.states[at * self.stride..][..self.stride])
    }

    fn at(&mut self, at: usize) -> &mut [S] {
        &mut self.states[at * self.stride..][..self.stride]
    }

    fn add(&mut self, key: u128) {
        if self.keys.len() == self.keys.capacity() {
            // An eighth more, not twice as much: moving is cheap, and idle memory is not.
            let more = self.keys.len() / 8 + 8;
            self.keys.reserve_exact(more);
            self.states.reserve_exact(more * self.stride);
        }
        let keys = &self.keys;
        let hash = |&at: &u32| keys[at as usize] as u64;
        self.index.insert_unique(key as u64, keys.len() as u32, hash);
        self.keys.push(key);
        self.states.extend(std::iter::repeat_n(S::default(), self.stride));
    }

    fn sweep(&mut self, looks: usize, now: u64) {
        for _ in 0..looks.min(self.keys.len()) {
            if self.cursor >= self.keys.len() {
                self.cursor = 0;
            }
            let at = self.cursor;
            if self.at(at).iter().all(|state| state.is_over(now)) {
                // The last entry moves here and is looked at next.
                self.remove(at);
            } else {
                self.cursor += 1;
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let last = self.keys.len() - 1;
        let (gone, moved) = (self.keys[at], self.keys[last]);
        if let Ok(entry) = self.index.find_entry(gone as u64, |&place| place as usize == at) {
            entry.remove();
        }
        if at != last {
            let place = self.index.find_mut(moved as u64, |&place| place as usize == last);
            if let Some(place) = place {
                *place = at as u32;
            }
            let (from, to) = (last * self.stride, at * self.stride);
            self.states.copy_within(from..from + self.stride, to);
        }
        self.keys.swap_remove(at);
        self.states.truncate(last * self.stride);
        self.bound.release(1);
        self.shrink();
    }

    /// Gives memory back once three quarters of it are unused.
    fn shrink(&mut self) {
        const KEPT: usize = 64;
        let len = self.keys.len();
        if self.keys.capacity() > KEPT && len < self.keys.capacity() / 4 {
            self.keys.shrink_to(len * 2);
            self.states.shrink_to(len * 2 * self.stride);
            let keys = &self.keys;
            self.index.shrink_to(len * 2, |&at| keys[at as usize] as u64);
        }
    }

    /// Makes room for more limits a key: once, after the configuration has got them.
    fn widen(&mut self, wide: usize) {
        if self.overflow.len() < wide {
            self.overflow.resize(wide, S::default());
        }
        if wide <= self.stride {
            return;
        }
        let mut states = Vec::with_capacity(self.keys.len() * wide);
        for old in self.states.chunks(self.stride) {
            states.extend_from_slice(old);
            states.resize(states.len() + wide - self.stride, S::default());
        }
        (self.states, self.stride) = (states, wide);
    }

    /// Memory that is held, used or not.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.index.allocation_size()
            + self.keys.capacity() * size_of::<u128>()
            + (self.states.capacity() + self.overflow.capacity()) * size_of::<S>()
    }
}

impl<S> Drop for Shelf<S> {
    fn drop(&mut self) {
        self.bound.used.fetch_sub(self.keys.len(), Ordering::Relaxed);
    }
}
