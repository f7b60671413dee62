//! The data path of TCP sessions.

pub mod proxy_protocol;
