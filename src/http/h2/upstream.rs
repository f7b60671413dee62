//! Connections to HTTP/2 servers, shared by the requests of a worker.
//!
//! A line carries as many requests as its server allows; when it is full, or the server says
//! GOAWAY, or it breaks, a new one is opened. Requests that come while one is being opened wait
//! for it: a burst opens one line, not a hundred. A task per line moves its frames, and ends it
//! when it was not used for the pool's `keepalive.timeout`, or when the server sends more for
//! nothing than the guard lets it.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};

use super::guard::Guard;
use super::io::{Hold, Wire};
use super::message::ClientMessage;
use super::watch::Bell;
use super::{HEADER_TABLE, SEND_BUFFER_MAX, WINDOW_CONNECTION, WINDOW_STREAM};
use crate::config::plan::Protocol;
use crate::http::office::Office;
use crate::http::upstream::{Failed, Patience, Place, Upstream};
use crate::l4::proxy_protocol::Header;
use crate::observe::counters::ConnectResult;
use crate::registry::{PoolId, ServerId};
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::stream::Stream;

/// One connection to a server.
pub struct Line {
    pub scheme: &'static str,
    sender: SendRequest<Bytes>,
    in_flight: Cell<u32>,
    /// Requests so far.
    served: Cell<u64>,
    /// Takes no more requests.
    closed: Cell<bool>,
    /// See [`Guard::last_stream`].
    last_stream: Cell<u32>,
    bell: Rc<Bell>,
}

impl Line {
    pub fn close(&self) {
        self.closed.set(true);
        self.bell.ring();
    }

    pub const fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The server has said that it does not look at this stream.
    pub const fn is_behind_last(&self, stream: u32) -> bool {
        stream > self.last_stream.get()
    }

    fn has_room(&self) -> bool {
        !self.closed.get()
            && (self.in_flight.get() as usize) < self.sender.current_max_send_streams()
    }

    const fn is_over(&self, draining: bool) -> bool {
        self.in_flight.get() == 0 && (draining || self.closed.get())
    }
}

/// A request's place on a line.
pub struct Ticket(Rc<Line>);

impl Ticket {
    pub fn new(line: &Rc<Line>) -> Self {
        line.in_flight.set(line.in_flight.get() + 1);
        line.served.set(line.served.get() + 1);
        Self(Rc::clone(line))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        if self.0.in_flight.get() == 0 {
            self.0.bell.ring();
        }
    }
}

/// A line that is being opened, and who waits for it.
#[derive(Debug, Default)]
struct Opening {
    waiting: RefCell<Vec<Waker>>,
    over: Cell<bool>,
    failed: Cell<Option<Failed>>,
}

impl Opening {
    fn finish(&self, failed: Option<Failed>) {
        self.failed.set(failed);
        self.over.set(true);
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Why it failed, if it did.
    async fn ended(&self) -> Option<Failed> {
        poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(self.failed.get());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|one| one.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Ends an opening even when whoever opens is gone in the middle.
struct Opener(Rc<Opening>);

impl Drop for Opener {
    fn drop(&mut self) {
        if !self.0.over.get() {
            self.0.finish(None);
        }
    }
}

/// The lines to one server.
#[derive(Default)]
struct Host {
    lines: Vec<Rc<Line>>,
    opening: Option<Rc<Opening>>,
}

/// The lines of one worker, by server.
#[derive(Default)]
pub struct Lines(Vec<Host>);

impl Lines {
    /// No more requests on the lines to those servers; who is on one ends there.
    pub fn leave(&mut self, mut chosen: impl FnMut(ServerId) -> bool) {
        for (at, host) in self.0.iter_mut().enumerate() {
            if !host.lines.is_empty() && chosen(ServerId(at as u32)) {
                host.lines.drain(..).for_each(|line| line.close());
            }
        }
    }

    fn host(&mut self, server: ServerId) -> &mut Host {
        let at = server.0 as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, Host::default);
        }
        &mut self.0[at]
    }
}

impl Host {
    /// A line with room, the oldest first, so that the others may end.
    fn free(&mut self) -> Option<Rc<Line>> {
        self.lines.retain(|line| !line.closed.get());
        self.lines.iter().find(|line| line.has_room()).map(Rc::clone)
    }

    fn pending(&mut self) -> Option<Rc<Opening>> {
        self.opening.take_if(|opening| opening.over.get());
        self.opening.as_ref().map(Rc::clone)
    }
}

impl<D: Driver> Office<D> {
    /// A request's place on a line to the server of `place`, opened if there is none with room.
    /// `fresh`: those there are have failed.
    pub(in crate::http) async fn share(
        self: &Rc<Self>,
        pool: PoolId,
        place: Place<D>,
        fresh: bool,
        patience: Patience,
    ) -> Result<Upstream<D>, Failed> {
        let server = place.state.id;
        if fresh {
            self.lines().host(server).lines.drain(..).for_each(|line| line.close());
        }
        loop {
            let free = self.lines().host(server).free();
            if let Some(line) = free {
                let sender = line.sender.clone();
                let reused = line.served.get() > 0;
                let message = ClientMessage::new(Rc::clone(self.shell()), line, sender);
                let stream = Stream::of_message(Box::new(message));
                return Ok(Upstream { stream, place, reused, manner: self.manner(pool) });
            }
            let pending = self.lines().host(server).pending();
            if let Some(opening) = pending {
                match self.shell().timeout(patience.end(), opening.ended()).await {
                    Ok(Some(failed)) => return Err(failed),
                    Ok(None) => continue,
                    Err(_) => return Err(Failed::Connect(ConnectResult::Timeout)),
                }
            }
            let opener = Opener(Rc::default());
            self.lines().host(server).opening = Some(Rc::clone(&opener.0));
            let (started, manner) = (self.now(), self.manner(pool));
            let opening = Box::pin(self.open(pool, &place, patience));
            let line = self.shell().timeout(patience.end(), opening).await;
            let line = line.unwrap_or(Err(Failed::Connect(ConnectResult::Timeout)));
            let word = line.as_ref().map_or_else(|failed| failed.result(), |_| ConnectResult::Ok);
            self.count_connect(&place.state, word, started);
            match line {
                Ok(line) => {
                    if manner == self.manner(pool) {
                        self.lines().host(server).lines.push(line);
                    } else {
                        line.close(); // and another is opened as they are spoken to now
                    }
                    opener.0.finish(None);
                }
                Err(failed) => {
                    opener.0.finish(Some(failed));
                    return Err(failed);
                }
            }
        }
    }

    async fn open(
        self: &Rc<Self>,
        pool: PoolId,
        place: &Place<D>,
        patience: Patience,
    ) -> Result<Rc<Line>, Failed> {
        let stream = self.connect(pool, &place.state, &Header::NONE, patience).await?;
        let secure = self.pool_plan(pool).protocol == Protocol::H2;
        let agreed = stream.tls().and_then(|tls| tls.connection().alpn_protocol());
        if secure && agreed != Some(b"h2") {
            return Err(Failed::Tls);
        }
        let shell = Rc::clone(self.shell());
        let guard = Guard::of_server(shell.now());
        let wire = Wire::new(stream, Inbox::default(), shell, guard);
        let wire = Rc::new(RefCell::new(wire));
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW_STREAM)
            .initial_connection_window_size(WINDOW_CONNECTION)
            .header_table_size(HEADER_TABLE)
            .max_send_buffer_size(SEND_BUFFER_MAX);
        let (sender, connection) = builder
            .handshake::<_, Bytes>(Hold(Rc::clone(&wire)))
            .await
            .map_err(|_| Failed::Connect(ConnectResult::Reset))?;
        let line = Rc::new(Line {
            scheme: if secure { "https" } else { "http" },
            sender,
            in_flight: Cell::new(0),
            served: Cell::new(0),
            closed: Cell::new(false),
            last_stream: Cell::new(u32::MAX),
            bell: self.bells().add(),
        });
        self.shell().spawn(run(Rc::clone(self), pool, wire, connection, Rc::clone(&line)));
        Ok(line)
    }
}

/// Moves the frames of a line to its end.
async fn run<D: Driver>(
    office: Rc<Office<D>>,
    pool: PoolId,
    wire: Rc<RefCell<Wire<D>>>,
    mut connection: Connection<Hold<D>, Bytes>,
    line: Rc<Line>,
) {
    let shell = Rc::clone(office.shell());
    loop {
        let served = line.served.get();
        let until = shell.now() + office.pool_plan(pool).keepalive.timeout;
        let work = poll_fn(|cx| {
            line.bell.set(cx);
            let ended = Pin::new(&mut connection).poll(cx).is_ready();
            let guard = &wire.borrow().guard;
            line.last_stream.set(guard.last_stream());
            // Whoever waits on the line finds it broken, and says `server-reset`.
            let is_flood = guard.verdict().is_some();
            if ended || is_flood || line.is_over(office.is_draining()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let unused = |line: &Line| line.in_flight.get() == 0 && line.served.get() == served;
        if shell.timeout(until, work).await.is_ok() || unused(&line) {
            break;
        }
    }
    line.close();
}
