//! Who waits for which answer of Redis: a queue in the order of the requests, without I/O.
//!
//! ```text
//!            a request                       an answer
//!   Idle ──────────────▶ Running ◀──────────────────────── Probing
//!    ▲                     │  │ failed, too late              │ ▲
//!    └─────────────────────┘  └────────▶ Cooling ◀────────────┘ │
//!      ended with nobody waiting            └───────────────────┘
//!                                          the first request after `cooldown`
//! ```
//!
//! - L1: an answer goes to the oldest request of this connection, whether or not anybody still
//!   waits for it; one that comes after its connection was given up has no queue to go to.
//! - L2: while it is cooling, or a probe is on its way, every request is refused at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluicegate_l7::policy::redis_script::{Garbage, Refusal, Reply, read_reply};

use crate::runtime::time::Time;

/// Requests without an answer on one connection: what a Redis server does in some milliseconds,
/// and more would only come too late.
pub(super) const PIPELINE_MAX: usize = 256;

/// Memory of an empty queue of bytes; more is given back.
const OUT_KEPT: usize = 32 << 10;

/// Why there is no decision of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It failed less than `cooldown` ago, or a probe is on its way.
    Cooling,
    Connect,
    /// Its certificate is not believed, or it speaks no TLS of ours.
    Tls,
    Timeout,
    /// The connection ended.
    Closed,
    /// It answered what no Redis server answers, or not what was asked.
    Garbage,
    /// READONLY, LOADING, OOM, NOAUTH and the like.
    Refused,
    /// The key holds something that is not ours; others are not touched by that.
    WrongType,
    /// [`PIPELINE_MAX`] requests wait already.
    Busy,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cooling => "it failed a moment ago",
            Self::Connect => "no connection",
            Self::Tls => "the TLS handshake failed",
            Self::Timeout => "no answer within `timeout`",
            Self::Closed => "it ended the connection",
            Self::Garbage => "what it answers is not Redis",
            Self::Refused => "it refuses commands, as with a wrong password or as a replica",
            Self::WrongType => "a key holds something else",
            Self::Busy => "too many requests wait for it",
        })
    }
}

/// Where the answer to one request will be.
#[derive(Debug, Default)]
pub(super) struct Slot(RefCell<Place>);

#[derive(Debug)]
enum Place {
    Waiting(Option<Waker>),
    Answered(Result<Reply, Unavailable>),
    Taken,
}

impl Default for Place {
    fn default() -> Self {
        Self::Waiting(None)
    }
}

impl Slot {
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Result<Reply, Unavailable>> {
        let mut place = self.0.borrow_mut();
        if let Place::Waiting(waker) = &mut *place {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *place, Place::Taken) {
            Place::Answered(answer) => Poll::Ready(answer),
            _ => Poll::Ready(Err(Unavailable::Closed)),
        }
    }

    fn answer(&self, answer: Result<Reply, Unavailable>) {
        let before = self.0.replace(Place::Answered(answer));
        if let Place::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No connection; the next request makes one.
    Idle,
    Running,
    Cooling {
        until: Time,
    },
    /// One request is to show whether it works again.
    Probing,
}

#[derive(Debug)]
pub(super) struct Line {
    phase: Phase,
    /// Bytes to be sent.
    pub out: Vec<u8>,
    waiting: VecDeque<(Rc<Slot>, Time)>,
    /// Answers to what was said first on this connection.
    preludes: u32,
    /// The task that runs the connection.
    task: Option<Waker>,
    /// The connection is to end: because of this, or once nobody waits.
    failed: Option<Unavailable>,
    closing: bool,
    answered: bool,
}

impl Line {
    pub const fn new() -> Self {
        Self {
            phase: Phase::Idle,
            out: Vec::new(),
            waiting: VecDeque::new(),
            preludes: 0,
            task: None,
            failed: None,
            closing: false,
            answered: false,
        }
    }

    /// Queues a request that wants its answer before `deadline`. True: a connection is to be
    /// made for it.
    pub fn enter(
        &mut self,
        now: Time,
        deadline: Time,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Rc<Slot>, bool), Unavailable> {
        let begins = match self.phase {
            Phase::Cooling { until } if now < until => return Err(Unavailable::Cooling),
            Phase::Probing => return Err(Unavailable::Cooling),
            Phase::Running if self.waiting.len() >= PIPELINE_MAX => return Err(Unavailable::Busy),
            Phase::Running => false,
            Phase::Cooling { .. } => {
                self.phase = Phase::Probing;
                true
            }
            Phase::Idle => {
                self.phase = Phase::Running;
                true
            }
        };
        write(&mut self.out);
        let slot = Rc::new(Slot::default());
        self.waiting.push_back((Rc::clone(&slot), deadline));
        self.wake();
        Ok((slot, begins))
    }

    /// When the connection is too late for somebody.
    pub fn deadline(&self) -> Time {
        self.waiting.iter().map(|(_, deadline)| *deadline).min().unwrap_or(Time::NEVER)
    }

    pub const fn expect_preludes(&mut self, count: u32) {
        self.preludes = count;
    }

    /// Gives the answers in `bytes` to whom they belong; returns how many bytes those had.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Unavailable> {
        let mut used = 0;
        while let Some((reply, length)) =
            read_reply(&bytes[used..]).map_err(|Garbage| Unavailable::Garbage)?
        {
            used += length;
            self.on_reply(reply)?;
        }
        Ok(used)
    }

    fn on_reply(&mut self, reply: Reply) -> Result<(), Unavailable> {
        if reply == Reply::Refused(Refusal::Unwilling) {
            return Err(Unavailable::Refused);
        }
        if self.preludes > 0 {
            self.preludes -= 1;
            return if reply == Reply::Done { Ok(()) } else { Err(Unavailable::Refused) };
        }
        let Some((slot, _)) = self.waiting.pop_front() else { return Err(Unavailable::Garbage) };
        self.phase = Phase::Running;
        self.answered = true;
        slot.answer(Ok(reply));
        Ok(())
    }

    /// Bytes of `out` have been sent.
    pub fn sent(&mut self, count: usize) {
        self.out.drain(..count);
        if self.out.is_empty() && self.out.capacity() > OUT_KEPT {
            self.out = Vec::new();
        }
    }

    /// Ends the connection as soon as its task looks.
    pub fn fail(&mut self, why: Unavailable) {
        if matches!(self.phase, Phase::Running | Phase::Probing) {
            self.failed = Some(why);
            self.wake();
        }
    }

    /// Ends the connection as soon as nobody waits for it.
    pub fn close(&mut self) {
        self.closing = true;
        self.wake();
    }

    /// Why the task should end the connection, if it should.
    pub fn is_over(&self) -> Option<Unavailable> {
        let unused = self.closing && self.waiting.is_empty();
        self.failed.or(unused.then_some(Unavailable::Closed))
    }

    pub fn set_task(&mut self, waker: &Waker) {
        match &mut self.task {
            Some(known) if known.will_wake(waker) => {}
            known => *known = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// An answer has come on this connection.
    pub const fn has_answered(&self) -> bool {
        self.answered
    }

    /// The connection is gone: whoever waits is told, and unless nobody did, it cools down. True
    /// when it does.
    pub fn end(&mut self, now: Time, why: Unavailable, cooldown: Duration) -> bool {
        let in_order = why == Unavailable::Closed && self.waiting.is_empty();
        self.phase = match self.phase {
            Phase::Running if in_order => Phase::Idle,
            _ => Phase::Cooling { until: now + cooldown },
        };
        let waiting = std::mem::take(&mut self.waiting);
        self.out = Vec::new();
        (self.preludes, self.task, self.failed, self.answered) = (0, None, None, false);
        for (slot, _) in waiting {
            slot.answer(Err(why));
        }
        matches!(self.phase, Phase::Cooling { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(1);
    const SOON: Duration = Duration::from_millis(5);
    const START: Time = Time(1_000_000_000_000);

    fn enter(line: &mut Line, now: Time) -> Result<(Rc<Slot>, bool), Unavailable> {
        line.enter(now, now + SOON, |out| out.push(b'x'))
    }

    fn answer(slot: &Slot) -> Poll<Result<Reply, Unavailable>> {
        slot.poll(&Context::from_waker(Waker::noop()))
    }

    fn numbers(number: u64) -> Poll<Result<Reply, Unavailable>> {
        Poll::Ready(Ok(Reply::Numbers(vec![number])))
    }

    #[test]
    fn answers_go_to_requests_in_order_even_to_those_nobody_waits_for() {
        let mut line = Line::new();
        let (first, begins) = enter(&mut line, START).unwrap();
        assert!(begins);
        let (gone, begins) = enter(&mut line, START).unwrap();
        assert!(!begins);
        let (third, _) = enter(&mut line, START).unwrap();
        drop(gone);
        assert_eq!(line.out, b"xxx");
        assert_eq!(line.read(b"*1\r\n:1\r\n*1\r\n:2\r\n*1\r\n:3"), Ok(16));
        assert_eq!((answer(&first), answer(&third)), (numbers(1), Poll::Pending));
        assert_eq!(line.read(b"*1\r\n:3\r\n"), Ok(8));
        assert_eq!(answer(&third), numbers(3));
        assert_eq!(line.read(b"*1\r\n:4\r\n"), Err(Unavailable::Garbage), "nobody asked");
    }

    #[test]
    fn after_a_failure_it_refuses_at_once_and_then_lets_one_probe_pass() {
        let mut line = Line::new();
        let (slot, _) = enter(&mut line, START).unwrap();
        line.end(START, Unavailable::Timeout, COOLDOWN);
        assert_eq!(answer(&slot), Poll::Ready(Err(Unavailable::Timeout)));
        let almost = Time((START + COOLDOWN).0 - 1);
        assert_eq!(enter(&mut line, almost).unwrap_err(), Unavailable::Cooling);
        let later = START + COOLDOWN;
        let (probe, begins) = enter(&mut line, later).unwrap();
        assert!(begins && line.out == b"x", "nothing of the last connection is left");
        assert_eq!(enter(&mut line, later).unwrap_err(), Unavailable::Cooling);
        assert!(line.read(b"*1\r\n:7\r\n").is_ok());
        assert_eq!(answer(&probe), numbers(7));
        assert!(!enter(&mut line, later).unwrap().1, "it runs again");
    }

    #[test]
    fn a_probe_that_fails_cools_it_down_again_even_if_it_ended_in_order() {
        let mut line = Line::new();
        let _ = enter(&mut line, START).unwrap();
        line.end(START, Unavailable::Closed, COOLDOWN);
        let later = START + COOLDOWN;
        let _probe = enter(&mut line, later).unwrap();
        line.end(later, Unavailable::Closed, COOLDOWN);
        assert_eq!(enter(&mut line, later).unwrap_err(), Unavailable::Cooling);
    }

    #[test]
    fn an_unused_connection_that_ends_is_made_again_at_once() {
        let mut line = Line::new();
        let _ = enter(&mut line, START).unwrap();
        assert!(line.read(b"*1\r\n:1\r\n").is_ok());
        line.end(START, Unavailable::Closed, COOLDOWN);
        assert!(enter(&mut line, START).unwrap().1);
    }

    #[test]
    fn a_server_that_will_not_do_anything_fails_everybody_and_a_wrong_key_only_one() {
        for error in ["READONLY x", "LOADING x", "OOM x", "NOAUTH x", "MOVED 1 x", "ERR x"] {
            let mut line = Line::new();
            let _ = enter(&mut line, START).unwrap();
            let got = line.read(format!("-{error}\r\n").as_bytes());
            assert_eq!(got, Err(Unavailable::Refused), "{error}");
        }
        let mut line = Line::new();
        let (slot, _) = enter(&mut line, START).unwrap();
        assert!(line.read(b"-WRONGTYPE x\r\n").is_ok());
        let want = Reply::Refused(Refusal::WrongType);
        assert_eq!(answer(&slot), Poll::Ready(Ok(want)));
    }

    #[test]
    fn what_is_said_first_must_be_done_before_any_answer_counts() {
        let mut line = Line::new();
        let (slot, _) = enter(&mut line, START).unwrap();
        line.expect_preludes(2);
        assert!(line.read(b"+OK\r\n+OK\r\n").is_ok());
        assert_eq!(answer(&slot), Poll::Pending);
        let mut line = Line::new();
        let _ = enter(&mut line, START).unwrap();
        line.expect_preludes(1);
        assert_eq!(line.read(b"*1\r\n:1\r\n"), Err(Unavailable::Refused));
    }

    #[test]
    fn no_more_wait_than_the_pipeline_holds() {
        let mut line = Line::new();
        for _ in 0..PIPELINE_MAX {
            assert!(enter(&mut line, START).is_ok());
        }
        assert_eq!(enter(&mut line, START).unwrap_err(), Unavailable::Busy);
        assert!(line.read(b"*1\r\n:1\r\n").is_ok());
        assert!(enter(&mut line, START).is_ok());
    }

    #[test]
    fn it_is_late_when_it_is_late_for_the_most_impatient() {
        let mut line = Line::new();
        assert_eq!(line.deadline(), Time::NEVER);
        let _ = line.enter(START, START + COOLDOWN, |_| {}).unwrap();
        let _ = line.enter(START, START + SOON, |_| {}).unwrap();
        assert_eq!(line.deadline(), START + SOON);
    }
}
