//! Signals as commands: SIGTERM and SIGINT stop. SIGPIPE is ignored by Rust's own start.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Command;
use crate::observe::logger::Log;

/// Turns signals into commands, for ever.
pub(super) async fn listen(commands: mpsc::Sender<Command>, log: Log) {
    let (terminate, interrupt, hangup) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (terminate, interrupt, hangup)
    else {
        log.error("signals cannot be caught; the process stops without draining");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                log.warn("SIGHUP: this version cannot reload; restart it to apply a new file");
                continue;
            }
        }
        // Full: it has been told more than once already.
        let _ = commands.try_send(Command::Stop);
    }
}
