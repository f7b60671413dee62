//! The data path on the simulated kernel: seeds, many steps, everything checked at each one.
//!
//! A failure prints its seed; `SLUICEGATE_SIM_SEED=n` reruns that one alone and
//! prints every completion.
//!
//! `course` is the world and what happens in it, `checks` what must be true in it.

mod checks;
mod course;

use std::ops::Range;

use course::Course;

use crate::observe::reason::{REASONS, Reason};
use crate::runtime::sim::Faults;

const STEPS: u32 = 3_000;

/// Says which seed it was when a check panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0}; again with SLUICEGATE_SIM_SEED={0}", self.0);
        }
    }
}

/// Runs all seeds, and asks that sessions ended for each of `reasons`: a simulation in which
/// nothing happens proves nothing.
fn run(seeds: Range<u64>, faults: Faults, reasons: &[Reason]) {
    let (mut ended, mut piped, mut spilled) = ([0; Reason::COUNT], 0, 0);
    let only: Option<u64> =
        std::env::var("SLUICEGATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seeds.filter(|seed| only.is_none_or(|only| only == *seed)) {
        let _shown = Seed(seed);
        let mut course = Course::new(seed, faults);
        course.traced = only.is_some();
        for _ in 0..STEPS {
            course.step();
        }
        course.end();
        course.reasons.iter().zip(&mut ended).for_each(|(n, sum)| *sum += n);
        (piped, spilled) = (piped + course.piped, spilled + course.spilled);
    }
    let shown = REASONS.iter().map(|reason| (reason.as_str(), ended[*reason as usize]));
    let shown: Vec<_> = shown.filter(|(_, n)| *n > 0).collect();
    println!("{shown:?}; steps with a filled pipe {piped}, with overflow {spilled}");
    if only.is_none() {
        let missing: Vec<_> = reasons.iter().filter(|r| ended[**r as usize] == 0).collect();
        assert!(missing.is_empty() && piped > 0 && spilled > 0, "never seen: {missing:?}");
    }
}

/// Ends that no fault of our own machine is needed for.
const USUAL: [Reason; 8] = [
    Reason::Ok,
    Reason::ClientReset,
    Reason::ServerReset,
    Reason::ConnectRefused,
    Reason::ConnectTimeout,
    Reason::ConnectUnreachable,
    Reason::NoServer,
    Reason::ListenerLimit,
];

#[test]
fn far_ends_of_every_kind_get_every_byte_and_the_right_end() {
    run(0..64, Faults::NONE, &USUAL);
}

#[test]
fn short_counts_empty_rings_and_late_cancels_lose_nothing() {
    run(64..160, Faults::ROUGH, &USUAL);
}

#[test]
fn errors_of_every_kind_end_their_own_session_and_leave_nothing_over() {
    run(160..256, Faults::HOSTILE, &USUAL);
}
