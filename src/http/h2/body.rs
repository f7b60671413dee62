//! Bodies between HTTP/2 and HTTP/1's form.
//!
//! [`Incoming`] gives the window back only for what it has handed on, and [`Outgoing`] takes
//! only what the peer's window has room for: so the side that is slow holds up the other, and
//! what is in between stays within the windows.

use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use sluicegate_l7::http1::chunked::{CHUNK_END, ChunkHead};

use super::head::{self, Form, Framed};
use crate::runtime::driver::Driver;
use crate::runtime::tasks::{Inbox, Shell};
use crate::stream::StreamError;

/// Payload handed on at once: what is gathered goes in one call of the kernel.
const GATHERED_MAX: usize = 32 << 10;

/// Bytes around a chunk's payload.
const CHUNK_OVERHEAD: usize = 24;

/// Payload of one frame that is sent, RFC 9113 §4.2's default.
const FRAME_MAX: usize = 16 << 10;

/// What an error of `h2` means to whom reads or writes the message.
pub fn stream_error(error: &h2::Error) -> StreamError {
    let unseen = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    // RFC 9113 §8.7: the peer has not looked at what it refuses.
    if unseen { StreamError::Refused } else { StreamError::Reset }
}

/// A body from HTTP/2.
pub struct Incoming {
    stream: RecvStream,
    form: Form,
    /// Of a frame, what did not fit.
    rest: Bytes,
    ended: bool,
}

impl Incoming {
    pub fn new(stream: RecvStream, form: Form) -> Self {
        Self { stream, form, rest: Bytes::new(), ended: form == Form::Nothing }
    }

    /// Appends what has come, in HTTP/1's form; 0 is the end.
    pub fn poll<D: Driver>(
        &mut self,
        cx: &mut Context<'_>,
        shell: &Shell<D>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        let mut total = 0;
        while !self.ended && total < GATHERED_MAX {
            if self.rest.is_empty() {
                match self.stream.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => self.rest = data,
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(stream_error(&error)));
                    }
                    Poll::Ready(None) => match self.poll_end(cx, shell, inbox) {
                        Poll::Ready(Ok(n)) => total += n,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => break,
                    },
                    Poll::Pending => break,
                }
            }
            if !self.rest.is_empty() {
                total += self.hand_on(shell, inbox)?;
            }
        }
        if total > 0 || self.ended {
            return Poll::Ready(Ok(total));
        }
        shell.rest(inbox);
        Poll::Pending
    }

    /// Moves `rest` to the inbox, and gives its window back.
    fn hand_on<D: Driver>(
        &mut self,
        shell: &Shell<D>,
        inbox: &mut Inbox,
    ) -> Result<usize, StreamError> {
        let n = self.rest.len().min(FRAME_MAX);
        if !shell.reserve(inbox, n + CHUNK_OVERHEAD) {
            return Err(StreamError::TooLarge);
        }
        let before = inbox.len();
        if self.form == Form::Chunked {
            inbox.push(ChunkHead::new(n as u64).as_bytes());
            inbox.push(&self.rest[..n]);
            inbox.push(CHUNK_END);
        } else {
            inbox.push(&self.rest[..n]);
        }
        self.rest.advance(n);
        // An error says that the stream has ended, which shows at the next poll.
        let _ = self.stream.flow_control().release_capacity(n);
        Ok(inbox.len() - before)
    }

    fn poll_end<D: Driver>(
        &mut self,
        cx: &mut Context<'_>,
        shell: &Shell<D>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        let trailers = ready!(self.stream.poll_trailers(cx));
        let trailers = trailers.map_err(|error| stream_error(&error))?;
        self.ended = true;
        if self.form != Form::Chunked {
            return Poll::Ready(Ok(0));
        }
        let mut end = b"0\r\n".to_vec();
        for (name, value) in trailers.iter().flatten() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                end.extend_from_slice(part);
            }
        }
        end.extend_from_slice(b"\r\n");
        if !shell.reserve(inbox, end.len()) {
            return Poll::Ready(Err(StreamError::TooLarge));
        }
        inbox.push(&end);
        Poll::Ready(Ok(end.len()))
    }
}

/// Where in HTTP/1's form the next byte of a body stands. Chunks are written by this gateway.
#[derive(Debug)]
enum At {
    Plain {
        left: u64,
    },
    /// In a chunk's size.
    Size {
        size: u64,
    },
    Chunk {
        left: u64,
    },
    /// In the line end behind a chunk.
    ChunkEnd {
        left: usize,
    },
    Trailers(Vec<u8>),
    Ended,
}

/// A body to HTTP/2.
pub struct Outgoing {
    stream: SendStream<Bytes>,
    at: At,
}

impl Outgoing {
    pub const fn new(stream: SendStream<Bytes>, framed: Framed) -> Self {
        let at = match framed {
            Framed::Length(left) => At::Plain { left },
            Framed::Chunked => At::Size { size: 0 },
            Framed::Not => At::Ended,
        };
        Self { stream, at }
    }

    pub const fn has_ended(&self) -> bool {
        matches!(self.at, At::Ended)
    }

    /// Ready when the peer has reset the stream, or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// Nothing more comes of it.
    pub fn reset(&mut self, reason: Reason) {
        if !self.has_ended() {
            self.stream.send_reset(reason);
        }
    }

    /// Takes bytes in HTTP/1's form; how many those were.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let step = match &mut self.at {
                At::Plain { left } | At::Chunk { left } => {
                    let left = *left;
                    match self.poll_payload(cx, rest, left) {
                        Poll::Pending if used > 0 => return Poll::Ready(Ok(used)),
                        other => ready!(other)?,
                    }
                }
                _ => self.syntax(rest)?,
            };
            used += step;
        }
        Poll::Ready(Ok(used))
    }

    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        rest: &[u8],
        left: u64,
    ) -> Poll<Result<usize, StreamError>> {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len()).min(FRAME_MAX);
        self.stream.reserve_capacity(wanted);
        let mut room = self.stream.capacity();
        while room == 0 {
            room = match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(stream_error(&error))),
                None => return Poll::Ready(Err(StreamError::Reset)),
            };
        }
        let n = wanted.min(room);
        let left = left - n as u64;
        let (mut used, mut ends) = (n, false);
        match &mut self.at {
            At::Plain { left: own } => {
                *own = left;
                ends = left == 0;
            }
            // The end of the body goes in the same frame.
            At::Chunk { .. } if left == 0 && rest[n..].starts_with(END_BEHIND_CHUNK) => {
                used += END_BEHIND_CHUNK.len();
                ends = true;
            }
            at => *at = if left == 0 { At::ChunkEnd { left: 2 } } else { At::Chunk { left } },
        }
        let data = Bytes::copy_from_slice(&rest[..n]);
        self.stream.send_data(data, ends).map_err(|error| stream_error(&error))?;
        if ends {
            self.at = At::Ended;
        }
        Poll::Ready(Ok(used))
    }

    /// Reads on in what stands around the payload.
    fn syntax(&mut self, rest: &[u8]) -> Result<usize, StreamError> {
        match &mut self.at {
            At::Size { size } => {
                for (at, &byte) in rest.iter().enumerate() {
                    match (byte, char::from(byte).to_digit(16)) {
                        (_, Some(digit)) => *size = *size << 4 | u64::from(digit),
                        (b'\n', _) => {
                            let left = *size;
                            self.at = match left {
                                0 => At::Trailers(Vec::new()),
                                left => At::Chunk { left },
                            };
                            return Ok(at + 1);
                        }
                        _ => {}
                    }
                }
                Ok(rest.len())
            }
            At::ChunkEnd { left } => {
                let n = rest.len().min(*left);
                *left -= n;
                if *left == 0 {
                    self.at = At::Size { size: 0 };
                }
                Ok(n)
            }
            At::Trailers(lines) => {
                let before = lines.len();
                lines.extend_from_slice(rest);
                let Some(len) = end_of_trailers(lines) else { return Ok(rest.len()) };
                lines.truncate(len);
                let lines = std::mem::take(lines);
                self.end(&lines)?;
                Ok(len - before)
            }
            // Behind the end of what was said to be the body nothing comes from here.
            _ => Err(StreamError::Reset),
        }
    }

    fn end(&mut self, lines: &[u8]) -> Result<(), StreamError> {
        self.at = At::Ended;
        let trailers = head::read_trailers(lines).ok_or(StreamError::Reset)?;
        let sent = if trailers.is_empty() {
            self.stream.send_data(Bytes::new(), true)
        } else {
            self.stream.send_trailers(trailers)
        };
        sent.map_err(|error| stream_error(&error))
    }
}

/// What follows the last chunk of a body without trailers.
const END_BEHIND_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// The length of a trailer section with the empty line that ends it.
fn end_of_trailers(lines: &[u8]) -> Option<usize> {
    if lines.starts_with(b"\r\n") {
        return Some(2);
    }
    lines.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}
