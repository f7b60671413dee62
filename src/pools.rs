//! What a worker keeps of each pool: its balancing policy and whose turn it is.
//!
//! Choosing and reserving belong together: a place is reserved with the load that spoke for the
//! server, so `max_conns` and least-conn are exact over all workers.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::balance::{
    AnyPolicy, FlowKey, Nobody, Pick, Policy as _, Rng, Roster, TRIED_MAX, Verdict,
};
use crate::config::plan::Balance;
use crate::net::Endpoint;
use crate::registry::{Member, ServerId, Snapshot};
use crate::runtime::time::Time;

/// Lost races for a place before one is taken without the exact exchange.
const RESERVE_TRIES_MAX: usize = 8;

/// One pool, as one worker sees it.
#[derive(Debug)]
pub struct PoolRun {
    balance: Balance,
    policy: AnyPolicy,
    roster: Roster,
    /// The turns of `source`, of IPv4 and of IPv6.
    source_turns: [usize; 2],
}

/// A place at a server. Whoever has it gives it back by lowering the server's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    pub server: ServerId,
    /// Index among the members.
    pub member: usize,
    /// Too many races were lost: the place was taken without regard to others.
    pub raced: bool,
}

/// What a client asks with.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub key: FlowKey,
    /// Servers that are not to be chosen again.
    pub tried: &'a [ServerId],
    pub now: Time,
}

/// The pools of a new membership; a policy that was there before keeps its turn.
#[must_use]
pub fn renew(before: Vec<PoolRun>, snapshot: &Snapshot) -> Vec<PoolRun> {
    let mut known = before.into_iter();
    let pools = snapshot.pools.iter().zip(&snapshot.plan.pools);
    let renewed = pools.map(|(pool, planned)| {
        let roster = Roster::new(&pool.members);
        let same = known.next().filter(|run| run.balance == planned.balance);
        let mut run = same.unwrap_or_else(|| PoolRun {
            balance: planned.balance,
            policy: AnyPolicy::new(planned.balance),
            roster: Roster::new(&[]),
            source_turns: [0; 2],
        });
        run.policy.rebuild(roster.candidates());
        run.roster = roster;
        run
    });
    renewed.collect()
}

impl PoolRun {
    /// Picks a server and reserves a place there.
    ///
    /// # Errors
    /// Why there is none.
    pub fn reserve(
        &mut self,
        members: &[Member],
        slow_start: Option<Duration>,
        asking: &Asking<'_>,
        rng: &mut Rng,
    ) -> Result<Reserved, Nobody> {
        let mut tried = [0; TRIED_MAX];
        let mut count = 0;
        for id in asking.tried.iter().take(TRIED_MAX) {
            if let Some(index) = members.iter().position(|member| member.state.id == *id) {
                tried[count] = index;
                count += 1;
            }
        }
        let mut last = None;
        for _ in 0..RESERVE_TRIES_MAX {
            self.roster.refresh(members, slow_start, asking.now);
            let view = self.roster.view(&tried[..count]);
            let again = last.filter(|&index| {
                !self.policy.compares_loads() && view.verdict(index) == Verdict::Takes
            });
            let Pick { index, load_seen } = match again {
                // A lost race does not skip a turn.
                Some(index) => Pick { index, load_seen: view.candidates()[index].load },
                None => self.policy.pick(view, asking.key, rng)?,
            };
            let server = &members[index].state;
            let exact = server.load.compare_exchange(
                load_seen,
                load_seen + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if exact.is_ok() {
                return Ok(Reserved { server: server.id, member: index, raced: false });
            }
            last = Some(index);
        }
        // The load changes faster than it can be read: no longer the best choice then, but a bound
        // stays one.
        let index = last.unwrap_or(0);
        let member = &members[index];
        let reserved = Reserved { server: member.state.id, member: index, raced: true };
        member.reserve().then_some(reserved).ok_or(Nobody::AllFull)
    }

    /// The local address to connect to `server` from: each of its family in its turn. `None`: the
    /// kernel chooses.
    pub fn next_source(&mut self, sources: &[IpAddr], server: &Endpoint) -> Option<IpAddr> {
        let count = server.sources(sources).count();
        let turn = &mut self.source_turns[usize::from(server.is_ipv6())];
        *turn = turn.wrapping_add(1);
        server.sources(sources).nth(turn.checked_rem(count)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::{PoolId, ServerState};

    #[test]
    fn a_place_that_is_taken_after_lost_races_is_one_of_those_there_are() {
        let address = Endpoint::Ip("127.0.0.1:80".parse().unwrap());
        let state = Arc::new(ServerState::new(ServerId(0), PoolId(0), "a", address, true));
        let member = Member { state, weight: 1, max_conns: Some(2), backup: false };
        assert_eq!([(); 3].map(|()| member.reserve()), [true, true, false]);
        assert_eq!(member.state.load.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_server_is_connected_to_from_each_source_of_its_own_family_in_turn() {
        let sources = ["127.0.0.1", "::1", "127.0.0.2"].map(|one| one.parse().unwrap());
        let server = |text: &str| Endpoint::Ip(text.parse().unwrap());
        let (four, six) = (server("127.0.0.9:80"), server("[::9]:80"));
        let mut pool = PoolRun {
            balance: Balance::RoundRobin,
            policy: AnyPolicy::new(Balance::RoundRobin),
            roster: Roster::new(&[]),
            source_turns: [0; 2],
        };
        let mut taken = Vec::new();
        for _ in 0..2 {
            // Turn about, which must not make one source serve all of a family.
            taken.extend(pool.next_source(&sources, &four).map(|source| source.to_string()));
            assert_eq!(pool.next_source(&sources, &six), Some(sources[1]));
        }
        taken.sort();
        assert_eq!(taken, ["127.0.0.1", "127.0.0.2"]);
        assert_eq!(pool.next_source(&sources[..1], &six), None, "as checks do");
        let unix = Endpoint::Unix(std::path::Path::new("/run/app.sock").into());
        assert_eq!(pool.next_source(&sources, &unix), None);
    }
}
