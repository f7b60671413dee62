//! Claims about the limit table: one thread, many threads, and full.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use sluicegate_l7::policy::quota::Window;

use super::*;

const SECOND: u64 = 1_000_000_000;
/// Not near zero, where a monotonic clock never is.
const START: u64 = 1_000 * SECOND;

fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
    let number = |n| NonZeroU32::new(n).unwrap();
    Rate::new(number(count), Duration::from_secs(seconds), number(burst))
}

fn table() -> LimitTable {
    LimitTable::new([1, 2])
}

fn keys(table: &LimitTable, count: u32) -> Vec<u128> {
    (0..count).map(|n| table.key(&[&n.to_le_bytes()])).collect()
}

#[test]
fn policies_and_keys_have_a_bucket_each() {
    let table = table();
    let rates = [rate(1, 1, 2)];
    let take = |policy, key| table.take(policy, key, &rates, START).allowed;
    assert_eq!([1, 1, 1].map(|policy| take(policy, 7)), [true, true, false]);
    assert!(take(1, 8));
    assert!(take(2, 7));
    assert_eq!(table.take(1, 7, &rates, START + SECOND).remaining, 0);
    assert!(table.take(1, 7, &[], START).allowed, "no rates, no limit");
}

#[test]
fn parts_of_a_key_do_not_run_into_each_other() {
    let table = table();
    assert_ne!(table.key(&[b"ab", b"c"]), table.key(&[b"a", b"bc"]));
    assert_ne!(table.key(&[b"abc"]), LimitTable::new([1, 3]).key(&[b"abc"]));
}

#[test]
fn many_threads_together_get_exactly_what_one_key_may_have() {
    let table = table();
    let rates = [rate(1_000, 1, 5_000), rate(7_000, 3_600, 7_000)];
    let quota = QuotaSpec { limit: NonZeroU32::new(333).unwrap(), window: Window::Day };
    let (taken, counted) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    let allowed = table.take(3, 42, &rates, START).allowed;
                    taken.fetch_add(u32::from(allowed), Ordering::Relaxed);
                    let allowed = table.count(4, 42, &quota, 1_700_000_000).allowed;
                    counted.fetch_add(u32::from(allowed), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!((taken.into_inner(), counted.into_inner()), (5_000, 333));
}

#[test]
fn workers_whose_clocks_differ_get_no_more_than_one_clock_would_give() {
    let table = table();
    let rates = [rate(1_000, 1, 10)];
    let mut allowed = 0;
    for step in 0..10_000_u64 {
        // Two milliseconds apart, so that the younger clock finds the bucket in the future.
        let now = START + step * 10_000 - step % 2 * 2_000_000;
        allowed += u64::from(table.take(1, 7, &rates, now).allowed);
    }
    assert_eq!(allowed, 10 + 99, "the burst, and a token for each of 99.98 ms");
}

#[test]
fn an_entry_is_forgotten_only_when_its_bucket_is_full_again() {
    let table = table();
    let rates = [rate(10, 1, 10), rate(1, 10, 5)];
    let all = keys(&table, 6_000);
    let (old, new) = all.split_at(2_000);
    for key in old {
        assert!(table.take(1, *key, &rates, START).allowed);
    }
    // Twice as many calls as entries, each of which looks at two: every entry is looked at.
    let almost = START + 10 * SECOND - 1;
    for key in new {
        assert!(table.take(1, *key, &rates, almost).allowed);
    }
    assert_eq!(table.usage(1).entries, 6_000, "the slow rate lacks a nanosecond");
    let (probe, later) = (&all[..500], START + 30 * SECOND);
    for _ in 0..200 {
        for key in probe {
            let _ = table.take(1, *key, &rates, later);
        }
    }
    let usage = table.usage(1);
    assert_eq!(usage.entries, probe.len(), "{usage:?}");
    assert!(usage.bytes < 200_000, "memory is given back: {usage:?}");
}

#[test]
fn a_full_table_forgets_no_used_bucket_and_new_keys_share_one() {
    let table = table();
    table.set_entries(1, 1_000);
    let rates = [rate(1, 60, 2)];
    let known = keys(&table, 1_000);
    for key in known.iter().chain(&known) {
        assert!(table.take(1, *key, &rates, START).allowed);
    }
    let flood = (0..100_000_u32).map(|n| table.key(&[b"flood", &n.to_le_bytes()]));
    let passed = flood.filter(|key| table.take(1, *key, &rates, START + SECOND).allowed).count();
    // Two for each shard's overflow, whatever the number of keys.
    assert_eq!(passed, 2 * SHARDS);
    let usage = table.usage(1);
    assert_eq!((usage.entries, usage.entries_max, usage.overflowed), (1_000, 1_000, 100_000));
    let escaped = known.iter().filter(|key| table.take(1, **key, &rates, START + SECOND).allowed);
    assert_eq!(escaped.count(), 0);
    // Two minutes later they are over and make room.
    let later = START + 121 * SECOND;
    assert!(table.take(1, table.key(&[b"new"]), &rates, later).allowed);
    assert_eq!(table.usage(1).overflowed, 100_000);
}

#[test]
fn a_full_table_forgets_no_quota_within_its_window() {
    let table = table();
    table.set_entries(1, 100);
    let quota = QuotaSpec { limit: NonZeroU32::MIN, window: Window::Hour };
    let (known, now) = (keys(&table, 100), 1_700_000_000);
    let end = Window::Hour.around(now).end;
    assert!(known.iter().all(|key| table.count(1, *key, &quota, now).allowed));
    for n in 0..10_000_u32 {
        let _ = table.count(1, table.key(&[b"flood", &n.to_le_bytes()]), &quota, end - 1);
    }
    assert!(known.iter().all(|key| !table.count(1, *key, &quota, end - 1).allowed));
    assert!(known.iter().all(|key| table.count(1, *key, &quota, end).allowed));
}

#[test]
fn a_policy_may_get_more_rates_and_a_key_keeps_what_it_has_used() {
    let table = table();
    let (one, two) = ([rate(1, 60, 2)], [rate(1, 60, 2), rate(1, 3_600, 3)]);
    let all = keys(&table, 500);
    for key in &all {
        assert!(table.take(1, *key, &one, START).allowed);
    }
    for key in &all {
        assert!(table.take(1, *key, &two, START).allowed);
        assert!(!table.take(1, *key, &two, START).allowed);
        assert!(!table.take(1, *key, &one, START).allowed);
    }
}

#[test]
fn a_forgotten_policy_leaves_nothing() {
    let table = table();
    table.set_entries(1, 10);
    for key in keys(&table, 100) {
        let _ = table.take(1, key, &[rate(1, 60, 1)], START);
        let _ = table.take(2, key, &[rate(1, 60, 1)], START);
    }
    table.forget(1);
    let usage = table.usage(1);
    assert_eq!((usage.entries, usage.entries_max, usage.bytes), (0, POLICY_ENTRIES, 0));
    assert_eq!(table.usage(2).entries, 100);
}

#[test]
fn a_million_keys_fit_into_what_an_entry_is_said_to_take() {
    let table = table();
    let number = POLICY_ENTRIES as u32;
    let rates = [rate(1, 3_600, 10)];
    for n in 0..number {
        let _ = table.take(1, table.key(&[&n.to_le_bytes()]), &rates, START);
    }
    let usage = table.usage(1);
    println!("{usage:?}: {} bytes an entry", usage.bytes / usage.entries);
    assert_eq!((usage.entries, usage.overflowed), (POLICY_ENTRIES, 0));
    assert!(usage.bytes <= POLICY_ENTRIES * ENTRY_BYTES_MAX, "{usage:?}");
    // One more has no room, and costs none.
    let _ = table.take(1, table.key(&[b"one more"]), &rates, START);
    assert_eq!(table.usage(1), Usage { overflowed: 1, ..usage });
}

#[test]
fn each_further_rate_adds_one_bucket_to_an_entry() {
    let table = table();
    let three = [rate(1, 60, 9), rate(1, 3_600, 9), rate(1, 86_400, 9)];
    for key in keys(&table, 100_000) {
        let _ = table.take(1, key, &three, START);
    }
    let usage = table.usage(1);
    let most = usage.entries * (ENTRY_BYTES_MAX + 2 * RATE_BYTES_MAX);
    assert!(usage.bytes <= most, "{usage:?}");
}
