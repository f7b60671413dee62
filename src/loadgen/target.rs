//! What is measured: the address, and what is said to it.

use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;

use crate::net::Endpoint;

/// What is spoken to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tcp,
    Http,
}

impl Mode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

/// A target as it was written, taken apart. Nothing is resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As written.
    pub url: String,
    place: Place,
    /// The `Host` of HTTP requests.
    authority: String,
    /// Path and query of HTTP requests.
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `host:port`.
    Tcp(String),
    Unix(Arc<Path>),
}

/// Why a target cannot be used; says the target and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTarget(pub String);

impl std::fmt::Display for BadTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Target {
    /// Reads `tcp://host:port`, `host:port`, `http://host[:port]/path`, `unix:/path`.
    ///
    /// # Errors
    /// When it is none of these, or does not suit the mode.
    pub fn parse(url: &str, mode: Mode) -> Result<Self, BadTarget> {
        let bad = |why: &str| Err(BadTarget(format!("target `{url}`: {why}")));
        if let Some(path) = url.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return bad("a unix socket is written `unix:/absolute/path`");
            }
            return Ok(Self {
                url: url.into(),
                place: Place::Unix(Path::new(path).into()),
                authority: "localhost".into(),
                path: "/".into(),
            });
        }
        let rest = match (url.split_once("://"), mode) {
            (None, _) => url,
            (Some(("tcp", rest)), Mode::Tcp) | (Some(("http", rest)), Mode::Http) => rest,
            (Some(("https" | "tls", _)), _) => return bad("TLS is not spoken here yet"),
            (Some((scheme, _)), _) => {
                return bad(&format!("`{scheme}://` does not go with `bench {}`", mode.as_str()));
            }
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if mode == Mode::Tcp && !matches!(path, "" | "/") {
            return bad("a tcp target has no path");
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) || authority.contains('@') {
            return bad("spaces, control characters and user names do not belong here");
        }
        let Some(place) = host_and_port(authority, mode) else {
            return bad("expected `host:port`, for example `127.0.0.1:8080`");
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            url: url.into(),
            place: Place::Tcp(place),
            authority: authority.into(),
            path: format!("{slash}{path}"),
        })
    }

    /// Looks the name up. Blocks, so only before a run.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn resolve(&self) -> Result<Endpoint, BadTarget> {
        match &self.place {
            Place::Unix(path) => Ok(Endpoint::Unix(Arc::clone(path))),
            Place::Tcp(place) => {
                let unknown = |why: &dyn std::fmt::Display| {
                    BadTarget(format!("target `{}`: cannot resolve the name: {why}", self.url))
                };
                let mut found = place.to_socket_addrs().map_err(|error| unknown(&error))?;
                found.next().map(Endpoint::Ip).ok_or_else(|| unknown(&"it has no address"))
            }
        }
    }

    /// A GET for this target.
    #[must_use]
    pub fn get(&self, headers: &[String], keep: bool) -> Arc<[u8]> {
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sluicegate-bench/{}\r\nAccept: */*\r\n",
            self.path,
            self.authority,
            env!("CARGO_PKG_VERSION"),
        );
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str(if keep { "\r\n" } else { "Connection: close\r\n\r\n" });
        text.into_bytes().into()
    }
}

/// `authority` with a port, HTTP's if none is written.
fn host_and_port(authority: &str, mode: Mode) -> Option<String> {
    // The colons inside `[::1]` are not before a port.
    let after_host = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match (authority[after_host..].rfind(':'), mode) {
        (Some(at), _) => {
            (&authority[..after_host + at], authority[after_host + at + 1..].parse().ok()?)
        }
        (None, Mode::Http) => (authority, 80_u16),
        (None, Mode::Tcp) => return None,
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']', ' ']);
    (port != 0 && !host.is_empty() && (bracketed || plain)).then(|| format!("{host}:{port}"))
}

/// What one exchange says and wants to hear.
#[derive(Clone, Debug)]
pub enum Script {
    /// These bytes, then exactly those.
    Exact { request: Arc<[u8]>, answer: Arc<[u8]> },
    /// This request, then one response with a status of 200–399.
    Http { request: Arc<[u8]> },
}

/// The largest payload: it is held in memory once, and a mistyped unit should not take it all.
pub const PAYLOAD_MAX: u64 = 256 << 20;

impl Script {
    /// `size` bytes that have to come back as they were sent.
    #[must_use]
    pub fn echo(size: usize) -> Self {
        // Not periodic in any power of two, so bytes that went to the wrong place show.
        let request: Arc<[u8]> = (0..size).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect();
        Self::Exact { answer: Arc::clone(&request), request }
    }

    /// `PING` as Redis and its kin answer it.
    #[must_use]
    pub fn redis_ping() -> Self {
        Self::Exact { request: (*b"PING\r\n").into(), answer: (*b"+PONG\r\n").into() }
    }

    #[must_use]
    pub fn request(&self) -> &[u8] {
        match self {
            Self::Exact { request, .. } | Self::Http { request } => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(url: &str) -> Result<Target, BadTarget> {
        Target::parse(url, Mode::Tcp)
    }

    fn http(url: &str) -> Result<Target, BadTarget> {
        Target::parse(url, Mode::Http)
    }

    #[test]
    fn every_way_to_write_an_address_leads_to_it() {
        for url in ["127.0.0.1:6379", "tcp://127.0.0.1:6379", "tcp://127.0.0.1:6379/"] {
            let endpoint = tcp(url).and_then(|target| target.resolve());
            assert_eq!(endpoint.map(|it| it.to_string()), Ok("127.0.0.1:6379".into()), "{url}");
        }
        let six = http("http://[::1]:81/x").and_then(|target| target.resolve());
        assert_eq!(six.map(|it| it.to_string()), Ok("[::1]:81".into()));
        let unix = tcp("unix:/run/x.sock").and_then(|target| target.resolve());
        assert_eq!(unix.map(|it| it.to_string()), Ok("unix:/run/x.sock".into()));
    }

    #[test]
    fn http_has_a_default_port_and_path() {
        let target = http("http://127.0.0.1").expect("fine");
        assert_eq!((target.place, target.path.as_str()), (Place::Tcp("127.0.0.1:80".into()), "/"));
        assert_eq!(http("127.0.0.1:80?a=b").expect("fine").path, "/?a=b");
        assert_eq!(http("http://[::1]/").expect("fine").place, Place::Tcp("[::1]:80".into()));
    }

    #[test]
    fn a_bad_target_is_named_in_the_error() {
        for (result, why) in [
            (tcp("localhost"), "expected `host:port`"),
            (tcp("localhost:0"), "expected `host:port`"),
            (tcp("localhost:99999"), "expected `host:port`"),
            (tcp("::1:80"), "expected `host:port`"),
            (tcp("http://a:1"), "`http://` does not go with `bench tcp`"),
            (tcp("a:1/path"), "a tcp target has no path"),
            (tcp("unix:x"), "a unix socket is written"),
            (http("https://a/"), "TLS"),
            (http("http://u@a/"), "user names"),
            (http("http://a/ b"), "spaces"),
        ] {
            let text = result.expect_err("bad").0;
            assert!(text.starts_with("target `") && text.contains(why), "{text}");
        }
    }

    #[test]
    fn a_get_says_whether_the_connection_is_kept() {
        let target = http("http://example.com:81/a?b").expect("fine");
        let text =
            |keep| String::from_utf8(target.get(&["X-A: b".into()], keep).to_vec()).expect("text");
        assert!(text(true).starts_with("GET /a?b HTTP/1.1\r\nHost: example.com:81\r\n"));
        assert!(text(true).ends_with("X-A: b\r\n\r\n") && !text(true).contains("close"));
        assert!(text(false).ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn echo_wants_back_what_it_sent() {
        let Script::Exact { request, answer } = Script::echo(1000) else { unreachable!() };
        assert_eq!((request.len(), &request), (1000, &answer));
        assert_ne!(request[..251], request[251..502]);
    }
}
