//! Limits that several gateways share in Redis, on a connection of this worker's own.
//!
//! Requests of many tasks travel on one connection, one behind the other, and answers come in
//! that order (`line.rs`). One task runs the connection: it connects, sends, reads, and gives
//! it up as soon as somebody's answer is later than `timeout`. Then nobody asks for `cooldown`,
//! and then one request is the probe. So a Redis server that is down, silent or slow costs one
//! `timeout` per `cooldown` and worker, and nothing else.
//!
//! What to do without a decision (`on_error`) is the caller's.

mod line;
mod purse;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::pki_types::ServerName;
use sluicegate_l7::policy::rate::Decision;
use sluicegate_l7::policy::redis_script::{
    Call, Grant, Limits, RedisUrl, Refusal, Reply, grant, write_call,
};

use self::line::Line;
pub use self::line::Unavailable;
use self::purse::{KeyHash, Purses};
use crate::l4::connect_tls;
use crate::net::Endpoint;
use crate::observe::counters::ConnectResult;
use crate::runtime::driver::{Driver, StreamOptions};
use crate::runtime::tasks::{Inbox, Shell};
use crate::runtime::time::Time;
use crate::stream::Stream;
use crate::tls::upstream::ClientTls;

/// Where limits are shared, and how patiently.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the host of `url` stands for: a worker asks no DNS.
    pub endpoint: Endpoint,
    pub tls: Option<Secured>,
    pub url: RedisUrl,
    /// Keys in Redis are `prefix:policy:hash`.
    pub prefix: String,
    /// From a request to its answer, a connect included.
    pub timeout: Duration,
    pub cooldown: Duration,
    /// Tokens taken at a time; what that may let through is said in `purse.rs`.
    pub lease: u32,
}

/// How a server under TLS is spoken to, and whose certificate it has to show.
#[derive(Clone, Debug)]
pub struct Secured {
    pub tls: Arc<ClientTls>,
    pub name: ServerName<'static>,
}

/// What is told of a store to whoever counts and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Connect(ConnectResult),
    /// It decides no more, and why; or it does again.
    Decides(Result<(), Unavailable>),
}

/// One worker's share of one Redis server.
pub struct SharedLimits<D: Driver> {
    shell: Rc<Shell<D>>,
    target: Target,
    line: RefCell<Line>,
    purses: RefCell<Purses>,
    report: Box<dyn Fn(Report)>,
    /// It has not answered since it failed, or since this began.
    doubted: Cell<bool>,
}

impl<D: Driver> std::fmt::Debug for SharedLimits<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLimits").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<D: Driver> SharedLimits<D> {
    /// Connects with the first request.
    #[must_use]
    pub fn new(shell: Rc<Shell<D>>, target: Target, report: Box<dyn Fn(Report)>) -> Rc<Self> {
        let (line, purses) = (RefCell::new(Line::new()), RefCell::default());
        Rc::new(Self { shell, target, line, purses, report, doubted: Cell::new(true) })
    }

    /// Takes a token of what `policy` limits `scope` to: its parts as for
    /// [`LimitTable::key`](crate::limits::LimitTable::key).
    ///
    /// # Errors
    /// When Redis did not decide: why.
    pub async fn decide(
        self: &Rc<Self>,
        policy: &str,
        scope: &[&[u8]],
        limits: Limits<'_>,
    ) -> Result<Decision, Unavailable> {
        let (hash, now) = (key_hash(policy, scope), self.shell.now());
        let kept = self.purses.borrow_mut().take(&hash, now);
        if let Some(decision) = kept {
            return Ok(decision);
        }
        let leases = self.target.lease > 1 && self.purses.borrow_mut().has_room(now);
        let want = if leases { self.target.lease } else { 1 };
        let key = self.key(policy, &hash);
        let grant = self.ask(&key, limits, want, now + self.target.timeout).await?;
        let now = self.shell.now();
        Ok(self.purses.borrow_mut().keep(hash, grant, now))
    }

    /// Ends the connection once it is quiet: nobody will ask any more.
    pub fn close(&self) {
        self.line.borrow_mut().close();
    }

    fn key(&self, policy: &str, hash: &KeyHash) -> Vec<u8> {
        use std::io::Write as _;
        let mut key = format!("{}:{policy}:", self.target.prefix).into_bytes();
        for byte in hash {
            // Writing to a vector does not fail.
            let _ = write!(key, "{byte:02x}");
        }
        key
    }

    async fn ask(
        self: &Rc<Self>,
        key: &[u8],
        limits: Limits<'_>,
        want: u32,
        deadline: Time,
    ) -> Result<Grant, Unavailable> {
        let mut call = Call::Sha;
        loop {
            let write = |out: &mut Vec<u8>| write_call(call, key, limits, want, out);
            let now = self.shell.now();
            let (slot, begins) = self.line.borrow_mut().enter(now, deadline, write)?;
            if begins {
                self.shell.spawn(run(Rc::clone(self)));
            }
            match poll_fn(|cx| slot.poll(cx)).await? {
                Reply::Numbers(numbers) => {
                    return grant(&numbers, limits).map_err(|_| self.distrust());
                }
                // A server that was restarted or flushed. The text teaches it.
                Reply::Refused(Refusal::NoScript) if call == Call::Sha => call = Call::Text,
                Reply::Refused(Refusal::WrongType) => return Err(Unavailable::WrongType),
                Reply::Refused(_) | Reply::Done => return Err(self.distrust()),
            }
        }
    }

    /// Gives up a connection whose answers are not to the questions.
    fn distrust(&self) -> Unavailable {
        self.line.borrow_mut().fail(Unavailable::Garbage);
        Unavailable::Garbage
    }

    async fn converse(&self) -> Unavailable {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(why) => return why,
        };
        let mut prelude = Vec::new();
        let answers = self.target.url.write_prelude(&mut prelude);
        {
            let mut line = self.line.borrow_mut();
            line.expect_preludes(answers);
            line.out.splice(0..0, prelude);
        }
        let mut inbox = Inbox::default();
        loop {
            let until = self.line.borrow().deadline();
            let turn = poll_fn(|cx| self.poll_turn(cx, &mut stream, &mut inbox));
            match self.shell.timeout(until, turn).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return why,
                Err(_) => return Unavailable::Timeout,
            }
        }
    }

    /// A connection, with its handshake if there is one, in the time of the request it is for.
    async fn open(&self) -> Result<Stream<D>, Unavailable> {
        let until = self.line.borrow().deadline();
        let options = StreamOptions { source: None };
        let opening = async {
            if !self.shell.room(until).await {
                return Err((ConnectResult::Local, Unavailable::Connect));
            }
            let socket = self.shell.connect(&self.target.endpoint, &options).await;
            let socket =
                socket.map_err(|errno| (ConnectResult::of(errno), Unavailable::Connect))?;
            let mut stream = Stream::plain(socket);
            if let Some(Secured { tls, name }) = &self.target.tls {
                let secured = connect_tls(&mut stream, tls, name.clone(), false).await;
                secured.map_err(|_| (ConnectResult::Reset, Unavailable::Tls))?;
            }
            Ok(stream)
        };
        let opened = self.shell.timeout(until, opening).await;
        let opened = opened.unwrap_or(Err((ConnectResult::Timeout, Unavailable::Timeout)));
        let result = opened.as_ref().map_or_else(|(result, _)| *result, |_| ConnectResult::Ok);
        (self.report)(Report::Connect(result));
        opened.map_err(|(_, why)| why)
    }

    /// Hands out the answers that came.
    fn hear(&self, line: &mut Line, inbox: &mut Inbox) -> Result<(), Unavailable> {
        let read = line.read(inbox.bytes()).map(|n| inbox.consume(n));
        if line.has_answered() && self.doubted.replace(false) {
            (self.report)(Report::Decides(Ok(())));
        }
        read
    }

    /// Sends and reads what goes now; ready when something has happened.
    fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        stream: &mut Stream<D>,
        inbox: &mut Inbox,
    ) -> Poll<Result<(), Unavailable>> {
        let mut line = self.line.borrow_mut();
        line.set_task(cx.waker());
        if let Some(why) = line.is_over() {
            return Poll::Ready(Err(why));
        }
        let mut moved = false;
        while !line.out.is_empty() {
            match stream.poll_send(cx, &line.out) {
                Poll::Ready(Ok(n)) => {
                    line.sent(n);
                    moved = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Unavailable::Closed)),
                Poll::Pending => break,
            }
        }
        // What TLS has not passed on yet; a socket alone keeps nothing.
        if let Poll::Ready(Err(_)) = stream.poll_flush(cx) {
            return Poll::Ready(Err(Unavailable::Closed));
        }
        match stream.poll_recv(cx, inbox) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Unavailable::Closed)),
            Poll::Ready(Ok(_)) => Poll::Ready(self.hear(&mut line, inbox)),
            Poll::Pending if moved => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Runs one connection to its end.
async fn run<D: Driver>(shared: Rc<SharedLimits<D>>) {
    let mut end = End { shared: Rc::clone(&shared), why: Unavailable::Closed };
    end.why = shared.converse().await;
}

/// Tells who waits that the connection is gone, however its task has ended.
struct End<D: Driver> {
    shared: Rc<SharedLimits<D>>,
    why: Unavailable,
}

impl<D: Driver> Drop for End<D> {
    fn drop(&mut self) {
        let (now, cooldown) = (self.shared.shell.now(), self.shared.target.cooldown);
        let fails = self.shared.line.borrow_mut().end(now, self.why, cooldown);
        if fails {
            self.shared.doubted.set(true);
            (self.shared.report)(Report::Decides(Err(self.why)));
        }
    }
}

/// What Redis knows a scope by: the same in every gateway, of one length whatever a client
/// sends, and not to be read by who reads the keys.
fn key_hash(policy: &str, scope: &[&[u8]]) -> KeyHash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [policy.as_bytes()].iter().chain(scope) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut hash = KeyHash::default();
    hash.copy_from_slice(&context.finish().as_ref()[..16]);
    hash
}

#[cfg(test)]
mod tests;
