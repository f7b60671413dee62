//! Binding the listening sockets: one per address and worker, before anything else can fail.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::sys;
use super::worker::Listening;
use crate::config::plan::{BindAddr, Listener, Plan};
use crate::l4::gate::tcp_options;
use crate::registry::ListenerId;

/// What could not be bound, and why, in a sentence.
#[derive(Debug)]
pub struct BindError {
    pub listener: String,
    pub address: String,
    pub detail: String,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listener, address, detail } = self;
        write!(f, "listener `{listener}` cannot bind {address}: {detail}")
    }
}

impl std::error::Error for BindError {}

/// All sockets of a plan.
#[derive(Debug)]
pub struct Bound {
    /// By worker.
    pub listening: Vec<Vec<Listening>>,
    /// By listener: the addresses as bound, with the real port where the plan says 0.
    pub addresses: Vec<Vec<BindAddr>>,
}

/// Binds and listens; nobody accepts yet, so clients that come wait in the backlog.
///
/// # Errors
/// The first address that cannot be bound; all sockets are closed again.
pub fn bind(plan: &Plan, workers: usize) -> Result<Bound, BindError> {
    let mut listening: Vec<Vec<Listening>> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (at, listener) in plan.listeners.iter().enumerate() {
        let id = ListenerId(at as u16);
        let mut bound = Vec::new();
        for address in &listener.bind {
            let failed = |error: std::io::Error| BindError {
                listener: listener.name.clone(),
                address: display(address),
                detail: explain(&error, address),
            };
            match address {
                BindAddr::Ip(address) => {
                    let real = bind_tcp(plan, listener, id, *address, &mut listening);
                    bound.push(BindAddr::Ip(real.map_err(failed)?));
                }
                BindAddr::Unix(path) => {
                    let fd = bind_unix(listener, path).map_err(failed)?;
                    listening[0].push(Listening { listener: id, fd, unix: true });
                    bound.push(address.clone());
                }
            }
        }
        addresses.push(bound);
    }
    Ok(Bound { listening, addresses })
}

fn display(address: &BindAddr) -> String {
    match address {
        BindAddr::Ip(address) => address.to_string(),
        BindAddr::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn bind_tcp(
    plan: &Plan,
    listener: &Listener,
    id: ListenerId,
    address: SocketAddr,
    listening: &mut [Vec<Listening>],
) -> std::io::Result<SocketAddr> {
    if address.port() != 0 {
        // With SO_REUSEPORT a second process of the same user would share the port silently.
        // The sockets of a listener that has the same port on another address do not collide.
        drop(tcp_socket(address, false)?);
    }
    let mut real = address;
    for sockets in listening {
        let socket = tcp_socket(real, true)?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            real = bound;
        }
        // What is accepted has these options from the start.
        let options = tcp_options(&plan.timeouts(listener));
        sys::set_no_delay(socket.as_raw_fd())?;
        sys::set_keep_alive(socket.as_raw_fd(), &options)?;
        socket.listen(listener.backlog.min(i32::MAX as u32) as i32)?;
        sockets.push(Listening { listener: id, fd: OwnedFd::from(socket), unix: false });
    }
    Ok(real)
}

fn tcp_socket(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses, each bound by name.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(listener: &Listener, path: &Path) -> std::io::Result<OwnedFd> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.unix_mode))?;
    socket.listen(listener.backlog.min(i32::MAX as u32) as i32)?;
    Ok(OwnedFd::from(socket))
}

/// Removes a socket file that nobody listens on; leaves everything else alone.
///
/// # Errors
/// When something is there that is not such a file.
pub fn remove_stale(path: &Path) -> std::io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(std::io::Error::other("the path exists and is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(stream) => {
            let owner = nix::sys::socket::getsockopt(
                &stream.as_fd(),
                nix::sys::socket::sockopt::PeerCredentials,
            );
            let owner = owner.map_or(String::new(), |peer| format!(" (pid {})", peer.pid()));
            Err(std::io::Error::other(format!("another process{owner} listens there")))
        }
        Err(error) => Err(error),
    }
}

fn explain(error: &std::io::Error, address: &BindAddr) -> String {
    let BindAddr::Ip(address) = address else { return error.to_string() };
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => match owner(*address) {
            Some(owner) => format!("the port is in use by {owner}; stop it or choose another port"),
            None => "the port is in use; stop who has it or choose another port".to_owned(),
        },
        Some(libc::EADDRNOTAVAIL) => "no interface of this machine has that address".to_owned(),
        Some(libc::EACCES) => "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
        _ => error.to_string(),
    }
}

/// Name and pid of the process that listens on a port, as far as /proc tells.
fn owner(address: SocketAddr) -> Option<String> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let port = format!(":{:04X}", address.port());
    let text = std::fs::read_to_string(table).ok()?;
    let inode = text.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        (local.ends_with(&port) && state == "0A").then(|| fields.nth(5))?
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let mut fds = fds.flatten();
        if fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*wanted)) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), process.file_name().display()));
        }
    }
    None
}
