//! When exchanges start: at once (closed loop) or by a schedule (open loop).
//!
//! In an open loop the k-th start is due at `first + k × interval`, whatever the target does.
//! A start that finds every connection busy waits here, and its latency counts from when it
//! was due: a target that stalls is charged for everybody who would have come meanwhile
//! (no coordinated omission).
//!
//! The starts that wait are a number, not a list, so they take no memory; their bound is time:
//! one that waited for [`Schedule::patience`] is given up and counted as a timeout.
//!
//! Pure: no clock, no thread.

use std::time::Duration;

use crate::runtime::time::Time;

/// How one worker of the generator is paced.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// The next exchange starts when a connection is free.
    Closed {
        end: Time,
    },
    Open(Schedule),
}

/// Starts at even distances.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    first: Time,
    /// Nanoseconds between two starts. A double counts them exactly for a hundred days.
    interval_ns: f64,
    /// Starts taken or given up.
    next: u64,
    end: Time,
    patience: Duration,
}

impl Pace {
    /// The intended time of an exchange that may start now; `None` when none is due or the
    /// run is over.
    pub fn take(&mut self, now: Time) -> Option<Time> {
        match self {
            Self::Closed { end } => (now < *end).then_some(now),
            Self::Open(schedule) => schedule.take(now),
        }
    }

    /// When to look again, given that connections are free.
    #[must_use]
    pub fn next_due(&self) -> Time {
        match self {
            Self::Closed { .. } => Time::NEVER,
            Self::Open(schedule) => schedule.due(),
        }
    }

    /// Gives up starts that waited too long; returns how many.
    pub fn give_up(&mut self, now: Time) -> u64 {
        match self {
            Self::Closed { .. } => 0,
            Self::Open(schedule) => schedule.give_up(now),
        }
    }

    /// Starts that were due by `now`, or by the end of the run, and never happened.
    #[must_use]
    pub fn never_started(&self, now: Time) -> u64 {
        match self {
            Self::Closed { .. } => 0,
            Self::Open(schedule) => {
                schedule.before(now.min(schedule.end)).saturating_sub(schedule.next)
            }
        }
    }
}

impl Schedule {
    /// `rate` starts a second from `first` until before `end`. Worker `index` of `workers`
    /// takes every `workers`-th start of the common schedule.
    #[must_use]
    pub fn new(rate: f64, (index, workers): (u32, u32), first: Time, end: Time) -> Self {
        let common_ns = 1e9 / rate;
        Self {
            first: first + Duration::from_nanos((common_ns * f64::from(index)) as u64),
            interval_ns: common_ns * f64::from(workers),
            next: 0,
            end,
            patience: Duration::MAX,
        }
    }

    /// The longest a start waits for a free connection.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn at(&self, k: u64) -> Time {
        self.first + Duration::from_nanos((k as f64 * self.interval_ns) as u64)
    }

    /// [`Time::NEVER`] after the last one.
    fn due(&self) -> Time {
        let due = self.at(self.next);
        if due < self.end { due } else { Time::NEVER }
    }

    fn take(&mut self, now: Time) -> Option<Time> {
        let due = self.due();
        if due > now {
            return None;
        }
        self.next += 1;
        Some(due)
    }

    /// How many starts are due strictly before `moment`.
    fn before(&self, moment: Time) -> u64 {
        if moment <= self.first {
            return 0;
        }
        let guess = (moment.since(self.first).as_nanos() as f64 / self.interval_ns) as u64;
        // Rounding may be one off to either side.
        (guess.saturating_sub(1)..=guess + 2).find(|&k| self.at(k) >= moment).unwrap_or(guess)
    }

    fn give_up(&mut self, now: Time) -> u64 {
        let patience_ns = u64::try_from(self.patience.as_nanos()).unwrap_or(u64::MAX);
        let oldest = Time(now.0.saturating_sub(patience_ns).min(self.end.0));
        let lost = self.before(oldest).saturating_sub(self.next);
        self.next += lost;
        lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn open(rate: f64, end_s: u64) -> Pace {
        Pace::Open(Schedule::new(rate, (0, 1), Time(SECOND), Time(SECOND * (1 + end_s))))
    }

    fn drain(pace: &mut Pace, now: Time) -> Vec<Time> {
        std::iter::from_fn(|| pace.take(now)).collect()
    }

    #[test]
    fn nothing_starts_before_it_is_due() {
        let mut pace = open(1000.0, 1);
        assert_eq!(pace.take(Time(SECOND - 1)), None);
        assert_eq!(pace.next_due(), Time(SECOND));
        assert_eq!(pace.take(Time(SECOND)), Some(Time(SECOND)));
        assert_eq!(pace.take(Time(SECOND)), None);
        assert_eq!(pace.next_due(), Time(SECOND + 1_000_000));
    }

    #[test]
    fn starts_missed_during_a_stall_keep_the_times_they_were_intended_for() {
        let mut pace = open(1000.0, 10);
        let late = drain(&mut pace, Time(SECOND * 2));
        assert_eq!(late.len(), 1001);
        assert_eq!((late[1], late[1000]), (Time(SECOND + 1_000_000), Time(SECOND * 2)));
    }

    #[test]
    fn a_start_that_waited_past_patience_is_given_up_once() {
        let schedule = Schedule::new(10.0, (0, 1), Time(0), Time(SECOND * 10));
        let mut pace = Pace::Open(schedule.patience(Duration::from_secs(1)));
        assert_eq!(pace.give_up(Time(SECOND)), 0);
        // Due at 0, 0.1, … 0.9: all older than a second at the second second.
        assert_eq!(pace.give_up(Time(SECOND * 2)), 10);
        assert_eq!(pace.give_up(Time(SECOND * 2)), 0);
        assert_eq!(pace.take(Time(SECOND * 2)), Some(Time(SECOND)));
    }

    #[test]
    fn what_never_started_is_counted_at_the_end() {
        let mut pace = open(100.0, 2);
        assert_eq!(drain(&mut pace, Time(SECOND * 2 - 1)).len(), 100);
        assert_eq!(pace.never_started(Time(SECOND * 2)), 0);
        assert_eq!(pace.never_started(Time(SECOND * 9)), 100);
        drain(&mut pace, Time(SECOND * 9));
        assert_eq!((pace.never_started(Time::NEVER), pace.next_due()), (0, Time::NEVER));
    }

    #[test]
    fn a_closed_loop_starts_at_once_until_the_end() {
        let mut pace = Pace::Closed { end: Time(10) };
        assert_eq!((pace.take(Time(9)), pace.take(Time(10))), (Some(Time(9)), None));
        assert_eq!((pace.never_started(Time(10)), pace.next_due()), (0, Time::NEVER));
    }

    proptest! {
        #[test]
        fn workers_together_make_the_whole_rate(rate in 1.0_f64..100_000.0, workers in 1_u32..8) {
            let end = Time(SECOND * 2);
            let total: u64 = (0..workers)
                .map(|index| Schedule::new(rate, (index, workers), Time(0), end).before(end))
                .sum();
            let wanted = rate * 2.0;
            prop_assert!((total as f64 - wanted).abs() <= f64::from(workers) + 1.0, "{total} of {wanted}");
        }

        #[test]
        fn before_counts_what_take_takes(rate in 0.5_f64..50_000.0, moment in 0_u64..SECOND) {
            let mut schedule = Schedule::new(rate, (0, 1), Time(0), Time(SECOND * 5));
            let counted = schedule.before(Time(moment + 1));
            let mut taken = 0;
            while schedule.take(Time(moment)).is_some() {
                taken += 1;
            }
            prop_assert_eq!(counted, taken);
        }
    }
}
