//! Addresses as people write them, each mistake with what to write instead.
//!
//! `ip:port`, `[v6]:port`, `unix:/path`; for servers also `dns:host:port` and
//! `srv:_service._proto.name`; networks and plain addresses. Nothing is resolved here.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;

use super::plan::{BindAddr, ServerAddr};

/// `sockaddr_un` holds 108 bytes with the final zero.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// A name in DNS (RFC 1035 §2.3.4), without the final dot.
const HOST_BYTES_MAX: usize = 253;

/// Why a text is no such address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    /// A clause that continues the value, for example "has no port".
    pub problem: String,
    /// What to write instead; may be empty.
    pub hint: String,
}

fn fail<T>(problem: impl Into<String>, hint: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError { problem: problem.into(), hint: hint.into() })
}

/// An address to listen on. Port 0 is a free port.
///
/// # Errors
/// Names, missing ports, and what no socket can be bound to.
pub fn bind(text: &str) -> Result<BindAddr, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(BindAddr::Unix(unix_path(path)?));
    }
    for prefix in ["dns:", "srv:"] {
        if text.starts_with(prefix) {
            return fail(
                "is a name, but a listener binds an address",
                "write \"0.0.0.0:PORT\" or \"[::]:PORT\"",
            );
        }
    }
    let address = socket(text, "127.0.0.1")?;
    if address.ip().is_multicast() || is_broadcast(address.ip()) {
        return fail(
            "is not an address of a host",
            "write an address of this machine, \"0.0.0.0:PORT\" or \"[::]:PORT\"",
        );
    }
    Ok(BindAddr::Ip(address))
}

/// An address to connect to.
///
/// # Errors
/// Missing ports, port 0, names without `dns:`, and addresses that are no host's.
pub fn server(text: &str) -> Result<ServerAddr, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(ServerAddr::Unix(unix_path(path)?));
    }
    if let Some(rest) = text.strip_prefix("dns:") {
        return dns(rest);
    }
    if let Some(name) = text.strip_prefix("srv:") {
        return srv(name);
    }
    let address = socket(text, "10.0.0.11")?;
    if address.port() == 0 {
        return fail("has port 0", "ports of servers are 1 to 65535");
    }
    if address.ip().is_unspecified() {
        return fail("is no address to connect to", "write \"127.0.0.1:PORT\" for this machine");
    }
    if address.ip().is_multicast() || is_broadcast(address.ip()) {
        return fail("is no address of a single host", "");
    }
    Ok(ServerAddr::Ip(address))
}

/// The server that an address of the web names, `example.com:8443`; `port` is the usual one.
#[must_use]
pub fn of_web(host: &str, port: u16) -> Option<ServerAddr> {
    let with_port = format!("{host}:{port}");
    server(host)
        .or_else(|_| server(&with_port))
        .or_else(|_| server(&format!("dns:{host}")))
        .or_else(|_| server(&format!("dns:{with_port}")))
        .ok()
}

fn dns(rest: &str) -> Result<ServerAddr, AddressError> {
    let Some((host, port)) = rest.rsplit_once(':') else {
        return fail("has no port", format!("write \"dns:{rest}:PORT\""));
    };
    let port = self::port(port)?;
    if port == 0 {
        return fail("has port 0", "ports of servers are 1 to 65535");
    }
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return fail(
            "is an address and not a name",
            format!("write \"{host}:{port}\" without `dns:`"),
        );
    }
    host_name(host, false)?;
    Ok(ServerAddr::Dns { host: host.to_owned(), port })
}

fn srv(name: &str) -> Result<ServerAddr, AddressError> {
    const HINT: &str = "write \"srv:_service._tcp.name\"";
    if name.contains(':') {
        return fail("has a port, which an SRV record brings itself", HINT);
    }
    let labels: Vec<&str> = name.split('.').collect();
    if labels.len() < 3 || !labels[0].starts_with('_') || !labels[1].starts_with('_') {
        return fail("is not the name of an SRV record", HINT);
    }
    host_name(name, true)?;
    Ok(ServerAddr::Srv { name: name.to_owned() })
}

/// A host name of letters, digits and hyphens; `underscores` are for SRV labels only, as
/// names in `/etc/hosts` and containers have them they are taken everywhere.
fn host_name(host: &str, underscores: bool) -> Result<(), AddressError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return fail("has no host name", if underscores { "" } else { "write \"dns:host:PORT\"" });
    }
    if host.len() > HOST_BYTES_MAX {
        return fail(format!("has a name longer than {HOST_BYTES_MAX} bytes"), "");
    }
    let fits = |label: &str| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(ok) && !label.starts_with('-')
    };
    if !host.split('.').all(fits) {
        return fail(
            "has a name that DNS cannot have",
            "labels of 1 to 63 letters, digits and hyphens, between dots",
        );
    }
    Ok(())
}

/// `ip:port`. `example` stands in for the address in hints.
fn socket(text: &str, example: &str) -> Result<SocketAddr, AddressError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        // IPv4-mapped is IPv4 everywhere.
        return Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
            .map(|plain| if address.is_ipv6() && plain.is_ipv6() { address } else { plain });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return fail(format!("is a URL ({scheme})"), format!("write \"{example}:PORT\""));
    }
    if text.starts_with('/') {
        return fail("is a path", format!("write \"unix:{text}\""));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let shown = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        return fail("has no port", format!("write \"{shown}:PORT\""));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            return fail("has no address", format!("write \"{example}:{text}\""));
        }
        return fail("is not an address with a port", format!("write \"{example}:PORT\""));
    };
    let port = self::port(port)?;
    match host {
        "" | "*" => fail(
            "has no address",
            format!(
                "write \"0.0.0.0:{port}\" or \"[::]:{port}\" for all, \"127.0.0.1:{port}\" for this machine"
            ),
        ),
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            fail("is an IPv6 address without brackets", format!("write \"[{host}]:{port}\""))
        }
        _ if host.bytes().any(|b| b.is_ascii_alphabetic()) && !host.contains([':', '[']) => fail(
            "has a name where an address belongs",
            format!("servers may be names: \"dns:{host}:{port}\""),
        ),
        _ => fail("is not an IP address with a port", format!("write \"{example}:{port}\"")),
    }
}

fn port(text: &str) -> Result<u16, AddressError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits => Ok(port),
        _ if digits => fail(format!("has port {}, and ports end at 65535", clip(text)), ""),
        _ => fail(format!("has no port number after the last colon, but \"{}\"", clip(text)), ""),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

fn unix_path(path: &str) -> Result<PathBuf, AddressError> {
    if !path.starts_with('/') {
        return fail("is not an absolute path", "write \"unix:/run/name.sock\"");
    }
    if path.contains('\0') {
        return fail("has a NUL byte in its path", "");
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return fail(
            format!(
                "has a path longer than the {UNIX_PATH_BYTES_MAX} bytes a socket address holds"
            ),
            "",
        );
    }
    if path.ends_with('/') {
        return fail("ends in a slash, so it is a directory", "");
    }
    // `/run/./x` and `/run//x` are `/run/x`; comparing components sees that.
    Ok(PathBuf::from(path).components().collect())
}

/// The path without `..`, as it reads: `/run/a/../x` is `/run/x`. Only for comparing: where a part
/// is a symbolic link, it may be elsewhere.
#[must_use]
pub fn plain_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// A network, or one address. The flag says that bits after the prefix were set.
///
/// # Errors
/// Anything else, and prefixes longer than the address.
pub fn network(text: &str) -> Result<(IpNet, bool), AddressError> {
    const HINT: &str = "write \"10.0.0.0/8\", \"2001:db8::/32\" or a single address";
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((IpNet::from(ip.to_canonical()), false));
    }
    let Some((ip, prefix)) = text.split_once('/') else {
        return fail("is not a network", HINT);
    };
    let Ok(ip) = ip.parse::<IpAddr>() else {
        return fail("is not a network", HINT);
    };
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix = prefix.parse::<u8>().ok().filter(|_| digits);
    let Some(net) = prefix.and_then(|prefix| IpNet::new(ip, prefix).ok()) else {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        return fail("has no prefix length after the slash", format!("a number from 0 to {most}"));
    };
    let plain = unmapped(net.trunc());
    Ok((plain, net.trunc() != net))
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).unwrap_or(net),
            None => net,
        },
        other => other,
    }
}

/// A local address to connect from.
///
/// # Errors
/// Ports, names, and addresses that no host has.
pub fn ip(text: &str) -> Result<IpAddr, AddressError> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        let hint = if text.parse::<SocketAddr>().is_ok() {
            "leave the port out"
        } else {
            "write \"10.0.0.5\""
        };
        return fail("is not an address", hint);
    };
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip) {
        return fail("is no address of a single host", "");
    }
    Ok(ip)
}

/// A name server; port 53 unless it says another.
///
/// # Errors
/// Anything that is not an address.
pub fn resolver(text: &str) -> Result<SocketAddr, AddressError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 53));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => fail("is not the address of a name server", "write \"9.9.9.9\" or \"9.9.9.9:53\""),
    }
}

/// A Host header's value: a name or an address, perhaps with a port.
#[must_use]
pub fn is_host(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) {
        return true;
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    host_name(host, false).is_ok() && port.is_none_or(|port| self::port(port).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_bind_addresses_with_ports_and_paths() {
        for text in ["0.0.0.0:5432", "[::]:80", "127.0.0.1:0", "[fe80::1%2]:80", "unix:/run/x.sock"]
        {
            assert!(bind(text).is_ok(), "{text}");
        }
        for (text, hint) in [
            ("127.0.0.1", "\"127.0.0.1:PORT\""),
            ("::1", "\"[::1]:PORT\""),
            ("5432", "127.0.0.1:5432"),
            (":5432", "\"0.0.0.0:5432\""),
            ("*:80", "\"0.0.0.0:80\""),
            ("localhost:80", "dns:localhost:80"),
            ("2001:db8:1:2:3:4:5:6:80", "\"[2001:db8:1:2:3:4:5:6]:80\""),
            ("/run/x.sock", "\"unix:/run/x.sock\""),
            ("http://1.2.3.4:80", "PORT"),
            ("unix:x.sock", "unix:/run/"),
            ("dns:x:80", "0.0.0.0:PORT"),
        ] {
            let error = bind(text).unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
        for text in [
            "",
            ":",
            "1.2.3.4:70000",
            "1.2.3.4:-1",
            "1.2.3.4:+80",
            "1.2.3:80",
            "224.0.0.1:80",
            "[::1]",
            "[:80",
            "unix:",
            "unix:/",
            "a:b:c",
        ] {
            assert!(bind(text).is_err(), "{text}");
        }
        assert!(bind(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn a_port_past_65535_is_named() {
        assert!(server("127.0.0.1:70000").unwrap_err().problem.contains("port 70000"));
    }

    #[test]
    fn servers_may_be_names() {
        let dns = ServerAddr::Dns { host: "db.internal".into(), port: 5432 };
        assert_eq!(server("dns:db.internal:5432"), Ok(dns));
        assert_eq!(
            server("srv:_pg._tcp.x.internal"),
            Ok(ServerAddr::Srv { name: "_pg._tcp.x.internal".into() })
        );
        for text in [
            "dns:",
            "dns:x",
            "dns::80",
            "dns:x:0",
            "dns:x:99999",
            "dns:10.0.0.1:80",
            "dns:a b:80",
            "dns:-x:80",
            "dns:a..b:80",
            "srv:x",
            "srv:_a._tcp.x:80",
            "0.0.0.0:80",
            "10.0.0.1:0",
            "localhost:80",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(server("[::ffff:10.0.0.1]:80"), server("10.0.0.1:80"));
        assert_eq!(network("::ffff:10.0.0.0/104").unwrap().0, "10.0.0.0/8".parse().unwrap());
    }

    #[test]
    fn host_bits_of_a_network_are_seen() {
        assert_eq!(network("10.1.2.3/8").unwrap(), ("10.0.0.0/8".parse().unwrap(), true));
        assert!(!network("10.1.2.3").unwrap().1);
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "x/8", "::/129", "10.0.0/8"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
