//! What one worker remembers of who somebody is: by a hash of what was asked, for a while.
//!
//! The table is [`TokenCache`]; what stands here is that of several requests with one question
//! only one asks, and the others wait for its answer.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use sluicegate_l7::policy::claims::UnixTime;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::token_cache::{TokenCache, TokenKey};

use super::policies::Refusal;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Shell;
use crate::runtime::time::Time;

/// Who it is, or what those are answered who are nobody.
pub type Known = Result<Arc<Principal>, Arc<Refusal>>;

/// Bytes of refusals that are kept for one policy: a page of an auth service is some kilobytes.
const REFUSALS_BYTES_MAX: usize = 64 << 20;

/// Answers of one policy.
#[derive(Clone)]
pub struct Kept(Rc<RefCell<Inner>>);

struct Inner {
    known: TokenCache<Known>,
    /// What somebody is asking about now.
    flying: HashSet<TokenKey>,
    waiting: Vec<Waker>,
}

/// A question that is being asked. Dropping it lets the others look.
pub struct Flight {
    kept: Kept,
    key: TokenKey,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut inner = self.kept.0.borrow_mut();
        inner.flying.remove(&self.key);
        inner.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Kept {
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        let known = TokenCache::new(entries_max).with_weight_max(REFUSALS_BYTES_MAX);
        let (flying, waiting) = (HashSet::new(), Vec::new());
        Self(Rc::new(RefCell::new(Inner { known, flying, waiting })))
    }

    /// What is known of it.
    #[must_use]
    pub fn find(&self, key: &TokenKey, generation: u64, now: UnixTime) -> Option<Known> {
        self.0.borrow_mut().known.get(key, generation, now)
    }

    /// Keeps an answer until then.
    pub fn keep(
        &self,
        key: TokenKey,
        generation: u64,
        known: Known,
        until: UnixTime,
        now: UnixTime,
    ) {
        let weight = known.as_ref().err().map_or(0, |refusal| refusal.weight());
        let mut inner = self.0.borrow_mut();
        inner.known.keep_weighing(weight, key, generation, known, until, now);
    }

    /// The right to ask; `None`: somebody else is asking.
    #[must_use]
    pub fn fly(&self, key: &TokenKey) -> Option<Flight> {
        let new = self.0.borrow_mut().flying.insert(*key);
        new.then(|| Flight { kept: self.clone(), key: *key })
    }

    /// Waits until whoever asks has an answer, or `until`.
    pub async fn landing<D: Driver>(&self, key: &TokenKey, shell: &Rc<Shell<D>>, until: Time) {
        let landed = poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if !inner.flying.contains(key) {
                return Poll::Ready(());
            }
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        });
        // Either way the caller looks again.
        let _ = shell.timeout(until, landed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_asks_at_a_time() {
        let kept = Kept::new(2);
        let key = TokenKey::of(b"token");
        let flight = kept.fly(&key).unwrap();
        assert!(kept.fly(&key).is_none());
        assert!(kept.fly(&TokenKey::of(b"other")).is_some());
        drop(flight);
        assert!(kept.fly(&key).is_some());
    }
}
