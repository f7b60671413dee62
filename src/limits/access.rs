//! `allow` and `deny` of a listener.

use std::net::IpAddr;

use ipnet::IpNet;

/// Two lists of networks, merged into ranges in order, so that a thousand entries cost ten
/// comparisons.
#[derive(Clone, Debug)]
pub struct AccessList {
    /// `None`: everybody who is not denied.
    allow: Option<Ranges>,
    deny: Ranges,
}

impl AccessList {
    #[must_use]
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        Self { allow: (!allow.is_empty()).then(|| Ranges::new(allow)), deny: Ranges::new(deny) }
    }

    /// `deny` wins over `allow`; an `allow` with entries means nobody else.
    #[must_use]
    pub fn permits(&self, client: IpAddr) -> bool {
        !self.deny.contains(client)
            && self.allow.as_ref().is_none_or(|allow| allow.contains(client))
    }
}

/// Addresses by family: `::/0` is all of IPv6 and nothing of IPv4, although an IPv4 client may
/// show up as IPv4-mapped.
#[derive(Clone, Debug)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    fn new(nets: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match (net.network().to_canonical(), net.broadcast().to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.into(), last.into())),
                // One end may look mapped only because the network reaches beyond those.
                _ => {
                    if let IpNet::V6(net) = net {
                        v6.push((net.network().into(), net.broadcast().into()));
                    }
                }
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    fn contains(&self, client: IpAddr) -> bool {
        match client.to_canonical() {
            IpAddr::V4(ip) => is_in(&self.v4, ip.into()),
            IpAddr::V6(ip) => is_in(&self.v6, ip.into()),
        }
    }
}

/// Networks are nested or apart, so a range begins before the last one's end only if it is
/// inside.
fn merged<N: Copy + Ord>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ranges.dedup_by(|next, last| next.0 <= last.1);
    ranges
}

fn is_in<N: Copy + Ord>(ranges: &[(N, N)], ip: N) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= ip);
    after > 0 && ip <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn check(allow: &[&str], deny: &[&str], permitted: &[&str], refused: &[&str]) {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let list = AccessList::new(&nets(allow), &nets(deny));
        for ip in permitted {
            assert!(list.permits(ip.parse().unwrap()), "{ip} is refused");
        }
        for ip in refused {
            assert!(!list.permits(ip.parse().unwrap()), "{ip} is permitted");
        }
    }

    #[test]
    fn without_lists_everybody_is_permitted() {
        check(&[], &[], &["192.0.2.1", "2001:db8::1"], &[]);
    }

    #[test]
    fn allow_means_nobody_else() {
        check(
            &["10.0.0.0/8", "192.0.2.7/32"],
            &[],
            &["10.0.0.0", "10.255.255.255", "192.0.2.7"],
            &["9.255.255.255", "11.0.0.0", "192.0.2.8", "2001:db8::1"],
        );
    }

    #[test]
    fn deny_wins_over_a_narrower_allow() {
        check(&["10.1.1.1/32"], &["10.0.0.0/8"], &[], &["10.1.1.1", "10.2.2.2", "192.0.2.1"]);
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_address_in_clients_and_in_lists() {
        check(&["10.0.0.0/8"], &[], &["::ffff:10.1.2.3"], &["::ffff:11.1.2.3"]);
        check(&["::ffff:10.0.0.0/104"], &[], &["10.1.2.3", "::ffff:10.1.2.3"], &["11.1.2.3"]);
    }

    #[test]
    fn all_of_ipv6_says_nothing_about_ipv4() {
        check(&["::/0"], &[], &["2001:db8::1"], &["192.0.2.1", "::ffff:192.0.2.1"]);
        check(&[], &["::/64"], &["192.0.2.1"], &["::1"]);
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that nets and clients meet.
        let v4 = (0..64_u32, 24..=32_u8)
            .prop_map(|(ip, len)| Ipv4Net::new_assert(Ipv4Addr::from(ip), len).into());
        let v6 = (0..64_u128, 120..=128_u8)
            .prop_map(|(ip, len)| Ipv6Net::new_assert(Ipv6Addr::from(ip << 64 | ip), len).into());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_of_the_lists(
            allow in prop::collection::vec(any_net(), 0..6),
            deny in prop::collection::vec(any_net(), 0..6),
            client in 0..64_u32,
            six: bool,
        ) {
            let wide = u128::from(client);
            let client: IpAddr = if six {
                Ipv6Addr::from(wide << 64 | wide).into()
            } else {
                Ipv4Addr::from(client).into()
            };
            let listed = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&client));
            let permitted = !listed(&deny) && (allow.is_empty() || listed(&allow));
            prop_assert_eq!(AccessList::new(&allow, &deny).permits(client), permitted);
        }
    }
}
