//! Who a client is, and which field lines pass the gateway.
//!
//! Owns the decision on each line of a request ([`Sieve`]), the client's address behind trusted
//! proxies ([`client`]) and the lines that tell a server about it ([`Identity`]). What ends at
//! this hop, and what `Connection` names, is found when a head is parsed
//! ([`FieldSpan::hop`](crate::http1::FieldSpan::hop)); which names mean what is the table of
//! [`Known`].
//!
//! Invariants: names compare without case, and `_` as `-`, since CGI servers cannot tell them
//! apart; no decision allocates; nothing a peer says takes one of the gateway's own lines away.

pub mod client;
pub mod lines;

use crate::http1::{Class, Known};

pub use client::{Client, scheme};
pub use lines::{Identity, kept_request_id, new_request_id, passed_here};

/// Names of one prefix that only the gateway writes; some of them are [`Known`].
const OWNED: &[u8] = b"x-forwarded-";

/// No name that is known is longer.
const TWIN_LEN_MAX: usize = 64;

/// Which lines of requests pass, for one listener.
#[derive(Clone, Debug, Default)]
pub struct Sieve {
    /// `keep_headers`, of [`Class::Override`].
    pub spared: Vec<Known>,
    /// `underscores = "keep"`: names with `_` pass, if their twin with `-` would.
    pub keep_underscores: bool,
}

impl Sieve {
    /// Whether a line goes to the server as it came. `known` is what [`Known::of`] says.
    #[must_use]
    pub fn passes(&self, known: Option<Known>, name: &[u8]) -> bool {
        match known {
            Some(known) => match known.class() {
                Class::Hop | Class::Identity => false,
                Class::Override => self.spared.contains(&known),
                Class::Head | Class::Any => !is_written(known),
            },
            None if begins_owned(name) => false,
            None if name.contains(&b'_') => self.keep_underscores && self.twin_passes(name),
            None => true,
        }
    }

    /// Whether a trailer of this name goes to the server, which may read it as if it stood in
    /// the head.
    #[must_use]
    pub fn passes_trailer(&self, name: &[u8]) -> bool {
        let mut twin = [0; TWIN_LEN_MAX];
        let known = Known::of(twin_of(name, &mut twin));
        known.is_none_or(|known| known.class() == Class::Any) && self.passes(Known::of(name), name)
    }

    /// A name with `_` is not the one that is written or spared, but a server may think so.
    fn twin_passes(&self, name: &[u8]) -> bool {
        let mut twin = [0; TWIN_LEN_MAX];
        let twin = twin_of(name, &mut twin);
        let known = Known::of(twin);
        let is_override = known.is_some_and(|known| known.class() == Class::Override);
        !is_override && self.passes(known, twin)
    }
}

/// The name with `-` for each `_`, as far as there is room: families are known by how they begin.
fn twin_of<'t>(name: &[u8], room: &'t mut [u8; TWIN_LEN_MAX]) -> &'t [u8] {
    for (to, &from) in room.iter_mut().zip(name) {
        *to = dashed(from);
    }
    &room[..name.len().min(TWIN_LEN_MAX)]
}

const fn dashed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

/// Whether a server may take the one name for the other.
#[must_use]
pub fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(&a, &b)| dashed(a) == dashed(b))
}

fn begins_owned(name: &[u8]) -> bool {
    name.get(..OWNED.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWNED))
}

/// Lines that depend on how the message goes on, and are written anew: framing, upgrades,
/// identity, tracing.
#[must_use]
pub const fn is_written(known: Known) -> bool {
    matches!(
        known,
        Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Te
            | Known::Upgrade
            | Known::Expect
            | Known::XForwardedFor
            | Known::XForwardedProto
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedMethod
            | Known::XForwardedUri
            | Known::XRealIp
            | Known::XRequestId
            | Known::Traceparent
            | Known::Tracestate
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(sieve: &Sieve, name: &str) -> bool {
        sieve.passes(Known::of(name.as_bytes()), name.as_bytes())
    }

    #[test]
    fn claims_that_only_the_gateway_makes_are_dropped_in_any_case() {
        let sieve = Sieve::default();
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
            "X-Forwarded-For",
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "HTTP2-Settings",
            "X_Consumer_Id",
            "any_name",
            "Host",
            "x-real-ip",
            "TE",
        ] {
            assert!(!passes(&sieve, name), "{name}");
        }
        for name in ["Cookie", "authorization", "X-Api-Key", "X-Forward", "Via", "ETag"] {
            assert!(passes(&sieve, name), "{name}");
        }
    }

    #[test]
    fn kept_underscores_do_not_let_a_twin_pass() {
        let sieve = Sieve { keep_underscores: true, spared: vec![Known::CfConnectingIp] };
        assert!(passes(&sieve, "my_name"));
        assert!(passes(&sieve, "cf-connecting-ip"));
        let long = format!("x_consumer_{}", "a".repeat(64));
        let names = ["x_consumer_id", "X_Forwarded_For", "x_forwarded_x", "cf_connecting_ip"];
        for name in names.into_iter().chain(["X-Consumer_Id", &*long]) {
            assert!(!passes(&sieve, name), "{name}");
        }
    }

    #[test]
    fn a_trailer_says_nothing_that_a_head_may_not_nor_what_belongs_into_one() {
        let sieve = Sieve { keep_underscores: true, spared: vec![Known::CfConnectingIp] };
        for name in [
            "X-Forwarded-Prefix",
            "x_forwarded_prefix",
            "X-Consumer-Id",
            "X_Consumer_Id",
            "Content_Type",
            "cookie",
            "CF-Connecting-IP",
        ] {
            assert!(!sieve.passes_trailer(name.as_bytes()), "{name}");
        }
        for name in ["X-Checksum", "my_sum", "grpc-status", "ETag"] {
            assert!(sieve.passes_trailer(name.as_bytes()), "{name}");
        }
        assert!(!Sieve::default().passes_trailer(b"my_sum"));
    }

    #[test]
    fn names_are_the_same_for_whoever_reads_underscores_as_dashes() {
        assert!(is_same_name(b"x-tenant", b"X_Tenant") && is_same_name(b"x_tenant", b"X-Tenant"));
        assert!(!is_same_name(b"x-tenant", b"xx-tenant") && !is_same_name(b"x-a", b"x-b"));
    }
}
