//! What holds for every policy, and the pools that the tests of single ones share.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{Rng, *};
use crate::net::Endpoint;

/// Idle servers without limits, with these weights, each at an address of its own.
pub fn pool_of(weights: &[u16]) -> Vec<Candidate> {
    let candidate = |(at, &weight): (usize, &u16)| {
        let weight = u32::from(weight) * WEIGHT_SCALE;
        let address = (Ipv4Addr::from(0x0a00_0001 + at as u32), 5432);
        Candidate {
            weight,
            weight_full: weight,
            load: 0,
            max_conns: u32::MAX,
            standing: Standing::Up,
            backup: false,
            key: server_key(&Endpoint::Ip(address.into())),
        }
    };
    weights.iter().enumerate().map(candidate).collect()
}

/// The picks for `count` different clients while no load changes.
pub fn picks(balance: plan::Balance, pool: &[Candidate], count: u32) -> Vec<usize> {
    let mut policy = AnyPolicy::new(balance);
    policy.rebuild(pool);
    let mut rng = Rng::new(5);
    let mut pick = |client: u32| {
        let key = FlowKey::of_ip(Ipv4Addr::from(client).into());
        policy.pick(PoolView::new(pool, &[]), key, &mut rng).unwrap().index
    };
    (0..count).map(&mut pick).collect()
}

/// The picks as letters: `a` is the first server.
pub fn sequence(balance: plan::Balance, pool: &[Candidate], count: u32) -> String {
    picks(balance, pool, count).iter().map(|&at| char::from(b'a' + at as u8)).collect()
}

/// For each client, the key of its server.
pub fn servers_of_clients(balance: plan::Balance, pool: &[Candidate], count: u32) -> Vec<u64> {
    picks(balance, pool, count).iter().map(|&at| pool[at].key).collect()
}

/// Every server's share of `count` picks is its share of the weights, give or take `off`.
pub fn check_shares(balance: plan::Balance, weights: &[u16], count: u32, off: f64) {
    let got = picks(balance, &pool_of(weights), count);
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    for (server, &weight) in weights.iter().enumerate() {
        let share = got.iter().filter(|&&at| at == server).count() as f64 / f64::from(count);
        let want = f64::from(weight) / total;
        assert!((share - want).abs() <= off, "server {server}: {share} for {want}");
    }
}

/// Up to eight servers in any state.
pub fn any_pool() -> impl Strategy<Value = Vec<Candidate>> {
    let standing = prop_oneof![
        3 => Just(Standing::Up),
        1 => Just(Standing::Down),
        1 => Just(Standing::Ejected),
        1 => Just(Standing::Draining),
    ];
    let max_conns = prop_oneof![1..6_u32, Just(u32::MAX)];
    let one = (1..=1_000_u16, 1..=10_u32, 0..6_u32, max_conns, standing, prop::bool::weighted(0.3));
    prop::collection::vec(one, 0..8).prop_map(|all| {
        let mut pool = pool_of(&all.iter().map(|one| one.0).collect::<Vec<_>>());
        for (candidate, (_, tenths, load, max_conns, standing, backup)) in pool.iter_mut().zip(all)
        {
            candidate.weight = candidate.weight_full * tenths / 10;
            (candidate.load, candidate.max_conns) = (load, max_conns);
            (candidate.standing, candidate.backup) = (standing, backup);
        }
        pool
    })
}

/// What the documentation promises about who can be chosen, written a second time.
fn may_be_chosen(pool: &[Candidate], tried: &[usize], at: usize) -> bool {
    let up = |one: &Candidate| one.standing == Standing::Up;
    let primary_up = pool.iter().any(|one| up(one) && !one.backup);
    up(&pool[at])
        && pool[at].load < pool[at].max_conns
        && pool[at].backup != primary_up
        && !tried.contains(&at)
}

fn expected_nobody(pool: &[Candidate], tried: &[usize]) -> Nobody {
    let with_room: Vec<_> =
        pool.iter().map(|one| Candidate { max_conns: u32::MAX, ..*one }).collect();
    let any = |pool: &[Candidate], tried| (0..pool.len()).any(|at| may_be_chosen(pool, tried, at));
    if any(&with_room, tried) {
        Nobody::AllFull
    } else if any(&with_room, &[]) {
        Nobody::AllTried
    } else {
        Nobody::NoneUp
    }
}

proptest! {
    #[test]
    fn every_policy_chooses_who_may_be_chosen_and_says_why_if_nobody_may(
        pool in any_pool(),
        tried in prop::collection::vec(0..8_usize, 0..=TRIED_MAX),
        client: u32,
        seed: u64,
    ) {
        for row in &POLICIES {
            let mut policy = AnyPolicy::new(row.balance);
            policy.rebuild(&pool);
            let mut rng = Rng::new(seed);
            let key = FlowKey::of_ip(Ipv4Addr::from(client).into());
            for _ in 0..4 {
                match policy.pick(PoolView::new(&pool, &tried), key, &mut rng) {
                    Ok(pick) => {
                        prop_assert!(may_be_chosen(&pool, &tried, pick.index), "{}", row.name);
                        prop_assert_eq!(pick.load_seen, pool[pick.index].load);
                    }
                    Err(nobody) => {
                        let any = (0..pool.len()).any(|at| may_be_chosen(&pool, &tried, at));
                        prop_assert!(!any, "{} found nobody", row.name);
                        prop_assert_eq!(nobody, expected_nobody(&pool, &tried), "{}", row.name);
                    }
                }
            }
        }
    }

    #[test]
    fn every_policy_survives_any_change_of_members(pools in prop::collection::vec(any_pool(), 1..6), seed: u64) {
        for row in &POLICIES {
            let mut policy = AnyPolicy::new(row.balance);
            let mut rng = Rng::new(seed);
            for pool in &pools {
                policy.rebuild(pool);
                for _ in 0..4 {
                    let key = FlowKey::of(None, &mut rng);
                    if let Ok(pick) = policy.pick(PoolView::new(pool, &[]), key, &mut rng) {
                        prop_assert!(may_be_chosen(pool, &[], pick.index), "{}", row.name);
                    }
                }
            }
        }
    }
}

#[test]
fn the_table_has_every_policy_once_and_says_what_it_does() {
    for (at, row) in POLICIES.iter().enumerate() {
        assert_eq!(POLICIES.iter().position(|other| other.balance == row.balance), Some(at));
        assert!(row.doc.ends_with('.'), "{}", row.name);
    }
}
