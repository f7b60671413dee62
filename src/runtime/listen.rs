//! The listening sockets: one per address and worker, bound before anything else can fail, and
//! rearranged when a new plan has other addresses.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use socket2::{Domain, SockAddr, SockRef, Socket as Sock, Type};

use super::mail::DoorChanges;
use super::sys;
use super::worker::{Listening, SocketId};
use crate::config::plan::{BindAddr, Listener, Plan};
use crate::control::upgrade::{Handed, Inherited, Place, Successor, copies};
use crate::l4::gate::tcp_options;
use crate::observe::view::bind_text;
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

/// One bound address: by worker its socket, and which listener accepts there.
///
/// Holds a descriptor of each socket beside the worker's, so that options can be changed and the
/// socket handed on. The kernel closes a socket with its last descriptor, so this one goes first.
#[derive(Debug)]
struct Socket {
    id: SocketId,
    listener: ListenerId,
    /// As the plan says it.
    planned: BindAddr,
    /// With the real port where the plan says 0.
    real: BindAddr,
    fds: Vec<OwnedFd>,
    /// See [`Handed::managed`].
    managed: bool,
}

/// All listening sockets of the process.
#[derive(Debug, Default)]
pub struct Sockets {
    all: Vec<Socket>,
    next: u32,
    /// What another process handed over, until it is asked for.
    inherited: Inherited,
}

/// What a new plan does to the sockets.
#[derive(Debug, Default)]
pub struct Rearranged {
    /// By worker.
    pub doors: Vec<DoorChanges>,
    /// By listener: the addresses as bound, with the real port where the plan says 0.
    pub addresses: Vec<Vec<BindAddr>>,
}

impl Sockets {
    /// None yet, but for those that another process handed over.
    #[must_use]
    pub fn inheriting(inherited: Inherited) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// Closes what was handed over and is not in the plan; who is to be told that we accept.
    pub fn finish_inheriting(&mut self) -> Option<Successor> {
        self.inherited.finish()
    }

    /// What was handed over for this place.
    pub fn inherit(&mut self, place: &Place) -> Vec<OwnedFd> {
        self.inherited.take(place).map(|handed| handed.fds).unwrap_or_default()
    }

    /// Other descriptors of all sockets, to hand over. `plan` is the one they were rearranged for.
    ///
    /// # Errors
    /// dup(2)'s.
    pub fn copies(&self, plan: &Plan) -> std::io::Result<Vec<Handed>> {
        let copy = |socket: &Socket| {
            let listener = &plan.listeners[usize::from(socket.listener.0)].name;
            let place = Place::of(listener, &socket.planned);
            Ok(Handed { place, fds: copies(&socket.fds)?, managed: socket.managed })
        };
        let unused = self.inherited.managed().filter(|one| !self.has(&one.place));
        let unused = unused.filter_map(Handed::copy).map(Ok);
        self.all.iter().map(copy).chain(unused).collect()
    }

    /// A listener is bound to the address of `place`.
    fn has(&self, place: &Place) -> bool {
        self.all.iter().any(|socket| bind_text(&socket.planned) == place.address)
    }

    /// Addresses at which a service manager listens for us and no listener is.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let unused = self.inherited.managed().filter(|one| !self.has(&one.place));
        unused.map(|one| one.place.address.clone()).collect()
    }

    /// Binds what is new in `plan` and listens; nobody accepts there yet, so clients that come
    /// wait in the backlog. What is no longer in it is let go. A socket whose address is in both
    /// stays, with its queue, and goes to another listener where the plan says so.
    ///
    /// `commit` is asked once all is bound; if it refuses, nothing has changed.
    ///
    /// # Errors
    /// The first address that cannot be bound, or what `commit` says; nothing has changed then.
    pub fn rearrange<T>(
        &mut self,
        plan: &Plan,
        workers: usize,
        commit: impl FnOnce() -> Result<T, String>,
    ) -> Result<(Rearranged, T), String> {
        let mut doors: Vec<DoorChanges> = (0..workers).map(|_| DoorChanges::default()).collect();
        let mut wanted = Vec::new();
        for (at, listener) in plan.listeners.iter().enumerate() {
            let binds = listener.bind.iter();
            wanted.extend(binds.map(|address| (ListenerId(at as u16), listener, address)));
        }
        // Kept ones are only marked until everything new is bound.
        let kept: Vec<Option<usize>> = self.keep(&wanted);
        let mut fresh: Vec<Socket> = Vec::new();
        for (&(id, listener, address), kept) in wanted.iter().zip(&kept) {
            if kept.is_none() {
                let bound = self.bind(plan, (id, listener), address, &fresh, &mut doors);
                fresh.push(bound.map_err(|error| error.to_string())?);
            }
        }
        let committed = commit()?;
        let mut free: Vec<_> = std::mem::take(&mut self.all).into_iter().map(Some).collect();
        let mut fresh = fresh.into_iter();
        let mut addresses: Vec<Vec<BindAddr>> = vec![Vec::new(); plan.listeners.len()];
        for (&(id, listener, _), kept) in wanted.iter().zip(kept) {
            let Some(mut socket) = kept.map_or_else(|| fresh.next(), |at| free[at].take()) else {
                continue;
            };
            if socket.listener != id {
                for doors in &mut doors {
                    doors.moved.push((socket.id, id));
                }
                socket.listener = id;
            }
            socket.set_options(plan, listener);
            addresses[usize::from(id.0)].push(socket.real.clone());
            self.all.push(socket);
        }
        for gone in free.into_iter().flatten() {
            for doors in &mut doors {
                doors.closed.push(gone.id);
            }
            if let Some(path) = gone.file() {
                // Who connects from now on finds nobody; who is in the queue is served.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok((Rearranged { doors, addresses }, committed))
    }

    /// For each wanted address which of the sockets it keeps: its listener's own first.
    fn keep(&self, wanted: &[(ListenerId, &Listener, &BindAddr)]) -> Vec<Option<usize>> {
        let mut taken = vec![false; self.all.len()];
        let mut find = |id: ListenerId, address: &BindAddr, own: bool| {
            let fits = |(at, socket): (usize, &Socket)| {
                !taken[at] && socket.planned == *address && (socket.listener == id) == own
            };
            let at = self.all.iter().enumerate().position(fits)?;
            taken[at] = true;
            Some(at)
        };
        let own: Vec<_> = wanted.iter().map(|&(id, _, address)| find(id, address, true)).collect();
        let others = wanted.iter().zip(own);
        others
            .map(|(&(id, _, address), own)| {
                // A port of the kernel's choice is nobody else's.
                let any = matches!(address, BindAddr::Ip(address) if address.port() == 0);
                own.or_else(|| (!any).then(|| find(id, address, false)).flatten())
            })
            .collect()
    }

    fn bind(
        &mut self,
        plan: &Plan,
        (listener, planned): (ListenerId, &Listener),
        address: &BindAddr,
        fresh: &[Socket],
        doors: &mut [DoorChanges],
    ) -> Result<Socket, BindError> {
        let failed = |error: std::io::Error| BindError {
            listener: planned.name.clone(),
            address: display(address),
            detail: explain(&error, address),
        };
        if let Some(given) = self.inherited.take(&Place::of(&planned.name, address)) {
            return self.adopt(plan, (listener, planned), address, given, doors).map_err(failed);
        }
        // Ours may overlap, as a wildcard address and one of an interface do.
        let ours =
            |ip: &SocketAddr| self.all.iter().chain(fresh).any(|socket| socket.has_port(ip.port()));
        let (real, sockets, unix) = match address {
            BindAddr::Ip(ip) => {
                let alone = !ours(ip);
                let (real, sockets) =
                    bind_tcp(plan, planned, *ip, doors.len(), alone).map_err(failed)?;
                (BindAddr::Ip(real), sockets, false)
            }
            BindAddr::Unix(path) => (
                address.clone(),
                vec![bind_unix(path, planned.unix_mode, planned.backlog).map_err(failed)?],
                true,
            ),
        };
        let id = SocketId(self.next);
        self.next += 1;
        let mut fds = Vec::new();
        for (fd, doors) in sockets.into_iter().zip(doors) {
            fds.push(fd.try_clone().map_err(failed)?);
            let managed = false;
            doors.opened.push(Listening { id, listener, fd, unix, managed });
        }
        Ok(Socket { id, listener, planned: address.clone(), real, fds, managed: false })
    }

    /// Puts sockets to use that another process has bound. Each worker has one; where there were
    /// more workers, some have several, where there were fewer, some bind their own or, if the
    /// address is not to be shared, accept from the same queue.
    fn adopt(
        &mut self,
        plan: &Plan,
        (listener, planned): (ListenerId, &Listener),
        address: &BindAddr,
        given: Handed,
        doors: &mut [DoorChanges],
    ) -> std::io::Result<Socket> {
        let Handed { mut fds, managed, .. } = given;
        let first = SockRef::from(&fds[0]);
        let local = first.local_addr()?;
        let unix = matches!(address, BindAddr::Unix(_));
        let shared = !unix && first.reuse_port()?;
        let real = local.as_socket().map_or_else(|| address.clone(), BindAddr::Ip);
        let given = fds.len();
        while !unix && fds.len() < doors.len() {
            let more = match (&real, shared) {
                (BindAddr::Ip(ip), true) => bind_tcp(plan, planned, *ip, 1, false)?.1,
                _ => copies(&fds[..1])?,
            };
            fds.extend(more);
        }
        let id = SocketId(self.next);
        self.next += 1;
        let workers = doors.len();
        for (at, fd) in copies(&fds)?.into_iter().enumerate() {
            if let BindAddr::Ip(_) = real {
                sys::set_no_delay(fd.as_raw_fd())?;
            }
            // One that was bound here is nobody else's.
            let managed = managed && (at < given || !shared);
            doors[at % workers].opened.push(Listening { id, listener, fd, unix, managed });
        }
        Ok(Socket { id, listener, planned: address.clone(), real, fds, managed })
    }

    /// Lets go of all: what workers have is what there is. The files that go when they close it,
    /// unless it was handed over.
    pub fn release(&mut self) -> Vec<PathBuf> {
        self.all.drain(..).filter_map(|socket| socket.file().map(Path::to_owned)).collect()
    }
}

impl Socket {
    /// The file of a socket that is nobody else's.
    fn file(&self) -> Option<&Path> {
        match &self.real {
            BindAddr::Unix(path) if !self.managed => Some(path),
            _ => None,
        }
    }

    fn has_port(&self, port: u16) -> bool {
        matches!(self.real, BindAddr::Ip(address) if address.port() == port)
    }

    /// What a plan says of a socket that is bound. What is accepted has these from the start.
    fn set_options(&self, plan: &Plan, listener: &Listener) {
        let options = tcp_options(&plan.timeouts(listener));
        for fd in &self.fds {
            // A longer or shorter queue. Both were accepted when the socket was bound.
            let _ = SockRef::from(fd).listen(listener.backlog.min(i32::MAX as u32) as i32);
            if matches!(self.real, BindAddr::Ip(_)) {
                let _ = sys::set_keep_alive(fd.as_raw_fd(), &options);
            }
        }
        if let BindAddr::Unix(path) = &self.real {
            let mode = std::fs::Permissions::from_mode(listener.unix_mode);
            let _ = std::fs::set_permissions(path, mode);
        }
    }
}

fn display(address: &BindAddr) -> String {
    match address {
        BindAddr::Ip(address) => address.to_string(),
        BindAddr::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// A socket for each worker.
fn bind_tcp(
    plan: &Plan,
    listener: &Listener,
    address: SocketAddr,
    workers: usize,
    alone: bool,
) -> std::io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if alone && address.port() != 0 {
        // With SO_REUSEPORT a second process of the same user would share the port silently.
        // The sockets of a listener that has the same port on another address do not collide.
        drop(tcp_socket(address, false)?);
    }
    let mut real = address;
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = tcp_socket(real, true)?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            real = bound;
        }
        let options = tcp_options(&plan.timeouts(listener));
        sys::set_no_delay(socket.as_raw_fd())?;
        sys::set_keep_alive(socket.as_raw_fd(), &options)?;
        socket.listen(listener.backlog.min(i32::MAX as u32) as i32)?;
        sockets.push(OwnedFd::from(socket));
    }
    Ok((real, sockets))
}

fn tcp_socket(address: SocketAddr, shared: bool) -> std::io::Result<Sock> {
    let socket = Sock::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses, each bound by name.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A unix socket that listens, in place of one that nobody listens on. Nobody connects before it
/// has its mode.
///
/// # Errors
/// The kernel's; what is there is no dead socket.
pub fn bind_unix(path: &Path, mode: u32, backlog: u32) -> std::io::Result<OwnedFd> {
    remove_stale(path)?;
    let socket = Sock::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    Ok(OwnedFd::from(socket))
}

/// Looks at a socket whose process has ended, and the pause between two of them: `io_uring` lets
/// go of what it holds a few milliseconds after its process, and a restart may be quicker.
const TEARDOWN_LOOKS: u32 = 10;
const TEARDOWN_PAUSE: Duration = Duration::from_millis(20);

/// Removes a socket file that nobody listens on; leaves everything else alone. Blocks for
/// [`TEARDOWN_LOOKS`] pauses at most.
///
/// # Errors
/// When something is there that is not such a file.
pub fn remove_stale(path: &Path) -> std::io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(std::io::Error::other("the path exists and is not a socket"));
    }
    let mut looks = 0;
    loop {
        let stream = match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return std::fs::remove_file(path);
            }
            connected => connected?,
        };
        let owner = getsockopt(&stream.as_fd(), PeerCredentials).ok().map(|peer| peer.pid());
        looks += 1;
        if looks < TEARDOWN_LOOKS && owner.is_some_and(has_ended) {
            #[allow(clippy::disallowed_methods, reason = "nothing tells when the kernel is done")]
            std::thread::sleep(TEARDOWN_PAUSE);
            continue;
        }
        let owner = owner.map_or(String::new(), |pid| format!(" (pid {pid})"));
        return Err(std::io::Error::other(format!("another process{owner} listens there")));
    }
}

/// Whether there is no such process any more, or only its exit status.
fn has_ended(pid: i32) -> bool {
    // Of a process in another namespace the kernel tells 0.
    if pid <= 0 {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may have anything in it.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

/// Why an address cannot be bound, and what to do about it.
#[must_use]
pub fn explain(error: &std::io::Error, address: &BindAddr) -> String {
    let BindAddr::Ip(address) = address else { return error.to_string() };
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => match owner(*address) {
            Some(owner) => format!("the port is in use by {owner}, or choose another port"),
            None => "the port is in use; stop who has it or choose another port".to_owned(),
        },
        Some(libc::EADDRNOTAVAIL) => {
            let all = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
            let port = address.port();
            format!(
                "no interface of this machine has that address; bind one that `ip address` shows, \
                 or {all}:{port} for all of them"
            )
        }
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
            let number = process.file_name();
            let ours = std::process::id().to_string();
            if ["self", "thread-self", &*ours].iter().any(|&name| number == name) {
                let own = "this process, on another address; bind that one";
                return Some(own.to_owned());
            }
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {}); stop it", name.trim(), number.display()));
        }
    }
    None
}
