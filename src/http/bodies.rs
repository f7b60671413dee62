//! Bodies that policies change: read as a whole, within a bound, changed, and framed anew.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sluicegate_l7::http1::{Body, Fields, Framing, Known, Lines, Reject, ResponseHead};
use sluicegate_l7::policy::transform::{BodyChanges, is_json};

use super::account::Account;
use super::errand::Errand;
use super::exchange::Flow;
use super::session::Session;
use super::upstream::Upstream;
use crate::observe::reason::Reason;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::stream::StreamError;

/// What `changes` may touch: JSON that is not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Json,
    /// The head of an answer whose body would be changed, if it came.
    Unseen,
    /// It goes on as it is.
    Other,
    /// JSON that would have to be decoded first, or that has another type beside.
    Opaque,
}

/// Whether a message has a body that changes are meant for.
#[must_use]
pub fn fit(lines: &Lines<'_>, framing: Framing) -> Fit {
    let kinds = || lines.fields.values(lines.bytes, Known::ContentType);
    if framing == Framing::None || !kinds().any(is_json) {
        return Fit::Other;
    }
    if kinds().count() > 1 {
        return Fit::Opaque;
    }
    let coding = lines.fields.first(lines.bytes, Known::ContentEncoding);
    match coding {
        None => Fit::Json,
        Some(coding) if coding.eq_ignore_ascii_case(b"identity") => Fit::Json,
        Some(_) => Fit::Opaque,
    }
}

/// Why there is no changed body.
enum Failed {
    TooLarge,
    NotJson,
    Malformed(Reject),
    Gone(Reason),
}

impl<D: Driver> Session<D> {
    /// Changes the request's body, and puts it behind the head in `draft`.
    ///
    /// # Errors
    /// What the client is told instead, or that it has gone.
    pub(super) async fn change_request(
        &mut self,
        errand: &mut Errand,
        draft: &mut Vec<u8>,
        account: &mut Account,
    ) -> Result<(), Result<Reject, Reason>> {
        let site = Rc::clone(&self.site);
        let chain = site.chain(Some(errand.route));
        let max = site.rules.body_max(chain);
        if errand.expects {
            // The body is wanted, whatever the server will say of it.
            let told = self.send_in_time(b"HTTP/1.1 100 Continue\r\n\r\n", errand.timeouts.body);
            told.await.map_err(Err)?;
        }
        let max = errand.gate.body_max().map_or(max, |own| own.min(max));
        let mut whole = Whole::new(self.body_of(errand), max);
        let read = self.read_whole(&mut whole, errand.timeouts.body).await;
        account.bytes_in += whole.seen;
        let body = read.map(|()| whole.bytes);
        let changes = site.rules.request_changes(chain);
        let body = body.and_then(|body| changed(body, changes)).map_err(|failed| match failed {
            Failed::TooLarge => Ok(Reject::BodyTooLarge),
            Failed::NotJson => Ok(Reject::BodySyntax),
            Failed::Malformed(reject) => Ok(reject),
            Failed::Gone(reason) => Err(reason),
        })?;
        write_body(&body, draft);
        errand.framing = Framing::None;
        Ok(())
    }

    /// Reads the request's body, which may not stand still for longer than `gap`.
    async fn read_whole(&mut self, whole: &mut Whole, gap: Duration) -> Result<(), Failed> {
        let shell = Rc::clone(self.office.shell());
        let mut done = whole.take(&mut self.inbox)?;
        while !done {
            let receiving = self.stream.recv(&mut self.inbox);
            let got = shell.timeout(shell.now() + gap, receiving).await;
            let got = got.map_err(|_| Failed::Gone(Reason::ClientTimeout))?;
            done = whole.receive(got, &mut self.inbox)?;
        }
        Ok(())
    }

    /// The answer's body, changed. What is still to come of the request's goes on meanwhile: the
    /// server may be waiting for it before it says more.
    ///
    /// # Errors
    /// Why the answer is of no use.
    pub(super) async fn changed_answer(
        &mut self,
        errand: &Errand,
        upstream: &mut Upstream<D>,
        inbox: &mut Inbox,
        head: &ResponseHead,
        flow: &mut Flow,
        gap: Duration,
    ) -> Result<Vec<u8>, Reason> {
        let site = Rc::clone(&self.site);
        let shell = Rc::clone(self.office.shell());
        let chain = site.chain(Some(errand.route));
        let body = Body::new(head.framing, &site.limits.of_answers());
        let mut whole = Whole::new(body, site.rules.body_max(chain));
        let mut done = whole.take(inbox).map_err(|_| Reason::BadUpstream)?;
        // A body that goes nowhere any more is not read on.
        let mut sends = !flow.is_through();
        while !done {
            let more = poll_fn(|cx| {
                if self.stream.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Reason::ClientReset));
                }
                let (stream, mut moved) = (&mut upstream.stream, false);
                if sends {
                    let from = (&mut self.stream, &mut self.inbox);
                    sends = flow.poll(cx, from.0, from.1, stream, &mut moved).is_pending();
                }
                match stream.poll_recv(cx, inbox) {
                    Poll::Pending if moved => Poll::Ready(Ok(None)),
                    received => received.map(|got| Ok(Some(got))),
                }
            });
            let more = shell.timeout(shell.now() + gap, more).await;
            let Some(got) = more.map_err(|_| Reason::IdleTimeout)?? else { continue };
            let got = got.map_err(|error| match error {
                StreamError::Truncated => Reason::BadUpstream,
                _ => Reason::ServerReset,
            })?;
            done = whole.receive(Ok(got), inbox).map_err(|_| Reason::BadUpstream)?;
        }
        let changes = site.rules.answer_changes(chain);
        changed(whole.bytes, changes).map_err(|_| Reason::BadUpstream)
    }
}

/// A body on its way to being whole.
struct Whole {
    body: Body,
    bytes: Vec<u8>,
    max: u64,
    /// Payload that was there, also of a body that is too large.
    seen: u64,
}

impl Whole {
    const fn new(body: Body, max: u64) -> Self {
        Self { body, bytes: Vec::new(), max, seen: 0 }
    }

    /// Takes what `inbox` has of it. Whether that was the rest.
    fn take(&mut self, inbox: &mut Inbox) -> Result<bool, Failed> {
        while !self.body.is_done() {
            let piece = self.body.next(inbox.bytes()).map_err(Failed::Malformed)?;
            self.seen += piece.payload.len() as u64;
            if self.seen > self.max {
                return Err(Failed::TooLarge);
            }
            self.bytes.extend_from_slice(&inbox.bytes()[piece.payload.clone()]);
            inbox.consume(piece.consumed);
            if piece.consumed == 0 && !piece.end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes what a receive gave, or the end that it was. Whether that was the rest.
    fn receive(
        &mut self,
        got: Result<usize, StreamError>,
        inbox: &mut Inbox,
    ) -> Result<bool, Failed> {
        match got {
            Ok(1..) => self.take(inbox),
            Ok(0) => self.body.close().map(|()| true).map_err(Failed::Malformed),
            Err(StreamError::Tls) => Err(Failed::Gone(Reason::TlsFailed)),
            Err(_) => Err(Failed::Gone(Reason::ClientReset)),
        }
    }
}

fn changed<'c>(
    mut body: Vec<u8>,
    changes: impl Iterator<Item = &'c BodyChanges>,
) -> Result<Vec<u8>, Failed> {
    for changes in changes {
        body = changes.apply(&body).map_err(|_| Failed::NotJson)?;
    }
    Ok(body)
}

/// Ends the head, which has no framing yet, and puts the body behind it.
fn write_body(body: &[u8], draft: &mut Vec<u8>) {
    use std::io::Write as _;
    // The empty line at its end.
    draft.truncate(draft.len() - 2);
    let _ = write!(draft, "Content-Length: {}\r\n\r\n", body.len());
    draft.extend_from_slice(body);
}

/// Whether the answer is one whose body is changed.
pub fn changes_answer(fields: &Fields, bytes: &[u8], head: &ResponseHead, is_head: bool) -> Fit {
    let lines = Lines { bytes, fields };
    match head.status {
        // A part of a document is none.
        206 => Fit::Other,
        // It speaks of what was changed when it came, and seldom says of what type that is.
        304 => Fit::Unseen,
        // As if there were a body.
        _ if is_head => match fit(&lines, Framing::UntilClose) {
            Fit::Json => Fit::Unseen,
            _ => Fit::Other,
        },
        _ => fit(&lines, head.framing),
    }
}
