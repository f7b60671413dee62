//! Claims about limits per address: one thread, many threads, and against a model.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::plan::Rate;

const SECRET: [u64; 2] = [1, 2];
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn conns(max: u32) -> ConnLimit {
    ConnLimit { conns_per_ip: NonZeroU32::new(max), ..ConnLimit::default() }
}

/// `per_second` with `burst`.
fn rate(per_second: u32, burst: u32) -> ConnLimit {
    let number = |n| NonZeroU32::new(n).unwrap();
    let rate = Rate::new(number(per_second), Duration::from_secs(1), number(burst));
    ConnLimit { new_conns_per_ip: Some(rate), ..ConnLimit::default() }
}

fn at_ms(ms: u64) -> Time {
    // Not near zero, where a monotonic clock never is.
    Time((1_000_000 + ms) * 1_000_000)
}

#[test]
fn an_address_has_so_many_sessions_and_gets_a_place_back_when_one_ends() {
    let table = PerIp::new(64, SECRET);
    let now = at_ms(0);
    assert_eq!(table.admit(A, now, &conns(2)), Ok(()));
    assert_eq!(table.admit(A, now, &conns(2)), Ok(()));
    assert_eq!(table.admit(A, now, &conns(2)), Err(Refusal::Conns));
    table.release(A, now);
    assert_eq!(table.admit(A, now, &conns(2)), Ok(()));
}

#[test]
fn a_session_from_before_the_limit_takes_a_place_and_is_not_judged() {
    let table = PerIp::new(64, SECRET);
    let now = at_ms(0);
    assert!((0..3).all(|_| table.adopt(A, now)), "more than the limit that comes");
    assert_eq!(table.admit(A, now, &conns(2)), Err(Refusal::Conns));
    (0..2).for_each(|_| table.release(A, now));
    assert_eq!(table.admit(A, now, &conns(2)), Ok(()));
    assert_eq!(table.admit(A, now, &conns(2)), Err(Refusal::Conns));
}

#[test]
fn a_burst_passes_at_once_and_then_one_an_interval() {
    let table = PerIp::new(64, SECRET);
    let limit = rate(20, 3);
    let passed_at = |ms| table.admit(A, at_ms(ms), &limit).is_ok();
    assert_eq!([0, 0, 0, 0].map(passed_at), [true, true, true, false]);
    assert_eq!([49, 50, 50, 99, 100].map(passed_at), [false, true, false, false, true]);
    assert_eq!([900, 900, 900, 900].map(passed_at), [true, true, true, false]);
}

#[test]
fn a_refusal_by_one_limit_takes_nothing_from_the_other() {
    let table = PerIp::new(64, SECRET);
    let limit = ConnLimit { conns_per_ip: NonZeroU32::new(1), ..rate(1, 2) };
    assert_eq!(table.admit(A, at_ms(0), &limit), Ok(()));
    for _ in 0..5 {
        assert_eq!(table.admit(A, at_ms(0), &limit), Err(Refusal::Conns));
    }
    table.release(A, at_ms(0));
    assert_eq!(table.admit(A, at_ms(0), &limit), Ok(()), "the second token was still there");
    table.release(A, at_ms(0));
    assert_eq!(table.admit(A, at_ms(0), &limit), Err(Refusal::Rate));
    assert_eq!(table.admit(A, at_ms(1_000), &limit), Ok(()), "the place was still there");
}

#[test]
fn addresses_of_one_ipv6_network_count_together_and_mapped_ipv4_is_ipv4() {
    let table = PerIp::new(64, SECRET);
    let admit = |ip: &str| table.admit(ip.parse().unwrap(), at_ms(0), &conns(1));
    assert_eq!(admit("2001:db8:0:1::1"), Ok(()));
    assert_eq!(admit("2001:db8:0:1:ffff::2"), Err(Refusal::Conns));
    assert_eq!(admit("2001:db8:0:2::1"), Ok(()));
    assert_eq!(admit("192.0.2.9"), Ok(()));
    assert_eq!(admit("::ffff:192.0.2.9"), Err(Refusal::Conns));
    assert_eq!(admit("192.0.2.10"), Ok(()));
}

#[test]
fn an_address_cannot_escape_its_rate_by_closing_its_sessions() {
    let table = PerIp::new(64, SECRET);
    let limit = rate(1, 1);
    assert_eq!(table.admit(A, at_ms(0), &limit), Ok(()));
    table.release(A, at_ms(1));
    assert_eq!(table.entries(), 1);
    assert_eq!(table.admit(A, at_ms(999), &limit), Err(Refusal::Rate));
    assert_eq!(table.admit(A, at_ms(1_000), &limit), Ok(()));
}

#[test]
fn a_full_table_refuses_new_addresses_and_forgets_no_known_one() {
    let table = PerIp::with_shards(1, 10, SECRET);
    let limit = rate(1, 1);
    let other = |n: u32| IpAddr::from(Ipv4Addr::from(n));
    for n in 0..10 {
        assert_eq!(table.admit(other(n), at_ms(0), &limit), Ok(()));
        table.release(other(n), at_ms(0));
    }
    for n in 10..1_000 {
        assert_eq!(table.admit(other(n), at_ms(999), &limit), Err(Refusal::TableFull));
    }
    assert_eq!(table.admit(other(3), at_ms(999), &limit), Err(Refusal::Rate));
    // Their buckets are full again: they make room.
    assert_eq!(table.admit(other(500), at_ms(1_000), &limit), Ok(()));
}

#[test]
fn a_client_that_changes_its_address_each_time_leaves_nothing_behind() {
    let table = PerIp::with_shards(1, 1_000_000, SECRET);
    let limit = rate(20, 40);
    let mut most = 0;
    for n in 0..100_000_u32 {
        let (ip, now) = (IpAddr::from(Ipv4Addr::from(n)), at_ms(u64::from(n)));
        assert_eq!(table.admit(ip, now, &limit), Ok(()));
        table.release(ip, now);
        most = most.max(table.entries());
    }
    // One address a millisecond, each remembered for the 50 ms of one token.
    assert!(most <= 51, "{most} entries");
}

#[test]
fn many_threads_together_get_exactly_what_one_address_may_have() {
    for limit in [conns(100), rate(1, 100)] {
        let table = PerIp::new(64, SECRET);
        let admitted = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if table.admit(A, at_ms(0), &limit).is_ok() {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100);
    }
}

#[test]
fn threads_that_come_and_go_never_exceed_the_limit_and_leave_an_empty_table() {
    const IPS: u32 = 5;
    const MAX: u32 = 3;
    let table = PerIp::new(64, SECRET);
    let inside: Vec<AtomicU32> = (0..IPS).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for worker in 0..4_u32 {
            let (table, inside) = (&table, &inside);
            scope.spawn(move || {
                let mut held = Vec::new();
                for step in 0..20_000_u32 {
                    let n = (step.wrapping_mul(2_654_435_761) >> 16).wrapping_add(worker) % IPS;
                    let ip = IpAddr::from(Ipv4Addr::from(n));
                    if table.admit(ip, at_ms(0), &conns(MAX)).is_ok() {
                        let before = inside[n as usize].fetch_add(1, Ordering::SeqCst);
                        assert!(before < MAX);
                        held.push(n);
                    }
                    if held.len() > 2 || step % 3 == 0 {
                        release_one(table, inside, &mut held);
                    }
                }
                while release_one(table, inside, &mut held) {}
            });
        }
    });
    assert_eq!(table.entries(), 0);
}

fn release_one(table: &PerIp, inside: &[AtomicU32], held: &mut Vec<u32>) -> bool {
    let Some(n) = held.pop() else { return false };
    // Before the place is free, or the next one in could see one too many.
    inside[n as usize].fetch_sub(1, Ordering::SeqCst);
    table.release(IpAddr::from(Ipv4Addr::from(n)), at_ms(0));
    true
}

/// A bucket that is filled drop by drop: `per_second` drops a nanosecond, a token is `interval`.
#[derive(Clone, Copy)]
struct ModelEntry {
    sessions: u32,
    level: u64,
    seen: Time,
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u32),
    Release(u32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u32).prop_map(Step::Admit),
        2 => (0..6_u32).prop_map(Step::Release),
        1 => (0..400_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_bucket_that_is_filled_drop_by_drop(
        steps in prop::collection::vec(step(), 1..150),
        max in 1..4_u32,
        per_second in 1..30_u32,
        burst in 1..4_u32,
    ) {
        const ENTRIES: usize = 4;
        let limit = ConnLimit { conns_per_ip: NonZeroU32::new(max), ..rate(per_second, burst) };
        let interval = 1_000_000_000_u64;
        let brim = interval * u64::from(burst);
        let drops = |time: Duration| time.as_nanos() as u64 * u64::from(per_second);
        let table = PerIp::with_shards(1, ENTRIES, SECRET);
        let mut model: HashMap<u32, ModelEntry> = HashMap::new();
        let mut now = at_ms(0);
        for step in steps {
            for entry in model.values_mut() {
                entry.level = brim.min(entry.level + drops(now.since(entry.seen)));
                entry.seen = now;
            }
            model.retain(|_, entry| entry.sessions > 0 || entry.level < brim);
            match step {
                Step::Admit(n) => {
                    let fresh = ModelEntry { sessions: 0, level: brim, seen: now };
                    let entry = model.get(&n).copied().unwrap_or(fresh);
                    let want = if !model.contains_key(&n) && model.len() >= ENTRIES {
                        Err(Refusal::TableFull)
                    } else if entry.sessions >= max {
                        Err(Refusal::Conns)
                    } else if entry.level < interval {
                        Err(Refusal::Rate)
                    } else {
                        let (sessions, level) = (entry.sessions + 1, entry.level - interval);
                        model.insert(n, ModelEntry { sessions, level, seen: now });
                        Ok(())
                    };
                    prop_assert_eq!(table.admit(Ipv4Addr::from(n).into(), now, &limit), want);
                }
                Step::Release(n) => {
                    if let Some(entry) = model.get_mut(&n).filter(|entry| entry.sessions > 0) {
                        entry.sessions -= 1;
                        table.release(Ipv4Addr::from(n).into(), now);
                    }
                }
                Step::Wait(ms) => now = Time(now.0 + ms * 1_000_000),
            }
            prop_assert!(table.entries() <= ENTRIES);
        }
        let later = now + Duration::from_secs(60);
        for (n, entry) in model {
            for _ in 0..entry.sessions {
                table.release(Ipv4Addr::from(n).into(), later);
            }
        }
        for _ in 0..2 {
            let _ = table.admit(A, later, &limit);
        }
        prop_assert_eq!(table.entries(), 1, "all but the last one are forgotten");
    }
}
