//! A connection as the `h2` crate wants to read and write it.
//!
//! Received bytes pass the guard first. What is written is gathered, so that frames of many
//! streams go in one call of the kernel, and one TLS record; it goes when `h2` flushes, or when
//! [`GATHERED_MAX`] is reached. A connection on which nothing moves holds no buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Guard;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::{Inbox, Shell};
use crate::stream::{Stream, StreamError};

/// Written bytes that wait for a flush.
const GATHERED_MAX: usize = 64 << 10;

/// The connection, and what has come and not been read, or been written and not gone.
#[derive(Debug)]
pub struct Wire<D: Driver> {
    pub stream: Stream<D>,
    pub inbox: Inbox,
    shell: Rc<Shell<D>>,
    /// Bytes at the front of `inbox` that have passed the guard.
    passed: usize,
    out: Inbox,
    pub guard: Guard,
}

impl<D: Driver> Wire<D> {
    pub const fn new(stream: Stream<D>, inbox: Inbox, shell: Rc<Shell<D>>, guard: Guard) -> Self {
        Self { stream, inbox, shell, passed: 0, out: Inbox::new(), guard }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.inbox.is_empty() {
            let got = ready!(self.stream.poll_recv(cx, &mut self.inbox)).map_err(io_error)?;
            if got == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if self.passed == 0 {
            self.passed = self.guard.receive(self.inbox.bytes(), self.shell.now());
        }
        if self.passed == 0 {
            // The guard's word is heard when the connection is polled again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let n = self.passed.min(into.remaining());
        into.put_slice(&self.inbox.bytes()[..n]);
        self.inbox.consume(n);
        self.passed -= n;
        if self.inbox.is_empty() {
            self.shell.rest(&mut self.inbox);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() >= GATHERED_MAX {
            ready!(self.poll_out(cx))?;
        }
        let n = bytes.len().min(GATHERED_MAX);
        self.guard.send(&bytes[..n], self.shell.now());
        let fits = self.shell.reserve(&mut self.out, n);
        debug_assert!(fits, "twice GATHERED_MAX fits an inbox");
        self.out.push(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let sent = ready!(self.stream.poll_send(cx, self.out.bytes())).map_err(io_error)?;
            self.out.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        self.shell.rest(&mut self.out);
        self.stream.poll_flush(cx).map_err(io_error)
    }
}

impl<D: Driver> Wire<D> {
    /// Sends what is left, and our end.
    pub fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.stream.poll_finish(cx).map_err(io_error)
    }

    /// Receives for nobody; 0 is the end.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbox.consume(self.inbox.len());
        self.stream.poll_recv(cx, &mut self.inbox).map_err(io_error)
    }
}

fn io_error(error: StreamError) -> io::Error {
    io::Error::from(match error {
        StreamError::Reset | StreamError::Refused => io::ErrorKind::ConnectionReset,
        StreamError::Truncated => io::ErrorKind::UnexpectedEof,
        StreamError::Tls | StreamError::TooLarge | StreamError::Unsayable => {
            io::ErrorKind::InvalidData
        }
    })
}

/// The `h2` crate's hold on the wire; its owner has another.
#[derive(Debug)]
pub struct Hold<D: Driver>(pub Rc<RefCell<Wire<D>>>);

impl<D: Driver> AsyncRead for Hold<D> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, into)
    }
}

impl<D: Driver> AsyncWrite for Hold<D> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_goodbye(cx)
    }
}
