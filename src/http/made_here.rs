//! Answers that are made here and not by a server.

use std::rc::Rc;
use std::time::Duration;

use sluicegate_l7::answer::{self, Answer, Content, How as Manner};
use sluicegate_l7::http1::{Framing, Reject, Version};
use sluicegate_l7::route::spec::ActionSpec;

use super::account::Account;
use super::errand::{Act, Verdict};
use super::policies::Refusal;
use super::session::{Session, Then, reason_of};
use crate::observe::reason::Reason;
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

impl<D: Driver> Session<D> {
    /// Sends an answer of our own.
    ///
    /// # Errors
    /// Why the client does not have all of it: nothing may follow on its connection.
    pub(super) async fn answer(
        &mut self,
        answer: &Answer,
        manner: Manner<'_>,
        account: &mut Account,
    ) -> Result<(), Reason> {
        if self.is_grpc {
            return self.answer_grpc(answer, manner, account).await;
        }
        let mut out = self.office.draft();
        let site = Rc::clone(&self.site);
        let page = site.plan.errors.iter().find(|page| page.status == answer.status);
        let own_body = page
            .map(|page| Content { content_type: &page.content_type, body: page.body.as_bytes() });
        answer.write_http1(&Manner { own_body, ..manner }, &mut out);
        account.status = answer.status;
        let sent = self.say(&out, account).await;
        self.office.put_away(out);
        sent
    }

    /// The same for a client of gRPC: 200, and the status of gRPC in the head, which ends the
    /// stream ("Trailers-Only").
    async fn answer_grpc(
        &mut self,
        answer: &Answer,
        manner: Manner<'_>,
        account: &mut Account,
    ) -> Result<(), Reason> {
        let mut lines = self.office.draft();
        lines.extend_from_slice(manner.lines);
        lines.extend_from_slice(b"Content-Type: application/grpc\r\ngrpc-status: ");
        lines.extend_from_slice(answer.grpc_status().to_string().as_bytes());
        lines.extend_from_slice(b"\r\ngrpc-message: ");
        lines.extend_from_slice(answer.detail.as_bytes());
        lines.extend_from_slice(b"\r\n");
        let nothing = Content { content_type: "", body: b"" };
        let manner = Manner { lines: &lines, ..manner };
        let sent = self.made(200, nothing, manner, account).await;
        self.office.put_away(lines);
        sent
    }

    /// Sends an answer of our own to the client, who has `body_timeout` to take it.
    pub(super) async fn say(&mut self, out: &[u8], account: &mut Account) -> Result<(), Reason> {
        self.send_in_time(out, self.site.plan.timeouts.body).await?;
        let head = out.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        account.bytes_out += (out.len() - head) as u64;
        Ok(())
    }

    /// Sends something to the client, who has `limit` to take it.
    pub(super) async fn send_in_time(&mut self, out: &[u8], limit: Duration) -> Result<(), Reason> {
        let shell = Rc::clone(self.office.shell());
        match shell.timeout(shell.now() + limit, self.stream.send(out)).await {
            Ok(sent) => sent.map_err(|_| Reason::ClientReset),
            Err(_) => Err(Reason::ClientTimeout),
        }
    }

    /// Answers what is answered here: no route, another method, redirect, fixed answer.
    pub(super) async fn make_answer(
        &mut self,
        verdict: Verdict,
        location: &[u8],
        account: &mut Account,
    ) -> Then {
        let Verdict { errand, act } = verdict;
        account.of(&errand);
        let site = Rc::clone(&self.site);
        let mut lines = self.office.draft();
        errand.write_own_lines(&mut lines);
        let keeps = errand.keep_alive
            && errand.framing == Framing::None
            && !matches!(act, Act::Rejected(_))
            && !self.office.is_draining();
        if keeps && errand.version == Version::Http10 {
            lines.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        let sent = match &act {
            Act::NoRoute => {
                account.reason = Reason::NoRoute;
                let manner = errand.manner(&site, !keeps, &lines);
                self.answer(&Answer::of("no-route"), manner, account).await
            }
            Act::Method(allowed) => {
                account.reason = Reason::Method;
                lines.extend_from_slice(b"Allow: ");
                self.site.table.write_allow(*allowed, &mut lines);
                lines.extend_from_slice(b"\r\n");
                let manner = errand.manner(&site, !keeps, &lines);
                self.answer(&Answer::of("method"), manner, account).await
            }
            Act::Redirect { status } => {
                lines.extend_from_slice(b"Location: ");
                lines.extend_from_slice(location);
                lines.extend_from_slice(b"\r\n");
                let nothing = Content { content_type: "", body: b"" };
                let manner = errand.manner(&site, !keeps, &lines);
                self.made(*status, nothing, manner, account).await
            }
            Act::Respond => match &site.table.spec(errand.route).action {
                ActionSpec::Respond(spec) => {
                    let content =
                        Content { content_type: &spec.content_type, body: spec.body.as_bytes() };
                    let manner = errand.manner(&site, !keeps, &lines);
                    self.made(spec.status, content, manner, account).await
                }
                _ => Ok(()),
            },
            Act::Refused(refusal) => {
                refusal.write_lines(site.replaced(errand.route()).cors, &mut lines);
                let manner = errand.manner(&site, !keeps, &lines);
                self.refusal(refusal, manner, account).await
            }
            Act::Rejected(reject) => {
                account.reason = reason_of(*reject);
                let manner = errand.manner(&site, true, &lines);
                self.answer(&answer_to(*reject), manner, account).await
            }
            Act::Forward => Ok(()),
        };
        self.office.put_away(lines);
        let then = after(sent, !keeps, account);
        let taken = std::mem::replace(account, Account::new(Time::ZERO));
        self.account(taken, *errand);
        then
    }

    /// What a policy answers. Its lines are among those of `manner`.
    async fn refusal(
        &mut self,
        refusal: &Refusal,
        manner: Manner<'_>,
        account: &mut Account,
    ) -> Result<(), Reason> {
        match refusal {
            Refusal::Denied(denial) => {
                account.reason = Reason::from_word(denial.reason).unwrap_or(Reason::Internal);
                let mut answer = Answer::of(denial.reason).with_status(denial.status);
                if !denial.detail.is_empty() {
                    answer = answer.with_detail(denial.detail);
                }
                if let Some(seconds) = denial.retry_after {
                    answer = answer.with_retry_after(seconds);
                }
                self.answer(&answer, manner, account).await
            }
            Refusal::Preflight(_) => {
                let nothing = Content { content_type: "", body: b"" };
                self.made(204, nothing, manner, account).await
            }
            Refusal::Relayed { status, body, .. } => {
                account.reason = Reason::of_refusal(*status);
                // Its type stands among its lines.
                self.made(*status, Content { content_type: "", body }, manner, account).await
            }
        }
    }

    pub(super) async fn made(
        &mut self,
        status: u16,
        content: Content<'_>,
        manner: Manner<'_>,
        account: &mut Account,
    ) -> Result<(), Reason> {
        let mut out = self.office.draft();
        answer::write_made(status, content, &manner, &mut out);
        account.status = status;
        let sent = self.say(&out, account).await;
        self.office.put_away(out);
        sent
    }
}

/// What follows an answer of our own. Behind one that the client did not take whole, the next
/// would be read as its rest.
pub(super) fn after(sent: Result<(), Reason>, closes: bool, account: &mut Account) -> Then {
    match sent {
        Ok(()) if closes => Then::Close,
        Ok(()) => Then::Next,
        Err(reason) => {
            // Why the answer was ours says more, where it says something.
            if account.reason == Reason::Ok {
                account.reason = reason;
            }
            Then::Abort(reason)
        }
    }
}

/// What a request is told that has no good meaning.
pub(super) fn answer_to(reject: Reject) -> Answer {
    let answer = Answer::of(reason_of(reject).as_str());
    answer.with_status(reject.status()).with_detail(reject.detail())
}
