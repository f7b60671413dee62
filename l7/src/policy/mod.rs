//! Who may pass, how often, and what they see: verdicts on requests, without I/O.
//!
//! One file for each kind of policy. What needs the outside (a token's introspection, a shared
//! limit, a slow password hash) is worked out by the shell and judged here.

pub mod algorithm;
pub mod claims;
pub mod introspection;
mod json;
pub mod jwks;
mod jws;
pub mod jwt;
pub mod keyring;
pub mod token_cache;
pub mod breaker;
pub mod limit_lines;
pub mod quota;
pub mod rate;
pub mod redis_script;
