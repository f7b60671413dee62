//! The program replaced under its clients, by SIGUSR2.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::{Gate, descriptors, resident};
use super::load::{Load, is_full, until_part};
use super::named_echo::{echo, open, say};
use super::peers::free_address;

/// The process that answers for the gate now; ends with the test.
pub struct Reign<'g> {
    gate: &'g Gate,
    pub pid: Pid,
}

impl<'g> Reign<'g> {
    pub fn of(gate: &'g Gate) -> Self {
        Self { gate, pid: gate.pid() }
    }

    /// Tells it to upgrade and waits until another process answers alone.
    pub fn upgrade(&mut self) {
        kill(self.pid, Signal::SIGUSR2).expect("it runs");
        let before = self.pid.as_raw();
        self.pid = until("another process answers", || {
            let status = self.gate.status();
            match status["pid"].as_i64() {
                Some(pid) if pid != i64::from(before) && status["ready"] == true => {
                    Ok(Pid::from_raw(pid as i32))
                }
                other => Err(other),
            }
        });
    }
}

impl Drop for Reign<'_> {
    fn drop(&mut self) {
        if self.pid != self.gate.pid() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

fn config(dir: &Path, echo: SocketAddr, web: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.raw]\nbind = [\"127.0.0.1:0\", \"unix:{dir}/raw.sock\"]\npool = \"raw\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"web\"\n\
         [pool.raw]\nservers = {{ s = \"{echo}\" }}\n[pool.web]\nservers = {{ s = \"{web}\" }}\n"
    )
}

/// Upgrades in a row; the whole of it takes a second each.
fn upgrades() -> usize {
    if is_full() { 20 } else { 4 }
}

#[test]
fn upgrades_under_load_refuse_cut_and_fail_nobody() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut gate = Gate::start(&config(dir.path(), echo("e"), backend.address));
    let (at_raw, at_web) = (gate.address("raw"), gate.address("web"));
    let mut long = Vec::new();
    let mut reign = Reign::of(&gate);
    let (upgrades, began) = (upgrades(), Instant::now());
    let mut sizes = Vec::new();
    let (came, asked) = Load::during(at_raw, at_web, || {
        for at in 1..=upgrades {
            long.push(open(at_raw).expect("a long session").0);
            reign.upgrade();
            for stream in &mut long {
                say(stream, b"still here").expect("a session of an older process");
            }
            until_part(began, at, upgrades);
            sizes.push((resident(reign.pid), descriptors(reign.pid)));
        }
    });
    println!(
        "{upgrades} upgrades, {came} connections, {asked} requests; bytes, descriptors: {sizes:?}"
    );
    // Each process begins anew, and with no more than the one before it.
    let ((first, fds), (last, fds_last)) = (sizes[0], sizes[upgrades - 1]);
    assert!(last < first + (8 << 20), "{first} then {last} bytes");
    assert!(fds_last <= fds + 40, "{fds} then {fds_last} descriptors");
    assert!(came > 20 && asked > 20, "that is no load");
    assert!(dir.path().join("raw.sock").exists(), "the socket's file is the new process's");
    // The first process goes when its last session has.
    drop(long);
    let last = std::mem::replace(&mut reign.pid, gate.pid());
    drop(reign);
    let ended = gate.wait_exit();
    let _ = kill(last, Signal::SIGKILL);
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_serving() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = config(dir.path(), echo("e"), backend.address);
    let gate = Gate::start(&good);
    let pid = gate.status()["pid"].clone();
    gate.rewrite(&good.replace("pool = \"raw\"", "pool = \"rwa\""));
    gate.signal(Signal::SIGUSR2);
    until("it says why", || {
        let said = gate.diagnostics();
        if said.contains("this process serves on") { Ok(()) } else { Err(said) }
    });
    let said = gate.diagnostics();
    assert!(said.contains("does not get ready (exit status: 78)"), "{said}");
    assert!(said.contains("rwa"), "the report of the new process: {said}");
    assert_eq!(gate.status()["pid"], pid);
    assert_eq!(open(gate.address("raw")).expect("it serves on").1, "e");
    gate.rewrite(&good);
    let mut reign = Reign::of(&gate);
    reign.upgrade();
    assert_eq!(open(gate.address("raw")).expect("the new one").1, "e");
}

#[test]
fn the_word_to_stop_ends_a_new_process_that_hangs_and_then_the_old_one() {
    stop_while_the_new_one_hangs("");
}

/// Then it is not the old one's child.
#[test]
fn the_word_to_stop_ends_a_new_process_that_hangs_under_a_service_manager_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let _manager = UnixDatagram::bind(&path).expect("a socket");
    stop_while_the_new_one_hangs(&format!("NOTIFY_SOCKET={} ", path.display()));
}

fn stop_while_the_new_one_hangs(environment: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_sluicegate"), &program).expect("a copy to be replaced");
    let run = format!("{environment}exec {} \"$@\"", program.display());
    let address = free_address();
    let mut gate =
        Gate::start_wrapped(&["sh", "-c", &run], &config(dir.path(), echo("e"), address));
    let (fresh, pid_file) = (dir.path().join("fresh"), dir.path().join("pid"));
    let hangs = format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", pid_file.display());
    std::fs::write(&fresh, hangs).expect("it is written");
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::rename(fresh, program).expect("it is there");
    gate.signal(Signal::SIGUSR2);
    let pid: i32 = until("the new program hangs", || {
        std::fs::read_to_string(&pid_file).unwrap_or_default().trim().parse()
    });
    gate.signal(Signal::SIGTERM);
    assert!(gate.wait_exit().success(), "long before the new one is late");
    until("the new one has ended too", || {
        kill(Pid::from_raw(pid), None).map_or(Ok(()), |()| Err("it lives"))
    });
    let said = gate.diagnostics();
    assert!(said.contains("upgrade: given up"), "{said}");
}
