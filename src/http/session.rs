//! One HTTP/1 connection of a client: its requests, in order.
//!
//! ```text
//!   ┌────────────▶ head ─▶ judged ─▶ made here ──────────▶ answered ─┐
//!   │                         └────▶ forward (attempts) ─▶ answered ─┤
//!   └──────────── kept alive ◀──────────────────────────────────────┤
//!                          101 ─▶ joined to a relay, or tunnel ─▶ over ◀─┘ closes
//! ```
//!
//! While it waits for a request it holds no buffer. After an answer that closes, what the client
//! still sends is read for a while: an RST for it would take the answer away from the client.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluicegate_l7::answer::{Answer, How as Manner};
use sluicegate_l7::http1::request::{self, Method, RequestHead};
use sluicegate_l7::http1::{Body, Fields, Known, Lines, Reject, Version};
use sluicegate_l7::identity::Client;
use sluicegate_l7::text::is_grpc;

use super::account::{Account, Origin, Passed, record};
use super::errand::{self, Act, Bench, Errand, RequestId, Scratch, Verdict};
use super::h2::{self, Preface};
use super::joining::Joined;
use super::log_text;
use super::made_here::{after, answer_to};
use super::office::Office;
use super::policies::{self, Gate};
use super::site::{Site, SiteRef};
use crate::l4::{How, Outcome};
use crate::observe::reason::Reason;
use crate::observe::requests::RequestText;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::runtime::time::Time;
use crate::stream::{Stream, StreamError};
use crate::tls::info::TlsInfo;
use crate::tls::server::Admission;

/// After an answer that closes, the client has so long to end its side.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes that are read meanwhile, at most.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// Until the first look whether a client whose request waits for a server has reset its
/// connection, on which nothing is received meanwhile. From one look to the next it is twice as
/// long, so many times.
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOKS_MAX: u8 = 4;

/// Who is at both ends of a connection.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The TCP or PROXY source; `None` on a unix listener.
    pub source: Option<SocketAddr>,
    /// The address that the client reached.
    pub local: Option<SocketAddr>,
    pub tls: Option<Arc<TlsInfo>>,
    pub admission: Option<Admission>,
}

impl Peers {
    /// The peer's address without its port.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.source.map(|source| source.ip())
    }

    /// `host`, if the client may ask for it here: a connection is for the hosts that would have
    /// let its client in (RFC 9110 §7.4).
    pub(super) fn reach<'h>(&self, host: &'h str) -> Result<&'h str, Reject> {
        match &self.admission {
            Some(admission) if !admission.covers(host) => Err(Reject::Misdirected),
            _ => Ok(host),
        }
    }
}

/// A connection between requests, or in one.
pub(super) struct Session<D: Driver> {
    pub office: Rc<Office<D>>,
    pub site: SiteRef,
    pub stream: Stream<D>,
    pub inbox: Inbox,
    pub fields: Fields,
    /// Of an answer's head, kept from one to the next.
    pub answer_fields: Fields,
    pub peers: Rc<Peers>,
    /// The stream is one of an HTTP/2 connection.
    pub is_http2: bool,
    /// The request at hand is one of gRPC, whose clients understand its answers only.
    pub is_grpc: bool,
    /// A server's connection that this one is to be joined to.
    pub joined: Option<Box<Joined<D>>>,
    /// Of the request at hand, for one that is cut short.
    pub passed: Passed,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next one.
    Next,
    /// The connection ends in order.
    Close,
    /// It is broken; the client is told by a reset.
    Abort(Reason),
    /// It became something else, which is over.
    Over(How, Reason),
    /// It becomes something else: [`Session::joined`].
    Joined,
    /// It is one of HTTP/2.
    Http2,
}

/// Whether this is a damaged preface of HTTP/2: whoever sends one expects no answer in HTTP/1
/// (RFC 9113 §3.4: the connection is closed).
fn is_bad_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI ")
}

/// Serves a connection to its end.
pub async fn serve<D: Driver>(
    office: Rc<Office<D>>,
    site: Arc<Site>,
    stream: Stream<D>,
    inbox: Inbox,
    peers: Peers,
    idle: Rc<std::cell::Cell<bool>>,
) -> Outcome {
    let (peers, site) = (Rc::new(peers), Rc::new(site));
    if peers.tls.as_ref().is_some_and(|tls| tls.alpn.as_deref() == Some("h2")) {
        return h2::serve(office, site, stream, inbox, peers).await;
    }
    let mut session = Session {
        office,
        site,
        stream,
        inbox,
        fields: Fields::new(),
        answer_fields: Fields::new(),
        peers,
        is_http2: false,
        is_grpc: false,
        joined: None,
        passed: Passed::default(),
        bytes_in: 0,
        bytes_out: 0,
    };
    let mut first = true;
    let (how, reason) = loop {
        match session.request(first, &idle).await {
            Then::Next => first = false,
            Then::Close => {
                session.linger().await;
                break (How::Fin, Reason::Ok);
            }
            Then::Abort(reason) => break (How::Reset, reason),
            Then::Over(how, reason) => break (how, reason),
            Then::Joined => {
                let Some(joined) = session.joined.take() else {
                    break (How::Reset, Reason::Internal);
                };
                return session.into_relay(*joined);
            }
            Then::Http2 => {
                let Session { office, site, stream, inbox, peers, .. } = session;
                return h2::serve(office, site, stream, inbox, peers).await;
            }
        }
    };
    Outcome::Ended { how, reason, bytes_in: session.bytes_in, bytes_out: session.bytes_out }
}

impl<D: Driver> Session<D> {
    /// Reads one request and sees it answered.
    pub(super) async fn request(&mut self, first: bool, idle: &std::cell::Cell<bool>) -> Then {
        let (head, started_at) = match self.read_head(first, idle).await {
            Ok(found) => found,
            Err(then) => return then,
        };
        self.office.renew(&mut self.site);
        self.is_grpc = self.is_http2 && self.asks_grpc();
        let mut draft = self.office.draft();
        let verdict = self.judge(&head, &mut draft).await;
        let mut account = Account::new(started_at);
        let then = match verdict {
            Err(reject) => Box::pin(self.refuse(reject, Some(&head), &mut account)).await,
            Ok(Verdict { mut errand, act: Act::Forward }) => {
                self.inbox.consume(head.len);
                // A server may take its time.
                self.office.shell().rest(&mut self.inbox);
                errand.timeouts = self.office.http_timeouts(&self.site, errand.pool);
                account.of(&errand);
                if errand.changes_body {
                    let changing = self.change_request(&mut errand, &mut draft, &mut account);
                    if let Err(failed) = Box::pin(changing).await {
                        self.office.put_away(draft);
                        return Box::pin(self.refuse_body(failed, *errand, account)).await;
                    }
                }
                let then = self.forward_in_time(&errand, &mut draft, &mut account).await;
                self.office.put_away(draft);
                match &mut self.joined {
                    Some(joined) => joined.answers(account, errand),
                    None => self.account(account, *errand),
                }
                return then;
            }
            Ok(made) => {
                self.inbox.consume(head.len);
                if self.is_http2 && !head.expect_continue {
                    h2::hear_out(self).await;
                }
                let then = Box::pin(self.make_answer(made, &draft, &mut account)).await;
                self.office.put_away(draft);
                return then;
            }
        };
        self.office.put_away(draft);
        then
    }

    /// A body that could not be changed.
    async fn refuse_body(
        &mut self,
        failed: Result<Reject, Reason>,
        errand: Errand,
        mut account: Account,
    ) -> Then {
        let then = match failed {
            Ok(reject) => self.refuse_late(reject, &errand, &mut account).await,
            Err(reason) => self.fail(reason, &errand, false, &mut account).await,
        };
        self.account(account, errand);
        then
    }

    /// A request and its answer: within `total_timeout`, if there is one, and while there is a
    /// client and a worker for it.
    async fn forward_in_time(
        &mut self,
        errand: &Errand,
        draft: &mut Vec<u8>,
        account: &mut Account,
    ) -> Then {
        let office = Rc::clone(&self.office);
        let shell = office.shell();
        let until = errand.timeouts.total.map_or(Time::NEVER, |total| account.started_at + total);
        let client = self.stream.tcp_fd();
        self.passed = Passed::default();
        let cut = {
            let mut forward = pin!(self.forward(errand, draft, account));
            let mut work = pin!(poll_fn(|cx| match office.stopped() {
                Some(reason) => Poll::Ready(Err(reason)),
                None => forward.as_mut().poll(cx).map(Ok),
            }));
            let mut looks = 0_u8;
            loop {
                let look = client.map_or(Time::NEVER, |_| shell.now() + LOOK_FIRST * (1 << looks));
                match shell.timeout(until.min(look), work.as_mut()).await {
                    Ok(Ok(then)) => return then,
                    Ok(Err(reason)) => break reason,
                    Err(_) if until <= shell.now() => break Reason::RequestTimeout,
                    Err(_) if client.is_some_and(|fd| shell.is_gone(fd)) => {
                        break Reason::ClientReset;
                    }
                    Err(_) => looks = LOOKS_MAX.min(looks + 1),
                }
            }
        };
        account.bytes_in += self.passed.bytes_in;
        account.bytes_out += self.passed.bytes_out;
        if account.status == 0 && matches!(cut, Reason::RequestTimeout | Reason::ClientReset) {
            return Box::pin(self.fail(cut, errand, false, account)).await;
        }
        if account.status == 0 {
            // Nobody hears it any more; the log says what it would have been.
            account.status = Answer::of(cut.as_str()).status;
        }
        // How much of an answer is out is not known: only a broken connection is no lie.
        account.reason = cut;
        Then::Abort(cut)
    }

    /// What becomes of a request, with what its policies say.
    async fn judge(&self, head: &RequestHead, draft: &mut Vec<u8>) -> Result<Verdict, Reject> {
        let office = &self.office;
        let bench = Bench {
            site: &self.site,
            peers: &self.peers,
            random: [office.random(), office.random(), office.random()],
            has_servers: &|pool| office.has_servers(pool),
            keeps_client: &|pool, value, keeps| office.keeps_client(pool, value, keeps),
            hashes: &|pool| office.hashes(pool),
            is_http2: self.is_http2,
        };
        let mut scratch = Scratch::default();
        let bytes = self.inbox.bytes();
        let case = errand::open(&bench, bytes, head, &self.fields, &mut scratch)?;
        let mut errand = case.errand(&bench);
        let site = &self.site;
        let passed = policies::run(office, site, &self.peers, &case, &mut errand).await;
        errand.gate.write_limits(site, &mut errand.answer_lines);
        if site.plan.server_timing {
            errand.gate.tell_times(site);
        }
        match passed {
            Ok(()) => Ok(errand::conclude(&bench, &case, errand, draft)),
            Err(refusal) => Ok(errand::refuse(&bench, &case, errand, refusal)),
        }
    }

    /// The next head, and when its first byte was there.
    async fn read_head(
        &mut self,
        first: bool,
        idle: &std::cell::Cell<bool>,
    ) -> Result<(RequestHead, Time), Then> {
        let shell = Rc::clone(self.office.shell());
        let timeouts = self.site.plan.timeouts;
        let waits = if first { timeouts.header } else { timeouts.keepalive };
        let mut until = shell.now() + waits;
        let mut began = (!self.inbox.is_empty()).then(|| shell.now());
        let http2 = first && !self.is_http2 && !self.site.secure && self.site.plan.limits.h2c;
        if began.is_some() {
            until = shell.now() + timeouts.header;
        }
        loop {
            let preface = if http2 { Preface::of(self.inbox.bytes()) } else { Preface::Not };
            if preface == Preface::Here {
                return Err(Then::Http2);
            }
            if !self.inbox.is_empty() && preface == Preface::Not {
                match request::parse(self.inbox.bytes(), &self.site.limits, &mut self.fields) {
                    Ok(Some(head)) => return Ok((head, began.unwrap_or_else(|| shell.now()))),
                    Ok(None) => {}
                    Err(_) if http2 && is_bad_preface(self.inbox.bytes()) => {
                        return Err(Then::Close);
                    }
                    Err(reject) => {
                        let began = began.unwrap_or_else(|| shell.now());
                        return Err(self.refuse_head(reject, began).await);
                    }
                }
            }
            if self.office.closes_idle() && began.is_none() && !first {
                return Err(Then::Close);
            }
            idle.set(began.is_none() && !first);
            let got = shell.timeout(until, self.stream.recv(&mut self.inbox)).await;
            idle.set(false);
            match got {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) if began.is_none() => return Err(Then::Close),
                Ok(Err(StreamError::Tls)) => return Err(Then::Abort(Reason::TlsFailed)),
                Ok(Err(StreamError::TooLarge)) => {
                    let began = began.unwrap_or_else(|| shell.now());
                    return Err(self.refuse_head(Reject::HeaderTooLarge, began).await);
                }
                // A head that ends in the middle has nobody who waits for an answer.
                Ok(Ok(0) | Err(_)) => {
                    return Err(match began {
                        None if !first => Then::Close,
                        _ => Then::Abort(Reason::ClientReset),
                    });
                }
                Err(_) => {
                    let Some(began) = began else { return Err(Then::Close) };
                    return Err(self.refuse_head(Reject::HeadTimeout, began).await);
                }
            }
            if began.is_none() {
                began = Some(shell.now());
                until = if first { until } else { shell.now() + timeouts.header };
            }
        }
    }

    async fn refuse_head(&mut self, reject: Reject, began: Time) -> Then {
        let mut account = Account::new(began);
        Box::pin(self.refuse(reject, None, &mut account)).await
    }

    /// Answers a request that has no good meaning, and closes: where the next one would begin
    /// is not known.
    pub(super) async fn refuse(
        &mut self,
        reject: Reject,
        head: Option<&RequestHead>,
        account: &mut Account,
    ) -> Then {
        account.reason = reason_of(reject);
        let lines = Lines { bytes: self.inbox.bytes(), fields: &self.fields };
        if head.is_some() {
            account.client =
                Client::find(self.peers.ip(), &lines, &self.site.plan.trusted_proxies).ip;
        }
        let random = [self.office.random(), self.office.random()];
        let id = RequestId::of(head.map(|_| &lines), random);
        let text = log_text::of(&self.site, &self.peers, head, &lines, id.as_bytes());
        let is_head = head.is_some_and(|head| head.method == Method::Head);
        let version = head.map_or(Version::Http11, |head| head.version);
        let mut own = self.office.draft();
        id.write_line(&mut own);
        let manner = Manner { is_head, closes: true, lines: &own, ..Manner::default() };
        let sent = self.answer(&answer_to(reject), manner, account).await;
        self.office.put_away(own);
        let then = after(sent, true, account);
        let taken = std::mem::replace(account, Account::new(Time::ZERO));
        self.record(&taken, version, text, &Gate::default());
        then
    }

    fn asks_grpc(&self) -> bool {
        let kind = self.fields.first(self.inbox.bytes(), Known::ContentType);
        kind.is_some_and(is_grpc)
    }

    /// Counts and logs a request.
    #[allow(clippy::needless_pass_by_value)] // it is over with it
    pub(super) fn account(&mut self, account: Account, mut errand: Errand) {
        errand.gate.judge_body(account.bytes_in);
        self.record(&account, errand.version, errand.text, &errand.gate);
    }

    fn record(
        &mut self,
        account: &Account,
        version: Version,
        text: Option<Box<RequestText>>,
        gate: &Gate,
    ) {
        self.bytes_in += account.bytes_in;
        self.bytes_out += account.bytes_out;
        let origin = Origin {
            office: &self.office,
            site: &self.site,
            peers: &self.peers,
            is_http2: self.is_http2,
        };
        record(&origin, account, self.office.clock(), version, text, gate);
    }

    /// Ends in order, and reads what the client still sends.
    async fn linger(&mut self) {
        let shell = Rc::clone(self.office.shell());
        let until = shell.now() + LINGER;
        let _ = shell.timeout(until, self.stream.finish()).await;
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            self.inbox.consume(self.inbox.len());
            match shell.timeout(until, self.stream.recv(&mut self.inbox)).await {
                Ok(Ok(n @ 1..)) => left = left.saturating_sub(n),
                _ => break,
            }
        }
        self.inbox.consume(self.inbox.len());
        shell.rest(&mut self.inbox);
    }

    /// A body for reading a request's.
    pub(super) fn body_of(&self, errand: &Errand) -> Body {
        Body::new(errand.framing, &self.site.limits)
    }
}

/// The word for a request that is refused.
pub(super) fn reason_of(reject: Reject) -> Reason {
    match reject.status() {
        408 => Reason::ClientTimeout,
        405 => Reason::Method,
        413 | 414 | 431 => Reason::TooLarge,
        _ => Reason::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::uring::Uring;

    /// Bytes of the future that `call` makes.
    const fn size<'s, F>(
        _call: &impl FnOnce(&'s mut Session<Uring>, bool, &'s std::cell::Cell<bool>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_in_flight_is_small() {
        // Every connection that waits for its next request holds one, and every stream of HTTP/2
        // is moved once as a whole. What is rare is boxed where it is awaited; what is handed to
        // `timeout` by value is there twice.
        let bytes = size(&|session, first, idle| Session::request(session, first, idle));
        println!("{bytes} bytes");
        assert!(bytes <= 3184, "{bytes} bytes");
    }
}
