//! One request to the admin API, over TCP or a unix socket.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Status waits up to 500 ms for its workers; a machine under load needs a little more.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest answer read: the status of 16,384 servers.
const BODY_MAX: usize = 64 * 1_024 * 1_024;

/// Where the admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum AdminUrl {
    /// `host:port`.
    Http(String),
    Unix(PathBuf),
}

impl AdminUrl {
    /// # Errors
    /// What is wrong with it, and what it should look like.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("`{text}` {what}; the admin API is http://HOST:PORT or unix:/path")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(wrong("has no path"))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(wrong("begins with neither http:// nor unix:"));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains('/') {
            return Err(wrong("is not an address alone"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port || authority.ends_with(']') {
            return Err(wrong("has no port"));
        }
        Ok(Self::Http(authority.into()))
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The body of a 200 answer.
///
/// # Errors
/// A sentence that names the address and what to do.
pub(in crate::cli) fn get(
    url: &AdminUrl,
    path: &str,
    token: Option<&str>,
) -> Result<Vec<u8>, String> {
    send(url, Method::GET, path, token, Bytes::new())
}

/// Asks for another state of a server: `drain`, `ready` or `maint`.
///
/// # Errors
/// As [`get`], with what the API says against it.
pub(in crate::cli) fn change(
    url: &AdminUrl,
    token: Option<&str>,
    pool: &str,
    server: &str,
    state: &str,
) -> Result<(), String> {
    let path = format!("/v1/pools/{pool}/servers/{server}");
    let body = serde_json::json!({ "state": state }).to_string();
    send(url, Method::PATCH, &path, token, body.into()).map(drop)
}

fn send(
    url: &AdminUrl,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Full::new(body))
        .map_err(|_| "the token has characters that cannot be sent".to_owned())?;
    let asked = runtime.block_on(async { tokio::time::timeout(DEADLINE, ask(url, request)).await });
    let (status, body) = asked
        .unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")))
        .map_err(|error| format!("{url} cannot be asked: {error}"))?;
    match status {
        status if status.is_success() => Ok(body),
        StatusCode::UNAUTHORIZED => {
            Err(format!("{url} wants a token: give it with --token or SLUICEGATE_TOKEN"))
        }
        other => Err(format!("{url} answered {other}: {}", String::from_utf8_lossy(&body).trim())),
    }
}

async fn ask(
    url: &AdminUrl,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Vec<u8>), String> {
    let hint = "is it running, with an [admin] section?";
    match url {
        AdminUrl::Http(authority) => {
            let stream = TcpStream::connect(authority.as_str()).await;
            let stream = stream.map_err(|error| format!("{error}; {hint}"))?;
            exchange(stream, authority, request).await
        }
        AdminUrl::Unix(socket) => {
            let stream = UnixStream::connect(socket).await;
            let stream = stream.map_err(|error| format!("{error}; {hint}"))?;
            exchange(stream, "localhost", request).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Vec<u8>), String> {
    let host = HeaderValue::from_str(host).map_err(|_| format!("`{host}` is no host"))?;
    request.headers_mut().insert(HOST, host);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body.to_vec()))
    };
    // The connection moves only while it is polled.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = drive => Err("it closed the connection".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_with_a_port_or_a_unix_path() {
        let http = |text: &str| Ok(AdminUrl::Http(text.into()));
        assert_eq!(AdminUrl::parse("http://127.0.0.1:9901"), http("127.0.0.1:9901"));
        assert_eq!(AdminUrl::parse("http://[::1]:9901/"), http("[::1]:9901"));
        assert_eq!(AdminUrl::parse("unix:/run/sg.sock"), Ok(AdminUrl::Unix("/run/sg.sock".into())));
        for wrong in [
            "",
            "unix:",
            "https://a:1",
            "127.0.0.1:9901",
            "http://a",
            "http://a:1/x",
            "http://[::1]",
        ] {
            assert!(AdminUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_there_is_a_sentence_with_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let url = AdminUrl::Unix(dir.path().join("no.sock"));
        let error = get(&url, "/v1/status", None).unwrap_err();
        assert!(error.contains("no.sock") && error.contains("is it running"), "{error}");
    }
}
