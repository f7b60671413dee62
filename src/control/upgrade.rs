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
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

    /// No other process is wanted any more: one that is on its way ends now.
    pub fn give_up(&self) {
        self.successor.give_up();
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
        let (program, successor) = (self.program.clone(), self.successor.clone());
        tokio::task::spawn_local(async move {
            desk.log.info("upgrade: starting the program again");
            let expected = successor.clone();
            let work = move || {
                let sockets = sockets.map_err(|error| format!("no descriptor: {error}"))?;
                let program = program.ok_or("the program's file is not known")?;
                hand_over(&program, &sockets, &expected)
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

/// Starts another process of the program, hands it the sockets and waits until it accepts.
/// Takes as long as that takes, or until `expected` is given up. Returns the process.
///
/// # Errors
/// Why it does not accept, in a sentence; it is not running then.
fn hand_over(
    program: &Path,
    sockets: &[(Place, Vec<OwnedFd>)],
    expected: &Expected,
) -> Result<u32, String> {
    let said = |what: &str| {
        let program = program.display().to_string();
        let what = what.to_owned();
        move |error: io::Error| format!("{program}: {what}: {error}")
    };
    let (ours, theirs) = UnixStream::pair().map_err(said("no socket to hand over with"))?;
    let line = ours.try_clone().map_err(said("no socket to hand over with"))?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        // The watchdog of the service is to be fed by whoever is its main process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    expected.start(&mut command, line).map_err(said("cannot be started"))?;
    // It has the other end too; only the child may, so that its end is seen.
    drop(command);
    let done = send(ours, sockets).and_then(await_ready);
    // Whoever gave it up has ended it.
    let given_up = || format!("{}: given up", program.display());
    let mut child = expected.take().ok_or_else(given_up)?;
    done.map_err(|error| {
        let status = end(&mut child);
        let status = status.map_or_else(String::new, |status| format!(" ({status})"));
        format!("{} does not get ready{status}: {error}", program.display())
    })?;
    Ok(child.id())
}

/// The new process, while a thread waits for it that only a word of the process or its end wakes.
#[derive(Debug, Default)]
struct Expected(Mutex<Expectation>);

#[derive(Debug, Default)]
enum Expectation {
    #[default]
    Nobody,
    /// The line is the one that the thread reads.
    Started { child: Child, line: UnixStream },
    /// For good: this process is at its end.
    GivenUp,
}

impl Expected {
    fn state(&self) -> MutexGuard<'_, Expectation> {
        // It is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, unless it is given up already.
    fn start(&self, command: &mut Command, line: UnixStream) -> io::Result<()> {
        let mut state = self.state();
        if matches!(*state, Expectation::GivenUp) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        *state = Expectation::Started { child: command.spawn()?, line };
        Ok(())
    }

    /// The process, which is its taker's from now on; `None` if it was given up.
    fn take(&self) -> Option<Child> {
        let mut state = self.state();
        match std::mem::take(&mut *state) {
            Expectation::Started { child, .. } => Some(child),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Ends the process, if there is one that does not accept yet, and lets the thread go.
    fn give_up(&self) {
        let before = std::mem::replace(&mut *self.state(), Expectation::GivenUp);
        if let Expectation::Started { mut child, line } = before {
            kill(&mut child);
            // A process that it has started may have its end of the line too.
            let _ = line.shutdown(Shutdown::Both);
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.state(), Expectation::GivenUp)
    }
}

/// Ends a process that does not get ready; how it ended, if it did by itself.
fn end(child: &mut Child) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut status = None;
    while status.is_none() && Instant::now() < deadline {
        status = child.try_wait().ok().flatten();
        std::thread::yield_now();
    }
    if status.is_none() {
        // It is ours, and it hangs.
        kill(child);
    }
    status.map(|status| status.to_string())
}

fn kill(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
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
            let error = hand_over(Path::new(program), &[], &Expected::default()).unwrap_err();
            assert!(error.contains(program) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_program_that_hangs_ends_when_it_is_given_up_and_none_is_started_after() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hangs");
        // The second one has the line too, and outlives the first.
        std::fs::write(&program, "#!/bin/sh\nsleep 30 > /dev/null 2>&1 &\nexec sleep 600\n")
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let expected = Arc::new(Expected::default());
        let (waited, handing) = (expected.clone(), program.clone());
        let (done, over) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(hand_over(&handing, &[], &waited)));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !matches!(*expected.state(), Expectation::Started { .. }) {
            assert!(Instant::now() < deadline, "never started");
            std::thread::yield_now();
        }
        expected.give_up();
        let error = over.recv_timeout(Duration::from_secs(10)).expect("it ends").unwrap_err();
        assert!(error.contains("given up"), "{error}");
        let error = hand_over(&program, &[], &expected).unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
