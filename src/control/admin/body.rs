//! Bodies of requests: JSON, bounded, and read only when a route wants one.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
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
    // Whatever type it says: a page of another origin cannot send a PATCH without asking first, and
    // the guard has looked at Host and Origin.
    let body = request.into_body();
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

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn a_body_is_read_for_what_it_is_whatever_type_it_says() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for media in ["", "application/json", "application/x-www-form-urlencoded", "text/plain"] {
            let ask = |text: &'static str| {
                let request = Request::patch("/").header(CONTENT_TYPE, media);
                let body = Full::new(Bytes::from_static(text.as_bytes()));
                let read = runtime.block_on(json(request.body(body).unwrap()));
                read.map_or_else(|answer| answer.status(), |_| StatusCode::OK)
            };
            assert_eq!(ask("{}"), StatusCode::OK, "{media}");
            assert_eq!(ask("state=drain"), StatusCode::BAD_REQUEST, "{media}");
        }
    }
}
