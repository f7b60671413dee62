//! Wall-clock moments in words: RFC 3339, UTC, milliseconds.
//!
//! The data path reckons in monotonic [`Time`]; people and log files want a date. A
//! [`WallClock`] is the offset between the two at one moment. It is taken anew for each
//! batch of lines, because the wall clock may be stepped while the process runs.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::runtime::sys;
use crate::runtime::time::Time;

/// Now, on the clock that workers and control share.
#[must_use]
pub fn now() -> Time {
    Time(sys::monotonic_ns())
}

/// Where the wall clock stands against the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// Milliseconds to add to a monotonic moment to get Unix time.
    offset_ms: i64,
}

impl WallClock {
    /// Compares both clocks now.
    #[must_use]
    pub fn read() -> Self {
        Self { offset_ms: unix_ms(SystemTime::now()) - now().millis() as i64 }
    }

    /// Nanoseconds to add to a monotonic moment to get Unix time.
    #[must_use]
    pub const fn offset_ns(self) -> i64 {
        self.offset_ms.saturating_mul(1_000_000)
    }

    /// Appends `2026-11-24T15:04:05.123Z`.
    pub fn write(self, moment: Time, out: &mut String) {
        write_ms(self.offset_ms + moment.millis() as i64, out);
    }

    /// Appends `24/Nov/2026:15:04:05 +0000`, as web servers do.
    pub fn write_apache(self, moment: Time, out: &mut String) {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let unix = (self.offset_ms + moment.millis() as i64).max(0) / 1_000;
        let (year, month, day) = civil(unix / 86_400);
        let month = MONTHS[month as usize - 1];
        let (hour, minute, second) = (unix / 3_600 % 24, unix / 60 % 60, unix % 60);
        // Writing to a String cannot fail.
        let _ = write!(out, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
    }
}

/// A wall-clock moment as `2026-11-24T15:04:05.123Z`.
#[must_use]
pub fn rfc3339(moment: SystemTime) -> String {
    let mut out = String::with_capacity(24);
    write_ms(unix_ms(moment), &mut out);
    out
}

fn unix_ms(moment: SystemTime) -> i64 {
    let span = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn write_ms(unix_ms: i64, out: &mut String) {
    let unix_ms = unix_ms.max(0);
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, milli) = (ms / 1_000 % 60, ms % 1_000);
    // Writing to a String cannot fail.
    let _ =
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z");
}

/// The Gregorian date of a day counted from 1970-01-01, not before it. Years are reckoned
/// from March, so that the leap day is the last of its year; an era is 400 years, which is
/// always 146,097 days.
const fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_read_as_the_calendar_has_them() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(unix)), text);
        }
    }

    #[test]
    fn a_monotonic_moment_gets_the_date_it_was_taken_at() {
        let clock = WallClock { offset_ms: 1_000 };
        let mut out = String::new();
        clock.write(Time(250_000_000), &mut out);
        assert_eq!(out, "1970-01-01T00:00:01.250Z");
    }
}
