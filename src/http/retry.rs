//! Whether a request is tried again: what its route says and what it is. The pool's budget is
//! `limits/retry_budget.rs`.
//!
//! A request is sent again only if no byte of an answer has come, all that was sent is still
//! here, and doing it twice is as good as once, or it has not left the gateway.

use sluicegate_l7::http1::Reject;
use sluicegate_l7::route::spec::RetrySpec;

use super::errand::Errand;
use super::exchange::Flow;
use super::session::Then;
use crate::observe::reason::Reason;

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

    /// On a connection that was used before, this may only mean that the server had closed it: not
    /// its failure, nor an attempt. A server that says nothing has not.
    pub fn is_stale(&self, reused: bool) -> bool {
        reused && matches!(self, Self::Again(reason) if *reason != Reason::RequestTimeout)
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
    /// The route names this failure among those after which to try again. Statuses are looked at
    /// where there still is an answer to pass on.
    pub fn wants(&self, reason: Reason) -> bool {
        match reason {
            reason if is_connect(reason) => self.spec.on_connect,
            Reason::ServerReset => self.spec.on_reset,
            Reason::RequestTimeout => self.spec.on_timeout,
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
