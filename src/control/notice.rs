//! What workers tell the control thread while they run.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use sluicegate_l7::policy::breaker::BreakerState;
use tokio::sync::Notify;

use crate::http::shared_limits::Unavailable;
use crate::observe::counters::ConnectResult;
use crate::registry::{PoolId, ServerId, Snapshot};

#[derive(Debug)]
pub enum Notice {
    /// A connect failed: check the server at once (control makes that single flight).
    ConnectFailed { server: ServerId, result: ConnectResult },
    /// `errors_in_row` of a server reached its pool's `outlier.errors`.
    Outlier { server: ServerId },
    /// The circuit breaker of a pool has opened or closed.
    Breaker { pool: PoolId, state: BreakerState },
    /// The Redis behind this pool has ceased to decide about limits for a worker, and why, or
    /// does so again.
    Store { worker: u16, pool: PoolId, decides: Result<(), Unavailable> },
    /// A snapshot no worker uses any more, to be dropped here.
    Old(Arc<Snapshot>),
    /// The last session of a worker that drains has ended, or it was stopped.
    WorkerDone { worker: u16 },
    /// A worker's ring refused to go on.
    WorkerFailed { worker: u16, error: String },
}

impl Notice {
    /// Whether it comes with every failure, and the next active check finds out anyway.
    const fn can_be_lost(&self) -> bool {
        matches!(self, Self::ConnectFailed { .. } | Self::Outlier { .. })
    }
}

/// The bounded way from the workers to control. Those that can be lost leave half of it to the
/// others, which come once for a change of something.
#[derive(Debug)]
pub struct Notices {
    queue: ArrayQueue<Notice>,
    wake: Notify,
}

/// A burst of one notice from each of 4,096 sessions, and as many of what must arrive.
const NOTICES_MAX: usize = 8_192;

impl Default for Notices {
    fn default() -> Self {
        Self { queue: ArrayQueue::new(NOTICES_MAX), wake: Notify::new() }
    }
}

impl Notices {
    pub fn post(&self, notice: Notice) {
        if notice.can_be_lost() && self.queue.len() >= NOTICES_MAX / 2 {
            return;
        }
        if self.queue.push(notice).is_ok() {
            self.wake.notify_one();
        }
    }

    /// The next notice, if there is one.
    #[must_use]
    pub fn next_now(&self) -> Option<Notice> {
        self.queue.pop()
    }

    /// The next notice; waits for one.
    pub async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.queue.pop() {
                return notice;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_connects_leave_room_for_what_must_arrive() {
        let notices = Notices::default();
        for _ in 0..NOTICES_MAX {
            let result = ConnectResult::Refused;
            notices.post(Notice::ConnectFailed { server: ServerId(0), result });
        }
        notices.post(Notice::WorkerDone { worker: 1 });
        let mut last = None;
        while let Some(notice) = notices.next_now() {
            last = Some(notice);
        }
        assert!(matches!(last, Some(Notice::WorkerDone { worker: 1 })), "{last:?}");
    }
}
