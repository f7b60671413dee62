//! Published key sets: fetched on the control thread, read by workers.
//!
//! One task for each policy with a `jwks.url` drives a [`Keyring`]. Workers hold what they read
//! last and look at one number to see whether it is still the newest; a token with an unknown key
//! sets a flag, which costs them nothing when it is set already. Neither side waits for the other.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluicegate_l7::policy::jwks::{JWKS_BYTES_MAX, KeySet, Remark};
use sluicegate_l7::policy::keyring::{Keyring, Schedule, Step};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::fetch::{Names, Source};
use crate::observe::logger::Log;

/// Remarks on keys that one line of the log has room for.
const REMARKS_SAID_MAX: usize = 4;

/// The keys of one policy, as all workers see them.
#[derive(Debug, Default)]
pub struct SharedKeys {
    /// Counts what was published. Written while `keys` is locked.
    generation: AtomicU64,
    keys: Mutex<Option<Arc<KeySet>>>,
    /// When those were fetched.
    fetched_at: Mutex<Option<std::time::Instant>>,
    /// A token named a key that is not among them.
    wanted: AtomicBool,
    /// A fetch is on its way, or an unknown key would cause one now.
    asks: AtomicBool,
    wake: Notify,
    fetched: AtomicU64,
    failed: AtomicU64,
}

/// What a worker holds of [`SharedKeys`].
#[derive(Clone, Debug, Default)]
pub struct HeldKeys {
    /// Of the keys below; verdicts of another one do not hold.
    pub generation: u64,
    /// `None`: no token can be judged, so the answer is 503.
    pub keys: Option<Arc<KeySet>>,
}

impl HeldKeys {
    /// The newest keys. One load, unless there are newer ones.
    pub fn refresh(&mut self, shared: &SharedKeys) {
        if self.generation != shared.generation.load(Ordering::Acquire) {
            *self = shared.read();
        }
    }
}

impl SharedKeys {
    /// Keys that do not come from a URL and never change.
    #[must_use]
    pub fn fixed(keys: KeySet) -> Self {
        let shared = Self::default();
        shared.publish(Some(Arc::new(keys)), None);
        shared
    }

    /// For a worker that holds older ones; see [`HeldKeys::refresh`].
    #[must_use]
    pub fn read(&self) -> HeldKeys {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        HeldKeys { generation: self.generation.load(Ordering::Relaxed), keys: keys.clone() }
    }

    /// A token named an unknown key. Never waits.
    pub fn want(&self) {
        // Read first: a flood of such tokens must not fight over the cache line.
        if !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Whether newer keys may be here soon: worth waiting for, with a token whose key is new.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }

    /// Counts what was published.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Fetches that brought keys, and those that did not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.fetched.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// What was published last, and when it was fetched.
    fn held(&self) -> Option<(Arc<KeySet>, std::time::Instant)> {
        let fetched_at = *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.read().keys.zip(fetched_at)
    }

    fn publish(&self, newer: Option<Arc<KeySet>>, fetched_at: Option<std::time::Instant>) {
        *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner) = fetched_at;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        *keys = newer;
        self.generation.fetch_add(1, Ordering::Release);
    }

    async fn wanted(&self) {
        while !self.wanted.swap(false, Ordering::Relaxed) {
            self.wake.notified().await;
        }
    }
}

/// What one policy asks for.
#[derive(Debug)]
pub struct Jwks {
    /// How messages begin, such as `policy token`.
    pub name: String,
    pub source: Source,
    pub schedule: Schedule,
    /// For one fetch, from the lookup of the name to the last byte.
    pub timeout: Duration,
}

/// Keeps one key set up to date, for ever. Keys that are there already serve on as long as the
/// schedule lets them.
pub async fn keep_fetched(jwks: Jwks, names: Names, shared: Arc<SharedKeys>, log: Log) {
    let mut ring = Keyring::new(jwks.schedule, now());
    if let Some((keys, fetched_at)) = shared.held() {
        ring = ring.holding(keys, fetched_at);
    }
    let mut reporter = Reporter { jwks: &jwks, log: &log, trouble: None, remarks: Vec::new() };
    let mut step = ring.on_time(now());
    loop {
        shared.asks.store(step.fetch || ring.listens(), Ordering::Release);
        step = if step.fetch {
            publish(step, &ring, &shared, &reporter);
            fetch(&jwks, &names, &mut ring, &shared, &mut reporter).await
        } else {
            publish(step, &ring, &shared, &reporter);
            tokio::select! {
                () = until(&ring) => ring.on_time(now()),
                () = shared.wanted(), if ring.listens() => ring.on_unknown_key(now()),
            }
        };
    }
}

fn publish(step: Step, ring: &Keyring, shared: &SharedKeys, reporter: &Reporter<'_>) {
    if step.publish {
        shared.publish(ring.keys().cloned(), ring.fetched_at());
        if ring.keys().is_none() {
            reporter.on_end();
        }
    }
}

/// One fetch; meanwhile the old keys may come to their end.
async fn fetch(
    jwks: &Jwks,
    names: &Names,
    ring: &mut Keyring,
    shared: &SharedKeys,
    reporter: &mut Reporter<'_>,
) -> Step {
    let document = jwks.source.fetch(names, JWKS_BYTES_MAX, jwks.timeout);
    tokio::pin!(document);
    let fetched = loop {
        tokio::select! {
            fetched = &mut document => break fetched,
            () = until(ring) => {
                let step = ring.on_time(now());
                publish(step, ring, shared, reporter);
            }
        }
    };
    let keys = fetched
        .and_then(|document| KeySet::parse_jwks(&document).map_err(|error| error.to_string()));
    // Said before it is counted: who sees the count finds the line.
    reporter.on_fetched(&keys, ring.keys().is_some());
    let counter = if keys.is_ok() { &shared.fetched } else { &shared.failed };
    counter.fetch_add(1, Ordering::Relaxed);
    ring.on_fetched(now(), keys.ok())
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Resolves when the keyring has something to do.
async fn until(ring: &Keyring) {
    match ring.deadline() {
        Some(at) => tokio::time::sleep_until(Instant::from_std(at)).await,
        None => std::future::pending().await,
    }
}

/// Says what is new, once.
struct Reporter<'j> {
    jwks: &'j Jwks,
    log: &'j Log,
    /// What was said of the last fetch, if it failed.
    trouble: Option<String>,
    remarks: Vec<Remark>,
}

impl Reporter<'_> {
    fn on_fetched(&mut self, keys: &Result<KeySet, String>, have_old: bool) {
        let (name, url) = (&self.jwks.name, self.jwks.source.shown());
        match keys {
            Ok(keys) => {
                let count = keys.len();
                if self.trouble.take().is_some() || !have_old {
                    self.log.info(format_args!("{name}: {count} keys from {url}"));
                }
                if self.remarks != keys.remarks() {
                    self.remarks = keys.remarks().to_vec();
                    self.say_remarks();
                }
            }
            Err(error) if self.trouble.as_ref() != Some(error) => {
                let then =
                    if have_old { "the old ones serve on" } else { "no token can be judged" };
                self.log.warn(format_args!("{name}: no keys from {url}: {error}; {then}"));
                self.trouble = Some(error.clone());
            }
            Err(_) => {}
        }
    }

    fn say_remarks(&self) {
        if self.remarks.is_empty() {
            return;
        }
        let mut text = format!("{}: {}", self.jwks.name, self.jwks.source.shown());
        for remark in self.remarks.iter().take(REMARKS_SAID_MAX) {
            let _ = write!(text, "; {remark}");
        }
        let more = self.remarks.len().saturating_sub(REMARKS_SAID_MAX);
        if more > 0 {
            let _ = write!(text, "; and {more} more");
        }
        self.log.warn(text);
    }

    fn on_end(&self) {
        let (name, url) = (&self.jwks.name, self.jwks.source.shown());
        self.log.error(format_args!(
            "{name}: the keys from {url} are too old to be trusted; no token can be judged"
        ));
    }
}

#[cfg(test)]
mod tests;
