//! Events as they happen: Server-Sent Events (HTML §9.2).
//!
//! A stream begins with the events that are kept, or with those after `Last-Event-ID`. Nothing
//! is queued for a reader: it is given what it has not seen when its connection has room. One
//! that takes nothing for long is dropped by [`super::patience`], and one that has fallen behind
//! what is kept is ended, so that it sees the gap when it comes back with its last id.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::control::instance::Instance;
use crate::observe::clock;
use crate::observe::events::Event;

/// How many streams there may be, and how often a quiet one shows that it lives.
#[derive(Debug)]
pub(super) struct Streams {
    free: Arc<Semaphore>,
    heartbeat: Duration,
}

impl Streams {
    pub fn new(max: usize, heartbeat: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), heartbeat }
    }

    /// A stream from where its reader stands; `None`: there are enough.
    pub fn open(&self, instance: &Arc<Instance>, headers: &HeaderMap) -> Option<EventStream> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        let seen = headers.get("Last-Event-ID").and_then(|id| id.to_str().ok()?.parse().ok());
        // An id that is yet to come is of another process: numbers begin anew with each.
        let seen = seen.filter(|&seen| seen <= instance.events.last()).unwrap_or(0);
        let next = Box::pin(std::future::ready(Some(first(instance, seen))));
        let (instance, heartbeat) = (instance.clone(), self.heartbeat);
        Some(EventStream { instance, heartbeat, next, _permit: permit })
    }
}

/// What to send, and the number of the last event in it; `None`: the end.
type Step = Option<(Bytes, u64)>;

/// One reader's stream.
pub(super) struct EventStream {
    instance: Arc<Instance>,
    heartbeat: Duration,
    next: Pin<Box<dyn Future<Output = Step>>>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some((bytes, seen)) = ready!(self.next.as_mut().poll(cx)) else {
            return Poll::Ready(None);
        };
        self.next = Box::pin(next(self.instance.clone(), seen, self.heartbeat));
        Poll::Ready(Some(bytes))
    }
}

/// What is there already. How soon to come back, should the connection break, is said with it;
/// that it is said at all tells a reader at once that the stream is open.
fn first(instance: &Instance, seen: u64) -> (Bytes, u64) {
    let kept = instance.events.since(seen);
    let last = kept.last().map_or(seen, |event| event.number);
    (("retry: 1000\n\n".to_owned() + &render(&kept)).into(), last)
}

async fn next(instance: Arc<Instance>, seen: u64, heartbeat: Duration) -> Step {
    loop {
        let news = instance.events.news();
        let events = instance.events.since(seen);
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            let is_gapless = first.number == seen + 1;
            return is_gapless.then(|| (render(&events).into(), last.number));
        }
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep(heartbeat) => return Some((": alive\n\n".into(), seen)),
        }
    }
}

fn render(events: &[Event]) -> String {
    events.iter().map(one).collect()
}

/// JSON has no line break in it, so one `data` line holds it all.
fn one(event: &Event) -> String {
    let data = serde_json::json!({
        "id": event.number,
        "at": clock::rfc3339(event.at),
        "kind": event.kind.as_str(),
        "text": event.text,
    });
    format!("id: {}\ndata: {data}\n\n", event.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::control::membership::Membership;
    use crate::observe::events::EventKind;
    use crate::runtime::engine::Engine;
    use crate::runtime::worker::Shared;

    fn instance() -> Arc<Instance> {
        let plan = Arc::new(fixture::plan(&["127.0.0.1:1".parse().unwrap()]));
        let shared = Arc::new(Shared::new(&plan, &[], Engine::Epoll).unwrap());
        let membership = Membership::plain(&plan);
        Arc::new(Instance::new(shared, membership, vec![], None))
    }

    fn push(instance: &Instance, count: usize) {
        for n in 0..count {
            instance.events.push(EventKind::ServerUp, format!("number {n}"));
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn streams(max: usize) -> Streams {
        Streams::new(max, Duration::from_millis(1))
    }

    async fn take(stream: &mut EventStream) -> Option<String> {
        let bytes = std::future::poll_fn(|cx| stream.poll_next(cx)).await?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn from(id: &str) -> HeaderMap {
        HeaderMap::from_iter([("Last-Event-ID".parse().unwrap(), id.parse().unwrap())])
    }

    #[test]
    fn a_stream_begins_with_what_is_kept_and_goes_on_with_what_comes() {
        let instance = instance();
        push(&instance, 2);
        run(async {
            let mut stream = streams(1).open(&instance, &HeaderMap::new()).unwrap();
            let kept = take(&mut stream).await.unwrap();
            assert!(kept.contains("id: 1\n") && kept.contains("id: 2\n"), "{kept}");
            assert_eq!(take(&mut stream).await.unwrap(), ": alive\n\n");
            push(&instance, 1);
            let news = take(&mut stream).await.unwrap();
            assert!(news.starts_with("id: 3\ndata: {\"id\":3,"), "{news}");
        });
    }

    #[test]
    fn a_reader_goes_on_after_the_last_one_it_saw() {
        let instance = instance();
        push(&instance, 3);
        run(async {
            let streams = streams(2);
            let mut stream = streams.open(&instance, &from("2")).unwrap();
            let text = take(&mut stream).await.unwrap();
            assert!(!text.contains("id: 2\n") && text.contains("id: 3\n"), "{text}");
            let mut other = streams.open(&instance, &from("77")).unwrap();
            assert!(take(&mut other).await.unwrap().contains("id: 1\n"), "of another process");
            assert!(streams.open(&instance, &HeaderMap::new()).is_none(), "there are two");
            drop(other);
            assert!(streams.open(&instance, &HeaderMap::new()).is_some());
        });
    }

    #[test]
    fn a_reader_that_missed_something_is_ended() {
        let instance = instance();
        push(&instance, 1);
        run(async {
            let mut stream = streams(1).open(&instance, &HeaderMap::new()).unwrap();
            take(&mut stream).await.unwrap();
            push(&instance, 1_000);
            assert_eq!(take(&mut stream).await, None);
        });
    }
}
