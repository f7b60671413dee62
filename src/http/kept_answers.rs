//! What one worker remembers of who somebody is, so that a signature or a password is worked out
//! once: by a hash of it, for a while, without a lock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use sluicegate_l7::policy::claims::UnixTime;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::token_cache::{TokenCache, TokenKey};

/// Those of one policy.
#[derive(Clone)]
pub struct Kept(Rc<RefCell<TokenCache<Arc<Principal>>>>);

impl Kept {
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self(Rc::new(RefCell::new(TokenCache::new(entries_max))))
    }

    /// Who it is, if that is known.
    #[must_use]
    pub fn find(&self, key: &TokenKey, generation: u64, now: UnixTime) -> Option<Arc<Principal>> {
        self.0.borrow_mut().get(key, generation, now)
    }

    /// Remembers it until then.
    pub fn keep(
        &self,
        key: TokenKey,
        generation: u64,
        principal: Arc<Principal>,
        until: UnixTime,
        now: UnixTime,
    ) {
        self.0.borrow_mut().keep(key, generation, principal, until, now);
    }
}
