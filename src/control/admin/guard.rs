//! Who may ask what: the Host check against rebinding, the Origin check against other people's
//! pages, and the tokens.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use hyper::{Method, Request, StatusCode};

use super::answers::{self, Answer};
use crate::config::plan::{Admin, Secret};

/// Paths that need no token: what load balancers in front of us and orchestrators ask, and the
/// dashboard as long as nothing stands on it.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/readyz", "/"];

/// What a read token does not open.
const NOT_FOR_READERS: [&str; 1] = ["/v1/config"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The Host is a name that is not ours: a page of somebody else's in an operator's browser.
    Host,
    /// A page of another origin asks, through a browser of somebody who may.
    Origin,
    /// No token, or not one of ours.
    Token,
    /// The token is for reading.
    ReadOnly,
}

impl Refusal {
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Host => answers::error(
                StatusCode::MISDIRECTED_REQUEST,
                "host",
                "this Host is not served here; add it to `admin.hosts`",
            ),
            Self::Origin => answers::error(
                StatusCode::FORBIDDEN,
                "origin",
                "a page of another origin may not ask this",
            ),
            Self::Token => answers::unauthorized(),
            Self::ReadOnly => answers::error(
                StatusCode::FORBIDDEN,
                "forbidden",
                "the read token does not open this",
            ),
        }
    }
}

/// Whether the request may be answered.
pub(super) fn check<B>(
    request: &Request<B>,
    admin: &Admin,
    over_unix: bool,
) -> Result<(), Refusal> {
    if !over_unix && !is_our_host(request, &admin.hosts) {
        return Err(Refusal::Host);
    }
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_open = OPEN_PATHS.contains(&path);
    let for_every_page = is_open && reads;
    if !for_every_page && !is_our_origin(request) {
        return Err(Refusal::Origin);
    }
    if is_open || (admin.token.is_none() && admin.read_token.is_none()) {
        return Ok(());
    }
    let given = bearer(request).unwrap_or_default();
    let matches = |secret: &Option<Secret>| {
        secret.as_ref().is_some_and(|Secret(secret)| same(secret.as_bytes(), given.as_bytes()))
    };
    // Both are compared, so that the time does not say which one is set.
    let (full, read) = (matches(&admin.token), matches(&admin.read_token));
    match (full, read) {
        (true, _) => Ok(()),
        (false, true) if reads && !NOT_FOR_READERS.contains(&path) => Ok(()),
        (false, true) => Err(Refusal::ReadOnly),
        (false, false) => Err(Refusal::Token),
    }
}

fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that depends on the length of `given` alone.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut differences = secret.len() ^ given.len();
    for (at, byte) in given.iter().enumerate() {
        let wanted = secret.get(at % secret.len().max(1)).copied().unwrap_or(0);
        differences |= usize::from(std::hint::black_box(wanted ^ byte));
    }
    std::hint::black_box(differences) == 0
}

fn is_our_host<B>(request: &Request<B>, hosts: &[String]) -> bool {
    let mut values = request.headers().get_all(HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let name = host_name(value);
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    name == "localhost"
        || literal.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|host| host_name(host) == name)
}

/// Browsers say from which origin a page asks; others do not. Ours is the one asked.
fn is_our_origin<B>(request: &Request<B>) -> bool {
    let mut origins = request.headers().get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

/// What names the host, as both sides may write it: `[::1]:9901` → `[::1]`, `A.test.:1` → `a.test`.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::BindAddr;

    fn admin() -> Admin {
        Admin {
            bind: BindAddr::Ip("127.0.0.1:0".parse().unwrap()),
            token: Some(Secret("full-token-0123456".into())),
            read_token: Some(Secret("read-token-0123456".into())),
            hosts: vec!["lb1.example.com".into(), "LB2.example.com.:9901".into()],
            tls: None,
        }
    }

    fn ask(method: &str, path: &str, host: &str, token: Option<&str>) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        check(&request.body(()).unwrap(), &admin(), false)
    }

    #[test]
    fn only_the_exact_token_opens() {
        for wrong in [None, Some(""), Some("full-token-012345"), Some("full-token-01234567")] {
            assert_eq!(
                ask("GET", "/v1/status", "localhost", wrong),
                Err(Refusal::Token),
                "{wrong:?}"
            );
        }
        let doubled = "full-token-0123456full-token-0123456";
        assert_eq!(ask("GET", "/v1/status", "localhost", Some(doubled)), Err(Refusal::Token));
        assert_eq!(ask("POST", "/v1/reload", "localhost", Some("full-token-0123456")), Ok(()));
    }

    #[test]
    fn a_read_token_reads_all_but_the_configuration() {
        let read = Some("read-token-0123456");
        assert_eq!(ask("GET", "/metrics", "localhost", read), Ok(()));
        assert_eq!(ask("GET", "/v1/config", "localhost", read), Err(Refusal::ReadOnly));
        assert_eq!(ask("POST", "/v1/reload", "localhost", read), Err(Refusal::ReadOnly));
    }

    #[test]
    fn health_and_the_page_need_no_token_but_a_host_of_ours() {
        assert_eq!(ask("GET", "/healthz", "127.0.0.1:9901", None), Ok(()));
        assert_eq!(ask("GET", "/", "127.0.0.1:9901", None), Ok(()));
        assert_eq!(ask("GET", "/readyz", "evil.example", None), Err(Refusal::Host));
        assert_eq!(ask("GET", "/", "evil.example", None), Err(Refusal::Host));
    }

    #[test]
    fn another_origin_gets_nothing_but_health() {
        let ask = |method: &str, path: &str, origin: &str| {
            let request = Request::builder().method(method).uri(path).header(ORIGIN, origin);
            let request = request.header(HOST, "localhost:9901");
            let request = request.header(AUTHORIZATION, "Bearer full-token-0123456");
            check(&request.body(()).unwrap(), &admin(), false)
        };
        let server = "/v1/pools/a/servers/b";
        for (origin, ours) in [
            ("http://localhost:9901", true),
            ("https://LOCALHOST:9901", true),
            ("http://localhost:3000", false),
            ("http://localhost", false),
            ("http://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let wanted = if ours { Ok(()) } else { Err(Refusal::Origin) };
            assert_eq!(ask("PATCH", server, origin), wanted, "{origin}");
            assert_eq!(ask("GET", "/v1/status", origin), wanted, "{origin}");
            assert_eq!(ask("GET", "/healthz", origin), Ok(()), "{origin}");
            assert_eq!(ask("POST", "/healthz", origin), wanted, "{origin}");
        }
    }

    #[test]
    fn hosts_are_literals_localhost_and_what_is_configured() {
        for (host, ours) in [
            ("localhost", true),
            ("LOCALHOST:9901", true),
            ("[::1]:9901", true),
            ("10.0.0.1", true),
            ("lb1.example.com:80", true),
            ("lb1.example.com.", true),
            ("lb2.example.com", true),
            ("lb2.example.com:80", true),
            ("lb1.example.com.evil", false),
            ("localhost.evil", false),
            ("", false),
        ] {
            assert_eq!(ask("GET", "/healthz", host, None).is_ok(), ours, "{host}");
        }
    }
}
