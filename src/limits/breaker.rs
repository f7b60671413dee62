//! A pool's circuit breaker, shared by all workers: the pure one behind a lock that is held for
//! one decision, so that the probes are exactly as many as configured.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate_l7::policy::breaker::{Admit, Breaker, BreakerPlan, BreakerState, Outcome, Ticket};

use super::lock;
use crate::runtime::time::Time;

#[derive(Debug)]
pub struct PoolBreaker {
    breaker: Mutex<Breaker>,
    /// [`BreakerState::number`], to be read without the lock.
    state: AtomicU8,
}

/// One request that may go to the pool. Dropped unrecorded, it says nothing of the servers, and
/// if it was a probe, another may take its place.
#[derive(Debug)]
#[must_use = "record how it ends"]
pub struct Passage {
    breaker: Arc<PoolBreaker>,
    ticket: Option<Ticket>,
    pub probe: bool,
}

impl PoolBreaker {
    #[must_use]
    pub fn new(plan: BreakerPlan) -> Arc<Self> {
        Arc::new(Self { breaker: Mutex::new(Breaker::new(plan)), state: AtomicU8::new(0) })
    }

    /// Goes on with other numbers after a reload.
    pub fn set_plan(&self, plan: BreakerPlan) {
        lock(&self.breaker).set_plan(plan);
    }

    /// `None`: the pool is not to be asked; see [`PoolBreaker::opens_in`].
    pub fn admit(self: &Arc<Self>, now: Time) -> Option<Passage> {
        let mut breaker = lock(&self.breaker);
        let admit = breaker.admit(now.0);
        self.publish(&breaker);
        drop(breaker);
        let (ticket, probe) = match admit {
            Admit::Pass(ticket) => (ticket, false),
            Admit::Probe(ticket) => (ticket, true),
            Admit::Shed => return None,
        };
        Some(Passage { breaker: Arc::clone(self), ticket: Some(ticket), probe })
    }

    /// How long until it is worth asking again.
    #[must_use]
    pub fn opens_in(&self, now: Time) -> Duration {
        lock(&self.breaker).opens_in(now.0)
    }

    /// For metrics: 0 closed, 1 half-open, 2 open.
    #[must_use]
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    fn publish(&self, breaker: &Breaker) {
        // Written under the lock, and only when it changes: the line stays shared.
        let state = breaker.state().number();
        if self.state.load(Ordering::Relaxed) != state {
            self.state.store(state, Ordering::Relaxed);
        }
    }
}

impl Passage {
    /// How the request ended. Returns the breaker's new state if that has changed it.
    #[must_use = "a change is worth an event"]
    pub fn record(mut self, now: Time, outcome: Outcome) -> Option<BreakerState> {
        let ticket = self.ticket.take()?;
        let mut breaker = lock(&self.breaker.breaker);
        let changed = breaker.record(now.0, ticket, outcome);
        self.breaker.publish(&breaker);
        changed
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            lock(&self.breaker.breaker).abandon(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    const PLAN: BreakerPlan = BreakerPlan {
        errors: 50,
        min_requests: 1,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(5),
        probes: 3,
        slow: None,
    };
    const START: Time = Time(1_000_000_000_000);
    const BAD: Outcome = Outcome { error: true, took: Duration::ZERO };
    const GOOD: Outcome = Outcome { error: false, took: Duration::ZERO };

    fn opened() -> Arc<PoolBreaker> {
        let breaker = PoolBreaker::new(PLAN);
        let passage = breaker.admit(START).unwrap();
        assert_eq!(passage.record(START, BAD), Some(BreakerState::Open));
        breaker
    }

    #[test]
    fn many_workers_together_get_exactly_the_probes() {
        let breaker = opened();
        assert!(breaker.admit(START).is_none());
        assert_eq!(breaker.opens_in(START), PLAN.open_for);
        let (later, probes) = (START + PLAN.open_for, AtomicU32::new(0));
        let held = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if let Some(passage) = breaker.admit(later) {
                            assert!(passage.probe);
                            probes.fetch_add(1, Ordering::Relaxed);
                            held.lock().unwrap().push(passage);
                        }
                    }
                });
            }
        });
        assert_eq!((probes.into_inner(), breaker.state()), (3, 1));
        for passage in held.into_inner().unwrap() {
            let _ = passage.record(later, GOOD);
        }
        assert_eq!(breaker.state(), 0);
    }

    #[test]
    fn a_probe_whose_client_has_gone_gives_its_place_back() {
        let breaker = opened();
        let later = START + PLAN.open_for;
        let mut held: Vec<_> = (0..3).map(|_| breaker.admit(later).unwrap()).collect();
        assert!(breaker.admit(later).is_none());
        held.pop();
        assert!(breaker.admit(later).is_some());
    }
}
