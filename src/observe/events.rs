//! The last things that happened, for people who look later: a bounded list with numbers.
//!
//! Written by the control thread, read by the admin API and the demo. Each event has a
//! number that grows by one, so a reader asks for what came after the last one it saw, and
//! sees by a gap that it was too slow.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Events kept. A fleet of servers going down at once fits; a day's history belongs in the log.
const EVENTS_MAX: usize = 512;

/// What kind of thing happened. The word is stable, for filters and colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    ServerUp,
    ServerDown,
    ServerEjected,
    /// By the operator, as the three that follow.
    ServerDrained,
    ServerReady,
    ServerMaint,
    WeightChanged,
    BreakerOpened,
    BreakerClosed,
    MemberAdded,
    MemberRemoved,
    NameFailed,
    CertificatesRenewed,
    CertificatesKept,
    Reloaded,
    ReloadFailed,
    UpgradeFailed,
    Ready,
    Draining,
    LogStalled,
    WorkerFailed,
    WorkerStuck,
    WorkerRecovered,
}

impl EventKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerUp => "server-up",
            Self::ServerDown => "server-down",
            Self::ServerEjected => "server-ejected",
            Self::ServerDrained => "server-drained",
            Self::ServerReady => "server-ready",
            Self::ServerMaint => "server-maint",
            Self::WeightChanged => "weight-changed",
            Self::BreakerOpened => "breaker-opened",
            Self::BreakerClosed => "breaker-closed",
            Self::MemberAdded => "member-added",
            Self::MemberRemoved => "member-removed",
            Self::NameFailed => "name-failed",
            Self::CertificatesRenewed => "certificates-renewed",
            Self::CertificatesKept => "certificates-kept",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload-failed",
            Self::UpgradeFailed => "upgrade-failed",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::LogStalled => "log-stalled",
            Self::WorkerFailed => "worker-failed",
            Self::WorkerStuck => "worker-stuck",
            Self::WorkerRecovered => "worker-recovered",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    /// From 1, without gaps.
    pub number: u64,
    pub at: SystemTime,
    pub kind: EventKind,
    /// A sentence that names the thing.
    pub text: String,
}

#[derive(Debug, Default)]
pub struct Events {
    list: Mutex<List>,
    /// Rings with every event.
    news: Notify,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    events: VecDeque<Event>,
}

impl Events {
    pub fn push(&self, kind: EventKind, text: impl Into<String>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.last += 1;
        if list.events.len() == EVENTS_MAX {
            list.events.pop_front();
        }
        let event = Event { number: list.last, at: SystemTime::now(), kind, text: text.into() };
        list.events.push_back(event);
        drop(list);
        self.news.notify_waiters();
    }

    /// Resolves with the next event that is pushed after this was called.
    pub fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// The number of the last event; 0: there was none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Those with a number greater than `seen`, oldest first.
    #[must_use]
    pub fn since(&self, seen: u64) -> Vec<Event> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = list.events.partition_point(|event| event.number <= seen);
        list.events.range(newer..).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_what_came_after_what_it_saw() {
        let events = Events::default();
        events.push(EventKind::ServerDown, "a");
        events.push(EventKind::ServerUp, "b");
        let texts: Vec<_> = events.since(1).into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["b"]);
    }

    #[test]
    fn the_list_is_bounded_and_numbers_go_on() {
        let events = Events::default();
        for n in 0..EVENTS_MAX + 3 {
            events.push(EventKind::ServerUp, n.to_string());
        }
        let all = events.since(0);
        assert_eq!(all.len(), EVENTS_MAX);
        assert_eq!(all.last().map(|event| event.number), Some(EVENTS_MAX as u64 + 3));
    }
}
