//! Socket files of processes that have ended.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use nix::sys::signal::Signal;
use sluicegate::runtime::listen::remove_stale;
use socket2::{Domain, SockAddr, Socket, Type};

use super::deadline::until;
use super::gate::Gate;
use super::named_echo::echo;
use super::peers::{PYTHON, command, need, run};

/// As after `kill -9` of a process on `io_uring`: it has ended, and its socket listens on for a
/// moment, since something of the kernel's still holds it. Here that is this process.
#[test]
fn a_socket_that_outlives_its_process_for_a_moment_is_waited_for() {
    if !need(&[PYTHON]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::unix(&path).expect("a short path")).expect("a free path");
    // Whoever calls listen(2) is who connections are told of.
    let listen = "import socket; socket.socket(fileno=0).listen()";
    let lent = OwnedFd::from(socket.try_clone().expect("a copy"));
    run(command(PYTHON).args(["-c", listen]).stdin(File::from(lent)));

    let listener = UnixListener::from(OwnedFd::from(socket));
    // Its end comes after the first look.
    let end = thread::spawn(move || drop(listener.accept().expect("a look")));
    remove_stale(&path).expect("nobody is there");
    assert!(!path.exists());
    end.join().expect("no panic");
}

#[test]
fn a_socket_of_a_process_that_lives_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).expect("a free path");
    let error = remove_stale(&path).expect_err("we are there").to_string();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    drop(listener);
    remove_stale(&path).expect("nobody is there");
}

#[test]
fn a_socket_file_goes_when_accepting_ends_and_not_with_the_last_session() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.sock");
    let mut gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.raw]\nbind = \"unix:{}\"\n\
         pool = \"p\"\n[pool.p]\nservers = {{ s = \"{}\" }}\n",
        path.display(),
        echo("e")
    ));
    let mut session = UnixStream::connect(&path).expect("a session");
    session.read_exact(&mut [0; 2]).expect("it is served");
    gate.signal(Signal::SIGTERM);
    until("nobody is let in", || if path.exists() { Err("it is there") } else { Ok(()) });
    let another = UnixListener::bind(&path).expect("a free path");
    drop(session);
    assert!(gate.wait_exit().success());
    assert!(path.exists(), "it is another's");
    drop(another);
}
