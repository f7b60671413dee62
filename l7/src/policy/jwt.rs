//! `jwt`: a request passes if it brings a token that a trusted issuer signed (RFC 7519).
//!
//! In this order, so that the cheap goes first and nothing unsigned is believed: the token's
//! length, its envelope and signature (`jws`), then its claims (`claims`). Fetching keys and
//! remembering verified tokens are others' work (`keyring`, `token_cache`).

use std::fmt;

use super::algorithm::Algorithm;
use super::claims::{ClaimRules, Claims, UnixTime};
use super::jwks::KeySet;
use super::{json, jws};

/// The longest token unless the configuration says another.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Which tokens a policy accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSpec {
    /// Ways of signing that are accepted; nothing is by default.
    pub algorithms: Vec<Algorithm>,
    pub token_bytes_max: usize,
    pub claims: ClaimRules,
}

impl Default for JwtSpec {
    fn default() -> Self {
        let (algorithms, claims) = (Vec::new(), ClaimRules::default());
        Self { algorithms, token_bytes_max: TOKEN_BYTES_MAX, claims }
    }
}

/// Why a token was not accepted. Says nothing about what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooLong,
    Malformed(&'static str),
    /// Signed in a way that the policy or the key does not allow.
    Algorithm,
    /// Signed by a key that is not known; a newer key set may have it.
    UnknownKey,
    Signature,
    /// A claim has the wrong type.
    ClaimType(&'static str),
    NoExpiry,
    Expired,
    NotYetValid,
    Issuer,
    Audience,
    /// An introspection answer says that the token is not active.
    Inactive,
    /// The token is good, but does not say what the policy requires.
    Required,
}

impl Refusal {
    /// 403 if another token of the same kind would not help, else 401.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Required => 403,
            _ => 401,
        }
    }

    /// The `error` of `WWW-Authenticate` (RFC 6750 §3.1).
    #[must_use]
    pub const fn error(self) -> &'static str {
        match self {
            Self::Required => "insufficient_scope",
            _ => "invalid_token",
        }
    }

    /// A stable word, for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooLong => "token-too-long",
            Self::Malformed(_) => "token-malformed",
            Self::Algorithm => "token-algorithm",
            Self::UnknownKey => "token-unknown-key",
            Self::Signature => "token-signature",
            Self::ClaimType(_) => "token-claim-type",
            Self::NoExpiry => "token-no-expiry",
            Self::Expired => "token-expired",
            Self::NotYetValid => "token-not-yet-valid",
            Self::Issuer => "token-issuer",
            Self::Audience => "token-audience",
            Self::Inactive => "token-inactive",
            Self::Required => "token-lacks-claim",
        }
    }

    /// The `error_description`: fixed words, none of which needs escaping in a quoted string.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::TooLong => "the token is too long",
            Self::Malformed(what) | Self::ClaimType(what) => what,
            Self::Algorithm => "the token is signed in a way that is not accepted",
            Self::UnknownKey => "the token is signed with an unknown key",
            Self::Signature => "the signature is wrong",
            Self::NoExpiry => "the token does not say when it expires",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for somebody else",
            Self::Inactive => "the token is not active",
            Self::Required => "the token does not allow this",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.detail())
    }
}

/// Verifies one token, as it stands after `Bearer `.
///
/// # Errors
///
/// The first reason not to accept it. [`Refusal::UnknownKey`] is one to look for newer keys.
pub fn verify(
    spec: &JwtSpec,
    keys: &KeySet,
    token: &[u8],
    now: UnixTime,
) -> Result<Claims, Refusal> {
    if token.len() > spec.token_bytes_max {
        return Err(Refusal::TooLong);
    }
    let payload = jws::open(&spec.algorithms, keys, token)?;
    let members = json::parse_object(&payload);
    let members = members.ok_or(Refusal::Malformed("its claims are not a JSON object"))?;
    Claims::judge(members, &spec.claims, now)
}

#[cfg(test)]
mod tests;
