//! The members of a pool as candidates: the one place where run-time state becomes a view.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Candidate, PoolView, Standing, WEIGHT_SCALE, server_key, warm_weight};
use crate::registry::{Condition, Member, ServerState};
use crate::runtime::time::Time;

/// One pool's candidates, kept by each worker so that a pick allocates and hashes nothing.
#[derive(Debug)]
pub struct Roster {
    candidates: Vec<Candidate>,
}

impl Roster {
    /// Candidates in the order of `members`. Their state is that of no moment until
    /// [`Roster::refresh`].
    #[must_use]
    pub fn new(members: &[Member]) -> Self {
        let candidate = |member: &Member| {
            let weight = u32::from(member.weight) * WEIGHT_SCALE;
            Candidate {
                weight,
                weight_full: weight,
                load: 0,
                max_conns: member.max_conns.unwrap_or(u32::MAX),
                standing: Standing::Down,
                backup: member.backup,
                key: server_key(&member.state.address),
            }
        };
        Self { candidates: members.iter().map(candidate).collect() }
    }

    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Reads load, health and warmth of the members this roster was made of. The clock matters
    /// only for ejection and `slow_start`.
    pub fn refresh(&mut self, members: &[Member], slow_start: Option<Duration>, now: Time) {
        debug_assert_eq!(members.len(), self.candidates.len(), "a roster per membership");
        for (one, member) in self.candidates.iter_mut().zip(members) {
            let state = &*member.state;
            let warm_from = Time(state.warm_from.load(Ordering::Relaxed));
            one.weight = warm_weight(member.weight, warm_from, slow_start, now);
            one.load = state.load.load(Ordering::Relaxed);
            one.standing = standing(state, now);
        }
    }

    #[must_use]
    pub fn view<'a>(&'a self, tried: &'a [usize]) -> PoolView<'a> {
        PoolView::new(&self.candidates, tried)
    }
}

/// Why a server gets nothing new, or that it does.
fn standing(state: &ServerState, now: Time) -> Standing {
    match state.condition(now) {
        Condition::Up => Standing::Up,
        Condition::Ejected => Standing::Ejected,
        Condition::Down | Condition::Maint => Standing::Down,
        Condition::Draining => Standing::Draining,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Verdict;
    use crate::net::Endpoint;
    use crate::registry::{AdminState, PoolId, ServerId};

    fn member(up: bool) -> Member {
        let address = Endpoint::Ip("127.0.0.1:80".parse().unwrap());
        let state = Arc::new(ServerState::new(ServerId(0), PoolId(0), "a", address, up));
        Member { state, weight: 2, max_conns: Some(5), backup: false }
    }

    #[test]
    fn verdicts_follow_the_shared_state() {
        use Verdict::{Down, Draining, Ejected, Full, Takes};
        let members = [member(true), member(false), member(true), member(true), member(true)];
        members[2].state.ejected_until.store(100, Ordering::Relaxed);
        members[3].state.removed.store(true, Ordering::Relaxed);
        members[4].state.load.store(5, Ordering::Relaxed);
        let mut roster = Roster::new(&members);
        let mut verdicts = |now| {
            roster.refresh(&members, None, now);
            let view = roster.view(&[]);
            (0..5).map(|at| view.verdict(at)).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(Time(99)), [Takes, Down, Ejected, Draining, Full]);
        assert_eq!(verdicts(Time(100)), [Takes, Down, Takes, Draining, Full]);
    }

    #[test]
    fn what_the_operator_says_holds_whatever_the_health_is() {
        let members = [member(true), member(true), member(false), member(true)];
        members[1].state.set_admin(AdminState::Drain);
        members[2].state.set_admin(AdminState::Drain);
        members[3].state.set_admin(AdminState::Maint);
        let mut roster = Roster::new(&members);
        roster.refresh(&members, None, Time(1));
        let view = roster.view(&[]);
        let verdicts: Vec<_> = (0..4).map(|at| view.verdict(at)).collect();
        use Verdict::{Down, Draining, Takes};
        assert_eq!(verdicts, [Takes, Draining, Draining, Down]);
        let eligible = members.each_ref().map(|member| member.state.is_eligible(Time(1)));
        assert_eq!(eligible, [true, false, false, false]);
        let again = members.each_ref().map(|member| member.state.is_eligible_again(Time(1)));
        assert_eq!(again, [true, true, false, false]);
    }

    #[test]
    fn a_server_that_came_back_warms_up() {
        let members = [member(true)];
        members[0].state.warm_from.store(1, Ordering::Relaxed);
        let mut roster = Roster::new(&members);
        roster.refresh(&members, Some(Duration::from_secs(10)), Time(1));
        assert_eq!((roster.candidates()[0].weight, roster.candidates()[0].weight_full), (20, 200));
    }
}
