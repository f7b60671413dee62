//! Lives of a keyring, second by second.

use proptest::prelude::*;

use super::*;

const SCHEDULE: Schedule = Schedule {
    refresh: Duration::from_secs(600),
    grace: Duration::from_secs(3_600),
    cooldown: Duration::from_secs(30),
};

const FETCH: Step = Step { fetch: true, publish: false };
const PUBLISH: Step = Step { fetch: false, publish: true };
const NOTHING: Step = Step { fetch: false, publish: false };

/// A keyring and its clock, in seconds since the start.
struct Life {
    start: Instant,
    ring: Keyring,
}

impl Life {
    fn new(schedule: Schedule) -> Self {
        let start = Instant::now();
        Self { start, ring: Keyring::new(schedule, start) }
    }

    /// With keys since second 0.
    fn with_keys() -> Self {
        let mut life = Self::new(SCHEDULE);
        assert_eq!(life.time(0), FETCH);
        assert_eq!(life.fetched(0), PUBLISH);
        life
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn time(&mut self, seconds: u64) -> Step {
        self.ring.on_time(self.at(seconds))
    }

    fn unknown(&mut self, seconds: u64) -> Step {
        self.ring.on_unknown_key(self.at(seconds))
    }

    fn fetched(&mut self, seconds: u64) -> Step {
        let keys = KeySet::of_secret(&[1; 32]).expect("keys");
        self.ring.on_fetched(self.at(seconds), Some(keys))
    }

    fn failed(&mut self, seconds: u64) -> Step {
        self.ring.on_fetched(self.at(seconds), None)
    }

    fn deadline(&self) -> Option<u64> {
        self.ring.deadline().map(|at| at.duration_since(self.start).as_secs())
    }
}

#[test]
fn there_are_no_keys_before_the_first_fetch_is_done() {
    let mut life = Life::new(SCHEDULE);
    assert!(life.ring.keys().is_none());
    assert_eq!(life.deadline(), Some(0));
    assert_eq!(life.time(0), FETCH);
    assert!(life.ring.keys().is_none());
    assert_eq!(life.fetched(1), PUBLISH);
    assert!(life.ring.keys().is_some());
}

#[test]
fn keys_are_fetched_anew_every_refresh_one_fetch_at_a_time() {
    let mut life = Life::with_keys();
    assert_eq!(life.deadline(), Some(600));
    assert_eq!(life.time(599), NOTHING);
    assert_eq!(life.time(600), FETCH);
    assert_eq!(life.time(601), NOTHING);
    assert_eq!(life.unknown(601), NOTHING);
    assert_eq!(life.deadline(), Some(600 + 3_600), "only the end of the old keys");
    assert_eq!(life.fetched(602), Step { publish: true, fetch: true }, "for the unknown key");
    assert_eq!(life.fetched(603), PUBLISH);
    assert_eq!(life.deadline(), Some(603 + 600));
}

#[test]
fn without_keys_a_failed_fetch_is_tried_again_soon() {
    let mut life = Life::new(SCHEDULE);
    assert_eq!(life.time(0), FETCH);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..6 {
        assert_eq!(life.failed(now), NOTHING);
        let next = life.deadline().expect("a retry");
        assert_eq!(life.time(next), FETCH);
        pauses.push(next - now);
        now = next;
    }
    assert_eq!(pauses, [1, 2, 4, 5, 5, 5]);
    assert_eq!(life.fetched(now), PUBLISH);
}

#[test]
fn old_keys_serve_through_an_outage_as_long_as_the_grace() {
    let mut life = Life::with_keys();
    let end = 600 + 3_600;
    assert_eq!(life.time(600), FETCH);
    assert_eq!(life.failed(600), NOTHING);
    let mut fetches = 0;
    loop {
        let next = life.deadline().expect("more to do");
        if next >= end {
            break;
        }
        assert_eq!(life.time(next), FETCH);
        assert!(life.ring.keys().is_some(), "at {next}");
        assert_eq!(life.failed(next), NOTHING);
        fetches += 1;
    }
    // 1, 2, 4, 8, 16, then every 30 seconds.
    assert!((119..=125).contains(&fetches), "{fetches}");
    assert!(life.ring.on_time(life.at(end)).publish);
    assert!(life.ring.keys().is_none());
}

#[test]
fn keys_of_before_serve_under_another_schedule_for_as_long_as_that_lets_them() {
    let keys = Arc::new(KeySet::of_secret(&[1; 32]).expect("keys"));
    let fetched_at = Instant::now();
    let schedule = Schedule { refresh: Duration::from_secs(60), ..SCHEDULE };
    let start = fetched_at + Duration::from_secs(600);
    let ring = Keyring::new(schedule, start).holding(keys, fetched_at);
    let mut life = Life { start, ring };
    assert_eq!(life.time(0), FETCH);
    assert_eq!(life.failed(1), NOTHING);
    assert_eq!(life.ring.fetched_at(), Some(fetched_at));
    assert!(!life.time(3_059).publish && life.ring.keys().is_some());
    assert!(life.time(3_060).publish && life.ring.keys().is_none());
}

#[test]
fn keys_end_while_a_fetch_hangs() {
    let mut life = Life::with_keys();
    assert_eq!(life.time(600), FETCH);
    assert_eq!(life.time(600 + 3_600), PUBLISH);
    assert!(life.ring.keys().is_none());
    assert_eq!(life.deadline(), None);
    assert_eq!(life.fetched(5_000), PUBLISH);
    assert!(life.ring.keys().is_some());
}

#[test]
fn a_flood_of_unknown_keys_costs_one_fetch_every_cooldown() {
    let mut life = Life::with_keys();
    let mut fetches = Vec::new();
    for second in 10..100 {
        for _ in 0..1_000 {
            let step = life.unknown(second);
            if step.fetch {
                fetches.push(second);
                assert_eq!(life.fetched(second), PUBLISH);
            }
        }
    }
    assert_eq!(fetches, [10, 40, 70]);
}

#[test]
fn a_key_that_comes_within_the_cooldown_is_found_at_its_end() {
    let mut life = Life::with_keys();
    assert_eq!(life.unknown(10), FETCH);
    assert_eq!(life.fetched(11), PUBLISH);
    assert_eq!(life.unknown(12), NOTHING);
    assert_eq!(life.deadline(), Some(40));
    assert_eq!(life.time(39), NOTHING);
    assert_eq!(life.time(40), FETCH);
    assert_eq!(life.fetched(41), PUBLISH);
    assert_eq!(life.deadline(), Some(641));
}

#[test]
fn a_fetch_for_an_unknown_key_that_fails_is_not_repeated_before_its_time() {
    let mut life = Life::with_keys();
    assert_eq!(life.unknown(10), FETCH);
    assert_eq!(life.failed(11), NOTHING);
    assert_eq!(life.deadline(), Some(600));
    assert_eq!(life.unknown(12), NOTHING);
    assert_eq!(life.deadline(), Some(40));
}

proptest! {
    #[test]
    fn no_order_of_events_brings_two_fetches_at_once_or_more_than_its_share(
        events in prop::collection::vec((0_u8..4, 0_u64..20), 1..300),
    ) {
        let mut life = Life::new(SCHEDULE);
        let (mut now, mut flying) = (0, false);
        let mut for_unknown: Vec<u64> = Vec::new();
        for (kind, pause) in events {
            now += pause;
            let due = life.ring.due <= life.at(now);
            let step = match kind {
                0 => life.time(now),
                1 => life.unknown(now),
                2 if flying => { flying = false; life.fetched(now) }
                3 if flying => { flying = false; life.failed(now) }
                _ => continue,
            };
            if step.fetch {
                prop_assert!(!flying);
                flying = true;
                if !due {
                    prop_assert!(for_unknown.last().is_none_or(|last| now - last >= 30));
                    for_unknown.push(now);
                }
            }
            prop_assert_eq!(life.ring.fetching, flying);
            prop_assert!(flying || life.ring.deadline().is_some());
        }
    }
}
