//! A network of a test's own, for drops, missing ports and what else loopback never does.
//!
//! The namespace belongs to one thread and those it starts, so it has no name to collide with
//! and is gone when they are. It needs the right to make one; without it the test says that it
//! skipped itself, or fails where everything is required.

use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::peers::{command, need, run};

/// Runs `test` with nothing but an own loopback interface.
pub fn in_own_network(programs: &[&str], test: impl FnOnce() + Send + 'static) {
    if !need(&["ip"]) || !need(programs) {
        return;
    }
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {}
            Err(Errno::EPERM) => {
                let required = std::env::var_os("SLUICEGATE_REQUIRE_PEERS").is_some();
                assert!(!required, "{name} needs root, for a network namespace");
                return println!("SKIPPED {name}: needs root, for a network namespace");
            }
            Err(errno) => panic!("a network namespace: {errno}"),
        }
        ip(&["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whatever comes for this TCP port is lost without a word.
pub fn black_hole(port: u16) {
    let port = port.to_string();
    nft(&["add", "table", "inet", "hole"]);
    nft(&["add", "chain", "inet", "hole", "input", "{ type filter hook input priority 0; }"]);
    nft(&["add", "rule", "inet", "hole", "input", "tcp", "dport", &port, "drop"]);
}

/// From now on connects without a port of their own get one of these.
pub fn local_ports(first: u16, last: u16) {
    let range = format!("{first} {last}");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("an own setting");
}

fn ip(words: &[&str]) {
    let mut ip: Command = command("ip");
    run(ip.args(words));
}

fn nft(words: &[&str]) {
    let mut nft: Command = command("nft");
    run(nft.args(words));
}
