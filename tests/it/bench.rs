//! `bench` as scripts use it: its JSON, its files, its exit codes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("bench").args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

/// Echoes on a free port until the process ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn json_and_hgrm_tell_of_the_same_run() {
    let (target, dir) = (echo().to_string(), tempfile::tempdir().expect("a directory"));
    let file = dir.path().join("latency.hgrm");
    let path = file.to_str().expect("UTF-8");
    let output = bench(&[
        "tcp",
        &target,
        "--rate",
        "200",
        "--duration",
        "500ms",
        "--json",
        "--hgrm",
        path,
        "--direct",
        &target,
    ]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let result: Value = serde_json::from_str(text(&output.stdout)).expect("one JSON object");
    assert_eq!((&result["mode"], &result["url"]), (&"tcp".into(), &target.clone().into()));
    assert_eq!(result["rate_target"], 200.0);
    let requests = result["requests"].as_u64().expect("a number");
    let never_started = result["never_started"].as_u64().expect("a number");
    assert_eq!(requests + never_started, 100);
    assert!(result["direct"]["requests"].as_u64().is_some_and(|direct| direct > 0));
    assert!(result["added_us"]["p50"].is_number());
    let hgrm = std::fs::read_to_string(file).expect("written");
    assert!(hgrm.contains(&format!("Total count    = {requests:>12}]")), "{hgrm}");
}

#[test]
fn a_target_where_nobody_listens_is_named_and_exits_1() {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let target = free.local_addr().expect("bound").to_string();
    drop(free);
    let output = bench(&["http", &format!("http://{target}/"), "--json"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&target) && stderr.contains("Connection refused"), "{stderr}");
    let result: Value = serde_json::from_str(text(&output.stdout)).expect("one JSON object");
    assert_eq!(result["requests"], 0);
    assert!(result["errors"]["connect"].as_u64().is_some_and(|errors| errors > 0));
}

#[test]
fn a_target_that_is_none_is_wrong_usage() {
    let output = bench(&["tcp", "nowhere"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert!(text(&output.stderr).contains("target `nowhere`"), "{}", text(&output.stderr));
}
