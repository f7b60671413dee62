//! Socket files of processes that have ended.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread;

use sluicegate::runtime::listen::remove_stale;
use socket2::{Domain, SockAddr, Socket, Type};

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
