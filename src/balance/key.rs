//! What the hashing policies hash: the client, and the servers.
//!
//! Both hashes have fixed keys and a fixed encoding, because two instances in front of the same
//! servers have to agree. So they are no defence: a client can choose its server, as it can
//! with any published hash of its own address.

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use siphasher::sip::SipHasher13;

use super::Rng;
use crate::net::Endpoint;

/// Says which sessions belong together for a hashing policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey(u64);

impl FlowKey {
    /// Of a client's address (without its port); a unix client has none and gets a random key.
    pub fn of(client: Option<IpAddr>, rng: &mut Rng) -> Self {
        client.map_or_else(|| Self(rng.next_u64()), Self::of_ip)
    }

    #[must_use]
    pub fn of_ip(client: IpAddr) -> Self {
        Self(SipHasher13::new_with_keys(1, 1).hash(&mapped(client)))
    }

    /// Of a consumer.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// Of whatever else a request goes by.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(SipHasher13::new_with_keys(1, 1).hash(bytes))
    }

    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// What a sticky cookie says for a server of a pool: the same in every instance.
#[must_use]
pub fn sticky_key(pool: &str, server: &str, address: &Endpoint) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = SipHasher13::new_with_keys(2, 2);
    for name in [pool, server] {
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
    }
    hasher.write_u64(server_key(address));
    hasher.finish()
}

/// Of a server's address: what ip-hash and maglev know it by, so that a new name or another
/// place in the file moves no client.
#[must_use]
pub fn server_key(address: &Endpoint) -> u64 {
    let hasher = SipHasher13::new_with_keys(2, 2);
    match address {
        Endpoint::Ip(address) => {
            let mut bytes = [0; 18];
            bytes[..16].copy_from_slice(&mapped(address.ip()));
            bytes[16..].copy_from_slice(&address.port().to_be_bytes());
            hasher.hash(&bytes)
        }
        // Eighteen bytes of path could equal an IP address only if the path held a NUL.
        Endpoint::Unix(path) => hasher.hash(path.as_os_str().as_bytes()),
    }
}

/// One encoding for an IPv4 address and its IPv4-mapped form.
const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_mapped_ipv4_client_is_the_ipv4_client() {
        let (v4, v6) = ("192.0.2.7".parse().unwrap(), "::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(FlowKey::of_ip(v4), FlowKey::of_ip(v6));
    }

    #[test]
    fn keys_are_the_same_in_every_build() {
        // If this fails, instances of two versions disagree: say so in the changelog.
        let client = FlowKey::of_ip("192.0.2.7".parse().unwrap());
        let server = server_key(&Endpoint::Ip("192.0.2.7:80".parse().unwrap()));
        let unix = server_key(&Endpoint::Unix(Path::new("/run/app.sock").into()));
        assert_eq!(
            (client.bits(), server, unix),
            (0xc599_b084_1bb6_7415, 0x1467_a152_d1f9_6220, 0x7fbd_f617_5442_c6fd)
        );
    }

    #[test]
    fn a_sticky_key_is_another_for_each_pool_server_and_address() {
        let address = |text: &str| Endpoint::Ip(text.parse().unwrap());
        let one = sticky_key("app", "a", &address("192.0.2.7:80"));
        assert_ne!(one, sticky_key("app", "a", &address("192.0.2.8:80")));
        assert_ne!(one, sticky_key("app", "b", &address("192.0.2.7:80")));
        assert_ne!(one, sticky_key("ap", "pa", &address("192.0.2.7:80")));
    }

    #[test]
    fn unix_clients_get_keys_of_their_own() {
        let mut rng = Rng::new(7);
        assert_ne!(FlowKey::of(None, &mut rng), FlowKey::of(None, &mut rng));
    }
}
