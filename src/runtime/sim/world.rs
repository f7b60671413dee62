//! What surrounds the sockets: descriptors, listeners, servers, the programs at the far ends,
//! and the events that come with time.
//!
//! Descriptor numbers are reused, the lowest first, as the kernel does: whoever uses a closed
//! one soon uses somebody else's.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

use super::faults::{ACCEPT_ERRORS, CONNECT_ERRORS, DEATHS, Faults, OPEN_ERRORS, TRANSFER_ERRORS};
use super::rng::Rng;
use super::socket::{Conn, FAR, Fin, OURS, Phase};
use crate::net::Endpoint;
use crate::runtime::driver::Fd;
use crate::runtime::time::Time;

/// The number the first descriptor gets.
const FD_FIRST: i32 = 3;

/// Index into [`World::conns`].
pub type ConnId = usize;

/// How a server answers connection attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Accept,
    /// Accepts after up to this long.
    Late(Duration),
    /// `ECONNREFUSED`.
    Refuse,
    /// Never answers.
    BlackHole,
    /// `EHOSTUNREACH`.
    Unreachable,
    /// Accepts, and sends an RST within this time.
    ResetAfter(Duration),
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    Nothing,
    Listener,
    /// `None`: not connected yet.
    Stream(Option<ConnId>),
}

/// What our side did to a connection, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Finish,
    Reset,
    Close,
    /// A close that the kernel made an RST of, because bytes were unread.
    ResetByClose,
}

/// How the far end's program saw its connection end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Fin,
    Reset,
}

/// The program at a far end.
#[derive(Debug, Default)]
pub struct App {
    pub outbox: VecDeque<u8>,
    pub finishing: bool,
    pub reading: bool,
    pub inbox: Vec<u8>,
    pub got: u64,
    pub put: u64,
    pub signal: Option<Signal>,
    /// When it sends an RST by itself.
    pub reset_at: Option<Time>,
}

/// A connection with both of its users.
#[derive(Debug)]
pub struct Link {
    pub conn: Conn,
    pub app: App,
    pub deeds: Vec<Deed>,
    /// Far and near address; `None` on unix sockets.
    pub far_address: Option<SocketAddr>,
    pub near_address: Option<SocketAddr>,
    pub endpoint: Option<Endpoint>,
}

#[derive(Debug, Default)]
pub struct Backlog {
    pub waiting: VecDeque<(Time, ConnId)>,
    pub unix: bool,
    pub barred: bool,
}

#[derive(Debug)]
pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub faults: Faults,
    pub fds: Vec<Open>,
    /// Descriptors that may be open at once.
    pub fds_max: usize,
    pub links: Vec<Link>,
    /// Connections in which something may still happen.
    live: Vec<ConnId>,
    pub backlogs: BTreeMap<i32, Backlog>,
    pub servers: BTreeMap<Endpoint, Behaviour>,
    /// Connections that servers accepted and the test did not take yet.
    pub served: VecDeque<ConnId>,
    clients: u32,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            // Not zero: code that takes zero for «never» shall show itself.
            now: Time(1_000_000_000),
            rng: Rng::new(seed),
            faults,
            fds: Vec::new(),
            fds_max: 1 << 16,
            links: Vec::new(),
            live: Vec::new(),
            backlogs: BTreeMap::new(),
            servers: BTreeMap::new(),
            served: VecDeque::new(),
            clients: 0,
        }
    }

    // ---- descriptors ----

    /// The lowest free number.
    pub fn allocate(&mut self, open: Open) -> Result<Fd, Errno> {
        if self.fds_open() >= self.fds_max {
            return Err(Errno::EMFILE);
        }
        let free = self.fds.iter().position(|slot| *slot == Open::Nothing);
        let at = free.unwrap_or_else(|| {
            self.fds.push(Open::Nothing);
            self.fds.len() - 1
        });
        self.fds[at] = open;
        Ok(Fd(FD_FIRST + at as i32))
    }

    pub fn fds_open(&self) -> usize {
        self.fds.iter().filter(|slot| **slot != Open::Nothing).count()
    }

    pub fn open(&self, fd: Fd) -> Open {
        let at = usize::try_from(fd.0 - FD_FIRST).ok();
        let open = at.and_then(|at| self.fds.get(at)).copied().unwrap_or(Open::Nothing);
        assert!(open != Open::Nothing, "use of a closed descriptor: {fd:?}");
        open
    }

    pub fn set_open(&mut self, fd: Fd, open: Open) {
        self.fds[(fd.0 - FD_FIRST) as usize] = open;
    }

    /// The number of a place in [`World::fds`].
    #[allow(clippy::unused_self, reason = "reads as a question to the world")]
    pub fn fd_at(&self, at: usize) -> Fd {
        Fd(FD_FIRST + at as i32)
    }

    /// The next client of a listener, as accept(2) gives it.
    pub fn accept(&mut self, listener: Fd) -> Result<Fd, Errno> {
        let now = self.now;
        let waiting = &mut self.backlogs.get_mut(&listener.0).expect("a listener").waiting;
        let at = waiting.iter().position(|(due, _)| *due <= now).ok_or(Errno::EAGAIN)?;
        let id = waiting[at].1;
        if self.rng.chance(self.faults.accept) {
            let errno = self.rng.pick(ACCEPT_ERRORS);
            if errno == Errno::ECONNABORTED {
                waiting.remove(at);
                self.refuse(id);
            }
            return Err(errno);
        }
        let fd = self.allocate(Open::Stream(Some(id)))?;
        self.backlogs.get_mut(&listener.0).expect("a listener").waiting.remove(at);
        Ok(fd)
    }

    /// Somebody waits to be accepted.
    pub fn has_client(&self, listener: Fd) -> bool {
        let backlog = self.backlogs.get(&listener.0);
        backlog.is_some_and(|backlog| backlog.waiting.iter().any(|(due, _)| *due <= self.now))
    }

    /// From now on nobody gets into the queue; who was under way hears nothing.
    pub fn bar(&mut self, listener: Fd) {
        let now = self.now;
        let backlog = self.backlogs.get_mut(&listener.0).expect("a listener");
        backlog.barred = true;
        for (_, id) in backlog.waiting.iter().filter(|(due, _)| *due > now) {
            self.links[*id].conn.cut = true;
        }
        backlog.waiting.retain(|(due, _)| *due <= now);
    }

    fn refuse(&mut self, id: ConnId) {
        self.links[id].conn.faulted = true;
        self.with(id, |conn, now, rng| {
            conn.reset(OURS, now, rng);
            conn.close(OURS, now, rng)
        });
    }

    /// Resets who waits there, as closing a listening socket does.
    pub fn close_listener(&mut self, fd: Fd) {
        let backlog = self.backlogs.remove(&fd.0).unwrap_or_default();
        for (_, id) in backlog.waiting {
            self.links[id].deeds.push(Deed::Reset);
            self.refuse(id);
        }
    }

    /// The connection behind `fd`, if it has one.
    pub fn conn_of(&self, fd: Fd) -> Option<ConnId> {
        match self.open(fd) {
            Open::Stream(conn) => conn,
            Open::Listener | Open::Nothing => panic!("{fd:?} is a listener, not a stream"),
        }
    }

    pub fn open_socket(&mut self) -> Result<Fd, Errno> {
        if self.rng.chance(self.faults.open) {
            return Err(self.rng.pick(OPEN_ERRORS));
        }
        self.allocate(Open::Stream(None))
    }

    /// Half of the sockets had been offered a few local ports only, and are now as they were new.
    pub fn lift_ports(&mut self, fd: Fd) -> bool {
        let lifted = self.rng.chance(500);
        if lifted {
            self.set_open(fd, Open::Stream(None));
        }
        lifted
    }

    // ---- connections ----

    fn add(&mut self, phase: Phase, endpoint: Option<Endpoint>, unix: bool) -> ConnId {
        let conn = Conn::new(phase, unix, &mut self.rng);
        let app = App { reading: true, ..App::default() };
        self.links.push(Link {
            conn,
            app,
            deeds: Vec::new(),
            far_address: None,
            near_address: None,
            endpoint,
        });
        self.live.push(self.links.len() - 1);
        self.links.len() - 1
    }

    /// A client that reaches the listener's backlog after a while.
    pub fn connect_client(&mut self, listener: Fd, from: Option<SocketAddr>) -> ConnId {
        let due = self.now + self.rng.travel();
        let id = self.links.len();
        let backlog = self.backlogs.get_mut(&listener.0).expect("a listener");
        let (unix, barred) = (backlog.unix, backlog.barred);
        if !barred {
            backlog.waiting.push_back((due, id));
        }
        self.add(Phase::Up, None, unix);
        self.links[id].conn.cut = barred;
        self.clients += 1;
        if !unix {
            let [_, a, b, c] = self.clients.to_be_bytes();
            let made = SocketAddr::from((Ipv4Addr::new(10, a, b, c), 40_000));
            self.links[id].far_address = Some(from.unwrap_or(made));
            self.links[id].near_address = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 80)));
        }
        id
    }

    /// Starts a connection of `fd` towards a server.
    pub fn start_connect(&mut self, fd: Fd, to: &Endpoint) {
        let now = self.now;
        let after = now + self.rng.travel();
        let behaviour = self.servers.get(to).copied().unwrap_or(Behaviour::Refuse);
        let (due, answer) = match behaviour {
            _ if self.rng.chance(self.faults.connect) => {
                (Some(after), Err(self.rng.pick(CONNECT_ERRORS)))
            }
            Behaviour::Accept | Behaviour::ResetAfter(_) => (Some(after), Ok(())),
            Behaviour::Late(most) => {
                let late = self.rng.below(most.as_nanos() as u64 + 1);
                (Some(after + Duration::from_nanos(late)), Ok(()))
            }
            Behaviour::Refuse => (Some(after), Err(Errno::ECONNREFUSED)),
            Behaviour::BlackHole => (None, Ok(())),
            Behaviour::Unreachable => (Some(after), Err(Errno::EHOSTUNREACH)),
        };
        let id = self.add(Phase::Connecting { due, answer }, Some(to.clone()), to.is_unix());
        if let Endpoint::Ip(address) = to {
            self.links[id].far_address = Some(*address);
            let port = 32_768 + (id % 28_000) as u16;
            let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
            self.links[id].near_address = Some(SocketAddr::new(local, port));
        }
        self.set_open(fd, Open::Stream(Some(id)));
    }

    /// What a send of `fd` takes of `bytes`.
    pub fn send(&mut self, fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
        let id = self.conn_of(fd).ok_or(Errno::EPIPE)?;
        if self.rng.chance(self.faults.send) {
            self.links[id].conn.faulted = true;
            return Err(self.rng.pick(TRANSFER_ERRORS));
        }
        let most = if self.short_send() { self.rng.between(1, bytes.len()) } else { bytes.len() };
        self.with(id, |conn, now, rng| conn.send(OURS, &bytes[..most], now, rng))
    }

    /// Whether this send is to be a short one.
    pub fn short_send(&mut self) -> bool {
        self.rng.chance(self.faults.short_send)
    }

    /// How much of `most` a receive asks for when `there` is available.
    pub fn short(&mut self, most: usize, there: usize) -> usize {
        let most = most.min(there.max(1));
        if self.rng.chance(self.faults.short_recv) { self.rng.between(1, most) } else { most }
    }

    /// The socket of a connection, for something that may make more happen there.
    pub fn with<R>(&mut self, id: ConnId, act: impl FnOnce(&mut Conn, Time, &mut Rng) -> R) -> R {
        let result = act(&mut self.links[id].conn, self.now, &mut self.rng);
        self.touch(id);
        result
    }

    pub fn touch(&mut self, id: ConnId) {
        if !self.live.contains(&id) {
            self.live.push(id);
        }
    }

    // ---- time ----

    /// When something happens next by itself.
    pub fn due(&self) -> Option<Time> {
        let links = self.live.iter().filter_map(|id| {
            let link = &self.links[*id];
            link.conn.due().into_iter().chain(link.app.reset_at).min()
        });
        // Who came and was not accepted is no event: nobody may be accepting.
        let arrivals = self.backlogs.values().flat_map(|backlog| &backlog.waiting);
        let coming = arrivals.map(|(due, _)| *due).filter(|due| *due > self.now);
        links.chain(coming).min()
    }

    /// The connections in which something will happen.
    pub fn what_is_due(&self) -> String {
        let moves = |id: &&ConnId| {
            let link = &self.links[**id];
            link.conn.due().is_some() || link.app.reset_at.is_some()
        };
        let show = |id: &ConnId| {
            format!("\n    #{id} {} {:?}", self.links[*id], self.links[*id].conn.due())
        };
        self.live.iter().filter(moves).map(show).collect()
    }

    /// Lets everything happen that is due.
    pub fn settle(&mut self) {
        for at in 0..self.live.len() {
            let id = self.live[at];
            self.settle_one(id);
        }
        let links = &self.links;
        self.live.retain(|id| {
            let link = &links[*id];
            let gone = link.conn.ends[OURS].closed || link.conn.ends[OURS].dead;
            !gone || link.conn.due().is_some() || link.app.reset_at.is_some()
        });
    }

    fn settle_one(&mut self, id: ConnId) {
        let now = self.now;
        let link = &mut self.links[id];
        let due = link.conn.due().is_some_and(|due| due <= now);
        if due && link.conn.phase == Phase::Up && self.rng.chance(self.faults.die) {
            link.conn.die(self.rng.pick(DEATHS));
        }
        if link.conn.step(now, &mut self.rng) {
            self.served.push_back(id);
            let behaviour = link.endpoint.as_ref().and_then(|to| self.servers.get(to));
            if let Some(Behaviour::ResetAfter(most)) = behaviour {
                let wait = self.rng.below(most.as_nanos() as u64 + 1);
                link.app.reset_at = Some(now + Duration::from_nanos(wait));
            }
        }
        if link.app.reset_at.is_some_and(|at| at <= now) {
            link.app.reset_at = None;
            link.app.give_up();
            link.conn.reset(FAR, now, &mut self.rng);
        }
        link.pump(now, &mut self.rng);
    }
}

impl App {
    /// Forgets what the socket did not take.
    pub fn give_up(&mut self) {
        self.put -= self.outbox.len() as u64;
        self.outbox.clear();
    }
}

impl Link {
    /// Lets the far program write what it has and read what there is.
    pub fn pump(&mut self, now: Time, rng: &mut Rng) {
        if self.conn.phase != Phase::Up || self.conn.ends[FAR].closed {
            return;
        }
        while !self.app.outbox.is_empty() {
            let (bytes, _) = self.app.outbox.as_slices();
            match self.conn.send(FAR, bytes, now, rng) {
                Ok(n) => drop(self.app.outbox.drain(..n)),
                Err(Errno::EAGAIN) => break,
                // Unread bytes are still there, and after them the end shows.
                Err(_) => self.app.give_up(),
            }
        }
        let finished = self.conn.ways[FAR].fin != Fin::None || self.conn.ends[FAR].dead;
        if self.app.finishing && self.app.outbox.is_empty() && !finished {
            self.conn.finish(FAR, now, rng);
        }
        while self.app.reading && self.app.signal.is_none() {
            match self.conn.receive(FAR, usize::MAX, &mut self.app.inbox, now, rng) {
                Ok(0) if self.conn.ends[FAR].reset_arrived && !self.fin_arrived() => {
                    self.app.signal = Some(Signal::Reset);
                }
                Ok(0) => self.app.signal = Some(Signal::Fin),
                Ok(n) => self.app.got += n as u64,
                Err(Errno::EAGAIN) => break,
                Err(_) => self.app.signal = Some(Signal::Reset),
            }
        }
    }

    fn fin_arrived(&self) -> bool {
        self.conn.ways[OURS].fin == Fin::Delivered
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.conn.phase)?;
        for (name, end) in [("ours", OURS), ("far", FAR)] {
            let (way, state) = (&self.conn.ways[end], &self.conn.ends[end]);
            write!(f, "| {name} sent {} of {}", way.sent.len(), way.given)?;
            write!(f, " lost {} fin {:?}", way.lost, way.fin)?;
            write!(f, " unread {}", self.conn.ways[1 - end].received.len())?;
            let flags = [
                (state.dead, "dead"),
                (state.closed, "closed"),
                (state.error.is_some(), "error"),
                (state.reset_arrived, "got RST"),
                (state.reset_sent, "sent RST"),
            ];
            for (_, flag) in flags.into_iter().filter(|(on, _)| *on) {
                write!(f, " {flag}")?;
            }
            write!(f, " ")?;
        }
        if self.conn.faulted {
            write!(f, "| FAULTED ")?;
        }
        write!(f, "| deeds {:?}, far program {:?}", self.deeds, self.app.signal)
    }
}
