//! What the plan says about TLS and HTTP: the second half of [`plan`](super::plan), which
//! re-exports all of it.
//!
//! Owns no behaviour. Files are named, not read: what is in them is looked at when the
//! configuration is checked, and again by whoever uses or watches them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sluicegate_l7::policy::chain::Mention;
use sluicegate_l7::route::spec::{CompressionSpec, RouteSpec};

use super::plan::Secret;

/// Where certificates and keys come from: a file, watched, or a text (`env:`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    File(PathBuf),
    Text(Secret),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTls {
    /// The first one is the default. Never empty.
    pub certs: Vec<CertEntry>,
    pub version_min: TlsVersion,
    pub alpn: Vec<String>,
    /// An unknown or missing name gets an alert instead of the default certificate.
    pub strict_sni: bool,
    /// Answer PostgreSQL's SSLRequest first.
    pub starttls_postgres: bool,
    /// What of a verified client's certificate servers are told.
    pub client_cert_headers: Vec<ClientCertField>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertEntry {
    pub cert: Pem,
    pub key: Pem,
    /// Empty: the names in the certificate. Lower case; `*.example.com` is one label.
    pub names: Vec<String>,
    /// The listener's, unless the entry has its own.
    pub client_ca: Option<Pem>,
    pub client_auth: ClientAuth,
    pub client_crl: Option<Pem>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    Off,
    Request,
    Require,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertField {
    Subject,
    San,
    Fingerprint,
}

/// TLS towards the servers of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTls {
    pub verify: Verify,
    /// `None`: the `dns:` name or the address is verified.
    pub sni: Option<String>,
    pub client: Option<(Pem, Pem)>,
    /// Send PostgreSQL's SSLRequest first.
    pub starttls_postgres: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    System,
    File(PathBuf),
    Insecure,
}

/// What `mode = "http"` adds to a listener.
#[derive(Clone, Debug)]
pub struct HttpListener {
    /// In file order; a listener's `pool` is the last one, for all requests, and named "".
    pub routes: Vec<RouteSpec>,
    pub trusted_proxies: Vec<IpNet>,
    pub limits: HttpLimits,
    pub compression: Option<CompressionSpec>,
    /// Own bodies for answers that the gateway makes.
    pub errors: Vec<ErrorPage>,
    /// Gateway headers of clients that are spared.
    pub keep_headers: Vec<String>,
    pub timeouts: HttpTimeouts,
    /// For every route.
    pub policies: Vec<Mention>,
    /// Clients are told how long policies and servers took.
    pub server_timing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    pub header_bytes_max: u32,
    pub headers_max: u16,
    pub uri_bytes_max: u32,
    /// Open streams of one HTTP/2 connection.
    pub streams_max: u32,
    /// HTTP/2 by prior knowledge on a listener without TLS.
    pub h2c: bool,
    /// `%2F` in a path is kept as it is, else it is a bad request.
    pub encoded_slash_keep: bool,
    /// Header names with `_` go on, else they are dropped.
    pub underscores_keep: bool,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 << 10,
            headers_max: 128,
            uri_bytes_max: 16 << 10,
            streams_max: 100,
            h2c: true,
            encoded_slash_keep: false,
            underscores_keep: false,
        }
    }
}

/// `errors = { 503 = { … } }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    pub status: u16,
    pub body: String,
    pub content_type: String,
}

/// The timeouts of HTTP and TLS, all filled in (listener > `[defaults]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    pub header: Duration,
    pub request: Duration,
    pub body: Duration,
    /// Between requests of a client.
    pub keepalive: Duration,
    /// A whole request, body and answer included.
    pub total: Option<Duration>,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            request: Duration::from_secs(60),
            body: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            total: None,
        }
    }
}

/// What a pool says of its own; `None`: the listener's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpTimeoutOverrides {
    pub header: Option<Duration>,
    pub request: Option<Duration>,
    pub body: Option<Duration>,
    pub keepalive: Option<Duration>,
    /// `Some(None)`: said to be off here.
    pub total: Option<Option<Duration>>,
}

impl HttpTimeoutOverrides {
    /// `self` where it says something, else `below`.
    #[must_use]
    pub fn over(&self, below: HttpTimeouts) -> HttpTimeouts {
        HttpTimeouts {
            header: self.header.unwrap_or(below.header),
            request: self.request.unwrap_or(below.request),
            body: self.body.unwrap_or(below.body),
            keepalive: self.keepalive.unwrap_or(below.keepalive),
            total: self.total.unwrap_or(below.total),
        }
    }
}

/// How servers of a pool are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    H2,
    H2c,
}

/// What a pool with `balance = "maglev"` goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address, which also stands in for what a request does not have.
    #[default]
    Ip,
    /// Lower case.
    Header(Arc<str>),
    Cookie(Arc<str>),
    Consumer,
    Path,
}

/// Unused connections to the servers of a pool, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    pub idle_max: u32,
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle_max: 32, timeout: Duration::from_secs(30) }
    }
}
