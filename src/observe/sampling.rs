//! Which of many lines are written: evenly spread, and without chance, so that a share of N is
//! within one of N times the share.

use super::reason::Reason;

/// One worker's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampler {
    /// Percent that are owed a line; always below 100.
    owed: u8,
}

impl Sampler {
    /// Whether a session or request that ended so is written. What did not go well always is.
    pub fn takes(&mut self, percent: u8, reason: Reason, status: u16) -> bool {
        debug_assert!((1..=100).contains(&percent));
        if reason != Reason::Ok || status >= 500 {
            return true;
        }
        self.owed += percent.min(100);
        let takes = self.owed >= 100;
        if takes {
            self.owed -= 100;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(percent: u8, count: u32) -> u32 {
        let mut sampler = Sampler::default();
        (0..count).map(|_| u32::from(sampler.takes(percent, Reason::Ok, 200))).sum()
    }

    #[test]
    fn of_any_number_the_share_is_taken_to_within_one() {
        for percent in 1..=100 {
            for count in [1, 7, 99, 100, 1_234] {
                let wanted = f64::from(count) * f64::from(percent) / 100.0;
                let off = (f64::from(taken(percent, count)) - wanted).abs();
                assert!(off < 1.0, "{percent}% of {count}: {}", taken(percent, count));
            }
        }
    }

    #[test]
    fn what_did_not_go_well_is_always_taken_and_counts_for_nothing() {
        let mut sampler = Sampler::default();
        for _ in 0..9 {
            assert!(!sampler.takes(10, Reason::Ok, 499));
            assert!(sampler.takes(10, Reason::Ok, 500));
            assert!(sampler.takes(10, Reason::ClientReset, 200));
        }
        assert!(sampler.takes(10, Reason::Ok, 200));
    }
}
