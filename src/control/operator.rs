//! What an operator says about a server: drain, maintenance, ready, weight.
//!
//! Eligibility is one atomic in `ServerState` and holds at once; a weight comes with the next
//! snapshot. The operator may take out the last server of a pool: who asks for that knows why.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checks::Checks;
use super::desk::Desk;
use super::membership::NameId;
use super::overrides::{Override, Wanted};
use crate::config::keys::nearest;
use crate::config::plan::{Plan, Pool, Server};
use crate::observe::events::EventKind;
use crate::registry::{AdminState, PoolId, ServerState};

/// Finds a server by its names.
///
/// # Errors
/// Which of the two names nothing, with the nearest one that does.
pub(super) fn find(plan: &Plan, pool: &str, server: &str) -> Result<NameId, String> {
    let Some(id) = plan.pools.iter().position(|one| one.name == pool && !one.retired) else {
        let names = plan.pools.iter().filter(|one| !one.retired).map(|one| one.name.as_str());
        return Err(format!("no pool `{pool}`{}", suggestion(pool, names)));
    };
    let servers = &plan.pools[id].servers;
    let Some(found) = servers.iter().find(|one| one.name == server) else {
        let names = servers.iter().map(|one| one.name.as_str());
        return Err(format!("pool `{pool}` has no server `{server}`{}", suggestion(server, names)));
    };
    Ok(NameId::new(PoolId(id as u16), found))
}

fn suggestion<'a>(found: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    /// Names that are told when none of them is near.
    const TOLD: usize = 8;
    if let Some(near) = nearest(found, names.clone()) {
        return format!("; did you mean `{near}`?");
    }
    let all: Vec<_> = names.take(TOLD).collect();
    if all.is_empty() { String::new() } else { format!("; there is `{}`", all.join("`, `")) }
}

/// Does what is wanted of a server of the running plan, and tells everybody.
pub(super) fn change(desk: &Desk, checks: &Checks, id: &NameId, wanted: Wanted) {
    let membership = &desk.instance.membership;
    let snapshot = membership.snapshot();
    let pool = &snapshot.plan.pools[usize::from(id.pool.0)];
    // A reload may have come between.
    let Some(server) = id.of(&snapshot.plan) else { return };
    let before = membership.overrides().of(&pool.name, &server.name);
    let members = &snapshot.pools[usize::from(id.pool.0)].members;
    let states = members.iter().map(|member| &member.state);
    let states: Vec<_> = states.filter(|state| *state.name == *server.name).collect();
    let leaves_maint = before.admin() == AdminState::Maint
        && wanted.state.is_some_and(|state| state != AdminState::Maint);
    if leaves_maint {
        for state in &states {
            // Down first: nobody may see it ready before its check has passed.
            state.up.store(false, Ordering::Release);
        }
    }
    if leaves_maint || wanted.state == Some(AdminState::Ready) {
        for state in &states {
            state.end_ejection();
        }
    }
    let (after, snapshot) = membership.change(id, wanted);
    desk.tell_membership(&snapshot);
    for state in states {
        match (before.admin(), after.admin()) {
            (AdminState::Maint, AdminState::Maint) => {}
            (_, AdminState::Maint) => {
                checks.stop(state.id);
                desk.went_down(state);
            }
            (AdminState::Maint, _) => come_back(desk, checks, pool, state),
            (AdminState::Drain, AdminState::Ready) => desk.release_waiters(state.pool),
            (AdminState::Drain | AdminState::Ready, _) => {}
        }
    }
    tell(desk, pool, server, before, after);
}

/// Out of maintenance.
fn come_back(desk: &Desk, checks: &Checks, pool: &Pool, state: &Arc<ServerState>) {
    if pool.check.is_some() {
        checks.start_again(state);
    } else {
        // It counted as down, so it warms up as one that was.
        desk.came_up(state, true);
    }
}

fn tell(desk: &Desk, pool: &Pool, server: &Server, before: Override, after: Override) {
    let name = format!("server {}/{}", pool.name, server.name);
    let say = |kind, what: String| {
        let text = format!("{name} {what}, said the admin API");
        desk.log.info(&text);
        desk.instance.events.push(kind, text);
    };
    if before.admin() != after.admin() {
        match after.admin() {
            AdminState::Ready => say(EventKind::ServerReady, "is ready".into()),
            AdminState::Drain => {
                say(EventKind::ServerDrained, "drains: it gets nothing new".into());
            }
            AdminState::Maint => {
                say(EventKind::ServerMaint, "is in maintenance: it counts as down".into());
            }
        }
    }
    if before.weight != after.weight {
        let weight = after.weight.map_or(server.weight, |weight| weight.weight);
        let was = before.weight.map_or(server.weight, |weight| weight.weight);
        say(EventKind::WeightChanged, format!("has weight {weight}, after {was}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn a_name_that_is_not_there_gets_the_nearest_or_what_there_is() {
        let plan = fixture::plan(&["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(find(&plan, "back", "s0").map(|id| id.pool), Ok(PoolId(0)));
        let error = |pool, server| find(&plan, pool, server).unwrap_err();
        assert_eq!(error("bakc", "s0"), "no pool `bakc`; did you mean `back`?");
        assert_eq!(error("x", "s0"), "no pool `x`; there is `back`");
        assert_eq!(error("back", "primary"), "pool `back` has no server `primary`; there is `s0`");
    }
}
