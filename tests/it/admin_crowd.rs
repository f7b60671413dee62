//! A crowd at the admin API and a gigabyte sent there, beside traffic that must not notice.
//!
//! `SLUICEGATE_ADMIN_CROWD_FULL=1` brings 10,000 idle connections instead of 1,000.

use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use super::admin_attacks::{flood, gate};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::peers::run;
use super::slow_clients::raise_descriptors;

const GIB: usize = 1 << 30;
const RATE: u64 = 500;
const SECONDS: u64 = 3;

fn crowd_size() -> usize {
    if std::env::var_os("SLUICEGATE_ADMIN_CROWD_FULL").is_some() { 10_000 } else { 1_000 }
}

/// New sessions at a rate, each with an exchange; what came of them.
fn traffic(gate: &Gate) -> Value {
    let target = gate.address("front").to_string();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    bench.args(["bench", "tcp", &target, "--new-connection", "--connections", "32", "--json"]);
    bench.args(["--rate", &RATE.to_string(), "--duration", &format!("{SECONDS}s")]);
    let result: Value = serde_json::from_str(&run(&mut bench)).expect("one JSON object");
    let errors = result["errors"].as_object().expect("by kind");
    assert!(errors.values().all(|count| count == 0), "{result}");
    let ended = result["requests"].as_u64().zip(result["never_started"].as_u64());
    assert_eq!(ended.map(|(done, never)| done + never), Some(RATE * SECONDS), "{result}");
    result
}

/// A gigabyte, declared and in chunks, as often as there is time.
fn send_gigabytes(gate: &Gate, over: &AtomicBool) -> usize {
    const CHUNK: usize = 64 << 10;
    let head = "PATCH /v1/pools/app/servers/a HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\n";
    let declared = format!("{head}Content-Length: {GIB}\r\n\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &[b' '; CHUNK], b"\r\n"].concat();
    let mut times = 0;
    while !over.load(Ordering::Relaxed) {
        for (head, bytes) in [(&declared, &[b' '; CHUNK][..]), (&chunked, &chunk)] {
            let answer = flood(gate, head, bytes, GIB / CHUNK);
            // Its connection may have had to make room for the crowd's next.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
            times += 1;
        }
    }
    times
}

#[test]
fn traffic_does_not_notice_a_crowd_and_a_gigabyte_at_the_admin_api() {
    raise_descriptors();
    let gate = gate("");
    let calm = traffic(&gate);
    let (before, memory) = (gate.descriptors(), gate.resident());
    let (over, size) = (AtomicBool::new(false), crowd_size());
    let (crowded, times) = thread::scope(|scope| {
        let address = gate.address("admin");
        let crowd = scope.spawn(move || -> Vec<TcpStream> {
            let come = |_| TcpStream::connect_timeout(&address, PATIENCE).expect("it may come");
            (0..size).map(come).collect()
        });
        let flood = scope.spawn(|| send_gigabytes(&gate, &over));
        let crowded = traffic(&gate);
        let crowd = crowd.join().expect("nobody was refused");
        over.store(true, Ordering::Relaxed);
        let times = flood.join().expect("each was told that it is too much");
        assert!(gate.descriptors() < before + 300, "places are few");
        drop(crowd);
        (crowded, times)
    });
    let grown = gate.resident().saturating_sub(memory);
    println!(
        "beside {size} idle connections and {times} bodies of a gigabyte: latency {} us, {} us alone; \
         {grown} bytes more",
        crowded["latency_us"], calm["latency_us"]
    );
    assert!(times > 0 && grown < 32 << 20, "{times} times, {grown} bytes more");
    until("the places to be free", || match gate.descriptors() {
        open if open < before + 10 => Ok(()),
        open => Err(open),
    });
}
