//! A server's answer on its way to the client, once its head is here.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sluicegate_l7::http1::response::ResponseHead;
use sluicegate_l7::http1::{Body, Fields, Framing, Method};

use super::account::{Account, Passed};
use super::bodies::{self, Fit};
use super::errand::Errand;
use super::exchange::{Broken, Flow};
use super::made_here::after;
use super::reply;
use super::session::{Session, Then};
use super::upstream::Upstream;
use crate::l4::{Outcome, Watchers};
use crate::observe::reason::Reason;
use crate::registry::PoolId;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::stream::StreamError;

/// How long an answer may stand still.
#[derive(Clone, Copy)]
struct Gaps {
    /// Because nothing comes.
    source: Duration,
    /// Because the client does not take what is there.
    target: Duration,
}

/// An answer of which the head is here.
struct Arrival<D: Driver> {
    upstream: Upstream<D>,
    inbox: Inbox,
    head: ResponseHead,
}

impl<D: Driver> Session<D> {
    /// The answer's head is here: brings it and its body to the client.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn finish(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        mut upstream: Upstream<D>,
        mut inbox: Inbox,
        head: ResponseHead,
        fields: &Fields,
        flow: &mut Flow,
        account: &mut Account,
    ) -> Then {
        let closes = !errand.keep_alive
            || self.office.is_draining()
            || (!flow.has_all() && head.status != 101);
        let fit = self.changes(errand, fields, inbox.bytes(), &head);
        match fit {
            Fit::Json => {
                let arrival = Arrival { upstream, inbox, head };
                let changing = self.finish_changed(pool, errand, arrival, fields, flow, account);
                return Box::pin(changing).await;
            }
            Fit::Unseen | Fit::Other => {}
            Fit::Opaque => {
                return self.fail(Reason::BadUpstream, errand, flow.has_all(), account).await;
            }
        }
        account.status = head.status;
        let room = |algorithm| self.office.encoders().have_room(algorithm);
        let bytes = inbox.bytes();
        let mut terms = reply::terms(&self.site, errand, bytes, &head, fields, closes, room);
        (terms.sticky, terms.upstream) = (self.sticky_for(errand, &upstream), account.upstream);
        terms.changed = fit == Fit::Unseen;
        let mut out = self.office.draft();
        reply::write_head(&self.site, errand, bytes, &head, fields, terms, &mut out);
        inbox.consume(head.len);
        if head.status == 101 {
            let becoming = self.become_other(pool, errand, upstream, inbox, out, account);
            return Box::pin(becoming).await;
        }
        let body = Body::new(head.framing, &self.site.limits.of_answers());
        let squeezer = terms.compress.map(|algorithm| self.office.encoders().add(algorithm));
        let mut answer = Flow::new(body, terms.passage, squeezer, out);
        let idle = self.office.timeouts(self.site.listener, pool).idle;
        let gaps = Gaps { source: idle, target: errand.timeouts.body };
        let result = self.exchange(gaps, &mut upstream, &mut inbox, flow, &mut answer).await;
        account.bytes_out += answer.given;
        self.passed.bytes_out = 0;
        let whole = answer.is_through();
        let reusable = whole
            && head.keep_alive
            && head.framing != Framing::UntilClose
            && flow.is_through()
            && inbox.is_empty()
            && !answer.source_ended;
        self.office.put_away(answer.into_buffer());
        self.office.shell().rest(&mut inbox);
        if reusable {
            self.office.keep(pool, upstream);
        }
        match result {
            Ok(()) if terms.closes || !flow.is_through() => Then::Close,
            Ok(()) => Then::Next,
            Err(reason) => {
                account.reason = reason;
                // The head is out: only a broken connection tells that the rest is not coming.
                Then::Abort(reason)
            }
        }
    }

    /// Whether the answer's body is one that a policy of the route changes.
    fn changes(&self, errand: &Errand, fields: &Fields, bytes: &[u8], head: &ResponseHead) -> Fit {
        let chain = self.site.chain(Some(errand.route));
        match self.site.rules.answer_changes(chain).next() {
            Some(_) => {
                let is_head = errand.method == Method::Head;
                bodies::changes_answer(fields, bytes, head, is_head)
            }
            None => Fit::Other,
        }
    }

    /// The same for an answer whose body is changed: it is here as a whole before the client gets
    /// any of it, and is not compressed.
    async fn finish_changed(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        arrival: Arrival<D>,
        fields: &Fields,
        flow: &mut Flow,
        account: &mut Account,
    ) -> Then {
        let Arrival { mut upstream, mut inbox, mut head } = arrival;
        let bytes = inbox.bytes()[..head.len].to_vec();
        inbox.consume(head.len);
        let idle = self.office.timeouts(self.site.listener, pool).idle;
        let changing = self.changed_answer(errand, &mut upstream, &mut inbox, &head, flow, idle);
        let body = match changing.await {
            Ok(body) => body,
            Err(reason) => return self.fail(reason, errand, flow.has_all(), account).await,
        };
        let reusable = head.keep_alive
            && head.framing != Framing::UntilClose
            && flow.is_through()
            && inbox.is_empty();
        self.office.shell().rest(&mut inbox);
        head.framing = Framing::Length(body.len() as u64);
        let closes = !errand.keep_alive || self.office.is_draining() || !flow.is_through();
        account.status = head.status;
        let mut terms = reply::terms(&self.site, errand, &bytes, &head, fields, closes, |_| false);
        terms.sticky = self.sticky_for(errand, &upstream);
        terms.upstream = account.upstream;
        terms.changed = true;
        let mut out = self.office.draft();
        reply::write_head(&self.site, errand, &bytes, &head, fields, terms, &mut out);
        out.extend_from_slice(&body);
        if reusable {
            self.office.keep(pool, upstream);
        }
        let sent = self.say(&out, account).await;
        self.office.put_away(out);
        after(sent, terms.closes, account)
    }

    /// The cookie value that keeps the client at this server, unless it has that already.
    fn sticky_for(&self, errand: &Errand, upstream: &Upstream<D>) -> Option<u64> {
        self.site.table.spec(errand.route).sticky.as_ref()?;
        let value = self.office.sticky_value(&upstream.place.state);
        (errand.sticky != Some(value)).then_some(value)
    }

    /// Both bodies, until the answer's is through.
    async fn exchange(
        &mut self,
        gaps: Gaps,
        upstream: &mut Upstream<D>,
        inbox: &mut Inbox,
        flow: &mut Flow,
        answer: &mut Flow,
    ) -> Result<(), Reason> {
        let shell = Rc::clone(self.office.shell());
        // A body that goes nowhere any more is not read on.
        let mut sends = !flow.is_through();
        loop {
            let mut moved = false;
            let waits = answer.waits_for_target();
            let work = poll_fn(|cx| {
                if self.stream.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Reason::ClientReset));
                }
                if sends {
                    match flow.poll(
                        cx,
                        &mut self.stream,
                        &mut self.inbox,
                        &mut upstream.stream,
                        &mut moved,
                    ) {
                        Poll::Ready(_) => sends = false,
                        Poll::Pending => {}
                    }
                }
                let polled =
                    answer.poll(cx, &mut upstream.stream, inbox, &mut self.stream, &mut moved);
                self.passed = Passed { bytes_in: flow.total, bytes_out: answer.given };
                match polled {
                    Poll::Pending if moved => Poll::Ready(Ok(false)),
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
                    Poll::Ready(Err(Broken::TargetGone(_))) => {
                        Poll::Ready(Err(Reason::ClientReset))
                    }
                    Poll::Ready(Err(
                        Broken::Source(_) | Broken::SourceGone(StreamError::Truncated),
                    )) => Poll::Ready(Err(Reason::BadUpstream)),
                    Poll::Ready(Err(Broken::SourceGone(_))) => {
                        Poll::Ready(Err(Reason::ServerReset))
                    }
                }
            });
            let gap = if waits { gaps.target } else { gaps.source };
            match shell.timeout(shell.now() + gap, work).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => {}
                Ok(Err(reason)) => return Err(reason),
                Err(_) if answer.waits_for_target() => return Err(Reason::ClientTimeout),
                Err(_) => return Err(Reason::IdleTimeout),
            }
        }
    }

    /// The connection becomes something else than HTTP, once the client has `said`, a 101.
    async fn become_other(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        upstream: Upstream<D>,
        mut early: Inbox,
        said: Vec<u8>,
        account: &mut Account,
    ) -> Then {
        let sent = self.send_in_time(&said, errand.timeouts.body).await;
        self.office.put_away(said);
        if sent.is_err() {
            return after(sent, true, account);
        }
        if !early.is_empty() {
            // What the server said right behind its 101.
            let bytes = early.bytes().to_vec();
            early.consume(bytes.len());
            let sent = self.send_in_time(&bytes, errand.timeouts.body).await;
            if sent.is_err() {
                return after(sent, true, account);
            }
            account.bytes_out += bytes.len() as u64;
        }
        let Upstream { mut stream, place, .. } = match self.join(pool, errand, upstream) {
            Ok(()) => return Then::Joined,
            Err(upstream) => upstream,
        };
        let timeouts = self.office.timeouts(self.site.listener, pool);
        let now = self.office.now();
        let pending = std::mem::take(&mut self.inbox);
        let outcome = crate::l4::tunnel(
            &mut self.stream,
            &mut stream,
            pending,
            timeouts,
            now,
            Watchers::default(),
        )
        .await;
        drop(place);
        match outcome {
            Outcome::Ended { how, reason, bytes_in, bytes_out } => {
                account.bytes_in += bytes_in;
                account.bytes_out += bytes_out;
                account.reason = reason;
                Then::Over(how, reason)
            }
            Outcome::Ready(_) | Outcome::Refused { .. } | Outcome::Upgraded(_) => {
                account.reason = Reason::Internal;
                Then::Abort(Reason::Internal)
            }
        }
    }
}
