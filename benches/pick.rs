//! What choosing a server costs a new session: `cargo bench --bench pick`.
//!
//! A pick is made once a connection, on the worker that relays all others meanwhile.

use std::net::Ipv4Addr;
use std::sync::Arc;

use divan::{Bencher, black_box};
use sluicegate::balance::{AnyPolicy, FlowKey, POLICIES, Policy, PolicyRow, Rng, Roster};
use sluicegate::net::Endpoint;
use sluicegate::registry::{Member, PoolId, ServerId, ServerState};
use sluicegate::runtime::time::Time;

fn main() {
    divan::main();
}

/// Servers that are all up, weights 1, 2 and 3 in turn.
fn members(count: u32) -> Vec<Member> {
    let member = |at: u32| {
        let address = Endpoint::Ip((Ipv4Addr::from(0x0a00_0001 + at), 5432).into());
        let state = Arc::new(ServerState::new(ServerId(at), PoolId(0), "server", address, true));
        Member { state, weight: 1 + (at % 3) as u16, max_conns: None, backup: false }
    };
    (0..count).map(member).collect()
}

fn cases() -> impl Iterator<Item = Case> {
    POLICIES.iter().flat_map(|row| [3, 100].map(|servers| Case { row, servers }))
}

struct Case {
    row: &'static PolicyRow,
    servers: u32,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.row.name, self.servers)
    }
}

/// The policy alone, on a view that is there already.
#[divan::bench(args = cases())]
fn pick(bencher: Bencher<'_, '_>, case: &Case) {
    let members = members(case.servers);
    let mut roster = Roster::new(&members);
    roster.refresh(&members, None, Time(1));
    let mut policy = AnyPolicy::new(case.row.balance);
    policy.rebuild(roster.candidates());
    let mut rng = Rng::new(1);
    let mut client = 0_u32;
    bencher.bench_local(|| {
        client = client.wrapping_add(1);
        let key = FlowKey::of_ip(Ipv4Addr::from(client).into());
        policy.pick(black_box(&roster).view(&[]), key, &mut rng)
    });
}

/// Reading loads and health of all servers, as every pick does first.
#[divan::bench(args = [3, 100])]
fn refresh(bencher: Bencher<'_, '_>, servers: u32) {
    let members = members(servers);
    let mut roster = Roster::new(&members);
    bencher.bench_local(|| roster.refresh(black_box(&members), None, Time(1)));
}

/// A change of membership: for most policies nothing, for maglev a new table.
#[divan::bench(args = cases())]
fn rebuild(bencher: Bencher<'_, '_>, case: &Case) {
    let members = members(case.servers);
    let (all, fewer) = (Roster::new(&members), Roster::new(&members[1..]));
    let mut policy = AnyPolicy::new(case.row.balance);
    let mut flip = false;
    bencher.bench_local(|| {
        flip = !flip;
        policy.rebuild(if flip { all.candidates() } else { fewer.candidates() });
    });
}
