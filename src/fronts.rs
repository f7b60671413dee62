//! What stands before and behind sessions beyond plain TCP, made ready from the plan once: TLS
//! of listeners and of pools, the routes of HTTP listeners.
//!
//! Immutable, shared by all workers; a new certificate or plan makes a new one. Reads files, so
//! only the control thread makes them.

use std::sync::Arc;

use crate::config::plan::{self, Plan};
use crate::http::{Rules, Site};
use crate::observe::labels::Labels;
use crate::registry::ListenerId;
use crate::tls::certificates::LoadError;
use crate::tls::server::ServerTls;
use crate::tls::upstream::ClientTls;

/// By listener and by pool, as the plan has them.
#[derive(Debug, Default)]
pub struct Fronts {
    pub listeners: Vec<Front>,
    pub pools: Vec<Back>,
    /// TLS of the admin API.
    pub admin: Option<Arc<ServerTls>>,
    /// The policies and consumers of all HTTP listeners.
    pub rules: Arc<Rules>,
    /// What routes and consumers are called in counters and records.
    pub labels: Arc<Labels>,
}

/// What a listener has beyond plain TCP.
#[derive(Clone, Debug, Default)]
pub struct Front {
    pub tls: Option<Arc<ServerTls>>,
    pub site: Option<Arc<Site>>,
}

/// What the servers of a pool are spoken to with.
#[derive(Clone, Debug, Default)]
pub struct Back {
    pub tls: Option<Arc<ClientTls>>,
}

impl Fronts {
    /// Nothing beyond plain TCP.
    #[must_use]
    pub fn plain(plan: &Plan) -> Self {
        Self {
            listeners: vec![Front::default(); plan.listeners.len()],
            pools: vec![Back::default(); plan.pools.len()],
            ..Self::default()
        }
    }

    /// Reads certificates and keys, and builds what the plan says.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(plan: &Plan) -> Result<Self, LoadError> {
        Self::after(&Self::default(), plan)
    }

    /// The same for a plan that has the seats of the one before it: session tickets, fetched keys
    /// and numbers of names are kept.
    ///
    /// # Errors
    /// As [`Fronts::new`].
    pub fn after(before: &Self, plan: &Plan) -> Result<Self, LoadError> {
        let mut labels = (*before.labels).clone();
        let rules = Arc::new(Rules::after(&before.rules, plan, &mut labels));
        let mut listeners = Vec::new();
        for (id, listener) in plan.listeners.iter().enumerate() {
            let old = before.listeners.get(id);
            if let (true, Some(old)) = (listener.retired, old) {
                // Its files may be gone, and nobody new comes here.
                listeners.push(old.clone());
                continue;
            }
            let tickets = old.and_then(|front| front.tls.as_ref()).map(|tls| tls.tickets());
            let tls = |tls| ServerTls::new(tls, tickets.cloned().unwrap_or_default());
            let tls = listener.tls.as_ref().map(tls).transpose()?.map(Arc::new);
            let id = ListenerId(id as u16);
            let site = |http| Site::new(id, listener, http, &rules, &plan.log, &mut labels);
            let site = listener.http.as_ref().map(site).transpose();
            let site = site.map_err(|error| LoadError {
                file: format!("listener `{}`", listener.name),
                why: format!("route {}: {:?}", error.route + 1, error.why),
            })?;
            listeners.push(Front { tls, site: site.map(Arc::new) });
        }
        let admin = plan.admin.as_ref().and_then(|admin| admin.tls.as_ref());
        let tickets =
            before.admin.as_ref().map(|tls| Arc::clone(tls.tickets())).unwrap_or_default();
        let admin = admin.map(|tls| ServerTls::new(tls, tickets)).transpose()?.map(Arc::new);
        let mut pools = Vec::new();
        for (id, pool) in plan.pools.iter().enumerate() {
            if let (true, Some(old)) = (pool.retired, before.pools.get(id)) {
                pools.push(old.clone());
                continue;
            }
            let alpn: &[&[u8]] = match pool.protocol {
                plan::Protocol::H2 => &[b"h2"],
                plan::Protocol::Http1 | plan::Protocol::H2c => &[],
            };
            let tls = pool.tls.as_ref().map(|tls| ClientTls::new(tls, alpn)).transpose()?;
            pools.push(Back { tls: tls.map(Arc::new) });
        }
        Ok(Self { listeners, pools, admin, rules, labels: Arc::new(labels) })
    }
}
