//! The circuit breaker of a pool, as requests see it.

use std::rc::Rc;
use std::time::Duration;

use sluicegate_l7::policy::breaker::Outcome;
use sluicegate_l7::policy::limit_lines::retry_after;
use sluicegate_l7::policy::spec::{BreakerPolicy, Fallback};

use super::office::Office;
use super::retry::{Attempt, is_connect};
use crate::control::notice::Notice;
use crate::limits::Passage;
use crate::observe::reason::Reason;
use crate::registry::PoolId;
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

/// One attempt that the breaker let pass, until it is known how it went. Dropped before, it says
/// nothing.
pub(super) struct Watch {
    pool: PoolId,
    passage: Option<Passage>,
    counts: Counts,
}

/// What of a failed attempt the pool's breaker counts.
#[derive(Clone, Copy, Default)]
struct Counts {
    connect: bool,
    reset: bool,
    timeout: bool,
    status: bool,
}

impl Counts {
    const fn of(policy: &BreakerPolicy) -> Self {
        Self {
            connect: policy.on_connect,
            reset: policy.on_reset,
            timeout: policy.on_timeout,
            status: policy.on_5xx,
        }
    }
}

impl Watch {
    /// The head of an answer is here.
    pub fn answered<D: Driver>(&mut self, office: &Office<D>, status: u16, sent_at: Time) {
        let error = self.counts.status && (500..=599).contains(&status);
        self.record(office, error, office.now().since(sent_at));
    }

    /// The attempt came to an end; one that was answered is recorded already.
    pub fn failed<D: Driver>(&mut self, office: &Office<D>, attempt: &Attempt) {
        let (Attempt::Again(reason) | Attempt::Unseen(reason) | Attempt::Failed(reason)) = attempt
        else {
            return;
        };
        let error = match reason {
            // This host's.
            Reason::PortsExhausted => return,
            reason if is_connect(*reason) => self.counts.connect,
            Reason::ServerReset | Reason::BadUpstream => self.counts.reset,
            Reason::RequestTimeout => self.counts.timeout,
            // The client's doing, or nobody's.
            _ => return,
        };
        if error {
            self.record(office, true, Duration::ZERO);
        }
    }

    fn record<D: Driver>(&mut self, office: &Office<D>, error: bool, took: Duration) {
        let Some(passage) = self.passage.take() else { return };
        if let Some(state) = passage.record(office.now(), Outcome { error, took }) {
            office.tell(Notice::Breaker { pool: self.pool, state });
        }
    }
}

impl<D: Driver> Office<D> {
    /// The right to ask the pool.
    ///
    /// # Errors
    /// Its breaker is open.
    pub(super) fn watch(self: &Rc<Self>, pool: PoolId) -> Result<Watch, Reason> {
        let counts = self.pool_plan(pool).breaker.as_ref().map(Counts::of);
        let Some(counts) = counts else {
            return Ok(Watch { pool, passage: None, counts: Counts::default() });
        };
        let state = self.pool_state(pool);
        let passage = match state.breaker() {
            Some(breaker) => Some(breaker.admit(self.now()).ok_or(Reason::BreakerOpen)?),
            None => None,
        };
        Ok(Watch { pool, passage, counts })
    }

    /// Seconds until an open breaker lets somebody try.
    pub(super) fn breaker_opens_in(&self, pool: PoolId) -> u32 {
        let state = self.pool_state(pool);
        let wait = state.breaker().map_or(Duration::ZERO, |own| own.opens_in(self.now()));
        u32::try_from(retry_after(wait)).unwrap_or(u32::MAX)
    }

    /// What clients of the pool get instead of this failure.
    pub(super) fn fallback(&self, pool: PoolId, reason: Reason) -> Option<Fallback> {
        let plan = self.pool_plan(pool);
        let policy = plan.breaker.as_ref()?;
        let status = sluicegate_l7::answer::Answer::of(reason.as_str()).status;
        let falls = match reason {
            Reason::BreakerOpen => policy.fallback_open,
            Reason::NoServer => policy.fallback_no_server,
            Reason::ClientReset | Reason::ClientTimeout => false,
            _ => policy.fallback_status.contains(&status),
        };
        policy.fallback.clone().filter(|_| falls)
    }
}
