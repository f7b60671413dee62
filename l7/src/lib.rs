//! HTTP without I/O: message framing, route table, header rules.
//!
//! Bytes and values in, values out. Nothing here knows a file descriptor, a clock or a thread,
//! nor that the crate which does exists.
#![forbid(unsafe_code)]

pub mod answer;
pub mod compress;
pub mod http1;
pub mod identity;
pub mod path;
pub mod policy;
pub mod route;
pub mod text;
pub mod trace;
