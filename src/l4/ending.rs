//! How a session ends: by FINs, by a reset that travels, by a timeout; and the join.
//!
//! A FIN end and an RST end are different procedures. Once `shutdown(SHUT_WR)` was called no
//! RST can follow, and closing a descriptor under an armed operation sends nothing at all. So:
//! decide how (FIN, reset), make what is in flight end, wait for the last completion, close.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::gate::{Gate, tcp_options};
use super::measure;
use super::seats::RelayEnd;
use super::session::{Flow, Op, Phase, SIDES, Sending, Side};
use crate::config::plan::Timeouts;
use crate::observe::reason::Reason;
use crate::observe::record::SessionRecord;
use crate::runtime::driver::{Completion, Driver};

/// A reset throws away what the other side has not acknowledged; it waits this long for it.
const RESET_FLUSH_MAX: Duration = Duration::from_secs(1);

/// How often a waiting reset looks whether all is acknowledged.
const FLUSH_LOOK: Duration = Duration::from_millis(2);

/// A session that lasts this long gets what short ones never need: keep-alive on the server's
/// side, and the watch on a side that has sent its FIN.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// After the FINs of a timeout, how long a side has to close before it is reset.
const LINGER: Duration = Duration::from_secs(5);

impl<D: Driver> Gate<D> {
    /// Passes the FIN on to `to` (I4); with the second one the session is over.
    pub(super) fn finish(&mut self, slot: u32, to: Side) {
        let Some(fd) = self.fd(slot, to) else { return };
        if self.sessions[slot].socket(to).fin_sent {
            return;
        }
        let session = &mut self.sessions[slot];
        session.socket_mut(to).fin_sent = true;
        if !session.socket(to.other()).fin_sent {
            return self.driver.finish_now(fd);
        }
        // Both directions are through: closing sends the last FIN, unless something is still
        // armed on the descriptor, which only a FIN of its own would end at once.
        if !session.ops.is_empty() {
            self.driver.finish_now(fd);
        }
        self.close(slot, Reason::Ok);
    }

    /// `dead` was reset, and everything that it sent has been read.
    pub(super) fn on_reset(&mut self, slot: u32, dead: Side) {
        self.sessions[slot].half_mut(dead).flow = Flow::Ended;
        self.begin_flush(slot, dead);
    }

    /// `dead` was reset. What it sent before, read or not, goes to the other side first, but
    /// the other side has only so long to take it.
    pub(super) fn begin_flush(&mut self, slot: u32, dead: Side) {
        let until = self.driver.now() + RESET_FLUSH_MAX;
        let session = &mut self.sessions[slot];
        session.socket_mut(dead).reset_seen = true;
        let reason = match dead {
            Side::Client => Reason::ClientReset,
            Side::Upstream => Reason::ServerReset,
        };
        match session.phase {
            Phase::Relaying => {
                session.phase = Phase::Flushing { dead, until, reason };
                let other = dead.other();
                session.half_mut(other).sink = true;
                self.drop_queue(slot, other);
                self.drop_pipe(slot, other);
                self.cancel(slot, Op::Recv(other));
                self.resume(slot, dead);
                self.check_flush(slot);
            }
            Phase::Flushing { dead: first, .. } if first == dead => self.check_flush(slot),
            Phase::Waiting { .. } | Phase::Connecting { .. } => self.reset_both(slot, reason),
            Phase::Lingering { reason } | Phase::Flushing { reason, .. } => {
                self.reset_both(slot, reason);
            }
            // The task meets it itself.
            Phase::Free | Phase::Tasked | Phase::Closing { .. } => {}
        }
    }

    /// A send to `to` met a reset. Its unread bytes are still readable: read on to the end.
    pub(super) fn on_send_failed(&mut self, slot: u32, to: Side) {
        let session = &mut self.sessions[slot];
        session.socket_mut(to).reset_seen = true;
        session.half_mut(to.other()).sink = true;
        self.drop_queue(slot, to.other());
        match self.sessions[slot].phase {
            Phase::Relaying => self.begin_flush(slot, to),
            // The side that was to be told is gone as well.
            Phase::Flushing { reason, .. } => self.reset_both(slot, reason),
            _ => {}
        }
    }

    /// Drops what is queued from `side`; a chunk that a send is using stays until it ends.
    pub(super) fn drop_queue(&mut self, slot: u32, side: Side) {
        if self.sessions[slot].half(side).sending != Sending::Idle {
            return;
        }
        while let Some(chunk) = self.sessions[slot].half_mut(side).queue.pop(self.driver.buffers())
        {
            let lost = self.driver.buffers().len(chunk);
            self.counts.bytes_lost.add(u64::from(lost));
            self.driver.release(chunk);
        }
    }

    /// Resets the other side as soon as it has everything, or the time is up.
    pub(super) fn check_flush(&mut self, slot: u32) {
        let now = self.driver.now();
        let Phase::Flushing { dead, until, reason } = self.sessions[slot].phase else { return };
        let half = self.sessions[slot].half(dead);
        let all_sent = half.flow == Flow::Ended && half.is_drained();
        let unsent = self.fd(slot, dead.other()).map_or(0, |fd| self.driver.unsent_now(fd));
        if (all_sent && unsent == 0) || now >= until {
            // What is still queued here is counted when the queue is dropped.
            self.counts.bytes_lost.add(u64::from(unsent));
            self.reset_both(slot, reason);
        } else {
            self.arm_timer(slot, now + FLUSH_LOOK);
        }
    }

    pub(super) fn on_flush_timer(&mut self, slot: u32) {
        self.check_flush(slot);
    }

    /// The next look at whether a session still moves.
    pub(super) fn arm_idle_timer(&mut self, slot: u32) {
        let timeouts = self.timeouts(slot);
        let session = &self.sessions[slot];
        let half_closed = SIDES.iter().any(|&side| session.socket(side).fin_seen);
        let limit = if half_closed { timeouts.half_closed } else { timeouts.idle };
        let due = session.moved_at + limit;
        let due = timeouts.session.map_or(due, |limit| due.min(session.accepted_at + limit));
        self.arm_timer(slot, due);
    }

    pub(super) fn on_idle_timer(&mut self, slot: u32) {
        let (now, timeouts) = (self.driver.now(), self.timeouts(slot));
        self.on_settled(slot, &timeouts);
        let session = &self.sessions[slot];
        if timeouts.session.is_some_and(|limit| session.accepted_at + limit <= now) {
            return self.linger(slot, Reason::SessionTimeout);
        }
        let half_closed = SIDES.iter().any(|&side| session.socket(side).fin_seen);
        let (limit, reason) = if half_closed {
            (timeouts.half_closed, Reason::HalfClosedTimeout)
        } else {
            (timeouts.idle, Reason::IdleTimeout)
        };
        if session.moved_at + limit > now || self.moved_unseen(slot) {
            return self.arm_idle_timer(slot);
        }
        self.linger(slot, reason);
    }

    /// The session has lasted a while: see [`SETTLED_AFTER`].
    fn on_settled(&mut self, slot: u32, timeouts: &Timeouts) {
        for side in SIDES {
            let socket = *self.sessions[slot].socket(side);
            if socket.fin_seen && !socket.fin_sent {
                self.watch(slot, side);
            }
        }
        let upstream = self.fd(slot, Side::Upstream);
        if let (false, Some(fd)) = (self.sessions[slot].kept_alive, upstream) {
            self.sessions[slot].kept_alive = true;
            self.driver.keep_alive_now(fd, &tcp_options(timeouts));
        }
    }

    /// Whether a send that waits for all has moved bytes since the last look.
    fn moved_unseen(&mut self, slot: u32) -> bool {
        let now = self.driver.now();
        let mut moved = false;
        for side in SIDES {
            let Some(fd) = self.fd(slot, side.other()) else { continue };
            if self.sessions[slot].half(side).sending == Sending::Idle {
                continue;
            }
            let unsent = self.driver.unsent_now(fd);
            let half = self.sessions[slot].half_mut(side);
            moved |= unsent != half.unsent_last;
            half.unsent_last = unsent;
        }
        if moved {
            self.sessions[slot].moved_at = now;
        }
        moved
    }

    /// A FIN to both sides; who has not closed after [`LINGER`] is reset. A side that has not
    /// been given all that was sent to it gets no FIN: that would look like the end of it.
    pub(super) fn linger(&mut self, slot: u32, reason: Reason) {
        self.sessions[slot].phase = Phase::Lingering { reason };
        for side in SIDES {
            let from = side.other();
            let whole = self.sessions[slot].half(from).is_drained();
            self.sessions[slot].half_mut(from).sink = true;
            self.drop_queue(slot, from);
            if let Some(fd) = self.fd(slot, side)
                && whole
                && !self.sessions[slot].socket(side).fin_sent
            {
                self.driver.finish_now(fd);
                self.sessions[slot].socket_mut(side).fin_sent = true;
            }
        }
        if SIDES.iter().all(|&side| self.sessions[slot].socket(side).has_ended()) {
            return self.close(slot, reason);
        }
        let until = self.driver.now() + LINGER;
        self.arm_timer(slot, until);
        for side in SIDES {
            self.resume(slot, side);
        }
    }

    /// Resets whatever there is of both sides, now.
    pub(super) fn reset_both(&mut self, slot: u32, reason: Reason) {
        for side in SIDES {
            let connecting = side == Side::Upstream && self.sessions[slot].ops.has(Op::Connect);
            if let Some(fd) = self.fd(slot, side)
                && !connecting
            {
                self.driver.reset_now(fd);
            }
        }
        self.close(slot, reason);
    }

    /// The end is decided and on the wire: make everything in flight end, then join.
    pub(super) fn close(&mut self, slot: u32, reason: Reason) {
        if let Phase::Waiting { .. } = self.sessions[slot].phase {
            self.leave_queue(slot);
        }
        self.sessions[slot].phase = Phase::Closing { reason };
        let ops = self.sessions[slot].ops;
        ops.iter().for_each(|op| self.cancel(slot, op));
    }

    /// A completion after the end was decided: its memory goes back, its news is old.
    pub(super) fn absorb(&mut self, slot: u32, op: Op, completion: Completion) {
        self.drop_chunk(completion);
        if let Op::Send(to) = op {
            self.count_sent(slot, to, completion);
        }
        if let (Op::Connect, Some(fd)) = (op, self.fd(slot, Side::Upstream)) {
            // The server answered while its client was given up, or may still do so after the
            // cancel: closing alone would show it an empty session that ended in order.
            self.driver.reset_now(fd);
        }
        if let (Op::Recv(side), false) = (op, completion.more)
            && let Flow::Filling { chunk, .. } = self.sessions[slot].half(side).flow
        {
            self.driver.release(chunk);
            self.sessions[slot].half_mut(side).flow = Flow::Ended;
        }
    }

    /// Frees a session that has ended and joined (I1).
    pub(super) fn settle(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        let Phase::Closing { reason } = session.phase else { return };
        if !session.ops.is_empty() {
            return;
        }
        self.measure_path(slot);
        for side in SIDES {
            self.drop_queue(slot, side);
            self.drop_pipe(slot, side);
            if let Some(fd) = self.fd(slot, side) {
                self.driver.close_now(fd);
                self.sessions[slot].socket_mut(side).fd = None;
            }
        }
        self.timers.disarm(slot);
        self.account(slot, reason);
        self.clear_seat(slot);
        self.give_back(slot);
        self.sessions.remove(slot);
        self.publish_sessions();
        if self.doors_at.is_some() {
            self.open_doors();
        }
    }

    /// Looks once at the way to the server, before its socket is closed: one call of under a
    /// microsecond for a session.
    fn measure_path(&mut self, slot: u32) {
        let (server, fd) = (self.sessions[slot].server, self.fd(slot, Side::Upstream));
        if let (Some(server), Some(fd)) = (server, fd)
            && let Some(path) = self.driver.path_now(fd)
        {
            measure::path(&mut self.histograms.rtt, self.counts.server(server), server, &path);
        }
    }

    /// Counts the bytes of a session that were not counted `before`.
    fn count_bytes(&self, slot: u32, before: [u64; 2]) {
        let session = &self.sessions[slot];
        let [sent, received] = SIDES.map(|side| session.half(side).total - before[side as usize]);
        let listener = self.counts.listener(session.listener);
        listener.bytes_in.add(sent);
        listener.bytes_out.add(received);
        if let Some(server) = session.server {
            let counts = self.counts.server(server);
            counts.bytes_in.add(sent);
            counts.bytes_out.add(received);
        }
    }

    /// Brings the counters of bytes up to now: a relay may last for days.
    pub(super) fn count_relays(&mut self) {
        let tunnels = self.sessions.live().filter(|&(slot, _)| self.has_passing(slot));
        let tunnels: Vec<u32> = tunnels.map(|(slot, _)| slot).collect();
        for &slot in &tunnels {
            self.take_passing(slot);
        }
        let mut counted = std::mem::take(&mut self.counted);
        let relays = self.sessions.live().filter(|(_, one)| one.phase == Phase::Relaying);
        let tunnels = tunnels.iter().map(|&slot| (slot, &self.sessions[slot]));
        for (slot, session) in relays.chain(tunnels) {
            let at = slot as usize;
            self.count_bytes(slot, counted[at]);
            counted[at] = SIDES.map(|side| session.half(side).total);
        }
        self.counted = counted;
    }

    /// Counters, histogram and log line of an ended session.
    fn account(&mut self, slot: u32, reason: Reason) {
        let now = self.driver.now();
        self.take_passing(slot);
        let session = self.sessions[slot];
        let (sent, received) =
            (session.half(Side::Client).total, session.half(Side::Upstream).total);
        let counted = std::mem::take(&mut self.counted[slot as usize]);
        self.count_bytes(slot, counted);
        self.counts.listener(session.listener).ended[reason as usize].add(1);
        if let Some(server) = session.server {
            let counts = self.counts.server(server);
            if reason == Reason::ServerReset {
                counts.resets.add(1);
            }
        }
        let end = RelayEnd { reason, at: now, bytes_in: sent, bytes_out: received };
        let answered = self.say_epilogue(slot, end);
        self.judge_server(slot, reason, answered);
        let took = now.since(session.accepted_at);
        measure::record(&mut self.histograms.session, session.listener, took);
        let sample = self.snapshot.plan.log.lines.sample;
        if self.listeners[usize::from(session.listener.0)].logged
            && self.sampler.takes(sample, reason, 0)
        {
            let names = self.take_names(slot);
            let record = SessionRecord {
                listener: session.listener,
                peer: session.peer,
                pool: self.is_pool_known(slot).then_some(session.pool),
                server: session.server,
                reason,
                accepted_at: session.accepted_at,
                ended_at: now,
                connect: session.connect_us.map(|us| Duration::from_micros(us.into())),
                bytes_in: sent,
                bytes_out: received,
                retries: session.retries,
                names,
            };
            if self.shared.records[usize::from(self.worker)].push(record).is_err() {
                self.counts.log_dropped.add(1);
            }
        }
    }

    /// Places the session held: at its server, its address, its listener, a descriptor pair.
    fn give_back(&mut self, slot: u32) {
        let now = self.driver.now();
        self.unreserve(slot);
        self.done_released(slot);
        let session = self.sessions[slot];
        let listener = usize::from(session.listener.0);
        if session.holds.per_ip
            && let (Some(table), Some(ip)) =
                (self.shared.per_ip(session.listener), session.peer.ip())
        {
            table.release(ip, now);
        }
        if session.holds.listener {
            self.snapshot.listeners[listener].active.fetch_sub(1, Ordering::Relaxed);
        }
        if session.holds.covers {
            self.tasks.shell().cover().end_session();
        } else if session.holds.descriptor {
            self.shared.budget.give();
        }
    }
}
