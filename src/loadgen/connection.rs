//! The life of one connection of the load generator.
//!
//! ```text
//!   ┌──────────── exchange ends, connection kept ─────────────┐
//!   ▼                                                         │
//! Empty ─▶ Connecting ─▶ Ready ─▶ Exchanging ─────────────────┘
//!   ▲          │ failed             │ failed, last exchange, or the peer ended
//!   └───────── Closing ◀────────────┘
//! ```
//!
//! Functions stand in the order things happen.
//!
//! - C1: the descriptor is closed, and the slot used again, only when nothing is in flight.
//! - C2: one exchange at a time: a byte that nobody asked for is an error.
//! - C3: an exchange is reported exactly once, except when the run is called off.

use std::time::Duration;

use nix::errno::Errno;

use super::http_response::{Answer, ResponseReader};
use super::tally::Failure;
use super::target::Script;
use crate::net::Endpoint;
use crate::runtime::driver::{Completion, Driver, Fd, Interest, StreamOptions};
use crate::runtime::time::Time;
use crate::runtime::token::{Tag, Token};

/// What every connection of a run does.
#[derive(Clone, Debug)]
pub struct Orders {
    pub to: Endpoint,
    pub script: Script,
    /// Each exchange on a connection of its own.
    pub new_connection: bool,
    /// An exchange whose kept connection ends before any byte of the answer begins again on a
    /// new one, as clients do with idempotent requests (RFC 9110 §9.2.2).
    pub retry: bool,
    /// From the actual start to the last byte of the answer.
    pub timeout: Duration,
}

/// How long a peer may take to answer our FIN with its own before it gets a reset.
const FIN_WAIT_MAX: Duration = Duration::from_secs(1);

/// After a failed connect, so that a target that is down is not stormed by a closed loop.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// Operations of a connection, as their tokens name them.
const CONNECT: u8 = 0;
const RECV: u8 = 1;
const WRITABLE: u8 = 2;

/// One request and its answer, under way.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// When it was due, and when it really began.
    pub intended: Time,
    pub begun: Time,
    sent: usize,
    received: usize,
    /// The connection carried another one before.
    reused: bool,
}

impl Exchange {
    #[must_use]
    pub const fn new(intended: Time, begun: Time) -> Self {
        Self { intended, begun, sent: 0, received: 0, reused: false }
    }
}

/// Why something failed; cheap to make, put into words only for the first of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Failure,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Errno(Errno),
    Status(u16),
    Words(&'static str),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Errno(errno) => f.write_str(errno.desc()),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Words(words) => f.write_str(words),
        }
    }
}

const fn fault(kind: Failure, words: &'static str) -> Fault {
    Fault { kind, why: Why::Words(words) }
}

/// What a step brought about.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Nothing,
    /// A connection stands.
    Connected,
    /// An exchange succeeded; payload received and sent.
    Succeeded {
        exchange: Exchange,
        bytes: (u64, u64),
    },
    /// An exchange failed, or with `None` the connection outside of one.
    Failed {
        exchange: Option<Exchange>,
        fault: Fault,
    },
    /// An exchange begins again on a new connection.
    Retried,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No descriptor; may be opened from `not_before` on.
    Empty {
        not_before: Time,
    },
    Connecting {
        then: Option<Exchange>,
    },
    Ready,
    Exchanging(Exchange),
    /// Waits for what is in flight; `orderly` after a FIN, else after a reset.
    Closing {
        orderly: bool,
        then: Option<Exchange>,
        not_before: Time,
    },
}

/// One slot of the generator.
#[derive(Debug)]
pub struct Connection {
    slot: u32,
    generation: u32,
    fd: Option<Fd>,
    /// Operations whose final completion has not come.
    in_flight: u8,
    receiving: bool,
    /// Exchanges this connection has carried.
    carried: u64,
    phase: Phase,
    /// When the phase has lasted too long.
    deadline: Time,
    reader: ResponseReader,
}

impl Connection {
    #[must_use]
    pub fn new(slot: u32) -> Self {
        Self {
            slot,
            generation: 0,
            fd: None,
            in_flight: 0,
            receiving: false,
            carried: 0,
            phase: Phase::Empty { not_before: Time::ZERO },
            deadline: Time::NEVER,
            reader: ResponseReader::default(),
        }
    }

    /// May begin an exchange.
    #[must_use]
    pub fn is_available(&self, now: Time) -> bool {
        match self.phase {
            Phase::Ready => true,
            Phase::Empty { not_before } => not_before <= now,
            _ => false,
        }
    }

    #[must_use]
    pub const fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.phase, Phase::Empty { .. })
    }

    /// An exchange is under way, or waits for a new connection.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(
            self.phase,
            Phase::Exchanging(_)
                | Phase::Connecting { then: Some(_) }
                | Phase::Closing { then: Some(_), .. }
        )
    }

    const fn token(&self, op: u8) -> Token {
        Token::new(Tag::Load, op, self.slot, self.generation)
    }

    /// Begins an exchange on an available connection, opening it if need be.
    pub fn begin<D: Driver>(
        &mut self,
        mut exchange: Exchange,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        debug_assert!(self.is_available(exchange.begun));
        if self.is_empty() {
            return self.open(Some(exchange), exchange.begun, orders, io);
        }
        exchange.reused = self.carried > 0;
        self.send_request(exchange, orders, io)
    }

    /// Opens an empty connection; `then` begins when it stands.
    pub fn open<D: Driver>(
        &mut self,
        then: Option<Exchange>,
        now: Time,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        debug_assert!(self.is_empty() && self.in_flight == 0, "C1");
        let options = StreamOptions { source: None };
        match io.open_now(&orders.to, &options) {
            Ok(fd) => {
                self.generation = self.generation.wrapping_add(1);
                self.fd = Some(fd);
                self.carried = 0;
                self.phase = Phase::Connecting { then };
                self.deadline = now + orders.timeout;
                self.in_flight += 1;
                io.submit_connect(fd, &orders.to, self.token(CONNECT));
                Event::Nothing
            }
            Err(errno) => {
                self.phase = Phase::Empty { not_before: now + RECONNECT_AFTER };
                let fault = Fault { kind: Failure::Connect, why: Why::Errno(errno) };
                Event::Failed { exchange: then, fault }
            }
        }
    }

    /// Reacts to one completion.
    pub fn step<D: Driver>(
        &mut self,
        completion: Completion,
        now: Time,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        debug_assert_eq!(completion.token.generation(), self.generation, "C1");
        if !completion.more {
            self.in_flight -= 1;
        }
        let event = match completion.token.op() {
            CONNECT => self.on_connected(completion.result, now, orders, io),
            RECV => self.on_received(completion, now, orders, io),
            _ => self.on_writable(now, orders, io),
        };
        match self.close_when_done(now, orders, io) {
            Event::Nothing => event,
            // The retry that `event` announced has failed at once (C3).
            failed => failed,
        }
    }

    fn on_connected<D: Driver>(
        &mut self,
        result: Result<u32, Errno>,
        now: Time,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        let Phase::Connecting { then } = self.phase else { return Event::Nothing };
        if let (Err(Errno::EADDRNOTAVAIL), Some(fd)) = (result, self.fd)
            && io.lift_ports_now(fd)
        {
            self.in_flight += 1;
            io.submit_connect(fd, &orders.to, self.token(CONNECT));
            return Event::Nothing;
        }
        if let Err(errno) = result {
            let fault = Fault { kind: Failure::Connect, why: Why::Errno(errno) };
            self.phase =
                Phase::Closing { orderly: false, then: None, not_before: now + RECONNECT_AFTER };
            return Event::Failed { exchange: then, fault };
        }
        self.phase = Phase::Ready;
        self.deadline = Time::NEVER;
        self.submit_recv(orders, io);
        match then {
            None => Event::Connected,
            Some(exchange) => match self.send_request(exchange, orders, io) {
                Event::Nothing => Event::Connected,
                other => other,
            },
        }
    }

    fn submit_recv<D: Driver>(&mut self, orders: &Orders, io: &mut D) {
        let Some(fd) = self.fd else { return };
        self.receiving = true;
        self.in_flight += 1;
        // On a unix socket a multishot receive can miss the end.
        io.submit_recv(fd, !orders.to.is_unix(), self.token(RECV));
    }

    fn send_request<D: Driver>(
        &mut self,
        exchange: Exchange,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        self.reader.reset();
        self.phase = Phase::Exchanging(exchange);
        self.deadline = exchange.begun + orders.timeout;
        self.send_more(exchange.begun, orders, io)
    }

    /// Sends what the socket takes of the request.
    fn send_more<D: Driver>(&mut self, now: Time, orders: &Orders, io: &mut D) -> Event {
        let (Phase::Exchanging(exchange), Some(fd)) = (&mut self.phase, self.fd) else {
            return Event::Nothing;
        };
        let request = orders.script.request();
        while exchange.sent < request.len() {
            match io.send_bytes_now(fd, &request[exchange.sent..]) {
                Ok(n) => exchange.sent += n as usize,
                Err(Errno::EAGAIN) => {
                    self.in_flight += 1;
                    io.submit_poll(fd, Interest::Writable, self.token(WRITABLE));
                    return Event::Nothing;
                }
                Err(errno) => {
                    let fault = Fault { kind: Failure::Reset, why: Why::Errno(errno) };
                    return self.fail(fault, now, orders, io);
                }
            }
        }
        Event::Nothing
    }

    fn on_writable<D: Driver>(&mut self, now: Time, orders: &Orders, io: &mut D) -> Event {
        self.send_more(now, orders, io)
    }

    fn on_received<D: Driver>(
        &mut self,
        completion: Completion,
        now: Time,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        self.receiving = completion.more;
        let event = match completion.result {
            Ok(0) => self.on_end(now, orders, io),
            Ok(_) => match completion.chunk {
                Some(chunk) => {
                    let verdict = self.take_bytes(io.buffers().bytes(chunk), &orders.script);
                    self.on_verdict(verdict, now, orders, io)
                }
                None => Event::Nothing,
            },
            // The bytes of others filled every buffer; those are given back in this very turn.
            Err(Errno::ENOBUFS) => Event::Nothing,
            Err(errno) => {
                let fault = Fault { kind: Failure::Reset, why: Why::Errno(errno) };
                self.fail(fault, now, orders, io)
            }
        };
        if let Some(chunk) = completion.chunk {
            io.release(chunk);
        }
        let ended = matches!(completion.result, Ok(0))
            || matches!(self.phase, Phase::Closing { orderly: false, .. });
        if !self.receiving && !ended {
            self.submit_recv(orders, io);
        }
        event
    }

    /// Holds the next bytes against the script. `Some` when they end the exchange.
    fn take_bytes(&mut self, bytes: &[u8], script: &Script) -> Result<Option<Ended>, Fault> {
        let exchange = match &mut self.phase {
            Phase::Exchanging(exchange) => exchange,
            Phase::Closing { orderly: false, .. } => return Ok(None),
            _ => return Err(fault(Failure::Protocol, "bytes after the end of the answer")),
        };
        let before = exchange.received;
        exchange.received += bytes.len();
        match script {
            Script::Exact { request, answer } => {
                if answer.get(before..exchange.received) != Some(bytes) {
                    return Err(fault(Failure::Protocol, "the answer is not the expected bytes"));
                }
                let complete = exchange.received == answer.len();
                if complete && exchange.sent < request.len() {
                    return Err(fault(Failure::Protocol, "answered before it was asked"));
                }
                Ok(complete.then_some(Ended { close: false, result: Ok(()) }))
            }
            Script::Http { .. } => match self.reader.feed(bytes) {
                Err(malformed) => Err(fault(Failure::Protocol, malformed.0)),
                Ok(answer) => Ok(answer.map(Ended::from)),
            },
        }
    }

    fn on_verdict<D: Driver>(
        &mut self,
        verdict: Result<Option<Ended>, Fault>,
        now: Time,
        orders: &Orders,
        io: &mut D,
    ) -> Event {
        let ended = match verdict {
            Ok(Some(ended)) => ended,
            Ok(None) => return Event::Nothing,
            Err(fault) => return self.fail(fault, now, orders, io),
        };
        let Phase::Exchanging(exchange) = self.phase else { return Event::Nothing };
        self.carried += 1;
        self.deadline = Time::NEVER;
        self.phase = Phase::Ready;
        if ended.close || orders.new_connection {
            self.finish(now, io);
        }
        match ended.result {
            Ok(()) => {
                let bytes = (exchange.received as u64, exchange.sent as u64);
                Event::Succeeded { exchange, bytes }
            }
            Err(fault) => Event::Failed { exchange: Some(exchange), fault },
        }
    }

    /// The peer has sent its FIN.
    fn on_end<D: Driver>(&mut self, now: Time, orders: &Orders, io: &mut D) -> Event {
        match self.phase {
            Phase::Exchanging(_) => {
                let verdict = match (&orders.script, self.reader.end()) {
                    (Script::Http { .. }, Ok(answer)) => Ok(Some(Ended::from(answer))),
                    _ => Err(fault(Failure::Reset, "closed before the answer was complete")),
                };
                self.on_verdict(verdict, now, orders, io)
            }
            // Closed while nothing was asked: its right. A new one is opened when needed.
            Phase::Ready => {
                self.finish(now, io);
                Event::Nothing
            }
            _ => Event::Nothing,
        }
    }

    /// Ends the exchange, or the connection outside of one, with a fault.
    fn fail<D: Driver>(&mut self, fault: Fault, now: Time, orders: &Orders, io: &mut D) -> Event {
        let (exchange, not_before) = match self.phase {
            Phase::Exchanging(exchange) => (Some(exchange), now),
            Phase::Connecting { then } => (then, now + RECONNECT_AFTER),
            // A reset or a surplus byte where nothing was asked.
            Phase::Ready => (None, now),
            Phase::Closing { orderly: true, then, not_before } => (then, not_before),
            Phase::Closing { .. } | Phase::Empty { .. } => return Event::Nothing,
        };
        let again = exchange.filter(|exchange| {
            orders.retry
                && exchange.reused
                && exchange.received == 0
                && fault.kind == Failure::Reset
        });
        let then = again.map(|exchange| Exchange::new(exchange.intended, exchange.begun));
        self.abort(then, not_before, io);
        match (then, exchange, fault.kind) {
            (Some(_), ..) => Event::Retried,
            // An idle connection that is reset is no different from one that is closed.
            (None, None, Failure::Reset) => Event::Nothing,
            (None, exchange, _) => Event::Failed { exchange, fault },
        }
    }

    /// Ends by FIN and waits for the peer's.
    pub fn finish<D: Driver>(&mut self, now: Time, io: &mut D) {
        if let (Phase::Ready, Some(fd)) = (self.phase, self.fd) {
            io.finish_now(fd);
            self.phase = Phase::Closing { orderly: true, then: None, not_before: now };
            self.deadline = now + FIN_WAIT_MAX;
        }
    }

    /// Ends by RST, which also ends what is in flight.
    fn abort<D: Driver>(&mut self, then: Option<Exchange>, not_before: Time, io: &mut D) {
        if let Some(fd) = self.fd {
            if self.is_connecting() {
                io.submit_cancel(self.token(CONNECT));
            } else {
                io.reset_now(fd);
                if self.receiving {
                    io.submit_cancel(self.token(RECV));
                }
            }
        }
        self.phase = Phase::Closing { orderly: false, then, not_before };
        self.deadline = Time::NEVER;
    }

    /// Ends without reporting anything: the run is over.
    pub fn call_off<D: Driver>(&mut self, now: Time, io: &mut D) {
        match self.phase {
            Phase::Ready => self.finish(now, io),
            Phase::Connecting { .. } | Phase::Exchanging(_) => self.abort(None, now, io),
            Phase::Closing { orderly, not_before, .. } => {
                self.phase = Phase::Closing { orderly, then: None, not_before };
            }
            Phase::Empty { .. } => {}
        }
        // A peer that had ended already leaves nothing in flight to wait for.
        self.close_if_quiet(io);
    }

    /// To be called now and then: ends what has lasted too long.
    pub fn check_deadline<D: Driver>(&mut self, now: Time, orders: &Orders, io: &mut D) -> Event {
        if now < self.deadline {
            return Event::Nothing;
        }
        let event = match self.phase {
            Phase::Connecting { .. } => {
                let why = Why::Errno(Errno::ETIMEDOUT);
                self.fail(Fault { kind: Failure::Connect, why }, now, orders, io)
            }
            Phase::Exchanging(_) => {
                self.fail(fault(Failure::Timeout, "no complete answer in time"), now, orders, io)
            }
            Phase::Closing { then, not_before, .. } => {
                self.abort(then, not_before, io);
                Event::Nothing
            }
            Phase::Empty { .. } | Phase::Ready => Event::Nothing,
        };
        match self.close_when_done(now, orders, io) {
            Event::Nothing => event,
            // The retry that `event` announced has failed at once (C3).
            failed => failed,
        }
    }

    fn close_if_quiet<D: Driver>(&mut self, io: &mut D) -> bool {
        let (Phase::Closing { not_before, .. }, 0) = (self.phase, self.in_flight) else {
            return false;
        };
        if let Some(fd) = self.fd.take() {
            io.close_now(fd); // C1
        }
        self.deadline = Time::NEVER;
        self.phase = Phase::Empty { not_before };
        true
    }

    /// Closes when nothing is in flight any more, and begins again what is to be retried.
    fn close_when_done<D: Driver>(&mut self, now: Time, orders: &Orders, io: &mut D) -> Event {
        let Phase::Closing { then, .. } = self.phase else { return Event::Nothing };
        if self.close_if_quiet(io)
            && let Some(exchange) = then
        {
            return self.open(Some(exchange), now, orders, io);
        }
        Event::Nothing
    }
}

/// How an exchange ended that got a whole answer.
#[derive(Clone, Copy, Debug)]
struct Ended {
    /// The connection cannot carry another one.
    close: bool,
    result: Result<(), Fault>,
}

impl From<Answer> for Ended {
    fn from(answer: Answer) -> Self {
        let bad = Fault { kind: Failure::Status, why: Why::Status(answer.status) };
        let result = if (200..400).contains(&answer.status) { Ok(()) } else { Err(bad) };
        Self { close: answer.close, result }
    }
}
