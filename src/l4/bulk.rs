//! Bulk flows: few, large moves instead of many small ones.
//!
//! A half that fills ring buffers in a row stops its multishot receive, and when the last of
//! those bytes are through it waits for readability and moves what is there with splice(2),
//! through a pipe that it holds only while bytes are in it. Without a pipe it fills a large
//! buffer; without that it goes back to the ring. splice(2) beside an armed receive would lose
//! the order, so there is never both.

use nix::errno::Errno;

use super::gate::Gate;
use super::session::{Flow, Op, Phase, Sending, Side};
use crate::runtime::driver::{Completion, Driver, Interest, PipeId};

/// Moves below this are not bulk.
const QUIET_BYTES: u32 = 16 << 10;

/// Quiet moves in a row after which a flow goes back to the ring.
const QUIET_MAX: u8 = 16;

/// Moves of one flow before others get their turn.
const MOVES_PER_TURN: usize = 4;

/// A pipe whose bytes did not move for this long is emptied into blocks when another flow
/// asks for one.
const STALLED_MS: u32 = 1_000;

/// What came of a move.
enum Moved {
    /// The pipe is empty.
    All,
    /// The target takes no more.
    Part(u32),
    /// The target is gone; so many bytes are left.
    Failed(u32),
}

impl<D: Driver> Gate<D> {
    pub(super) fn begin_bulk(&mut self, slot: u32, side: Side) {
        let Some(fd) = self.fd(slot, side) else { return };
        let half = self.sessions[slot].half_mut(side);
        if !matches!(half.flow, Flow::Bulk { .. }) {
            half.flow = Flow::Bulk { quiet: 0 };
        }
        let token = self.start(slot, Op::Recv(side));
        self.driver.submit_poll(fd, Interest::Readable, token);
    }

    fn end_bulk(&mut self, slot: u32, side: Side) {
        let half = self.sessions[slot].half_mut(side);
        half.flow = Flow::Stream;
        half.full_in_a_row = 0;
        self.resume(slot, side);
    }

    /// There is something to read, or the poll was cancelled.
    pub(super) fn on_readable(&mut self, slot: u32, side: Side, completion: Completion) {
        let session = &self.sessions[slot];
        let flowing = match session.phase {
            Phase::Relaying => !session.half(side).sink,
            Phase::Flushing { dead, .. } => dead == side,
            _ => false,
        };
        if session.socket(side).is_reset(completion.result.unwrap_or(0)) {
            // A send may have taken the error already; then the socket would only say 0 (I5).
            self.sessions[slot].socket_mut(side).reset_seen = true;
        }
        if flowing && completion.result.is_ok() {
            self.move_bulk(slot, side);
        } else {
            self.end_bulk(slot, side);
        }
    }

    fn move_bulk(&mut self, slot: u32, side: Side) {
        let Some(fd) = self.fd(slot, side) else { return };
        let Flow::Bulk { mut quiet } = self.sessions[slot].half(side).flow else { return };
        let Some(pipe) = self.take_pipe(slot, side) else { return };
        let capacity = self.driver.pipe_capacity(pipe);
        for _ in 0..MOVES_PER_TURN {
            let n = match self.driver.splice_in_now(fd, pipe, capacity) {
                Ok(0) => {
                    self.driver.give_pipe(pipe, true);
                    self.find_reset(slot, side);
                    return self.on_eof(slot, side);
                }
                Ok(n) => n,
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    self.driver.give_pipe(pipe, true);
                    return self.on_reset(slot, side);
                }
            };
            self.count_bulk(slot, side, n);
            quiet = if n < QUIET_BYTES { quiet + 1 } else { 0 };
            self.sessions[slot].half_mut(side).flow = Flow::Bulk { quiet };
            match self.empty_pipe(slot, side, pipe, n) {
                Moved::All => {}
                Moved::Part(left) => return self.wait_writable(slot, side, pipe, left),
                Moved::Failed(left) => return self.on_pipe_failed(slot, side, pipe, left),
            }
            if quiet >= QUIET_MAX {
                self.driver.give_pipe(pipe, true);
                return self.end_bulk(slot, side);
            }
            if n < capacity / 2 {
                break; // the socket is as good as empty
            }
        }
        self.driver.give_pipe(pipe, true);
        self.begin_bulk(slot, side);
    }

    /// The kernel tells of a reset once. A send to `side` may have been told, and its completion
    /// still wait in this turn's batch: then splice(2) gives the 0 of an end in order. But a
    /// connection that was reset has no peer any more.
    fn find_reset(&mut self, slot: u32, side: Side) {
        let socket = *self.sessions[slot].socket(side);
        if let Some(fd) = socket.fd
            && self.sessions[slot].ops.has(Op::Send(side))
            && !socket.unix
            && self.driver.peer_now(fd).is_none()
        {
            self.sessions[slot].socket_mut(side).reset_seen = true; // I5
        }
    }

    fn count_bulk(&mut self, slot: u32, side: Side, n: u32) {
        let now = self.driver.now();
        let session = &mut self.sessions[slot];
        session.moved_at = now;
        session.half_mut(side).total += u64::from(n);
    }

    fn empty_pipe(&mut self, slot: u32, side: Side, pipe: PipeId, mut left: u32) -> Moved {
        let Some(fd) = self.fd(slot, side.other()) else { return Moved::Failed(left) };
        while left > 0 {
            match self.driver.splice_out_now(pipe, fd, left) {
                Ok(0) | Err(Errno::EAGAIN) => return Moved::Part(left),
                Ok(n) => left -= n.min(left),
                Err(_) => return Moved::Failed(left),
            }
        }
        Moved::All
    }

    fn wait_writable(&mut self, slot: u32, side: Side, pipe: PipeId, filled: u32) {
        let to = side.other();
        let Some(fd) = self.fd(slot, to) else { return };
        let since_ms = self.driver.now().millis() as u32;
        let half = self.sessions[slot].half_mut(side);
        half.flow = Flow::Piped { pipe, filled, since_ms };
        half.sending = Sending::Writable;
        self.piped.push((slot, self.sessions[slot].generation, side));
        let token = self.start(slot, Op::Send(to));
        self.driver.submit_poll(fd, Interest::Writable, token);
        // Nothing is received meanwhile: a reset must still be noticed.
        self.watch(slot, side);
    }

    /// `to` takes bytes again.
    pub(super) fn on_writable(&mut self, slot: u32, to: Side, _completion: Completion) {
        let (now, side) = (self.driver.now(), to.other());
        self.sessions[slot].half_mut(side).sending = Sending::Idle;
        let Flow::Piped { pipe, filled, .. } = self.sessions[slot].half(side).flow else {
            return self.pump(slot, to); // the pipe was emptied into blocks meanwhile
        };
        self.forget_piped(slot, side);
        match self.empty_pipe(slot, side, pipe, filled) {
            Moved::All => {
                self.sessions[slot].moved_at = now;
                self.driver.give_pipe(pipe, true);
                self.sessions[slot].half_mut(side).flow = Flow::Bulk { quiet: 0 };
                self.on_drained(slot, to);
            }
            Moved::Part(left) => {
                if left < filled {
                    self.sessions[slot].moved_at = now;
                }
                self.wait_writable(slot, side, pipe, left);
            }
            Moved::Failed(left) => self.on_pipe_failed(slot, side, pipe, left),
        }
    }

    fn on_pipe_failed(&mut self, slot: u32, side: Side, pipe: PipeId, left: u32) {
        self.counts.bytes_lost.add(u64::from(left));
        self.driver.give_pipe(pipe, left == 0);
        self.sessions[slot].half_mut(side).flow = Flow::Stream;
        self.on_send_failed(slot, side.other());
        self.resume(slot, side);
    }

    pub(super) fn forget_piped(&mut self, slot: u32, side: Side) {
        self.piped.retain(|&(at, _, half)| (at, half) != (slot, side));
    }

    /// Gives up a pipe with bytes in it: nobody is left to take them.
    pub(super) fn drop_pipe(&mut self, slot: u32, side: Side) {
        if let Flow::Piped { pipe, filled, .. } = self.sessions[slot].half(side).flow {
            self.forget_piped(slot, side);
            self.counts.bytes_lost.add(u64::from(filled));
            self.driver.give_pipe(pipe, false);
            self.sessions[slot].half_mut(side).flow = Flow::Ended;
        }
    }

    /// A pipe; else starts to fill a large buffer, or goes back to the ring, and `None`.
    fn take_pipe(&mut self, slot: u32, side: Side) -> Option<PipeId> {
        if let Some(pipe) = self.driver.take_pipe() {
            return Some(pipe);
        }
        if self.reclaim_stalled()
            && let Some(pipe) = self.driver.take_pipe()
        {
            return Some(pipe);
        }
        let fd = self.fd(slot, side)?;
        let Some(chunk) = self.driver.buffers().take_large() else {
            self.end_bulk(slot, side);
            return None;
        };
        let Flow::Bulk { quiet } = self.sessions[slot].half(side).flow else { return None };
        self.sessions[slot].half_mut(side).flow = Flow::Filling { chunk, quiet };
        let token = self.start(slot, Op::Recv(side));
        self.driver.submit_recv_into(fd, chunk, token);
        None
    }

    /// Empties the longest stalled pipe into blocks, if there is room for all of it.
    fn reclaim_stalled(&mut self) -> bool {
        let now_ms = self.driver.now().millis() as u32;
        let Some(&(slot, generation, side)) = self.piped.first() else { return false };
        if self.sessions.current(slot, generation).is_none() {
            return false;
        }
        let Flow::Piped { pipe, filled, since_ms } = self.sessions[slot].half(side).flow else {
            return false;
        };
        let buffers = self.driver.buffers();
        let blocks = filled.div_ceil(buffers.sizes().block_size);
        if now_ms.wrapping_sub(since_ms) < STALLED_MS || buffers.blocks_free() / 2 < blocks {
            return false;
        }
        let mut left = filled;
        while left > 0 {
            let Some(block) = self.driver.buffers().take_block() else { break };
            let n = self.driver.read_pipe_now(pipe, block);
            self.sessions[slot].half_mut(side).queue.push(block, self.driver.buffers());
            if n == 0 {
                break;
            }
            left -= n.min(left);
        }
        debug_assert_eq!(left, 0, "a pipe held fewer bytes than were put in");
        self.driver.give_pipe(pipe, left == 0);
        self.forget_piped(slot, side);
        // The poll for writability is still there; it will pump the queue.
        self.sessions[slot].half_mut(side).flow = Flow::Credit;
        true
    }

    /// A large buffer was filled, more or less.
    pub(super) fn on_filled(&mut self, slot: u32, side: Side, completion: Completion) {
        let Flow::Filling { chunk, quiet } = self.sessions[slot].half(side).flow else { return };
        self.sessions[slot].half_mut(side).flow = Flow::Bulk { quiet };
        let n = match completion.result {
            Ok(n) if n > 0 => n,
            other => {
                self.driver.release(chunk);
                return match other {
                    Ok(_) => self.on_eof(slot, side),
                    Err(Errno::ECANCELED) => self.end_bulk(slot, side),
                    Err(_) => self.on_reset(slot, side),
                };
            }
        };
        self.driver.buffers().extend(chunk, n);
        self.count_bulk(slot, side, n);
        let quiet = if n < QUIET_BYTES { quiet + 1 } else { 0 };
        self.sessions[slot].half_mut(side).flow = Flow::Bulk { quiet };
        self.forward(slot, side, chunk);
        if self.sessions[slot].is_closing() {
            return;
        }
        if quiet >= QUIET_MAX || self.sessions[slot].half(side).sink {
            self.end_bulk(slot, side);
        } else {
            self.resume(slot, side);
        }
    }
}
