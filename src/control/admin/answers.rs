//! Answers of the admin API: what they are made of, and the forms that several routes share.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use super::places::Busy;
use super::stream::EventStream;

pub(super) type Answer = Response<Content>;

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// The body of an answer. Its connection is busy until it is sent.
#[derive(Debug)]
pub(super) struct Content {
    kind: Kind,
    busy: Option<Busy>,
}

#[derive(Debug)]
enum Kind {
    Whole(Bytes),
    Events(EventStream),
}

impl Content {
    pub fn keep(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match &mut self.get_mut().kind {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes))),
            Kind::Events(stream) => stream.poll_next(cx),
        };
        frame.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Events(_) => SizeHint::default(),
        }
    }
}

fn of(status: StatusCode, media: &'static str, kind: Kind) -> Answer {
    let mut answer = Response::new(Content { kind, busy: None });
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn text(status: StatusCode, media: &'static str, body: String) -> Answer {
    of(status, media, Kind::Whole(body.into()))
}

pub(super) fn events(stream: EventStream) -> Answer {
    let mut answer = of(StatusCode::OK, "text/event-stream", Kind::Events(stream));
    // A proxy before us must not collect events.
    answer.headers_mut().insert("X-Accel-Buffering", HeaderValue::from_static("no"));
    answer
}

/// `{"error":"…","detail":"…"}`.
pub(super) fn error(status: StatusCode, error: &str, detail: &str) -> Answer {
    let body = serde_json::json!({ "error": error, "detail": detail });
    text(status, JSON, body.to_string() + "\n")
}

/// An error after which nothing more is read: there may be a body that nobody wants.
pub(super) fn last_error(status: StatusCode, code: &str, detail: &str) -> Answer {
    let mut answer = error(status, code, detail);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

pub(super) fn unauthorized() -> Answer {
    let detail = "a token is needed: Authorization: Bearer …";
    let mut answer = error(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

pub(super) fn busy(detail: &str) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}
