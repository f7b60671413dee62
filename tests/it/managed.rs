//! Under a service manager: sockets that it listens on (sd_listen_fds(3)), and whose child the new
//! process of an upgrade is.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};

use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::named_echo::{echo, open, say};
use super::peers::{PYTHON, need};
use super::upgrade::Reign;

/// Becomes the command behind its first argument, with the socket of that number where
/// sd_listen_fds(3) has it.
const HANDS_ON: &str = "
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)  # it may have been 3 already
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

/// A socket that this process listens on, also for another.
fn managed() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("children get it");
    let at = listener.local_addr().expect("bound");
    (listener, at)
}

fn start(listener: &TcpListener, config: &str) -> Gate {
    let number = listener.as_raw_fd().to_string();
    Gate::start_wrapped(&[PYTHON, "-c", HANDS_ON, &number], config)
}

fn config(at: SocketAddr, listeners: &str) -> String {
    format!(
        "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{{admin}}\"\n[log]\n\
         access = \"off\"\n{listeners}[pool.p]\nservers = {{ s = \"{}\" }}\n\
         [listener.other]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n",
        echo("e")
    )
    .replace("{at}", &at.to_string())
}

const RAW: &str = "[listener.raw]\nbind = \"{at}\"\npool = \"p\"\n";

#[test]
fn a_socket_that_a_service_manager_listens_on_is_used_by_all_workers() {
    if !need(&[PYTHON]) {
        return;
    }
    let (listener, at) = managed();
    let gate = start(&listener, &config(at, RAW));
    let mut sessions: Vec<_> =
        (0..64).map(|_| open(gate.address("raw")).expect("a session").0).collect();
    for stream in &mut sessions {
        say(stream, b"hello").expect("it is served");
    }
    let workers = gate.status()["workers"].clone();
    let busy = workers.as_array().expect("a list").iter().filter(|it| it["sessions"] != 0).count();
    assert_eq!(busy, 2, "{workers}");
}

#[test]
fn the_queue_of_a_service_manager_stays_open_when_we_have_ended() {
    if !need(&[PYTHON]) {
        return;
    }
    let (listener, at) = managed();
    let mut gate = start(&listener, &config(at, RAW));
    drop(open(at).expect("it is served"));
    gate.signal(Signal::SIGTERM);
    assert!(gate.wait_exit().success());
    TcpStream::connect_timeout(&at, PATIENCE).expect("there is a queue");
    let gate = start(&listener, &config(at, RAW));
    drop(open(at).expect("a client of the next one"));
    drop(gate);
}

#[test]
fn a_listener_on_a_service_managers_socket_can_go_and_come_back() {
    if !need(&[PYTHON]) {
        return;
    }
    let (listener, at) = managed();
    let gate = start(&listener, &config(at, ""));
    until("it says who is not served", || {
        let said = gate.diagnostics();
        let wanted = format!("the service manager listens on {at}");
        if said.contains(&wanted) { Ok(()) } else { Err(said) }
    });
    for listeners in [RAW, "", RAW] {
        gate.rewrite(&config(at, listeners));
        let (code, answer) = gate.admin("POST", "/v1/reload");
        assert_eq!(code, 200, "{answer}");
        if !listeners.is_empty() {
            drop(open(at).expect("it is served"));
        }
    }
    let mut reign = Reign::of(&gate);
    reign.upgrade();
    drop(open(at).expect("a client of the new process"));
}

#[test]
fn the_new_process_of_an_upgrade_is_no_child_of_the_old_one_under_a_service_manager() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let (_, at) = managed();
    let mut gate = Gate::start_wrapped(&["env", &variable], &config(at, ""));
    let mut long = open(gate.address("other")).expect("a long session").0;
    let mut reign = Reign::of(&gate);
    reign.upgrade();
    let new = reign.pid;
    let stat = std::fs::read_to_string(format!("/proc/{new}/stat")).expect("it runs");
    let parent = stat.rsplit_once(") ").expect("a name").1.split(' ').nth(1).map(str::to_owned);
    assert_ne!(parent, Some(gate.pid().to_string()), "{stat}");
    until("the manager hears which is the main process", || {
        let mut said = [0; 256];
        let count = manager.recv(&mut said).expect("a word");
        let said = String::from_utf8_lossy(&said[..count]).into_owned();
        if said.contains(&format!("MAINPID={new}")) { Ok(()) } else { Err(said) }
    });
    drop(open(gate.address("other")).expect("a session"));
    drop(reign);
    // systemd says it to all, and once more to those who are left when the main process is gone.
    for _ in 0..2 {
        gate.signal(Signal::SIGTERM);
        until("it is told", || {
            let said = gate.diagnostics();
            if said.contains("stopping: sessions have") { Ok(()) } else { Err(said) }
        });
    }
    for _ in 0..30 {
        say(&mut long, b"still here").expect("it has its time");
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    drop(long);
    assert!(gate.wait_exit().success());
    let _ = kill(new, Signal::SIGKILL);
}
