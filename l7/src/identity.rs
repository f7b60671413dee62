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

/// Longer names with `_` are no twin of any that is known.
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

    /// A name with `_` is not the one that is written or spared, but a server may think so.
    fn twin_passes(&self, name: &[u8]) -> bool {
        let mut twin = [0; TWIN_LEN_MAX];
        let Some(twin) = twin.get_mut(..name.len()) else { return true };
        for (to, &from) in twin.iter_mut().zip(name) {
            *to = if from == b'_' { b'-' } else { from };
        }
        let known = Known::of(twin);
        let is_override = known.is_some_and(|known| known.class() == Class::Override);
        !is_override && self.passes(known, twin)
    }
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
        for name in ["x_consumer_id", "X_Forwarded_For", "x_forwarded_x", "cf_connecting_ip"] {
            assert!(!passes(&sieve, name), "{name}");
        }
    }
}
