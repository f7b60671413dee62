//! Questions to the admin API, over TCP, TLS or a unix socket.

use std::fmt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::plan::{Pem, PoolTls, Verify};
use crate::tls::upstream::{ClientTls, server_name};

/// Status waits up to 500 ms for its workers; a machine under load needs a little more.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest answer read: the status of 16,384 servers.
const BODY_MAX: usize = 64 * 1_024 * 1_024;

/// Where the admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum AdminUrl {
    /// `host:port`.
    Http(String),
    /// The same under TLS.
    Https(String),
    Unix(PathBuf),
}

impl AdminUrl {
    /// # Errors
    /// What is wrong with it, and what it should look like.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "`{text}` {what}; the admin API is http://HOST:PORT, https://HOST:PORT or unix:/path"
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(wrong("has no path"))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let (rest, secure) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => {
                return Err(wrong("begins with none of http://, https:// and unix:"));
            }
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
        Ok(if secure { Self::Https(authority.into()) } else { Self::Http(authority.into()) })
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whom to ask, and how to be let in.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Target {
    pub url: AdminUrl,
    pub token: Option<String>,
    /// With TLS: whom to believe, if not the authorities of this machine.
    pub ca: Option<PathBuf>,
    /// With TLS: our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// What to connect with under TLS, and the name to find there.
    fn tls(&self) -> Result<Option<(TlsConnector, ServerName<'static>)>, String> {
        let AdminUrl::Https(authority) = &self.url else { return Ok(None) };
        let plan = PoolTls {
            verify: self.ca.clone().map_or(Verify::System, Verify::File),
            sni: None,
            client: self.client.clone().map(|(cert, key)| (Pem::File(cert), Pem::File(key))),
            starttls_postgres: false,
        };
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
        let name = server_name(host.trim_matches(['[', ']'])).map_err(|error| error.to_string())?;
        let tls = ClientTls::new(&plan, &[]).map_err(|error| error.to_string())?;
        let (config, name) = tls.for_check(name);
        Ok(Some((TlsConnector::from(config), name)))
    }
}

/// Asks one instance, one thing after another.
pub(in crate::cli) struct Client {
    pub url: AdminUrl,
    token: Option<String>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// # Errors
    /// A file for TLS that cannot be used, or no descriptors left.
    pub fn new(target: Target) -> Result<Self, String> {
        let tls = target.tls()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        Ok(Self { url: target.url, token: target.token, tls, runtime })
    }

    /// The body of a 200 answer.
    ///
    /// # Errors
    /// A sentence that names the address and what to do.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        self.send(Method::GET, path, None)
    }

    /// The same with JSON that changes something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Vec<u8>, String> {
        let (status, body) = self.exchange(method, path, body, DEADLINE)?;
        self.judge(status, &body)?;
        Ok(body)
    }

    /// Asks for another state of a server: `drain`, `ready` or `maint`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn change(&self, pool: &str, server: &str, state: &str) -> Result<(), String> {
        let path = format!("/v1/pools/{pool}/servers/{server}");
        let body = serde_json::json!({ "state": state });
        self.send(Method::PATCH, &path, Some(&body)).map(drop)
    }

    /// Whatever is answered within `deadline`.
    ///
    /// # Errors
    /// A sentence that names the address, when nothing is.
    pub fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        deadline: Duration,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let asked = async {
            let mut answer = self.ask(method, path, body).await?;
            let body = Limited::new(answer.response.body_mut(), BODY_MAX).collect();
            let body = answer.connection.drive(body).await.map_err(|error| error.to_string())?;
            Ok((answer.response.status(), body.to_bytes().to_vec()))
        };
        let asked = self.runtime.block_on(async { timeout(deadline, asked).await });
        asked
            .unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
            .map_err(|error| format!("{} cannot be asked: {error}", self.url))
    }

    /// Gives every line of an answer that goes on to `each`, until it says that it is enough.
    ///
    /// # Errors
    /// As [`Client::get`]; also when the answer ends.
    pub fn follow(&self, path: &str, each: impl FnMut(&str) -> bool) -> Result<(), String> {
        self.runtime.block_on(async {
            let asked = timeout(DEADLINE, self.ask(Method::GET, path, None)).await;
            let mut answer = asked
                .unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")))
                .map_err(|error| format!("{} cannot be asked: {error}", self.url))?;
            if answer.response.status() != StatusCode::OK {
                let body = Limited::new(answer.response.body_mut(), BODY_MAX).collect();
                let body = answer.connection.drive(timeout(DEADLINE, body)).await;
                let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
                return self.judge(answer.response.status(), &body.unwrap_or_default());
            }
            self.lines(answer, each).await
        })
    }

    async fn lines(
        &self,
        mut answer: Asked,
        mut each: impl FnMut(&str) -> bool,
    ) -> Result<(), String> {
        let mut text = Vec::new();
        loop {
            let frame = answer.connection.drive(answer.response.body_mut().frame()).await;
            let Some(Ok(frame)) = frame else {
                return Err(format!("{} ended the stream", self.url));
            };
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if !each(String::from_utf8_lossy(&line).trim_end()) {
                    return Ok(());
                }
            }
            if text.len() > BODY_MAX {
                return Err(format!("{} sends a line without an end", self.url));
            }
        }
    }

    /// An answer in the shape that this version knows.
    ///
    /// # Errors
    /// When it has another one.
    pub fn read<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, String> {
        serde_json::from_slice(body)
            .map_err(|error| format!("{} answered something unexpected: {error}", self.url))
    }

    /// Waits, between two questions.
    pub fn pause(&self, span: Duration) {
        // Made inside: a timer belongs to the runtime it is made on.
        self.runtime.block_on(async { tokio::time::sleep(span).await });
    }

    /// What to tell a person about an answer that is not the one asked for.
    ///
    /// # Errors
    /// A sentence that names the address.
    pub fn judge(&self, status: StatusCode, body: &[u8]) -> Result<(), String> {
        let url = &self.url;
        let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let detail = json.as_ref().and_then(|json| json.get("detail")?.as_str());
        match (status, detail) {
            (StatusCode::OK, _) => Ok(()),
            (StatusCode::UNAUTHORIZED, _) if self.token.is_some() => Err(format!(
                "{url} does not take this token: give `admin.token` with --token or SLUICEGATE_TOKEN"
            )),
            (StatusCode::UNAUTHORIZED, _) => {
                Err(format!("{url} wants a token: give it with --token or SLUICEGATE_TOKEN"))
            }
            (StatusCode::FORBIDDEN, Some(detail)) => {
                Err(format!("{url}: {detail}; give `admin.token` with --token or SLUICEGATE_TOKEN"))
            }
            (_, Some(detail)) => Err(format!("{url}: {detail}")),
            (other, None) => {
                Err(format!("{url} answered {other}: {}", String::from_utf8_lossy(body).trim()))
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Asked, String> {
        let host = match &self.url {
            AdminUrl::Http(authority) | AdminUrl::Https(authority) => authority.as_str(),
            AdminUrl::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request
            .body(Full::new(body))
            .map_err(|_| "the token has characters that cannot be sent".to_owned())?;
        let hint = "is it running, with an [admin] section?";
        match &self.url {
            AdminUrl::Http(authority) | AdminUrl::Https(authority) => {
                let stream = TcpStream::connect(authority.as_str()).await;
                let stream = stream.map_err(|error| format!("{error}; {hint}"))?;
                let Some((connector, name)) = &self.tls else {
                    return exchange(stream, request).await;
                };
                let secured = connector.connect(name.clone(), stream).await;
                let secured = secured.map_err(|error| {
                    format!("no TLS: {error}; whom to believe says --ca or SLUICEGATE_ADMIN_CA")
                })?;
                exchange(secured, request).await
            }
            AdminUrl::Unix(socket) => {
                let stream = UnixStream::connect(socket).await;
                exchange(stream.map_err(|error| format!("{error}; {hint}"))?, request).await
            }
        }
    }
}

/// An answer whose body is still to come.
struct Asked {
    response: Response<Incoming>,
    connection: Connection,
}

/// It moves only while it is polled, so it is polled beside whatever waits for it.
struct Connection(Pin<Box<dyn Future<Output = std::convert::Infallible>>>);

impl Connection {
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            // Never ready: once it has ended, `work` learns so from its own end.
            let _ = self.0.as_mut().poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Asked, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let ended = async {
        // What went wrong the answer's side says.
        let _ = connection.await;
        std::future::pending().await
    };
    let mut connection = Connection(Box::pin(ended));
    let response = connection.drive(sender.send_request(request)).await;
    Ok(Asked { response: response.map_err(|error| error.to_string())?, connection })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_with_a_port_or_a_unix_path() {
        let http = |text: &str| Ok(AdminUrl::Http(text.into()));
        assert_eq!(AdminUrl::parse("http://127.0.0.1:9901"), http("127.0.0.1:9901"));
        assert_eq!(AdminUrl::parse("http://[::1]:9901/"), http("[::1]:9901"));
        let https = Ok(AdminUrl::Https("a:1".into()));
        assert_eq!(AdminUrl::parse("https://a:1/"), https);
        assert_eq!(AdminUrl::parse("unix:/run/sg.sock"), Ok(AdminUrl::Unix("/run/sg.sock".into())));
        for wrong in [
            "",
            "unix:",
            "https://a",
            "ftp://a:1",
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
        let target = Target { url, token: None, ca: None, client: None };
        let error = Client::new(target).unwrap().get("/v1/status").unwrap_err();
        assert!(error.contains("no.sock") && error.contains("is it running"), "{error}");
    }
}
