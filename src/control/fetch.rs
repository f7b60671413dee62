//! Small documents over HTTP or HTTPS, fetched on the control thread.
//!
//! A connection for each, since they are rare. Only a 200 is an answer: a redirect could lead to
//! anybody. Everything is bounded: the bytes, and the time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use super::dns;
use super::probe::{Failure, TargetTls, connect, http, secure};
use crate::config::blank;
use crate::config::plan::{Dns, PoolTls, Verify};
use crate::tls::upstream::{ClientTls, server_name};

/// Addresses of a name that are tried in turn.
const ADDRESSES_TRIED_MAX: usize = 3;

/// How names are resolved.
#[derive(Clone)]
pub struct Names {
    /// Without one, only addresses can be fetched from; the text says why.
    resolver: Result<TokioResolver, String>,
    dns: Dns,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Names").field("dns", &self.dns).finish_non_exhaustive()
    }
}

impl Names {
    #[must_use]
    pub fn new(dns: &Dns) -> Self {
        Self { resolver: dns::resolver(dns), dns: dns.clone() }
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        dns::addresses_of(resolver, &self.dns, host, port).await
    }
}

/// One document's address, ready to be fetched again and again.
#[derive(Debug)]
pub struct Source {
    /// The URL as it may be told: a service may take its key in a parameter.
    shown: String,
    host: String,
    port: u16,
    /// `Host` as the URL has it.
    authority: String,
    path: String,
    tls: Option<(ClientTls, ServerName<'static>)>,
}

impl Source {
    /// Reads the file of `verify`, if it names one.
    ///
    /// # Errors
    /// It is no such URL, or the file cannot be used.
    pub fn new(url: &str, verify: &Verify) -> Result<Self, String> {
        let shown = blank::url(url);
        let uri: Uri = url.parse().map_err(|error| format!("{shown:?} is not a URL: {error}"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{shown:?} begins neither with https:// nor with http://")),
        };
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if authority.contains('@') {
            return Err("a URL must not have a user in it".into());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(format!("{shown:?} has no host"));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let tls = if secure { Some(tls(&host, verify)?) } else { None };
        Ok(Self { shown, host, port, authority, path, tls })
    }

    /// For messages, without secrets.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Fetches the document, within `limit`.
    ///
    /// # Errors
    /// Why there is none, in words; also if it is longer than `bytes_max`.
    pub async fn fetch(
        &self,
        names: &Names,
        bytes_max: usize,
        limit: Duration,
    ) -> Result<Vec<u8>, String> {
        let document = timeout(limit, self.fetch_from_any(names, bytes_max, limit));
        document.await.unwrap_or_else(|_| Err(format!("timeout after {limit:?}")))
    }

    async fn fetch_from_any(
        &self,
        names: &Names,
        bytes_max: usize,
        limit: Duration,
    ) -> Result<Vec<u8>, String> {
        let mut addresses = names.addresses(&self.host, self.port).await?;
        addresses.truncate(ADDRESSES_TRIED_MAX);
        let mut last = format!("`{}` has no address", self.host);
        // One that is silent does not use up the time of all, and leaves some for the document.
        let patience = limit / (addresses.len() as u32 + 1);
        for address in addresses {
            let connected = timeout(patience, connect::tcp(address, None)).await;
            let stream = match connected.unwrap_or_else(|_| Err(Failure::server("timeout"))) {
                Ok(stream) => stream,
                Err(failure) => {
                    last = format!("{address}: {}", words(failure));
                    continue;
                }
            };
            let read = async |response| body(response, bytes_max).await;
            let document = match &self.tls {
                None => http::exchange(stream, self.request()?, read).await,
                Some((tls, name)) => {
                    let target = TargetTls { tls, name, starttls: false };
                    match secure::connect(stream, target).await {
                        Ok(stream) => http::exchange(stream, self.request()?, read).await,
                        Err(failure) => Err(failure),
                    }
                }
            };
            // It answered, if only to say no: another address would say the same.
            return document.map_err(words);
        }
        Err(last)
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        Request::builder()
            .uri(&self.path)
            .header(HOST, &self.authority)
            .header(USER_AGENT, "sluicegate")
            .header(ACCEPT, "application/json")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| format!("the request cannot be sent: {error}"))
    }
}

fn tls(host: &str, verify: &Verify) -> Result<(ClientTls, ServerName<'static>), String> {
    let plan =
        PoolTls { verify: verify.clone(), sni: None, client: None, starttls_postgres: false };
    let tls = ClientTls::new(&plan, &[]).map_err(|error| error.to_string())?;
    Ok((tls, server_name(host).map_err(|error| error.to_string())?))
}

async fn body(response: Response<Incoming>, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(Failure::Server(format!("status {status}, expected 200")));
    }
    let body = http::beginning(response.into_body(), bytes_max + 1).await?;
    if body.len() > bytes_max {
        return Err(Failure::Server(format!("more than {bytes_max} bytes")));
    }
    Ok(body)
}

fn words(failure: Failure) -> String {
    let (Failure::Server(text) | Failure::Ours(text)) = failure;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_as_it_will_be_asked() {
        for (url, host, port, authority, path) in [
            ("http://idp.test/a?b=c", "idp.test", 80, "idp.test", "/a?b=c"),
            ("https://idp.test", "idp.test", 443, "idp.test", "/"),
            ("http://127.0.0.1:8080/j", "127.0.0.1", 8080, "127.0.0.1:8080", "/j"),
            ("https://[::1]:8443/j", "::1", 8443, "[::1]:8443", "/j"),
        ] {
            let source = Source::new(url, &Verify::Insecure).unwrap();
            assert_eq!((&*source.host, source.port), (host, port), "{url}");
            assert_eq!((&*source.authority, &*source.path), (authority, path), "{url}");
            assert_eq!(source.tls.is_some(), url.starts_with("https"), "{url}");
        }
    }

    #[test]
    fn a_url_is_told_without_what_its_parameters_say() {
        let source = Source::new("http://idp.test/jwks?tok=s3cret", &Verify::Insecure).unwrap();
        assert_eq!(
            (source.shown(), &*source.path),
            ("http://idp.test/jwks?tok=***", "/jwks?tok=s3cret")
        );
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for url in [
            "",
            "idp.test/a",
            "ftp://idp.test/",
            "ftp://u:p@a/",
            "http://",
            "/a",
            "http://u:p@idp.test/",
        ] {
            let error = Source::new(url, &Verify::Insecure).unwrap_err();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
