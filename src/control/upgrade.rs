//! The binary upgrade: another process of the program takes over the listening sockets.
//!
//! ```text
//! old: SIGUSR2 ─▶ starts the new one ─▶ sends the sockets ──────────────▶ drains without an end
//! new:                                  takes them ─▶ checks ─▶ accepts ─▶ "ready"
//! ```
//!
//! Both have the same sockets, so a client in an accept queue is served by either. Until the new
//! process says that it accepts, the old one does; if the new one ends before, nothing has
//! happened. The new process reads the configuration by itself.
//!
//! The descriptors travel over its standard input, with `SCM_RIGHTS` (unix(7)). A service manager
//! that listens for us (`LISTEN_FDS`, sd_listen_fds(3)) is taken over from in the same way.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::Command as Told;
use super::commands::Teller;
use super::desk::Desk;
use super::reload::Reloader;
use crate::config::plan::BindAddr;
use crate::observe::events::EventKind;
use crate::observe::view::bind_text;
use crate::runtime::sys;

/// Says to a new process that its standard input brings sockets.
const VARIABLE: &str = "SLUICEGATE_TAKE_OVER";

/// Descriptors in one message: the kernel takes 253 (`SCM_MAX_FD`).
const BATCH: usize = 200;

/// The list of sockets; a listener has a name of at most some hundred bytes.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// How long the new process may take until it accepts.
const READY_DEADLINE: Duration = Duration::from_secs(120);

const READY: &[u8] = b"ready\n";

/// Where sockets belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A listener's name; empty for the admin API, and where a service manager listens.
    pub listener: String,
    /// As the configuration says it; `admin` for the admin API.
    pub address: String,
}

impl Place {
    #[must_use]
    pub fn of(listener: &str, bind: &BindAddr) -> Self {
        Self { listener: listener.to_owned(), address: bind_text(bind) }
    }

    /// That of the admin API.
    #[must_use]
    pub fn admin() -> Self {
        Self { listener: String::new(), address: "admin".to_owned() }
    }

    /// The kernel's choice of a port is one for each listener.
    fn is_any_port(&self) -> bool {
        self.address.ends_with(":0")
    }
}

/// Sockets of one address.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    place: Place,
    count: usize,
}

/// What a process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(Place, Vec<OwnedFd>)>,
    /// To tell when we accept.
    parent: Option<UnixStream>,
}

impl Inherited {
    /// What this process was given by the one before it, or by a service manager.
    ///
    /// # Errors
    /// When a process says that it hands over and does not.
    pub fn from_environment() -> io::Result<Self> {
        if std::env::var_os(VARIABLE).is_some() {
            return Self::from_parent();
        }
        let own = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        let count = match (own("LISTEN_PID"), own("LISTEN_FDS")) {
            (Some(pid), Some(count)) if pid == std::process::id() => count,
            _ => return Ok(Self::default()),
        };
        let mut inherited = Self::default();
        for fd in sys::inherited(count)? {
            let address = SockRef::from(&fd).local_addr()?;
            let bind = match (address.as_socket(), address.as_pathname()) {
                (Some(address), _) => BindAddr::Ip(address),
                (None, Some(path)) => BindAddr::Unix(path.to_owned()),
                (None, None) => continue,
            };
            SockRef::from(&fd).set_nonblocking(true)?;
            inherited.add(Place::of("", &bind), fd);
        }
        Ok(inherited)
    }

    fn from_parent() -> io::Result<Self> {
        let mut parent = UnixStream::from(sys::take_stdin()?);
        let list: Vec<Listed> = receive_list(&mut parent)?;
        let mut inherited = Self::default();
        let mut fds = receive_fds(&parent, list.iter().map(|one| one.count).sum())?.into_iter();
        for one in list {
            for fd in fds.by_ref().take(one.count) {
                inherited.add(one.place.clone(), fd);
            }
        }
        inherited.parent = Some(parent);
        Ok(inherited)
    }

    fn add(&mut self, place: Place, fd: OwnedFd) {
        match self.sockets.iter_mut().find(|(known, _)| *known == place) {
            Some((_, fds)) => fds.push(fd),
            None => self.sockets.push((place, vec![fd])),
        }
    }

    /// The sockets of a place, or of its address if another listener had it, once; none if it
    /// was not handed over.
    pub fn take(&mut self, place: &Place) -> Vec<OwnedFd> {
        let same = |(known, _): &(Place, Vec<OwnedFd>)| known == place;
        let moved = |(known, _): &(Place, Vec<OwnedFd>)| {
            known.address == place.address && !place.is_any_port()
        };
        let at = self.sockets.iter().position(same);
        let at = at.or_else(|| self.sockets.iter().position(moved));
        at.map(|at| self.sockets.swap_remove(at).1).unwrap_or_default()
    }

    /// Closes what nobody wanted, and returns who is to be told that this process accepts.
    pub fn finish(self) -> Option<Successor> {
        self.parent.map(Successor)
    }
}

/// The new process, on its way to accepting.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Tells the old process that it may go.
    pub fn ready(mut self) {
        // If it has gone already, so much the better.
        let _ = self.0.write_all(READY);
    }
}

/// Hands over when it is told to.
#[derive(Debug)]
pub(super) struct Upgrader {
    desk: Rc<Desk>,
    reloader: Rc<Reloader>,
    /// The socket of the admin API.
    admin: Option<OwnedFd>,
    commands: Teller,
    /// The program as it was found at the start: its file may be another one now, which is the
    /// point.
    program: Option<PathBuf>,
    busy: Rc<Cell<bool>>,
}

impl Upgrader {
    pub fn new(
        desk: Rc<Desk>,
        reloader: Rc<Reloader>,
        admin: Option<OwnedFd>,
        commands: Teller,
    ) -> Self {
        let program = std::env::current_exe().ok();
        Self { desk, reloader, admin, commands, program, busy: Rc::default() }
    }

    /// Whether another process is on its way.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Starts another process; [`Told::HandedOver`] comes when it accepts.
    pub fn begin(&self) {
        if self.busy.replace(true) {
            return;
        }
        let sockets = self.reloader.copies().and_then(|mut sockets| {
            let admin = self.admin.as_ref().map(OwnedFd::try_clone).transpose()?;
            sockets.extend(admin.map(|fd| (Place::admin(), vec![fd])));
            Ok(sockets)
        });
        let (desk, commands, busy) = (self.desk.clone(), self.commands.clone(), self.busy.clone());
        let program = self.program.clone();
        tokio::task::spawn_local(async move {
            desk.log.info("upgrade: starting the program again");
            let work = move || {
                let sockets = sockets.map_err(|error| format!("no descriptor: {error}"))?;
                let program = program.ok_or("the program's file is not known")?;
                hand_over(&program, &sockets)
            };
            let done = tokio::task::spawn_blocking(work).await;
            match done.unwrap_or_else(|_| Err("a defect in handing over".to_owned())) {
                // Closed: this process is at its end anyway.
                Ok(pid) => drop(commands.send(Told::HandedOver { pid }).await),
                Err(error) => {
                    busy.set(false);
                    let text = format!("upgrade: {error}; this process serves on");
                    desk.log.error(&text);
                    desk.instance.events.push(EventKind::UpgradeFailed, text);
                }
            }
        });
    }
}

/// Starts another process of the program, hands it the sockets and waits until it accepts.
/// Takes as long as that takes. Returns the process.
///
/// # Errors
/// Why it does not accept, in a sentence; it is not running then.
pub(super) fn hand_over(program: &Path, sockets: &[(Place, Vec<OwnedFd>)]) -> Result<u32, String> {
    let said = |what: &str| {
        let program = program.display().to_string();
        let what = what.to_owned();
        move |error: io::Error| format!("{program}: {what}: {error}")
    };
    let (ours, theirs) = UnixStream::pair().map_err(said("no socket to hand over with"))?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        // The watchdog of the service is to be fed by whoever is its main process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(said("cannot be started"))?;
    let mut child = Started(Some(child));
    send(ours, sockets).and_then(await_ready).map_err(|error| {
        let status = child.end();
        let status = status.map_or_else(String::new, |status| format!(" ({status})"));
        format!("{} does not get ready{status}: {error}", program.display())
    })?;
    let child = child.0.take();
    Ok(child.map_or(0, |child| child.id()))
}

/// A process that ends with this, unless it has been let go.
struct Started(Option<Child>);

impl Started {
    /// Ends it; how it ended, if it did by itself.
    fn end(&mut self) -> Option<String> {
        let mut child = self.0.take()?;
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut status = None;
        while status.is_none() && Instant::now() < deadline {
            status = child.try_wait().ok().flatten();
            std::thread::yield_now();
        }
        if status.is_none() {
            // It is ours, and it hangs.
            let _ = child.kill();
            let _ = child.wait();
        }
        status.map(|status| status.to_string())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

fn send(mut to: UnixStream, sockets: &[(Place, Vec<OwnedFd>)]) -> io::Result<UnixStream> {
    let listed =
        |(place, fds): &(Place, Vec<OwnedFd>)| Listed { place: place.clone(), count: fds.len() };
    let list: Vec<Listed> = sockets.iter().map(listed).collect();
    let list = serde_json::to_vec(&list)?;
    to.write_all(&(list.len() as u64).to_le_bytes())?;
    to.write_all(&list)?;
    let fds: Vec<_> = sockets.iter().flat_map(|(_, fds)| fds).map(AsRawFd::as_raw_fd).collect();
    for batch in fds.chunks(BATCH) {
        let rights = [ControlMessage::ScmRights(batch)];
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"+")], &rights, MsgFlags::empty(), None)?;
    }
    Ok(to)
}

fn receive_list<T: for<'a> Deserialize<'a>>(from: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LIST_BYTES_MAX {
        return Err(io::Error::other("the list of sockets is too long"));
    }
    let mut list = vec![0; length as usize];
    from.read_exact(&mut list)?;
    Ok(serde_json::from_slice(&list)?)
}

fn receive_fds(from: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut fds: Vec<OwnedFd> = Vec::new();
    while fds.len() < count {
        let mut byte = [0];
        let mut room = cmsg_space!([std::os::fd::RawFd; BATCH]);
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                fds.extend(raw.into_iter().map(sys::own));
            }
        }
    }
    Ok(fds)
}

fn await_ready(from: UnixStream) -> io::Result<()> {
    let mut from = from;
    from.set_read_timeout(Some(READY_DEADLINE))?;
    let mut said = [0; READY.len()];
    from.read_exact(&mut said)?;
    if said == READY { Ok(()) } else { Err(io::Error::other("it said something else")) }
}

/// Another descriptor of each.
///
/// # Errors
/// dup(2)'s.
pub fn copies(fds: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    fds.iter().map(OwnedFd::try_clone).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn place(listener: &str) -> Place {
        Place { listener: listener.to_owned(), address: "127.0.0.1:0".to_owned() }
    }

    #[test]
    fn a_port_of_the_kernels_choice_is_its_listeners_and_others_go_by_address() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut inherited = Inherited::default();
        let fixed = Place { listener: "a".to_owned(), address: "127.0.0.1:80".to_owned() };
        for place in [place("a"), place("b"), fixed.clone()] {
            inherited.add(place, fd());
        }
        assert!(inherited.take(&place("c")).is_empty());
        assert_eq!(inherited.take(&place("b")).len(), 1);
        assert!(inherited.take(&place("b")).is_empty(), "only once");
        let renamed = Place { listener: "other".to_owned(), ..fixed };
        assert_eq!(inherited.take(&renamed).len(), 1);
    }

    #[test]
    fn sockets_arrive_in_their_order_whatever_their_number() {
        let listeners: Vec<_> =
            (0..BATCH + 7).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let mut fds = listeners.into_iter().map(OwnedFd::from);
        let sockets = vec![
            (place("first"), fds.by_ref().take(3).collect()),
            (place("none"), vec![]),
            (place("rest"), fds.collect::<Vec<_>>()),
        ];
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || drop(send(ours, &sockets).unwrap()));
        let list: Vec<Listed> = receive_list(&mut theirs).unwrap();
        let counts: Vec<_> =
            list.iter().map(|one| (one.place.listener.as_str(), one.count)).collect();
        assert_eq!(counts, [("first", 3), ("none", 0), ("rest", BATCH + 4)]);
        let received = receive_fds(&theirs, BATCH + 7).unwrap();
        sender.join().unwrap();
        let of = |fd: OwnedFd| TcpListener::from(fd).local_addr().unwrap();
        assert_eq!(received.into_iter().map(of).collect::<Vec<_>>(), addresses);
        assert!(receive_fds(&theirs, 1).is_err(), "the end is no socket");
    }

    #[test]
    fn a_program_that_does_not_get_ready_is_an_error_that_names_it() {
        for (program, words) in
            [("/nonexistent/sg", "cannot be started"), ("/bin/true", "exit status: 0")]
        {
            let error = hand_over(Path::new(program), &[]).unwrap_err();
            assert!(error.contains(program) && error.contains(words), "{error}");
        }
    }
}
