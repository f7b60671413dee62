//! One of three servers vanishes without a word under new connections, behind the real binary.
//!
//! `SLUICEGATE_HOLE_FULL=1` brings 500 new connections a second for 20 seconds.

use std::process::Command;

use serde_json::Value;

use super::gate::Gate;
use super::netns::{black_hole, in_own_network};
use super::peers::run;
use super::slow_clients::raise_descriptors;

fn new_connections(gate: &Gate, rate: u64, seconds: u64) -> Value {
    let target = gate.address("front").to_string();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    bench.args(["bench", "tcp", &target, "--new-connection", "--connections", "2000", "--json"]);
    let (rate, seconds) = (rate.to_string(), format!("{seconds}s"));
    bench.args(["--rate", &rate, "--duration", &seconds, "--timeout", "20s"]);
    serde_json::from_str(&run(&mut bench)).expect("one JSON object")
}

fn state(gate: &Gate) -> Value {
    gate.status()["pools"]["p"]["servers"]["b"]["state"].clone()
}

#[test]
fn no_client_of_the_binary_fails_while_a_server_is_a_black_hole_and_it_is_ejected() {
    in_own_network(&["nft"], || {
        raise_descriptors();
        let full = std::env::var_os("SLUICEGATE_HOLE_FULL").is_some();
        let (rate, seconds) = if full { (500, 20) } else { (100, 3) };
        let servers = ["a", "b", "c"].map(|_| super::engine::server(super::engine::echo));
        let gate = Gate::start(&format!(
            "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n[defaults]\n\
             connect_timeout = \"1s\"\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
             [pool.p]\noutlier = {{ errors = 5, eject_for = \"10m\" }}\n[pool.p.servers]\n\
             a = \"{}\"\nb = \"{}\"\nc = \"{}\"\n",
            servers[0], servers[1], servers[2]
        ));
        let before = new_connections(&gate, rate, 1);
        assert_eq!(state(&gate), "up");
        black_hole(servers[1].port());
        let during = new_connections(&gate, rate, seconds);
        assert_eq!(state(&gate), "ejected");
        let after = new_connections(&gate, rate, 1);
        for (when, result) in [("before", &before), ("during", &during), ("after", &after)] {
            println!(
                "{when}: {} of {rate}/s, p50 {} us, p99 {} us, longest {} us",
                result["requests"],
                result["latency_us"]["p50"],
                result["latency_us"]["p99"],
                result["latency_us"]["max"]
            );
            let errors = result["errors"].as_object().expect("by kind");
            assert!(errors.values().all(|count| count == 0), "{when}: {result}");
        }
    });
}
