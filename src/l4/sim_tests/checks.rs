//! What must be true after every step, and when all is over.

use std::sync::atomic::Ordering;

use super::course::{Course, Pair, Peered, bytes_of};
use crate::l4::session::{Flow, Phase, SIDES, Session, Side};
use crate::observe::reason::Reason;
use crate::registry::ServerId;
use crate::runtime::buffers::{Buffers, Kind};
use crate::runtime::driver::Driver as _;

impl Course {
    /// The invariants of every moment.
    pub fn check(&mut self) {
        self.check_operations();
        self.check_gauges();
        self.check_memory();
        self.check_sums();
        self.note_flushes();
        let lingers = self.lingers();
        for at in 0..self.pairs.len() {
            if !self.pairs[at].over {
                self.pairs[at].check(lingers);
            }
        }
    }

    /// Some session has sent FINs of its own, after a timeout.
    fn lingers(&self) -> bool {
        self.gate.sessions.live().any(|(_, session)| match session.phase {
            Phase::Lingering { reason } | Phase::Closing { reason } => ends_by_fin(reason),
            _ => false,
        })
    }

    /// Operations that the sessions count are those in flight.
    fn check_operations(&self) {
        let sessions = self.gate.sessions.live().map(|(_, session)| session.ops.count());
        let counted = sessions.sum::<u32>() as usize + self.gate.doors_now()[0];
        assert_eq!(counted, self.net.in_flight(), "operations:\n{}", self.gate.driver.describe());
    }

    /// What is published is what there is.
    fn check_gauges(&self) {
        let sessions = &self.gate.sessions;
        let live = || sessions.live().map(|(_, session)| session);
        assert_eq!(self.gate.counts.sessions.load(Ordering::Relaxed) as usize, sessions.len());
        let fds = live().flat_map(|s| SIDES.map(|side| s.socket(side).fd)).flatten().count();
        let doors = self.gate.doors_now()[1];
        let open = self.net.fds_open() - self.net.fds_coming();
        assert_eq!(open, fds + doors, "fds:\n{}", self.gate.driver.describe());
        let active = live().filter(|session| session.holds.listener).count();
        assert_eq!(self.snapshot.listeners[0].active.load(Ordering::Relaxed) as usize, active);
        for server in &self.snapshot.servers {
            let on = |s: &&Session| s.holds.server && s.server == Some(server.id);
            let load = server.load.load(Ordering::Relaxed) as usize;
            assert_eq!(load, live().filter(on).count(), "load of {:?}", server.id);
        }
        let pool = &self.snapshot.pools[0].state;
        let released = live().filter(|session| session.holds.released).count();
        assert_eq!(pool.released.load(Ordering::Relaxed) as usize, released, "released");
        let waits = |s: &&Session| matches!(s.phase, Phase::Waiting { .. }) && in_queue(s);
        let waiting = live().filter(waits).count();
        assert_eq!(pool.waiting.load(Ordering::Relaxed) as usize, waiting, "waiting");
        let descriptors = live().filter(|session| session.holds.descriptor).count();
        let left = self.shared.budget.free() + descriptors as i64;
        assert_eq!(left, i64::from(self.pairs_max), "budget");
    }

    /// Every chunk and pipe that is out is in one session's hands.
    fn check_memory(&mut self) {
        let (mut rings, mut blocks, mut pipes) = (0, 0, 0);
        let buffers: &Buffers = self.gate.driver.buffers();
        let (sizes, blocks_free) = (*buffers.sizes(), buffers.blocks_free());
        // Two borrows of the gate's parts: the walk needs the chunks' links.
        let halves: Vec<_> = self
            .gate
            .sessions
            .live()
            .flat_map(|(_, session)| SIDES.map(|side| *session.half(side)))
            .collect();
        let buffers: &Buffers = self.gate.driver.buffers();
        for half in halves {
            let mut queue = half.queue;
            while let Some(chunk) = queue.pop(buffers) {
                match buffers.kind(chunk) {
                    Kind::Ring => rings += 1,
                    Kind::Block => blocks += 1,
                    Kind::Large => {}
                }
            }
            assert_eq!(queue.bytes(), 0, "a queue's count is not that of its chunks");
            pipes += usize::from(matches!(half.flow, Flow::Piped { .. }));
        }
        // Chunks in completions that were not handed out yet are nobody's.
        let lent = sizes.ring_count - self.gate.driver.ring_free();
        let coming = self.net.chunks_coming() as u32;
        assert_eq!(lent, rings + coming, "ring buffers:\n{}", self.gate.driver.describe());
        assert_eq!(sizes.block_count - blocks_free, blocks, "blocks");
        self.spilled += u32::from(blocks > 0);
        self.piped += u32::from(pipes > 0);
        assert_eq!(self.net.pipes_taken(), pipes, "pipes");
    }

    /// Bytes in = bytes out + buffered, for every half.
    fn check_sums(&self) {
        for (slot, session) in self.gate.sessions.live() {
            for side in SIDES {
                self.check_half(slot, session, side);
            }
        }
    }

    fn check_half(&self, slot: u32, session: &Session, side: Side) {
        let half = session.half(side);
        let Some(from) = session.socket(side).fd.filter(|fd| self.net.link_of(*fd).is_some())
        else {
            return;
        };
        if session.is_closing() {
            return;
        }
        let taken = self.net.ledger(from).taken;
        assert_eq!(half.total, taken, "received on slot {slot} {side:?}: {session:?}");
        if half.sink {
            return;
        }
        let to = session.socket(side.other()).fd.filter(|fd| self.net.link_of(*fd).is_some());
        let given = to.map_or(0, |fd| self.net.ledger(fd).given);
        let piped = if let Flow::Piped { filled, .. } = half.flow { filled } else { 0 };
        let held = u64::from(half.queue.bytes() + piped);
        assert_eq!(half.total, given + held, "in and out, slot {slot} {side:?}: {session:?}");
    }

    fn note_flushes(&mut self) {
        for (_, session) in self.gate.sessions.live() {
            if let Phase::Flushing { until, .. } = session.phase
                && let Some(fd) = session.socket(Side::Client).fd
            {
                let id = self.net.link_of(fd);
                let pair = self.pairs.iter_mut().find(|pair| Some(pair.client.far.id()) == id);
                pair.expect("a client").flush_until = Some(until);
            }
        }
    }

    /// When all is over.
    pub fn check_ends(&mut self) {
        for pair in &mut self.pairs {
            pair.check(false);
            pair.check_end();
        }
        for stray in &self.strays {
            assert_eq!(stray.got(), 0, "bytes of nobody at {stray:?}");
        }
        for (at, server) in self.snapshot.servers.iter().enumerate() {
            assert_eq!(server.id, ServerId(at as u32));
            assert_eq!(server.load.load(Ordering::Relaxed), 0);
        }
        assert_eq!(self.snapshot.pools[0].state.released.load(Ordering::Relaxed), 0);
        assert_eq!(self.snapshot.pools[0].state.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(self.snapshot.listeners[0].active.load(Ordering::Relaxed), 0);
        assert_eq!(self.shared.budget.free(), i64::from(self.pairs_max));
        assert_eq!(self.gate.counts.panics.value(), 0);
    }
}

/// Whether a waiting session stands in the pool's queue, not waiting for a descriptor.
fn in_queue(session: &Session) -> bool {
    use crate::l4::session::WaitFor;
    let Phase::Waiting { wait, .. } = session.phase else { return false };
    wait != WaitFor::Descriptor
}

impl Pair {
    /// Order and content of what arrived, and that no FIN came that nobody sent; with `lingers`
    /// a pair whose end is not known may have one of the gateway's own.
    fn check(&mut self, lingers: bool) {
        let still = |one: &Peered| one.far.is_still() && !one.cut && !one.paused;
        self.client.check_bytes();
        self.over = self.record.is_some() && still(&self.client);
        if let Some(server) = &mut self.server {
            server.check_bytes();
            self.over &= still(server);
        }
        let timed_out = self.record.as_ref().is_some_and(|record| ends_by_fin(record.reason));
        if timed_out || lingers && self.record.is_none() {
            return; // judged when the reason is known
        }
        self.check_fins();
    }

    /// A FIN at one end means a FIN of the other, and every byte before it.
    fn check_fins(&self) {
        let Some(server) = &self.server else {
            assert!(!self.client.far.got_fin(), "a FIN to {:?} from nobody", self.client.far);
            return;
        };
        for (at, from) in [(&self.client, server), (server, &self.client)] {
            let touched = at.far.gave_up() || at.far.faulted() || at.far.got_reset();
            if !at.far.got_fin() || touched {
                continue;
            }
            let what = self.describe();
            assert!(from.far.finished(), "a FIN at {:?} that nobody sent\n{what}", at.far);
            assert!(from.far.fin_arrived(), "a FIN at {:?} for a reset\n{what}", at.far);
            let arrived = at.far.got() + at.far.coming() as u64 + at.far.lost().0;
            assert_eq!(arrived, from.far.put(), "bytes before a FIN\n{what}");
        }
    }

    /// How the session ended explains what each end saw.
    fn check_end(&self) {
        let Some(record) = &self.record else {
            let seen = self.client.far.sent_reset() || self.client.far.faulted();
            let cut = self.client.far.got() == 0;
            assert!(seen || cut, "no session and no reason\n{}", self.describe());
            return;
        };
        let Some(server) = &self.server else { return };
        let whole = |one: &Peered| !one.far.faulted() && !one.far.gave_up();
        if record.reason == Reason::Ok {
            self.check_ok();
        }
        let in_time = self.flush_until.is_none_or(|until| record.ended_at < until);
        let ends = [
            (Reason::ServerReset, &self.client, server),
            (Reason::ClientReset, server, &self.client),
        ];
        for (reason, at, from) in ends {
            // After both FINs there is no connection left that could be reset.
            let over = at.far.got_fin() && at.far.fin_arrived();
            if record.reason != reason || !whole(at) || over {
                continue;
            }
            assert!(at.far.got_reset(), "a reset that did not travel\n{}", self.describe());
            if in_time && !from.far.faulted() && record.connect.is_some() {
                // What the reset end wrote, less what its own reset threw away.
                let sent = from.far.put() - from.far.unsent() as u64 - from.far.lost().1;
                assert_eq!(at.far.got(), sent, "bytes before a reset\n{}", self.describe());
            }
        }
    }

    fn check_ok(&self) {
        let (client, server) = (&self.client.far, &self.server.as_ref().expect("a server").far);
        let clean =
            |far: &crate::runtime::sim::Far| !far.gave_up() && !far.faulted() && !far.got_reset();
        if clean(client) && clean(server) {
            assert_eq!(client.got(), server.put(), "to the client\n{}", self.describe());
            assert_eq!(server.got(), client.put(), "to the server\n{}", self.describe());
        }
        for far in [client, server] {
            let reset = far.got_reset() && !far.faulted();
            assert!(!reset || far.gave_up(), "{}", self.describe());
        }
    }

    pub fn describe(&self) -> String {
        let mut text = format!("record {:?}, flush {:?}\n", self.record, self.flush_until);
        for one in std::iter::once(&self.client).chain(&self.server) {
            text.push_str("  ");
            text.push_str(&one.far.describe());
            text.push('\n');
        }
        text
    }
}

/// Ends in which we send a FIN to both that no side asked for.
fn ends_by_fin(reason: Reason) -> bool {
    matches!(reason, Reason::IdleTimeout | Reason::HalfClosedTimeout | Reason::SessionTimeout)
}

impl Peered {
    fn check_bytes(&mut self) {
        let got = self.far.read();
        if got.is_empty() {
            return;
        }
        let from = self.from.expect("bytes from nobody");
        let expected = bytes_of(from, self.checked, got.len());
        if got != expected {
            let at = got.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
            let at = self.checked + at as u64;
            panic!("wrong byte {at} at {:?}, from #{from}", self.far);
        }
        self.checked += got.len() as u64;
    }
}
