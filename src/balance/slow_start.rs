//! The weight of a server that has just come back.

use std::time::Duration;

use crate::runtime::time::Time;

/// What one unit of configured weight counts in [`super::Candidate::weight`], so that a weight
/// of 1 can grow in steps.
pub const WEIGHT_SCALE: u32 = 100;

/// The scaled weight at `now`: a tenth of the full one at `warm_from`, all of it `slow_start`
/// later, linear between. `warm_from` is [`Time::ZERO`] for a server that is not warming up.
#[must_use]
pub fn warm_weight(weight: u16, warm_from: Time, slow_start: Option<Duration>, now: Time) -> u32 {
    let full = u32::from(weight) * WEIGHT_SCALE;
    let Some(span) = slow_start else { return full };
    let up_for = now.since(warm_from);
    if warm_from == Time::ZERO || up_for >= span {
        return full;
    }
    let cold = full / 10;
    let grown = u128::from(full - cold) * up_for.as_nanos() / span.as_nanos();
    cold + grown as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Option<Duration> = Some(Duration::from_secs(30));
    const START: Time = Time(5_000_000_000);

    #[test]
    fn grows_from_a_tenth_to_all_of_it() {
        let at = |seconds| warm_weight(2, START, SPAN, START + Duration::from_secs(seconds));
        assert_eq!([at(0), at(10), at(15), at(30), at(31)], [20, 80, 110, 200, 200]);
    }

    #[test]
    fn is_full_without_slow_start_and_when_not_warming() {
        assert_eq!(warm_weight(3, START, None, START), 300);
        assert_eq!(warm_weight(3, Time::ZERO, SPAN, Time(1)), 300);
    }

    #[test]
    fn the_smallest_weight_is_never_zero_and_the_largest_does_not_overflow() {
        assert_eq!(warm_weight(1, START, SPAN, START), 10);
        let year = Some(Duration::from_secs(365 * 86_400));
        let nearly = START + Duration::from_secs(365 * 86_400 - 1);
        assert_eq!(warm_weight(1_000, START, year, nearly), 99_999);
    }
}
