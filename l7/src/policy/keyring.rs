//! When a published key set is fetched, and how long the last one serves.
//!
//! ```text
//!               fetched                  refresh + grace without a good answer
//!   no keys ───────────────▶ keys held ────────────────────────────────────────▶ no keys
//!                            │   ▲
//!                            └───┘ fetched anew: every `refresh`; soon after a failure; at once
//!                                  for an unknown key, at most once every `cooldown`
//! ```
//!
//! Events in, [`Step`]s out; the shell has the clock and the socket.
//!
//! - K1: one fetch at a time. What happens meanwhile starts no second one.
//! - K2: tokens with unknown keys, however many, cause at most one fetch every `cooldown`. A wish
//!   that comes too early is remembered, so that a new key is found when it may be.
//! - K3: a failed fetch or a bad document never takes keys away; only time does. It is tried
//!   again when the refresh was due anyway, not because somebody named an unknown key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jwks::KeySet;

/// The first pause after a failed fetch; it doubles up to the cooldown.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest pause while there are no keys: until then every request is refused.
const RETRY_WITHOUT_KEYS_MAX: Duration = Duration::from_secs(5);

/// How one key set is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Between two fetches while all is well.
    pub refresh: Duration,
    /// How long the keys serve after a refresh that was due and failed.
    pub grace: Duration,
    /// Between two fetches that unknown keys cause.
    pub cooldown: Duration,
}

/// What the shell has to do after an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Fetch the key set, and tell how it went by [`Keyring::on_fetched`].
    pub fetch: bool,
    /// Publish [`Keyring::keys`]: they are others now, or gone.
    pub publish: bool,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct Keyring {
    schedule: Schedule,
    held: Option<Held>,
    /// A fetch is on its way (K1).
    fetching: bool,
    /// When the next fetch is due, if no unknown key asks for one earlier.
    due: Instant,
    /// Fetches in a row that failed.
    failures: u32,
    /// Unknown keys may cause a fetch from here on.
    warm: Instant,
    /// An unknown key was seen and waits for `warm`.
    wanted: bool,
}

#[derive(Debug)]
struct Held {
    keys: Arc<KeySet>,
    fetched_at: Instant,
    until: Instant,
}

impl Keyring {
    /// Without keys, the first fetch due at once.
    #[must_use]
    pub fn new(schedule: Schedule, now: Instant) -> Self {
        let (due, warm) = (now, now);
        Self { schedule, held: None, fetching: false, due, failures: 0, warm, wanted: false }
    }

    /// The same with keys that were fetched before, under another schedule perhaps.
    #[must_use]
    pub fn holding(mut self, keys: Arc<KeySet>, fetched_at: Instant) -> Self {
        self.hold(keys, fetched_at);
        self
    }

    fn hold(&mut self, keys: Arc<KeySet>, fetched_at: Instant) {
        let until = fetched_at + self.schedule.refresh + self.schedule.grace;
        self.held = Some(Held { keys, fetched_at, until });
    }

    /// When [`Keyring::keys`] were fetched.
    #[must_use]
    pub fn fetched_at(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.fetched_at)
    }

    /// The keys to verify with. `None` means that no token can be judged: the answer is 503.
    #[must_use]
    pub fn keys(&self) -> Option<&Arc<KeySet>> {
        self.held.as_ref().map(|held| &held.keys)
    }

    /// Whether another unknown key would be news. While one waits for its fetch, none is.
    #[must_use]
    pub const fn listens(&self) -> bool {
        !self.wanted
    }

    /// When [`Keyring::on_time`] has something to do, if nothing happens before; `None` while
    /// there is only a fetch to wait for.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let fetch = (!self.fetching).then(|| self.next_fetch());
        let end = self.held.as_ref().map(|held| held.until);
        fetch.into_iter().chain(end).min()
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) -> Step {
        let over = self.held.as_ref().is_some_and(|held| held.until <= now);
        if over {
            self.held = None;
        }
        Step { publish: over, fetch: self.begin_if_due(now) }
    }

    /// A token named a key that is not in the set.
    pub fn on_unknown_key(&mut self, now: Instant) -> Step {
        // The fetch on its way may have left before the key was published: the wish stays.
        self.wanted = true;
        Step { publish: false, fetch: self.begin_if_due(now) }
    }

    /// The fetch came to its end; `None` if it failed or its document gave no keys.
    pub fn on_fetched(&mut self, now: Instant, keys: Option<KeySet>) -> Step {
        self.fetching = false;
        let Some(keys) = keys else {
            if self.due <= now {
                self.failures += 1;
                self.due = now + self.retry_pause();
            }
            return self.on_time(now);
        };
        self.failures = 0;
        self.due = now + self.schedule.refresh;
        self.hold(Arc::new(keys), now);
        Step { publish: true, fetch: self.begin_if_due(now) }
    }

    fn next_fetch(&self) -> Instant {
        if self.wanted { self.due.min(self.warm) } else { self.due }
    }

    fn begin_if_due(&mut self, now: Instant) -> bool {
        if self.fetching || now < self.next_fetch() {
            return false;
        }
        if self.wanted && self.warm <= now {
            self.warm = now + self.schedule.cooldown;
        }
        self.wanted = false;
        self.fetching = true;
        true
    }

    fn retry_pause(&self) -> Duration {
        let Schedule { refresh, cooldown, .. } = self.schedule;
        let doubled = RETRY_FIRST.saturating_mul(1 << (self.failures - 1).min(16));
        let longest = cooldown.max(RETRY_FIRST).min(refresh);
        let longest = match self.held {
            Some(_) => longest,
            None => longest.min(RETRY_WITHOUT_KEYS_MAX),
        };
        doubled.min(longest)
    }
}

#[cfg(test)]
mod tests;
