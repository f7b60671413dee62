//! Two at random, and of them the less loaded.

use super::least_conn::is_less_loaded;
use super::{Candidate, FlowKey, Nobody, Pick, Policy, PoolView, Rng};

/// Power of two choices: draw two different servers by weight, keep the less loaded.
///
/// Why not the least loaded of all: with many instances in front of the same servers, each
/// knows only its own sessions, and all would choose the same server at the same moment.
#[derive(Debug)]
pub struct RandomTwo;

impl Policy for RandomTwo {
    fn pick(&mut self, pool: PoolView<'_>, _key: FlowKey, rng: &mut Rng) -> Result<Pick, Nobody> {
        let Some((first, one)) = draw(pool, None, rng) else { return pool.answer(None) };
        pool.answer(Some(match draw(pool, Some(first), rng) {
            Some((second, other)) if is_less_loaded(other, one) => second,
            _ => first,
        }))
    }

    fn rebuild(&mut self, _candidates: &[Candidate]) {}

    fn compares_loads(&self) -> bool {
        true
    }
}

/// One server other than `but`, by weight.
fn draw<'a>(
    pool: PoolView<'a>,
    but: Option<usize>,
    rng: &mut Rng,
) -> Option<(usize, &'a Candidate)> {
    let others = || pool.takers().filter(|&(index, _)| Some(index) != but);
    let total: u64 = others().map(|(_, one)| u64::from(one.weight)).sum();
    let mut ticket = rng.below(total);
    others().find(|(_, one)| {
        let weight = u64::from(one.weight);
        let drawn = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        drawn
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_shares, pool_of, sequence};
    use super::*;
    use crate::config::plan::Balance;

    #[test]
    fn equal_and_idle_servers_get_equal_shares() {
        check_shares(Balance::RandomTwo, &[1, 1, 1, 1], 40_000, 0.02);
    }

    #[test]
    fn the_most_loaded_of_several_is_never_chosen() {
        let mut pool = pool_of(&[1, 1, 1]);
        pool[1].load = 10;
        assert!(!sequence(Balance::RandomTwo, &pool, 1_000).contains('b'));
    }

    #[test]
    fn loads_stay_close_together_while_sessions_only_arrive() {
        let mut pool = pool_of(&[1; 10]);
        let mut rng = Rng::new(11);
        for _ in 0..10_000 {
            let key = FlowKey::of(None, &mut rng);
            let pick = RandomTwo.pick(PoolView::new(&pool, &[]), key, &mut rng).unwrap();
            pool[pick.index].load += 1;
        }
        // One choice would leave them about 100 apart, two choices a handful.
        let loads = pool.iter().map(|one| one.load);
        assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 10);
    }

    #[test]
    fn a_lone_server_is_its_own_second_choice() {
        assert_eq!(sequence(Balance::RandomTwo, &pool_of(&[7]), 3), "aaa");
    }
}
