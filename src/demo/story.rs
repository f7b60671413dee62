//! What happens to the servers, and when: one is killed at a third of each cycle and comes
//! back at two thirds, another one each time.
//!
//! Pure: elapsed time in, acts out.

use std::time::Duration;

/// A cycle of a demo that goes on for ever.
pub const CYCLE: Duration = Duration::from_secs(30);

/// The longest cycle of a demo that ends: a longer one has several.
const CYCLE_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Kill(usize),
    Revive(usize),
}

/// Where the story stands.
#[derive(Debug)]
pub struct Story {
    cycle: Duration,
    servers: usize,
    /// Acts that have been given out; even ones kill.
    done: u32,
}

impl Story {
    /// A story for a demo of this length, or one without an end.
    #[must_use]
    pub fn new(length: Option<Duration>, servers: usize) -> Self {
        let cycle = length.map_or(CYCLE, |length| {
            let cycles = length.as_nanos().div_ceil(CYCLE_MAX.as_nanos()).max(1);
            length / u32::try_from(cycles).unwrap_or(u32::MAX)
        });
        Self { cycle, servers, done: 0 }
    }

    /// The next act, if its time has come.
    pub fn due(&mut self, elapsed: Duration) -> Option<Act> {
        let (cycle, half) = (self.done / 2, self.done % 2);
        if elapsed < self.cycle * cycle + self.cycle * (half + 1) / 3 {
            return None;
        }
        self.done += 1;
        // The first to die is the one in the middle, where the eye is.
        let server = (cycle as usize + 1) % self.servers;
        Some(if half == 0 { Act::Kill(server) } else { Act::Revive(server) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(length: Option<u64>, until: u64) -> Vec<(u64, Act)> {
        let mut story = Story::new(length.map(Duration::from_secs), 3);
        let mut acts = Vec::new();
        for ms in (0..until * 1000).step_by(100) {
            while let Some(act) = story.due(Duration::from_millis(ms)) {
                acts.push((ms, act));
            }
        }
        acts
    }

    #[test]
    fn one_dies_at_a_third_and_is_back_at_two_thirds() {
        assert_eq!(acts(Some(3), 3), [(1000, Act::Kill(1)), (2000, Act::Revive(1))]);
    }

    #[test]
    fn another_one_dies_each_time() {
        let expected = [
            (10_000, Act::Kill(1)),
            (20_000, Act::Revive(1)),
            (40_000, Act::Kill(2)),
            (50_000, Act::Revive(2)),
            (70_000, Act::Kill(0)),
            (80_000, Act::Revive(0)),
        ];
        assert_eq!(acts(None, 90), expected);
    }

    #[test]
    fn a_long_demo_that_ends_has_whole_cycles() {
        let acts = acts(Some(120), 120);
        assert_eq!((acts.len(), acts[0].0, acts[3].0), (4, 20_000, 100_000));
    }
}
