//! What the admin API has changed about servers, beside what the file says.
//!
//! Kept by names, because ids and addresses may change with a reload or with DNS. An override
//! remembers the value that the file had when it was made: a reload keeps it unless the file
//! says another value by then, because whoever changed the file came later.
//!
//! - V1: no entry says nothing. What equals the file is no override.
//! - V2: entries are of servers that the plan has, so they are as bounded as the plan.

use std::collections::BTreeMap;

use crate::config::plan::{Plan, Server, ServerAddr};
use crate::registry::AdminState;

/// What was changed about one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// `drain` or `maint`; files have no such key, so no reload ends it.
    pub state: Option<AdminState>,
    pub weight: Option<WeightOverride>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOverride {
    pub weight: u16,
    /// The file's value when this was said.
    pub file: u16,
}

/// What somebody wants; `None`: as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub state: Option<AdminState>,
    pub weight: Option<u16>,
}

/// All overrides, by (pool, server).
#[derive(Clone, Debug, Default)]
pub struct Overrides(BTreeMap<(String, String), Override>);

impl Override {
    #[must_use]
    pub fn admin(self) -> AdminState {
        self.state.unwrap_or_default()
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Overrides {
    /// What holds for a server; nothing, if nobody has said anything.
    #[must_use]
    pub fn of(&self, pool: &str, server: &str) -> Override {
        if self.0.is_empty() {
            return Override::default();
        }
        self.0.get(&(pool.to_owned(), server.to_owned())).copied().unwrap_or_default()
    }

    /// Notes what somebody wants of a server of the plan. Returns what holds from now on.
    pub fn change(&mut self, pool: &str, server: &Server, wanted: Wanted) -> Override {
        let mut holds = self.of(pool, &server.name);
        if let Some(state) = wanted.state {
            holds.state = (state != AdminState::Ready).then_some(state);
        }
        if let Some(weight) = wanted.weight {
            let file = server.weight;
            // Where records give it, no weight is that of the file.
            let of_records = matches!(server.address, ServerAddr::Srv { .. });
            let differs = of_records || weight != file;
            holds.weight = differs.then_some(WeightOverride { weight, file });
        }
        let key = (pool.to_owned(), server.name.clone());
        if holds.is_nothing() {
            self.0.remove(&key);
        } else {
            self.0.insert(key, holds);
        }
        holds
    }

    /// Takes over to the plan of a new file. What does not survive is gone: overrides of servers
    /// that the file has no longer, and weights that it has changed. Returns these by
    /// `POOL/SERVER` with what they were, for the log.
    pub fn on_reload(&mut self, new: &Plan) -> Vec<(String, Override)> {
        let mut ended = Vec::new();
        self.0.retain(|(pool, server), holds| {
            let planned = new.pools.iter().find(|one| one.name == *pool);
            let planned = planned.and_then(|one| one.servers.iter().find(|it| it.name == *server));
            let before = *holds;
            match planned {
                None => *holds = Override::default(),
                Some(planned) => {
                    holds.weight = holds.weight.filter(|weight| weight.file == planned.weight);
                }
            }
            if *holds != before {
                let was = if holds.is_nothing() {
                    before
                } else {
                    Override { state: None, weight: before.weight }
                };
                ended.push((format!("{pool}/{server}"), was));
            }
            !holds.is_nothing()
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    /// Pool `back` with `s0` and `s1`, both of weight 1.
    fn plan() -> Plan {
        fixture::plan(&["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()])
    }

    fn state(state: AdminState) -> Wanted {
        Wanted { state: Some(state), weight: None }
    }

    fn weight(weight: u16) -> Wanted {
        Wanted { state: None, weight: Some(weight) }
    }

    #[test]
    fn a_weight_of_a_service_overrides_its_records_whatever_the_file_says() {
        let (plan, mut overrides) = (plan(), Overrides::default());
        let address = ServerAddr::Srv { name: "_a._tcp.b".into() };
        let server = Server { address, ..plan.pools[0].servers[0].clone() };
        let after = overrides.change("back", &server, weight(1));
        assert_eq!(after.weight, Some(WeightOverride { weight: 1, file: 1 }));
    }

    #[test]
    fn what_equals_the_file_is_no_override() {
        let (plan, mut overrides) = (plan(), Overrides::default());
        let server = &plan.pools[0].servers[0];
        let after = overrides.change("back", server, weight(5));
        assert_eq!(after.weight, Some(WeightOverride { weight: 5, file: 1 }));
        overrides.change("back", server, state(AdminState::Drain));
        assert_eq!(overrides.of("back", "s0").weight, after.weight, "a state changes no weight");
        overrides.change("back", server, weight(1));
        overrides.change("back", server, state(AdminState::Ready));
        assert_eq!(overrides.of("back", "s0"), Override::default());
        assert!(overrides.0.is_empty());
    }

    #[test]
    fn servers_of_other_pools_are_others() {
        let (plan, mut overrides) = (plan(), Overrides::default());
        overrides.change("back", &plan.pools[0].servers[0], state(AdminState::Maint));
        assert_eq!(overrides.of("back", "s0").admin(), AdminState::Maint);
        assert_eq!(overrides.of("other", "s0").admin(), AdminState::Ready);
        assert_eq!(overrides.of("back", "s1").admin(), AdminState::Ready);
    }

    #[test]
    fn a_reload_keeps_what_the_file_has_not_changed() {
        let (mut plan, mut overrides) = (plan(), Overrides::default());
        for server in &plan.pools[0].servers {
            overrides.change("back", server, weight(5));
            overrides.change("back", server, state(AdminState::Drain));
        }
        assert_eq!(overrides.on_reload(&plan), []);
        plan.pools[0].servers[1].weight = 7;
        let ended = overrides.on_reload(&plan);
        let was = Override { state: None, weight: Some(WeightOverride { weight: 5, file: 1 }) };
        assert_eq!(ended, [("back/s1".to_owned(), was)]);
        assert_eq!(overrides.of("back", "s0").weight.map(|weight| weight.weight), Some(5));
        let other = overrides.of("back", "s1");
        assert_eq!((other.admin(), other.weight), (AdminState::Drain, None));
        assert_eq!(overrides.on_reload(&plan), [], "told once");
    }

    #[test]
    fn a_server_that_the_file_has_no_longer_loses_its_override() {
        let (mut plan, mut overrides) = (plan(), Overrides::default());
        overrides.change("back", &plan.pools[0].servers[1], state(AdminState::Maint));
        plan.pools[0].servers.pop();
        assert_eq!(overrides.on_reload(&plan).len(), 1);
        assert_eq!(overrides.of("back", "s1"), Override::default());
    }

    #[test]
    fn a_weight_that_a_reload_made_equal_to_the_file_is_changed_by_the_file() {
        let (mut plan, mut overrides) = (plan(), Overrides::default());
        overrides.change("back", &plan.pools[0].servers[0], weight(5));
        plan.pools[0].servers[0].weight = 5;
        assert_eq!(overrides.on_reload(&plan).len(), 1);
        assert!(overrides.0.is_empty());
    }
}
