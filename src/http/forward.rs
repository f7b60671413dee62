//! A request on its way to a server, attempt by attempt, until its answer is through.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sluicegate_l7::answer::{Answer, Content};
use sluicegate_l7::http1::request::Method;
use sluicegate_l7::http1::response::{self, Asked, ResponseHead};
use sluicegate_l7::http1::{Fields, Framing, Limits, Reject, Version};
use sluicegate_l7::policy::spec::Fallback;
use sluicegate_l7::route::spec::RetrySpec;

use super::account::Account;
use super::errand::Errand;
use super::exchange::{Broken, Flow};
use super::flow::Asker;
use super::made_here::{after, answer_to};
use super::reply::{self, Passage};
use super::retry::{Attempt, Tries, is_connect, repeatable};
use super::session::{Session, Then, reason_of};
use super::upstream::{Failed, Patience, Place, Upstream};
use super::watch::Watch;
use crate::balance::{Nobody, TRIED_MAX};
use crate::observe::reason::Reason;
use crate::registry::{PoolId, ServerId};
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::runtime::time::Time;
use crate::stream::{Stream, StreamError};

/// How long the head of an answer may take.
#[derive(Clone, Copy)]
struct Wait {
    /// For a request that is whole.
    until: Time,
    /// Without a byte of a request that is not.
    gap: Duration,
}

/// Interim answers (1xx) before an answer: no server needs more.
const INTERIM_MAX: u32 = 16;

impl<D: Driver> Session<D> {
    /// Sends the request on, and its answer back.
    pub(super) async fn forward(
        &mut self,
        errand: &Errand,
        draft: &mut Vec<u8>,
        account: &mut Account,
    ) -> Then {
        let pool = PoolId(errand.pool as u16);
        account.pool = Some(pool);
        let site = Rc::clone(&self.site);
        let spec = &site.table.spec(errand.route).retries;
        let copy = self.begin_copy(errand, draft);
        let mut flow =
            Flow::new(self.body_of(errand), request_passage(errand), None, std::mem::take(draft));
        flow.keep_for_repeat(spec.body_max as usize);
        flow.total_max = errand.gate.body_max().unwrap_or(u64::MAX);
        flow.sift_trailers(self.trailers_of(errand));
        if let Some(copy) = copy {
            flow.copy_to(copy);
        }
        // What of the body is here already is looked at before anybody else sees the request.
        if let Err(reject) = flow.frame(&mut self.inbox) {
            account.bytes_in += flow.total;
            return self.refuse_late(reject, errand, account).await;
        }
        let mut result = self.attempts(pool, errand, &mut flow, spec, account).await;
        if let Attempt::Failed(reason) = result
            && let Some(Fallback::Pool(other)) = self.office.fallback(pool, reason)
            && (flow.is_unsent() || flow.is_repeatable() && errand.method.is_idempotent())
        {
            flow.rewind();
            let other = PoolId(other as u16);
            account.pool = Some(other);
            result = self.attempts(other, errand, &mut flow, spec, account).await;
        }
        // No more of it is read.
        account.bytes_in += flow.total;
        self.passed.bytes_in = 0;
        let then = match result {
            Attempt::Answered(then) => then,
            Attempt::Refused(reject) => return self.refuse_late(reject, errand, account).await,
            Attempt::Failed(reason) | Attempt::Again(reason) | Attempt::Unseen(reason) => {
                self.fail(reason, errand, flow.has_all(), account).await
            }
        };
        *draft = flow.into_buffer();
        then
    }

    /// Attempt by attempt, as long as the route and the pool's budget allow.
    async fn attempts(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        flow: &mut Flow,
        spec: &RetrySpec,
        account: &mut Account,
    ) -> Attempt {
        let route = self.site.table.spec(errand.route).timeout;
        // That of a fallback is its own.
        let own = self.office.http_timeouts(&self.site, usize::from(pool.0)).request;
        let total = errand.timeouts.total.map_or(Time::NEVER, |total| account.started_at + total);
        let until = total.min(self.office.now() + route.unwrap_or(own));
        let mut tried: Vec<ServerId> = Vec::new();
        let mut stale = 0;
        self.office.retry_budget(pool).request(self.office.worker(), self.office.now());
        loop {
            let mut watch = match self.office.watch(pool) {
                Ok(watch) => watch,
                Err(reason) => return Attempt::Failed(reason),
            };
            let place = match self.place(pool, errand, &tried, until).await {
                Ok(place) => place,
                Err(reason) => return Attempt::Failed(reason),
            };
            account.server = Some(place.state.id);
            account.attempts = account.attempts.saturating_add(1);
            let more = u32::from(account.attempts) < spec.attempts;
            let terms = Tries { spec, more };
            let fresh = stale >= STALE_MAX;
            let (attempt, reused) = self
                .attempt(pool, errand, place, fresh, flow, until, terms, &mut watch, account)
                .await;
            if attempt.is_stale(reused) {
                stale += 1;
                account.attempts -= 1;
                continue;
            }
            watch.failed(&self.office, &attempt);
            let reason = match attempt {
                Attempt::Again(reason) => reason,
                done => return done,
            };
            // Of an answer it was asked before that was given up.
            let granted = reason == Reason::BadUpstream
                || more && terms.wants(reason) && self.may_try_again(pool, spec, until);
            if !granted {
                return Attempt::Failed(reason);
            }
            if tried.len() < TRIED_MAX {
                tried.extend(account.server);
            }
            self.office.count_retry(account.server, reason);
            if !spec.backoff.is_zero() && !is_connect(reason) {
                self.office.shell().sleep_until(self.office.now() + spec.backoff).await;
            }
        }
    }

    /// Takes a retry from the pool's budget, if there is one left and time for it.
    fn may_try_again(&self, pool: PoolId, spec: &RetrySpec, until: Time) -> bool {
        let now = self.office.now();
        let budget = self.office.retry_budget(pool);
        now + spec.backoff < until && budget.retry(now, spec.budget_percent)
    }

    /// A body that turned out malformed after its head was good.
    pub(super) async fn refuse_late(
        &mut self,
        reject: Reject,
        errand: &Errand,
        account: &mut Account,
    ) -> Then {
        account.reason = reason_of(reject);
        let site = Rc::clone(&self.site);
        let mut lines = self.office.draft();
        errand.write_own_lines(&mut lines);
        let manner = errand.manner(&site, true, &lines);
        let sent = self.answer(&answer_to(reject), manner, account).await;
        self.office.put_away(lines);
        after(sent, true, account)
    }

    /// The gateway's own answer in place of a server's.
    pub(super) async fn fail(
        &mut self,
        reason: Reason,
        errand: &Errand,
        has_all: bool,
        account: &mut Account,
    ) -> Then {
        account.reason = reason;
        if reason == Reason::ClientReset {
            account.status = 499;
            return Then::Abort(reason);
        }
        let closes = !has_all || !errand.keep_alive || self.office.is_draining();
        let site = Rc::clone(&self.site);
        let mut lines = self.office.draft();
        errand.write_own_lines(&mut lines);
        let manner = errand.manner(&site, closes, &lines);
        let pool = PoolId(errand.pool as u16);
        let sent = if let Some(Fallback::Respond(spec)) = self.office.fallback(pool, reason) {
            let content = Content { content_type: &spec.content_type, body: spec.body.as_bytes() };
            self.made(spec.status, content, manner, account).await
        } else {
            let mut answer = Answer::of(reason.as_str());
            if reason == Reason::BreakerOpen {
                answer = answer.with_retry_after(self.office.breaker_opens_in(pool));
            }
            self.answer(&answer, manner, account).await
        };
        self.office.put_away(lines);
        after(sent, closes, account)
    }

    /// Whether clients stay with a server that drains.
    fn keeps(&self, errand: &Errand) -> bool {
        let sticky = self.site.table.spec(errand.route).sticky.as_ref();
        sticky.is_some_and(|sticky| sticky.keep_on_drain)
    }

    /// A place at a server, or why there is none.
    async fn place(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        tried: &[ServerId],
        until: Time,
    ) -> Result<Place<D>, Reason> {
        if let (Some(value), true) = (errand.sticky, tried.is_empty())
            && let Some(place) = self.office.reserve_sticky(pool, value, self.keeps(errand))
        {
            return Ok(place);
        }
        let asker = errand.asker(pool);
        // Who comes while others wait goes behind them.
        if tried.is_empty() && self.office.has_queue(pool) {
            return self.wait_for_place(pool, asker, until).await;
        }
        match self.office.reserve(pool, asker, tried) {
            Ok(place) => Ok(place),
            Err(Nobody::AllTried) => match self.office.reserve(pool, asker, &[]) {
                // One server only: a failed attempt may have been bad luck.
                Ok(place) => Ok(place),
                Err(_) => Err(Reason::NoServer),
            },
            Err(_) => self.wait_for_place(pool, asker, until).await,
        }
    }

    async fn wait_for_place(
        &mut self,
        pool: PoolId,
        asker: Asker,
        until: Time,
    ) -> Result<Place<D>, Reason> {
        let listener = self.site.listener;
        let waiting = Box::pin(self.office.wait_for_place(listener, pool, asker, until));
        unless_gone(&mut self.stream, waiting).await.unwrap_or(Err(Reason::ClientReset))
    }

    /// A connection to the server of `place`, unless the client gives up first.
    async fn reach(
        &mut self,
        pool: PoolId,
        place: Place<D>,
        fresh: bool,
        patience: Patience,
    ) -> Result<Upstream<D>, Attempt> {
        let reaching = pin!(self.office.reach(pool, place, fresh, &self.peers, patience));
        match unless_gone(&mut self.stream, reaching).await {
            Some(Ok(upstream)) => Ok(upstream),
            // Another server takes a descriptor as well.
            Some(Err(Failed::Descriptor)) => Err(Attempt::Failed(Reason::FdLimit)),
            Some(Err(failed)) => Err(Attempt::Again(failed.reason())),
            None => Err(Attempt::Failed(Reason::ClientReset)),
        }
    }

    /// One attempt at one server; and whether it was on a connection that had been used before.
    #[allow(clippy::too_many_arguments)]
    async fn attempt(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        place: Place<D>,
        fresh: bool,
        flow: &mut Flow,
        until: Time,
        tries: Tries<'_>,
        watch: &mut Watch,
        account: &mut Account,
    ) -> (Attempt, bool) {
        let now = self.office.now();
        let timeouts = self.office.timeouts(self.site.listener, pool);
        let patience = Patience::new(&timeouts, now, until);
        let mut upstream = match self.reach(pool, place, fresh, patience).await {
            Ok(upstream) => upstream,
            Err(attempt) => return (attempt, false),
        };
        let reused = upstream.reused;
        self.ask_by_name(errand, flow, &upstream);
        let sent_at = self.office.now();
        let try_until = tries.spec.timeout_try.map_or(until, |limit| until.min(sent_at + limit));
        // A stream of gRPC may be silent for long, also before its server says anything.
        let gap = if self.is_grpc { timeouts.idle } else { errand.timeouts.body };
        let mut inbox = Inbox::default();
        let mut fields = std::mem::take(&mut self.answer_fields);
        let mut interim = 0;
        let head = loop {
            let wait = Wait { until: try_until, gap };
            let got =
                self.await_head(&mut upstream, &mut inbox, &mut fields, errand, flow, wait).await;
            match got {
                Ok(head) if head.is_interim() => {
                    interim += 1;
                    let passing = self.pass_interim(interim, errand, &mut inbox, &head, &fields);
                    let passed = Box::pin(passing).await;
                    if let Err(reason) = passed {
                        let attempt = Attempt::Failed(reason);
                        self.count_failed(&attempt, reused, &upstream);
                        return (attempt, reused);
                    }
                }
                Ok(head) => break head,
                Err(attempt) => {
                    let reused = upstream.may_be_stale(&attempt);
                    if !reused && matches!(attempt, Attempt::Again(_)) {
                        self.office.suspect(&upstream.place.state);
                    }
                    let attempt = repeatable(attempt, interim > 0, errand, flow, tries);
                    self.count_failed(&attempt, reused, &upstream);
                    return (attempt, reused);
                }
            }
        };
        account.upstream = Some(self.office.now().since(sent_at));
        watch.answered(&self.office, head.status, sent_at);
        self.office.count_answer(&upstream.place.state, head.status);
        let again = tries.more && interim == 0 && tries.spec.on_status.contains(&head.status);
        let again = again && flow.is_repeatable() && errand.method.is_idempotent();
        // Without the right to another attempt the client gets this answer.
        if again && self.may_try_again(pool, tries.spec, until) {
            flow.rewind();
            return (Attempt::Again(Reason::BadUpstream), false);
        }
        let then = self.finish(pool, errand, upstream, inbox, head, &fields, flow, account).await;
        self.answer_fields = fields;
        (Attempt::Answered(then), reused)
    }

    /// Counts an attempt without an answer, unless the connection had only been kept too long.
    fn count_failed(&self, attempt: &Attempt, reused: bool, upstream: &Upstream<D>) {
        if !attempt.is_stale(reused) {
            self.office.count_attempt(&upstream.place.state, attempt.is_servers());
        }
    }

    /// Puts the server's own host into the head, where the route asks for that.
    fn ask_by_name(&self, errand: &Errand, flow: &mut Flow, upstream: &Upstream<D>) {
        if self.site.table.spec(errand.route).rewrite.host_of_server {
            flow.set_host(&self.office.host_of(&upstream.place.state));
        }
    }

    /// Passes an interim answer (1xx) on.
    async fn pass_interim(
        &mut self,
        count: u32,
        errand: &Errand,
        inbox: &mut Inbox,
        head: &ResponseHead,
        fields: &Fields,
    ) -> Result<(), Reason> {
        if count > INTERIM_MAX {
            return Err(Reason::BadUpstream);
        }
        let mut out = self.office.draft();
        reply::write_interim(&self.site, errand, inbox.bytes(), head, fields, &mut out);
        inbox.consume(head.len);
        // HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
        let passes = errand.version == Version::Http11;
        let gap = errand.timeouts.body;
        let sent = if passes { self.send_in_time(&out, gap).await } else { Ok(()) };
        self.office.put_away(out);
        sent
    }

    /// Sends the request's body on until the head of an answer is there.
    async fn await_head(
        &mut self,
        upstream: &mut Upstream<D>,
        inbox: &mut Inbox,
        fields: &mut Fields,
        errand: &Errand,
        flow: &mut Flow,
        wait: Wait,
    ) -> Result<ResponseHead, Attempt> {
        let shell = Rc::clone(self.office.shell());
        let limits = self.site.limits.of_answers();
        let (client, client_inbox) = (&mut self.stream, &mut self.inbox);
        let passed = &mut self.passed;
        let asked = Asked { head: errand.method == Method::Head, upgrade: errand.upgrades };
        // From the request's last byte on.
        let request_timeout = wait.until.since(shell.now());
        let mut deadline = if flow.has_all() { wait.until } else { shell.now() + wait.gap };
        loop {
            let mut moved = false;
            let sends = !flow.is_through();
            let work = poll_fn(|cx| {
                if client.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Attempt::Failed(Reason::ClientReset)));
                }
                if !flow.is_through() {
                    let sending =
                        flow.poll(cx, client, client_inbox, &mut upstream.stream, &mut moved);
                    passed.bytes_in = flow.total;
                    if let Poll::Ready(Err(Broken::Source(reject))) = sending {
                        return Poll::Ready(Err(Attempt::Refused(reject)));
                    }
                    if let Poll::Ready(Err(Broken::SourceGone(_))) = sending {
                        return Poll::Ready(Err(Attempt::Failed(Reason::ClientReset)));
                    }
                }
                let found =
                    poll_head(cx, &mut upstream.stream, inbox, fields, asked, &limits, &mut moved);
                match found {
                    // A body that is still coming keeps the clock of the request from running.
                    Poll::Pending if moved && sends => Poll::Ready(Ok(None)),
                    found => found.map_ok(Some),
                }
            });
            match shell.timeout(deadline, work).await {
                Ok(Ok(Some(head))) => return Ok(head),
                Ok(Ok(None)) => {
                    let gap = if flow.has_all() { request_timeout } else { wait.gap };
                    deadline = shell.now() + gap.max(Duration::from_millis(1));
                }
                Ok(Err(attempt)) => return Err(attempt),
                // A server that does not take the body is as silent as one that has it.
                Err(_) if flow.has_all() || flow.waits_for_target() => {
                    return Err(Attempt::Failed(Reason::RequestTimeout));
                }
                Err(_) => return Err(Attempt::Failed(Reason::ClientTimeout)),
            }
        }
    }
}

/// What `work` gives, unless the client gives its message up first.
async fn unless_gone<D: Driver, F: Future + Unpin>(
    client: &mut Stream<D>,
    mut work: F,
) -> Option<F::Output> {
    poll_fn(|cx| {
        if client.poll_gone(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut work).poll(cx).map(Some)
    })
    .await
}

/// Kept connections that turn out to be dead, in a row, before a new one is made.
const STALE_MAX: u32 = 2;

fn request_passage(errand: &Errand) -> Passage {
    if errand.framing == Framing::Chunked { Passage::Chunked } else { Passage::Raw }
}

/// The head of an answer, as soon as all of it is there.
#[allow(clippy::too_many_arguments)]
pub(super) fn poll_head<D: Driver>(
    cx: &mut Context<'_>,
    stream: &mut Stream<D>,
    inbox: &mut Inbox,
    fields: &mut Fields,
    asked: Asked,
    limits: &Limits,
    moved: &mut bool,
) -> Poll<Result<ResponseHead, Attempt>> {
    loop {
        if !inbox.is_empty() {
            match response::parse(inbox.bytes(), limits, asked, fields) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(Attempt::Failed(Reason::BadUpstream))),
            }
        }
        return Poll::Ready(Err(match stream.poll_recv(cx, inbox) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(1..)) => {
                *moved = true;
                continue;
            }
            // Of a head that is half there, nothing is left to hope for.
            Poll::Ready(_) if !inbox.is_empty() => Attempt::Failed(Reason::BadUpstream),
            Poll::Ready(Err(StreamError::TooLarge)) => Attempt::Failed(Reason::BadUpstream),
            Poll::Ready(Err(StreamError::Refused)) => Attempt::Unseen(Reason::ServerReset),
            Poll::Ready(Err(StreamError::Unsayable)) => Attempt::Refused(Reject::Target),
            Poll::Ready(_) => Attempt::Again(Reason::ServerReset),
        }));
    }
}
