//! Who may pass, how often, and what they see: verdicts on requests, without I/O.
//!
//! One file for each kind of policy, [`spec`] says what a configuration can have, [`chain`] in
//! which order it runs. What needs the outside (a token's introspection, a shared limit, a slow
//! password hash) is worked out by the shell and judged here.

pub mod acl;
pub mod algorithm;
pub mod breaker;
pub mod chain;
pub mod claims;
pub mod consumer;
pub mod cors;
pub mod credential;
pub mod introspection;
mod json;
pub mod jwks;
mod jws;
pub mod jwt;
pub mod keyring;
pub mod limit_lines;
pub mod quota;
pub mod rate;
pub mod redis_script;
pub mod spec;
pub mod token_cache;
pub mod transform;

/// Why a request does not pass, and what its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The word in the log, see [`ANSWERS`](crate::answer::ANSWERS).
    pub reason: &'static str,
    pub status: u16,
    /// In the answer's body; empty: the usual text of the reason.
    pub detail: &'static str,
    /// Seconds.
    pub retry_after: Option<u32>,
    /// Lines of the answer, each with its CRLF: `WWW-Authenticate`.
    pub lines: Vec<u8>,
}

impl Denial {
    #[must_use]
    pub const fn new(reason: &'static str, status: u16) -> Self {
        let lines = Vec::new();
        Self { reason, status, detail: "", retry_after: None, lines }
    }

    #[must_use]
    pub const fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    /// 401 with the challenge that it needs (RFC 9110 §11.6.1).
    #[must_use]
    pub fn unauthorized(challenge: &str) -> Self {
        let mut denial = Self::new("unauthorized", 401);
        denial.lines = format!("WWW-Authenticate: {challenge}\r\n").into_bytes();
        denial
    }

    #[must_use]
    pub const fn forbidden() -> Self {
        Self::new("forbidden", 403)
    }

    /// Credentials cannot be checked now.
    #[must_use]
    pub const fn unavailable() -> Self {
        Self::new("auth-unavailable", 503)
    }
}
