//! Active health checks: what is asked of a server, and what its answer means.
//!
//! A probe connects the way the traffic does (source address, PROXY header, TLS) and then speaks
//! a few words. It says nothing about up or down; that is `health::Health`. Each kind is one
//! file with one function.
//!
//! To add one: write `probe/<name>.rs` with an `ask`, add the variant to [`CheckKind`], an arm in
//! [`speak`], and its word and keys to the table of `check` in `config/table.rs`.

pub(super) mod connect;
pub(super) mod http;
mod postgres;
mod redis;
pub(super) mod secure;
mod tcp;

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::config::plan::{Check, CheckKind, SendProxy};
use crate::l4::proxy_protocol::Header;
use crate::net::Endpoint;
use crate::tls::upstream::ClientTls;

/// Why a probe did not pass, by whose fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server's: counts.
    Server(String),
    /// Ours, such as no free port or descriptor: says nothing about the server.
    Ours(String),
}

impl Failure {
    pub(super) fn server(text: impl Display) -> Self {
        Self::Server(text.to_string())
    }
}

/// What a probe needs to know about the server and its pool.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub address: &'a Endpoint,
    pub check: &'a Check,
    /// The Host of requests, unless the check says another.
    pub host: &'a str,
    pub send_proxy: SendProxy,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// The server speaks TLS to whoever comes.
    pub tls: Option<TargetTls<'a>>,
}

/// TLS towards the server.
#[derive(Clone, Copy, Debug)]
pub struct TargetTls<'a> {
    pub tls: &'a ClientTls,
    /// The name its certificate has to have, unless the pool says another.
    pub name: &'a ServerName<'static>,
    /// PostgreSQL's question comes first.
    pub starttls: bool,
}

/// A connection to a server, whatever it runs over.
pub(in crate::control) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Runs one check within its timeout. The text says in words what was seen.
///
/// # Errors
/// What went wrong, in words, by whose fault.
pub async fn run(target: Target<'_>) -> Result<String, Failure> {
    let timeout = target.check.timeout;
    match tokio::time::timeout(timeout, ask(target)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Server(format!("timeout after {timeout:?}"))),
    }
}

async fn ask(target: Target<'_>) -> Result<String, Failure> {
    let started = Instant::now();
    let address = match (target.address, target.check.port) {
        (Endpoint::Ip(address), Some(port)) => {
            let mut address = *address;
            address.set_port(port);
            Endpoint::Ip(address)
        }
        (address, _) => address.clone(),
    };
    match &address {
        Endpoint::Ip(ip) => speak(connect::tcp(*ip, target.source).await?, target, started).await,
        Endpoint::Unix(path) => speak(connect::unix(path).await?, target, started).await,
    }
}

async fn speak(
    mut stream: impl Stream + 'static,
    target: Target<'_>,
    started: Instant,
) -> Result<String, Failure> {
    let header = Header::for_check(target.send_proxy);
    if !header.as_bytes().is_empty() {
        stream.write_all(header.as_bytes()).await.map_err(broken)?;
    }
    match target.tls {
        Some(tls) => converse(secure::connect(stream, tls).await?, target, started).await,
        None => converse(stream, target, started).await,
    }
}

async fn converse(
    stream: impl Stream + 'static,
    target: Target<'_>,
    started: Instant,
) -> Result<String, Failure> {
    match &target.check.kind {
        CheckKind::Tcp => Ok(tcp::passed(started.elapsed())),
        CheckKind::Http(check) => http::ask(stream, check, target.host, started).await,
        CheckKind::Redis { password } => redis::ask(stream, password.as_ref(), started).await,
        CheckKind::Postgres { user } => postgres::ask(stream, user, started).await,
    }
}

/// An error on an established connection.
#[allow(clippy::needless_pass_by_value)] // as `map_err` hands it over
fn broken(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::server("closed before it answered"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Failure::server("reset before it answered")
        }
        _ => Failure::Server(error.to_string()),
    }
}

/// `0.3 ms`.
fn ms(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
