//! Signals as commands: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2
//! upgrades. SIGPIPE is ignored by Rust's own start.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Command;
use super::commands::Teller;
use crate::observe::logger::Log;

/// Signals that no longer do what the kernel does by itself, which is to end the process.
pub(super) struct Caught {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    second: Signal,
}

/// Catches them at once: whoever reads `ready` may send one.
pub(super) fn catch(log: &Log) -> Option<Caught> {
    let (terminate, interrupt, hangup, second) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
        signal(SignalKind::user_defined2()),
    );
    let (Ok(terminate), Ok(interrupt), Ok(hangup), Ok(second)) =
        (terminate, interrupt, hangup, second)
    else {
        log.error("signals cannot be caught; the process stops without draining");
        return None;
    };
    Some(Caught { terminate, interrupt, hangup, second })
}

/// Turns signals into commands, for ever.
pub(super) async fn listen(caught: Caught, commands: Teller) {
    let Caught { mut terminate, mut interrupt, mut hangup, mut second } = caught;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                // Full: a reload is coming anyway, or the end.
                let _ = commands.try_send(Command::Reload(None));
                continue;
            }
            _ = second.recv() => {
                let _ = commands.try_send(Command::Upgrade);
                continue;
            }
        }
        // Full: it has been told twice already.
        let _ = commands.try_send(Command::Stop);
    }
}
