//! The client's address and scheme behind proxies that are trusted.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::route::{Fields, lines};

/// Entries of X-Forwarded-For that are read. No chain of proxies is longer; a longer list is an
/// attempt to make us read it.
pub const FORWARDED_MAX: usize = 32;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// `None` on a Unix listener.
    pub ip: Option<IpAddr>,
    /// The peer is in `trusted_proxies`.
    pub peer_trusted: bool,
}

impl Client {
    /// Walks X-Forwarded-For from the right past trusted entries, if the peer is trusted.
    ///
    /// A malformed entry, or the one after [`FORWARDED_MAX`], ends the walk at the last good one.
    #[must_use]
    pub fn find(peer: Option<IpAddr>, fields: &dyn Fields, trusted: &[IpNet]) -> Self {
        let is_trusted = |ip: IpAddr| trusted.iter().any(|net| contains(net, ip));
        let Some(peer) = peer.map(|ip| ip.to_canonical()) else {
            return Self { ip: None, peer_trusted: false };
        };
        if !is_trusted(peer) {
            return Self { ip: Some(peer), peer_trusted: false };
        }
        let count = lines(fields, "x-forwarded-for").count();
        let from_the_right = (0..count).rev().filter_map(|nth| fields.line("x-forwarded-for", nth));
        let entries = from_the_right.flat_map(|line| line.rsplit(|&byte| byte == b','));
        let mut last_good = peer;
        for entry in entries.take(FORWARDED_MAX) {
            let Some(ip) = address(entry.trim_ascii()) else { break };
            last_good = ip;
            if !is_trusted(ip) {
                break;
            }
        }
        Self { ip: Some(last_good), peer_trusted: true }
    }
}

/// The scheme as the client sees it: a trusted peer's X-Forwarded-Proto, else the listener's.
#[must_use]
pub fn scheme(fields: &dyn Fields, peer_trusted: bool, is_tls: bool) -> &'static str {
    let own = if is_tls { "https" } else { "http" };
    if !peer_trusted || fields.line("x-forwarded-proto", 1).is_some() {
        return own;
    }
    match fields.line("x-forwarded-proto", 0) {
        Some(said) if said.eq_ignore_ascii_case(b"https") => "https",
        Some(said) if said.eq_ignore_ascii_case(b"http") => "http",
        _ => own,
    }
}

/// A mapped IPv4 address is the IPv4 address, in lists too.
fn contains(net: &IpNet, ip: IpAddr) -> bool {
    if let (IpNet::V6(net), IpAddr::V4(ip)) = (net, ip) {
        return net.prefix_len() >= 96 && net.contains(&ip.to_ipv6_mapped());
    }
    net.contains(&ip)
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let ip: Option<IpAddr> = text.parse().ok().or_else(bracketed).or_else(with_port);
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().expect("net")).collect();
        let fields: Vec<(String, String)> = forwarded
            .iter()
            .map(|line| ("X-Forwarded-For".to_owned(), (*line).to_owned()))
            .collect();
        let peer = peer.parse().expect("address");
        Client::find(Some(peer), &fields, &trusted).ip.expect("an address").to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(client("192.0.2.1", &["127.0.0.1", "10.0.0.1"]), "192.0.2.1");
    }

    #[test]
    fn the_first_entry_from_the_right_that_is_not_trusted_is_the_client() {
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.7, 10.0.0.2"]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "192.0.2.7", "10.0.0.2"]), "192.0.2.7");
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["192.0.2.7:4711"]), "192.0.2.7");
    }

    #[test]
    fn a_malformed_entry_ends_the_walk_at_the_last_good_one() {
        assert_eq!(client("10.0.0.1", &["192.0.2.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["192.0.2.7,"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn the_thirty_third_entry_is_not_read() {
        let trusted = "10.0.0.9, ".repeat(FORWARDED_MAX - 1);
        assert_eq!(client("10.0.0.1", &[&format!("192.0.2.7, {trusted}10.0.0.2")]), "10.0.0.9");
        let one_less = "10.0.0.9, ".repeat(FORWARDED_MAX - 2);
        assert_eq!(client("10.0.0.1", &[&format!("192.0.2.7, {one_less}10.0.0.2")]), "192.0.2.7");
    }

    #[test]
    fn the_scheme_is_believed_from_trusted_peers_in_one_clear_line() {
        let https = [("X-Forwarded-Proto", "HTTPS")];
        assert_eq!(scheme(&https, true, false), "https");
        assert_eq!(scheme(&https, false, false), "http");
        assert_eq!(scheme(&[("X-Forwarded-Proto", "https, http")], true, false), "http");
        let twice = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")];
        assert_eq!(scheme(&twice, true, false), "http");
    }

    proptest! {
        #[test]
        fn an_untrusted_peer_never_chooses_its_address(lines in prop::collection::vec(".*", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(client("192.0.2.1", &lines), "192.0.2.1");
        }

        #[test]
        fn what_a_client_writes_to_the_left_changes_nothing(left in "[ -~]{0,60}") {
            let line = format!("{left}, 192.0.2.7, 10.0.0.2");
            prop_assert_eq!(client("10.0.0.1", &[&line]), "192.0.2.7");
        }
    }
}
