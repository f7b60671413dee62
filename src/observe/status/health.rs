//! What status says of the health of servers: results of checks, and nothing else. Whether a
//! server gets traffic is its state.

use super::{HealthStatus, ServerStatus};
use crate::config::plan;
use crate::control::membership::Resolution;
use crate::observe::clock;
use crate::registry::ServerState;

/// What the last check of an address said.
pub(super) fn of_one(pool: &plan::Pool, state: &ServerState) -> HealthStatus {
    if pool.check.is_none() {
        // There may be what one said that a reload has taken away.
        return HealthStatus { ok: true, detail: "not checked".into(), at: None };
    }
    let last = state.last_check.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*last {
        Some(check) => HealthStatus {
            ok: check.ok,
            detail: check.detail.clone(),
            at: Some(clock::rfc3339(check.at)),
        },
        None => HealthStatus { ok: false, detail: "not checked yet".into(), at: None },
    }
}

/// What checks say of a name's addresses, whatever else keeps traffic from them.
pub(super) fn of_all(members: &[ServerStatus], name: &Resolution, checked: bool) -> HealthStatus {
    let passing = members.iter().filter(|member| member.health.ok).count();
    let mut detail = match members.len() {
        0 if name.detail.is_empty() => "not resolved yet".to_owned(),
        0 => name.detail.clone(),
        1 if !checked => "1 address, not checked".to_owned(),
        all if !checked => format!("{all} addresses, not checked"),
        all => format!("{passing} of {all} addresses pass"),
    };
    if name.stale {
        detail = format!("{detail}; last answer kept: {}", name.detail);
    }
    let checked_at = members.iter().filter_map(|member| member.health.at.clone()).max();
    let at = checked_at.or_else(|| name.at.map(clock::rfc3339));
    HealthStatus { ok: passing > 0, detail, at }
}
