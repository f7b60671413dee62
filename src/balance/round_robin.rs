//! Servers in turn, by weight.

use super::{Candidate, FlowKey, Nobody, Pick, Policy, PoolView, Rng};

/// Smooth weighted round-robin: every server that can take the session earns its weight, the
/// richest is chosen and pays what all earned together.
///
/// Why not `weight` sessions in a row each: 5:1:1 would send five at once to one server, where
/// this gives `a a b a c a a`. Weights are read at each pick, so `slow_start` needs no rebuild.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    key: u64,
    /// Bounded by the sum of all weights in either direction.
    credit: i64,
}

impl Policy for RoundRobin {
    fn pick(&mut self, pool: PoolView<'_>, _key: FlowKey, _rng: &mut Rng) -> Result<Pick, Nobody> {
        debug_assert_eq!(self.turns.len(), pool.candidates().len(), "rebuild comes first");
        let mut earned = 0;
        let mut best: Option<usize> = None;
        for (index, one) in pool.takers() {
            let weight = i64::from(one.weight);
            earned += weight;
            self.turns[index].credit += weight;
            if best.is_none_or(|best| self.turns[best].credit < self.turns[index].credit) {
                best = Some(index);
            }
        }
        if let Some(best) = best {
            self.turns[best].credit -= earned;
        }
        pool.answer(best)
    }

    /// A server that stays keeps its credit: if it began anew at every change somewhere, pools
    /// with few sessions would send them all to the first server. Not more of it than the weights
    /// of now let it have: what was earned by larger ones would take as many turns to spend.
    fn rebuild(&mut self, candidates: &[Candidate]) {
        let old = std::mem::take(&mut self.turns);
        let credit_of = |index: usize, key| {
            // Mostly nothing moved.
            let same = old.get(index).filter(|turn| turn.key == key);
            same.or_else(|| old.iter().find(|turn| turn.key == key)).map_or(0, |turn| turn.credit)
        };
        let most: i64 = candidates.iter().map(|one| i64::from(one.weight)).sum();
        let turn = |(at, one): (usize, &Candidate)| Turn {
            key: one.key,
            credit: credit_of(at, one.key).clamp(-most, most),
        };
        self.turns = candidates.iter().enumerate().map(turn).collect();
    }

    fn compares_loads(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_shares, pool_of, sequence};
    use super::*;
    use crate::config::plan::Balance;

    #[test]
    fn five_one_one_is_interleaved() {
        assert_eq!(sequence(Balance::RoundRobin, &pool_of(&[5, 1, 1]), 14), "aabacaaaabacaa");
    }

    #[test]
    fn five_three_two_is_exact_in_every_ten_of_ten_thousand() {
        let text = sequence(Balance::RoundRobin, &pool_of(&[5, 3, 2]), 10_000);
        for (at, ten) in text.as_bytes().chunks(10).enumerate() {
            let mut ten = ten.to_vec();
            ten.sort_unstable();
            assert_eq!(ten, b"aaaaabbbcc", "ten number {at}");
        }
    }

    #[test]
    fn a_rebuild_in_mid_sequence_does_not_disturb_it() {
        let pool = pool_of(&[5, 3, 2]);
        let mut policy = RoundRobin::default();
        let mut picks = String::new();
        for _ in 0..20 {
            policy.rebuild(&pool);
            let pick = policy.pick(
                PoolView::new(&pool, &[]),
                FlowKey::of(None, &mut Rng::new(0)),
                &mut Rng::new(0),
            );
            picks.push((b'a' + pick.unwrap().index as u8) as char);
        }
        assert_eq!(picks, sequence(Balance::RoundRobin, &pool, 20));
    }

    #[test]
    fn smaller_weights_hold_from_the_first_turn_on() {
        let mut policy = RoundRobin::default();
        let mut next = |pool: &[Candidate]| {
            policy.rebuild(pool);
            let key = FlowKey::of(None, &mut Rng::new(0));
            policy.pick(PoolView::new(pool, &[]), key, &mut Rng::new(0)).unwrap().index
        };
        assert_eq!([0; 3].map(|_| next(&pool_of(&[1_000, 1_000]))), [0, 1, 0]);
        let small = pool_of(&[1, 1]);
        let first = (0..20).filter(|_| next(&small) == 0).count();
        assert!((9..=11).contains(&first), "{first} of 20");
    }

    #[test]
    fn weights_of_any_size_are_honoured() {
        check_shares(Balance::RoundRobin, &[1_000, 1, 333], 13_340, 0.0001);
    }
}
