//! A client's connection: its streams, its time, its end.
//!
//! ```text
//!  preface ─▶ streams come and go ─▶ GOAWAY said (idle, stalled, flood, drain) ─▶ read out ─▶ end
//! ```
//!
//! Each stream is a task, so many at once as `max_streams` allows, and has a session's timeouts.
//! The connection itself waits `header_timeout` for the preface and the first request, and for
//! the rest of a frame or header block; `keepalive_timeout` between requests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason as Code, RecvStream};
use http::Request;
use sluicegate_l7::http1::Fields;

use super::guard::{Guard, Verdict};
use super::head;
use super::io::{Hold, Wire};
use super::message::ServerMessage;
use super::watch::Bell;
use super::{HEADER_TABLE, SEND_BUFFER_MAX, WINDOW_CONNECTION, WINDOW_STREAM};
use crate::http::account::Passed;
use crate::http::office::Office;
use crate::http::session::{Peers, Session, Then};
use crate::http::site::{Site, SiteRef};
use crate::l4::{How, Outcome};
use crate::observe::reason::Reason;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::{HEAD_BYTES_MAX, Inbox, Shell};
use crate::runtime::time::Time;
use crate::stream::Stream;

/// After its GOAWAY a connection has so long to take it.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Bytes that are read meanwhile, at most.
const GOODBYE_BYTES_MAX: usize = 4 << 20;

/// Around an answer that does not need the request's body, the client has so long to end it.
const HEAR_OUT: Duration = Duration::from_millis(250);

/// Bytes of a body that are heard out, at most: then the client had better hear the answer.
const HEAR_OUT_BYTES_MAX: usize = 64 << 10;

/// Resets of streams that were not looked at yet, at once: what a client has open may all be
/// given up.
const PENDING_RESETS_MAX: usize = 100;

/// What the streams of a connection have in common.
struct Ledger {
    open: Cell<u32>,
    /// When the last stream ended.
    quiet_since: Cell<Time>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    bell: Rc<Bell>,
}

/// What a stream's task needs to know.
struct House<D: Driver> {
    office: Rc<Office<D>>,
    site: SiteRef,
    peers: Rc<Peers>,
    ledger: Ledger,
}

/// A client's connection.
struct Host<D: Driver> {
    house: Rc<House<D>>,
    wire: Rc<RefCell<Wire<D>>>,
    connection: Connection<Hold<D>, Bytes>,
    /// GOAWAY is said.
    leaving: Option<Leaving>,
    served: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Streams go on to their ends.
    Drain,
    /// Nothing more counts.
    Now { until: Time, reason: Reason },
}

/// What woke the connection.
#[allow(clippy::large_enum_variant)] // one at a time, and gone at once
enum Event {
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    Over(Reason),
    /// Something changed that the deadline depends on.
    Changed,
}

/// Serves a connection to its end.
pub async fn serve<D: Driver>(
    office: Rc<Office<D>>,
    site: SiteRef,
    stream: Stream<D>,
    inbox: Inbox,
    peers: Rc<Peers>,
) -> Outcome {
    let shell = Rc::clone(office.shell());
    let guard = Guard::new(shell.now());
    let wire = Rc::new(RefCell::new(Wire::new(stream, inbox, Rc::clone(&shell), guard)));
    let ledger = Ledger {
        open: Cell::new(0),
        quiet_since: Cell::new(shell.now()),
        bytes_in: Cell::new(0),
        bytes_out: Cell::new(0),
        bell: office.bells().add(),
    };
    let until = shell.now() + site.plan.timeouts.header;
    let shaking = Box::pin(builder(&site).handshake(Hold(Rc::clone(&wire))));
    let house = Rc::new(House { office, site, peers, ledger });
    let reason = match shell.timeout(until, shaking).await {
        Ok(Ok(connection)) => {
            let host = Host {
                house: Rc::clone(&house),
                wire: Rc::clone(&wire),
                connection,
                leaving: None,
                served: false,
            };
            host.run().await
        }
        Ok(Err(error)) => reason_of(&error),
        Err(_) => Reason::ClientTimeout,
    };
    let how = read_out(&shell, &wire).await;
    let ledger = &house.ledger;
    Outcome::Ended {
        how,
        reason,
        bytes_in: ledger.bytes_in.get(),
        bytes_out: ledger.bytes_out.get(),
    }
}

fn builder(site: &Site) -> h2::server::Builder {
    let limits = &site.plan.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_max)
        // Beyond it the crate answers by itself, without a body and a line in the log. What is only
        // too long for the listener comes as far as the rules that HTTP/1 has; in its form, which is
        // the shorter one (RFC 9113 §6.5.2 adds 32 bytes a field), it fits an inbox.
        .max_header_list_size(limits.header_bytes_max.saturating_mul(2).min(HEAD_BYTES_MAX as u32))
        .initial_window_size(WINDOW_STREAM)
        .initial_connection_window_size(WINDOW_CONNECTION)
        .header_table_size(HEADER_TABLE)
        .max_send_buffer_size(SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX);
    builder
}

fn reason_of(error: &h2::Error) -> Reason {
    if error.is_io() { Reason::ClientReset } else { Reason::BadRequest }
}

/// Ends in order, and reads what the client still sends: an RST would take the GOAWAY away.
async fn read_out<D: Driver>(shell: &Rc<Shell<D>>, wire: &Rc<RefCell<Wire<D>>>) -> How {
    let until = shell.now() + GOODBYE_MAX;
    let mut left = GOODBYE_BYTES_MAX;
    let flushed = poll_fn(|cx| wire.borrow_mut().poll_goodbye(cx));
    if !matches!(shell.timeout(until, flushed).await, Ok(Ok(()))) {
        return How::Reset;
    }
    while left > 0 {
        let got = poll_fn(|cx| wire.borrow_mut().poll_discard(cx));
        match shell.timeout(until, got).await {
            Ok(Ok(n @ 1..)) => left = left.saturating_sub(n),
            Ok(Ok(0)) => return How::Fin,
            _ => break,
        }
    }
    How::Reset
}

impl<D: Driver> Host<D> {
    async fn run(mut self) -> Reason {
        let shell = Rc::clone(self.house.office.shell());
        loop {
            let until = self.deadline();
            let event = poll_fn(|cx| {
                self.house.ledger.bell.set(cx);
                self.poll(cx, until)
            });
            match shell.timeout(until, event).await {
                Ok(Event::Stream(request, respond)) => {
                    self.served = true;
                    self.house.ledger.open.set(self.house.ledger.open.get() + 1);
                    let seat = Seat(Rc::clone(&self.house));
                    shell.spawn(serve_stream(seat, request, respond));
                }
                Ok(Event::Over(reason)) => return reason,
                Ok(Event::Changed) => {}
                Err(_) => match self.leaving {
                    Some(Leaving::Now { reason, .. }) => return reason,
                    _ => self.on_timeout(),
                },
            }
        }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>, until: Time) -> Poll<Event> {
        let verdict = self.wire.borrow().guard.verdict();
        if let Some(verdict) = verdict
            && !matches!(self.leaving, Some(Leaving::Now { .. }))
        {
            let code = match verdict {
                Verdict::Flood => Code::ENHANCE_YOUR_CALM,
                Verdict::NoSettings => Code::PROTOCOL_ERROR,
                Verdict::FrameSize => Code::FRAME_SIZE_ERROR,
            };
            self.leave(code, Reason::BadRequest);
            return Poll::Ready(Event::Changed);
        }
        if self.leaving.is_none() && self.house.office.is_draining() {
            self.connection.graceful_shutdown();
            self.leaving = Some(Leaving::Drain);
            // A client that has been quiet for long has as much time to answer as others.
            self.house.ledger.quiet_since.set(self.house.office.now());
            return Poll::Ready(Event::Changed);
        }
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                Poll::Ready(Event::Stream(request, respond))
            }
            Poll::Ready(ended) => {
                let told = match self.leaving {
                    Some(Leaving::Now { reason, .. }) => Some(reason),
                    _ => None,
                };
                let own = ended.map_or(Reason::Ok, |ended| match ended {
                    Ok(_) => Reason::Ok,
                    Err(error) => reason_of(&error),
                });
                Poll::Ready(Event::Over(told.unwrap_or(own)))
            }
            Poll::Pending if self.deadline() < until => Poll::Ready(Event::Changed),
            Poll::Pending => Poll::Pending,
        }
    }

    /// When there is something to do if nothing happens.
    fn deadline(&self) -> Time {
        let timeouts = &self.house.site.plan.timeouts;
        let ledger = &self.house.ledger;
        let wait = if self.served { timeouts.keepalive } else { timeouts.header };
        let idle = match self.leaving {
            Some(Leaving::Now { until, .. }) => return until,
            _ if ledger.open.get() > 0 => Time::NEVER,
            // A client that does not answer the ping behind our GOAWAY is not waited for.
            Some(Leaving::Drain) => ledger.quiet_since.get() + GOODBYE_MAX,
            None => ledger.quiet_since.get() + wait,
        };
        let stalled = self.wire.borrow().guard.stalled_since();
        idle.min(stalled.map_or(Time::NEVER, |since| since + timeouts.header))
    }

    fn on_timeout(&mut self) {
        let now = self.house.office.now();
        if self.deadline() > now {
            return;
        }
        let stalled = self.wire.borrow().guard.stalled_since();
        match stalled {
            // Of a client that has begun a request it is not said that it was idle, whichever of
            // the two times is over first.
            Some(_) => self.leave(Code::ENHANCE_YOUR_CALM, Reason::ClientTimeout),
            None => self.leave(Code::NO_ERROR, Reason::Ok),
        }
    }

    fn leave(&mut self, code: Code, reason: Reason) {
        self.connection.abrupt_shutdown(code);
        let until = self.house.office.now() + GOODBYE_MAX;
        self.leaving = Some(Leaving::Now { until, reason });
    }
}

/// A stream's place on its connection.
struct Seat<D: Driver>(Rc<House<D>>);

impl<D: Driver> Drop for Seat<D> {
    fn drop(&mut self) {
        let ledger = &self.0.ledger;
        ledger.open.set(ledger.open.get() - 1);
        if ledger.open.get() == 0 {
            ledger.quiet_since.set(self.0.office.now());
            ledger.bell.ring();
        }
    }
}

/// One request, from its head to the end of its answer.
async fn serve_stream<D: Driver>(
    seat: Seat<D>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let House { office, site, peers, ledger } = &*seat.0;
    let shell = Rc::clone(office.shell());
    let ends = request.body().is_end_stream();
    let is_head = request.method() == http::Method::HEAD;
    let mut head = office.draft();
    let mut inbox = Inbox::default();
    let form = head::write_request(&request, ends, &mut head);
    let (Ok(form), true) = (form, shell.reserve(&mut inbox, head.len())) else {
        // Malformed: what `h2` lets in fits.
        office.put_away(head);
        respond.send_reset(Code::PROTOCOL_ERROR);
        return;
    };
    inbox.push(&head);
    office.put_away(head);
    let message =
        ServerMessage::new(Rc::clone(&shell), request.into_body(), form, is_head, respond);
    let mut session = Session {
        office: Rc::clone(office),
        site: Rc::clone(site),
        stream: Stream::of_message(Box::new(message)),
        inbox,
        fields: Fields::new(),
        answer_fields: Fields::new(),
        peers: Rc::clone(peers),
        is_http2: true,
        is_grpc: false,
        joined: None,
        passed: Passed::default(),
        bytes_in: 0,
        bytes_out: 0,
    };
    let then = session.request(true, &Cell::new(false)).await;
    if matches!(then, Then::Abort(_)) {
        session.stream.abort();
    }
    hear_out(&mut session).await;
    shell.rest(&mut session.inbox);
    ledger.bytes_in.set(ledger.bytes_in.get() + session.bytes_in);
    ledger.bytes_out.set(ledger.bytes_out.get() + session.bytes_out);
}

/// Reads what is left of a request that nobody needs. Most bodies end at once; without this a
/// stream would be reset behind its answer (RFC 9113 §8.1), and frames that come later ignored,
/// whatever they are.
pub async fn hear_out<D: Driver>(session: &mut Session<D>) {
    let shell = Rc::clone(session.office.shell());
    let until = shell.now() + HEAR_OUT;
    let mut left = HEAR_OUT_BYTES_MAX;
    while left > 0 {
        session.inbox.consume(session.inbox.len());
        match shell.timeout(until, session.stream.recv(&mut session.inbox)).await {
            Ok(Ok(n @ 1..)) => left = left.saturating_sub(n),
            _ => break,
        }
    }
    session.inbox.consume(session.inbox.len());
}
