//! One worker's timers: a hierarchical wheel of one-millisecond ticks.
//!
//! Owns which timer is due when, and nothing else: the caller gives the ids (a session's slot),
//! the time, and the meaning. A timer never fires early, and at most one tick late as far as
//! the wheel is concerned.
//!
//! ```text
//! level 0   64 slots of     1 ms     what is due within this 64 ms block
//! level 1   64 slots of    64 ms     … within this 4 s block
//! level 2   64 slots of  4.1 s       … within this 4.4 min block, and so on;
//! level 7                            reaches past every `Time` there is, so nothing is clamped
//! ```
//!
//! A timer stands on the level of the highest base-64 digit in which its tick differs from the
//! wheel's. When the wheel comes to a slot above level 0, the slot's timers move down.
//!
//! - T1: a timer on level `l` agrees with `tick` in all digits above `l`, and its digit `l` is
//!   larger (on level 0: not smaller). So slots never wrap round, and the first occupied slot
//!   of the lowest occupied level is the next thing to happen.
//! - T2: a slot's bit in `occupied` is set exactly while its list is not empty.
//!
//! Timers are links in one `Vec`, indexed by id: arming, moving and disarming is O(1) and
//! allocates nothing once [`Wheel::ensure`] has made room.

use super::time::Time;

const TICK_NANOS: u64 = 1_000_000;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
/// Eight digits are 2^48 ms; the last nanosecond of a `u64` is before 2^45 ms.
const LEVELS: usize = 8;
/// No timer: the end of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub struct Wheel {
    /// Everything due before this tick has been handed out.
    tick: u64,
    armed: u32,
    timers: Vec<Timer>,
    occupied: [u64; LEVELS],
    /// First timer of each slot.
    heads: [[u32; SLOTS]; LEVELS],
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The first tick at which it may fire.
    due: u64,
    next: u32,
    prev: u32,
    /// The list it is in; `None` while not armed.
    place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    level: u8,
    slot: u8,
}

impl Wheel {
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            tick: now.0 / TICK_NANOS,
            armed: 0,
            timers: Vec::new(),
            occupied: [0; LEVELS],
            heads: [[NONE; SLOTS]; LEVELS],
        }
    }

    /// Makes room for timer `id` and all below it; the only call that allocates.
    pub fn ensure(&mut self, id: u32) {
        let len = id as usize + 1;
        if len > self.timers.len() {
            let idle = Timer { due: 0, next: NONE, prev: NONE, place: None };
            self.timers.resize(len, idle);
        }
    }

    /// Timers that are armed now.
    #[must_use]
    pub const fn armed(&self) -> u32 {
        self.armed
    }

    #[must_use]
    pub fn is_armed(&self, id: u32) -> bool {
        self.timers.get(id as usize).is_some_and(|timer| timer.place.is_some())
    }

    /// When `id` is due, rounded up to a tick; `None` while not armed.
    #[must_use]
    pub fn due(&self, id: u32) -> Option<Time> {
        let timer = self.timers.get(id as usize)?;
        timer.place.map(|_| time_of(timer.due))
    }

    /// Arms timer `id`, or moves it. A moment in the past is due at the next [`Wheel::expire`].
    ///
    /// # Panics
    /// When there is no room for `id`: see [`Wheel::ensure`].
    pub fn arm(&mut self, id: u32, at: Time) {
        let due = at.0.div_ceil(TICK_NANOS).max(self.tick);
        let timer = self.timers[id as usize];
        if let Some(place) = timer.place {
            if timer.due == due {
                return;
            }
            self.unlink(timer, place);
        } else {
            self.armed += 1;
        }
        self.link(id, due);
    }

    /// Nothing happens if it is not armed.
    pub fn disarm(&mut self, id: u32) {
        let Some(timer) = self.timers.get_mut(id as usize) else { return };
        let Some(place) = timer.place.take() else { return };
        let timer = *timer;
        self.unlink(timer, place);
        self.armed -= 1;
    }

    /// When [`Wheel::expire`] next has work: never later than the first timer is due, perhaps
    /// earlier, when timers only have to move down a level.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.next_slot().map(|(_, tick)| time_of(tick))
    }

    /// Appends every timer that is due at `now` to `expired`, earliest first, and disarms it.
    /// A `now` before the last one counts as the last one.
    pub fn expire(&mut self, now: Time, expired: &mut Vec<u32>) {
        let target = (now.0 / TICK_NANOS).max(self.tick);
        while let Some((place, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.tick = tick;
            self.empty(place, expired);
        }
        self.tick = target;
    }

    /// The slot that comes first, and its first tick (T1).
    fn next_slot(&self) -> Option<(Place, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = DIGIT_BITS * level as u32;
        let above = self.tick >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        let place = Place { level: level as u8, slot: slot as u8 };
        Some((place, above | u64::from(slot) << shift))
    }

    /// Hands out a slot of level 0; moves the timers of another one down.
    fn empty(&mut self, place: Place, expired: &mut Vec<u32>) {
        let (level, slot) = (usize::from(place.level), usize::from(place.slot));
        let mut id = std::mem::replace(&mut self.heads[level][slot], NONE);
        self.occupied[level] &= !(1 << slot);
        while id != NONE {
            let Timer { due, next, .. } = self.timers[id as usize];
            if level == 0 {
                debug_assert_eq!(due, self.tick, "T1");
                self.timers[id as usize].place = None;
                self.armed -= 1;
                expired.push(id);
            } else {
                self.link(id, due);
            }
            id = next;
        }
    }

    fn link(&mut self, id: u32, due: u64) {
        debug_assert!(due >= self.tick);
        let differs = (due ^ self.tick) | (SLOTS as u64 - 1);
        let level = differs.ilog2() / DIGIT_BITS;
        let slot = (due >> (DIGIT_BITS * level)) as usize % SLOTS;
        let level = level as usize;
        let next = std::mem::replace(&mut self.heads[level][slot], id);
        if next != NONE {
            self.timers[next as usize].prev = id;
        }
        self.occupied[level] |= 1 << slot;
        let place = Some(Place { level: level as u8, slot: slot as u8 });
        self.timers[id as usize] = Timer { due, next, prev: NONE, place };
    }

    fn unlink(&mut self, timer: Timer, place: Place) {
        if timer.next != NONE {
            self.timers[timer.next as usize].prev = timer.prev;
        }
        if timer.prev != NONE {
            self.timers[timer.prev as usize].next = timer.next;
            return;
        }
        let (level, slot) = (usize::from(place.level), usize::from(place.slot));
        self.heads[level][slot] = timer.next;
        if timer.next == NONE {
            self.occupied[level] &= !(1 << slot); // T2
        }
    }
}

/// The first moment of a tick.
const fn time_of(tick: u64) -> Time {
    // Saturating: the tick that `Time::NEVER` is rounded up to starts after it.
    Time(tick.saturating_mul(TICK_NANOS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const IDS: u32 = 24;

    fn at_ms(ms: u64) -> Time {
        Time(ms * TICK_NANOS)
    }

    fn wheel(now: Time) -> Wheel {
        let mut wheel = Wheel::new(now);
        wheel.ensure(IDS - 1);
        wheel
    }

    fn expired(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut ids = Vec::new();
        wheel.expire(now, &mut ids);
        ids
    }

    #[test]
    fn fires_at_its_time_and_not_a_nanosecond_earlier() {
        let at = Time(5_000_000_001);
        let mut wheel = wheel(at_ms(4_000));
        wheel.arm(3, at);
        assert!(expired(&mut wheel, Time(at.0 - 1)).is_empty());
        assert_eq!(expired(&mut wheel, Time(at.0 + TICK_NANOS)), [3]);
        assert!(!wheel.is_armed(3));
    }

    #[test]
    fn a_moment_in_the_past_is_due_at_once() {
        let now = at_ms(1_000_000);
        let mut wheel = wheel(Time::ZERO);
        assert!(expired(&mut wheel, now).is_empty());
        wheel.arm(0, at_ms(5));
        assert!(wheel.next_deadline() <= Some(now));
        assert_eq!(expired(&mut wheel, now), [0]);
    }

    #[test]
    fn arming_again_moves_the_timer() {
        let mut wheel = wheel(Time::ZERO);
        wheel.arm(1, at_ms(10));
        wheel.arm(1, at_ms(20));
        assert_eq!(wheel.armed(), 1);
        assert!(expired(&mut wheel, at_ms(19)).is_empty());
        assert_eq!(expired(&mut wheel, at_ms(20)), [1]);
    }

    #[test]
    fn disarming_what_is_not_armed_does_nothing() {
        let mut wheel = wheel(Time::ZERO);
        wheel.disarm(2);
        wheel.disarm(1_000);
        assert_eq!((wheel.armed(), wheel.next_deadline()), (0, None));
    }

    #[test]
    fn a_timer_for_never_neither_fires_nor_hides_others() {
        let mut wheel = wheel(at_ms(77));
        wheel.arm(0, Time::NEVER);
        wheel.arm(1, at_ms(1 << 40));
        assert_eq!(expired(&mut wheel, at_ms(1 << 40)), [1]);
        assert!(expired(&mut wheel, Time(Time::NEVER.0 - TICK_NANOS)).is_empty());
        assert_eq!(wheel.due(0), Some(Time::NEVER));
    }

    #[test]
    fn expired_timers_come_in_the_order_of_their_ticks() {
        let mut wheel = wheel(Time::ZERO);
        for (id, ms) in [(0, 900_000), (1, 3), (2, 70), (3, 5_000), (4, 69)] {
            wheel.arm(id, at_ms(ms));
        }
        assert_eq!(expired(&mut wheel, at_ms(1_000_000)), [1, 4, 2, 3, 0]);
    }

    #[test]
    fn sleeping_from_deadline_to_deadline_is_a_few_steps_even_over_a_year() {
        let year = Duration::from_secs(365 * 86_400);
        let start = at_ms(123_456_789);
        let mut wheel = wheel(start);
        wheel.arm(7, start + year);
        let mut wakes = 0;
        while let Some(at) = wheel.next_deadline() {
            wakes += 1;
            if expired(&mut wheel, at) == [7] {
                assert!(at >= start + year);
            }
        }
        assert!(wakes <= LEVELS, "{wakes} wakes");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        Advance(u64),
        SleepToDeadline,
    }

    fn span() -> impl Strategy<Value = u64> {
        // Short and long ones, in nanoseconds, so that every level and its edges are met.
        prop_oneof![0..5 * TICK_NANOS, 0..200 * TICK_NANOS, 0..400_000 * TICK_NANOS, 0..1_u64 << 55]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..IDS, span()).prop_map(|(id, ns)| Step::Arm(id, ns)),
            1 => (0..IDS).prop_map(Step::Disarm),
            2 => span().prop_map(Step::Advance),
            2 => Just(Step::SleepToDeadline),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(start in 0..1_u64 << 50, steps in prop::collection::vec(step(), 1..200)) {
            let mut now = Time(start);
            let mut wheel = wheel(now);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(id, ns) => {
                        let at = Time(now.0 + ns);
                        wheel.arm(id, at);
                        model.insert(id, at.0.div_ceil(TICK_NANOS));
                    }
                    Step::Disarm(id) => {
                        wheel.disarm(id);
                        model.remove(&id);
                    }
                    Step::Advance(ns) => now = Time(now.0 + ns),
                    Step::SleepToDeadline => {
                        if let Some(at) = wheel.next_deadline() {
                            now = now.max(at);
                        }
                    }
                }
                let mut got = expired(&mut wheel, now);
                got.sort_unstable();
                let tick = now.0 / TICK_NANOS;
                let due: Vec<u32> =
                    model.iter().filter(|&(_, &due)| due <= tick).map(|(&id, _)| id).collect();
                prop_assert_eq!(&got, &due);
                model.retain(|_, due| *due > tick);
                prop_assert_eq!(wheel.armed() as usize, model.len());
                for id in 0..IDS {
                    prop_assert_eq!(wheel.due(id), model.get(&id).map(|&due| time_of(due)));
                }
                // Never later than the first one is due, and never already past.
                let first = model.values().min().map(|&due| time_of(due));
                let deadline = wheel.next_deadline();
                prop_assert_eq!(deadline.is_some(), first.is_some());
                prop_assert!(deadline <= first);
                prop_assert!(deadline.is_none_or(|at| at > now));
            }
        }
    }
}
