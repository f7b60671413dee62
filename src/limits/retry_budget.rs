//! How much of a pool's requests may be tried again: a share of those of the last ten seconds,
//! over all workers.
//!
//! Requests are counted on every worker, in a part of its own, so that no request touches a cache
//! line that another worker writes. Retries are rare: whoever wants one adds all parts up under a
//! lock, and of two that see the last of the budget one gets it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::lock;
use crate::runtime::time::Time;

/// Retries that are always within the budget: of few requests, a share would be none.
const RETRIES_MIN: u64 = 10;

/// A budget counts over so many seconds, the one that runs included.
const WINDOW: u64 = 10;

/// Seconds that are kept: more than [`WINDOW`], so that a worker whose clock is a little behind
/// does not count in a place that is in use for another second.
const SLOTS: usize = 16;

/// A slot is the second it counts, and the count below it.
const COUNT_BITS: u32 = 32;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Counts by worker; two share one only where there are more workers.
const PARTS: usize = 16;

/// Of one pool.
#[derive(Debug, Default)]
pub struct RetryBudget {
    requests: [CachePadded<[AtomicU64; SLOTS]>; PARTS],
    /// Slots likewise.
    retries: Mutex<[u64; SLOTS]>,
}

impl RetryBudget {
    /// Counts a request of a worker.
    pub fn request(&self, worker: u16, now: Time) {
        let second = second(now);
        let slot = &self.requests[usize::from(worker) % PARTS][place(second)];
        let known = slot.load(Ordering::Relaxed);
        if known >> COUNT_BITS == second {
            slot.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The first of its second puts the old count away; the others add to what it left.
        let next = |held: u64| {
            let held_second = held >> COUNT_BITS;
            (held_second <= second)
                .then(|| if held_second == second { held + 1 } else { second << COUNT_BITS | 1 })
        };
        // A second that is long over counts for nothing.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Counts a retry, if it is within `percent` of the requests.
    pub fn retry(&self, now: Time, percent: u8) -> bool {
        let second = second(now);
        let mut retries = lock(&self.retries);
        let share = self.requests(second) * u64::from(percent) / 100;
        if counted(retries.iter().copied(), second) >= share.max(RETRIES_MIN) {
            return false;
        }
        let slot = &mut retries[place(second)];
        *slot = if *slot >> COUNT_BITS == second { *slot + 1 } else { second << COUNT_BITS | 1 };
        true
    }

    /// Of all workers, in the window that ends with `second`.
    fn requests(&self, second: u64) -> u64 {
        let slots = self.requests.iter().flat_map(|part| part.iter());
        counted(slots.map(|slot| slot.load(Ordering::Relaxed)), second)
    }
}

/// Since the machine came up: 32 bits are 136 years of them.
fn second(now: Time) -> u64 {
    now.0 / 1_000_000_000
}

fn place(second: u64) -> usize {
    second as usize % SLOTS
}

/// What slots have of the window that ends with `second`; another worker may be in the next one
/// already.
fn counted(slots: impl Iterator<Item = u64>, second: u64) -> u64 {
    let within = |slot: &u64| (slot >> COUNT_BITS) + WINDOW > second;
    slots.filter(within).map(|slot| slot & COUNT_MAX).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn granted(budget: &RetryBudget, now: Time) -> usize {
        (0..100).filter(|_| budget.retry(now, 20)).count()
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_of_ten_seconds() {
        let (budget, now) = (RetryBudget::default(), Time(1) + 1_000 * SECOND);
        assert_eq!(granted(&budget, now), 10, "of no requests");
        (0..100).for_each(|_| budget.request(0, now));
        assert_eq!(granted(&budget, now), 10, "twenty of a hundred, and ten are spent");
        (0..50).for_each(|_| budget.request(1, now + 9 * SECOND));
        assert_eq!(granted(&budget, now + 9 * SECOND), 10, "thirty of a hundred and fifty");
        (0..50).for_each(|_| budget.request(1, now + 10 * SECOND));
        assert_eq!(granted(&budget, now + 10 * SECOND), 10, "twenty of a hundred, ten are spent");
        assert_eq!(granted(&budget, now + 60 * SECOND), 10, "an old window is forgotten");
    }

    #[test]
    fn workers_that_ask_at_once_get_one_budget() {
        let (budget, start) = (RetryBudget::default(), Time(0) + 7 * SECOND);
        let work = |worker: u64| {
            let mut granted = 0;
            for nth in 0..10_000 {
                // Clocks of workers differ by a little, also across the end of a second.
                let now = start + Duration::from_micros(nth * 200 + worker * 50);
                budget.request(worker as u16 * 8, now);
                granted += usize::from(nth >= 9_000 && budget.retry(now, 1));
            }
            granted
        };
        let granted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|id| scope.spawn(move || work(id))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(budget.requests(9), 40_000);
        assert_eq!(granted, 400);
    }
}
