//! A server's health as the active checks see it.
//!
//! ```text
//!  Unchecked ── the first result decides ──▶ Up or Down
//!
//!            `fall` failures in a row
//!      Up ───────────────────────────▶ Down
//!      ▲                                 │
//!      └─────────────────────────────────┘
//!            `rise` passes in a row
//! ```

use std::num::NonZeroU8;

use crate::config::plan::{Check, Init};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Gets no traffic, and one pass is enough: nothing is known against it.
    Unchecked,
    /// Gets traffic. Failures in a row so far; always `< fall`.
    Up { failures: u8 },
    /// Gets no traffic. Passes in a row so far; always `< rise`.
    Down { passes: u8 },
}

/// What one check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
}

/// How many results in a row turn a server over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub fall: NonZeroU8,
    pub rise: NonZeroU8,
}

/// What a result has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The first result was a pass. It was never down, so it does not warm up.
    FirstUp,
    /// The first result was a failure.
    FirstDown,
    /// Begins `slow_start`.
    CameUp,
    WentDown,
}

impl From<&Check> for Limits {
    fn from(check: &Check) -> Self {
        Self { fall: check.fall, rise: check.rise }
    }
}

impl Health {
    /// Before the first result. A server that is not checked at all is always up.
    #[must_use]
    pub const fn new(init: Init) -> Self {
        match init {
            Init::Wait => Self::Unchecked,
            Init::Up => Self::Up { failures: 0 },
            Init::Down => Self::Down { passes: 0 },
        }
    }

    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// The health after one more result, and what that changed.
    #[must_use]
    pub fn observe(self, outcome: Outcome, limits: Limits) -> (Self, Option<Change>) {
        const UP: Health = Health::Up { failures: 0 };
        const DOWN: Health = Health::Down { passes: 0 };
        match (self, outcome) {
            (Self::Unchecked, Outcome::Pass) => (UP, Some(Change::FirstUp)),
            (Self::Unchecked, Outcome::Fail) => (DOWN, Some(Change::FirstDown)),
            (Self::Up { .. }, Outcome::Pass) => (UP, None),
            // Saturating, because a count that was below a larger limit may meet a smaller one.
            (Self::Up { failures }, Outcome::Fail)
                if failures.saturating_add(1) < limits.fall.get() =>
            {
                (Self::Up { failures: failures + 1 }, None)
            }
            (Self::Up { .. }, Outcome::Fail) => (DOWN, Some(Change::WentDown)),
            (Self::Down { .. }, Outcome::Fail) => (DOWN, None),
            (Self::Down { passes }, Outcome::Pass)
                if passes.saturating_add(1) < limits.rise.get() =>
            {
                (Self::Down { passes: passes + 1 }, None)
            }
            (Self::Down { .. }, Outcome::Pass) => (UP, Some(Change::CameUp)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `results` (`P` and `F`) and wants `states` (`U` and `D`) after each, for fall 3 and
    /// rise 2. Spaces only help the eye.
    fn check(init: Init, results: &str, states: &str) {
        assert_eq!(run(init, results, 3, 2).0, states.replace(' ', ""), "after {results}");
    }

    fn run(init: Init, results: &str, fall: u8, rise: u8) -> (String, Vec<Change>) {
        let limits =
            Limits { fall: NonZeroU8::new(fall).unwrap(), rise: NonZeroU8::new(rise).unwrap() };
        let mut health = Health::new(init);
        let (mut states, mut changes) = (String::new(), Vec::new());
        for result in results.replace(' ', "").chars() {
            let outcome = if result == 'P' { Outcome::Pass } else { Outcome::Fail };
            let (next, change) = health.observe(outcome, limits);
            let turned = next.is_up() != health.is_up() || health == Health::Unchecked;
            assert_eq!(change.is_some(), turned, "a change is told when there is one");
            health = next;
            states.push(if health.is_up() { 'U' } else { 'D' });
            changes.extend(change);
        }
        (states, changes)
    }

    #[test]
    fn goes_down_only_after_fall_failures_in_a_row() {
        check(Init::Up, "FFPFFF", "UUUUUD");
    }

    #[test]
    fn one_failure_while_recovering_starts_the_count_again() {
        check(Init::Up, "FFF PFPP", "UUD DDDU");
    }

    #[test]
    fn the_first_result_decides_at_once() {
        check(Init::Wait, "P", "U");
        check(Init::Wait, "F PP", "D DU");
    }

    #[test]
    fn after_the_first_pass_it_takes_fall_failures_as_ever() {
        check(Init::Wait, "P FFF", "U UUD");
    }

    #[test]
    fn init_down_needs_rise_passes() {
        check(Init::Down, "PFPP", "DDDU");
    }

    #[test]
    fn a_server_that_was_never_down_has_not_come_back() {
        use Change::{CameUp, FirstDown, FirstUp, WentDown};
        assert_eq!(run(Init::Wait, "P FFF PP", 3, 2).1, [FirstUp, WentDown, CameUp]);
        assert_eq!(run(Init::Wait, "F PP", 3, 2).1, [FirstDown, CameUp]);
        assert_eq!(run(Init::Up, "PPFP", 3, 2).1, []);
    }

    #[test]
    fn limits_of_one_and_of_255_do_what_they_say() {
        assert_eq!(run(Init::Up, "FPFP", 1, 1).0, "DUDU");
        let (states, _) = run(Init::Up, &"F".repeat(255), 255, 1);
        assert_eq!(states.find('D'), Some(254));
    }
}
