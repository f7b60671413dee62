//! What the admin API answers.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use super::page;
use crate::control::instance::{Instance, Phase};
use crate::observe::metrics;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) async fn answer<B>(request: &Request<B>, instance: &Arc<Instance>) -> Answer {
    let path = request.uri().path();
    if !matches!(path, "/" | "/healthz" | "/readyz" | "/metrics" | "/v1/status") {
        return error(
            StatusCode::NOT_FOUND,
            "not-found",
            "see /, /v1/status, /metrics, /healthz, /readyz",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET is served here");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/" => page::answer(),
        "/healthz" => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
        "/readyz" => ready(instance.phase()),
        "/metrics" => rendered(instance, metrics::CONTENT_TYPE, Instance::metrics).await,
        _ => rendered(instance, "application/json", status).await,
    }
}

fn status(instance: &Instance) -> String {
    // Strings and numbers only: it always serialises.
    serde_json::to_string(&instance.status()).unwrap_or_default() + "\n"
}

/// Asking the workers blocks, and rendering takes its time.
async fn rendered(
    instance: &Arc<Instance>,
    kind: &'static str,
    render: fn(&Instance) -> String,
) -> Answer {
    let instance = instance.clone();
    match tokio::task::spawn_blocking(move || render(&instance)).await {
        Ok(body) => text(StatusCode::OK, kind, body),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "rendering failed"),
    }
}

fn ready(phase: Phase) -> Answer {
    let plain = "text/plain; charset=utf-8";
    match phase {
        Phase::Ready => text(StatusCode::OK, plain, "ready\n".into()),
        Phase::Starting => text(StatusCode::SERVICE_UNAVAILABLE, plain, "starting\n".into()),
        Phase::Draining | Phase::Stopped => {
            text(StatusCode::SERVICE_UNAVAILABLE, plain, "draining\n".into())
        }
    }
}

pub(super) fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// `{"error":"…","detail":"…"}`.
pub(super) fn error(status: StatusCode, error: &str, detail: &str) -> Answer {
    let body = serde_json::json!({ "error": error, "detail": detail });
    text(status, "application/json", body.to_string())
}

pub(super) fn unauthorized() -> Answer {
    let detail = "a token is needed: Authorization: Bearer …";
    let mut answer = error(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}
