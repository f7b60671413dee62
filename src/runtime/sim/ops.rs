//! Operations in flight, how they make progress, and the completions that wait.
//!
//! ```text
//! submit ─▶ queued ─ next turn ─▶ armed ─ data, EOF, error, cancel ─▶ over ─ handed out ─▶ gone
//! ```
//!
//! - O1: an operation is gone only when its last completion was handed out; until then its
//!   token, descriptor and chunk are taken.
//! - O2: completions on one descriptor come in the order things happened there (whoever took
//!   an error is told before whoever then found nothing); on several they do not.
//! - O3: a cancel is bound to the operation that had the token when it was asked for.

use nix::errno::Errno;

use super::faults::TRANSFER_ERRORS;
use super::memory::Ring;
use super::rng::Rng;
use super::socket::{OURS, Phase};
use super::world::{Open, World};
use crate::net::Endpoint;
use crate::runtime::buffers::{Buffers, ChunkId};
use crate::runtime::driver::{Completion, Fd, Interest};
use crate::runtime::time::Time;
use crate::runtime::token::Token;

#[derive(Clone, Debug)]
pub enum Kind {
    Accept {
        many: bool,
    },
    Connect {
        to: Endpoint,
        started: bool,
    },
    Recv {
        many: bool,
    },
    RecvInto {
        chunk: ChunkId,
    },
    Send {
        chunk: ChunkId,
        /// Address and length of the bytes when it was submitted.
        start: usize,
        len: u32,
        done: u32,
        wait_all: bool,
    },
    Poll {
        interest: Interest,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    No,
    Asked,
    Due(Time),
}

#[derive(Clone, Debug)]
pub struct Op {
    serial: u64,
    pub token: Token,
    pub fd: Fd,
    pub kind: Kind,
    armed: bool,
    tried: bool,
    cancel: Cancel,
    /// Its last completion waits to be handed out.
    over: bool,
}

#[derive(Debug, Default)]
pub struct Ops {
    list: Vec<Op>,
    /// Completions in the order they came, with descriptor and serial number of their operation.
    waiting: Vec<Waiting>,
    serial: u64,
}

type Waiting = (Fd, u64, Completion);

/// What an operation works on.
pub struct Kernel<'a> {
    pub world: &'a mut World,
    pub ring: &'a mut Ring,
    pub buffers: &'a mut Buffers,
}

/// What one try of an operation gave.
enum Step {
    Wait,
    More(u32, Option<ChunkId>),
    Last(Result<u32, Errno>, Option<ChunkId>),
}

impl Ops {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Op> {
        self.list.iter()
    }

    /// Completions that could be handed out now.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn submit(&mut self, token: Token, fd: Fd, kind: Kind) {
        let same = self.list.iter().find(|op| op.token == token);
        assert!(same.is_none(), "{token:?} is in flight already: {same:?}");
        if kind.receives() {
            let other = self.on(fd).find(|op| op.kind.receives());
            assert!(other.is_none(), "second receive on {fd:?}: {kind:?} beside {other:?}");
        }
        if kind.sends() {
            self.assert_no_send(fd, "second send");
        }
        self.serial += 1;
        let serial = self.serial;
        self.list.push(Op {
            serial,
            token,
            fd,
            kind,
            armed: false,
            tried: false,
            cancel: Cancel::No,
            over: false,
        });
    }

    pub fn cancel(&mut self, token: Token) {
        let op = self.list.iter_mut().find(|op| op.token == token && !op.over);
        if let Some(op) = op.filter(|op| op.cancel == Cancel::No) {
            op.cancel = Cancel::Asked;
        }
    }

    pub fn on(&self, fd: Fd) -> impl Iterator<Item = &Op> {
        self.list.iter().filter(move |op| op.fd == fd)
    }

    pub fn assert_no_send(&self, fd: Fd, what: &str) {
        let send = self.on(fd).find(|op| op.kind.sends());
        assert!(send.is_none(), "{what} on {fd:?} beside {send:?}");
    }

    pub fn assert_no_receive(&self, fd: Fd, what: &str) {
        let receive = self.on(fd).find(|op| op.kind.receives());
        assert!(receive.is_none(), "{what} on {fd:?} beside {receive:?}");
    }

    /// Chunks in completions that wait.
    pub fn chunks_coming(&self) -> usize {
        self.waiting.iter().filter(|(.., completion)| completion.chunk.is_some()).count()
    }

    /// Clients in completions that wait.
    pub fn fds_coming(&self) -> usize {
        let accepts = self.list.iter().filter(|op| matches!(op.kind, Kind::Accept { .. }));
        let of = |serial: u64| self.waiting.iter().filter(move |(_, by, _)| *by == serial);
        accepts.flat_map(|op| of(op.serial)).filter(|(.., c)| c.result.is_ok()).count()
    }

    /// Bytes received and sent on `fd` that no completion has told of yet.
    pub fn unseen(&self, fd: Fd) -> (u64, u64) {
        let (mut taken, mut given) = (0, 0);
        for op in self.on(fd) {
            if let Kind::Send { done, .. } = op.kind {
                given += u64::from(done);
            }
            if op.kind.receives() {
                let of = self.waiting.iter().filter(|(_, serial, _)| *serial == op.serial);
                taken += of.map(|(.., c)| u64::from(c.result.unwrap_or(0))).sum::<u64>();
            }
        }
        (taken, given)
    }

    /// Whether the kernel may still read or write `chunk`.
    pub fn uses(&self, chunk: ChunkId) -> bool {
        self.list.iter().any(|op| match op.kind {
            Kind::Send { chunk: used, .. } | Kind::RecvInto { chunk: used } => used == chunk,
            _ => false,
        })
    }

    /// The kernel takes what was submitted.
    pub fn arm(&mut self, world: &mut World) {
        for op in &mut self.list {
            op.armed = true;
            if op.cancel == Cancel::Asked {
                let late = world.rng.chance(world.faults.late_cancel);
                let due = if late { world.now + world.rng.travel() } else { world.now };
                op.cancel = Cancel::Due(due);
            }
        }
    }

    /// When the next cancel acts.
    pub fn due(&self) -> Option<Time> {
        let cancels = self.list.iter().filter(|op| !op.over).map(|op| op.cancel);
        cancels
            .filter_map(|cancel| if let Cancel::Due(at) = cancel { Some(at) } else { None })
            .min()
    }

    /// Lets every armed operation do what it can, in random order.
    pub fn progress(&mut self, kernel: &mut Kernel<'_>) {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, kernel.world.rng.index(at + 1));
        }
        for at in order {
            let op = &mut self.list[at];
            // Some are a turn late; never the only one that could move.
            let late = !self.waiting.is_empty() && kernel.world.rng.chance(100);
            if op.over || !op.armed || late {
                continue;
            }
            let cancelled = matches!(op.cancel, Cancel::Due(at) if at <= kernel.world.now);
            // A cancelled operation may still be faster than its cancel.
            if !cancelled || kernel.world.rng.chance(500) {
                op.run(kernel, &mut self.waiting);
            }
            if cancelled && !op.over {
                let result = match op.kind {
                    Kind::Send { done, .. } if done > 0 => Ok(done),
                    _ => Err(Errno::ECANCELED),
                };
                op.post(Step::Last(result, None), &mut self.waiting);
            }
        }
    }

    /// Moves a random part of the completions to `out`, in random order (O2).
    pub fn hand_out(&mut self, rng: &mut Rng, out: &mut Vec<Completion>) {
        if self.waiting.is_empty() {
            return;
        }
        let len = self.waiting.len();
        let count = if rng.chance(700) { len } else { rng.between(1, len) };
        for _ in 0..count {
            let (fd, ..) = self.waiting[rng.index(self.waiting.len())];
            let first = self.waiting.iter().position(|(of, ..)| *of == fd);
            let (_, serial, completion) = self.waiting.remove(first.expect("it was just chosen"));
            if !completion.more {
                self.list.retain(|op| op.serial != serial); // O1
            }
            out.push(completion);
        }
    }
}

impl Kind {
    const fn receives(&self) -> bool {
        matches!(self, Self::Recv { .. } | Self::RecvInto { .. })
    }

    const fn sends(&self) -> bool {
        matches!(self, Self::Send { .. })
    }
}

impl Op {
    /// Tries until it has to wait, ends, or has had enough for one turn.
    fn run(&mut self, kernel: &mut Kernel<'_>, waiting: &mut Vec<Waiting>) {
        loop {
            let step = match self.kind {
                Kind::Accept { many } => self.accept(many, kernel),
                Kind::Connect { .. } => self.connect(kernel),
                Kind::Recv { many } => self.receive(many, kernel),
                Kind::RecvInto { chunk } => self.receive_into(chunk, kernel),
                Kind::Send { .. } => self.send(kernel),
                Kind::Poll { interest } => self.poll(interest, kernel),
            };
            self.tried = true;
            if matches!(step, Step::Wait) {
                return;
            }
            self.post(step, waiting);
            if self.over || kernel.world.rng.chance(300) {
                return;
            }
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "a step is used up by its post")]
    fn post(&mut self, step: Step, waiting: &mut Vec<Waiting>) {
        let (result, chunk, more) = match step {
            Step::Wait => return,
            Step::More(result, chunk) => (Ok(result), chunk, true),
            Step::Last(result, chunk) => (result, chunk, false),
        };
        self.over = !more;
        waiting.push((self.fd, self.serial, Completion { token: self.token, result, chunk, more }));
    }

    /// A good completion of a multishot operation, or of one that ends with it.
    fn good(many: bool, n: u32, chunk: Option<ChunkId>, world: &mut World) -> Step {
        if many && !world.rng.chance(world.faults.multishot_end) {
            Step::More(n, chunk)
        } else {
            Step::Last(Ok(n), chunk)
        }
    }

    fn accept(&self, many: bool, kernel: &mut Kernel<'_>) -> Step {
        match kernel.world.accept(self.fd) {
            Ok(fd) => Self::good(many, fd.0 as u32, None, kernel.world),
            Err(Errno::EAGAIN) => Step::Wait,
            Err(errno) => Step::Last(Err(errno), None),
        }
    }

    fn connect(&mut self, kernel: &mut Kernel<'_>) -> Step {
        let Kind::Connect { to, started } = &mut self.kind else { return Step::Wait };
        if !*started {
            *started = true;
            kernel.world.start_connect(self.fd, to);
        }
        let id = kernel.world.conn_of(self.fd).expect("it was just started");
        let conn = &mut kernel.world.links[id].conn;
        if let Some(errno) = conn.ends[OURS].error.take() {
            return Step::Last(Err(errno), None);
        }
        match conn.phase {
            Phase::Up => Step::Last(Ok(0), None),
            Phase::Connecting { .. } if conn.ends[OURS].dead => {
                Step::Last(Err(Errno::ECONNABORTED), None)
            }
            Phase::Connecting { .. } => Step::Wait,
        }
    }

    /// What receives have in common: how much may be taken, or why nothing.
    fn readable(&self, kernel: &mut Kernel<'_>) -> Result<usize, Step> {
        let Some(id) = kernel.world.conn_of(self.fd) else {
            return Err(Step::Last(Err(Errno::ENOTCONN), None));
        };
        let world = &mut *kernel.world;
        if world.links[id].conn.mask(OURS) & libc::POLLIN as u32 == 0
            && world.links[id].conn.ends[OURS].error.is_none()
        {
            return Err(Step::Wait);
        }
        if world.rng.chance(world.faults.recv) {
            world.links[id].conn.faulted = true;
            return Err(Step::Last(Err(world.rng.pick(TRANSFER_ERRORS)), None));
        }
        Ok(id)
    }

    fn receive(&self, many: bool, kernel: &mut Kernel<'_>) -> Step {
        // The kernel picks the buffer before it looks into the socket.
        if kernel.ring.free() == 0 && !self.tried {
            return Step::Last(Err(Errno::ENOBUFS), None);
        }
        let id = match self.readable(kernel) {
            Ok(id) => id,
            Err(step) => return step,
        };
        let world = &mut *kernel.world;
        let has_bytes = world.links[id].conn.ways[1 - OURS].received.len();
        if kernel.ring.free() == 0 || world.rng.chance(world.faults.enobufs) {
            return Step::Last(Err(Errno::ENOBUFS), None);
        }
        let most = world.short(kernel.buffers.sizes().ring_size as usize, has_bytes);
        let mut bytes = Vec::new();
        match world.with(id, |conn, now, rng| conn.receive(OURS, most, &mut bytes, now, rng)) {
            Ok(0) => Step::Last(Ok(0), None),
            Ok(n) => {
                let chunk = kernel.ring.lend(kernel.buffers);
                kernel.buffers.set(chunk, 0, 0);
                kernel.buffers.write(chunk, &bytes);
                Self::good(many, n as u32, Some(chunk), world)
            }
            Err(errno) => Step::Last(Err(errno), None),
        }
    }

    fn receive_into(&self, chunk: ChunkId, kernel: &mut Kernel<'_>) -> Step {
        let id = match self.readable(kernel) {
            Ok(id) => id,
            Err(step) => return step,
        };
        let world = &mut *kernel.world;
        let has_bytes = world.links[id].conn.ways[1 - OURS].received.len();
        let most = world.short(kernel.buffers.room(chunk) as usize, has_bytes);
        let mut bytes = Vec::new();
        match world.with(id, |conn, now, rng| conn.receive(OURS, most, &mut bytes, now, rng)) {
            Ok(n) => {
                super::memory::fill_tail(kernel.buffers, chunk, &bytes);
                Step::Last(Ok(n as u32), None)
            }
            Err(errno) => Step::Last(Err(errno), None),
        }
    }

    fn send(&mut self, kernel: &mut Kernel<'_>) -> Step {
        let Kind::Send { chunk, start, len, ref mut done, wait_all } = self.kind else {
            return Step::Wait;
        };
        let bytes = kernel.buffers.bytes(chunk);
        assert!(
            bytes.as_ptr() as usize == start && bytes.len() >= len as usize,
            "{chunk:?} was moved while {:?} sends it",
            self.token
        );
        let rest = &bytes[*done as usize..len as usize];
        let sent = kernel.world.send(self.fd, rest);
        match sent {
            Ok(n) => {
                *done += n as u32;
                // A short count without an error: the caller has to go on with the rest.
                let cut_short = *done < len && n < rest.len() && kernel.world.short_send();
                if *done == len || !wait_all || cut_short {
                    return Step::Last(Ok(*done), None);
                }
                Step::Wait
            }
            Err(Errno::EAGAIN) if wait_all => Step::Wait,
            Err(errno) if *done > 0 => {
                // The count goes first; the error stays for who looks next.
                if let Some(id) = kernel.world.conn_of(self.fd)
                    && kernel.world.links[id].conn.ends[OURS].dead
                    && errno != Errno::EPIPE
                {
                    kernel.world.links[id].conn.ends[OURS].error = Some(errno);
                }
                Step::Last(Ok(*done), None)
            }
            Err(errno) => Step::Last(Err(errno), None),
        }
    }

    fn poll(&self, interest: Interest, kernel: &mut Kernel<'_>) -> Step {
        let always = (libc::POLLERR | libc::POLLHUP) as u32;
        let mask = match kernel.world.open(self.fd) {
            Open::Stream(Some(id)) => kernel.world.links[id].conn.mask(OURS),
            Open::Stream(None) => (libc::POLLHUP | libc::POLLOUT) as u32,
            Open::Listener if kernel.world.has_client(self.fd) => libc::POLLIN as u32,
            Open::Listener | Open::Nothing => 0,
        };
        let wanted = match interest {
            Interest::Readable => always | libc::POLLIN as u32,
            Interest::Writable => always | libc::POLLOUT as u32,
            Interest::Reset => always,
        };
        match mask & wanted {
            0 => Step::Wait,
            _ => Step::Last(Ok(mask & (wanted | libc::POLLRDHUP as u32)), None),
        }
    }
}
