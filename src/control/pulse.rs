//! Whether every worker moves, and telling the service manager so.
//!
//! A worker that has nothing to do sleeps in its ring, so a count of turns that stands still
//! says nothing by itself. Therefore each look wakes every worker, and the next look wants to
//! see at least one turn more. A worker that two looks in a row found where it was is stuck.
//!
//! ```text
//!   Moves ── [`LOOKS_MISSED_MAX`] looks without a turn ──▶ Stuck
//!     ▲                                                       │
//!     └──────────────────────── a turn ───────────────────────┘
//! ```
//!
//! Looks are counted and not time: when the whole process was paused, control wakes up no
//! earlier than its workers, and nobody is blamed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::desk::Desk;
use super::notify;
use crate::observe::events::EventKind;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks in a row that may find a worker where it was. One may fall into a moment in which the
/// machine runs everybody but this worker.
const LOOKS_MISSED_MAX: u32 = 2;

/// A feed that comes a little late must not be the end: systemd asks for half of its time.
const FEEDS_PER_PERIOD: u32 = 3;

/// What the looks so far say of each worker.
#[derive(Debug, Default)]
struct Pulse(Vec<Seen>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turns: u64,
    /// Looks in a row without a turn.
    missed: u32,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stuck(u16),
    Recovered(u16),
}

impl Pulse {
    /// Takes in the turns of every worker. `ended`: those that make none any more.
    fn look(&mut self, turns: &[u64], ended: &BTreeSet<u16>) -> Vec<Change> {
        if self.0.is_empty() {
            // Nobody was woken before the first look.
            self.0 = turns.iter().map(|&turns| Seen { turns, missed: 0 }).collect();
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (id, (seen, &turns)) in (0_u16..).zip(self.0.iter_mut().zip(turns)) {
            let was_stuck = seen.missed >= LOOKS_MISSED_MAX;
            let moves = turns != seen.turns || ended.contains(&id);
            *seen = Seen { turns, missed: if moves { 0 } else { seen.missed.saturating_add(1) } };
            match (was_stuck, seen.missed >= LOOKS_MISSED_MAX) {
                (false, true) => changes.push(Change::Stuck(id)),
                (true, false) => changes.push(Change::Recovered(id)),
                (false, false) | (true, true) => {}
            }
        }
        changes
    }

    fn stuck(&self) -> BTreeSet<u16> {
        let missed = (0_u16..).zip(&self.0);
        missed.filter(|(_, seen)| seen.missed >= LOOKS_MISSED_MAX).map(|(id, _)| id).collect()
    }
}

/// Looks for ever.
pub(super) async fn watch(desk: Rc<Desk>) {
    let watchdog = notify::watchdog();
    let pause = watchdog.map_or(LOOK_EVERY, |period| LOOK_EVERY.min(period / FEEDS_PER_PERIOD));
    let mut pulse = Pulse::default();
    let mut look_at = Instant::now();
    loop {
        if Instant::now() >= look_at {
            look(&desk, &mut pulse);
            look_at = Instant::now() + LOOK_EVERY;
        }
        // Left unfed while a worker is stuck: the manager starts us anew if it lasts. One that has
        // handed over speaks for the other no more.
        if watchdog.is_some()
            && !desk.handed_over.get()
            && pulse.stuck().is_empty()
            && let Err(error) = notify::notify("WATCHDOG=1")
        {
            desk.log.debug(format_args!("the service manager's watchdog is not fed: {error}"));
        }
        tokio::time::sleep(pause).await;
    }
}

fn look(desk: &Desk, pulse: &mut Pulse) {
    let workers = &desk.instance.shared.workers;
    let turns: Vec<u64> = workers.iter().map(|worker| worker.counts.turns.value()).collect();
    let changes = pulse.look(&turns, &desk.workers_ended.borrow());
    for worker in workers {
        worker.mailbox.wake();
    }
    if changes.is_empty() {
        return;
    }
    desk.instance.set_stuck(pulse.stuck());
    for change in changes {
        match change {
            Change::Stuck(id) => {
                let text = format!("worker {id} is stuck: its clients are not served");
                desk.log.error(&text);
                desk.instance.events.push(EventKind::WorkerStuck, text);
            }
            Change::Recovered(id) => {
                let text = format!("worker {id} moves again");
                desk.log.warn(&text);
                desk.instance.events.push(EventKind::WorkerRecovered, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(turns: &[&[u64]], ended: &[u16]) -> Vec<Change> {
        let (mut pulse, ended) = (Pulse::default(), ended.iter().copied().collect());
        turns.iter().flat_map(|turns| pulse.look(turns, &ended)).collect()
    }

    #[test]
    fn one_look_without_a_turn_is_no_trouble() {
        assert_eq!(looks(&[&[5, 5], &[5, 6], &[6, 7], &[6, 8], &[7, 9]], &[]), []);
    }

    #[test]
    fn two_in_a_row_are_told_once_and_so_is_the_end_of_it() {
        let turns: [&[u64]; 7] = [&[5, 5], &[6, 5], &[7, 5], &[8, 5], &[9, 5], &[10, 6], &[11, 7]];
        assert_eq!(looks(&turns, &[]), [Change::Stuck(1), Change::Recovered(1)]);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_stuck() {
        assert_eq!(looks(&[&[5], &[5], &[5], &[5]], &[0]), []);
    }

    #[test]
    fn who_is_stuck_is_known_until_it_moves() {
        let (mut pulse, ended) = (Pulse::default(), BTreeSet::new());
        for _ in 0..4 {
            pulse.look(&[1, 2], &ended);
        }
        assert_eq!(pulse.stuck(), BTreeSet::from([0, 1]));
        pulse.look(&[2, 2], &ended);
        assert_eq!(pulse.stuck(), BTreeSet::from([1]));
    }
}
