//! The same server for the same client, by one lookup.

use super::rng::mix;
use super::{Candidate, FlowKey, Nobody, Pick, Policy, PoolView, Rng, Verdict};

/// A table of a prime number of entries. Each server has its own order of preference over them;
/// the servers take turns, by weight, at claiming the next free entry of their order.
///
/// A client's hash names an entry. If its server cannot take the session, the walk goes on to
/// the next entries, so one that is down gives its clients to all others, and gets them back.
/// The table knows addresses and weights alone, so instances with the same file agree.
#[derive(Debug, Default)]
pub struct Maglev {
    table: Vec<u16>,
    /// `key` and `weight_full` of the members the table was made for.
    members: Vec<(u64, u32)>,
}

/// Entries for pools of up to [`SMALL_POOL_MAX`] members: 8 KiB, made in some 50 µs.
const TABLE_SMALL: u64 = 4_099;
/// Above that, 128 KiB made in a few milliseconds: at least four entries for each of
/// [`crate::registry::SERVERS_MAX`] members.
const TABLE_LARGE: u64 = 65_537;
/// Sixteen entries a member, that is, shares within 7 %. A pool that grows past it moves its
/// clients once.
const SMALL_POOL_MAX: usize = 256;

impl Policy for Maglev {
    fn pick(&mut self, pool: PoolView<'_>, key: FlowKey, _rng: &mut Rng) -> Result<Pick, Nobody> {
        let all = pool.candidates();
        debug_assert_eq!(self.members.len(), all.len(), "rebuild comes first");
        // Without a taker, the walk would go all the way round; with one, it ends, since every
        // member has an entry.
        if pool.takers().next().is_none() {
            return pool.answer(None);
        }
        let start = (key.bits() % self.table.len() as u64) as usize;
        let walk = self.table[start..].iter().chain(&self.table[..start]).map(|&at| at.into());
        let mut takers = walk.filter(|&at| pool.verdict(at) == Verdict::Takes);
        let found = takers.clone().find(|&at| is_warm_for(key, &all[at]));
        pool.answer(found.or_else(|| takers.next()))
    }

    fn rebuild(&mut self, candidates: &[Candidate]) {
        let members: Vec<_> = candidates.iter().map(|one| (one.key, one.weight_full)).collect();
        if members != self.members {
            self.table = fill(&members);
            self.members = members;
        }
    }

    fn compares_loads(&self) -> bool {
        false
    }
}

/// Whether a server that is at a part of its weight takes this client yet. The part of a
/// server's clients that it takes grows with its weight, and a client that came stays.
const fn is_warm_for(key: FlowKey, server: &Candidate) -> bool {
    if server.weight >= server.weight_full {
        return true;
    }
    let uniform = mix(key.bits() ^ server.key) >> 32;
    uniform * (server.weight_full as u64) < (server.weight as u64) << 32
}

/// One member while the table is filled.
struct Claimant {
    index: u16,
    weight: u64,
    /// A turn costs the greatest weight.
    credit: u64,
    /// The next entry of its order, and the step to the one after it.
    at: u64,
    step: u64,
}

fn fill(members: &[(u64, u32)]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    debug_assert!(members.len() < usize::from(FREE), "bounded by SERVERS_MAX");
    let turn = members.iter().map(|&(_, weight)| u64::from(weight)).max().unwrap_or(0);
    if turn == 0 {
        return Vec::new();
    }
    let size = if members.len() <= SMALL_POOL_MAX { TABLE_SMALL } else { TABLE_LARGE };
    let mut claimants = claimants(members, turn, size);
    let mut table = vec![FREE; size as usize];
    let mut left = table.len();
    loop {
        for one in &mut claimants {
            one.credit += one.weight;
            if one.credit < turn {
                continue;
            }
            one.credit -= turn;
            // Ends: the step is coprime to the size, so the order visits every entry.
            while table[one.at as usize] != FREE {
                one.at = (one.at + one.step) % size;
            }
            table[one.at as usize] = one.index;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

/// In the order of their keys, so that the order in the file does not matter. All begin with
/// credit for a turn in the first round, so that each has an entry.
fn claimants(members: &[(u64, u32)], turn: u64, size: u64) -> Vec<Claimant> {
    let claimant = |(index, &(key, weight)): (usize, &(u64, u32))| Claimant {
        index: index as u16,
        weight: u64::from(weight),
        credit: turn - u64::from(weight),
        at: key % size,
        step: 1 + mix(key) % (size - 1),
    };
    let mut claimants: Vec<_> = members.iter().enumerate().map(claimant).collect();
    claimants.sort_by_key(|one| members[usize::from(one.index)].0);
    claimants
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_shares, pool_of, servers_of_clients};
    use super::*;
    use crate::balance::Standing;
    use crate::config::plan::Balance;

    fn entries(weights: &[u16]) -> Vec<usize> {
        let pool = pool_of(weights);
        let members: Vec<_> = pool.iter().map(|one| (one.key, one.weight_full)).collect();
        let table = fill(&members);
        (0..pool.len()).map(|at| table.iter().filter(|&&e| usize::from(e) == at).count()).collect()
    }

    #[test]
    fn entries_are_shared_by_weight_to_within_one_turn() {
        assert_eq!(entries(&[1]), [4_099]);
        for (got, want) in entries(&[5, 3, 2]).iter().zip([2_049.5, 1_229.7, 819.8]) {
            assert!((*got as f64 - want).abs() <= 2.0, "{got} for {want}");
        }
    }

    #[test]
    fn every_member_has_an_entry_however_light() {
        let mut weights = vec![1_000; 255];
        weights.push(1);
        assert!(entries(&weights).iter().all(|&count| count > 0));
        assert!(entries(&[1; 300]).iter().all(|&count| count.abs_diff(65_537 / 300) <= 1));
    }

    #[test]
    fn weights_are_honoured_over_many_clients() {
        check_shares(Balance::Maglev, &[5, 3, 2], 100_000, 0.01);
    }

    #[test]
    fn removing_a_server_moves_few_clients_of_the_others() {
        let all = pool_of(&[1; 10]);
        let mut fewer = all.clone();
        fewer.remove(4);
        let before = servers_of_clients(Balance::Maglev, &all, 10_000);
        let after = servers_of_clients(Balance::Maglev, &fewer, 10_000);
        let stayed = before.iter().zip(&after).filter(|(was, is)| was == is).count();
        let own = before.iter().filter(|&&key| key == all[4].key).count();
        let moved = 10_000 - own - stayed;
        assert!(moved < 10_000 / 20, "{moved} clients of other servers moved");
    }

    #[test]
    fn a_server_that_is_down_moves_only_its_own_clients() {
        let pool = pool_of(&[3, 2, 1, 1]);
        let mut down = pool.clone();
        down[0].standing = Standing::Down;
        let before = servers_of_clients(Balance::Maglev, &pool, 10_000);
        let after = servers_of_clients(Balance::Maglev, &down, 10_000);
        for (was, is) in before.iter().zip(&after) {
            assert!(was == is || *was == pool[0].key);
        }
    }

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let pool = pool_of(&[5, 3, 2, 1]);
        let reversed: Vec<_> = pool.iter().copied().rev().collect();
        assert_eq!(
            servers_of_clients(Balance::Maglev, &pool, 1_000),
            servers_of_clients(Balance::Maglev, &reversed, 1_000)
        );
    }

    #[test]
    fn a_cold_server_takes_a_part_of_its_clients_and_they_stay() {
        let warm = pool_of(&[1, 1]);
        let mut cold = warm.clone();
        cold[0].weight /= 10;
        let own = |keys: &[u64]| keys.iter().filter(|&&key| key == warm[0].key).count();
        let at_start = servers_of_clients(Balance::Maglev, &cold, 10_000);
        let at_end = servers_of_clients(Balance::Maglev, &warm, 10_000);
        assert!((400..600).contains(&own(&at_start)), "{} of {}", own(&at_start), own(&at_end));
        assert!(
            at_start.iter().zip(&at_end).all(|(first, last)| first == last || *last == warm[0].key)
        );
    }

    #[test]
    fn alone_a_cold_server_takes_everybody() {
        let mut pool = pool_of(&[1, 1]);
        pool[0].weight /= 10;
        pool[1].standing = Standing::Down;
        let got = servers_of_clients(Balance::Maglev, &pool, 100);
        assert!(got.iter().all(|&key| key == pool[0].key));
    }
}
