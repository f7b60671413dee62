//! The timer wheel beside 10,000 armed timers: `cargo bench --bench timer`.

use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use sluicegate::balance::Rng;
use sluicegate::runtime::time::Time;
use sluicegate::runtime::timer::Wheel;

const TIMERS: u32 = 10_000;
const START: Time = Time(1_000_000_000_000);

fn main() {
    divan::main();
}

/// All armed for some moment of the next ten minutes, the default `idle_timeout`.
fn wheel(rng: &mut Rng) -> Wheel {
    let mut wheel = Wheel::new(START);
    wheel.ensure(TIMERS - 1);
    for id in 0..TIMERS {
        wheel.arm(id, START + Duration::from_millis(rng.below(600_000)));
    }
    wheel
}

/// Moving a timer, as a session does when bytes have moved.
#[divan::bench(args = [3_000, 600_000])]
fn arm_again(bencher: Bencher<'_, '_>, within_ms: u64) {
    let mut rng = Rng::new(1);
    let mut wheel = wheel(&mut rng);
    bencher.bench_local(|| {
        let id = rng.below(TIMERS.into()) as u32;
        wheel.arm(id, START + Duration::from_millis(rng.below(within_ms)));
    });
}

/// A connect that succeeds: armed, then disarmed.
#[divan::bench]
fn arm_and_disarm(bencher: Bencher<'_, '_>) {
    let mut rng = Rng::new(1);
    let mut wheel = wheel(&mut rng);
    wheel.ensure(TIMERS);
    bencher.bench_local(|| {
        wheel.arm(TIMERS, black_box(START) + Duration::from_secs(3));
        wheel.disarm(TIMERS);
    });
}

/// What each turn asks before it sleeps.
#[divan::bench]
fn next_deadline(bencher: Bencher<'_, '_>) {
    let wheel = wheel(&mut Rng::new(1));
    bencher.bench_local(|| black_box(&wheel).next_deadline());
}

/// A turn in which nothing is due.
#[divan::bench]
fn expire_nothing(bencher: Bencher<'_, '_>) {
    let mut wheel = Wheel::new(START);
    wheel.ensure(0);
    wheel.arm(0, START + Duration::from_secs(600));
    let mut expired = Vec::new();
    bencher.bench_local(|| wheel.expire(black_box(START), &mut expired));
}

/// Ten minutes in steps of 10 ms, until the last of the timers has fired.
#[divan::bench]
fn expire_all(bencher: Bencher<'_, '_>) {
    let mut expired = Vec::with_capacity(TIMERS as usize);
    bencher
        .with_inputs(|| wheel(&mut Rng::new(1)))
        .counter(ItemsCount::new(TIMERS))
        .bench_local_values(|mut wheel| {
            expired.clear();
            for step in 0..=60_000 {
                wheel.expire(START + Duration::from_millis(step * 10), &mut expired);
            }
            assert_eq!(expired.len(), TIMERS as usize);
        });
}
