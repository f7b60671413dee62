//! Where limits are shared: the connection of this worker to the store of each policy, and what
//! the rest of the process learns of it.

use std::rc::Rc;
use std::sync::Arc;

use sluicegate_l7::policy::redis_script::RedisUrl;
use sluicegate_l7::policy::spec::StoreSpec;

use super::Office;
use crate::control::notice::Notice;
use crate::http::policies::Rules;
use crate::http::shared_limits::{Report, Secured, SharedLimits, Target};
use crate::net::Endpoint;
use crate::registry::PoolId;
use crate::runtime::driver::Driver;

/// Where a store is and how it is spoken to, and the connection there.
#[derive(Debug)]
pub(super) struct Store<D: Driver> {
    endpoint: Endpoint,
    tls: Option<Secured>,
    spec: StoreSpec,
    pub limits: Rc<SharedLimits<D>>,
}

impl<D: Driver> Office<D> {
    /// Lets go of every store that nobody waits for: a worker is not done while it has one.
    pub(super) fn close_stores(&self) {
        for store in self.stores.borrow().iter().flatten() {
            store.limits.close();
        }
    }

    /// This worker's connection to the store of a policy; `None` while its name does not resolve,
    /// and for rules that are out of date if the store is another one now.
    pub(in crate::http) fn shared_limits(
        &self,
        rules: &Arc<Rules>,
        policy: usize,
        store: &StoreSpec,
    ) -> Option<Rc<SharedLimits<D>>> {
        let pool = PoolId(store.pool as u16);
        let (server, tls) = {
            let snapshot = self.snapshot.borrow();
            let member = snapshot.pools[store.pool].members.first()?;
            let tls = snapshot.fronts.pools[store.pool].tls.clone();
            (Arc::clone(&member.state), tls)
        };
        let mut stores = self.stores.borrow_mut();
        if policy >= stores.len() {
            stores.resize_with(policy + 1, || None);
        }
        if let Some(known) = &stores[policy]
            && known.spec == *store
            && known.endpoint == server.address
            && known.tls.as_ref().map(|known| Arc::as_ptr(&known.tls))
                == tls.as_ref().map(Arc::as_ptr)
        {
            return Some(Rc::clone(&known.limits));
        }
        if !self.are_current(rules) {
            return None;
        }
        let endpoint = server.address.clone();
        let tls =
            tls.map(|tls| Secured { tls, name: self.snapshot.borrow().server_name(server.id) });
        let target = Target {
            endpoint: endpoint.clone(),
            tls: tls.clone(),
            url: RedisUrl::parse(&store.redis).ok()?,
            prefix: store.prefix.clone(),
            timeout: store.timeout,
            cooldown: store.cooldown,
            lease: store.lease,
        };
        let (counts, shared) = (Arc::clone(&self.counts), Arc::clone(&self.shared));
        let worker = self.worker;
        let report = move |report: Report| match report {
            Report::Connect(result) => counts.server(server.id).connects[result as usize].add(1),
            Report::Decides(decides) => {
                shared.notices.post(Notice::Store { worker, pool, decides });
            }
        };
        let limits = SharedLimits::new(Rc::clone(&self.shell), target, Box::new(report));
        if self.is_draining() {
            limits.close();
        }
        let fresh = Store { endpoint, tls, spec: store.clone(), limits: Rc::clone(&limits) };
        if let Some(old) = stores[policy].replace(fresh) {
            old.limits.close();
        }
        Some(limits)
    }
}
