//! Claims about token buckets: by example, and against an ideal one.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
/// Not near zero, where a monotonic clock never is.
const START: u64 = 1_000 * SECOND;

fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
    let number = |n| NonZeroU32::new(n).unwrap();
    Rate::new(number(count), Duration::from_secs(seconds), number(burst))
}

/// How many of `asked` pass at this moment.
fn passed(rates: &[Rate], buckets: &mut [Bucket], now: u64, asked: u32) -> u32 {
    (0..asked).map(|_| u32::from(take_all(rates, buckets, now).allowed)).sum()
}

#[test]
fn a_burst_passes_at_once_and_then_one_an_interval() {
    let (rates, mut buckets) = ([rate(20, 1, 3)], [Bucket::FULL]);
    let mut at_ms = |ms: u64, asked| passed(&rates, &mut buckets, START + ms * 1_000_000, asked);
    assert_eq!([at_ms(0, 9), at_ms(49, 9), at_ms(50, 9), at_ms(99, 9)], [3, 0, 1, 0]);
    assert_eq!([at_ms(100, 9), at_ms(10_000, 9)], [1, 3]);
}

#[test]
fn an_interval_that_is_no_whole_nanosecond_does_not_drift() {
    // A nanosecond rounded away per token would be a whole token after 1000 of them.
    let (rates, mut buckets) = ([rate(999_983, 1, 999_983)], [Bucket::FULL]);
    assert_eq!(passed(&rates, &mut buckets, START, 1_000_000), 999_983);
    assert_eq!(passed(&rates, &mut buckets, START + SECOND - 1, 1_000_000), 999_982);
    assert_eq!(passed(&rates, &mut buckets, START + SECOND, 5), 1);
    assert_eq!(passed(&rates, &mut buckets, START + 2 * SECOND, 1_000_000), 999_983);
}

#[test]
fn several_rates_are_taken_all_or_none() {
    let rates = [rate(10, 1, 2), rate(3, 3_600, 3)];
    let mut buckets = [Bucket::FULL; 2];
    assert_eq!(passed(&rates, &mut buckets, START, 5), 2, "the first one refuses the rest");
    assert_eq!(passed(&rates, &mut buckets, START + SECOND, 5), 1, "refusals took no hour tokens");
    let before = buckets[0];
    let refused = take_all(&rates, &mut buckets, START + SECOND);
    assert_eq!((refused.allowed, refused.limit, refused.remaining), (false, 1, 0));
    assert_eq!(buckets[0], before);
}

#[test]
fn a_decision_speaks_of_the_tightest_rate() {
    let rates = [rate(100, 60, 100), rate(2, 1, 2)];
    let mut buckets = [Bucket::FULL; 2];
    let first = take_all(&rates, &mut buckets, START);
    assert_eq!((first.allowed, first.limit, first.remaining), (true, 1, 1));
    assert_eq!(first.reset_after, Duration::from_millis(500));
    let _ = take_all(&rates, &mut buckets, START);
    let third = take_all(&rates, &mut buckets, START);
    assert_eq!((third.allowed, third.limit, third.remaining), (false, 1, 0));
    assert_eq!(third.retry_after, Duration::from_millis(500));
    assert_eq!(third.reset_after, Duration::from_secs(1));
}

#[test]
fn an_older_now_gives_nothing_away() {
    let (rates, mut buckets) = ([rate(1, 1, 2)], [Bucket::FULL]);
    assert_eq!(passed(&rates, &mut buckets, START, 5), 2);
    for back in [1, SECOND / 2, SECOND] {
        assert_eq!(passed(&rates, &mut buckets, START - back, 5), 0);
    }
    assert_eq!(passed(&rates, &mut buckets, START + SECOND - 1, 5), 0);
    assert_eq!(passed(&rates, &mut buckets, START + SECOND, 5), 1);
}

#[test]
fn a_bucket_of_a_much_slower_rate_or_a_lost_clock_does_not_refuse_for_ever() {
    let (slow, fast) = ([rate(1, 86_400, 1)], [rate(10, 1, 10)]);
    let mut buckets = [Bucket::FULL];
    assert_eq!(passed(&slow, &mut buckets, START, 2), 1);
    assert_eq!(passed(&fast, &mut buckets, START, 1), 0, "as an empty bucket");
    assert_eq!(passed(&fast, &mut buckets, START + SECOND, 20), 10);
    // The part is one of 10; of this rate it is more than a tick.
    buckets[0].part = 9;
    assert_eq!(passed(&[rate(3, 1, 3)], &mut buckets, START + 9 * SECOND, 20), 3);
}

#[test]
fn a_burst_of_more_than_a_century_is_cut_to_one() {
    let rate = rate(1, 365 * 86_400, u32::MAX);
    assert_eq!(rate.in_nanos().empty(), Span { ticks: 100 * 365 * 86_400 * SECOND, part: 0 });
    assert!(rate.in_micros().empty().ticks < 1 << 52);
    let (mut buckets, rates) = ([Bucket::FULL], [rate]);
    assert_eq!(passed(&rates, &mut buckets, START, 1_000), 100);
}

#[test]
fn nanoseconds_and_microseconds_say_the_same_of_whole_microseconds() {
    let rate = rate(7, 60, 11);
    let (nanos, micros) = (rate.in_nanos(), rate.in_micros());
    let (mut a, mut b) = (Bucket::FULL, Bucket::FULL);
    for step in 0..10_000_u64 {
        let now = START / 1_000 + step * 1_234_567;
        let took = (a.take(nanos, now * 1_000), b.take(&micros, now));
        assert_eq!(took.0.is_some(), took.1.is_some(), "step {step}");
        (a, b) = (took.0.unwrap_or(a), took.1.unwrap_or(b));
    }
}

/// A bucket with rational content, filled drop by drop: tokens times `per`, per nanosecond.
struct Ideal {
    level: u128,
    seen: u64,
}

impl Ideal {
    fn take(&mut self, count: u32, per: u64, burst: u32, now: u64) -> bool {
        let drops = u128::from(now - self.seen) * u128::from(count);
        self.level = (self.level + drops).min(u128::from(burst) * u128::from(per));
        self.seen = now;
        let has = self.level >= u128::from(per);
        if has {
            self.level -= u128::from(per);
        }
        has
    }
}

fn unit() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(60), Just(3_600), Just(86_400)]
}

proptest! {
    #[test]
    fn admits_exactly_what_an_ideal_bucket_admits(
        count in prop_oneof![1..50_u32, 1..2_000_000_u32, Just(u32::MAX)],
        seconds in unit(),
        burst in prop_oneof![1..50_u32, 1..2_000_000_u32],
        waits in prop::collection::vec((0..4_u64, 0..1_000_u64), 1..200),
    ) {
        // A burst of more than a century is cut, which the ideal does not know.
        let burst = burst.min(count.saturating_mul(36_500));
        let rates = [rate(count, seconds, burst)];
        let mut buckets = [Bucket::FULL];
        let (per, mut now) = (seconds * SECOND, START);
        let mut ideal = Ideal { level: u128::from(burst) * u128::from(per), seen: now };
        for (intervals, thousandths) in waits {
            let interval = per / u64::from(count);
            now += interval * intervals + interval * thousandths / 1_000 + thousandths % 2;
            let want = ideal.take(count, per, burst, now);
            let got = take_all(&rates, &mut buckets, now);
            prop_assert_eq!(got.allowed, want);
            prop_assert_eq!(u128::from(got.remaining), ideal.level / u128::from(per));
            let lacks = u128::from(burst) * u128::from(per) - ideal.level;
            let reset = lacks.div_ceil(u128::from(count));
            prop_assert_eq!(got.reset_after.as_nanos(), reset);
            if !want {
                let wait = (u128::from(per) - ideal.level).div_ceil(u128::from(count));
                prop_assert_eq!(got.retry_after.as_nanos(), wait);
            }
        }
    }

    #[test]
    fn never_admits_more_than_the_burst_at_once_whatever_was_kept_and_whatever_the_time(
        full_at in prop_oneof![any::<u64>(), Just(u64::MAX), Just(0)],
        part in any::<u32>(),
        now in prop_oneof![any::<u64>(), Just(u64::MAX), Just(0)],
        count in prop_oneof![1..9_u32, any::<u32>()],
        seconds in unit(),
        burst in 1..200_u32,
    ) {
        let rates = [rate(count.max(1), seconds, burst)];
        let mut buckets = [Bucket { full_at, part }];
        let got = passed(&rates, &mut buckets, now, 300);
        prop_assert!(got <= burst, "{} of {}", got, burst);
    }

    #[test]
    fn a_clock_that_jitters_admits_no_more_than_the_latest_one_would(
        steps in prop::collection::vec((0..200_u64, 0..50_u64), 1..300),
        count in 1..50_u32,
        burst in 1..20_u32,
    ) {
        let rates = [rate(count, 1, burst)];
        let mut buckets = [Bucket::FULL];
        let mut now = START;
        // The clock that is behind most has its first refill before the start.
        let mut ideal = u64::from(burst) * SECOND + 50_000_000 * u64::from(count);
        for (ahead, behind) in steps {
            now += ahead * 1_000_000;
            ideal += ahead * 1_000_000 * u64::from(count);
            // An ideal bucket that never overflows: an upper bound of any that does.
            if take_all(&rates, &mut buckets, now - behind * 1_000_000).allowed {
                prop_assert!(ideal >= SECOND);
                ideal -= SECOND;
            }
        }
    }
}
