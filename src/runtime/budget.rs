//! The descriptor budget: pairs for all workers, and what covers a worker's connections to servers.
//!
//! A session takes a pair when its client is accepted. One of TCP uses both. One of HTTP uses one
//! for its client; the other covers a connection to a server, whichever, because those are shared
//! and stay when their client goes. What a worker has open beyond that takes more pairs:
//!
//! ```text
//! connections to servers ≤ HTTP sessions + 2 × extra pairs
//! ```
//!
//! The extra pairs of all workers leave a part to clients who come, or a few of them with many
//! requests each would shut every door.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Poll, Waker};

/// Of all pairs, one in so many is never taken for a connection to a server.
const LEFT_ONE_IN: i64 = 4;

/// Descriptor pairs that are left, over all workers.
#[derive(Debug)]
pub struct Budget {
    pairs: AtomicI64,
    /// Sessions that `max_conns` still lets in, where it says how many.
    sessions: Option<AtomicI64>,
    /// Pairs that are left to clients.
    left: i64,
    /// Those taken for connections to servers: with none, nobody is asked to give one back.
    extra: AtomicI64,
}

/// Takes one if more than `left` are there.
fn take_above(count: &AtomicI64, left: i64) -> bool {
    let less = |free: i64| (free > left).then(|| free - 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

impl Budget {
    /// `pairs` are what the descriptor limit allows. `max_conns` counts sessions alone; one that is
    /// beyond the limit is taken at its word.
    #[must_use]
    pub fn new(pairs: u32, max_conns: Option<u32>) -> Self {
        let pairs = i64::from(pairs.max(max_conns.unwrap_or(0)));
        Self {
            pairs: AtomicI64::new(pairs),
            sessions: max_conns.map(|max| AtomicI64::new(max.into())),
            left: pairs / LEFT_ONE_IN,
            extra: AtomicI64::new(0),
        }
    }

    /// Sessions that could be let in.
    pub fn free(&self) -> i64 {
        let pairs = self.pairs.load(Ordering::Relaxed);
        self.sessions.as_ref().map_or(pairs, |left| pairs.min(left.load(Ordering::Relaxed)))
    }

    /// No pair is left, whatever `max_conns` says.
    pub fn is_used_up(&self) -> bool {
        self.pairs.load(Ordering::Relaxed) <= 0
    }

    /// Takes a pair for a client that is here already.
    pub fn take(&self) {
        self.pairs.fetch_sub(1, Ordering::Relaxed);
        if let Some(sessions) = &self.sessions {
            sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a pair for a client if one is left.
    pub fn reserve(&self) -> bool {
        if self.sessions.as_ref().is_some_and(|sessions| !take_above(sessions, 0)) {
            return false;
        }
        let reserved = take_above(&self.pairs, 0);
        if !reserved {
            self.end_session();
        }
        reserved
    }

    /// A session's pair is back.
    pub fn give(&self) {
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.end_session();
    }

    fn end_session(&self) {
        if let Some(sessions) = &self.sessions {
            sessions.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reserve_extra(&self) -> bool {
        let reserved = take_above(&self.pairs, self.left);
        if reserved {
            self.extra.fetch_add(1, Ordering::Relaxed);
        }
        reserved
    }

    fn give_extra(&self, pairs: u32) {
        self.extra.fetch_sub(pairs.into(), Ordering::Relaxed);
        self.pairs.fetch_add(pairs.into(), Ordering::Relaxed);
    }

    /// A session is over whose pair stays taken.
    fn turn_extra(&self) {
        self.extra.fetch_add(1, Ordering::Relaxed);
        self.end_session();
    }
}

/// What one worker's connections to servers are covered by.
#[derive(Debug)]
pub struct Cover {
    budget: Arc<Budget>,
    /// Connections to servers, those included that are closing.
    open: u32,
    closing: u32,
    sessions: u32,
    /// Extra pairs.
    pairs: u32,
    /// Who waits for a descriptor, in order.
    waiting: BTreeMap<u64, Waker>,
    /// Who waited so far.
    waited: u64,
}

impl Cover {
    pub const fn new(budget: Arc<Budget>) -> Self {
        let waiting = BTreeMap::new();
        Self { budget, open: 0, closing: 0, sessions: 0, pairs: 0, waiting, waited: 0 }
    }

    const fn covered(&self) -> u32 {
        self.sessions + 2 * self.pairs
    }

    /// An HTTP session begins: its client's pair covers one connection.
    pub const fn begin_session(&mut self) {
        self.sessions += 1;
    }

    /// It is over, and so is its client's connection. Its pair is kept if what stays open needs it.
    pub fn end_session(&mut self) {
        self.leave_session();
        if self.open > self.covered() {
            self.pairs += 1;
            self.budget.turn_extra();
        } else {
            self.budget.give();
        }
    }

    /// It goes on as a relay, with the connection that it covers as its own.
    pub fn leave_session(&mut self) {
        debug_assert!(self.sessions > 0, "one that has begun");
        self.sessions = self.sessions.saturating_sub(1);
    }

    /// Whether another connection may be opened, with another pair if it takes one.
    pub fn has_room(&mut self) -> bool {
        if self.open >= self.covered() && self.budget.reserve_extra() {
            self.pairs += 1;
        }
        self.open < self.covered()
    }

    /// A connection to a server is there, whether there was room for it or not.
    pub const fn opened(&mut self) {
        self.open += 1;
    }

    /// What is there is covered, with another pair if it takes one.
    pub fn is_enough(&mut self) -> bool {
        if self.open > self.covered() && self.budget.reserve_extra() {
            self.pairs += 1;
        }
        self.open <= self.covered()
    }

    /// A connection closes as soon as nothing is in flight on it.
    pub const fn closes(&mut self) {
        self.closing += 1;
    }

    /// A connection that was to close is gone, or somebody else's.
    pub fn closed(&mut self) {
        debug_assert!(self.open > 0 && self.closing > 0, "one that was opened");
        self.open = self.open.saturating_sub(1);
        self.closing = self.closing.saturating_sub(1);
    }

    /// A place among those who wait.
    pub fn enter(&mut self) -> u64 {
        self.waited += 1;
        self.waiting.insert(self.waited, Waker::noop().clone());
        self.waited
    }

    pub fn leave(&mut self, place: u64) {
        self.waiting.remove(&place);
    }

    /// Ready when there is room; who waits is told then.
    pub fn poll_room(&mut self, place: u64, waker: &Waker) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        if let Some(mine) = self.waiting.get_mut(&place) {
            mine.clone_from(waker);
        }
        Poll::Pending
    }

    /// Connections that have to close for those who wait, and for `back` pairs to be given back.
    #[must_use]
    pub fn lacks(&self, back: u32) -> usize {
        let wanted = u64::from(self.open - self.closing) + self.waiting.len() as u64;
        let covered = self.sessions + 2 * self.pairs.saturating_sub(back);
        wanted.saturating_sub(covered.into()) as usize
    }

    /// Somebody waits for a descriptor.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Other workers have taken pairs for their connections.
    #[must_use]
    pub fn others_have_some(&self) -> bool {
        self.budget.extra.load(Ordering::Relaxed) > self.pairs.into()
    }

    /// Gives pairs back that nothing needs; whether it did. Who waits comes first.
    pub fn settle(&mut self) -> bool {
        if self.has_waiting() {
            if self.has_room() {
                let room = (self.covered() - self.open) as usize;
                self.waiting.values().take(room).for_each(Waker::wake_by_ref);
            }
            return false;
        }
        let surplus = self.pairs - self.open.saturating_sub(self.sessions).div_ceil(2);
        if surplus > 0 {
            self.pairs -= surplus;
            self.budget.give_extra(surplus);
        }
        surplus > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(pairs: u32) -> (Arc<Budget>, Cover) {
        let budget = Arc::new(Budget::new(pairs, None));
        (Arc::clone(&budget), Cover::new(budget))
    }

    /// Opens as many as it may.
    fn fill(cover: &mut Cover) -> u32 {
        let mut opened = 0;
        while cover.has_room() {
            cover.opened();
            opened += 1;
        }
        opened
    }

    fn close(cover: &mut Cover, count: u32) {
        for _ in 0..count {
            cover.closes();
            cover.closed();
        }
    }

    fn come(budget: &Budget, cover: &mut Cover) {
        assert!(budget.reserve());
        cover.begin_session();
    }

    #[test]
    fn one_client_with_many_requests_leaves_a_quarter_to_others() {
        let (budget, mut cover) = cover(100);
        come(&budget, &mut cover);
        assert_eq!(fill(&mut cover), 1 + 2 * 74);
        assert_eq!(budget.free(), 25);
        for _ in 0..25 {
            come(&budget, &mut cover);
        }
        assert_eq!((budget.reserve(), fill(&mut cover)), (false, 25), "what they came with");
        assert!(budget.is_used_up());
    }

    #[test]
    fn a_pair_stays_with_what_its_session_leaves_open_until_that_closes() {
        let (budget, mut cover) = cover(8);
        for _ in 0..5 {
            come(&budget, &mut cover);
            assert!(cover.has_room());
            cover.opened();
        }
        assert_eq!((budget.free(), cover.settle()), (3, false), "each is its session's");
        for left in [0, 1, 2, 3, 4] {
            cover.end_session();
            assert!(cover.open <= cover.covered(), "{left}");
        }
        assert!(!cover.settle());
        assert_eq!(budget.free(), 5, "five connections take three pairs");
        close(&mut cover, 1);
        assert!(cover.settle());
        assert_eq!(budget.free(), 6);
        close(&mut cover, 4);
        assert!(cover.settle() && !cover.settle());
        assert_eq!((budget.free(), cover.others_have_some()), (8, false));
    }

    #[test]
    fn a_session_that_goes_on_as_a_relay_takes_its_connection_with_it() {
        let (budget, mut cover) = cover(4);
        come(&budget, &mut cover);
        cover.opened();
        close(&mut cover, 1);
        cover.leave_session();
        assert_eq!((cover.settle(), budget.free()), (false, 3), "the pair is the relay's");
        budget.give();
        assert_eq!(budget.free(), 4);
    }

    #[test]
    fn what_closes_already_is_not_asked_for_again() {
        let (budget, mut cover) = cover(40);
        come(&budget, &mut cover);
        assert_eq!(fill(&mut cover), 59);
        assert_eq!(cover.lacks(0), 0);
        assert_eq!(cover.lacks(2), 4);
        assert_eq!(cover.lacks(100), 58, "its session covers one");
        (0..4).for_each(|_| cover.closes());
        assert_eq!((cover.lacks(2), cover.lacks(3)), (0, 2));
    }

    #[test]
    fn who_waits_has_what_comes_free_before_the_others() {
        let (budget, mut cover) = cover(8);
        come(&budget, &mut cover);
        assert_eq!(fill(&mut cover), 11);
        let first = cover.enter();
        assert!(cover.poll_room(first, Waker::noop()).is_pending());
        assert_eq!(cover.lacks(0), 1, "one has to close");
        close(&mut cover, 2);
        assert!(!cover.settle(), "nothing is given back");
        assert!(cover.poll_room(first, Waker::noop()).is_ready());
        cover.leave(first);
        cover.opened();
        assert!(!cover.settle());
        close(&mut cover, 1);
        assert!(cover.settle());
        assert_eq!(budget.free(), 3);
    }

    #[test]
    fn max_conns_counts_sessions_and_not_their_connections_to_servers() {
        let budget = Arc::new(Budget::new(100, Some(2)));
        let mut cover = Cover::new(Arc::clone(&budget));
        come(&budget, &mut cover);
        for _ in 0..50 {
            assert!(cover.has_room());
            cover.opened();
        }
        come(&budget, &mut cover);
        assert_eq!((budget.free(), budget.reserve(), budget.is_used_up()), (0, false, false));
        cover.end_session();
        assert_eq!(budget.free(), 1, "whatever it leaves open");
        cover.end_session();
        close(&mut cover, 50);
        cover.settle();
        assert_eq!((budget.free(), budget.pairs.load(Ordering::Relaxed)), (2, 100));
        let beyond = Budget::new(100, Some(1_000));
        assert_eq!(beyond.free(), 1_000, "taken at its word");
    }
}
