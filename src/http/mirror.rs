//! Copies of requests for another pool, whose answers nobody sees.
//!
//! ```text
//!   request ─▶ head and body as the server gets them ─▶ client's answer
//!                  └─▶ Copying (fills as the body comes) ─▶ whole ─▶ task: send, read, drop
//! ```
//!
//! A copy is a task of its own that shares nothing with the request: the client waits for none of
//! it, and its failures are counts. It takes no limits and is tried once. What it may take is
//! bounded: its body by `max_body`, its number by `in_flight` (over all workers, from the head on,
//! so that memory is bounded too), its time by the `request_timeout` of its pool. A drain lets it
//! end; whoever stops the worker ends it where it is.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sluicegate_l7::http1::chunked::{self, CHUNK_END, ChunkHead};
use sluicegate_l7::http1::response::{Asked, ResponseHead};
use sluicegate_l7::http1::{Body, Fields, Framing, Method, Reject};

use super::errand::Errand;
use super::exchange::Flow;
use super::flow::Asker;
use super::forward::poll_head;
use super::office::Office;
use super::reply::Passage;
use super::retry::Attempt;
use super::session::{Peers, Session};
use super::site::SiteRef;
use super::upstream::{Patience, Upstream};
use super::watch::Watch;
use crate::limits::Permit;
use crate::observe::reason::Reason;
use crate::observe::requests::Mirrored;
use crate::registry::{PoolId, ServerState};
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Inbox;
use crate::runtime::time::Time;

/// The number under which copies are counted among what is in flight: of no policy.
const IN_FLIGHT: u16 = u16::MAX;

/// A copy in the making: the head, and so much of the body as has come.
pub struct Copying {
    bytes: Vec<u8>,
    passage: Passage,
    /// Payload that it may still have.
    room: u64,
    /// Told once: the whole message, or why there is none.
    done: Box<dyn FnOnce(Result<Vec<u8>, Mirrored>)>,
}

impl std::fmt::Debug for Copying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copying").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Copying {
    /// Adds payload; `None`: it was too much, and the copy is given up.
    pub fn push(mut self: Box<Self>, payload: &[u8]) -> Option<Box<Self>> {
        let Some(room) = self.room.checked_sub(payload.len() as u64) else {
            (self.done)(Err(Mirrored::TooLarge));
            return None;
        };
        self.room = room;
        match self.passage {
            Passage::Raw => self.bytes.extend_from_slice(payload),
            // An empty chunk would be the last one.
            Passage::Chunked if payload.is_empty() => {}
            Passage::Chunked => {
                self.bytes.extend_from_slice(ChunkHead::new(payload.len() as u64).as_bytes());
                self.bytes.extend_from_slice(payload);
                self.bytes.extend_from_slice(CHUNK_END);
            }
        }
        Some(self)
    }

    /// The request is whole: the copy goes out.
    pub fn finish(mut self, trailers: &[u8]) {
        if self.passage == Passage::Chunked {
            chunked::push_last_chunk(&mut self.bytes, trailers);
        }
        (self.done)(Ok(self.bytes));
    }
}

/// A copy on its way, without its bytes.
struct Copy<D: Driver> {
    office: Rc<Office<D>>,
    site: SiteRef,
    peers: Rc<Peers>,
    route: usize,
    pool: PoolId,
    method: Method,
    asker: Asker,
    /// A place among those in flight.
    _permit: Permit,
}

impl<D: Driver> Session<D> {
    /// The beginning of a copy of the request whose head for the server, and perhaps whole body,
    /// is `draft`; `None` if its route has no mirror, or this one is not copied.
    pub(super) fn begin_copy(&self, errand: &Errand, draft: &[u8]) -> Option<Box<Copying>> {
        let spec = self.site.table.spec(errand.route).mirror.as_ref()?;
        let office = &self.office;
        // What an upgraded connection carries is nobody's to repeat.
        if errand.upgrades || office.random() % 100 >= u64::from(spec.share_percent) {
            return None;
        }
        let count = |result| office.count_mirrored(&self.site, errand.route, result);
        let end = draft.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let declared = match errand.framing {
            Framing::Length(length) => length,
            // A body that policies changed is here already.
            _ => (draft.len() - end) as u64,
        };
        if declared > spec.body_max {
            count(Mirrored::TooLarge);
            return None;
        }
        let route = self.site.table.spec(errand.route).name.as_bytes();
        let key = office.limits().key(&[self.site.name.as_bytes(), route]);
        let Some(permit) = office.limits().enter(IN_FLIGHT, key, spec.in_flight_max) else {
            count(Mirrored::Dropped);
            return None;
        };
        let copy = Copy {
            office: Rc::clone(office),
            site: Rc::clone(&self.site),
            peers: Rc::clone(&self.peers),
            route: errand.route,
            pool: PoolId(spec.pool as u16),
            method: errand.method,
            asker: errand.asker(PoolId(spec.pool as u16)),
            _permit: permit,
        };
        Some(Box::new(Copying {
            bytes: head_of_copy(draft, end),
            passage: if errand.framing == Framing::Chunked {
                Passage::Chunked
            } else {
                Passage::Raw
            },
            room: spec.body_max,
            done: Box::new(|whole| match whole {
                Ok(bytes) => {
                    let shell = Rc::clone(copy.office.shell());
                    shell.spawn(copy.run(bytes));
                }
                Err(result) => copy.office.count_mirrored(&copy.site, copy.route, result),
            }),
        }))
    }
}

/// The draft without the line that asks to be told when to send the body, which is here.
fn head_of_copy(draft: &[u8], end: usize) -> Vec<u8> {
    const EXPECT: &[u8] = b"\r\nExpect: 100-continue\r\n";
    let mut bytes = Vec::with_capacity(draft.len());
    match draft[..end].windows(EXPECT.len()).position(|line| line == EXPECT) {
        Some(at) => {
            bytes.extend_from_slice(&draft[..at]);
            bytes.extend_from_slice(&draft[at + EXPECT.len() - 2..]);
        }
        None => bytes.extend_from_slice(draft),
    }
    bytes
}

/// How one try of a copy ended.
enum Try {
    Answered,
    /// The kept connection had ended while it waited.
    Stale,
    Failed(Reason),
}

impl<D: Driver> Copy<D> {
    async fn run(self, bytes: Vec<u8>) {
        let office = &self.office;
        let shell = Rc::clone(office.shell());
        let until = office.now() + office.http_timeouts(&self.site, self.pool.0.into()).request;
        let bell = office.bells().add();
        let sending = pin!(self.send(bytes, until));
        let mut work = pin!(shell.timeout(until, sending));
        let result = poll_fn(|cx| {
            bell.set(cx);
            if office.stopped().is_some() {
                return Poll::Ready(Mirrored::Failed);
            }
            work.as_mut().poll(cx).map(|sent| sent.unwrap_or(Mirrored::Timeout))
        })
        .await;
        office.count_mirrored(&self.site, self.route, result);
    }

    /// Sends it to one server, whatever becomes of it.
    async fn send(&self, bytes: Vec<u8>, until: Time) -> Mirrored {
        let (office, pool) = (&self.office, self.pool);
        let Ok(mut watch) = office.watch(pool) else { return Mirrored::NoServer };
        let timeouts = office.timeouts(self.site.listener, pool);
        let body = Body::new(Framing::None, &self.site.limits);
        let mut flow = Flow::new(body, Passage::Raw, None, bytes);
        flow.keep_for_repeat(0);
        let mut fresh = false;
        loop {
            let Ok(place) = office.reserve(pool, self.asker, &[]) else {
                return Mirrored::NoServer;
            };
            let state = Arc::clone(&place.state);
            let patience = Patience::new(&timeouts, office.now(), until);
            let reached = office.reach(pool, place, fresh, &self.peers, patience).await;
            if self.site.table.spec(self.route).rewrite.host_of_server {
                flow.set_host(&office.host_of(&state));
            }
            let tried = match reached {
                Ok(upstream) => self.exchange(upstream, &mut flow, &mut watch).await,
                Err(failed) => Try::Failed(failed.reason()),
            };
            match tried {
                Try::Answered => return Mirrored::Ok,
                Try::Stale if flow.is_repeatable() && self.method.is_idempotent() => {
                    flow.rewind();
                    fresh = true;
                }
                Try::Stale => return self.failed(Reason::ServerReset, &state, &mut watch),
                Try::Failed(reason) => return self.failed(reason, &state, &mut watch),
            }
        }
    }

    /// What a failure says about the server and its pool.
    fn failed(&self, reason: Reason, server: &ServerState, watch: &mut Watch) -> Mirrored {
        if matches!(reason, Reason::ServerReset | Reason::BadUpstream) {
            self.office.suspect(server);
        }
        watch.failed(&self.office, &Attempt::Failed(reason));
        Mirrored::Failed
    }

    /// The request out, the answer in and away.
    async fn exchange(&self, mut upstream: Upstream<D>, flow: &mut Flow, watch: &mut Watch) -> Try {
        let office = &self.office;
        let sent_at = office.now();
        let mut inbox = Inbox::default();
        let head = match self.read_head(&mut upstream, flow, &mut inbox).await {
            Ok(head) => head,
            Err(_) if upstream.reused && inbox.is_empty() => return Try::Stale,
            Err(reason) => {
                office.count_attempt(&upstream.place.state, true);
                return Try::Failed(reason);
            }
        };
        watch.answered(office, head.status, sent_at);
        office.count_copy(upstream.place.state.id, office.now().since(sent_at));
        office.count_answer(&upstream.place.state, head.status);
        inbox.consume(head.len);
        let whole = self.drop_body(&mut upstream, flow, &mut inbox, &head).await;
        let reusable = whole == Ok(true)
            && head.keep_alive
            && head.status != 101
            && flow.is_through()
            && inbox.is_empty();
        inbox.consume(inbox.len());
        office.shell().rest(&mut inbox);
        match whole {
            Ok(_) => {
                if reusable {
                    office.keep(self.pool, upstream);
                }
                Try::Answered
            }
            Err(()) => Try::Failed(Reason::BadUpstream),
        }
    }

    /// The head of the final answer, while the request goes out.
    async fn read_head(
        &self,
        upstream: &mut Upstream<D>,
        flow: &mut Flow,
        inbox: &mut Inbox,
    ) -> Result<ResponseHead, Reason> {
        let limits = self.site.limits.of_answers();
        let asked = Asked { head: self.method == Method::Head, upgrade: false };
        let mut fields = Fields::new();
        loop {
            let head = poll_fn(|cx| {
                let mut moved = false;
                // A server may answer and take no more: then its answer counts.
                let _ = flow.poll_send(cx, &mut upstream.stream, &mut moved);
                let stream = &mut upstream.stream;
                poll_head(cx, stream, inbox, &mut fields, asked, &limits, &mut moved)
            });
            match head.await {
                Ok(head) if head.is_interim() => inbox.consume(head.len),
                Ok(head) => return Ok(head),
                Err(Attempt::Failed(reason) | Attempt::Again(reason) | Attempt::Unseen(reason)) => {
                    return Err(reason);
                }
                Err(Attempt::Answered(_) | Attempt::Refused(_)) => return Err(Reason::BadUpstream),
            }
        }
    }

    /// Reads the body of the answer to its end. Whether that was where it said it would be.
    async fn drop_body(
        &self,
        upstream: &mut Upstream<D>,
        flow: &mut Flow,
        inbox: &mut Inbox,
        head: &ResponseHead,
    ) -> Result<bool, ()> {
        let broken = |_: Reject| ();
        let mut body = Body::new(head.framing, &self.site.limits.of_answers());
        while !body.is_done() {
            let piece = body.next(inbox.bytes()).map_err(broken)?;
            inbox.consume(piece.consumed);
            if piece.end {
                break;
            }
            if piece.consumed > 0 && !inbox.is_empty() {
                continue;
            }
            let more = poll_fn(|cx| {
                let mut moved = false;
                let _ = flow.poll_send(cx, &mut upstream.stream, &mut moved);
                upstream.stream.poll_recv(cx, inbox)
            });
            if !matches!(more.await, Ok(1..)) {
                body.close().map_err(broken)?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    type Told = Rc<RefCell<Option<Result<Vec<u8>, Mirrored>>>>;

    fn copying(passage: Passage, room: u64) -> (Box<Copying>, Told) {
        let told = Told::default();
        let done = Rc::clone(&told);
        let done = Box::new(move |whole| *done.borrow_mut() = Some(whole));
        (Box::new(Copying { bytes: b"HEAD".to_vec(), passage, room, done }), told)
    }

    #[test]
    fn a_copy_is_framed_as_its_request_and_told_once_it_is_whole() {
        let (copy, told) = copying(Passage::Chunked, 5);
        let copy = copy.push(b"ab").and_then(|copy| copy.push(b"")).expect("there is room");
        assert!(told.borrow().is_none());
        copy.push(b"cde").expect("exactly").finish(b"t: 1\r\n");
        let wanted = b"HEAD2\r\nab\r\n3\r\ncde\r\n0\r\nt: 1\r\n\r\n".to_vec();
        assert_eq!(told.take(), Some(Ok(wanted)));
        let (copy, told) = copying(Passage::Raw, 5);
        copy.push(b"ab").expect("there is room").finish(b"");
        assert_eq!(told.take(), Some(Ok(b"HEADab".to_vec())));
    }

    #[test]
    fn a_body_over_the_bound_gives_the_copy_up_and_an_unfinished_one_says_nothing() {
        let (copy, told) = copying(Passage::Raw, 3);
        assert!(copy.push(b"abcd").is_none());
        assert_eq!(told.take(), Some(Err(Mirrored::TooLarge)));
        let (copy, told) = copying(Passage::Raw, 3);
        drop(copy.push(b"abc"));
        assert_eq!(told.take(), None);
    }

    #[test]
    fn a_copy_does_not_ask_whether_its_body_is_wanted() {
        let draft = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\nbody";
        let end = draft.len() - 4;
        assert_eq!(head_of_copy(draft, end), b"POST / HTTP/1.1\r\nHost: a\r\n\r\nbody");
        let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_of_copy(plain, plain.len()), plain);
    }
}
