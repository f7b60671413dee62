//! What the auth services of one policy have said of who somebody is: for a while, by a hash of
//! the question, shared by all workers.
//!
//! ```text
//!          known ──────────────────────────────────────────────▶ answer
//!   look ─┬─ nobody asks ─▶ flight ─▶ asks ─▶ keeps, lands ──────▶ answer
//!         └─ somebody does ─▶ waits for word ─▶ looks again
//! ```
//!
//! - A1: a lock is held for one look, never while somebody asks.
//! - A2: who looks and who asks is decided under one lock, so of all workers one asks. Only an
//!   answer that is not kept makes those who waited for it ask for themselves, each once: another
//!   flight would have them ask one after the other.
//! - A3: the table has `entries` in all; who flies and who waits is bounded by the requests in
//!   flight.
//!
//! It lives in [`Rules`](super::Rules), as long as policy and consumers stay the same.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate_l7::policy::claims::UnixTime;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::token_cache::{TokenCache, TokenKey};

use super::office::Office;
use super::policies::Refusal;
use super::waiting::{Told, Word};
use crate::runtime::driver::Driver;
use crate::runtime::mail::{Mail, Mailbox};
use crate::runtime::time::Time;

/// Who it is, or what those are answered who are nobody.
pub type Known = Result<Arc<Principal>, Arc<Refusal>>;

/// Parts of a table with a lock each: a few more than workers use at a time.
const SHARDS_MAX: usize = 16;

/// Entries of a part, at least: hashes fill parts evenly only where these are large.
const SHARD_ENTRIES_MIN: usize = 1_024;

/// Bytes of refusals that are kept for one policy: a page of an auth service is some kilobytes.
const REFUSALS_BYTES_MAX: usize = 64 << 20;

/// Workers read the clock once a turn, so an answer may be kept a little after the time at which
/// another worker looks.
const SKEW: Duration = Duration::from_secs(1);

/// How often those who wait look for themselves, should word be lost.
const LOOK: Duration = Duration::from_millis(50);

pub struct SharedAnswers {
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    known: TokenCache<Known>,
    /// What is asked about now, and who is to be told when it lands.
    flying: HashMap<TokenKey, Vec<Waiter>>,
}

struct Waiter {
    mailbox: Mailbox,
    told: Told,
}

/// What there is to do about a question.
enum Look {
    Known(Known),
    Fly(Flight),
    Wait,
}

/// A question that is being asked. Dropping it lets the others ask.
pub struct Flight {
    answers: Arc<SharedAnswers>,
    key: TokenKey,
    answered: bool,
}

impl Flight {
    /// There is an answer, and it was kept if it is one to keep.
    pub fn land(mut self) {
        self.answered = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let waiting = self.answers.shard(&self.key).flying.remove(&self.key);
        for Waiter { mailbox, told } in waiting.into_iter().flatten() {
            // If its box is full it looks for itself.
            let _ = mailbox.post(Mail::Told(Told { good: self.answered, ..told }));
        }
    }
}

/// What came of a question that others may have.
pub(super) enum Found {
    Known(Known),
    /// To be asked, for others too if there is a flight.
    Ask(Option<Flight>),
    /// Whoever asks has no answer in time.
    Nobody,
}

impl std::fmt::Debug for SharedAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedAnswers").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl SharedAnswers {
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        let shards = (entries_max / SHARD_ENTRIES_MIN).clamp(1, SHARDS_MAX);
        let shard = |_| {
            let known = TokenCache::new(entries_max / shards);
            let known = known.with_weight_max(REFUSALS_BYTES_MAX / shards);
            Mutex::new(Shard { known, flying: HashMap::new() })
        };
        Self { shards: (0..shards).map(shard).collect() }
    }

    fn shard(&self, key: &TokenKey) -> MutexGuard<'_, Shard> {
        let at = key.bits() as usize % self.shards.len();
        // Each statement under the lock leaves a table, whatever panics.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer until then.
    pub fn keep(&self, key: TokenKey, known: Known, until: UnixTime, now: UnixTime) {
        let weight = known.as_ref().err().map_or(0, |refusal| refusal.weight());
        let since = UnixTime(now.0.saturating_sub(SKEW));
        self.shard(&key).known.keep_weighing(weight, key, 0, known, until, since);
    }

    fn look(self: &Arc<Self>, key: &TokenKey, now: UnixTime) -> Look {
        let mut shard = self.shard(key);
        if let Some(known) = shard.known.get(key, 0, now) {
            return Look::Known(known);
        }
        match shard.flying.entry(*key) {
            Entry::Vacant(place) => {
                place.insert(Vec::new());
                Look::Fly(Flight { answers: Arc::clone(self), key: *key, answered: false })
            }
            Entry::Occupied(_) => Look::Wait,
        }
    }

    /// Has word sent when the question lands. False: it has landed.
    fn wait(&self, key: &TokenKey, waiter: Waiter) -> bool {
        let mut shard = self.shard(key);
        let waiting = shard.flying.get_mut(key);
        waiting.map(|waiting| waiting.push(waiter)).is_some()
    }

    fn flies(&self, key: &TokenKey) -> bool {
        self.shard(key).flying.contains_key(key)
    }

    /// What is known of a question, or that it is to be asked. Waits until `until` for whoever
    /// asks it already.
    pub(super) async fn find<D: Driver>(
        self: &Arc<Self>,
        office: &Rc<Office<D>>,
        key: &TokenKey,
        until: Time,
    ) -> Found {
        loop {
            match self.look(key, office.unix_time()) {
                Look::Known(known) => return Found::Known(known),
                Look::Fly(flight) => return Found::Ask(Some(flight)),
                Look::Wait => {}
            }
            match self.landed(office, key, until).await {
                Some(true) => {
                    // Not there: it was an answer for whoever asked (A2).
                    let known = self.shard(key).known.get(key, 0, office.unix_time());
                    return known.map_or(Found::Ask(None), Found::Known);
                }
                Some(false) => {}
                None => return Found::Nobody,
            }
        }
    }

    /// Waits until whoever asks is done: whether there was an answer. `None`: the time is up.
    async fn landed<D: Driver>(
        &self,
        office: &Rc<Office<D>>,
        key: &TokenKey,
        until: Time,
    ) -> Option<bool> {
        let shell = office.shell();
        let word = Word::new(Rc::clone(office));
        if !self.wait(key, Waiter { mailbox: office.mailbox(), told: word.told() }) {
            return Some(false);
        }
        loop {
            let look = until.min(shell.now() + LOOK);
            match shell.timeout(look, word.heard()).await {
                Ok(answered) => return Some(answered),
                Err(_) if shell.now() >= until => return None,
                Err(_) if !self.flies(key) => return Some(false),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_l7::policy::Denial;

    use super::*;

    const NOW: UnixTime = UnixTime::seconds(100);

    fn refusal(bytes: usize) -> Known {
        let denial = Denial { lines: vec![0; bytes], ..Denial::forbidden() };
        Err(Arc::new(Refusal::Denied(denial)))
    }

    fn key(number: usize) -> TokenKey {
        TokenKey::of(&number.to_be_bytes())
    }

    #[test]
    fn of_all_workers_one_asks_and_the_others_are_told() {
        let answers = Arc::new(SharedAnswers::new(2));
        let Look::Fly(flight) = answers.look(&key(1), NOW) else { panic!("nobody asks") };
        assert!(matches!(answers.look(&key(2), NOW), Look::Fly(_)));
        let mailbox = Mailbox::new().unwrap();
        let told = |ticket| Told { ticket, generation: 1, good: false };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(matches!(answers.look(&key(1), NOW), Look::Wait));
                let waiter = Waiter { mailbox: mailbox.clone(), told: told(7) };
                assert!(answers.wait(&key(1), waiter));
            });
        });
        let later = UnixTime::seconds(101);
        answers.keep(key(1), refusal(0), UnixTime::seconds(110), later);
        flight.land();
        let Some(Mail::Told(word)) = mailbox.take() else { panic!("no word") };
        assert_eq!((word.ticket, word.good), (7, true));
        // By the clock of a worker that is a little behind.
        assert!(matches!(answers.look(&key(1), NOW), Look::Known(Err(_))));
        assert!(!answers.wait(&key(1), Waiter { mailbox, told: told(8) }), "it has landed");
    }

    #[test]
    fn a_flight_that_comes_to_nothing_leaves_the_question_to_another() {
        let answers = Arc::new(SharedAnswers::new(2));
        let mailbox = Mailbox::new().unwrap();
        {
            let Look::Fly(_flight) = answers.look(&key(1), NOW) else { panic!("nobody asks") };
            let told = Told { ticket: 7, generation: 1, good: false };
            assert!(answers.wait(&key(1), Waiter { mailbox: mailbox.clone(), told }));
        }
        assert!(matches!(mailbox.take(), Some(Mail::Told(Told { good: false, .. }))));
        assert!(matches!(answers.look(&key(1), NOW), Look::Fly(_)));
    }

    #[test]
    fn all_parts_together_have_no_more_entries_and_bytes_than_they_may() {
        let held = |answers: &SharedAnswers| -> usize {
            answers.shards.iter().map(|shard| shard.lock().unwrap().known.len()).sum()
        };
        for (entries, bytes) in [(1, 0), (1_000, 0), (5_000, 0), (10_000_000, 1 << 20)] {
            let answers = SharedAnswers::new(entries);
            for number in 0..6_000 {
                answers.keep(key(number), refusal(bytes), UnixTime::seconds(110), NOW);
            }
            assert!(held(&answers) <= entries);
            assert!(held(&answers) * bytes <= REFUSALS_BYTES_MAX);
            assert!(held(&answers) > 0);
        }
    }
}
