//! TLS without sockets: certificates, names, handshakes and the bytes before them.
//!
//! - [`hello`] reads a ClientHello for its name and changes nothing: routing without decrypting.
//! - [`server`] is TLS of a listener: certificate and policy by name, tickets, mutual TLS.
//! - [`upstream`] is TLS towards the servers of a pool.
//! - [`starttls`] is PostgreSQL's question for TLS, from both sides.
//! - [`certificates`] reads files; [`reload`] notices that they changed; [`info`] is what the log
//!   and the servers are told about a finished handshake.
//!
//! Nothing here reads a socket or waits. Files are read when something is built, which is the
//! control thread's work; workers only use what is built, behind an `Arc`.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::ring::cipher_suite as suite;

pub mod certificates;
#[cfg(test)]
mod fixture;
pub mod hello;
pub mod info;
pub mod reload;
pub mod server;

pub mod starttls;
#[cfg(test)]
mod tests;
pub mod upstream;

/// What a fatal alert says (RFC 8446 §6.2), of those that we send ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    UnexpectedMessage = 10,
    IllegalParameter = 47,
    DecodeError = 50,
    ProtocolVersion = 70,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Alert {
    /// The name in RFC 8446.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnexpectedMessage => "unexpected_message",
            Self::IllegalParameter => "illegal_parameter",
            Self::DecodeError => "decode_error",
            Self::ProtocolVersion => "protocol_version",
            Self::InternalError => "internal_error",
            Self::UnrecognizedName => "unrecognized_name",
        }
    }

    /// One plaintext record with this alert, fatal, as the first thing that is sent.
    #[must_use]
    pub const fn record(self) -> [u8; 7] {
        // Type alert, version TLS 1.2 as all have it since (RFC 8446 §5.1), length 2, level fatal.
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Cipher suites, the cheapest first: AES-128-GCM has three rounds of four of AES-256 and no known
/// weakness that the difference would cover.
///
/// Records and key schedules are `ring`'s, and key exchange, signatures and certificates
/// `aws-lc-rs`'s. On processors with VAES but without AVX-512 (AMD before Zen 4, Intel's
/// client cores) AES-GCM of `ring` 0.17 costs half of what that of `aws-lc-sys` 0.47 does, which
/// has no code for them; P-256 and X25519 are faster in `aws-lc-rs`.
static SUITES: &[(SupportedCipherSuite, &str)] = &[
    (suite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (suite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (suite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// The registered name of a suite; rustls has names of its own for those of TLS 1.3.
fn suite_name(wanted: CipherSuite) -> &'static str {
    SUITES.iter().find(|(suite, _)| suite.suite() == wanted).map_or("", |(_, name)| name)
}

/// For listeners. The group is the first of the client's list that stands here, so the
/// post-quantum hybrid costs only those who ask for it first, and they ask to be safe later.
fn listener_provider() -> Arc<CryptoProvider> {
    provider(vec![
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::X25519MLKEM768,
        kx_group::SECP384R1,
    ])
}

/// For pools. A client pays for the share of its first group whether the server wants it or not,
/// and that of the hybrid is 1.2 KB, more than one packet takes: it is there for servers that insist.
fn pool_provider() -> Arc<CryptoProvider> {
    provider(vec![
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
        kx_group::X25519MLKEM768,
    ])
}

fn provider(kx_groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> Arc<CryptoProvider> {
    let cipher_suites = SUITES.iter().map(|(suite, _)| *suite).collect();
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
}

/// SHA-256.
pub(crate) type Digest = [u8; 32];

/// The digest of parts, each with its length before it so that none can borrow from the next.
fn digest_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut context = hash().start();
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    to_digest(&context.finish())
}

/// The plain digest of some bytes, as fingerprints are written.
fn sha256(bytes: &[u8]) -> Digest {
    to_digest(&hash().hash(bytes))
}

fn hash() -> &'static dyn rustls::crypto::hash::Hash {
    let suite = suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    suite.common.hash_provider
}

fn to_digest(output: &rustls::crypto::hash::Output) -> Digest {
    output.as_ref().try_into().expect("the hash of that suite is SHA-256")
}

#[cfg(test)]
pub(crate) use fixture::corpus_bytes;
