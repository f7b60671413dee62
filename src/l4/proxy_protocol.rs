//! The PROXY header that tells a server who the client is, versions 1 and 2.
//!
//! Writes the header only; it goes out before the first byte of the client, once a connection.
//! The rules are those of `proxy-protocol.txt` (2020/03/05), sections 2.1 and 2.2.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::plan::SendProxy;

/// The longest version 1 line by its specification; version 2 with two IPv6 addresses has 52.
pub const HEADER_MAX: usize = 107;

/// One header, ready to send.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; HEADER_MAX],
    len: u8,
}

impl Header {
    /// For a session: the client's address, and the one it connected to. Without both the header
    /// says that the client is unknown; of unlike families, as a PROXY header in front of us may
    /// make them, the IPv4 one is written as the IPv6 one that it is mapped to. Empty for
    /// [`SendProxy::Off`].
    #[must_use]
    pub fn for_session(
        version: SendProxy,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Self {
        let pair = client.zip(local).map(|(client, local)| alike(client, local));
        match version {
            SendProxy::Off => Self::NONE,
            SendProxy::V1 => Self::v1(pair),
            SendProxy::V2 => Self::v2(PROXY, pair),
        }
    }

    /// For a connection of our own, as health checks make them: the server is to take the
    /// connection's own addresses. Version 1 has no word for that but `UNKNOWN`.
    #[must_use]
    pub fn for_check(version: SendProxy) -> Self {
        match version {
            SendProxy::Off => Self::NONE,
            SendProxy::V1 => Self::v1(None),
            SendProxy::V2 => Self::v2(LOCAL, None),
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Nothing is sent.
    pub const NONE: Self = Self { bytes: [0; HEADER_MAX], len: 0 };

    fn v1(pair: Option<(SocketAddr, SocketAddr)>) -> Self {
        let mut header = Self::NONE;
        let family = match pair {
            Some((SocketAddr::V4(_), SocketAddr::V4(_))) => "TCP4",
            Some((SocketAddr::V6(_), SocketAddr::V6(_))) => "TCP6",
            _ => "UNKNOWN",
        };
        header.put(format_args!("PROXY {family}"));
        if let Some((client, local)) = pair.filter(|_| family != "UNKNOWN") {
            header.put(format_args!(
                " {} {} {} {}",
                client.ip(),
                local.ip(),
                client.port(),
                local.port()
            ));
        }
        header.put(format_args!("\r\n"));
        header
    }

    fn v2(command: u8, pair: Option<(SocketAddr, SocketAddr)>) -> Self {
        let mut header = Self::NONE;
        header.push(&SIGNATURE);
        match pair.map(|(client, local)| (client.ip(), local.ip())) {
            Some((IpAddr::V4(client), IpAddr::V4(local))) => {
                header.push(&[command, TCP4, 0, 12]);
                header.push(&client.octets());
                header.push(&local.octets());
            }
            Some((IpAddr::V6(client), IpAddr::V6(local))) => {
                header.push(&[command, TCP6, 0, 36]);
                header.push(&client.octets());
                header.push(&local.octets());
            }
            _ => {
                header.push(&[command, UNSPEC, 0, 0]);
                return header;
            }
        }
        if let Some((client, local)) = pair {
            header.push(&client.port().to_be_bytes());
            header.push(&local.port().to_be_bytes());
        }
        header
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        let mut room = &mut self.bytes[usize::from(self.len)..];
        let before = room.len();
        room.write_fmt(text).expect("two IPv6 addresses and two ports are 104 bytes at most");
        self.len += (before - room.len()) as u8;
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({})", self.as_bytes().escape_ascii())
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 in the upper half; the command in the lower.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Address family in the upper half, stream transport in the lower; zero is unspecified.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A client of a dual-stack listener is an IPv4 client.
const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Both of one family.
fn alike(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (one, other) = (canonical(one), canonical(other));
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => address,
    };
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (mapped(one), mapped(other)) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn check(version: SendProxy, client: &str, local: &str, want: &[u8]) {
        let address = |text: &str| text.parse().ok();
        let header = Header::for_session(version, address(client), address(local));
        assert_eq!(header.as_bytes().escape_ascii().to_string(), want.escape_ascii().to_string());
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        let check =
            |client, local, want: &str| check(SendProxy::V1, client, local, want.as_bytes());
        check(
            "192.0.2.1:56324",
            "198.51.100.9:443",
            "PROXY TCP4 192.0.2.1 198.51.100.9 56324 443\r\n",
        );
        check("[2001:db8::1]:1", "[::1]:65535", "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
    }

    #[test]
    fn version_2_is_a_signature_two_addresses_and_two_ports() {
        check(
            SendProxy::V2,
            "192.0.2.1:256",
            "198.51.100.9:443",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x09\x01\x00\x01\xbb",
        );
        let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
        v6.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        v6.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        v6.extend([0, 1, 0xff, 0xff]);
        check(SendProxy::V2, "[2001:db8::1]:1", "[::1]:65535", &v6);
    }

    #[test]
    fn a_mapped_ipv4_client_is_an_ipv4_client() {
        check(
            SendProxy::V1,
            "[::ffff:192.0.2.1]:5",
            "[::ffff:198.51.100.9]:6",
            b"PROXY TCP4 192.0.2.1 198.51.100.9 5 6\r\n",
        );
        check(
            SendProxy::V1,
            "192.0.2.1:5",
            "[::ffff:198.51.100.9]:6",
            b"PROXY TCP4 192.0.2.1 198.51.100.9 5 6\r\n",
        );
    }

    #[test]
    fn a_client_of_another_family_than_ours_is_told() {
        for (client, local, told) in [
            ("[2001:db8::9]:5", "192.0.2.1:6", "TCP6 2001:db8::9 ::ffff:192.0.2.1 5 6"),
            ("192.0.2.1:5", "[2001:db8::9]:6", "TCP6 ::ffff:192.0.2.1 2001:db8::9 5 6"),
        ] {
            check(SendProxy::V1, client, local, format!("PROXY {told}\r\n").as_bytes());
        }
    }

    #[test]
    fn unix_clients_are_unknown() {
        for (client, local) in [("unix", "unix"), ("192.0.2.1:5", "unix")] {
            check(SendProxy::V1, client, local, b"PROXY UNKNOWN\r\n");
            check(SendProxy::V2, client, local, b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0");
        }
    }

    #[test]
    fn a_check_speaks_for_itself() {
        assert_eq!(Header::for_check(SendProxy::V1).as_bytes(), b"PROXY UNKNOWN\r\n");
        assert_eq!(Header::for_check(SendProxy::V2).as_bytes(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert_eq!(Header::for_check(SendProxy::Off).as_bytes(), b"");
    }

    #[test]
    fn the_longest_line_fits() {
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse().ok();
        let header = Header::for_session(SendProxy::V1, longest, longest);
        assert_eq!(header.as_bytes().len(), 104);
    }

    /// Reads a whole version 1 line as section 2.1 has it, and nothing else.
    fn read_v1(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let line = std::str::from_utf8(bytes).unwrap().strip_suffix("\r\n").unwrap();
        assert!(bytes.len() <= 107 && !line.contains(['\r', '\n']));
        let words: Vec<&str> = line.split(' ').collect();
        let address = |ip: &str, port: &str| {
            let number: u16 = port.parse().unwrap();
            assert_eq!(number.to_string(), port, "no leading zeroes");
            let ip: IpAddr = match words[1] {
                "TCP4" => ip.parse::<Ipv4Addr>().unwrap().into(),
                "TCP6" => ip.parse::<Ipv6Addr>().unwrap().into(),
                other => panic!("no family: {other}"),
            };
            SocketAddr::new(ip, number)
        };
        match words[..] {
            ["PROXY", "UNKNOWN"] => None,
            ["PROXY", _, client, local, client_port, local_port] => {
                Some((address(client, client_port), address(local, local_port)))
            }
            _ => panic!("not a header: {line:?}"),
        }
    }

    /// Reads a whole version 2 header as section 2.2 has it, and nothing else.
    fn read_v2(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let rest = bytes.strip_prefix(b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a").unwrap();
        let (&[command, family, high, low], body) = rest.split_first_chunk().unwrap();
        assert_eq!(command, 0x21);
        assert_eq!(usize::from(u16::from_be_bytes([high, low])), body.len());
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        match (family, body.len()) {
            (0x00, 0) => None,
            (0x11, 12) => {
                let ip = |at: usize| <[u8; 4]>::try_from(&body[at..at + 4]).unwrap();
                Some(((ip(0), port(8)).into(), (ip(4), port(10)).into()))
            }
            (0x21, 36) => {
                let ip = |at: usize| <[u8; 16]>::try_from(&body[at..at + 16]).unwrap();
                Some(((ip(0), port(32)).into(), (ip(16), port(34)).into()))
            }
            other => panic!("not a header: {other:?}"),
        }
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<u32>().prop_map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
        let mapped = any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).to_ipv6_mapped().into());
        // Runs of zeroes are what the text form abbreviates.
        let groups = prop::array::uniform8(prop_oneof![Just(0), any::<u16>()]);
        let v6 = groups.prop_map(|groups| IpAddr::from(Ipv6Addr::from(groups)));
        (prop_oneof![v4, mapped, v6], any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn a_strict_reader_gets_the_addresses_back(client in any_address(), local in any_address()) {
            let want = Some(alike(client, local));
            let header = |version| Header::for_session(version, Some(client), Some(local));
            prop_assert_eq!(read_v1(header(SendProxy::V1).as_bytes()), want);
            prop_assert_eq!(read_v2(header(SendProxy::V2).as_bytes()), want);
        }
    }
}
