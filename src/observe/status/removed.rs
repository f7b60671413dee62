//! Servers that are in the file no more: status shows them until their last session has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ServerStatus, single};
use crate::config::plan;
use crate::observe::view::View;
use crate::registry::{PoolSnapshot, ServerState};

/// Adds those of a pool to the servers that the file has.
pub(super) fn add(
    view: &View<'_>,
    pool: &plan::Pool,
    now: &PoolSnapshot,
    servers: &mut BTreeMap<String, ServerStatus>,
) {
    let here = |state: &ServerState| {
        Arc::ptr_eq(&view.snapshot.pools[usize::from(state.pool.0)].state, &now.state)
    };
    let planned = |state: &ServerState| pool.servers.iter().any(|one| *one.name == *state.name);
    let busy = |state: &&Arc<ServerState>| state.load.load(Ordering::Relaxed) > 0;
    for state in view.snapshot.servers.iter().filter(busy) {
        if !here(state) || planned(state) {
            continue;
        }
        let status = single(view, pool, now, state);
        match servers.get_mut(&*state.name) {
            // It was a name, of several addresses.
            Some(known) => {
                known.active += status.active;
                known.total += status.total;
                known.errors += status.errors;
            }
            None => drop(servers.insert(state.name.to_string(), status)),
        }
    }
}
