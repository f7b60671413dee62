//! One request and its answer on two connections, both bodies streaming.
//!
//! Each direction decodes the body it gets, and frames it anew for where it goes, so that what a
//! side said about lengths is never passed on unread. What waits for a slow side is bounded by
//! [`PENDING_MAX`]: then nothing more is received from the other.

use std::task::{Context, Poll};

use sluicegate_l7::http1::chunked::{self, CHUNK_END, ChunkHead};
use sluicegate_l7::http1::{Body, Reject};

use super::mirror::Copying;
use super::reply::Passage;
use super::squeezing::Squeezer;
use super::trailers::Trailers;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::stream::{Stream, StreamError};

/// Bytes of one direction that wait for a slow side, about.
const PENDING_MAX: usize = 64 << 10;

/// Moves of one direction before others get their turn.
const MOVES_PER_POLL: usize = 8;

/// What went wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The body that this side sends is malformed.
    Source(Reject),
    /// The side that sends ended too early, or its connection broke.
    SourceGone(StreamError),
    /// The side that is sent to broke.
    TargetGone(StreamError),
}

/// One direction of a message's body.
pub struct Flow {
    body: Body,
    passage: Passage,
    squeezer: Option<Squeezer>,
    /// Framed for the target, and how much of it is sent.
    pending: Vec<u8>,
    sent: usize,
    /// What is sent is not all with the target's kernel: its TLS holds the rest.
    unflushed: bool,
    /// What was sent is kept as long as it is no more than this: to be sent again.
    kept_max: usize,
    /// Something that was sent is gone.
    forgotten: bool,
    /// All of the body is framed.
    framed: bool,
    /// Payload that came in, and how much may.
    pub total: u64,
    pub total_max: u64,
    /// Payload that goes out, as an encoder made it.
    pub given: u64,
    /// The source has been read to its end.
    pub source_ended: bool,
    /// A copy of the message for somebody else, until it is whole.
    copy: Option<Box<Copying>>,
    /// What of the trailers passes; `None`: all of them.
    sifter: Option<Box<Trailers>>,
}

impl Flow {
    /// `pending` begins with the head that stands before the body.
    pub fn new(body: Body, passage: Passage, squeezer: Option<Squeezer>, pending: Vec<u8>) -> Self {
        let framed = body.is_done() && passage == Passage::Raw && squeezer.is_none();
        Self {
            body,
            passage,
            squeezer,
            pending,
            sent: 0,
            unflushed: false,
            kept_max: 0,
            forgotten: false,
            framed,
            total: 0,
            total_max: u64::MAX,
            given: 0,
            source_ended: false,
            copy: None,
            sifter: None,
        }
    }

    /// Fills `copy` with what comes, and lets it go once it is whole.
    pub fn copy_to(&mut self, copy: Box<Copying>) {
        if self.framed {
            copy.finish(&[]);
        } else {
            self.copy = Some(copy);
        }
    }

    /// Lets only those trailers pass of which `by` says so, also into a copy.
    pub fn sift_trailers(&mut self, by: Option<Box<Trailers>>) {
        self.sifter = by;
    }

    /// Puts `host` in place of what the head at the beginning has; nothing of it is sent yet.
    pub fn set_host(&mut self, host: &str) {
        debug_assert!(self.sent == 0 && !self.forgotten);
        // It is the first line behind that of the request.
        const BEFORE: &[u8] = b"\r\nHost: ";
        let Some(line) = self.pending.windows(2).position(|two| two == b"\r\n") else { return };
        let from = line + BEFORE.len();
        if !self.pending[line..].starts_with(BEFORE) {
            debug_assert!(false, "our own head: {}", self.pending.escape_ascii());
            return;
        }
        let len = self.pending[from..].windows(2).position(|two| two == b"\r\n").unwrap_or(0);
        self.kept_max = (self.kept_max + host.len()).saturating_sub(len);
        self.pending.splice(from..from + len, host.bytes());
    }

    /// Keeps what is sent, up to `body_max` bytes behind the head, for another attempt.
    pub fn keep_for_repeat(&mut self, body_max: usize) {
        self.kept_max = self.pending.len() + body_max;
    }

    /// All that was sent is still here.
    #[must_use]
    pub const fn is_repeatable(&self) -> bool {
        !self.forgotten
    }

    /// Not a byte has been sent.
    #[must_use]
    pub const fn is_unsent(&self) -> bool {
        self.sent == 0 && !self.forgotten
    }

    /// Begins again, for another server.
    pub fn rewind(&mut self) {
        debug_assert!(!self.forgotten);
        self.sent = 0;
        self.unflushed = false;
    }

    /// The target is slow to take what is here.
    #[must_use]
    pub fn waits_for_target(&self) -> bool {
        self.sent < self.pending.len() || self.unflushed
    }

    /// Every byte is with the target's kernel.
    #[must_use]
    pub fn is_through(&self) -> bool {
        self.framed && !self.waits_for_target()
    }

    /// The whole body has come in.
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.framed
    }

    /// The buffer of pending bytes, for another message.
    pub fn into_buffer(self) -> Vec<u8> {
        self.pending
    }

    /// Frames what `inbox` holds of the body.
    pub fn frame(&mut self, inbox: &mut Inbox) -> Result<(), Reject> {
        while !self.framed && self.pending.len() - self.sent < PENDING_MAX {
            let piece = self.body.next(inbox.bytes())?;
            if piece.consumed == 0 && !piece.end {
                return Ok(());
            }
            self.total += piece.payload.len() as u64;
            if self.total > self.total_max {
                return Err(Reject::BodyTooLarge);
            }
            if !piece.payload.is_empty() {
                let payload = &inbox.bytes()[piece.payload.clone()];
                self.copy = self.copy.take().and_then(|copy| copy.push(payload));
                let payload = match &mut self.squeezer {
                    Some(squeezer) => squeezer.push(payload),
                    None => payload,
                };
                self.given += push_payload(payload, self.passage, &mut self.pending);
            }
            inbox.consume(piece.consumed);
            if piece.end {
                self.end();
            }
        }
        Ok(())
    }

    /// The body is complete.
    fn end(&mut self) {
        self.framed = true;
        let trailers = self.body.trailers();
        let trailers = match &self.sifter {
            Some(sifter) => &sifter.passing(trailers),
            None => trailers,
        };
        if let Some(copy) = self.copy.take() {
            copy.finish(trailers);
        }
        if let Some(squeezer) = self.squeezer.take() {
            let rest = squeezer.finish();
            self.given += push_payload(&rest, self.passage, &mut self.pending);
        }
        if self.passage == Passage::Chunked {
            chunked::push_last_chunk(&mut self.pending, trailers);
        }
    }

    /// Frames what an encoder has held back, if it has. Only when nothing more of the source is at
    /// hand: each time costs some bytes, and a client that waits for a line of a stream gets it.
    fn flush(&mut self) -> bool {
        let Some(squeezer) = self.squeezer.as_mut().filter(|one| one.holds_back()) else {
            return false;
        };
        self.given += push_payload(squeezer.flush(), self.passage, &mut self.pending);
        true
    }

    /// Moves the body on; ready when all of it is sent.
    pub fn poll<D: Driver>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream<D>,
        inbox: &mut Inbox,
        to: &mut Stream<D>,
        moved: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..MOVES_PER_POLL {
            self.frame(inbox).map_err(Broken::Source)?;
            match self.poll_send(cx, to, moved) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::TargetGone(error))),
                Poll::Pending => return Poll::Pending,
            }
            if self.framed {
                return Poll::Ready(Ok(()));
            }
            if !inbox.is_empty() {
                continue;
            }
            match from.poll_recv(cx, inbox) {
                Poll::Pending if self.flush() => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    self.source_ended = true;
                    if self.body.close().is_err() {
                        return Poll::Ready(Err(Broken::SourceGone(StreamError::Truncated)));
                    }
                    self.end();
                }
                Poll::Ready(Ok(_)) => *moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::SourceGone(error))),
            }
        }
        cx.waker().wake_by_ref(); // others first
        Poll::Pending
    }

    /// Sends what is pending; ready when that is done.
    pub fn poll_send<D: Driver>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream<D>,
        moved: &mut bool,
    ) -> Poll<Result<(), StreamError>> {
        while self.sent < self.pending.len() {
            match to.poll_send(cx, &self.pending[self.sent..]) {
                Poll::Ready(Ok(n)) => {
                    self.sent += n;
                    *moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.pending.len() > self.kept_max {
            self.forgotten = true;
            self.pending.clear();
            self.sent = 0;
        }
        let flushed = to.poll_flush(cx);
        self.unflushed = flushed.is_pending();
        flushed
    }
}

/// Appends payload as the target is to get it, and says how much of it that is.
fn push_payload(payload: &[u8], passage: Passage, out: &mut Vec<u8>) -> u64 {
    if payload.is_empty() {
        return 0; // an empty chunk would be the last one
    }
    match passage {
        Passage::Raw => out.extend_from_slice(payload),
        Passage::Chunked => {
            out.extend_from_slice(ChunkHead::new(payload.len() as u64).as_bytes());
            out.extend_from_slice(payload);
            out.extend_from_slice(CHUNK_END);
        }
    }
    payload.len() as u64
}
