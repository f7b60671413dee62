//! Where a body ends: Content-Length and Transfer-Encoding, RFC 9112 §6.

use super::Version;
use super::head::Seen;
use super::reject::Reject;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes, at least one.
    Length(u64),
    /// Where its last chunk says.
    Chunked,
    /// With the connection. Answers only.
    UntilClose,
}

/// Lengths above this are refused, so that no sum of a length and a head can overflow, signed or
/// not.
pub(super) const LENGTH_MAX: u64 = i64::MAX as u64;

/// What the framing fields say; `None` if there are none.
pub(super) fn declared(
    buf: &[u8],
    seen: &Seen,
    version: Version,
) -> Result<Option<Framing>, Reject> {
    if seen.coding.count > 0 {
        // RFC 9112 §6.1: a server that does not know HTTP/1.1 would read it in another way.
        if version == Version::Http10 {
            return Err(Reject::CodingOnHttp10);
        }
        // RFC 9112 §6.3, item 3: ought to be handled as an error.
        if seen.length.count > 0 {
            return Err(Reject::LengthWithCoding);
        }
        if seen.coding.count > 1 {
            return Err(Reject::CodingSyntax);
        }
        coding(seen.coding.first.of(buf))?;
        return Ok(Some(Framing::Chunked));
    }
    match seen.length.count {
        0 => Ok(None),
        1 => match length(seen.length.first.of(buf))? {
            0 => Ok(Some(Framing::None)),
            bytes => Ok(Some(Framing::Length(bytes))),
        },
        // RFC 9112 §6.3, item 5 lets equal ones be merged; refusing is what all can agree on.
        _ => Err(Reject::LengthRepeated),
    }
}

/// `1*DIGIT` (RFC 9110 §8.6) without leading zeros, which some read as octal.
fn length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || (value[0] == b'0' && value.len() > 1) {
        return Err(Reject::LengthSyntax);
    }
    let mut length: u64 = 0;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return Err(Reject::LengthSyntax);
        }
        length = length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
            .filter(|&length| length <= LENGTH_MAX)
            .ok_or(Reject::LengthSyntax)?;
    }
    Ok(length)
}

/// Passes only `chunked`. RFC 9112 §6.1: 501 for a coding that is not known; §6.3, item 4: 400
/// when chunked is not the last.
fn coding(value: &[u8]) -> Result<(), Reject> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let last = members.next_back().unwrap_or_default();
    let well_formed = |member: &[u8]| !member.is_empty() && member.iter().all(|&b| is_token(b));
    let earlier = |member: &[u8]| well_formed(member) && !member.eq_ignore_ascii_case(b"chunked");
    if well_formed(last) && members.all(earlier) {
        Err(Reject::CodingUnknown)
    } else {
        Err(Reject::CodingSyntax)
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_plain_decimal_numbers() {
        assert_eq!(length(b"0"), Ok(0));
        assert_eq!(length(b"9223372036854775807"), Ok(LENGTH_MAX));
        for bad in
            ["", "+5", "-1", "0x5", "1_0", "5abc", "010", "5, 5", "5 5", "9223372036854775808"]
        {
            assert_eq!(length(bad.as_bytes()), Err(Reject::LengthSyntax), "{bad}");
        }
        assert_eq!(length(&[b'9'; 400]), Err(Reject::LengthSyntax));
    }

    #[test]
    fn only_chunked_alone_is_a_coding() {
        assert_eq!(coding(b"CHUNKED"), Ok(()));
        for unknown in ["xchunked", "gzip", "gzip, chunked", "identity"] {
            assert_eq!(coding(unknown.as_bytes()), Err(Reject::CodingUnknown), "{unknown}");
        }
        let bad = ["", ",", "chunked,", "chunked, gzip", "chunked, chunked", "\"chunked\"", {
            "chunked;q=1"
        }];
        for bad in bad {
            assert_eq!(coding(bad.as_bytes()), Err(Reject::CodingSyntax), "{bad}");
        }
    }
}
