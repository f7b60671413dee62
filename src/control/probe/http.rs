//! The `http` check: a request must get an expected status and, if asked for, a body that
//! contains a text.

use std::ops::RangeInclusive;
use std::time::Instant;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::{Failure, Stream, ms};
use crate::config::plan::HttpCheck;

/// How much of the body is searched. A health page is short; a large one is not read to the
/// end every two seconds.
const BODY_MAX: usize = 64 * 1_024;

pub(super) async fn ask(
    stream: impl Stream + 'static,
    check: &HttpCheck,
    host: &str,
    started: Instant,
) -> Result<String, Failure> {
    let request = request(check, host)?;
    exchange(stream, request, async |response| judge(response, check, started).await).await
}

/// One request on a connection of its own; `read` makes something of the answer while it comes.
pub(in crate::control) async fn exchange<T>(
    stream: impl Stream + 'static,
    request: Request<Empty<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        read(response).await
    };
    // The connection moves only while it is polled; when it ends, the exchange knows why.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = exchange => result,
        () = drive => Err(Failure::server("closed before it answered")),
    }
}

fn request(check: &HttpCheck, host: &str) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = check.host.as_deref().unwrap_or(host);
    // `check` has refused what cannot be sent; if something slipped through, it is ours.
    let ours = |error: String| Failure::Ours(format!("the check cannot be sent: {error}"));
    let mut request = Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, "sluicegate-check")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| ours(error.to_string()))?;
    for (name, value) in &check.headers {
        let name = HeaderName::try_from(name).map_err(|error| ours(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| ours(error.to_string()))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn judge(
    response: Response<Incoming>,
    check: &HttpCheck,
    started: Instant,
) -> Result<String, Failure> {
    let status = response.status().as_u16();
    if !check.expect.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Server(format!(
            "status {status}, expected {}",
            ranges(&check.expect)
        )));
    }
    if let Some(text) = &check.body {
        let body = beginning(response.into_body(), BODY_MAX).await?;
        if !body.windows(text.len().max(1)).any(|window| window == text.as_bytes()) {
            return Err(Failure::Server(format!("status {status}, but no {text:?} in the body")));
        }
    }
    Ok(format!("status {status} in {}", ms(started.elapsed())))
}

/// At most the first `bytes_max` bytes of a body.
pub(in crate::control) async fn beginning(
    mut incoming: Incoming,
    bytes_max: usize,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            let room = bytes_max - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
        }
        if body.len() == bytes_max {
            break;
        }
    }
    Ok(body)
}

/// `200-399, 404`.
fn ranges(expect: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    expect.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` hands it over
fn broken(error: hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Failure::server("closed before it answered")
    } else if error.is_parse() {
        Failure::server("answered something that is not HTTP")
    } else {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Failure::Server(cause.unwrap_or_else(|| error.to_string()))
    }
}
