//! A client of the admin API, for the tests of what operators do.

use serde_json::Value;

use super::deadline::until;
use super::gate::Gate;
use super::talk::{Said, Talk};

/// Starts a gate and waits until it says itself that it is ready: it prints so a moment before,
/// and the event comes after.
pub fn start(config: &str) -> Gate {
    let gate = Gate::start(config);
    until("/readyz", || match talk(&gate).get("/readyz").status {
        200 => Ok(()),
        other => Err(other),
    });
    gate
}

/// A connection to the admin listener.
pub fn talk(gate: &Gate) -> Talk<std::net::TcpStream> {
    let mut talk = Talk::to(gate, "admin");
    talk.host = "localhost".into();
    talk
}

/// One PATCH of `POOL/SERVER`: status and what it says.
pub fn patch(gate: &Gate, server: &str, body: &str) -> (u16, Value) {
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let (pool, server) = server.split_once('/').expect("POOL/SERVER");
    let path = format!("/v1/pools/{pool}/servers/{server}");
    let said = talk(gate).ask("PATCH", &path, &fields, body.as_bytes());
    (said.status, json(&said))
}

/// The same, which is expected to be done.
pub fn change(gate: &Gate, server: &str, body: &str) -> Value {
    let (status, said) = patch(gate, server, body);
    assert_eq!(status, 200, "{said}");
    said
}

pub fn json(said: &Said) -> Value {
    serde_json::from_slice(&said.body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.body)))
}

/// The server as `GET /v1/status` has it.
pub fn server(gate: &Gate, pool: &str, server: &str) -> Value {
    gate.status()["pools"][pool]["servers"][server].clone()
}
