//! What one worker of the generator counts, and how several are added up.

use hdrhistogram::Histogram;

use crate::runtime::time::Time;

/// Shortest latency told apart, in nanoseconds.
const LATENCY_MIN_NS: u64 = 100;
/// Longest latency told apart; longer ones count as this.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Nanoseconds, 100 ns to 1 h, three digits: 220 KiB.
#[must_use]
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, 3).expect("constant bounds that fit")
}

/// Why an exchange did not succeed: the keys of `errors` in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// No connection, whatever the reason.
    Connect,
    /// The connection ended, by RST or FIN, before the answer was complete.
    Reset,
    /// No complete answer in time, or no free connection in time (open loop).
    Timeout,
    /// A well-formed HTTP answer outside 200–399.
    Status,
    /// Bytes that are not the expected ones or not HTTP.
    Protocol,
}

impl Failure {
    pub const ALL: [Self; 5] =
        [Self::Connect, Self::Reset, Self::Timeout, Self::Status, Self::Protocol];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Protocol => "protocol",
        }
    }
}

/// Counts of failures by kind, each with the words of the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    counts: [u64; 5],
    first: [Option<String>; 5],
}

impl Errors {
    /// Counts `n` failures; `why` is asked for the first of a kind only.
    pub fn add(&mut self, kind: Failure, n: u64, why: impl FnOnce() -> String) {
        self.counts[kind as usize] += n;
        if n > 0 {
            self.first[kind as usize].get_or_insert_with(why);
        }
    }

    #[must_use]
    pub const fn count(&self, kind: Failure) -> u64 {
        self.counts[kind as usize]
    }

    #[must_use]
    pub fn first(&self, kind: Failure) -> Option<&str> {
        self.first[kind as usize].as_deref()
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Everything measured between two moments.
#[derive(Clone, Debug)]
pub struct Tally {
    /// From the intended start to the last byte of the answer, of the successes.
    pub latency: Histogram<u64>,
    /// From the actual start.
    pub service: Histogram<u64>,
    /// Exchanges that succeeded.
    pub requests: u64,
    pub errors: Errors,
    /// Payload of successful exchanges, received and sent.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Open loop: starts that were due by the end and never happened.
    pub never_started: u64,
    /// Exchanges begun again because a kept connection had been closed under them.
    pub retried: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: empty_histogram(),
            service: empty_histogram(),
            requests: 0,
            errors: Errors::default(),
            bytes_in: 0,
            bytes_out: 0,
            never_started: 0,
            retried: 0,
        }
    }
}

impl Tally {
    /// Counts one success.
    pub fn success(&mut self, intended: Time, begun: Time, now: Time, bytes: (u64, u64)) {
        self.requests += 1;
        self.bytes_in += bytes.0;
        self.bytes_out += bytes.1;
        self.latency.saturating_record(nanoseconds(intended, now));
        self.service.saturating_record(nanoseconds(begun, now));
    }

    /// Back to nothing, keeping its memory.
    pub fn clear(&mut self) {
        self.latency.reset();
        self.service.reset();
        self.errors = Errors::default();
        (self.requests, self.bytes_in, self.bytes_out) = (0, 0, 0);
        (self.never_started, self.retried) = (0, 0);
    }

    /// Adds what another worker counted.
    pub fn add(&mut self, other: &Self) {
        // Both have the bounds of `empty_histogram`, so neither addition can fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.service.add(&other.service);
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.never_started += other.never_started;
        self.retried += other.retried;
        for kind in Failure::ALL {
            let why = || other.errors.first(kind).unwrap_or_default().to_owned();
            self.errors.add(kind, other.errors.count(kind), why);
        }
    }
}

fn nanoseconds(from: Time, to: Time) -> u64 {
    u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_the_intended_start_and_service_from_the_actual_one() {
        let mut tally = Tally::default();
        tally.success(Time(1_000), Time(5_000_000), Time(6_000_000), (3, 4));
        assert!((5_990_000..6_010_000).contains(&tally.latency.max()));
        assert!((999_000..1_001_000).contains(&tally.service.max()));
        assert_eq!((tally.requests, tally.bytes_in, tally.bytes_out), (1, 3, 4));
    }

    #[test]
    fn workers_add_up_and_the_first_words_stay() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        one.success(Time(0), Time(0), Time(1_000), (1, 1));
        one.errors.add(Failure::Reset, 2, || "first".into());
        all.add(&one);
        one.errors.add(Failure::Reset, 1, || "second".into());
        all.add(&one);
        assert_eq!((all.requests, all.latency.len()), (2, 2));
        assert_eq!((all.errors.count(Failure::Reset), all.errors.total()), (5, 5));
        assert_eq!(all.errors.first(Failure::Reset), Some("first"));
        assert_eq!(all.errors.first(Failure::Connect), None);
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut tally = Tally::default();
        tally.success(Time(0), Time(0), Time(u64::MAX), (0, 0));
        assert_eq!(tally.latency.len(), 1);
    }
}
