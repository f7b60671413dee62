//! A new snapshot in the office: what is kept, and what another plan makes out of date.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Office;
use crate::config::plan;
use crate::control::jwks::HeldKeys;
use crate::http::site::SiteRef;
use crate::http::upstream::{Manner, Stay};
use crate::pools;
use crate::registry::{PoolId, ServerId, Snapshot};
use crate::runtime::driver::Driver;

impl<D: Driver> Office<D> {
    /// The rules of a connection's listener as they are now, for its next request: a key that was
    /// taken away opens nothing on connections that are there. A listener that is gone, or no
    /// longer under TLS or not, leaves its connections what they came under.
    pub(in crate::http) fn renew(&self, site: &mut SiteRef) {
        let snapshot = self.snapshot.borrow();
        let front = snapshot.fronts.listeners.get(usize::from(site.listener.0));
        if let Some(fresh) = front.and_then(|front| front.site.as_ref())
            && !Arc::ptr_eq(fresh, site)
            && fresh.secure == site.secure
        {
            *site = Rc::new(Arc::clone(fresh));
        }
    }

    /// Takes a new membership into use.
    pub fn use_snapshot(&self, snapshot: &Arc<Snapshot>) {
        let before = self.pools.take();
        *self.pools.borrow_mut() = pools::renew(before, snapshot);
        let before = self.snapshot.replace(Arc::clone(snapshot));
        if !Arc::ptr_eq(&before.plan, &snapshot.plan) {
            self.forget(&before.plan, &snapshot.plan);
        }
    }

    /// What was found out by a plan, where another one may find otherwise.
    fn forget(&self, before: &plan::Plan, after: &plan::Plan) {
        let consumers = before.consumers != after.consumers;
        if consumers {
            self.passwords_known.take();
        }
        for (at, policy) in before.policies.iter().enumerate() {
            if !consumers && after.policies.get(at) == Some(policy) {
                continue;
            }
            if let Some(answers) = self.answers.borrow_mut().get_mut(at) {
                *answers = None;
            }
            if let Some(held) = self.held_keys.borrow_mut().get_mut(at) {
                *held = HeldKeys::default();
            }
            let store = self.stores.borrow_mut().get_mut(at).and_then(Option::take);
            if let Some(store) = store {
                store.limits.close();
            }
        }
        self.learn(before, after);
        let snapshot = self.snapshot.borrow();
        let is_other = |server: ServerId| {
            let state = &snapshot.servers[server.0 as usize];
            let pool = usize::from(state.pool.0);
            state.removed.load(Ordering::Relaxed) || !speaks_alike(before, after, pool)
        };
        let stay = |server| if is_other(server) { Stay::NONE } else { Stay::ALL };
        self.kept().prune(self.now(), stay);
        self.lines.borrow_mut().leave(is_other);
    }

    /// How the servers of a pool are spoken to now.
    pub(in crate::http) fn manner(&self, pool: PoolId) -> Manner {
        self.manners.borrow().get(usize::from(pool.0)).copied().unwrap_or_default()
    }

    /// Servers that are no longer spoken to as on the connections there are: also those in use now
    /// are not used again.
    fn learn(&self, before: &plan::Plan, after: &plan::Plan) {
        let mut manners = self.manners.borrow_mut();
        let count = after.pools.len().max(manners.len());
        manners.resize(count, Manner::default());
        for (pool, manner) in manners.iter_mut().enumerate() {
            if !speaks_alike(before, after, pool) {
                *manner = manner.next();
            }
        }
    }
}

fn speaks_alike(before: &plan::Plan, after: &plan::Plan, pool: usize) -> bool {
    let (Some(before), Some(after)) = (before.pools.get(pool), after.pools.get(pool)) else {
        return false;
    };
    let speaks = |pool: &plan::Pool| (pool.protocol, pool.send_proxy);
    before.tls == after.tls && speaks(before) == speaks(after)
}
