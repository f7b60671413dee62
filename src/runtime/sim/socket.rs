//! One virtual TCP connection: two ends, two ways, and what travels between them.
//!
//! ```text
//!  end OURS ── send ─▶ ways[OURS]: sent ─ travels ─▶ received ── receive ─▶ end FAR
//!           ◀─ receive ── received ◀─ travels ─ sent :ways[FAR] ◀─ send ──
//! ```
//!
//! What Linux does and tests on a real kernel showed, and this model therefore does:
//! - T1: a reset is reported once. Whoever meets it first takes the error; after that a
//!   receive returns 0 and a send EPIPE. If a FIN came before the RST, a receive returns 0
//!   even the first time and only a send or a poll can tell.
//! - T2: unread bytes stay readable after an RST. An RST of our own throws them away, and
//!   with them what we sent and the other end does not have yet.
//! - T3: closing an end with unread bytes is a reset, too; bytes for a closed end bring one.
//! - T4: `SIOCOUTQ` counts an unacknowledged FIN as one byte, and goes stale at an RST.
//!
//! It does no I/O and keeps no clock: every call gets `now`.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::rng::Rng;
use crate::runtime::time::Time;

pub const OURS: usize = 0;
pub const FAR: usize = 1;

/// The FIN of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fin {
    None,
    /// Behind what is still to be delivered.
    Queued,
    Delivered,
}

/// One direction.
#[derive(Debug)]
pub struct Way {
    pub sent: VecDeque<u8>,
    sent_max: usize,
    pub received: VecDeque<u8>,
    received_max: usize,
    pub fin: Fin,
    /// When something arrives next.
    due: Option<Time>,
    /// Bytes accepted from the sender, and received by the other end.
    pub given: u64,
    pub taken: u64,
    /// Bytes that were accepted and will never arrive.
    pub lost: u64,
}

/// One socket.
#[derive(Debug, Default)]
pub struct End {
    /// `sk_err`: taken by the first operation that looks.
    pub error: Option<Errno>,
    /// No longer connected: an RST arrived or was sent, or the network gave up.
    pub dead: bool,
    /// By our own reset: then a receive says ENOTCONN, not 0.
    pub disconnected: bool,
    pub closed: bool,
    /// An RST of the other end arrived here.
    pub reset_arrived: bool,
    /// An RST was sent from here.
    pub reset_sent: bool,
    /// What `SIOCOUTQ` goes on to say after death.
    stale: u32,
    /// An RST travels towards this end.
    reset_due: Option<Time>,
}

/// How far the connection itself is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `None`: the answer never comes. `Err(_)`: what it will be.
    Connecting {
        due: Option<Time>,
        answer: Result<(), Errno>,
    },
    Up,
}

#[derive(Debug)]
pub struct Conn {
    pub phase: Phase,
    pub ways: [Way; 2],
    pub ends: [End; 2],
    pub unix: bool,
    /// Nothing gets through any more, in either direction.
    pub cut: bool,
    /// An error was injected here; bytes may be missing without an RST.
    pub faulted: bool,
}

impl Conn {
    pub fn new(phase: Phase, unix: bool, rng: &mut Rng) -> Self {
        let mut way = || Way {
            sent: VecDeque::new(),
            sent_max: buffer_size(rng),
            received: VecDeque::new(),
            received_max: buffer_size(rng),
            fin: Fin::None,
            due: None,
            given: 0,
            taken: 0,
            lost: 0,
        };
        Self {
            phase,
            ways: [way(), way()],
            ends: [End::default(), End::default()],
            unix,
            cut: false,
            faulted: false,
        }
    }

    /// Takes what fits of `bytes`, as send(2) does.
    pub fn send(
        &mut self,
        end: usize,
        bytes: &[u8],
        now: Time,
        rng: &mut Rng,
    ) -> Result<usize, Errno> {
        if let Some(errno) = self.ends[end].error.take() {
            return Err(errno); // T1
        }
        if self.ends[end].dead || self.ways[end].fin != Fin::None {
            return Err(Errno::EPIPE);
        }
        if self.phase != Phase::Up {
            return Err(Errno::EAGAIN);
        }
        let n = bytes.len().min(self.room(end));
        if n == 0 {
            return Err(Errno::EAGAIN);
        }
        self.ways[end].sent.extend(&bytes[..n]);
        self.ways[end].given += n as u64;
        self.travel(end, now, rng);
        Ok(n)
    }

    /// How much a send could take.
    pub fn room(&self, end: usize) -> usize {
        self.ways[end].sent_max.saturating_sub(self.ways[end].sent.len())
    }

    /// Appends up to `most` received bytes to `into`, as recv(2) does; `Ok(0)` is the end.
    pub fn receive(
        &mut self,
        end: usize,
        most: usize,
        into: &mut Vec<u8>,
        now: Time,
        rng: &mut Rng,
    ) -> Result<usize, Errno> {
        let way = &mut self.ways[1 - end];
        let n = most.min(way.received.len());
        if n > 0 {
            into.extend(way.received.drain(..n)); // T2
            way.taken += n as u64;
            self.travel(1 - end, now, rng);
            return Ok(n);
        }
        if way.fin == Fin::Delivered {
            return Ok(0); // T1: before the error
        }
        let state = &mut self.ends[end];
        if let Some(errno) = state.error.take() {
            return Err(errno);
        }
        if state.disconnected {
            return Err(Errno::ENOTCONN);
        }
        if state.dead { Ok(0) } else { Err(Errno::EAGAIN) }
    }

    /// What poll(2) would say to someone who asks for everything.
    pub fn mask(&self, end: usize) -> u32 {
        if self.phase != Phase::Up && !self.ends[end].dead {
            return 0;
        }
        let (state, way_in, way_out) = (&self.ends[end], &self.ways[1 - end], &self.ways[end]);
        let (shut_in, shut_out) =
            (way_in.fin == Fin::Delivered || state.dead, way_out.fin != Fin::None || state.dead);
        let mut mask = 0;
        let mut set = |on: bool, bit: i16| mask |= if on { bit as u32 } else { 0 };
        set(!way_in.received.is_empty() || shut_in, libc::POLLIN);
        set(shut_in, libc::POLLRDHUP);
        set(shut_out || self.room(end) * 3 >= way_out.sent_max, libc::POLLOUT);
        set(state.error.is_some(), libc::POLLERR);
        set(shut_in && shut_out, libc::POLLHUP);
        mask
    }

    /// `shutdown(SHUT_WR)`. A connect in flight ends by it.
    pub fn finish(&mut self, end: usize, now: Time, rng: &mut Rng) {
        if self.phase != Phase::Up {
            return self.give_up(Errno::ECONNRESET);
        }
        if !self.ends[end].dead && self.ways[end].fin == Fin::None {
            self.ways[end].fin = Fin::Queued;
            self.travel(end, now, rng);
        }
    }

    /// `connect(AF_UNSPEC)`: an RST to the other end, unless both FINs were there already.
    pub fn reset(&mut self, end: usize, now: Time, rng: &mut Rng) {
        if self.phase != Phase::Up {
            return self.give_up(Errno::ECONNRESET);
        }
        if self.ends[end].dead {
            return;
        }
        if self.unix {
            return self.hang_up(end, now, rng);
        }
        self.ends[end].stale = self.unsent(end);
        let over = self.ways[end].fin == Fin::Delivered && self.ways[1 - end].fin == Fin::Delivered;
        // What is on the wire already arrives; the rest is thrown away.
        let refuses = self.ends[1 - end].dead || self.ends[1 - end].closed;
        let way = &mut self.ways[end];
        let room = if refuses { 0 } else { way.received_max.saturating_sub(way.received.len()) };
        let on_wire = rng.between(0, way.sent.len().min(room));
        way.received.extend(way.sent.drain(..on_wire));
        if !refuses && way.sent.is_empty() && way.fin == Fin::Queued && rng.chance(500) {
            way.fin = Fin::Delivered;
        }
        way.lose();
        let way_in = &mut self.ways[1 - end];
        way_in.lost += way_in.received.len() as u64;
        way_in.received.clear();
        let state = &mut self.ends[end];
        (state.dead, state.disconnected) = (true, true);
        state.error = Some(Errno::ECONNRESET);
        if !over {
            self.ends[end].reset_sent = true;
            self.ends[1 - end].reset_due = Some(now + rng.travel());
        }
    }

    /// `shutdown(SHUT_RDWR)` of a unix socket: all bytes are with the peer already, then 0.
    fn hang_up(&mut self, end: usize, now: Time, rng: &mut Rng) {
        let way = &mut self.ways[end];
        way.received.extend(way.sent.drain(..));
        (way.fin, way.due) = (Fin::Delivered, None);
        self.ends[end].dead = true;
        self.ends[1 - end].reset_due = Some(now + rng.travel());
    }

    /// The network gives up on us; the other end hears nothing.
    pub fn die(&mut self, errno: Errno) {
        self.faulted = true;
        if !self.ends[OURS].dead {
            self.ends[OURS].stale = self.unsent(OURS);
            self.ends[OURS].dead = true;
            self.ends[OURS].error = Some(errno);
            self.ways[OURS].lose();
        }
    }

    fn give_up(&mut self, errno: Errno) {
        self.phase = Phase::Connecting { due: None, answer: Err(errno) };
        let ours = &mut self.ends[OURS];
        (ours.error, ours.dead, ours.disconnected) = (Some(errno), true, true);
    }

    /// `close(2)`. Returns whether it became an RST because bytes were unread (T3).
    pub fn close(&mut self, end: usize, now: Time, rng: &mut Rng) -> bool {
        let unread = !self.ways[1 - end].received.is_empty() && !self.ends[end].dead;
        if unread {
            self.reset(end, now, rng);
        } else {
            self.finish(end, now, rng);
        }
        self.ends[end].closed = true;
        // What waits at the sender for room now finds a closed end.
        self.travel(1 - end, now, rng);
        unread
    }

    /// `SIOCOUTQ`.
    pub fn unsent(&self, end: usize) -> u32 {
        if self.ends[end].dead {
            return self.ends[end].stale; // T4
        }
        self.ways[end].sent.len() as u32 + u32::from(self.ways[end].fin == Fin::Queued)
    }

    /// The first moment at which something happens by itself.
    pub fn due(&self) -> Option<Time> {
        if self.cut {
            return None;
        }
        let connect = match self.phase {
            Phase::Connecting { due, .. } => due,
            Phase::Up => None,
        };
        let ends = self.ends.iter().map(|end| end.reset_due);
        self.ways.iter().map(|way| way.due).chain(ends).chain([connect]).flatten().min()
    }

    /// Lets happen what is due. Returns whether the connection came up.
    pub fn step(&mut self, now: Time, rng: &mut Rng) -> bool {
        if self.cut {
            return false;
        }
        for end in [OURS, FAR] {
            if self.ways[end].due.is_some_and(|due| due <= now) {
                self.ways[end].due = None;
                self.deliver(end, now, rng);
            }
            if self.ends[end].reset_due.is_some_and(|due| due <= now) {
                self.ends[end].reset_due = None;
                self.on_reset(end);
            }
        }
        let Phase::Connecting { due: Some(due), answer } = self.phase else { return false };
        if due > now {
            return false;
        }
        match answer {
            Ok(()) => self.phase = Phase::Up,
            Err(errno) => self.give_up(errno),
        }
        answer.is_ok()
    }

    /// Moves bytes of `end` to the other one, and the FIN behind the last.
    fn deliver(&mut self, end: usize, now: Time, rng: &mut Rng) {
        let other = &self.ends[1 - end];
        if other.closed || other.dead {
            let had_bytes = !self.ways[end].sent.is_empty();
            let had_fin = self.ways[end].fin != Fin::None;
            let dead = other.dead;
            self.ways[end].lose();
            if had_fin && !dead {
                self.ways[end].fin = Fin::Delivered;
            }
            if (had_bytes || (had_fin && dead)) && !self.ends[end].dead {
                self.ends[end].reset_due.get_or_insert(now + rng.travel()); // T3
            }
            return;
        }
        let way = &mut self.ways[end];
        let most = way.sent.len().min(way.received_max.saturating_sub(way.received.len()));
        let n = if rng.chance(300) { rng.between(most.min(1), most) } else { most };
        way.received.extend(way.sent.drain(..n));
        if way.sent.is_empty() && way.fin == Fin::Queued && (n == 0 || rng.chance(500)) {
            way.fin = Fin::Delivered;
        }
        self.travel(end, now, rng);
    }

    fn on_reset(&mut self, end: usize) {
        if self.ends[end].dead {
            return;
        }
        self.ends[end].stale = self.unsent(end);
        self.ways[end].lose();
        let had_fin = self.ways[1 - end].fin == Fin::Delivered;
        let state = &mut self.ends[end];
        state.dead = true;
        if !self.unix {
            state.reset_arrived = true;
            state.error = Some(if had_fin { Errno::EPIPE } else { Errno::ECONNRESET });
        }
    }

    /// Says when the next bytes of `end` arrive, if there are any and room for them.
    pub fn travel(&mut self, end: usize, now: Time, rng: &mut Rng) {
        let other = &self.ends[1 - end];
        let refuses = other.closed || other.dead;
        let way = &mut self.ways[end];
        let bytes = !way.sent.is_empty() && (way.received.len() < way.received_max || refuses);
        let fin = way.sent.is_empty() && way.fin == Fin::Queued;
        if (bytes || fin) && way.due.is_none() {
            way.due = Some(now + rng.travel());
        }
    }
}

impl Way {
    /// What was taken from the sender and did not arrive never will, nor the FIN behind it.
    fn lose(&mut self) {
        self.lost += self.sent.len() as u64;
        self.sent.clear();
        self.due = None;
        if self.fin == Fin::Queued {
            self.fin = Fin::None;
        }
    }
}

/// Mostly tight, so that short sends and full windows are common.
fn buffer_size(rng: &mut Rng) -> usize {
    match rng.below(3) {
        0 => rng.between(256, 2_048),
        1 => rng.between(2_048, 16_384),
        _ => rng.between(16_384, 131_072),
    }
}
