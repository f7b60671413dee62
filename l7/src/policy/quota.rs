//! Quotas: so many in a calendar hour, day or month, in UTC.
//!
//! Unlike a rate, a quota begins anew at a moment everybody knows, and may be used up in the
//! first second of it.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::rate::Decision;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Clocks that differ by less than this disagree about which window it is only at its edge;
/// there the later window counts, so that nobody begins one twice.
const SKEW_SECONDS_MAX: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
    Month,
}

impl Window {
    /// The window that `now` is in, in unix seconds.
    #[must_use]
    pub const fn around(self, now: u64) -> Range<u64> {
        match self {
            Self::Hour => now / HOUR * HOUR..(now / HOUR).saturating_add(1).saturating_mul(HOUR),
            Self::Day => now / DAY * DAY..(now / DAY).saturating_add(1).saturating_mul(DAY),
            Self::Month => month_around(now),
        }
    }
}

/// Months by the proleptic Gregorian calendar, counted from March so that a leap day comes last.
const fn month_around(now: u64) -> Range<u64> {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const BEFORE_1970: u64 = 719_468;
    let day = now / DAY + BEFORE_1970;
    let (era, of_era) = (day / DAYS_IN_400_YEARS, day % DAYS_IN_400_YEARS);
    // The three kinds of days that a year of 365 does not have, and that one it does.
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let leap = (year + 1) % 4 == 0 && ((year + 1) % 100 != 0 || (year + 1) % 400 == 0);
    let of_year = of_era - (year * 365 + year / 4 - year / 100);
    // March to January have 153 days in five months, and February what is left.
    let month = (5 * of_year + 2) / 153;
    let first = (153 * month + 2) / 5;
    let length = match month {
        11 => 28 + leap as u64,
        _ => (153 * (month + 1) + 2) / 5 - first,
    };
    let start = era * DAYS_IN_400_YEARS + of_era - (of_year - first) - BEFORE_1970;
    start * DAY..(start + length).saturating_mul(DAY)
}

/// `limit` in a `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaSpec {
    pub limit: NonZeroU32,
    pub window: Window,
}

/// How much of a quota somebody has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The end of the window that is counted in, in unix seconds.
    pub ends: u64,
    pub used: u32,
}

impl Count {
    /// Whether it is as good as no count, whichever of the workers' clocks is asked.
    #[must_use]
    pub const fn is_over(self, now: u64) -> bool {
        self.ends.saturating_add(SKEW_SECONDS_MAX) <= now
    }

    /// Takes one, if there is one. `now` is in unix seconds.
    pub fn take(&mut self, quota: QuotaSpec, now: u64) -> Decision {
        let ends = self.current(quota.window, now);
        if self.ends != ends {
            *self = Self { ends, used: 0 };
        }
        let allowed = self.used < quota.limit.get();
        self.used = self.used.saturating_add(u32::from(allowed));
        self.standing(quota, allowed, now)
    }

    /// What there is to say after a decision.
    #[must_use]
    pub fn standing(self, quota: QuotaSpec, allowed: bool, now: u64) -> Decision {
        let reset_after = Duration::from_secs(self.ends.saturating_sub(now));
        Decision {
            allowed,
            limit: 0,
            remaining: quota.limit.get().saturating_sub(self.used),
            reset_after,
            retry_after: if allowed { Duration::ZERO } else { reset_after },
        }
    }

    /// The end of the window to count in.
    fn current(self, window: Window, now: u64) -> u64 {
        let ends = window.around(now).end;
        let near_the_edge = ends - now <= SKEW_SECONDS_MAX;
        if near_the_edge && self.ends == window.around(ends).end { self.ends } else { ends }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(limit: u32, window: Window) -> QuotaSpec {
        QuotaSpec { limit: NonZeroU32::new(limit).unwrap(), window }
    }

    /// 2024-02-29T23:59:30Z, in a leap year.
    const LEAP_EVENING: u64 = 1_709_251_170;
    /// 2024-03-01T00:00:00Z.
    const MARCH: u64 = 1_709_251_200;

    #[test]
    fn windows_are_calendar_hours_days_and_months() {
        assert_eq!(Window::Hour.around(LEAP_EVENING), MARCH - HOUR..MARCH);
        assert_eq!(Window::Day.around(LEAP_EVENING), MARCH - DAY..MARCH);
        assert_eq!(Window::Month.around(LEAP_EVENING), MARCH - 29 * DAY..MARCH);
        assert_eq!(Window::Month.around(MARCH), MARCH..MARCH + 31 * DAY);
        assert_eq!(Window::Month.around(0), 0..31 * DAY);
    }

    #[test]
    fn months_have_their_lengths_in_common_and_leap_years_and_at_the_centuries() {
        // First seconds of 1970, 2000 (leap), 2023, 2024 (leap), 2100 (not leap).
        let years = [0, 946_684_800, 1_672_531_200, 1_704_067_200, 4_102_444_800];
        for (mut start, february) in years.into_iter().zip([28, 29, 28, 29, 28]) {
            for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                let month = start..start + days * DAY;
                for now in [month.start, month.start + 14 * DAY + 7, month.end - 1] {
                    assert_eq!(Window::Month.around(now), month, "at {now}");
                }
                start = month.end;
            }
        }
    }

    #[test]
    fn a_quota_is_used_up_and_comes_back_at_the_end_of_its_window() {
        let (spec, mut count) = (quota(2, Window::Day), Count::default());
        let mut at = |now| {
            let got = count.take(spec, now);
            (got.allowed, got.remaining, got.retry_after.as_secs())
        };
        let noon = MARCH + DAY / 2;
        assert_eq!(
            [at(noon), at(noon), at(noon)],
            [(true, 1, 0), (true, 0, 0), (false, 0, 43_200)]
        );
        assert_eq!(at(MARCH + DAY - 1), (false, 0, 1));
        assert_eq!(at(MARCH + DAY), (true, 1, 0));
    }

    #[test]
    fn clocks_that_disagree_at_midnight_do_not_begin_a_day_twice() {
        let (spec, mut count) = (quota(1, Window::Day), Count::default());
        assert!(count.take(spec, MARCH).allowed);
        assert!(!count.take(spec, MARCH - 1).allowed, "the other worker is a second late");
        assert!(!count.take(spec, MARCH).allowed);
    }

    #[test]
    fn a_clock_that_was_far_ahead_locks_nobody_out() {
        let (spec, mut count) = (quota(1, Window::Day), Count::default());
        assert!(count.take(spec, MARCH + 400 * DAY).allowed);
        assert!(count.take(spec, MARCH + DAY / 2).allowed);
        assert!(!count.take(spec, MARCH + DAY / 2).allowed);
    }

    proptest! {
        #[test]
        fn every_window_holds_its_moment_and_the_next_begins_where_it_ends(
            now in prop_oneof![0..20_000_000_000_u64, 0..u64::MAX / 2],
        ) {
            for window in [Window::Hour, Window::Day, Window::Month] {
                let range = window.around(now);
                prop_assert!(range.contains(&now));
                prop_assert_eq!(window.around(range.end).start, range.end);
                prop_assert_eq!(window.around(range.end - 1), range);
            }
        }

        #[test]
        fn extreme_times_do_not_panic(now in any::<u64>(), ends in any::<u64>()) {
            for window in [Window::Hour, Window::Day, Window::Month] {
                let _ = Count { ends, used: 3 }.take(quota(5, window), now);
            }
        }
    }
}
