//! Tests of this module that need certificates or real clients.

mod hello;
mod server;
