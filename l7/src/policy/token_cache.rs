//! Tokens that were already verified, so that the next request with one costs a hash.
//!
//! There is one cache for each policy, so a verdict of one never serves another; who shares it
//! with others locks it. An entry holds until the token expires and at most as long as the policy
//! says, and only while the key set has the generation it was verified with: a key that is taken
//! out takes its tokens with it. The table is bounded in entries, and in what they weigh where
//! verdicts are of different size; when it is full, a hand goes round and takes the first entry
//! that is over or was not used since it last came by (CLOCK).
//!
//! Tokens are kept as SHA-256, so a dump of memory gives none away.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;

use super::claims::UnixTime;

/// What an entry is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, token);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Some bits of it, to choose one of several tables by.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Debug for TokenKey {
    /// Two lines of a log with the same hash would tell that it was the same token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TokenKey")
    }
}

/// Verdicts of type `V`, such as `Rc<Claims>`; for introspection also that a token is not active.
pub struct TokenCache<V> {
    entries_max: usize,
    /// Of all entries, in whatever whoever keeps them weighs with.
    weight_max: usize,
    weight: usize,
    places: HashMap<TokenKey, usize>,
    entries: Vec<Entry<V>>,
    /// Where the search for something to replace goes on.
    hand: usize,
}

struct Entry<V> {
    key: TokenKey,
    generation: u64,
    since: UnixTime,
    until: UnixTime,
    used: bool,
    weight: usize,
    value: V,
}

impl<V> Entry<V> {
    /// A clock that was set back ends an entry too: nobody knows how old it is.
    fn holds(&self, generation: u64, now: UnixTime) -> bool {
        self.generation == generation && (self.since..self.until).contains(&now)
    }
}

impl<V> fmt::Debug for TokenCache<V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("TokenCache");
        shown.field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl<V: Clone> TokenCache<V> {
    /// `entries_max` of 0 is a cache that keeps nothing.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries_max,
            weight_max: 0,
            weight: 0,
            places: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
        }
    }

    /// All entries together weigh no more than this.
    #[must_use]
    pub const fn with_weight_max(mut self, weight_max: usize) -> Self {
        self.weight_max = weight_max;
        self
    }

    /// The verdict on a token, if it still holds. `generation` is that of the key set in use.
    pub fn get(&mut self, key: &TokenKey, generation: u64, now: UnixTime) -> Option<V> {
        let entry = &mut self.entries[*self.places.get(key)?];
        if !entry.holds(generation, now) {
            return None;
        }
        entry.used = true;
        Some(entry.value.clone())
    }

    /// Keeps a verdict until `until`; see [`until`].
    pub fn keep(
        &mut self,
        key: TokenKey,
        generation: u64,
        value: V,
        until: UnixTime,
        now: UnixTime,
    ) {
        self.keep_weighing(0, key, generation, value, until, now);
    }

    /// The same for a verdict of some weight. One that weighs more than all may is not kept.
    pub fn keep_weighing(
        &mut self,
        weight: usize,
        key: TokenKey,
        generation: u64,
        value: V,
        until: UnixTime,
        now: UnixTime,
    ) {
        if until <= now || self.entries_max == 0 || weight > self.weight_max {
            return;
        }
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
        // Giving up light ones would make no room for a heavy one.
        while self.weight + weight > self.weight_max {
            let place = self.replaceable(generation, now, 1);
            self.remove(place);
        }
        if self.entries.len() >= self.entries_max {
            let place = self.replaceable(generation, now, 0);
            self.remove(place);
        }
        self.weight += weight;
        self.places.insert(key, self.entries.len());
        self.entries.push(Entry { key, generation, since: now, until, used: false, weight, value });
    }

    fn remove(&mut self, place: usize) {
        let gone = self.entries.swap_remove(place);
        self.places.remove(&gone.key);
        self.weight -= gone.weight;
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.key, place);
        }
    }

    /// One of those that weigh so much, of which there is one. Ends after two rounds at most: the
    /// first one clears every mark.
    fn replaceable(&mut self, generation: u64, now: UnixTime, weight_min: usize) -> usize {
        loop {
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = &mut self.entries[place];
            if entry.weight < weight_min {
                continue;
            }
            if !std::mem::take(&mut entry.used) || !entry.holds(generation, now) {
                return place;
            }
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// How long a verdict may be kept: for `ttl`, where there is one, and never past the token's end.
#[must_use]
pub fn until(expires_at: Option<UnixTime>, ttl: Option<Duration>, now: UnixTime) -> UnixTime {
    let end = expires_at.unwrap_or(UnixTime(Duration::MAX));
    ttl.map_or(end, |ttl| end.min(now.saturating_add(ttl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::seconds(seconds)
    }

    fn key(number: u32) -> TokenKey {
        TokenKey::of(&number.to_be_bytes())
    }

    #[test]
    fn a_verdict_holds_until_its_end_and_no_longer() {
        let mut cache = TokenCache::new(10);
        cache.keep(key(1), 0, "u1", at(20), at(10));
        for (now, expected) in [(10, Some("u1")), (19, Some("u1")), (20, None), (9, None)] {
            assert_eq!(cache.get(&key(1), 0, at(now)), expected, "at {now}");
        }
        assert_eq!(cache.get(&key(2), 0, at(10)), None);
    }

    #[test]
    fn what_is_over_when_it_comes_is_not_kept() {
        let mut cache = TokenCache::new(10);
        cache.keep(key(1), 0, (), at(10), at(10));
        assert!(cache.is_empty());
        let mut none = TokenCache::new(0);
        none.keep(key(1), 0, (), at(20), at(10));
        assert!(none.is_empty());
    }

    #[test]
    fn other_keys_end_every_verdict_by_the_old_ones() {
        let mut cache = TokenCache::new(10);
        cache.keep(key(1), 3, "old", at(20), at(10));
        assert_eq!(cache.get(&key(1), 4, at(11)), None);
        cache.keep(key(1), 4, "new", at(20), at(11));
        assert_eq!(cache.get(&key(1), 4, at(12)), Some("new"));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_used() {
        let mut cache = TokenCache::new(100);
        cache.keep(key(0), 0, 0, at(20), at(10));
        for number in 1..10_000 {
            assert_eq!(cache.get(&key(0), 0, at(11)), Some(0), "after {number}");
            cache.keep(key(number), 0, number, at(20), at(11));
        }
        assert_eq!(cache.len(), 100);
        assert_eq!(cache.places.len(), 100);
        assert_eq!(cache.get(&key(9_999), 0, at(12)), Some(9_999));
    }

    #[test]
    fn a_full_table_gives_up_what_is_over_even_if_it_was_used() {
        let mut cache = TokenCache::new(2);
        cache.keep(key(1), 0, 1, at(12), at(10));
        cache.keep(key(2), 0, 2, at(20), at(10));
        assert!(cache.get(&key(1), 0, at(11)).is_some() && cache.get(&key(2), 0, at(11)).is_some());
        cache.keep(key(3), 0, 3, at(20), at(13));
        assert_eq!(cache.get(&key(2), 0, at(13)), Some(2));
        assert_eq!(cache.get(&key(3), 0, at(13)), Some(3));
    }

    #[test]
    fn what_all_verdicts_weigh_is_bounded_and_light_ones_do_not_count() {
        let mut cache = TokenCache::new(100).with_weight_max(10);
        for number in 0..50 {
            cache.keep(key(number), 0, number, at(20), at(10));
        }
        for number in 50..1_000 {
            cache.keep_weighing(3, key(number), 0, number, at(20), at(10));
            assert!(cache.weight <= 10 && cache.entries.len() <= 100);
            assert_eq!(cache.get(&key(number), 0, at(10)), Some(number));
        }
        assert_eq!((cache.weight, cache.places.len()), (9, cache.len()));
        assert_eq!((cache.len(), cache.get(&key(0), 0, at(10))), (53, Some(0)));
        cache.keep_weighing(1, key(999), 0, 0, at(20), at(10));
        assert_eq!((cache.weight, cache.get(&key(999), 0, at(10))), (7, Some(0)));
        cache.keep_weighing(11, key(1_000), 0, 0, at(20), at(10));
        assert_eq!(cache.get(&key(1_000), 0, at(10)), None);
    }

    #[test]
    fn a_ttl_never_reaches_past_the_tokens_end() {
        let ttl = Some(Duration::from_secs(30));
        assert_eq!(until(Some(at(100)), ttl, at(60)), at(90));
        assert_eq!(until(Some(at(100)), ttl, at(80)), at(100));
        assert_eq!(until(None, ttl, at(60)), at(90));
        assert_eq!(until(Some(at(100)), None, at(60)), at(100));
    }

    #[test]
    fn no_dump_shows_a_token() {
        let mut cache = TokenCache::new(1);
        cache.keep(TokenKey::of(b"secret"), 0, "alice", at(2), at(1));
        assert_eq!(format!("{cache:?} {:?}", key(1)), "TokenCache { entries: 1, .. } TokenKey");
    }
}
