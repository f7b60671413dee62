//! Whose turn it is at work of which a round has room for one.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// A turn each round, in order of asking. Who had to wait is never overtaken: under a storm there
/// is somebody new in every round.
#[derive(Debug, Default)]
pub struct Turns {
    /// Nobody has used or was promised this round's.
    free: bool,
    waiting: VecDeque<Waker>,
    /// Tickets given to those who wait, and how many of them have been called.
    given: u64,
    called: u64,
}

impl Turns {
    /// A new round: the one who has waited the longest is called.
    pub fn begin(&mut self) {
        match self.waiting.pop_front() {
            Some(next) => {
                self.called += 1;
                self.free = false;
                next.wake();
            }
            None => self.free = true,
        }
    }

    /// Ready if it is the caller's turn. `ticket` is none for who asks for the first time.
    pub fn poll(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> Poll<()> {
        match *ticket {
            // A round that was over before the caller came to it is not lost.
            Some(mine) if mine <= self.called => Poll::Ready(()),
            Some(_) => Poll::Pending,
            None if std::mem::take(&mut self.free) => Poll::Ready(()),
            None => {
                self.given += 1;
                *ticket = Some(self.given);
                self.waiting.push_back(waker.clone());
                Poll::Pending
            }
        }
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_called_in_order_however_many_come_anew() {
        let (mut turns, waker) = (Turns::default(), Waker::noop());
        turns.begin();
        assert_eq!(turns.poll(&mut None, waker), Poll::Ready(()), "the first comes at once");
        let (mut first, mut second) = (None, None);
        assert_eq!(turns.poll(&mut first, waker), Poll::Pending);
        assert_eq!(turns.poll(&mut second, waker), Poll::Pending);
        turns.begin();
        assert_eq!(turns.poll(&mut None, waker), Poll::Pending, "somebody new, polled before");
        assert_eq!(turns.poll(&mut second, waker), Poll::Pending);
        assert_eq!(turns.poll(&mut first, waker), Poll::Ready(()));
        turns.begin();
        assert_eq!(turns.poll(&mut None, waker), Poll::Pending, "and again");
        turns.begin();
        assert_eq!(turns.poll(&mut second, waker), Poll::Ready(()), "called a round ago");
        turns.begin();
        assert!(!turns.has_waiting());
        turns.begin();
        assert_eq!(turns.poll(&mut None, waker), Poll::Ready(()), "nobody waits");
        assert_eq!(turns.poll(&mut None, waker), Poll::Pending, "one a round");
    }
}
