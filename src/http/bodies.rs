//! Bodies that policies change: read as a whole, within a bound, changed, and framed anew.

use std::rc::Rc;

use sluicegate_l7::http1::{Body, Fields, Framing, Known, Lines, Reject, ResponseHead};
use sluicegate_l7::policy::transform::{BodyChanges, is_json};

use super::errand::Errand;
use super::session::{Account, Session};
use super::upstream::Upstream;
use crate::observe::reason::Reason;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::stream::{Stream, StreamError};

/// What `changes` may touch: JSON that is not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Json,
    /// It goes on as it is.
    Other,
    /// JSON that would have to be decoded first.
    Encoded,
}

/// Whether a message has a body that changes are meant for.
#[must_use]
pub fn fit(lines: &Lines<'_>, framing: Framing) -> Fit {
    let kind = lines.fields.first(lines.bytes, Known::ContentType);
    if framing == Framing::None || !kind.is_some_and(is_json) {
        return Fit::Other;
    }
    let coding = lines.fields.first(lines.bytes, Known::ContentEncoding);
    match coding {
        None => Fit::Json,
        Some(coding) if coding.eq_ignore_ascii_case(b"identity") => Fit::Json,
        Some(_) => Fit::Encoded,
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
        let site = std::rc::Rc::clone(&self.site);
        let chain = site.chain(Some(errand.route));
        let max = site.rules.body_max(chain);
        if errand.expects {
            // The body is wanted, whatever the server will say of it.
            let sent = self.stream.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            sent.map_err(|_| Err(Reason::ClientReset))?;
        }
        let body = self.body_of(errand);
        let timeout = errand.timeouts.body;
        let max = errand.gate.body_max().map_or(max, |own| own.min(max));
        let shell = Rc::clone(self.office.shell());
        let reading = whole(&mut self.stream, &mut self.inbox, body, max, &mut account.bytes_in);
        // Gaps are not told apart from a slow whole: it is small.
        let Ok(body) = shell.timeout(shell.now() + timeout, reading).await else {
            return Err(Err(Reason::ClientTimeout));
        };
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

    /// The answer's body, changed.
    ///
    /// # Errors
    /// Why the answer is of no use.
    pub(super) async fn changed_answer(
        &mut self,
        errand: &Errand,
        upstream: &mut Upstream<D>,
        inbox: &mut Inbox,
        head: &ResponseHead,
    ) -> Result<Vec<u8>, Reason> {
        let site = std::rc::Rc::clone(&self.site);
        let chain = site.chain(Some(errand.route));
        let max = site.rules.body_max(chain);
        let body = Body::new(head.framing, &site.limits.of_answers());
        let shell = Rc::clone(self.office.shell());
        let mut read = 0;
        let reading = whole(&mut upstream.stream, inbox, body, max, &mut read);
        let body = shell.timeout(shell.now() + errand.timeouts.body, reading).await;
        let body = body.map_err(|_| Reason::RequestTimeout)?;
        let changes = site.rules.answer_changes(chain);
        body.and_then(|body| changed(body, changes)).map_err(|_| Reason::BadUpstream)
    }
}

/// All of a body of at most `max` bytes; those that were there are added to `read`, also of one
/// that is too large.
async fn whole<D: Driver>(
    from: &mut Stream<D>,
    inbox: &mut Inbox,
    mut body: Body,
    max: u64,
    read: &mut u64,
) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    while !body.is_done() {
        let piece = body.next(inbox.bytes()).map_err(Failed::Malformed)?;
        *read += piece.payload.len() as u64;
        if (bytes.len() + piece.payload.len()) as u64 > max {
            return Err(Failed::TooLarge);
        }
        bytes.extend_from_slice(&inbox.bytes()[piece.payload.clone()]);
        inbox.consume(piece.consumed);
        if piece.end {
            break;
        }
        if piece.consumed > 0 && !inbox.is_empty() {
            continue;
        }
        match from.recv(inbox).await {
            Ok(1..) => {}
            Ok(0) => {
                body.close().map_err(Failed::Malformed)?;
                break;
            }
            Err(StreamError::Tls) => return Err(Failed::Gone(Reason::TlsFailed)),
            Err(_) => return Err(Failed::Gone(Reason::ClientReset)),
        }
    }
    Ok(bytes)
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
pub fn changes_answer(fields: &Fields, bytes: &[u8], head: &ResponseHead) -> Fit {
    fit(&Lines { bytes, fields }, head.framing)
}
