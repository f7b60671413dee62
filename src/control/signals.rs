//! Signals as commands: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2
//! upgrades. SIGPIPE is ignored by Rust's own start.

use tokio::signal::unix::{SignalKind, signal};

use super::Command;
use super::commands::Teller;
use crate::observe::logger::Log;

/// Turns signals into commands, for ever.
pub(super) async fn listen(commands: Teller, log: Log) {
    let (terminate, interrupt, hangup, second) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
        signal(SignalKind::user_defined2()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup), Ok(mut second)) =
        (terminate, interrupt, hangup, second)
    else {
        log.error("signals cannot be caught; the process stops without draining");
        return;
    };
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
