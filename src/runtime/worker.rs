//! One worker: a pinned thread with its own ring, sockets, timers and counters.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::mail::Mailbox;
use crate::control::notice::Notices;
use crate::observe::counters::WorkerCounts;
use crate::observe::record::SessionRecord;
use crate::registry::{ListenerId, Snapshot};

/// How the outside reaches a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    pub id: u16,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    pub mailbox: Mailbox,
    pub counts: Arc<WorkerCounts>,
}

/// A bound and listening socket of one worker.
#[derive(Debug)]
pub struct Listening {
    pub listener: ListenerId,
    pub fd: OwnedFd,
    pub unix: bool,
}

/// What all workers and control have in common, made once at start.
#[derive(Debug)]
pub struct Shared {
    pub notices: Notices,
    /// Ended sessions for the access log, one queue a worker.
    pub records: Vec<ArrayQueue<SessionRecord>>,
    /// Every worker, by id.
    pub workers: Vec<WorkerHandle>,
}

/// Records that wait for the log writer, per worker: a second of 8,000 sessions.
pub const RECORDS_MAX: usize = 8_192;

/// Everything a worker starts with.
#[derive(Debug)]
pub struct Setup {
    pub id: u16,
    pub listening: Vec<Listening>,
    pub snapshot: Arc<Snapshot>,
    pub shared: Arc<Shared>,
    /// Accept only after [`super::mail::Mail::Accept`] (first checks are still to come).
    pub wait_for_accept: bool,
}
