//! Tokens that this worker has taken from Redis before they were asked for (`lease`).
//!
//! They are taken from the shared bucket, so no token is spent twice. But a token may be spent
//! up to [`PURSE_LIFE`] after it was taken: within such a time, all gateways together pass at
//! most their number of workers times `lease` more than the rate and its burst allow. What is
//! left in a purse after its life is lost, which makes the limit stricter, never looser.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_l7::policy::rate::Decision;
use sluicegate_l7::policy::redis_script::Grant;

use crate::runtime::time::Time;

/// How long tokens may lie here.
const PURSE_LIFE: Duration = Duration::from_secs(1);

/// Keys with a purse, some 100 bytes each; further ones ask for every token.
const PURSES_MAX: usize = 10_000;

/// Half of what Redis knows of a key by: see [`super::key_hash`].
pub(super) type KeyHash = [u8; 16];

#[derive(Debug)]
struct Purse {
    tokens: u32,
    until: Time,
    /// Of the grant that filled it.
    decision: Decision,
}

#[derive(Debug, Default)]
pub(super) struct Purses {
    by_key: BTreeMap<KeyHash, Purse>,
    /// No purse ends before this moment, so looking for ended ones would be in vain.
    full_until: Time,
}

impl Purses {
    /// A token that is here.
    pub fn take(&mut self, key: &KeyHash, now: Time) -> Option<Decision> {
        let purse = self.by_key.get_mut(key)?;
        if now >= purse.until || purse.tokens == 0 {
            self.by_key.remove(key);
            return None;
        }
        purse.tokens -= 1;
        let mut decision = purse.decision;
        decision.remaining = decision.remaining.saturating_add(purse.tokens);
        Some(decision)
    }

    /// Whether the rest of a grant could be kept.
    pub fn has_room(&mut self, now: Time) -> bool {
        if self.by_key.len() >= PURSES_MAX && now >= self.full_until {
            self.by_key.retain(|_, purse| purse.until > now && purse.tokens > 0);
            let first = self.by_key.values().map(|purse| purse.until).min();
            self.full_until = first.unwrap_or(now);
        }
        self.by_key.len() < PURSES_MAX
    }

    /// Keeps what was granted beyond one token; returns what to say of that one.
    pub fn keep(&mut self, key: KeyHash, grant: Grant, now: Time) -> Decision {
        let mut decision = grant.decision;
        let tokens = grant.taken.saturating_sub(1);
        if tokens > 0 && self.by_key.len() < PURSES_MAX {
            decision.remaining = decision.remaining.saturating_add(tokens);
            let purse = Purse { tokens, until: now + PURSE_LIFE, decision: grant.decision };
            self.by_key.insert(key, purse);
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(1_000_000_000_000);

    fn grant(taken: u32) -> Grant {
        Grant { taken, decision: Decision { remaining: 5, ..Decision::UNLIMITED } }
    }

    #[test]
    fn a_lease_is_spent_token_by_token_and_no_further() {
        let mut purses = Purses::default();
        assert_eq!(purses.keep([1; 16], grant(3), START).remaining, 7);
        let mut left = || purses.take(&[1; 16], START).map(|decision| decision.remaining);
        assert_eq!([left(), left(), left()], [Some(6), Some(5), None]);
        assert_eq!(purses.take(&[2; 16], START), None);
    }

    #[test]
    fn tokens_that_lay_too_long_are_lost() {
        let mut purses = Purses::default();
        let _ = purses.keep([1; 16], grant(3), START);
        assert_eq!(purses.take(&[1; 16], START + PURSE_LIFE), None);
        assert!(purses.by_key.is_empty());
    }

    #[test]
    fn there_are_no_more_purses_than_the_bound_and_ended_ones_make_room() {
        let mut purses = Purses::default();
        for n in 0..=PURSES_MAX as u128 {
            let _ = purses.keep(n.to_le_bytes(), grant(2), START);
        }
        assert_eq!(purses.by_key.len(), PURSES_MAX);
        assert!(!purses.has_room(START));
        assert!(purses.has_room(START + PURSE_LIFE));
    }
}
