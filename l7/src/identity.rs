//! Who a client is, and which field lines pass the gateway.
//!
//! Owns the decisions by name ([`Sieve`]), what `Connection` says ([`Connection`]), the client's
//! address behind trusted proxies ([`client`]) and the lines that tell a server about both
//! ([`Identity`]). Framing (`Content-Length`, `Transfer-Encoding`, `Host`) is the session's:
//! those names are answered [`Decision::Written`].
//!
//! Invariants: names compare without case, and `_` as `-`, since CGI servers cannot tell them
//! apart; no decision allocates; nothing a peer says takes one of the gateway's own lines away.

pub mod client;
pub mod connection;
pub mod lines;

pub use client::{Client, scheme};
pub use connection::{Connection, TooManyOptions};
pub use lines::{Identity, kept_request_id, new_request_id, passed_here};

/// What becomes of one field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    Drop,
    /// The session writes this one itself, if at all.
    Written,
}

/// Fields of one connection, whatever `Connection` says (RFC 9110 §7.6.1 and, for
/// `HTTP2-Settings`, RFC 7540 §3.2.1).
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "http2-settings",
];

/// Lines that depend on how the message goes on: framing, upgrades, identity, tracing.
const WRITTEN_TO_SERVERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "te",
    "upgrade",
    "expect",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
    "traceparent",
];
const WRITTEN_TO_CLIENTS: &[&str] =
    &["content-length", "transfer-encoding", "upgrade", "x-request-id"];

/// Claims that only the gateway makes, whoever sends them.
const OWNED: &[&str] = &["forwarded", "proxy"];
/// Likewise, by how they begin.
const OWNED_STARTS: &[&str] = &["x-consumer-", "x-client-cert-", "client-cert", "x-forwarded-"];

/// Would make a server see another request than was judged. `keep_headers` may spare them.
pub const SPARABLE: &[&str] = &[
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "true-client-ip",
    "cf-connecting-ip",
];

/// Tell what stands behind the gateway.
const TOPOLOGY: &[&str] = &["server", "x-powered-by", "via"];

/// Meant for all recipients, so `Connection` cannot take them away: a server must not judge
/// another request than the gateway did.
const END_TO_END: &[&str] = &[
    "authorization",
    "cookie",
    "set-cookie",
    "cache-control",
    "content-type",
    "content-encoding",
    "content-range",
    "range",
    "origin",
    "via",
];

/// Never in trailers (RFC 9110 §6.5.1): framing, routing, authentication, content.
const NOT_IN_TRAILERS: &[&str] = &[
    "authorization",
    "cookie",
    "set-cookie",
    "cache-control",
    "content-type",
    "content-encoding",
    "content-range",
    "trailer",
    "range",
    "location",
    "age",
    "expires",
    "date",
    "vary",
    "retry-after",
    "www-authenticate",
];

/// Which lines of requests and answers pass, for one listener.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    /// `keep_headers`, of [`SPARABLE`].
    pub spared: Vec<String>,
    /// What `forward_claims` and `copy` of any policy write.
    pub owned: Vec<String>,
    /// `underscores = "keep"`: names with `_` pass, if their twin with `-` would.
    pub keep_underscores: bool,
}

impl Sieve {
    /// Decides on a line of a request head.
    #[must_use]
    pub fn request_field(&self, name: &[u8], connection: &Connection<'_>) -> Decision {
        if self.is_dropped(name) {
            return Decision::Drop;
        }
        if is_any(name, WRITTEN_TO_SERVERS) {
            return Decision::Written;
        }
        if is_owned(name) || connection.nominates(name) && !is_any(name, END_TO_END) {
            return Decision::Drop;
        }
        Decision::Keep
    }

    /// Decides on a line of a request's trailers, which no policy has read.
    #[must_use]
    pub fn request_trailer(&self, name: &[u8], connection: &Connection<'_>) -> Decision {
        match self.request_field(name, connection) {
            Decision::Keep if !is_any(name, NOT_IN_TRAILERS) => Decision::Keep,
            _ => Decision::Drop,
        }
    }

    /// Decides on a line of an answer's head.
    #[must_use]
    pub fn response_field(name: &[u8], connection: &Connection<'_>) -> Decision {
        if is_any(name, HOP_BY_HOP) || is_any(name, TOPOLOGY) {
            return Decision::Drop;
        }
        if is_any(name, WRITTEN_TO_CLIENTS) {
            return Decision::Written;
        }
        let nominated = connection.nominates(name) && !is_any(name, END_TO_END);
        if nominated { Decision::Drop } else { Decision::Keep }
    }

    /// Decides on a line of an answer's trailers.
    #[must_use]
    pub fn response_trailer(name: &[u8], connection: &Connection<'_>) -> Decision {
        match Self::response_field(name, connection) {
            Decision::Keep if !is_any(name, NOT_IN_TRAILERS) => Decision::Keep,
            _ => Decision::Drop,
        }
    }

    fn is_dropped(&self, name: &[u8]) -> bool {
        let among = |list: &[String]| list.iter().any(|own| same(name, own));
        // A name with `_` is not the one that is written or spared, but a server may think so.
        let twin = name.contains(&b'_')
            && (!self.keep_underscores
                || is_any(name, WRITTEN_TO_SERVERS)
                || is_any(name, SPARABLE));
        twin || is_any(name, HOP_BY_HOP)
            || is_any(name, SPARABLE) && !among(&self.spared)
            || among(&self.owned)
    }
}

fn is_owned(name: &[u8]) -> bool {
    is_any(name, OWNED) || OWNED_STARTS.iter().any(|start| begins(name, start))
}

fn is_any(name: &[u8], list: &[&str]) -> bool {
    list.iter().any(|own| same(name, own))
}

/// Without case, and `_` as `-`.
fn same(name: &[u8], own: &str) -> bool {
    name.len() == own.len() && begins(name, own)
}

fn begins(name: &[u8], start: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() >= start.len() && name.iter().zip(start.bytes()).all(|(&a, b)| fold(a) == fold(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::NoFields;

    fn request(name: &str) -> Decision {
        let connection = Connection::parse(&NoFields).expect("no options");
        Sieve::default().request_field(name.as_bytes(), &connection)
    }

    #[test]
    fn claims_that_only_the_gateway_makes_are_dropped_in_any_case() {
        for name in [
            "x-consumer-ID",
            "X-Consumer-Groups",
            "X-Client-Cert-Subject",
            "Client-Cert",
            "Client-Cert-Chain",
            "Forwarded",
            "Proxy",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "True-Client-IP",
            "CF-Connecting-IP",
            "X-Forwarded-Prefix",
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "HTTP2-Settings",
            "X_Consumer_Id",
            "any_name",
        ] {
            assert_eq!(request(name), Decision::Drop, "{name}");
        }
        for name in ["Cookie", "authorization", "X-Api-Key", "X-Forward", "Via", "Trailer"] {
            assert_eq!(request(name), Decision::Keep, "{name}");
        }
        for name in ["Host", "X-Forwarded-For", "x-real-ip", "X-Request-ID", "TE", "Upgrade"] {
            assert_eq!(request(name), Decision::Written, "{name}");
        }
    }

    #[test]
    fn kept_underscores_do_not_let_a_twin_pass() {
        let connection = Connection::parse(&NoFields).expect("no options");
        let sieve = Sieve {
            keep_underscores: true,
            owned: vec!["X-Tenant".into()],
            spared: vec!["CF-Connecting-IP".into()],
        };
        let decide = |name: &str| sieve.request_field(name.as_bytes(), &connection);
        assert_eq!(decide("my_name"), Decision::Keep);
        assert_eq!(decide("cf-connecting-ip"), Decision::Keep);
        for name in ["x_consumer_id", "X_Forwarded_For", "x_tenant", "x-tenant", "cf_connecting_ip"]
        {
            assert_eq!(decide(name), Decision::Drop, "{name}");
        }
    }

    #[test]
    fn connection_names_what_is_dropped_but_not_what_is_for_all() {
        let fields = [("Connection", "x-a, Authorization,Host"), ("connection", "Via, X-B")];
        let connection = Connection::parse(&fields).expect("few options");
        let decide = |name: &str| Sieve::default().request_field(name.as_bytes(), &connection);
        assert_eq!(decide("X-A"), Decision::Drop);
        assert_eq!(decide("x-b"), Decision::Drop);
        assert_eq!(decide("x-c"), Decision::Keep);
        assert_eq!(decide("Authorization"), Decision::Keep);
        assert_eq!(decide("Host"), Decision::Written);
        assert_eq!(Sieve::response_field(b"x-a", &connection), Decision::Drop);
        assert_eq!(Sieve::response_field(b"Set-Cookie", &connection), Decision::Keep);
    }

    #[test]
    fn answers_do_not_tell_what_stands_behind() {
        let connection = Connection::parse(&NoFields).expect("no options");
        for name in ["Server", "x-powered-by", "VIA", "Connection"] {
            let decision = Sieve::response_field(name.as_bytes(), &connection);
            assert_eq!(decision, Decision::Drop, "{name}");
        }
        assert_eq!(Sieve::response_field(b"ETag", &connection), Decision::Keep);
        assert_eq!(Sieve::response_field(b"Content-Length", &connection), Decision::Written);
    }

    #[test]
    fn trailers_bring_in_nothing_that_a_head_may_not_or_that_was_judged_already() {
        let connection = Connection::parse(&NoFields).expect("no options");
        for name in ["X-Consumer-Id", "Content-Length", "Authorization", "Host", "X-Forwarded-For"]
        {
            let decision = Sieve::default().request_trailer(name.as_bytes(), &connection);
            assert_eq!(decision, Decision::Drop, "{name}");
        }
        assert_eq!(Sieve::default().request_trailer(b"x-sum", &connection), Decision::Keep);
        assert_eq!(Sieve::response_trailer(b"grpc-status", &connection), Decision::Keep);
        assert_eq!(Sieve::response_trailer(b"transfer-encoding", &connection), Decision::Drop);
    }
}
