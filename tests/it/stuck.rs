//! A worker that stands still. The debugger's interface of the kernel stops the one thread, so
//! the product has no part for it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::admin::talk;
use super::deadline::{PATIENCE, until};
use super::gate::Gate;

/// The thread of worker `id`.
fn thread_of(gate: &Gate, id: usize) -> Pid {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gate.pid())).expect("our own child");
    let name = |path: std::path::PathBuf| std::fs::read_to_string(path.join("comm")).ok();
    let wanted = format!("worker-{id}\n");
    let task = tasks.flatten().find(|task| name(task.path()).as_ref() == Some(&wanted));
    let task = task.expect("a worker").file_name().into_string().expect("digits");
    Pid::from_raw(task.parse().expect("a number"))
}

/// Stops the thread until [`go_on`]. `false`: this machine forbids it.
fn stop(thread: Pid) -> bool {
    if let Err(error) = ptrace::seize(thread, ptrace::Options::empty()) {
        println!("skipped: this machine does not let a test stop a thread: {error}");
        return false;
    }
    ptrace::interrupt(thread).expect("it is ours");
    waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
    true
}

fn go_on(thread: Pid) {
    ptrace::detach(thread, None).expect("it is ours");
}

fn health(gate: &Gate) -> (u16, String) {
    let said = talk(gate).get("/healthz");
    (said.status, String::from_utf8_lossy(&said.body).into_owned())
}

fn wait_health(gate: &Gate, status: u16) -> String {
    until("that health", || match health(gate) {
        (found, body) if found == status => Ok(body),
        other => Err(other),
    })
}

const CONFIG: &str = "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{admin}\"\n\
    [log]\naccess = \"off\"\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
    [pool.app.servers]\na = \"127.0.0.1:9\"\n";

#[test]
fn a_worker_that_stands_still_is_told_of_and_so_is_its_recovery() {
    let gate = Gate::start(CONFIG);
    assert_eq!(health(&gate), (200, "ok\n".to_owned()));
    let thread = thread_of(&gate, 1);
    if !stop(thread) {
        return;
    }
    assert_eq!(wait_health(&gate, 503), "stuck: worker 1\n");
    let stuck = |gate: &Gate| {
        let workers = gate.status()["workers"].clone();
        [0, 1].map(|id| workers[id]["stuck"].as_bool().expect("it is said"))
    };
    assert_eq!(stuck(&gate), [false, true]);
    assert_eq!(gate.metric("sluicegate_workers_stuck"), Some(1.0));
    go_on(thread);
    wait_health(&gate, 200);
    assert_eq!(stuck(&gate), [false, false]);
    let said = gate.diagnostics();
    assert!(said.contains("worker 1 is stuck") && said.contains("worker 1 moves again"), "{said}");
}

#[test]
fn the_service_managers_watchdog_is_fed_only_while_all_workers_move() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    let environment = format!("NOTIFY_SOCKET={}", path.display());
    let gate = Gate::start_wrapped(&["env", &environment, "WATCHDOG_USEC=300000"], CONFIG);
    let next = || {
        let mut text = [0; 64];
        let count = manager.recv(&mut text).expect("a message");
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    until("the watchdog to be fed", || match next() {
        text if text == "WATCHDOG=1" => Ok(()),
        other => Err(other),
    });
    let thread = thread_of(&gate, 0);
    if !stop(thread) {
        return;
    }
    wait_health(&gate, 503);
    // What was sent until then is read; now there is silence for many times the interval.
    manager.set_nonblocking(true).expect("an option of a socket");
    while manager.recv(&mut [0; 64]).is_ok() {}
    manager.set_nonblocking(false).expect("an option of a socket");
    manager.set_read_timeout(Some(Duration::from_secs(1))).expect("an option of a socket");
    assert!(manager.recv(&mut [0; 64]).is_err(), "fed while a worker is stuck");
    go_on(thread);
    manager.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    assert_eq!(next(), "WATCHDOG=1");
}
