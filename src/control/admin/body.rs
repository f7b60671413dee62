//! Bodies of requests: JSON, bounded, and read only when a route wants one.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::answers::{Answer, error, last_error};

/// The longest body: a change of one server is a hundred bytes, and no route takes much more.
const BODY_MAX: usize = 64 << 10;

/// Time for a body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The JSON that a request carries.
///
/// # Errors
/// The answer to give instead.
pub(super) async fn json<B>(request: Request<B>) -> Result<serde_json::Value, Answer>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media.and_then(|media| media.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        // Forms of other people's pages can send three types without being asked, not this one.
        return Err(last_error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "the body must be JSON: Content-Type: application/json",
        ));
    }
    let too_large = || {
        let detail = format!("a body has at most {BODY_MAX} bytes");
        last_error(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &detail)
    };
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect());
    let bytes = match collected.await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            return Err(last_error(StatusCode::BAD_REQUEST, "bad-request", "the body broke off"));
        }
        Err(_) => {
            let detail = "the body did not come in time";
            return Err(last_error(StatusCode::REQUEST_TIMEOUT, "timeout", detail));
        }
    };
    serde_json::from_slice(&bytes).map_err(|problem| {
        let detail = format!("the body is not JSON: {problem}");
        error(StatusCode::BAD_REQUEST, "bad-request", &detail)
    })
}
