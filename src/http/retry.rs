//! Whether a request is tried again: what its route says, what it is, and the pool's budget.
//!
//! A request is sent again only if no byte of an answer has come, all that was sent is still
//! here, and doing it twice is as good as once, or it has not left the gateway.

use std::time::Duration;

use sluicegate_l7::http1::Reject;
use sluicegate_l7::route::spec::RetrySpec;

use super::errand::Errand;
use super::exchange::Flow;
use super::session::Then;
use crate::observe::reason::Reason;
use crate::runtime::time::Time;

/// A budget counts requests over this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Retries that are always within the budget: of few requests, a share would be none.
const RETRIES_MIN: u64 = 10;

/// How an attempt ended.
pub(super) enum Attempt {
    /// The client has its answer, or as much of it as there was.
    Answered(Then),
    /// Nothing of an answer has come, and nothing that cannot be sent again has gone.
    Again(Reason),
    /// As `Again`, and the server says that it has not looked at the request.
    Unseen(Reason),
    /// There will be no answer from a server.
    Failed(Reason),
    /// What the client sends is no request any more.
    Refused(Reject),
}

impl Attempt {
    /// It failed, and not by anything that the client did.
    pub const fn is_servers(&self) -> bool {
        let (Self::Again(reason) | Self::Unseen(reason) | Self::Failed(reason)) = self else {
            return false;
        };
        matches!(reason, Reason::ServerReset | Reason::BadUpstream | Reason::RequestTimeout)
    }
}

/// What a route says about trying again, at one attempt.
#[derive(Clone, Copy)]
pub(super) struct Tries<'s> {
    pub spec: &'s RetrySpec,
    /// There may be another attempt after this one.
    pub more: bool,
}

impl Tries<'_> {
    /// The route names this failure among those after which to try again.
    pub fn wants(&self, reason: Reason) -> bool {
        match reason {
            reason if is_connect(reason) => self.spec.on_connect,
            Reason::ServerReset => self.spec.on_reset,
            Reason::RequestTimeout => self.spec.on_timeout,
            // A status that the route names.
            Reason::BadUpstream => true,
            _ => false,
        }
    }
}

/// The request has not left this gateway.
pub(super) const fn is_connect(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectUnreachable
            | Reason::PortsExhausted
            | Reason::TlsFailed
    )
}

/// What a failed attempt comes to: another one, if the route wants that and the request can be
/// sent again.
pub(super) fn repeatable(
    attempt: Attempt,
    answered: bool,
    errand: &Errand,
    flow: &mut Flow,
    tries: Tries<'_>,
) -> Attempt {
    let can = !answered && flow.is_repeatable();
    let again = match &attempt {
        Attempt::Again(_) => can && (errand.method.is_idempotent() || flow.is_unsent()),
        Attempt::Unseen(_) => can,
        Attempt::Failed(Reason::RequestTimeout) => {
            can && tries.more && tries.spec.on_timeout && errand.method.is_idempotent()
        }
        _ => false,
    };
    match attempt {
        Attempt::Again(reason) | Attempt::Unseen(reason) | Attempt::Failed(reason) if again => {
            flow.rewind();
            Attempt::Again(reason)
        }
        Attempt::Again(reason) | Attempt::Unseen(reason) => Attempt::Failed(reason),
        other => other,
    }
}

/// Requests and retries of one pool on one worker, over the last one to two windows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    began: Time,
    /// In this window and in the one before.
    requests: [u64; 2],
    retries: [u64; 2],
}

impl Budget {
    fn turn(&mut self, now: Time) {
        let age = now.since(self.began);
        if age >= 2 * WINDOW {
            *self = Self { began: now, ..Self::default() };
        } else if age >= WINDOW {
            self.began = now;
            self.requests = [0, self.requests[0]];
            self.retries = [0, self.retries[0]];
        }
    }

    /// Counts a request.
    pub fn request(&mut self, now: Time) {
        self.turn(now);
        self.requests[0] += 1;
    }

    /// Counts a retry, if it is within `percent` of the requests.
    pub fn retry(&mut self, now: Time, percent: u8) -> bool {
        self.turn(now);
        let requests: u64 = self.requests.iter().sum();
        let retries: u64 = self.retries.iter().sum();
        let share = requests * u64::from(percent) / 100;
        let granted = retries < share.max(RETRIES_MIN);
        self.retries[0] += u64::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_of_the_requests_of_its_window() {
        let (mut budget, now) = (Budget::default(), Time(1));
        let granted = |budget: &mut Budget, now| (0..100).filter(|_| budget.retry(now, 20)).count();
        assert_eq!(granted(&mut budget, now), 10, "of no requests");
        (0..100).for_each(|_| budget.request(now));
        assert_eq!(granted(&mut budget, now), 10, "twenty of a hundred, and ten are spent");
        assert_eq!(granted(&mut budget, now + 2 * WINDOW), 10, "an old window is forgotten");
    }
}
