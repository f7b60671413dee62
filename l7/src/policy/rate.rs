//! Token buckets: how often somebody may do something.
//!
//! The generic cell rate algorithm: a bucket is the one moment at which it will be full again.
//! A token moves that moment on by one interval, and may be taken while the moment is no
//! further away than a whole burst less one interval.
//!
//! Arithmetic is exact: an interval that is no whole number of ticks (a third of a second)
//! keeps its remainder in fractions of `count`, so no rounding adds up however long a bucket is
//! used. A tick is a nanosecond here and a microsecond in Redis, by the same code.
//!
//! - G1: never more than `burst` at once, and over any time never more than an ideal bucket
//!   that began full. What overflows the clock's range is refused.
//! - G2: several rates of one policy are taken all or none.
//! - G3: an older `now` than before (the clocks of two workers differ a little) takes nothing
//!   back and gives nothing away.

use std::num::NonZeroU32;
use std::time::Duration;

/// A burst that takes longer to refill than 100 years is cut to that: it keeps every moment
/// within 2^53 µs, which Redis counts exactly, and far within 2^64 ns.
const REFILL_SECONDS_MAX: u64 = 100 * 365 * 86_400;

/// A bucket that is this much emptier than empty was filled by another rate (the configuration
/// has changed) or another clock; it starts again as empty.
const DISTRUST: Duration = Duration::from_secs(1);

/// `count` per `per`, evenly; at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    per: Duration,
    burst: NonZeroU32,
    nanos: Gcra,
}

impl Rate {
    /// `burst` is `count` where nothing else is said. A `per` of zero counts as a nanosecond.
    #[must_use]
    pub fn new(count: NonZeroU32, per: Duration, burst: NonZeroU32) -> Self {
        let nanos = Gcra::new(count, burst, per, NANOS);
        Self { count, per, burst, nanos }
    }

    #[must_use]
    pub const fn count(&self) -> NonZeroU32 {
        self.count
    }

    #[must_use]
    pub const fn per(&self) -> Duration {
        self.per
    }

    #[must_use]
    pub const fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// In ticks of a nanosecond.
    #[must_use]
    pub const fn in_nanos(&self) -> &Gcra {
        &self.nanos
    }

    /// In ticks of a microsecond.
    #[must_use]
    pub fn in_micros(&self) -> Gcra {
        Gcra::new(self.count, self.burst, self.per, MICROS)
    }
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// A length of time: whole ticks and a part of one, in fractions of the rate's `count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub ticks: u64,
    pub part: u32,
}

impl Span {
    const fn of(fractions: u128, count: NonZeroU32) -> Self {
        let count = count.get() as u128;
        // At most REFILL_SECONDS_MAX in ticks, so it fits.
        Self { ticks: (fractions / count) as u64, part: (fractions % count) as u32 }
    }

    fn fractions(self, count: NonZeroU32) -> u128 {
        u128::from(self.ticks) * u128::from(count.get()) + u128::from(self.part)
    }

    fn plus(self, other: Self, count: NonZeroU32) -> Option<Self> {
        let part = u64::from(self.part) + u64::from(other.part);
        let carry = part >= u64::from(count.get());
        let ticks = self.ticks.checked_add(other.ticks)?.checked_add(u64::from(carry))?;
        let part = if carry { part - u64::from(count.get()) } else { part };
        Some(Self { ticks, part: part as u32 })
    }

    /// `self - other`, of which `other` is not the greater.
    fn minus(self, other: Self, count: NonZeroU32) -> Self {
        let (ticks, part) = (self.ticks - other.ticks, self.part.wrapping_sub(other.part));
        if self.part >= other.part {
            return Self { ticks, part };
        }
        Self { ticks: ticks - 1, part: part.wrapping_add(count.get()) }
    }

    const fn rounded_up(self) -> u64 {
        self.ticks.saturating_add((self.part > 0) as u64)
    }
}

/// The numbers of a [`Rate`] in one kind of tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    count: NonZeroU32,
    /// Ticks in which `count` tokens come back; the fractions of one token.
    per: u64,
    /// Ticks in a second.
    second: u64,
    interval: Span,
    /// How far from full a bucket may be to give a token.
    usable: Span,
    /// How far from full an empty bucket is.
    empty: Span,
}

impl Gcra {
    fn new(count: NonZeroU32, burst: NonZeroU32, per: Duration, second: u64) -> Self {
        let tick = NANOS / second;
        let per = per.min(Duration::from_secs(REFILL_SECONDS_MAX)).as_nanos() as u64 / tick;
        let per = per.max(1);
        // In fractions of a tick a token is `per`, whatever the count.
        let token = u128::from(per);
        let most = u128::from(REFILL_SECONDS_MAX * second) * u128::from(count.get()) / token;
        let burst = u128::from(burst.get()).min(most).max(1);
        Self {
            count,
            per,
            second,
            interval: Span::of(token, count),
            usable: Span::of(token * (burst - 1), count),
            empty: Span::of(token * burst, count),
        }
    }

    #[must_use]
    pub const fn count(&self) -> NonZeroU32 {
        self.count
    }

    #[must_use]
    pub const fn interval(&self) -> Span {
        self.interval
    }

    #[must_use]
    pub const fn usable(&self) -> Span {
        self.usable
    }

    #[must_use]
    pub const fn empty(&self) -> Span {
        self.empty
    }

    /// How far from full the bucket is.
    fn used(&self, bucket: Bucket, now: u64) -> Span {
        let Some(ticks) = bucket.full_at.checked_sub(now) else { return Span::default() };
        // A part of another rate may be more than a tick of this one.
        if bucket.part >= self.count.get() {
            return Span { ticks: ticks.saturating_add(1), part: 0 };
        }
        Span { ticks, part: bucket.part }
    }

    /// The bucket with one token less, if it has one.
    fn taken(&self, used: Span, now: u64) -> Option<Bucket> {
        if used > self.usable {
            return None;
        }
        let full_at = used.plus(self.interval, self.count)?.plus(at(now), self.count)?;
        Some(Bucket { full_at: full_at.ticks, part: full_at.part })
    }

    fn nanos(&self, span: Span) -> Duration {
        Duration::from_nanos(span.rounded_up().saturating_mul(NANOS / self.second))
    }

    /// Tokens in a bucket that is so far from full.
    fn remaining(&self, used: Span) -> u32 {
        if used >= self.empty {
            return 0;
        }
        let left = self.empty.minus(used, self.count).fractions(self.count);
        // The narrow division is a tenth of the wide one, and nearly always enough.
        let tokens = match u64::try_from(left) {
            Ok(left) => left / self.per,
            Err(_) => (left / u128::from(self.per)) as u64,
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// What there is to say of a bucket after a decision.
    #[must_use]
    pub fn standing(&self, bucket: Bucket, now: u64) -> Standing {
        let used = self.used(bucket, now);
        let wait = if used > self.usable {
            self.nanos(used.minus(self.usable, self.count))
        } else {
            Duration::ZERO
        };
        Standing { remaining: self.remaining(used), reset_after: self.nanos(used), wait }
    }
}

const fn at(now: u64) -> Span {
    Span { ticks: now, part: 0 }
}

/// How one bucket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub remaining: u32,
    /// Until it is full.
    pub reset_after: Duration,
    /// Until it has a token; zero if it has one.
    pub wait: Duration,
}

/// A token bucket: when it will be full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub full_at: u64,
    /// And so many `count`ths of a tick later.
    pub part: u32,
}

impl Bucket {
    pub const FULL: Self = Self { full_at: 0, part: 0 };

    /// Whether it is as good as one that nobody has used.
    #[must_use]
    pub const fn is_full(self, now: u64) -> bool {
        self.full_at < now || self.full_at == now && self.part == 0
    }

    /// The bucket itself, or an empty one if it is emptier than this rate and clock can have
    /// left it. What is kept of a bucket must have been settled, or it could refuse for ever.
    #[must_use]
    pub fn settled(self, rate: &Gcra, now: u64) -> Self {
        let trusted = rate.empty.ticks.saturating_add(rate.second * DISTRUST.as_secs());
        if self.full_at.saturating_sub(now) <= trusted {
            return self;
        }
        Self { full_at: now.saturating_add(rate.empty.ticks), part: rate.empty.part }
    }

    /// The bucket with one token less, if it has one. `now` is in the ticks of `rate`.
    #[must_use]
    pub fn take(self, rate: &Gcra, now: u64) -> Option<Self> {
        rate.taken(rate.used(self, now), now)
    }
}

/// What a policy that limits says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Which of the policy's rates is the tightest: the one that refuses longest, or else the
    /// one with the fewest tokens left.
    pub limit: u16,
    pub remaining: u32,
    /// Until everything is there again.
    pub reset_after: Duration,
    /// Until one is there again; zero if this one was allowed.
    pub retry_after: Duration,
}

impl Decision {
    /// Of no limits at all.
    pub const UNLIMITED: Self = Self {
        allowed: true,
        limit: 0,
        remaining: u32::MAX,
        reset_after: Duration::ZERO,
        retry_after: Duration::ZERO,
    };

    /// Of buckets as they stand after the decision.
    pub fn of(allowed: bool, standings: impl Iterator<Item = Standing>) -> Self {
        let mut tightest = Self { allowed, ..Self::UNLIMITED };
        for (at, now) in standings.enumerate() {
            let found = Self {
                allowed,
                limit: at as u16,
                remaining: now.remaining,
                reset_after: now.reset_after,
                retry_after: if allowed { Duration::ZERO } else { now.wait },
            };
            let tighter = found.retry_after > tightest.retry_after
                || found.retry_after == tightest.retry_after
                    && (found.remaining, tightest.reset_after)
                        < (tightest.remaining, found.reset_after);
            if at == 0 || tighter {
                tightest = found;
            }
        }
        tightest
    }
}

/// Takes a token from every bucket, or from none (G2). `now` is in nanoseconds.
///
/// # Panics
/// If there are fewer buckets than rates.
pub fn take_all(rates: &[Rate], buckets: &mut [Bucket], now: u64) -> Decision {
    assert!(buckets.len() >= rates.len(), "a bucket for each rate");
    let rates = || rates.iter().map(Rate::in_nanos).enumerate();
    for (at, rate) in rates() {
        buckets[at] = buckets[at].settled(rate, now);
    }
    let allowed = rates().all(|(at, rate)| buckets[at].take(rate, now).is_some());
    if allowed {
        for (at, rate) in rates() {
            buckets[at] = buckets[at].take(rate, now).unwrap_or(buckets[at]);
        }
    }
    Decision::of(allowed, rates().map(|(at, rate)| rate.standing(buckets[at], now)))
}

#[cfg(test)]
mod tests;
