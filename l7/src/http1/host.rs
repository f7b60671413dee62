//! The host of a request: what is valid, what is equal, what routes are matched against.
//!
//! Narrower than RFC 3986 §3.2: no user, no escapes, no sub-delimiters. Two parsers that agree
//! on everything else still part ways there.

use std::net::Ipv6Addr;

use super::reject::Reject;

/// Longest name that DNS can hold, in text (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Longest label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A valid host, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// As written, without the last dot; an IPv6 address keeps its brackets.
    pub name: &'a [u8],
    pub port: Option<u16>,
}

impl Host<'_> {
    /// Whether both name the same place, if a missing port is `port_default`.
    #[must_use]
    pub fn is_same(&self, other: &Host<'_>, port_default: u16) -> bool {
        self.name.eq_ignore_ascii_case(other.name)
            && self.port.unwrap_or(port_default) == other.port.unwrap_or(port_default)
    }
}

/// Checks the value of `Host`, or an authority, and takes it apart.
///
/// # Errors
///
/// When it is empty or malformed.
pub fn parse(host: &[u8]) -> Result<Host<'_>, Reject> {
    let valid = match host.first() {
        Some(b'[') => bracketed(host),
        Some(_) => named(host),
        None => None,
    };
    valid.ok_or(Reject::HostSyntax)
}

/// The name in lower case, without port and last dot, written into `scratch`. `host` must have
/// passed [`parse`]; of anything else the answer is `""`, which fits no route.
#[must_use]
pub fn host_for_matching<'s>(host: &[u8], scratch: &'s mut [u8; HOST_BYTES_MAX]) -> &'s str {
    let Ok(Host { name, .. }) = parse(host) else { return "" };
    let lower = &mut scratch[..name.len()];
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).unwrap_or_default()
}

fn named(host: &[u8]) -> Option<Host<'_>> {
    let colon = host.iter().position(|&byte| byte == b':').unwrap_or(host.len());
    let name = host[..colon].strip_suffix(b".").unwrap_or(&host[..colon]);
    if name.is_empty() || name.len() > HOST_BYTES_MAX {
        return None;
    }
    let mut label = 0;
    for &byte in name {
        match byte {
            b'.' if label == 0 => return None,
            b'.' => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            _ => return None,
        }
        if label > LABEL_BYTES_MAX {
            return None;
        }
    }
    // A dot at the end is left only if there were two.
    (label > 0).then_some(())?;
    Some(Host { name, port: port(&host[colon..])? })
}

fn bracketed(host: &[u8]) -> Option<Host<'_>> {
    let close = host.iter().position(|&byte| byte == b']')?;
    let address = std::str::from_utf8(&host[1..close]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(Host { name: &host[..=close], port: port(&host[close + 1..])? })
}

/// Nothing, `:` or `:port`; the outer `None` is a malformed one.
#[expect(clippy::option_option, reason = "absent is valid, malformed is not")]
fn port(rest: &[u8]) -> Option<Option<u16>> {
    let Some(digits) = rest.strip_prefix(b":") else {
        return rest.is_empty().then_some(None);
    };
    // RFC 3986 §3.2.3: an empty port is the scheme's.
    if digits.is_empty() {
        return Some(None);
    }
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = digits.iter().fold(0, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_ports_are_valid() {
        let long = "a".repeat(63);
        for good in ["a.test", "A.TEST.:80", "10.0.0.1", "x_y", "[::1]", "[::1]:443", "a:", &long] {
            assert!(parse(good.as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_parsers_read_in_two_ways_is_no_host() {
        let label = "a".repeat(64);
        let name = ["a"; 128].join(".");
        let bad = [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a.test, b.test",
            "a.test b.test",
            "a@b",
            "a/../admin",
            "a?x",
            "a#x",
            "a\\b",
            "a%2eb",
            "a\0b",
            "a\u{e9}",
            "a:99999",
            "a:80:80",
            "a:0x50",
            "a:+80",
            "a:-1",
            ":80",
            "[::1",
            "[]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[a.test]",
            "::1",
            &label,
            &name,
        ];
        for bad in bad {
            assert_eq!(parse(bad.as_bytes()), Err(Reject::HostSyntax), "{bad}");
        }
    }

    #[test]
    fn matching_sees_lower_case_without_port_and_last_dot() {
        let mut scratch = [0; HOST_BYTES_MAX];
        assert_eq!(host_for_matching(b"A.Test.:8080", &mut scratch), "a.test");
        assert_eq!(host_for_matching(b"[2001:DB8::1]:80", &mut scratch), "[2001:db8::1]");
        assert_eq!(host_for_matching(b"a b", &mut scratch), "");
    }

    #[test]
    fn a_missing_port_is_the_default_one() {
        let same = |a: &str, b: &str| {
            let (a, b) = (parse(a.as_bytes()).unwrap(), parse(b.as_bytes()).unwrap());
            a.is_same(&b, 80)
        };
        assert!(same("a.test", "A.test.:80"));
        assert!(!same("a.test", "a.test:81"));
        assert!(!same("a.test", "b.test"));
    }
}
