//! The cookie by which a client comes back to its server.
//!
//! Its value is a hash of pool and server, given by the caller, as 16 hexadecimal digits: the
//! same on all instances, and no name to read. A value that fits no server is passed over.

use std::io::Write as _;

use super::conditions::cookies;
use super::{Fields, spec::StickySpec};

/// Digits of a value.
const VALUE_LEN: usize = 16;

/// The first well-formed value of the cookie.
#[must_use]
pub fn find(spec: &StickySpec, fields: &dyn Fields) -> Option<u64> {
    cookies(fields, &spec.cookie).find_map(|value| {
        let digits = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if value.len() != VALUE_LEN || !value.iter().all(digits) {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
    })
}

/// Appends the value of `Set-Cookie` (RFC 6265 §4.1).
pub fn write_cookie(spec: &StickySpec, value: u64, is_https: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(spec.cookie.as_bytes());
    // A Vec takes every write.
    let _ = write!(out, "={value:016x}; Path=/; HttpOnly; SameSite=Lax");
    if is_https {
        out.extend_from_slice(b"; Secure");
    }
    if let Some(ttl) = spec.ttl {
        let _ = write!(out, "; Max-Age={}", ttl.as_secs().max(1));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spec(ttl: Option<Duration>) -> StickySpec {
        StickySpec { cookie: "sg".into(), ttl, keep_on_drain: false }
    }

    fn written(ttl: Option<Duration>, is_https: bool) -> String {
        let mut out = Vec::new();
        write_cookie(&spec(ttl), 0xab, is_https, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_cookie_comes_back_as_it_was_set() {
        let line = written(None, false);
        assert_eq!(line, "sg=00000000000000ab; Path=/; HttpOnly; SameSite=Lax");
        let sent = format!("a=b; {}", &line[..19]);
        assert_eq!(find(&spec(None), &[("Cookie", sent.as_str())]), Some(0xab));
    }

    #[test]
    fn it_is_secure_on_https_and_lives_as_long_as_told() {
        let line = written(Some(Duration::from_secs(3600)), true);
        assert!(line.ends_with("; Secure; Max-Age=3600"), "{line}");
    }

    #[test]
    fn what_no_server_could_have_set_is_passed_over() {
        for value in ["", "ab", "00000000000000AB", "00000000000000ab0", "+0000000000000ab"] {
            let line = format!("sg={value}");
            assert_eq!(find(&spec(None), &[("cookie", line.as_str())]), None, "{value}");
        }
        let twice = [("cookie", "sg=x; sg=00000000000000ab")];
        assert_eq!(find(&spec(None), &twice), Some(0xab));
    }
}
