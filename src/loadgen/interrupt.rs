//! SIGINT and SIGTERM as a question that can be asked, so that a run ends with its summary.
//!
//! The signals are blocked in every thread and read from a descriptor. That has to happen
//! before other threads start: they inherit the mask.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The two signals, no longer deadly.
#[derive(Debug)]
pub struct Interrupt(Option<SignalFd>);

impl Interrupt {
    /// Takes the signals over. Where the kernel gives no descriptor they stay deadly.
    #[must_use]
    pub fn new() -> Self {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Self(fd.ok().filter(|_| signals.thread_block().is_ok()))
    }

    /// Whether one has come since the last time this was asked.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.as_ref().is_some_and(|fd| matches!(fd.read_signal(), Ok(Some(_))))
    }
}

impl Default for Interrupt {
    fn default() -> Self {
        Self::new()
    }
}
