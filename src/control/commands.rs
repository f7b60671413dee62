//! The way by which a running instance is told things.
//!
//! Two queues, because reloads take seconds and may fill theirs: the word to stop is neither lost
//! for want of room nor kept waiting behind them.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};

use super::Command;

/// Words to stop that wait. More than two say nothing new: the second ends it at once.
const STOPS_MAX: usize = 2;

/// Other commands that wait. More than two say nothing new.
const OTHERS_MAX: usize = 4;

/// Who tells.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    stops: mpsc::Sender<Command>,
    others: mpsc::Sender<Command>,
}

/// Who is told.
#[derive(Debug)]
pub(super) struct Commands {
    stops: mpsc::Receiver<Command>,
    others: mpsc::Receiver<Command>,
}

pub(super) fn channel() -> (Teller, Commands) {
    let (stops, stopped) = mpsc::channel(STOPS_MAX);
    let (others, told) = mpsc::channel(OTHERS_MAX);
    (Teller { stops, others }, Commands { stops: stopped, others: told })
}

impl Teller {
    /// Says it now.
    ///
    /// # Errors
    /// When as many of its kind wait as say anything, or the instance has ended.
    pub fn try_send(&self, command: Command) -> Result<(), TrySendError<Command>> {
        self.queue_of(&command).try_send(command)
    }

    /// Says it as soon as there is room.
    ///
    /// # Errors
    /// When the instance has ended.
    pub async fn send(&self, command: Command) -> Result<(), SendError<Command>> {
        self.queue_of(&command).send(command).await
    }

    const fn queue_of(&self, command: &Command) -> &mpsc::Sender<Command> {
        match command {
            Command::Stop | Command::StopNow => &self.stops,
            Command::Reload(_) | Command::Upgrade | Command::HandedOver { .. } => &self.others,
        }
    }
}

impl Commands {
    /// The next; the end, if nobody is left to say anything.
    pub async fn next(&mut self) -> Command {
        tokio::select! {
            biased;
            Some(stop) = self.stops.recv() => stop,
            Some(other) = self.others.recv() => other,
            else => Command::StopNow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_word_to_stop_has_room_and_goes_before_reloads_that_wait() {
        let (teller, mut commands) = channel();
        while teller.try_send(Command::Reload(None)).is_ok() {}
        assert!(teller.try_send(Command::Stop).is_ok());
        assert!(teller.try_send(Command::Stop).is_ok());
        assert!(matches!(commands.next().await, Command::Stop));
        assert!(matches!(commands.next().await, Command::Stop));
        assert!(matches!(commands.next().await, Command::Reload(None)));
    }
}
