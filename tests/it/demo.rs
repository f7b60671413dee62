//! `demo` as a stranger starts it: in a pipe, for a machine, and with its port taken.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use serde_json::Value;

fn demo(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("demo").args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

#[test]
fn a_server_that_dies_under_load_costs_no_request() {
    let output = demo(&["--for", "3s", "--json", "--port", "0"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr), (Some(0), ""), "{stdout}");
    let summary: Value = serde_json::from_str(stdout).expect("one JSON object");
    assert_eq!(summary["errors"], 0, "{stdout}");
    assert!(summary["requests"].as_u64().is_some_and(|requests| requests > 0), "{stdout}");
    assert!(summary["latency_us"]["p99"].is_number(), "{stdout}");
    let events = summary["events"].as_array().expect("a list");
    let kinds: Vec<_> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["server-killed", "server-down", "server-revived", "server-up"] {
        assert!(kinds.contains(&kind), "no {kind} in {stdout}");
    }
}

#[test]
fn in_a_pipe_it_prints_lines_and_what_to_try() {
    let output = demo(&["--for", "2s", "--port", "0"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(!stdout.contains('\x1b'), "{stdout}");
    for part in [
        "listening on 127.0.0.1:",
        "dashboard and",
        "curl http://127.0.0.1:",
        "is killed",
        "errors 0",
    ] {
        assert!(stdout.contains(part), "no `{part}` in {stdout}");
    }
}

#[test]
fn a_taken_port_is_refused_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address: SocketAddr = taken.local_addr().expect("bound");
    let output = demo(&["--for", "2s", "--port", &address.port().to_string()]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(71), ""));
    assert!(text(&output.stderr).contains(&address.to_string()), "{}", text(&output.stderr));
}
