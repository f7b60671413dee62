//! Bytes between two streams of which at least one speaks TLS.
//!
//! What the relay does for plain sides, for those that have to be decrypted or encrypted on the
//! way: both directions at once, each with its own end; FIN and close_notify stand for each
//! other; a reset travels after what was sent before it; a FIN without close_notify is a
//! truncation and travels as a reset.
//!
//! A task of its own and not the relay's table: a TLS session costs some kilobytes of keys and
//! state anyway, and a direction that may have to write before it can read is plain to follow
//! only as straight-line code.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::seats::{How, Outcome};
use super::session::{SIDES, Side};
use super::trust::Witness;
use crate::config::plan::Timeouts;
use crate::observe::reason::Reason;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::runtime::time::Time;
use crate::stream::{Stream, StreamError};

/// A reset waits this long for what was sent before it to be acknowledged.
const RESET_FLUSH_MAX: Duration = Duration::from_secs(1);

/// How often a waiting reset looks whether all is acknowledged.
const FLUSH_LOOK: Duration = Duration::from_millis(2);

/// Moves of one direction before others get their turn.
const MOVES_PER_POLL: usize = 4;

/// Ours to say goodbye before the timer of a session that is too long idle resets it.
const GOODBYE_MAX: Duration = Duration::from_millis(100);

/// Bytes that moved a moment ago mostly have others behind them.
const LULL: Duration = Duration::from_millis(20);

/// One side, and what it sent that the other has not taken yet.
struct End<'s, D: Driver> {
    stream: &'s mut Stream<D>,
    inbox: Inbox,
    /// It sends no more.
    eof: bool,
    /// Our end is with it.
    finished: bool,
    /// What its peer had not acknowledged at the last look.
    unsent: u32,
}

impl<'s, D: Driver> End<'s, D> {
    const fn new(stream: &'s mut Stream<D>, inbox: Inbox) -> Self {
        Self { stream, inbox, eof: false, finished: false, unsent: 0 }
    }
}

/// Bytes that each side has sent and that nobody has counted yet: a tunnel may last for days.
#[derive(Clone, Debug, Default)]
pub struct Passing(Rc<Cell<[u64; 2]>>);

impl Passing {
    fn add(&self, side: Side, n: usize) {
        let mut bytes = self.0.get();
        bytes[side as usize] += n as u64;
        self.0.set(bytes);
    }

    pub fn is_some(&self) -> bool {
        self.0.get() != [0; 2]
    }

    pub fn take(&self) -> [u64; 2] {
        self.0.take()
    }
}

/// Who wants to know how a tunnel goes.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Is told of the server's first byte.
    pub witness: Option<Witness>,
    pub passing: Passing,
}

struct Tunnel<'s, D: Driver> {
    ends: [End<'s, D>; 2],
    moved_at: Time,
    watchers: Watchers,
}

/// Runs a session to its end. `pending` is what the client sent already.
pub async fn tunnel<D: Driver>(
    client: &mut Stream<D>,
    upstream: &mut Stream<D>,
    pending: Inbox,
    timeouts: Timeouts,
    accepted_at: Time,
    watchers: Watchers,
) -> Outcome {
    watchers.passing.add(Side::Client, pending.len());
    let shell = Rc::clone(client.socket().shell());
    let ends = [End::new(client, pending), End::new(upstream, Inbox::default())];
    let mut tunnel = Tunnel { ends, moved_at: shell.now(), watchers };
    let session_until = timeouts.session.map_or(Time::NEVER, |limit| accepted_at + limit);
    let (how, reason) = loop {
        let (idle_until, idle_reason) = tunnel.idle(&timeouts);
        let until = idle_until.min(session_until);
        match shell.timeout(until, poll_fn(|cx| tunnel.poll(cx))).await {
            Ok(Ok(())) => break (How::Fin, Reason::Ok),
            Ok(Err((dead, error))) => {
                tunnel.flush_before_reset(dead).await;
                break (How::Reset, reason(dead, error));
            }
            Err(_) if session_until <= shell.now() => {
                tunnel.say_goodbye().await;
                break (How::Linger, Reason::SessionTimeout);
            }
            Err(_) if tunnel.idle(&timeouts).0 > shell.now() || tunnel.moved_unseen() => {}
            Err(_) => {
                tunnel.say_goodbye().await;
                break (How::Linger, idle_reason);
            }
        }
    };
    let [bytes_in, bytes_out] = tunnel.watchers.passing.take();
    Outcome::Ended { how, reason, bytes_in, bytes_out }
}

const fn reason(dead: Side, error: StreamError) -> Reason {
    match (error, dead) {
        (StreamError::Truncated, _) => Reason::TlsTruncated,
        (StreamError::Tls, _) => Reason::TlsFailed,
        (_, Side::Client) => Reason::ClientReset,
        (_, Side::Upstream) => Reason::ServerReset,
    }
}

impl<D: Driver> Tunnel<'_, D> {
    /// When the session is too long idle, and what that is called.
    fn idle(&self, timeouts: &Timeouts) -> (Time, Reason) {
        if self.ends.iter().any(|end| end.eof) {
            (self.moved_at + timeouts.half_closed, Reason::HalfClosedTimeout)
        } else {
            (self.moved_at + timeouts.idle, Reason::IdleTimeout)
        }
    }

    /// Whether a side that takes little at a time has taken some since the last look: its socket
    /// says that it has room only when much of it is free.
    fn moved_unseen(&mut self) -> bool {
        let mut moved = false;
        for end in &mut self.ends {
            let unsent = end.stream.socket().unsent();
            moved |= unsent != end.unsent;
            end.unsent = unsent;
        }
        if moved {
            self.moved_at = self.ends[0].stream.socket().shell().now();
        }
        moved
    }

    /// Moves what can be moved; ready when both directions have ended, or at the first side
    /// that broke.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), (Side, StreamError)>> {
        for from in SIDES {
            if let Err(broken) = self.poll_half(cx, from) {
                return Poll::Ready(Err(broken));
            }
        }
        if self.ends.iter().all(|end| end.finished) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_half(&mut self, cx: &mut Context<'_>, side: Side) -> Result<(), (Side, StreamError)> {
        let [client, upstream] = &mut self.ends;
        let (from, to) = match side {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        let other = side.other();
        if to.finished {
            return Ok(());
        }
        for _ in 0..MOVES_PER_POLL {
            if !from.inbox.is_empty() {
                match to.stream.poll_send(cx, from.inbox.bytes()) {
                    Poll::Ready(Ok(n)) => from.inbox.consume(n),
                    Poll::Ready(Err(error)) => return Err((other, error)),
                    Poll::Pending => return Ok(()),
                }
                self.moved_at = to.stream.socket().shell().now();
                continue;
            }
            if from.eof {
                match to.stream.poll_finish(cx) {
                    Poll::Ready(Ok(())) => to.finished = true,
                    Poll::Ready(Err(error)) => return Err((other, error)),
                    Poll::Pending => {}
                }
                return Ok(());
            }
            match from.stream.poll_recv(cx, &mut from.inbox) {
                Poll::Ready(Ok(0)) => {
                    from.eof = true;
                    self.moved_at = to.stream.socket().shell().now();
                }
                Poll::Ready(Ok(n)) => {
                    self.watchers.passing.add(side, n);
                    if side == Side::Upstream
                        && let Some(witness) = self.watchers.witness.take()
                    {
                        witness.trust();
                    }
                }
                Poll::Ready(Err(error)) => return Err((side, error)),
                Poll::Pending => {
                    return match to.stream.poll_flush(cx) {
                        Poll::Ready(Err(error)) => Err((other, error)),
                        _ => Ok(()),
                    };
                }
            }
        }
        cx.waker().wake_by_ref(); // others first
        Ok(())
    }

    /// What `dead` sent before it broke still goes to the other side, which has only so long
    /// to take it.
    async fn flush_before_reset(&mut self, dead: Side) {
        let shell = Rc::clone(self.ends[0].stream.socket().shell());
        let until = shell.now() + RESET_FLUSH_MAX;
        let rest = poll_fn(|cx| {
            let ended = self.poll_half(cx, dead).is_err();
            let through = self.ends[dead as usize].eof || self.ends[dead.other() as usize].finished;
            if ended || through { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = shell.timeout(until, rest).await;
        let left = poll_fn(|cx| {
            let [client, upstream] = &mut self.ends;
            let (from, to) = match dead {
                Side::Client => (client, upstream),
                Side::Upstream => (upstream, client),
            };
            while !from.inbox.is_empty() {
                match to.stream.poll_send(cx, from.inbox.bytes()) {
                    Poll::Ready(Ok(n)) => from.inbox.consume(n),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            to.stream.poll_flush(cx).map(drop)
        });
        let _ = shell.timeout(until, left).await;
        let to = &self.ends[dead.other() as usize].stream;
        while to.socket().unsent() > 0 && !to.socket().reset_seen() && shell.now() < until {
            shell.sleep_until(shell.now() + FLUSH_LOOK).await;
        }
    }

    /// Both sides hear an end in order, if their sockets take it now. Who has not got all that is for
    /// it hears none: the end would look like that of the whole.
    async fn say_goodbye(&mut self) {
        let shell = Rc::clone(self.ends[0].stream.socket().shell());
        let until = shell.now() + GOODBYE_MAX;
        let is_quiet = self.moved_at + LULL <= shell.now();
        let whole = [1, 0].map(|other: usize| is_quiet && self.ends[other].inbox.is_empty());
        for (end, whole) in self.ends.iter_mut().zip(whole) {
            if !end.finished && whole {
                let _ = shell.timeout(until, end.stream.finish()).await;
            }
        }
    }
}
