//! The header lines that tell a client how its limits stand.
//!
//! `RateLimit` and `RateLimit-Policy` are lists of structured fields (RFC 9651) as in the draft
//! of the HTTPAPI working group; `Retry-After` is seconds (RFC 9110 §10.2.3).

use std::time::Duration;

use super::quota::QuotaSpec;
use super::rate::{Decision, Rate};
use crate::text::push_decimal;

/// How one policy stands, as its answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitLine<'a> {
    /// The policy's name.
    pub name: &'a str,
    /// What it gives in a window, and the window's seconds.
    pub quota: u32,
    pub window: u64,
    pub remaining: u32,
    /// Until all of it is there again.
    pub reset_after: Duration,
}

impl<'a> LimitLine<'a> {
    /// Of the tightest of the policy's rates. `None` if the policy has none.
    #[must_use]
    pub fn of_rates(name: &'a str, rates: &[Rate], decision: &Decision) -> Option<Self> {
        let rate = rates.get(usize::from(decision.limit))?;
        let (quota, window) = (rate.count().get(), seconds(rate.per()));
        Some(Self::new(name, quota, window, decision))
    }

    /// `unix_seconds` say which month it is.
    #[must_use]
    pub fn of_quota(
        name: &'a str,
        quota: QuotaSpec,
        unix_seconds: u64,
        decision: &Decision,
    ) -> Self {
        let window = quota.window.around(unix_seconds);
        Self::new(name, quota.limit.get(), window.end - window.start, decision)
    }

    const fn new(name: &'a str, quota: u32, window: u64, decision: &Decision) -> Self {
        let (remaining, reset_after) = (decision.remaining, decision.reset_after);
        Self { name, quota, window, remaining, reset_after }
    }
}

/// Appends the value of `RateLimit`: `"per-user";r=40;t=12`, one after another.
pub fn write_rate_limit(lines: &[LimitLine<'_>], out: &mut Vec<u8>) {
    for (at, line) in lines.iter().enumerate() {
        write_name(at, line.name, out);
        write_number(b";r=", u64::from(line.remaining), out);
        write_number(b";t=", seconds(line.reset_after), out);
    }
}

/// Appends the value of `RateLimit-Policy`: `"per-user";q=100;w=60`, one after another.
pub fn write_rate_limit_policy(lines: &[LimitLine<'_>], out: &mut Vec<u8>) {
    for (at, line) in lines.iter().enumerate() {
        write_name(at, line.name, out);
        write_number(b";q=", u64::from(line.quota), out);
        write_number(b";w=", line.window, out);
    }
}

/// The value of `Retry-After`: whole seconds, so that who waits them is not early; at least 1,
/// because 0 asks for the next request at once.
#[must_use]
pub fn retry_after(wait: Duration) -> u64 {
    seconds(wait).max(1)
}

/// Rounded up.
const fn seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0) as u64)
}

/// A structured string has printable ASCII only (RFC 9651 §3.3.3); another byte reads as `?`.
fn write_name(at: usize, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(if at == 0 { b"\"" } else { b", \"" });
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}

/// A structured integer has 15 digits at most (RFC 9651 §3.3.1).
fn write_number(key: &[u8], number: u64, out: &mut Vec<u8>) {
    const INTEGER_MAX: u64 = 999_999_999_999_999;
    out.extend_from_slice(key);
    push_decimal(number.min(INTEGER_MAX), out);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::quota::Window;
    use super::*;

    fn both(lines: &[LimitLine<'_>]) -> (String, String) {
        let (mut limit, mut policy) = (Vec::new(), Vec::new());
        write_rate_limit(lines, &mut limit);
        write_rate_limit_policy(lines, &mut policy);
        (String::from_utf8(limit).unwrap(), String::from_utf8(policy).unwrap())
    }

    fn rate(count: u32, seconds: u64) -> Rate {
        let count = NonZeroU32::new(count).unwrap();
        Rate::new(count, Duration::from_secs(seconds), count)
    }

    fn decision(limit: u16, remaining: u32, reset_after: Duration) -> Decision {
        Decision { limit, remaining, reset_after, ..Decision::UNLIMITED }
    }

    #[test]
    fn a_policy_says_what_it_gives_and_what_is_left() {
        let stands = decision(0, 40, Duration::from_millis(11_001));
        let line = LimitLine::of_rates("per-user", &[rate(100, 60)], &stands).unwrap();
        let (limit, policy) = both(&[line]);
        assert_eq!(limit, "\"per-user\";r=40;t=12");
        assert_eq!(policy, "\"per-user\";q=100;w=60");
    }

    #[test]
    fn several_policies_are_one_list_and_each_speaks_of_its_tightest_rate() {
        let stands = decision(1, 0, Duration::from_secs(9));
        let first = LimitLine::of_rates("a", &[rate(10, 1), rate(50, 3_600)], &stands).unwrap();
        let month = QuotaSpec { limit: NonZeroU32::new(7).unwrap(), window: Window::Month };
        let second = LimitLine::of_quota("b", month, 0, &decision(0, 6, Duration::ZERO));
        let (limit, policy) = both(&[first, second]);
        assert_eq!(limit, "\"a\";r=0;t=9, \"b\";r=6;t=0");
        assert_eq!(policy, "\"a\";q=50;w=3600, \"b\";q=7;w=2678400");
    }

    #[test]
    fn a_name_cannot_leave_its_quotes_or_its_line() {
        let line = |name| LimitLine::of_rates(name, &[rate(1, 1)], &Decision::UNLIMITED).unwrap();
        let (limit, _) = both(&[line("a\"b\\c\r\nd\u{e9}")]);
        assert!(limit.starts_with(r#""a\"b\\c??d?";r="#), "{limit}");
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let cases = [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)];
        for (ms, want) in cases {
            assert_eq!(retry_after(Duration::from_millis(ms)), want, "{ms} ms");
        }
        assert_eq!(retry_after(Duration::MAX), u64::MAX);
    }
}
