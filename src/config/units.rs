//! Durations, sizes, rates and shares as people write them: text with a unit.
//!
//! One whole number and one unit, nothing between them: `"250ms"`, `"16KiB"`, `"100/min"`,
//! `"20/s burst 40"`, `"50%"`. Zero, a sign, a fraction and a missing unit are errors that say
//! what to write instead; no input overflows. Whether a setting may be `"off"` is the key's
//! business, not decided here. The command line reads its options with the same functions.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use sluicegate_l7::policy::quota::{QuotaSpec, Window};

use super::plan::Rate;

/// The longest duration accepted, so that sums of a few of them fit any clock.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * DAY_S);
/// The largest size accepted: 1 TiB, above any buffer or body this program could mean.
pub const SIZE_MAX: u64 = 1 << 40;
/// The highest rate and burst accepted: above what one machine can count.
pub const RATE_MAX: u32 = 1_000_000_000;

const DAY_S: u64 = 86_400;

/// Duration units in microseconds, smallest first; the last that divides is the one shown.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", DAY_S * 1_000_000),
];
const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// Rate units in seconds.
const RATE_UNITS: &[(&str, u64)] = &[("s", 1), ("min", 60), ("h", 3_600), ("day", DAY_S)];

/// Why a text is not a value with a unit, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// A clause that continues "`idle_timeout` …", for example "has no unit".
    pub problem: String,
    /// What to write instead; empty when there is nothing better to say.
    pub hint: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}

/// A duration for the command line: `"250ms"`, `"10s"`, at most 365 days, never zero.
///
/// # Errors
/// A sentence for the operator.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// A size in bytes for the command line: `"64KiB"`.
///
/// # Errors
/// A sentence for the operator.
pub fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// A rate for the command line: `"100/min"`, `"20/s burst 40"`.
///
/// # Errors
/// A sentence for the operator.
pub fn rate(text: &str) -> Result<Rate, String> {
    parse_rate(text).map_err(|error| error.to_string())
}

/// Reads one whole number and one of `us ms s m h d`.
///
/// # Errors
/// Anything else, zero, and more than [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let example = |n: u64| format!("write \"{n}s\" or \"{n}ms\"; units are us, ms, s, m, h, d");
    let (number, unit) = split(text, DURATION_UNITS, &example)?;
    let micros = number.checked_mul(unit).filter(|us| u128::from(*us) <= DURATION_MAX.as_micros());
    let micros = micros.ok_or_else(|| {
        fail(format!("{} is more than 365 days", shown(text)), "at most \"365d\"")
    })?;
    Ok(Duration::from_micros(micros))
}

/// Reads one whole number and one of `B KiB MiB GiB`, in bytes.
///
/// # Errors
/// Anything else, zero, and more than [`SIZE_MAX`].
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let example = |n: u64| format!("write \"{n}KiB\"; units are B, KiB, MiB, GiB");
    let (number, unit) = split(text, SIZE_UNITS, &example)?;
    number.checked_mul(unit).filter(|bytes| *bytes <= SIZE_MAX).ok_or_else(|| {
        fail(format!("{} is more than 1024 GiB", shown(text)), "at most \"1024GiB\"")
    })
}

/// Reads `N/unit`, then perhaps `burst B`.
///
/// # Errors
/// Anything else, zero, and more than [`RATE_MAX`].
pub fn parse_rate(text: &str) -> Result<Rate, UnitError> {
    const HINT: &str = "write \"100/min\" or \"20/s burst 40\"; units are /s, /min, /h, /day";
    let mut words = text.split_ascii_whitespace();
    let (head, rest) = (words.next().unwrap_or(""), words.collect::<Vec<_>>());
    let Some((number, unit)) = head.split_once('/') else {
        let problem = if whole(head).is_some() { "has no unit" } else { "is not a rate" };
        return Err(fail(format!("{} {problem}", shown(text)), HINT));
    };
    let per_unit = rate_number(number, text)?;
    let seconds = unit_named(unit, RATE_UNITS).ok_or_else(|| {
        fail(format!("{} has an unknown unit `/{}`", shown(text), clip(unit)), HINT)
    })?;
    let burst = match rest.as_slice() {
        [] => per_unit,
        ["burst", burst] => rate_number(burst, text)?,
        _ => return Err(fail(format!("{} is not a rate", shown(text)), HINT)),
    };
    Ok(Rate::new(per_unit, Duration::from_secs(seconds), burst))
}

/// Reads a count in a window of the calendar, `"10000/day"`.
///
/// # Errors
/// Anything else, and zero.
pub fn parse_quota(text: &str) -> Result<QuotaSpec, UnitError> {
    const HINT: &str = "write \"10000/day\"; units are /hour, /day, /month";
    let Some((number, unit)) = text.trim().split_once('/') else {
        return Err(fail(format!("{} is not a quota", shown(text)), HINT));
    };
    let window = match unit {
        "hour" => Window::Hour,
        "day" => Window::Day,
        "month" => Window::Month,
        _ => {
            return Err(fail(
                format!("{} has an unknown unit `/{}`", shown(text), clip(unit)),
                HINT,
            ));
        }
    };
    Ok(QuotaSpec { limit: rate_number(number, text)?, window })
}

/// Reads a share of a whole, `"1%"` to `"100%"`, in percent.
///
/// # Errors
/// Anything else.
pub fn parse_share(text: &str) -> Result<u8, UnitError> {
    const HINT: &str = "write a whole number of percent from \"1%\" to \"100%\"";
    let digits = text.strip_suffix('%').ok_or_else(|| {
        let problem = if whole(text).is_some() { "has no unit" } else { "is not a share" };
        fail(format!("{} {problem}", shown(text)), HINT)
    })?;
    match whole(digits) {
        Some(percent @ 1..=100) => Ok(percent as u8),
        Some(_) => Err(fail(format!("{} is out of range", shown(text)), HINT)),
        None => Err(fail(format!("{} is not a share", shown(text)), HINT)),
    }
}

/// The duration as this reader would take it back: `"1m"`, `"1500ms"`.
#[must_use]
pub fn duration_text(value: Duration) -> String {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    let fits = |(_, unit): &&(&str, u64)| micros >= *unit && micros.is_multiple_of(*unit);
    match DURATION_UNITS.iter().rev().find(fits) {
        Some((name, unit)) => format!("{}{name}", micros / unit),
        None => format!("{micros}us"),
    }
}

/// The size as this reader would take it back: `"64KiB"`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match SIZE_UNITS.iter().rev().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The number and the factor of its unit; never zero.
fn split(
    text: &str,
    units: &[(&str, u64)],
    example: &dyn Fn(u64) -> String,
) -> Result<(u64, u64), UnitError> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        let problem =
            if unit.starts_with('-') { "is negative" } else { "does not begin with a number" };
        return Err(fail(format!("{} {problem}", shown(text)), example(10)));
    }
    // Too many digits for u64 are no less a number: saturate and let the caller's bound refuse it.
    let number = digits.parse().unwrap_or(u64::MAX);
    if unit.is_empty() {
        return Err(fail(
            format!("{} has no unit", shown(text)),
            example(number.clamp(1, 1_000_000)),
        ));
    }
    if unit.starts_with('.') {
        return Err(fail(
            format!("{} has a fraction", shown(text)),
            "use a smaller unit, like \"1500ms\"",
        ));
    }
    let Some(factor) = unit_named(unit, units) else {
        return Err(fail(
            format!("{} has an unknown unit `{}`", shown(text), clip(unit)),
            example(number.max(1)),
        ));
    };
    if number == 0 {
        return Err(fail(
            "must not be zero".to_owned(),
            "where a setting can be switched off, write \"off\"",
        ));
    }
    Ok((number, factor))
}

fn unit_named(name: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(known, _)| *known == name).map(|(_, factor)| *factor)
}

fn rate_number(digits: &str, text: &str) -> Result<NonZeroU32, UnitError> {
    let number = whole(digits).ok_or_else(|| {
        fail(
            format!("{} is not a rate", shown(text)),
            "write whole numbers, like \"20/s burst 40\"",
        )
    })?;
    let number = u32::try_from(number).ok().filter(|n| *n <= RATE_MAX).ok_or_else(|| {
        fail(format!("{} is more than {RATE_MAX} a unit", shown(text)), "choose a smaller number")
    })?;
    NonZeroU32::new(number).ok_or_else(|| {
        fail(format!("{} has a zero", shown(text)), "leave the key out to have no limit")
    })
}

/// A whole number in decimal digits only (no sign, no `_`); too large ones saturate.
fn whole(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().unwrap_or(u64::MAX))
}

fn fail(problem: String, hint: impl Into<String>) -> UnitError {
    UnitError { problem, hint: hint.into() }
}

/// The text in quotes, as long as a message can bear.
fn shown(text: &str) -> String {
    format!("\"{}\"", clip(text))
}

fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let clipped: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() { clipped + "…" } else { clipped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_one_whole_number_and_one_unit() {
        let ms = Duration::from_millis;
        for (text, value) in [
            ("1us", Duration::from_micros(1)),
            ("250ms", ms(250)),
            ("3s", ms(3_000)),
            ("10m", ms(600_000)),
            ("2h", ms(7_200_000)),
            ("365d", DURATION_MAX),
        ] {
            assert_eq!(parse_duration(text), Ok(value), "{text}");
            assert_eq!(duration_text(value), text);
        }
        for text in [
            "", "s", "3", "3 s", " 3s", "-3s", "+3s", "1.5s", "3S", "3sec", "0s", "366d", "1h30m",
            "3s\0",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_duration_too_long_for_any_integer_is_an_error_and_no_overflow() {
        for text in ["99999999999999h", "18446744073709551615us", "99999999999999999999999999d"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.problem.contains("more than 365 days"), "{error}");
        }
    }

    #[test]
    fn a_number_without_unit_is_told_what_to_write() {
        assert!(parse_duration("5").unwrap_err().hint.contains("\"5s\""));
        assert!(parse_size("16").unwrap_err().hint.contains("\"16KiB\""));
        assert!(parse_rate("100").unwrap_err().problem.contains("has no unit"));
        assert!(parse_share("50").unwrap_err().problem.contains("has no unit"));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("1B"), Ok(1));
        assert_eq!(parse_size("2MiB"), Ok(2 << 20));
        assert_eq!((size_text(2 << 20), size_text(1_500)), ("2MiB".to_owned(), "1500B".to_owned()));
        for text in ["0B", "16KB", "16kib", "9999999GiB", "18446744073709551615KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_without_burst_has_the_burst_of_one_unit() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rate = |per_unit, seconds, burst| {
            Rate::new(number(per_unit), Duration::from_secs(seconds), number(burst))
        };
        assert_eq!(parse_rate("100/min"), Ok(rate(100, 60, 100)));
        assert_eq!(parse_rate("20/s burst 40"), Ok(rate(20, 1, 40)));
        assert_eq!(parse_rate("5/day"), Ok(rate(5, DAY_S, 5)));
        for text in [
            "",
            "20",
            "0/s",
            "20/m",
            "20/s burst",
            "20/s burst 0",
            "20/s burst 4 5",
            "/s",
            "5000000000/s",
            "-1/s",
        ] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_share_is_1_to_100_percent() {
        assert_eq!(parse_share("50%"), Ok(50));
        assert_eq!(parse_share("100%"), Ok(100));
        for text in ["0%", "101%", "%", "-5%", "50", "5.5%", "99999999999999999999%"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
