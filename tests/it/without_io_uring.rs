//! Hosts that refuse io_uring, as containers do: a seccomp filter over the real binary.
//!
//! The filter is put on a thread of the test, and what that thread starts inherits it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::Value;

use super::engine::{echo, server};
use super::gate::Gate;

/// The file alone decides, however these tests are run.
const UNTOLD: [&str; 3] = ["env", "--unset", "SLUICEGATE_ENGINE"];

/// Runs `test` where every call of io_uring meets `action`.
fn where_io_uring(action: SeccompAction, test: impl FnOnce() + Send + 'static) {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let rules: BTreeMap<_, _> = calls.map(|call| (call, Vec::new())).into();
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    let test = move || {
        apply_filter(&program).expect("a filter on this thread");
        test();
    };
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

fn refused(test: impl FnOnce() + Send + 'static) {
    where_io_uring(SeccompAction::Errno(libc::EPERM as u32), test);
}

/// An echo server behind a gate with `engine`.
fn config(engine: &str) -> String {
    format!(
        r#"
version = 1
[runtime]
workers = 1
engine = "{engine}"
[admin]
bind = "{{admin}}"
[log]
access = "stdout"
[listener.echo]
bind = "127.0.0.1:0"
pool = "echo"
[pool.echo.servers]
s = "{}"
"#,
        server(echo)
    )
}

fn sluicegate(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    let output = command.env_remove("SLUICEGATE_ENGINE").args(args).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// It serves, logs, and says that it does so on epoll.
fn assert_serves_on_epoll(gate: &Gate) {
    let mut client = gate.connect("echo");
    client.write_all(b"hello").expect("it takes bytes");
    client.shutdown(std::net::Shutdown::Write).expect("connected");
    let mut back = String::new();
    client.read_to_string(&mut back).expect("an echo and an end");
    assert_eq!(back, "hello");
    assert_eq!(gate.log(1)[0]["reason"], "ok");
    assert_eq!(gate.status()["engine"], "epoll");
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("sluicegate_build_info{{version=\"{version}\",engine=\"epoll\"}}");
    assert_eq!(gate.metric(&info), Some(1.0));
}

#[test]
fn auto_serves_on_epoll_and_its_first_line_says_why() {
    refused(|| {
        let gate = Gate::start_wrapped(&UNTOLD, &config("auto"));
        assert_serves_on_epoll(&gate);
        let said = gate.diagnostics();
        let first = said.lines().next().expect("a line");
        assert!(first.contains("engine epoll, because io_uring is"), "{said}");
    });
}

#[test]
fn io_uring_by_name_is_refused_with_its_cause() {
    refused(|| {
        let refusal = Gate::try_start(&UNTOLD, &config("io_uring"));
        let refusal = refusal.err().expect("it cannot serve");
        assert_eq!((refusal.code, refusal.stdout.as_str()), (Some(71), ""));
        assert!(refusal.stderr.contains("io_uring is"), "{}", refusal.stderr);
    });
}

#[test]
fn epoll_by_name_asks_for_no_ring() {
    where_io_uring(SeccompAction::KillProcess, || {
        let gate = Gate::start_wrapped(&UNTOLD, &config("epoll"));
        assert_serves_on_epoll(&gate);
        let said = gate.diagnostics();
        assert!(said.lines().next().is_some_and(|line| line.ends_with("engine epoll")), "{said}");
    });
}

#[test]
fn the_demo_runs_and_loses_nothing() {
    refused(|| {
        let (code, stdout, stderr) = sluicegate(&["demo", "--for", "3s", "--json", "--port", "0"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        let summary: Value = serde_json::from_str(&stdout).expect("one JSON object");
        assert_eq!(summary["errors"], 0, "{stdout}");
        assert!(summary["requests"].as_u64().is_some_and(|requests| requests > 0), "{stdout}");
    });
}

#[test]
fn bench_measures() {
    refused(|| {
        let target = server(echo).to_string();
        let args = ["bench", "tcp", &target, "--rate", "200", "--duration", "500ms", "--json"];
        let (code, stdout, stderr) = sluicegate(&args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        let result: Value = serde_json::from_str(&stdout).expect("one JSON object");
        assert!(result["requests"].as_u64().is_some_and(|requests| requests > 0), "{stdout}");
    });
}

#[test]
fn doctor_warns_and_names_the_engine() {
    refused(|| {
        let (code, stdout, _) = sluicegate(&["doctor", "--json"]);
        assert_eq!(code, Some(0), "{stdout}");
        let report: Value = serde_json::from_str(&stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("a list");
        let check = |name: &str| checks.iter().find(|check| check["name"] == name).expect(name);
        assert_eq!(check("io_uring")["verdict"], "warn");
        let engine = check("engine")["found"].as_str().expect("words");
        assert!(engine.contains("epoll"), "{engine}");
    });
}
