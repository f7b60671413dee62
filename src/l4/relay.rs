//! Bytes from one side to the other: receive, send, back-pressure, half-close.
//!
//! The usual case is short: a multishot receive brings a ring buffer, one send empties it, the
//! buffer goes back. Only when the target is slow do bytes move into blocks, up to a share per
//! half; then the source is paused, and goes on by one-shot receives as room comes back. Ring
//! buffers never wait for a slow peer.

use nix::errno::Errno;

use super::ending::SETTLED_AFTER;
use super::gate::Gate;
use super::session::{Flow, Op, Phase, SIDES, Sending, Side};
use crate::runtime::buffers::{ChunkId, Kind, Queue};
use crate::runtime::driver::{Completion, Driver};

/// Bytes one half may have waiting for a slow target. What a multishot receive brings in the
/// turn it is stopped comes on top, at most the ring's size.
const SHARE_MAX: u32 = 64 << 10;

/// The share once half of the worker's blocks are taken: one block, so that the rest serves
/// four times as many.
const SHARE_TIGHT: u32 = 16 << 10;

/// Full ring buffers in a row after which a flow counts as bulk.
pub(super) const BULK_AFTER: u8 = 8;

impl<D: Driver> Gate<D> {
    /// The server is connected: both directions flow.
    pub(super) fn begin_relay(&mut self, slot: u32) {
        let now = self.driver.now();
        let session = &mut self.sessions[slot];
        session.phase = Phase::Relaying;
        session.moved_at = now;
        self.arm_timer(slot, now + SETTLED_AFTER);
        self.resume(slot, Side::Upstream);
        self.pump(slot, Side::Upstream);
    }

    fn share(&mut self) -> u32 {
        let buffers = self.driver.buffers();
        if buffers.blocks_free() > buffers.sizes().block_count / 2 {
            SHARE_MAX
        } else {
            SHARE_TIGHT
        }
    }

    /// Asks for the next bytes of `side`, if it is time to.
    pub(super) fn resume(&mut self, slot: u32, side: Side) {
        let session = &self.sessions[slot];
        let stopped = match session.phase {
            Phase::Free | Phase::Tasked | Phase::Closing { .. } => true,
            Phase::Flushing { dead, .. } => dead != side,
            _ => false,
        };
        let Some(fd) = session.socket(side).fd else { return };
        if stopped || session.ops.has(Op::Recv(side)) {
            return;
        }
        let (unix, half) = (session.socket(side).unix, *session.half(side));
        match half.flow {
            Flow::Ended | Flow::Piped { .. } | Flow::Filling { .. } => {}
            Flow::Leaving | Flow::Bulk { .. } => {
                if half.is_drained() {
                    self.begin_bulk(slot, side);
                }
            }
            Flow::New | Flow::Stream | Flow::Credit => {
                let share = self.share();
                let ring_size = self.driver.buffers().sizes().ring_size;
                if half.queue.is_empty() && half.full_in_a_row >= BULK_AFTER && !half.sink {
                    self.begin_bulk(slot, side);
                } else if half.queue.is_empty() {
                    self.sessions[slot].half_mut(side).flow = Flow::Stream;
                    let token = self.start(slot, Op::Recv(side));
                    self.driver.submit_recv(fd, !unix, token);
                } else {
                    self.sessions[slot].half_mut(side).flow = Flow::Credit;
                    if half.queue.bytes() + ring_size <= share {
                        let token = self.start(slot, Op::Recv(side));
                        self.driver.submit_recv(fd, false, token);
                    } else {
                        self.watch(slot, side);
                    }
                }
            }
        }
    }

    pub(super) fn on_received(&mut self, slot: u32, side: Side, completion: Completion) {
        match completion.result {
            Ok(0) => {
                self.drop_chunk(completion);
                self.on_eof(slot, side);
            }
            Ok(n) => {
                // No chunk: a poll from bulk mode that was left meanwhile.
                if let Some(chunk) = completion.chunk {
                    self.on_bytes(slot, side, chunk, n);
                }
                self.after_received(slot, side);
            }
            Err(Errno::ENOBUFS) => {
                let token = self.token(slot, Op::Recv(side));
                self.starved.push_back((token, side));
            }
            // Cancelled by a pause or on the way to bulk mode.
            Err(Errno::ECANCELED) => self.resume(slot, side),
            Err(_) => self.on_reset(slot, side),
        }
    }

    fn on_bytes(&mut self, slot: u32, side: Side, chunk: ChunkId, n: u32) {
        let (now, full) = (self.driver.now(), self.driver.buffers().sizes().ring_size);
        let session = &mut self.sessions[slot];
        session.moved_at = now;
        let half = session.half_mut(side);
        let first = side == Side::Upstream && half.total == 0;
        half.total += u64::from(n);
        half.full_in_a_row = if n == full { half.full_in_a_row.saturating_add(1) } else { 0 };
        if first {
            self.trust_server(slot);
        }
        self.forward(slot, side, chunk);
    }

    /// Stops a multishot receive that is over its share or turned out to be bulk; asks again
    /// after a receive that has ended.
    fn after_received(&mut self, slot: u32, side: Side) {
        let share = self.share();
        let session = &mut self.sessions[slot];
        if !session.ops.has(Op::Recv(side)) {
            return self.resume(slot, side);
        }
        let relaying = matches!(session.phase, Phase::Relaying);
        let half = session.half_mut(side);
        if half.flow != Flow::Stream || half.sink {
            return;
        }
        if half.queue.bytes() > share {
            half.flow = Flow::Credit;
        } else if relaying && half.full_in_a_row >= BULK_AFTER && half.sending != Sending::Slow {
            half.flow = Flow::Leaving;
        } else {
            return;
        }
        self.cancel(slot, Op::Recv(side));
    }

    /// Takes a chunk of bytes from `side` to the other.
    pub(super) fn forward(&mut self, slot: u32, side: Side, chunk: ChunkId) {
        let (to, queued) = (side.other(), self.batches_sends());
        let session = &mut self.sessions[slot];
        let joined = match session.phase {
            Phase::Relaying => true,
            Phase::Flushing { dead, .. } => dead == side,
            _ => false,
        };
        let half = session.half_mut(side);
        if half.sink {
            let lost = self.driver.buffers().len(chunk);
            self.counts.bytes_lost.add(u64::from(lost));
            return self.driver.release(chunk);
        }
        let clear = joined && half.queue.is_empty() && half.sending == Sending::Idle;
        half.queue.push(chunk, self.driver.buffers());
        if !clear {
            // Behind a send that waits, or before there is a server: not in a ring buffer.
            if !joined || half.sending != Sending::Now {
                self.spill(slot, side);
            }
        } else if queued && self.driver.buffers().kind(chunk) == Kind::Ring {
            self.submit_send(slot, to, chunk, Sending::Now);
        } else {
            self.send_front(slot, to);
        }
    }

    fn submit_send(&mut self, slot: u32, to: Side, chunk: ChunkId, how: Sending) {
        let Some(fd) = self.fd(slot, to) else { return };
        self.sessions[slot].half_mut(to.other()).sending = how;
        let token = self.start(slot, Op::Send(to));
        self.driver.submit_send(fd, chunk, how == Sending::Slow, token);
    }

    pub(super) fn on_sent(&mut self, slot: u32, to: Side, completion: Completion) {
        self.count_sent(slot, to, completion);
        if self.sessions[slot].half(to.other()).sink {
            return self.drop_queue(slot, to.other());
        }
        match completion.result {
            Ok(_) => {
                self.sessions[slot].moved_at = self.driver.now();
                // A short count of a send that waits for all means that an error came: the next
                // send meets it.
                self.pump(slot, to);
            }
            Err(Errno::EAGAIN) => self.send_slowly(slot, to),
            Err(Errno::ECANCELED) => {}
            Err(_) => self.on_send_failed(slot, to),
        }
    }

    /// A send to `to` is no longer in flight; what it sent leaves the queue.
    pub(super) fn count_sent(&mut self, slot: u32, to: Side, completion: Completion) {
        let half = self.sessions[slot].half_mut(to.other());
        let was = std::mem::replace(&mut half.sending, Sending::Idle);
        if let (Ok(n), Sending::Now | Sending::Slow) = (completion.result, was)
            && let Some(emptied) = half.queue.sent(n, self.driver.buffers())
        {
            self.driver.release(emptied);
        }
    }

    /// Sends what is queued for `to` until it is empty or the socket takes no more.
    pub(super) fn pump(&mut self, slot: u32, to: Side) {
        loop {
            let session = &self.sessions[slot];
            let half = session.half(to.other());
            if session.is_closing() || half.sending != Sending::Idle {
                return;
            }
            if half.queue.is_empty() {
                return self.on_drained(slot, to);
            }
            if !self.send_front(slot, to) {
                return;
            }
        }
    }

    /// Sends the first chunk by a call. True if all of it went.
    fn send_front(&mut self, slot: u32, to: Side) -> bool {
        let Some(fd) = self.fd(slot, to) else { return false };
        let half = self.sessions[slot].half_mut(to.other());
        let Some(chunk) = half.queue.front() else { return false };
        match self.driver.send_now(fd, chunk) {
            Ok(n) => {
                let emptied = half.queue.sent(n, self.driver.buffers());
                match emptied {
                    Some(emptied) => self.driver.release(emptied),
                    None => self.send_slowly(slot, to),
                }
                emptied.is_some()
            }
            Err(Errno::EAGAIN) => {
                self.send_slowly(slot, to);
                false
            }
            Err(_) => {
                self.on_send_failed(slot, to);
                false
            }
        }
    }

    /// The target takes no more for now: what is queued moves to blocks, and a send waits.
    fn send_slowly(&mut self, slot: u32, to: Side) {
        self.spill(slot, to.other());
        if let Some(front) = self.sessions[slot].half(to.other()).queue.front() {
            self.submit_send(slot, to, front, Sending::Slow);
        }
    }

    /// Moves queued bytes out of ring buffers. A chunk that a send is using stays.
    fn spill(&mut self, slot: u32, side: Side) {
        let half = *self.sessions[slot].half(side);
        let (mut old, mut new) = (half.queue, Queue::default());
        let mut in_use = half.sending == Sending::Slow;
        while let Some(chunk) = old.pop(self.driver.buffers()) {
            let stays = std::mem::take(&mut in_use);
            if stays || self.driver.buffers().kind(chunk) != Kind::Ring {
                new.push(chunk, self.driver.buffers());
            } else if self.move_to_blocks(chunk, &mut new) {
                self.driver.release(chunk);
            } else {
                // Out of blocks: it has to stay where it is; no worse than losing it.
                new.push(chunk, self.driver.buffers());
            }
        }
        self.sessions[slot].half_mut(side).queue = new;
    }

    /// Appends a chunk's bytes to the queue's last block or to new ones. False if blocks ran
    /// out; what did not fit is still in the chunk.
    fn move_to_blocks(&mut self, chunk: ChunkId, queue: &mut Queue) -> bool {
        let buffers = self.driver.buffers();
        while buffers.len(chunk) > 0 {
            let tail = queue
                .back()
                .filter(|&tail| buffers.kind(tail) == Kind::Block && buffers.room(tail) > 0);
            let tail = if let Some(tail) = tail {
                tail
            } else {
                let Some(fresh) = buffers.take_block() else { return false };
                queue.push(fresh, buffers);
                fresh
            };
            let n = buffers.copy(chunk, tail);
            buffers.advance(chunk, n);
            queue.grown(n);
        }
        true
    }

    /// All bytes for `to` are with the kernel.
    pub(super) fn on_drained(&mut self, slot: u32, to: Side) {
        let from = to.other();
        let session = &self.sessions[slot];
        if !session.half(from).is_drained() {
            return;
        }
        match session.phase {
            Phase::Flushing { .. } => {
                self.resume(slot, from);
                self.check_flush(slot);
            }
            Phase::Relaying if session.socket(from).fin_seen => self.finish(slot, to),
            Phase::Relaying => self.resume(slot, from),
            _ => {}
        }
    }

    /// `side` has sent its FIN (or an error took the reset's place).
    pub(super) fn on_eof(&mut self, slot: u32, side: Side) {
        let now = self.driver.now();
        let session = &mut self.sessions[slot];
        session.half_mut(side).flow = Flow::Ended;
        if session.socket(side).reset_seen {
            return self.on_reset(slot, side); // I5
        }
        session.socket_mut(side).fin_seen = true;
        session.moved_at = now;
        match session.phase {
            Phase::Lingering { reason }
                if SIDES.iter().all(|&side| session.socket(side).has_ended()) =>
            {
                self.close(slot, reason);
            }
            // A client may close its direction before there is a server to tell.
            Phase::Connecting { .. } | Phase::Waiting { .. } => self.watch(slot, side),
            Phase::Relaying => {
                if self.sessions[slot].half(side).is_drained() {
                    self.finish(slot, side.other());
                }
                if !self.sessions[slot].is_closing() {
                    self.arm_timer(slot, now + SETTLED_AFTER);
                }
            }
            _ => {}
        }
    }

    /// The silent poll on `side` completed.
    pub(super) fn on_watch(&mut self, slot: u32, side: Side, completion: Completion) {
        let reset = match completion.result {
            Ok(mask) => self.sessions[slot].socket(side).is_reset(mask),
            Err(Errno::ECANCELED) => false,
            Err(_) => true,
        };
        if !reset {
            return; // a hang-up: both directions have ended in order
        }
        match self.sessions[slot].half(side).flow {
            // Nothing will be read that could tell.
            Flow::New | Flow::Ended => self.on_reset(slot, side),
            // Unread bytes are still there: read on to the end, which is the reset.
            _ => self.begin_flush(slot, side),
        }
    }
}
