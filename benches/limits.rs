//! What a decision about a rate costs a request: `cargo bench --bench limits`.
//!
//! One is made a request and policy, under a lock that all workers share by shards.

use std::num::NonZeroU32;
use std::time::Duration;

use divan::{Bencher, black_box};
use sluicegate::limits::{LimitTable, POLICY_ENTRIES};
use sluicegate_l7::policy::quota::{QuotaSpec, Window};
use sluicegate_l7::policy::rate::{Bucket, Rate, take_all};

const START: u64 = 1_000_000_000_000;

fn main() {
    divan::main();
}

fn rates(number: usize) -> Vec<Rate> {
    let count = NonZeroU32::new(100).expect("not zero");
    let per = |at: u64| Duration::from_secs(60 + at);
    (0..number as u64).map(|at| Rate::new(count, per(at), count)).collect()
}

/// The arithmetic alone.
#[divan::bench(args = [1, 3])]
fn decide(bencher: Bencher<'_, '_>, number: usize) {
    let (rates, mut buckets, mut now) = (rates(number), vec![Bucket::FULL; number], START);
    bencher.bench_local(|| {
        now += 300_000_000;
        take_all(black_box(&rates), &mut buckets, now)
    });
}

/// One key that everybody asks for: on one thread, and on two that meet in its shard.
#[divan::bench(threads = [1, 2], args = [1, 3])]
fn take_hot(bencher: Bencher<'_, '_>, number: usize) {
    let (table, rates) = (LimitTable::new([1, 2]), rates(number));
    let key = table.key(&[b"alice"]);
    bencher.bench(|| table.take(0, black_box(key), &rates, START));
}

/// A million keys in turn, each of them far from the processor's caches.
#[divan::bench(threads = [1, 2])]
fn take_of_a_million(bencher: Bencher<'_, '_>) {
    let (table, rates) = (LimitTable::new([1, 2]), rates(1));
    let keys: Vec<u128> =
        (0..POLICY_ENTRIES as u64).map(|n| table.key(&[&n.to_le_bytes()])).collect();
    for key in &keys {
        let _ = table.take(0, *key, &rates, START);
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher.bench(|| {
        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % keys.len();
        table.take(0, keys[at], &rates, START)
    });
}

/// The key itself: a hash of some bytes.
#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    let table = LimitTable::new([1, 2]);
    bencher.bench_local(|| table.key(black_box(&[b"consumer", b"alice"])));
}

#[divan::bench]
fn count_quota(bencher: Bencher<'_, '_>) {
    let table = LimitTable::new([1, 2]);
    let quota = QuotaSpec { limit: NonZeroU32::MAX, window: Window::Month };
    bencher.bench_local(|| table.count(0, black_box(7), &quota, 1_700_000_000));
}

/// In and out again.
#[divan::bench(threads = [1, 2])]
fn enter(bencher: Bencher<'_, '_>) {
    let table = LimitTable::new([1, 2]);
    bencher.bench(|| drop(table.enter(0, black_box(7), 100)));
}
