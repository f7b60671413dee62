//! What stands before and behind sessions beyond plain TCP, made ready from the plan once: TLS
//! of listeners and of pools, the routes of HTTP listeners.
//!
//! Immutable, shared by all workers; a new certificate or plan makes a new one. Reads files, so
//! only the control thread makes them.

use std::sync::Arc;

use crate::config::plan::{self, Plan};
use crate::http::{Rules, Site};
use crate::registry::ListenerId;
use crate::tls::certificates::LoadError;
use crate::tls::server::{ServerTls, Tickets};
use crate::tls::upstream::ClientTls;

/// By listener and by pool, as the plan has them.
#[derive(Debug, Default)]
pub struct Fronts {
    pub listeners: Vec<Front>,
    pub pools: Vec<Back>,
    /// The policies and consumers of all HTTP listeners.
    pub rules: Arc<Rules>,
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
            rules: Arc::default(),
        }
    }

    /// Reads certificates and keys, and builds what the plan says.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(plan: &Plan) -> Result<Self, LoadError> {
        let rules = Arc::new(Rules::new(plan));
        let mut fronts = Self { rules: Arc::clone(&rules), ..Self::default() };
        for (id, listener) in plan.listeners.iter().enumerate() {
            let tls = |tls| ServerTls::new(tls, Arc::new(Tickets::default()));
            let tls = listener.tls.as_ref().map(tls).transpose()?.map(Arc::new);
            let id = ListenerId(id as u16);
            let site = |http| Site::new(id, listener, http, &rules, &plan.log);
            let site = listener.http.as_ref().map(site).transpose();
            let site = site.map_err(|error| LoadError {
                file: format!("listener `{}`", listener.name),
                why: format!("route {}: {:?}", error.route + 1, error.why),
            })?;
            fronts.listeners.push(Front { tls, site: site.map(Arc::new) });
        }
        for pool in &plan.pools {
            let alpn: &[&[u8]] = match pool.protocol {
                plan::Protocol::H2 => &[b"h2"],
                plan::Protocol::Http1 | plan::Protocol::H2c => &[],
            };
            let tls = pool.tls.as_ref().map(|tls| ClientTls::new(tls, alpn)).transpose()?;
            fronts.pools.push(Back { tls: tls.map(Arc::new) });
        }
        Ok(fronts)
    }
}
