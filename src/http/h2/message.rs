//! One message of an HTTP/2 connection, seen as an HTTP/1 connection of its own.
//!
//! ```text
//!  client ═HTTP/2═ ServerMessage ═▶ session (HTTP/1's form) ═▶ an HTTP/1 server
//!                                                    └───────▶ ClientMessage ═HTTP/2═ server
//! ```
//!
//! So a request is judged, forwarded, retried, compressed and accounted for by the one code,
//! whatever speaks HTTP/2 on either side. What it costs is a chunk's head per frame of data and
//! one more copy; what it saves is a second set of rules.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use super::body::{Incoming, Outgoing, stream_error};
use super::head::{self, Form, Framed};
use super::upstream::{Line, Ticket};
use crate::runtime::driver::Driver;
use crate::runtime::tasks::{Inbox, Shell};
use crate::stream::{Message, StreamError};

/// A client's request, and what answers it.
pub struct ServerMessage<D: Driver> {
    shell: Rc<Shell<D>>,
    incoming: Incoming,
    is_head: bool,
    answer: Answer,
}

enum Answer {
    Head(SendResponse<Bytes>),
    Body(Outgoing),
}

impl<D: Driver> ServerMessage<D> {
    /// `form` is how the request's body goes on, as its head said.
    pub fn new(
        shell: Rc<Shell<D>>,
        body: RecvStream,
        form: Form,
        is_head: bool,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let incoming = Incoming::new(body, form);
        Self { shell, incoming, is_head, answer: Answer::Head(respond) }
    }

    fn send_head(&mut self, bytes: &[u8]) -> Result<usize, StreamError> {
        let Answer::Head(respond) = &mut self.answer else { return Err(StreamError::Reset) };
        let Some((answer, framed, len)) = head::read_answer(bytes) else {
            debug_assert!(false, "our own head: {}", bytes.escape_ascii());
            return Err(StreamError::Reset);
        };
        let status = answer.status();
        if status.is_informational() {
            respond.send_informational(answer).map_err(|error| stream_error(&error))?;
            return Ok(len);
        }
        let bodiless = self.is_head || matches!(status.as_u16(), 204 | 304);
        let ends = bodiless || matches!(framed, Framed::Not | Framed::Length(0));
        let sent = respond.send_response(answer, ends).map_err(|error| stream_error(&error))?;
        let framed = if ends { Framed::Not } else { framed };
        self.answer = Answer::Body(Outgoing::new(sent, framed));
        Ok(len)
    }
}

impl<D: Driver> fmt::Debug for ServerMessage<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerMessage").finish_non_exhaustive()
    }
}

impl<D: Driver> Message for ServerMessage<D> {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        self.incoming.poll(cx, &self.shell, inbox)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        match &mut self.answer {
            Answer::Head(_) => Poll::Ready(self.send_head(bytes)),
            Answer::Body(body) => body.poll_send(cx, bytes),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Answer::Head(respond) => respond.poll_reset(cx).map(drop),
            Answer::Body(body) if !body.has_ended() => body.poll_reset(cx),
            Answer::Body(_) => Poll::Pending,
        }
    }

    fn abort(&mut self) {
        match &mut self.answer {
            Answer::Head(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Body(body) => body.reset(Reason::INTERNAL_ERROR),
        }
    }
}

/// A request to a server, and its answer.
pub struct ClientMessage<D: Driver> {
    shell: Rc<Shell<D>>,
    line: Rc<Line>,
    /// Counts the request on its line.
    _ticket: Ticket,
    request: Request,
    answer: Option<Reply>,
    /// Why it could not be asked.
    failed: Option<StreamError>,
    is_head: bool,
}

enum Request {
    Head(SendRequest<Bytes>),
    Body(Outgoing),
}

enum Reply {
    Head(ResponseFuture),
    Body(Incoming),
}

impl<D: Driver> ClientMessage<D> {
    pub fn new(shell: Rc<Shell<D>>, line: Rc<Line>, sender: SendRequest<Bytes>) -> Self {
        let ticket = Ticket::new(&line);
        let request = Request::Head(sender);
        Self { shell, line, _ticket: ticket, request, answer: None, failed: None, is_head: false }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let Request::Head(sender) = &mut self.request else {
            return Poll::Ready(Err(StreamError::Reset));
        };
        if ready!(sender.poll_ready(cx)).is_err() {
            return Poll::Ready(Err(self.refuse()));
        }
        let Some((request, framed, len)) = head::read_request(bytes, self.line.scheme) else {
            return Poll::Ready(Err(*self.failed.insert(StreamError::Unsayable)));
        };
        self.is_head = request.method() == http::Method::HEAD;
        let ends = matches!(framed, Framed::Not | Framed::Length(0));
        let Ok((answer, body)) = sender.send_request(request, ends) else {
            return Poll::Ready(Err(self.refuse()));
        };
        self.answer = Some(Reply::Head(answer));
        self.request = Request::Body(Outgoing::new(body, if ends { Framed::Not } else { framed }));
        Poll::Ready(Ok(len))
    }

    /// An error before the request is on its way is none of the request's.
    fn refuse(&mut self) -> StreamError {
        self.line.close();
        *self.failed.insert(StreamError::Refused)
    }

    /// The answer's head, or an interim one, into `inbox`.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        let Some(Reply::Head(answer)) = &mut self.answer else { return Poll::Pending };
        let mut head = Vec::new();
        if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            let written = head::write_answer(&interim, true, true, &mut head);
            if written.is_err() {
                return Poll::Ready(Err(StreamError::Reset));
            }
            return Poll::Ready(self.push(inbox, &head));
        }
        let answer = match ready!(Pin::new(answer).poll(cx)) {
            Ok(answer) => answer,
            Err(error) => {
                if error.is_go_away() || error.is_io() {
                    self.line.close();
                }
                let unseen = self.is_unseen(&error);
                let error = if unseen { StreamError::Refused } else { stream_error(&error) };
                return Poll::Ready(Err(error));
            }
        };
        let ends = answer.body().is_end_stream();
        let Ok(form) = head::write_answer(&answer, ends, self.is_head, &mut head) else {
            return Poll::Ready(Err(StreamError::TooLarge));
        };
        self.answer = Some(Reply::Body(Incoming::new(answer.into_body(), form)));
        Poll::Ready(self.push(inbox, &head))
    }

    /// The server has said goodbye before it came to this request.
    fn is_unseen(&self, error: &h2::Error) -> bool {
        let Some(Reply::Head(answer)) = &self.answer else { return false };
        error.is_go_away() && self.line.is_behind_last(answer.stream_id().as_u32())
    }

    fn push(&self, inbox: &mut Inbox, bytes: &[u8]) -> Result<usize, StreamError> {
        if !self.shell.reserve(inbox, bytes.len()) {
            return Err(StreamError::TooLarge);
        }
        inbox.push(bytes);
        Ok(bytes.len())
    }
}

impl<D: Driver> fmt::Debug for ClientMessage<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMessage").finish_non_exhaustive()
    }
}

impl<D: Driver> Message for ClientMessage<D> {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
    ) -> Poll<Result<usize, StreamError>> {
        match &mut self.answer {
            None => match self.failed {
                Some(failed) => Poll::Ready(Err(failed)),
                // Nothing is asked yet.
                None => Poll::Pending,
            },
            Some(Reply::Head(_)) => self.poll_answer(cx, inbox),
            Some(Reply::Body(body)) => body.poll(cx, &self.shell, inbox),
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        match &mut self.request {
            Request::Head(_) => self.poll_head(cx, bytes),
            Request::Body(body) => body.poll_send(cx, bytes),
        }
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // A server that gives a request up may have answered it first.
        Poll::Pending
    }

    fn lives_on(&self) -> bool {
        !self.line.is_closed()
    }

    fn abort(&mut self) {
        if let Request::Body(body) = &mut self.request {
            body.reset(Reason::CANCEL);
        }
    }
}
