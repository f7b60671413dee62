//! The process that takes over: started, waited for, given up.
//!
//! Under a service manager it is that manager's child from its start and not ours: of a main
//! process that it did not start, or that is another's child, a manager does not see the end, and
//! systemd kills it at once where it would let its own end in order.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::upgrade::{Handed, READY, VARIABLE, send};
use crate::runtime::sys;

/// How long the new process may take until it accepts.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// How long it may take to its end when it has given up by itself.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Starts another process of the program, hands it the sockets and waits until it accepts.
/// Takes as long as that takes, or until `expected` is given up. Returns the process. `orphan`: it
/// is to be the child of whoever takes orphans up.
///
/// # Errors
/// Why it does not accept, in a sentence; it is not running then.
pub(super) fn hand_over(
    program: &Path,
    sockets: &[Handed],
    expected: &Expected,
    orphan: bool,
) -> Result<u32, String> {
    let said = |what: &str| {
        let program = program.display().to_string();
        let what = what.to_owned();
        move |error: io::Error| format!("{program}: {what}: {error}")
    };
    let (ours, theirs) = UnixStream::pair().map_err(said("no socket to hand over with"))?;
    let line = ours.try_clone().map_err(said("no socket to hand over with"))?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        // The watchdog of the service is to be fed by whoever is its main process.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    // With the command goes the other end: only the child may have it, so that its end is seen.
    expected.start(command, line, orphan).map_err(said("cannot be started"))?;
    let done = send(ours, sockets).and_then(await_ready);
    // Whoever gave it up has ended it.
    let given_up = || format!("{}: given up", program.display());
    let mut process = expected.take(done.is_ok()).ok_or_else(given_up)?;
    done.map_err(|error| {
        let status = process.end();
        let status = status.map_or_else(String::new, |status| format!(" ({status})"));
        format!("{} does not get ready{status}: {error}", program.display())
    })?;
    Ok(process.id())
}

fn await_ready(from: UnixStream) -> io::Result<()> {
    let mut from = from;
    from.set_read_timeout(Some(READY_DEADLINE))?;
    let mut said = [0; READY.len()];
    from.read_exact(&mut said)?;
    if said == READY { Ok(()) } else { Err(io::Error::other("it said something else")) }
}

/// The new process, while a thread waits for it that only a word of the process or its end wakes.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<Expectation>);

#[derive(Debug, Default)]
enum Expectation {
    #[default]
    Nobody,
    /// The line is the one that the thread reads.
    Started {
        process: Process,
        line: UnixStream,
    },
    Accepts {
        pid: u32,
    },
    /// For good: this process is at its end.
    GivenUp,
}

impl Expected {
    fn state(&self) -> MutexGuard<'_, Expectation> {
        // It is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, unless it is given up already.
    fn start(&self, command: Command, line: UnixStream, orphan: bool) -> io::Result<()> {
        let mut state = self.state();
        if matches!(*state, Expectation::GivenUp) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        *state = Expectation::Started { process: Process::start(command, orphan)?, line };
        Ok(())
    }

    /// The process, which is its taker's from now on; `None` if it was given up.
    fn take(&self, accepts: bool) -> Option<Process> {
        let mut state = self.state();
        match std::mem::take(&mut *state) {
            Expectation::Started { process, .. } => {
                if accepts {
                    *state = Expectation::Accepts { pid: process.id() };
                }
                Some(process)
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Ends the process, if there is one that does not accept yet, and lets the thread go. One
    /// that does is not ended: which it is.
    pub fn give_up(&self) -> Option<u32> {
        match std::mem::replace(&mut *self.state(), Expectation::GivenUp) {
            Expectation::Started { mut process, line } => {
                process.kill();
                // A process that it has started may have its end of the line too.
                let _ = line.shutdown(Shutdown::Both);
                None
            }
            Expectation::Accepts { pid } => Some(pid),
            Expectation::Nobody | Expectation::GivenUp => None,
        }
    }

    pub fn is_given_up(&self) -> bool {
        matches!(*self.state(), Expectation::GivenUp)
    }
}

#[derive(Debug)]
enum Process {
    Ours(Child),
    /// The service manager's child: by a descriptor, since its number may soon be another's.
    Theirs {
        pid: u32,
        fd: OwnedFd,
    },
}

impl Process {
    fn start(mut command: Command, orphan: bool) -> io::Result<Self> {
        if !orphan {
            return Ok(Self::Ours(command.spawn()?));
        }
        let (mut told, tell) = io::pipe()?;
        sys::orphan(&mut command, tell.into());
        let mut between = command.spawn()?;
        drop(command);
        between.wait()?;
        let mut pid = [0; 4];
        told.read_exact(&mut pid)?;
        let pid = u32::from_ne_bytes(pid);
        Ok(Self::Theirs { pid, fd: sys::pidfd_open(pid)? })
    }

    fn id(&self) -> u32 {
        match self {
            Self::Ours(child) => child.id(),
            Self::Theirs { pid, .. } => *pid,
        }
    }

    /// Ends one that does not get ready; how it ended, if it did by itself and that is ours to
    /// know.
    fn end(&mut self) -> Option<String> {
        let deadline = Instant::now() + END_DEADLINE;
        let mut ended = self.has_ended();
        while !ended && Instant::now() < deadline {
            std::thread::yield_now();
            ended = self.has_ended();
        }
        match self {
            Self::Ours(child) if ended => child.try_wait().ok().flatten().map(|it| it.to_string()),
            _ if ended => None,
            _ => {
                // It hangs.
                self.kill();
                None
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Ours(child) => matches!(child.try_wait(), Ok(Some(_))),
            Self::Theirs { fd, .. } => sys::has_ended(fd),
        }
    }

    /// It may have ended by itself.
    fn kill(&mut self) {
        match self {
            Self::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Theirs { fd, .. } => sys::kill(fd),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_program_that_does_not_get_ready_is_an_error_that_names_it() {
        for (program, words, orphan) in [
            ("/nonexistent/sg", "cannot be started", false),
            ("/nonexistent/sg", "cannot be started", true),
            ("/bin/true", "exit status: 0", false),
            ("/bin/true", "", true),
        ] {
            let done = hand_over(Path::new(program), &[], &Expected::default(), orphan);
            let error = done.unwrap_err();
            assert!(error.contains(program) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_program_that_hangs_ends_when_it_is_given_up_and_none_is_started_after() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hangs");
        // The second one has the line too, and outlives the first.
        std::fs::write(&program, "#!/bin/sh\nsleep 30 > /dev/null 2>&1 &\nexec sleep 600\n")
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        for orphan in [false, true] {
            let expected = Arc::new(Expected::default());
            let (waited, handing) = (expected.clone(), program.clone());
            let (done, over) = std::sync::mpsc::channel();
            std::thread::spawn(move || done.send(hand_over(&handing, &[], &waited, orphan)));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !matches!(*expected.state(), Expectation::Started { .. }) {
                assert!(Instant::now() < deadline, "never started");
                std::thread::yield_now();
            }
            assert_eq!(expected.give_up(), None);
            let error = over.recv_timeout(Duration::from_secs(10)).expect("it ends").unwrap_err();
            assert!(error.contains("given up"), "{error}");
            let error = hand_over(&program, &[], &expected, orphan).unwrap_err();
            assert!(error.contains("cannot be started"), "{error}");
        }
    }
}
