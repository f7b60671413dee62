#![doc = include_str!("ARCHITECTURE.md")]

// In reading order: what is configured, what is shared, how bytes move, who watches.
pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod fronts;
pub mod health;
pub mod http;
pub mod l4;
pub mod limits;
pub mod loadgen;
pub mod net;
pub mod observe;
pub mod pools;
pub mod registry;
pub mod runtime;
pub mod stream;
pub mod tls;
