//! What a pool with `balance = "maglev"` goes by, of a request: a header field, a cookie, its
//! consumer or its path. Where that is not there, the client's address stands in.

use std::net::IpAddr;

use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::route::{Fields as _, cookies};

use super::errand::Case;
use crate::balance::FlowKey;
use crate::config::plan::HashBy;
use crate::registry::PoolId;

/// The keys of one request at the pools that it may come to; none for those that go by the
/// client's address.
#[derive(Clone, Debug, Default)]
pub struct FlowKeys(Vec<(usize, FlowKey)>);

impl FlowKeys {
    /// `pools` are those that do not go by the address, and what they go by.
    pub fn of(pools: Vec<(usize, HashBy)>, case: &Case<'_>, principal: Option<&Principal>) -> Self {
        let key = |(pool, by): (usize, HashBy)| Some((pool, key(&by, case, principal)?));
        Self(pools.into_iter().filter_map(key).collect())
    }

    /// `None`: it goes by the client's address.
    #[must_use]
    pub fn at(&self, pool: PoolId) -> Option<FlowKey> {
        let own = self.0.iter().find(|(known, _)| *known == usize::from(pool.0));
        own.map(|&(_, key)| key)
    }
}

/// Who asks a pool for a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker {
    pub client: Option<IpAddr>,
    /// What the pool goes by, if not by the client.
    pub key: Option<FlowKey>,
}

/// The key by what `by` names, if the request has it and it is not empty.
fn key(by: &HashBy, case: &Case<'_>, principal: Option<&Principal>) -> Option<FlowKey> {
    let value = match by {
        HashBy::Ip => None,
        HashBy::Header(name) => case.lines.line(name, 0),
        HashBy::Cookie(name) => cookies(&case.lines, name).next(),
        HashBy::Consumer => principal.map(|principal| principal.id.as_bytes()),
        HashBy::Path => Some(case.path.as_bytes()),
    };
    value.filter(|value| !value.is_empty()).map(FlowKey::of_bytes)
}
