//! The data path of TCP sessions.
