//! The server with the fewest sessions for its weight.

use super::{Candidate, FlowKey, Nobody, Pick, Policy, PoolView, Rng};

/// Least of `(load + 1) / weight`, that is, of what the load would be with the new session.
///
/// `load` counts all workers' sessions, and the shell reserves the place only while it is
/// unchanged, so every choice is a minimum when it is made. Among equals the turn goes round:
/// otherwise an idle pool would send all its short sessions to the first server.
#[derive(Debug, Default)]
pub struct LeastConn {
    /// Where the search begins: behind the last choice.
    next: usize,
}

impl Policy for LeastConn {
    fn pick(&mut self, pool: PoolView<'_>, _key: FlowKey, _rng: &mut Rng) -> Result<Pick, Nobody> {
        let mut best: Option<(usize, &Candidate)> = None;
        let next = self.next;
        let first = pool.takers().skip_while(|&(index, _)| index < next);
        let then = pool.takers().take_while(|&(index, _)| index < next);
        for (index, one) in first.chain(then) {
            if best.is_none_or(|(_, best)| is_less_loaded(one, best)) {
                best = Some((index, one));
            }
        }
        if let Some((index, _)) = best {
            self.next = index + 1;
        }
        pool.answer(best.map(|(index, _)| index))
    }

    fn rebuild(&mut self, _candidates: &[Candidate]) {}

    fn compares_loads(&self) -> bool {
        true
    }
}

/// `(a.load + 1) / a.weight < (b.load + 1) / b.weight`, without the division.
pub(super) fn is_less_loaded(a: &Candidate, b: &Candidate) -> bool {
    (u64::from(a.load) + 1) * u64::from(b.weight) < (u64::from(b.load) + 1) * u64::from(a.weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{any_pool, pool_of, sequence};
    use super::*;
    use crate::balance::Rng;
    use crate::config::plan::Balance;

    #[test]
    fn equals_take_turns_while_nobody_has_load() {
        assert_eq!(sequence(Balance::LeastConn, &pool_of(&[1, 1, 1]), 7), "abcabca");
    }

    #[test]
    fn equal_servers_never_differ_by_more_than_one_while_sessions_only_arrive() {
        let mut pool = pool_of(&[1; 7]);
        let mut policy = LeastConn::default();
        let mut rng = Rng::new(3);
        for _ in 0..1_000 {
            let key = FlowKey::of(None, &mut rng);
            let pick = policy.pick(PoolView::new(&pool, &[]), key, &mut rng).unwrap();
            pool[pick.index].load += 1;
            let loads = pool.iter().map(|one| one.load);
            assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1);
        }
    }

    #[test]
    fn arriving_sessions_stand_by_weight() {
        let mut pool = pool_of(&[5, 3, 2]);
        let mut policy = LeastConn::default();
        let mut rng = Rng::new(3);
        for _ in 0..1_000 {
            let key = FlowKey::of(None, &mut rng);
            let pick = policy.pick(PoolView::new(&pool, &[]), key, &mut rng).unwrap();
            pool[pick.index].load += 1;
        }
        assert_eq!(pool.iter().map(|one| one.load).collect::<Vec<_>>(), [500, 300, 200]);
    }

    proptest! {
        #[test]
        fn every_choice_is_a_minimum(pool in any_pool(), seed: u64) {
            let mut rng = Rng::new(seed);
            let mut policy = LeastConn { next: rng.below(10) as usize };
            let view = PoolView::new(&pool, &[]);
            if let Ok(pick) = policy.pick(view, FlowKey::of(None, &mut rng), &mut rng) {
                let chosen = &pool[pick.index];
                prop_assert!(view.takers().all(|(_, other)| !is_less_loaded(other, chosen)));
            }
        }
    }
}
