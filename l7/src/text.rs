//! Numbers and addresses as text, without the detour of `fmt`: each request writes a dozen. And
//! what a text says that several ask about.

use std::net::IpAddr;

/// Appends a number in decimal digits.
pub fn push_decimal(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whether a Content-Type is one of gRPC, which has codecs as `+proto` (gRPC over HTTP/2, Requests);
/// `grpc-web` is another protocol.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.split_at_checked(GRPC.len()).is_some_and(|(kind, rest)| {
        kind.eq_ignore_ascii_case(GRPC) && matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..])
    })
}

/// Appends an address as RFC 5952 writes it.
pub fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let [first, rest @ ..] = ip.octets();
            push_decimal(first.into(), out);
            for octet in rest {
                out.push(b'.');
                push_decimal(octet.into(), out);
            }
        }
        IpAddr::V6(ip) => out.extend_from_slice(ip.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_has_codecs_and_parameters_and_is_not_grpc_web() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
            assert!(is_grpc(kind.as_bytes()), "{kind}");
        }
        for kind in ["", "application/grp", "application/grpc-web", "application/grpc-web+proto"] {
            assert!(!is_grpc(kind.as_bytes()), "{kind}");
        }
    }

    #[test]
    fn what_is_written_is_what_fmt_would_write() {
        for ip in ["0.0.0.0", "192.0.2.7", "255.255.255.255", "::1", "2001:db8::2:1"] {
            let (ip, mut out) = (ip.parse::<IpAddr>().expect("an address"), Vec::new());
            push_ip(ip, &mut out);
            assert_eq!(out, ip.to_string().into_bytes());
        }
        for number in [0, 9, 10, 65_535, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
