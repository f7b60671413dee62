//! Addresses as the data path uses them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// Where a server is reached. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Ip(SocketAddr),
    Unix(Arc<Path>),
}

impl Endpoint {
    #[must_use]
    pub const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        matches!(self, Self::Ip(SocketAddr::V6(_)))
    }

    /// Those of a pool's `source` that connections to it can come from: none for a unix socket,
    /// nor for a name's address of a family that `source` does not have.
    pub fn sources(&self, all: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
        let fits = |source: &&IpAddr| match self {
            Self::Ip(address) => source.is_ipv4() == address.is_ipv4(),
            Self::Unix(_) => false,
        };
        all.iter().filter(fits).copied()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A client's TCP address, or nothing for a unix socket, in 18 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// IPv4 as IPv4-mapped; all zero: a unix client.
    ip: [u8; 16],
    port: u16,
}

impl Peer {
    pub const UNIX: Self = Self { ip: [0; 16], port: 0 };

    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        if self == Self::UNIX {
            return None;
        }
        Some(SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port))
    }

    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.address().map(|address| address.ip())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Self { ip, port: address.port() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}
