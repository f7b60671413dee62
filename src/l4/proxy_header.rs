//! A PROXY header that a trusted peer sends first, versions 1 and 2.
//!
//! Takes all bytes that came so far, so any fragmentation gives the same answer. The rules are
//! those of `proxy-protocol.txt` (2020/03/05), sections 2.1 and 2.2, read strictly: a header that
//! could be read in two ways closes the connection. Who is trusted is not decided here; the
//! writer is in [`super::proxy_protocol`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a version 1 line with its CRLF, at most (section 2.1).
const LINE_MAX: usize = 107;

/// Bytes of a version 2 header, at most. Two unix paths take 232; the rest is for TLVs, of which
/// those of a TLS client with its certificate's names are the largest in use. The length field
/// could promise 64 KiB, which a connection that never speaks must not make us hold.
pub const HEADER_MAX: usize = 4096;

/// What the bytes are, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The beginning of a header, perhaps.
    More,
    Header(Header),
    /// Not a header; the words are for the log.
    Bad(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that it took; what follows is the client's.
    pub len: usize,
    /// The client and the address it connected to; IPv4 in IPv6 is IPv4. `None`: the connection
    /// speaks for itself (LOCAL), or the sender does not know or has no IP addresses to tell.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Reads all that came so far.
#[must_use]
pub fn read(bytes: &[u8]) -> Verdict {
    let verdict = if begins(bytes, b"PROXY ") {
        read_line(bytes)
    } else if begins(bytes, &SIGNATURE) {
        read_binary(bytes)
    } else {
        Err("no PROXY header")
    };
    match verdict {
        Ok(Some(header)) => Verdict::Header(header),
        Ok(None) => Verdict::More,
        Err(why) => Verdict::Bad(why),
    }
}

fn begins(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.starts_with(wanted) || wanted.starts_with(bytes)
}

/// Version 1 (section 2.1): one line of text, single spaces, CRLF.
fn read_line(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let window = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_MAX {
            Ok(None)
        } else {
            Err("the line is longer than 107 bytes")
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or("the line does not end with CRLF")?;
    let line = std::str::from_utf8(line).map_err(|_| "the line is not ASCII")?;
    if line.contains('\r') {
        return Err("a CR within the line");
    }
    let mut words = line.split(' ').skip(1);
    let addresses = match words.next() {
        // What follows UNKNOWN is to be ignored up to the CRLF.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(pair::<Ipv4Addr>(&mut words)?),
        Some("TCP6") => Some(pair::<Ipv6Addr>(&mut words)?),
        _ => return Err("neither TCP4 nor TCP6 nor UNKNOWN"),
    };
    if addresses.is_some() && words.next().is_some() {
        return Err("more in the line than two addresses and two ports");
    }
    Ok(Some(Header { len: end + 1, addresses }))
}

fn pair<'a, Ip: std::str::FromStr + Into<IpAddr>>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let mut address = || words.next().and_then(|word| word.parse::<Ip>().ok());
    let (source, destination) =
        address().zip(address()).ok_or("not two addresses of its family")?;
    let mut number = || words.next().and_then(port);
    let (from, to) = number().zip(number()).ok_or("not two port numbers")?;
    Ok((canonical(source.into(), from), canonical(destination.into(), to)))
}

/// Decimal digits only, no leading zeroes.
fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = word == "0" || !word.starts_with('0');
    if digits && plain { word.parse().ok() } else { None }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 (section 2.2): signature, command, family, length, addresses, TLVs.
fn read_binary(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    const HEAD: usize = 16;
    // Judged as soon as they are there, so that a bad header need not be waited for.
    if bytes.get(12).is_some_and(|byte| byte >> 4 != 2) {
        return Err("a version other than 1 and 2");
    }
    let Some(&[command, family, high, low]) = bytes.get(12..HEAD).and_then(<[u8]>::first_chunk)
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if HEAD + length > HEADER_MAX {
        return Err("the header is longer than 4096 bytes");
    }
    let (local, layout) = (command & 0x0f, Layout::of(family)?);
    if local > 1 {
        return Err("neither LOCAL nor PROXY");
    }
    // A LOCAL connection speaks for itself; what stands in its address block is to be ignored.
    let addressed = local == 1 && layout != Layout::Unspecified;
    if addressed && length < layout.len() {
        return Err("too short for its addresses");
    }
    let len = HEAD + length;
    let Some(block) = bytes.get(HEAD..len) else { return Ok(None) };
    if !addressed {
        return Ok(Some(Header { len, addresses: None }));
    }
    check_tlvs(&bytes[..len], HEAD + layout.len())?;
    Ok(Some(Header { len, addresses: layout.addresses(block) }))
}

/// Address family and transport of a version 2 header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Unspecified,
    V4,
    V6,
    Unix,
    /// Datagrams, which no listener of ours has: the addresses are skipped.
    Datagram(usize),
}

impl Layout {
    fn of(family: u8) -> Result<Self, &'static str> {
        Ok(match family {
            0x00 => Self::Unspecified,
            0x11 => Self::V4,
            0x21 => Self::V6,
            0x31 => Self::Unix,
            0x12 => Self::Datagram(12),
            0x22 => Self::Datagram(36),
            0x32 => Self::Datagram(216),
            _ => return Err("an unknown address family or transport"),
        })
    }

    const fn len(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Unix => 216,
            Self::Datagram(len) => len,
        }
    }

    /// `block` has at least [`Layout::len`] bytes.
    fn addresses(self, block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let number = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
        match self {
            Self::V4 => {
                let ip = |at: usize| Some(IpAddr::from(*block.get(at..)?.first_chunk::<4>()?));
                Some((canonical(ip(0)?, number(8)?), canonical(ip(4)?, number(10)?)))
            }
            Self::V6 => {
                let ip = |at: usize| Some(IpAddr::from(*block.get(at..)?.first_chunk::<16>()?));
                Some((canonical(ip(0)?, number(32)?), canonical(ip(16)?, number(34)?)))
            }
            Self::Unspecified | Self::Unix | Self::Datagram(_) => None,
        }
    }
}

/// The TLVs must fill what is left exactly, and a checksum among them must be right
/// (sections 2.2.3 and 2.2.4). What else they say is not used.
fn check_tlvs(header: &[u8], from: usize) -> Result<(), &'static str> {
    const CRC32C: u8 = 0x03;
    let (mut at, mut summed) = (from, false);
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk() else {
            return Err("a TLV is cut off");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + 3..at + 3 + length).ok_or("a TLV is cut off")?;
        if kind == CRC32C {
            // Each costs a pass over the header, and there is nothing a second could say.
            if std::mem::replace(&mut summed, true) {
                return Err("a second checksum");
            }
            let sent: [u8; 4] = value.try_into().map_err(|_| "a checksum is not of 4 bytes")?;
            let place = at + 3..at + 7;
            // The sum is made with its own place zeroed.
            let parts = [&header[..place.start], &[0; 4], &header[place.end..]];
            if crc32c(&parts) != u32::from_be_bytes(sent) {
                return Err("the checksum is wrong");
            }
        }
        at += 3 + length;
    }
    Ok(())
}

/// CRC-32C (RFC 3720 §B.4), bit by bit: headers with a checksum are rare and short.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

const fn canonical(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::config::plan::SendProxy;
    use crate::l4::proxy_protocol::Header as Written;

    fn said(verdict: Verdict) -> String {
        match verdict {
            Verdict::More => "more".to_owned(),
            Verdict::Bad(why) => format!("bad {why}"),
            Verdict::Header(Header { len, addresses }) => {
                let source =
                    addresses.map_or_else(|| "none".to_owned(), |(source, _)| source.to_string());
                format!("header {len} {source}")
            }
        }
    }

    /// What a receiver that asks after each byte hears first.
    fn byte_by_byte(bytes: &[u8]) -> Verdict {
        let verdicts = (0..=bytes.len()).map(|end| read(&bytes[..end]));
        verdicts.into_iter().find(|verdict| *verdict != Verdict::More).unwrap_or(Verdict::More)
    }

    #[test]
    fn each_case_of_the_corpus_is_judged_as_it_says_whole_and_byte_by_byte() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/proxy.jsonl");
        let mut ran = 0;
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            if case["pending"].is_string() {
                continue;
            }
            ran += 1;
            let bytes = crate::tls::corpus_bytes(&case["parts"]);
            let want = case["expect"].as_str().unwrap();
            assert_eq!(said(read(&bytes)), want, "{}: {}", case["id"], case["intent"]);
            assert_eq!(said(byte_by_byte(&bytes)), want, "{} in pieces", case["id"]);
        }
        assert!(ran >= 22, "the corpus is not there: {ran}");
    }

    #[test]
    fn a_line_names_two_addresses_and_two_ports() {
        let check = |line: &str, want: &str| assert_eq!(said(read(line.as_bytes())), want);
        check("PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\nGET /", "header 40 192.0.2.1:0");
        check("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "header 32 [2001:db8::1]:1");
        check("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "header 37 192.0.2.1:1");
        check("PROXY UNKNOWN\r\n", "header 15 none");
        check("PROXY TCP4 ::1 ::1 1 2\r\n", "bad not two addresses of its family");
        check("PROXY TCP6 192.0.2.1 ::1 1 2\r\n", "bad not two addresses of its family");
        check("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "bad not two port numbers");
        check("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "bad not two port numbers");
        check(
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "bad more in the line than two addresses and two ports",
        );
        check("PROXY UNKNOWN \r \r\n", "bad a CR within the line");
        check("PROXY UNKNOWNX\r\n", "bad neither TCP4 nor TCP6 nor UNKNOWN");
        check("PROXY\tTCP4", "bad no PROXY header");
        check("proxy TCP4", "bad no PROXY header");
    }

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((block.len() as u16).to_be_bytes());
        bytes.extend(block);
        bytes
    }

    const BLOCK: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 0, 80];

    #[test]
    fn unspecified_unix_and_datagram_peers_leave_the_connection_its_own_addresses() {
        for (family, length) in [(0x00, 0), (0x00, 7), (0x31, 216), (0x12, 12), (0x22, 36)] {
            let want = format!("header {} none", 16 + length);
            assert_eq!(said(read(&binary(0x21, family, &vec![0; length]))), want, "{family:02x}");
        }
        let short = binary(0x21, 0x31, &[0; 215]);
        assert_eq!(said(read(&short)), "bad too short for its addresses");
    }

    #[test]
    fn tlvs_fill_the_rest_exactly_and_a_right_checksum_passes() {
        // RFC 3720 §B.4 has this one: 32 bytes of zero.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&BLOCK, tlvs].concat());
        assert_eq!(said(read(&with(&[0x20, 0, 1, 7]))), "header 32 192.0.2.1:5000");
        assert_eq!(said(read(&with(&[0x20, 0, 2, 7]))), "bad a TLV is cut off");
        assert_eq!(said(read(&with(&[0x20, 0]))), "bad a TLV is cut off");
        let mut summed = with(&[3, 0, 4, 0, 0, 0, 0, 4, 0, 0]);
        let sum = crc32c(&[&summed]).to_be_bytes();
        summed[31..35].copy_from_slice(&sum);
        assert_eq!(said(read(&summed)), "header 38 192.0.2.1:5000");
        summed[20] ^= 1;
        assert_eq!(said(read(&summed)), "bad the checksum is wrong");
        let two = with(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]);
        assert!(said(read(&two)).starts_with("bad "));
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<u32>().prop_map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
        let v6 = any::<u128>().prop_map(|ip| IpAddr::from(Ipv6Addr::from(ip)));
        (prop_oneof![v4, v6], any::<u16>()).prop_map(SocketAddr::from)
    }

    /// Headers, broken headers, and beginnings that look like one.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let version = prop_oneof![Just(SendProxy::V1), Just(SendProxy::V2)];
        let header = (version, any_address(), any_address()).prop_map(|(version, from, to)| {
            Written::for_session(version, Some(from), Some(to)).as_bytes().to_vec()
        });
        let tail = prop::collection::vec(any::<u8>(), 0..40);
        let changed = (header, any::<prop::sample::Index>(), any::<u8>(), any::<bool>());
        let changed = changed.prop_map(|(mut bytes, at, byte, change)| {
            if change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
        let random = prop::collection::vec(any::<u8>(), 0..60);
        (prop_oneof![4 => changed, 1 => random], tail)
            .prop_map(|(head, tail)| [head, tail].concat())
    }

    proptest! {
        #[test]
        fn what_we_write_is_read_back(client in any_address(), local in any_address()) {
            let canonical = |address: SocketAddr| canonical(address.ip(), address.port());
            let want = Some((canonical(client), canonical(local)));
            for version in [SendProxy::V1, SendProxy::V2] {
                let written = Written::for_session(version, Some(client), Some(local));
                let len = written.as_bytes().len();
                let verdict = read(&[written.as_bytes(), b"data"].concat());
                prop_assert_eq!(verdict, Verdict::Header(Header { len, addresses: want }));
            }
        }

        #[test]
        fn any_split_gives_the_same_answer(bytes in any_bytes()) {
            prop_assert_eq!(byte_by_byte(&bytes), read(&bytes));
        }
    }
}
