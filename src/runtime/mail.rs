//! Messages to a worker, and the eventfd that wakes its ring.
//!
//! Anyone may post: the control thread, another worker handing a connection over, whoever
//! released a waiting client. The queue is bounded; a post that does not fit comes back, and so
//! does one to a worker that has ended.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crossbeam::queue::ArrayQueue;
use hdrhistogram::Histogram;

use super::driver::Fd;
use super::time::Time;
use super::worker::{Listening, SocketId};
use crate::http::Told;
use crate::net::Peer;
use crate::observe::requests::RequestCounts;
use crate::registry::{ListenerId, PoolId, ServerId, Snapshot};

/// Posts that wait for one worker. A worker empties its mailbox every turn, so this is only
/// reached when it is stuck; a release of waiters then simply happens later.
const MAIL_MAX: usize = 16_384;

#[derive(Debug)]
pub enum Mail {
    /// A connection accepted by a busier worker. Its descriptors are counted; the listener's limits
    /// have not been asked yet.
    Adopt { fd: Fd, listener: ListenerId, peer: Peer },
    /// A waiting client may try again: a server has room.
    Released { pool: PoolId, slot: u32, generation: u32 },
    /// A password was looked at, or a question answered, for a request that waits.
    Told(Told),
    /// Another worker asks for an unused connection to a server.
    Steal(Steal),
    /// What came of that. A descriptor in it is the reader's, whether anybody still waits or not.
    Stolen(Stolen),
    /// Another worker lacks descriptors: unused connections to servers are to close.
    Spare,
    /// The membership changed. The worker posts the old one back to be dropped.
    Snapshot(Arc<Snapshot>),
    /// Asks whether everything that was posted before has been read.
    Heard(tokio::sync::oneshot::Sender<()>),
    /// Asks for the histograms filled since the last time.
    Scrape(std::sync::mpsc::SyncSender<Histograms>),
    /// First checks are done: start accepting.
    Accept,
    /// A reload opens, moves and closes sockets. The snapshot with their listeners came before.
    Doors(DoorChanges),
    /// `on_down = "close-sessions"`.
    CloseSessionsOn(ServerId),
    /// Stop accepting (after emptying the accept queues) and end when the last session has.
    Drain,
    /// Stop accepting at once, because another process accepts from the same queues, and end
    /// when the last session has.
    Leave,
    /// Reset what is left, as `drain-timeout` or `shutdown`, and end.
    Stop { timed_out: bool },
}

/// Who has no unused connection to a server and waits for another worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steal {
    pub server: ServerId,
    pub thief: u16,
    pub ticket: u32,
    pub generation: u32,
}

/// The answer: a connection, and since when it has not been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stolen {
    pub steal: Steal,
    pub fd: Option<Fd>,
    pub since: Time,
}

/// What a reload does to the listening sockets of one worker.
#[derive(Debug, Default)]
pub struct DoorChanges {
    pub opened: Vec<Listening>,
    /// Whose listener is another one now: clients in the queue are the new one's.
    pub moved: Vec<(SocketId, ListenerId)>,
    pub closed: Vec<SocketId>,
}

/// What one worker measured since it was last asked. Microseconds, 1 µs–1 h, 2 digits.
#[derive(Debug, Default)]
pub struct Histograms {
    pub worker: u16,
    /// Whole sessions, by listener.
    pub session: Vec<(ListenerId, Histogram<u32>)>,
    /// Successful connects, by server.
    pub connect: Vec<(ServerId, Histogram<u32>)>,
    /// Round trips, by server.
    pub rtt: Vec<(ServerId, Histogram<u32>)>,
    /// Requests of HTTP listeners.
    pub requests: RequestCounts,
}

/// The address of a worker.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: ArrayQueue<Mail>,
    wake: OwnedFd,
    /// Nobody reads it.
    closed: AtomicBool,
    /// Posts that have looked at `closed` and are not in the queue yet.
    posting: AtomicU32,
}

impl Mailbox {
    /// # Errors
    /// When the kernel refuses an eventfd (descriptor limit).
    pub fn new() -> std::io::Result<Self> {
        let wake = super::sys::eventfd()?;
        Ok(Self(Arc::new(Inner {
            queue: ArrayQueue::new(MAIL_MAX),
            wake,
            closed: AtomicBool::new(false),
            posting: AtomicU32::new(0),
        })))
    }

    /// Puts `mail` in and wakes the worker; gives it back when the box is full or closed.
    ///
    /// # Errors
    /// The mail itself, when [`MAIL_MAX`] posts wait already, or its reader has ended.
    pub fn post(&self, mail: Mail) -> Result<(), Mail> {
        let inner = &*self.0;
        inner.posting.fetch_add(1, Ordering::SeqCst);
        let closed = inner.closed.load(Ordering::SeqCst);
        let pushed = if closed { Err(mail) } else { inner.queue.push(mail) };
        inner.posting.fetch_sub(1, Ordering::SeqCst);
        pushed?;
        super::sys::eventfd_signal(&inner.wake);
        Ok(())
    }

    /// Takes no more. What was posted before can be read by then: a post is either in the queue
    /// or comes back.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        while self.0.posting.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now(); // a push takes some nanoseconds
        }
    }

    /// Takes mail again.
    pub fn reopen(&self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }

    /// Wakes the worker without a word: one that is well makes a turn.
    pub fn wake(&self) {
        super::sys::eventfd_signal(&self.0.wake);
    }

    /// The oldest post.
    #[must_use]
    pub fn take(&self) -> Option<Mail> {
        self.0.queue.pop()
    }

    /// The descriptor a worker's ring waits on.
    #[must_use]
    pub fn wake_fd(&self) -> Fd {
        Fd(self.0.wake.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_box_gives_mail_back_and_what_came_before_can_be_read() {
        let mailbox = Mailbox::new().unwrap();
        assert!(mailbox.post(Mail::Accept).is_ok());
        mailbox.close();
        assert!(matches!(mailbox.post(Mail::Drain), Err(Mail::Drain)));
        assert!(matches!(mailbox.take(), Some(Mail::Accept)));
        assert!(mailbox.take().is_none());
        mailbox.reopen();
        assert!(mailbox.post(Mail::Leave).is_ok());
    }

    #[test]
    fn of_those_who_post_while_it_closes_each_is_read_or_gets_its_mail_back() {
        const POSTERS: usize = 4;
        let mailbox = Mailbox::new().unwrap();
        let begun = std::sync::Barrier::new(POSTERS + 1);
        let (taken, refused) = std::thread::scope(|scope| {
            let post = || {
                begun.wait();
                (0..500).filter(|_| mailbox.post(Mail::Accept).is_err()).count()
            };
            let posters: Vec<_> = (0..POSTERS).map(|_| scope.spawn(post)).collect();
            begun.wait();
            mailbox.close();
            let taken = std::iter::from_fn(|| mailbox.take()).count();
            (taken, posters.into_iter().map(|one| one.join().unwrap()).sum::<usize>())
        });
        assert_eq!(taken + refused, POSTERS * 500);
        assert!(mailbox.take().is_none());
    }
}
