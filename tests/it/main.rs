//! End-to-end tests: the real binary, real sockets, real servers. One test binary.
//!
//! What they stand on: [`gate`] starts the product on ports of the kernel's choice, [`peers`]
//! starts the servers and clients that it is for, [`deadline`] waits for a condition. All of
//! it ends with the value that owns it. A test that needs a program asks [`peers::need`]
//! first: `cargo test` alone passes without it, `scripts/test` does not.
//!
//! Traffic stays on loopback or in network namespaces that the test makes.

#![allow(
    clippy::naive_bytecount,
    clippy::large_stack_arrays,
    clippy::unchecked_time_subtraction,
    clippy::float_cmp,
    reason = "tests say what they mean; none of these can hurt here"
)]

mod access_log;
mod admin;
mod admin_attacks;
mod admin_crowd;
mod admin_tls;
mod alone;
mod answers;
mod auth_services;
mod authority;
mod backend;
mod balance;
mod bench;
mod black_hole;
mod browser;
mod bulk;
mod command_line;
mod compression;
mod cut_short;
mod dashboard;
mod dashboard_changes;
mod dashboards;
mod deadline;
mod demo;
mod descriptors;
#[allow(dead_code, reason = "offered to the tests of each feature")]
mod ends;
mod engine;
mod failover;
#[allow(dead_code, reason = "offered to the tests of each feature")]
mod gate;
mod gateway;
mod grpc;
mod hashed;
mod hold;
mod http;
mod http2;
mod http2_floods;
mod http2_frames;
mod http_edges;
mod http_edges_h2;
mod http_mutations;
mod http_servers;
mod kept_connections;
mod key_rotation;
mod lenient;
mod limits;
mod load;
mod managed;
mod meanwhile;
mod mirror;
mod misdirected;
#[allow(dead_code, reason = "offered to the tests of each feature")]
mod named_echo;
mod netns;
mod observing;
mod operating;
mod outliers;
mod packaging;
#[allow(dead_code, reason = "offered to the tests of each feature")]
mod peers;
mod policies;
mod pressure;
mod published_keys;
mod real_servers;
mod redis_failures;
mod redis_script;
mod relay;
mod reload;
mod renewal;
mod retries;
mod server_host;
mod shared_limits;
mod slow_clients;
mod stale_socket;
mod stolen_connections;
mod stream;
mod stuck;
mod talk;
mod tls;
mod tls_client;
mod top;
mod trailers;
mod transforms;
mod upgrade;
mod upgrades;
mod websocket;
mod without_io_uring;
