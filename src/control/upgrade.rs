//! The binary upgrade: another process of the program takes over the listening sockets.
//!
//! ```text
//! old: SIGUSR2 ─▶ starts the new one ─▶ sends the sockets ──────────────▶ drains without an end
//! new:                                  takes them ─▶ checks ─▶ accepts ─▶ "ready"
//! ```
//!
//! Both have the same sockets, so a client in an accept queue is served by either. Until the new
//! process says that it accepts, the old one does; if the new one ends before, nothing has
//! happened. If the old one is told to stop meanwhile, it ends the new one first. The new process
//! reads the configuration by itself.
//!
//! The descriptors travel over its standard input, with `SCM_RIGHTS` (unix(7)). A service manager
//! that listens for us (`LISTEN_FDS`, sd_listen_fds(3)) is taken over from in the same way.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::Command as Told;
use super::commands::Teller;
use super::desk::Desk;
use super::notify;
use super::reload::Reloader;
use super::successor::{Expected, hand_over};
use crate::config::plan::BindAddr;
use crate::observe::events::EventKind;
use crate::observe::view::bind_text;
use crate::runtime::sys;

/// Says to a new process that its standard input brings sockets.
pub(super) const VARIABLE: &str = "SLUICEGATE_TAKE_OVER";

/// Descriptors in one message: the kernel takes 253 (`SCM_MAX_FD`).
const BATCH: usize = 200;

/// The list of sockets; a listener has a name of at most some hundred bytes.
const LIST_BYTES_MAX: u64 = 16 << 20;

pub(super) const READY: &[u8] = b"ready\n";

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
#[derive(Debug)]
pub struct Handed {
    pub place: Place,
    pub fds: Vec<OwnedFd>,
    /// A service manager has them too, and listens on when we have ended.
    pub managed: bool,
}

impl Handed {
    /// Other descriptors of the same; none if there are none left.
    #[must_use]
    pub fn copy(&self) -> Option<Self> {
        let (place, managed) = (self.place.clone(), self.managed);
        Some(Self { place, fds: copies(&self.fds).ok()?, managed })
    }
}

/// The same in the list that goes before them.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    place: Place,
    count: usize,
    #[serde(default)]
    managed: bool,
}

/// What a process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Handed>,
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
            // One that was killed may have left it so.
            sys::pass_syns(fd.as_raw_fd());
            inherited.add(Place::of("", &bind), fd, true);
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
                inherited.add(one.place.clone(), fd, one.managed);
            }
        }
        inherited.parent = Some(parent);
        Ok(inherited)
    }

    fn add(&mut self, place: Place, fd: OwnedFd, managed: bool) {
        match self.sockets.iter_mut().find(|known| known.place == place) {
            Some(known) => known.fds.push(fd),
            None => self.sockets.push(Handed { place, fds: vec![fd], managed }),
        }
    }

    /// The sockets of a place, or of its address if another listener had it; none if it was not
    /// handed over. Once, unless a service manager listens there for as long as it likes: after
    /// a reload the place may be wanted again.
    pub fn take(&mut self, place: &Place) -> Option<Handed> {
        let same = |known: &Handed| known.place == *place;
        let moved = |known: &Handed| known.place.address == place.address && !place.is_any_port();
        let at = self.sockets.iter().position(same);
        let at = at.or_else(|| self.sockets.iter().position(moved));
        let handed = self.sockets.swap_remove(at?);
        if handed.managed {
            self.sockets.extend(handed.copy());
        }
        Some(handed)
    }

    /// Other descriptors of what a service manager has, also where no listener is now.
    pub fn managed(&self) -> impl Iterator<Item = &Handed> {
        self.sockets.iter().filter(|one| one.managed)
    }

    /// Closes what nobody wanted, and returns who is to be told that this process accepts.
    pub fn finish(&mut self) -> Option<Successor> {
        self.sockets.retain(|one| one.managed);
        self.parent.take().map(Successor)
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
    successor: Arc<Expected>,
}

impl Upgrader {
    pub fn new(
        desk: Rc<Desk>,
        reloader: Rc<Reloader>,
        admin: Option<OwnedFd>,
        commands: Teller,
    ) -> Self {
        let program = std::env::current_exe().ok();
        let (busy, successor) = (Rc::default(), Arc::default());
        Self { desk, reloader, admin, commands, program, busy, successor }
    }

    /// Whether another process is on its way.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// No other process is wanted any more: one that is on its way ends now. If it accepts
    /// already, which it is.
    pub fn give_up(&self) -> Option<u32> {
        self.successor.give_up()
    }

    /// Starts another process; [`Told::HandedOver`] comes when it accepts.
    pub fn begin(&self) {
        if std::process::id() == 1 {
            let text = "upgrade: this is process 1, whose end is that of its container: start \
                        another container instead; this process serves on";
            self.desk.log.error(text);
            return self.desk.instance.events.push(EventKind::UpgradeFailed, text);
        }
        if self.busy.replace(true) {
            return;
        }
        let sockets = self.reloader.copies().and_then(|mut sockets| {
            let given = self.admin.as_ref().map(OwnedFd::try_clone).transpose()?;
            let admin = |fd| Handed { place: Place::admin(), fds: vec![fd], managed: false };
            sockets.extend(given.map(admin));
            Ok(sockets)
        });
        let (desk, commands, busy) = (self.desk.clone(), self.commands.clone(), self.busy.clone());
        let (program, successor) = (self.program.clone(), self.successor.clone());
        tokio::task::spawn_local(async move {
            desk.log.info("upgrade: starting the program again");
            let expected = successor.clone();
            let work = move || {
                let sockets = sockets.map_err(|error| format!("no descriptor: {error}"))?;
                let program = program.ok_or("the program's file is not known")?;
                hand_over(&program, &sockets, &expected, notify::has_manager())
            };
            let done = tokio::task::spawn_blocking(work).await;
            match done.unwrap_or_else(|_| Err("a defect in handing over".to_owned())) {
                // Closed: this process is at its end anyway.
                Ok(pid) => drop(commands.send(Told::HandedOver { pid }).await),
                Err(_) if successor.is_given_up() => {
                    desk.log.info("upgrade: given up, because this process was told to stop");
                }
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

/// Sends the list of sockets, and the sockets.
pub(super) fn send(mut to: UnixStream, sockets: &[Handed]) -> io::Result<UnixStream> {
    let listed = |Handed { place, fds, managed }: &Handed| Listed {
        place: place.clone(),
        count: fds.len(),
        managed: *managed,
    };
    let list: Vec<Listed> = sockets.iter().map(listed).collect();
    let list = serde_json::to_vec(&list)?;
    to.write_all(&(list.len() as u64).to_le_bytes())?;
    to.write_all(&list)?;
    let fds: Vec<_> = sockets.iter().flat_map(|one| &one.fds).map(AsRawFd::as_raw_fd).collect();
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
            inherited.add(place, fd(), false);
        }
        assert!(inherited.take(&place("c")).is_none());
        assert_eq!(inherited.take(&place("b")).unwrap().fds.len(), 1);
        assert!(inherited.take(&place("b")).is_none(), "only once");
        let renamed = Place { listener: "other".to_owned(), ..fixed };
        assert_eq!(inherited.take(&renamed).unwrap().fds.len(), 1);
    }

    #[test]
    fn what_a_service_manager_listens_on_is_there_again_and_after_the_start() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut inherited = Inherited::default();
        let at = |port: u16| Place::of("", &BindAddr::Ip(([127, 0, 0, 1], port).into()));
        inherited.add(at(80), fd(), true);
        inherited.add(at(81), fd(), false);
        let of_listener = Place { listener: "web".to_owned(), ..at(80) };
        for _ in 0..2 {
            let handed = inherited.take(&of_listener).expect("again");
            assert!(handed.managed && handed.fds.len() == 1);
        }
        assert!(inherited.finish().is_none());
        assert!(inherited.take(&at(80)).is_some() && inherited.take(&at(81)).is_none());
    }

    #[test]
    fn sockets_arrive_in_their_order_whatever_their_number() {
        let listeners: Vec<_> =
            (0..BATCH + 7).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let mut fds = listeners.into_iter().map(OwnedFd::from);
        let sockets = vec![
            ("first", fds.by_ref().take(3).collect()),
            ("none", vec![]),
            ("rest", fds.collect::<Vec<_>>()),
        ];
        let handed = |(name, fds)| Handed { place: place(name), fds, managed: name == "first" };
        let sockets: Vec<_> = sockets.into_iter().map(handed).collect();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || drop(send(ours, &sockets).unwrap()));
        let list: Vec<Listed> = receive_list(&mut theirs).unwrap();
        let counts: Vec<_> =
            list.iter().map(|one| (one.place.listener.as_str(), one.count, one.managed)).collect();
        let wanted = [("first", 3, true), ("none", 0, false), ("rest", BATCH + 4, false)];
        assert_eq!(counts, wanted);
        let received = receive_fds(&theirs, BATCH + 7).unwrap();
        sender.join().unwrap();
        let of = |fd: OwnedFd| TcpListener::from(fd).local_addr().unwrap();
        assert_eq!(received.into_iter().map(of).collect::<Vec<_>>(), addresses);
        assert!(receive_fds(&theirs, 1).is_err(), "the end is no socket");
    }
}
