//! The same server for the same client.

use super::rng::mix;
use super::{Candidate, FlowKey, Nobody, Pick, Policy, PoolView, Rng};

/// Weighted rendezvous hashing: every server bids for the client, the highest bid wins.
///
/// A bid depends on this client and this server alone. So when a server leaves, only its own
/// clients move, each to whoever bid second, and they come back with it. A cost in the number
/// of servers buys that exactness; `maglev` has it the other way round.
#[derive(Debug)]
pub struct IpHash;

impl Policy for IpHash {
    fn pick(&mut self, pool: PoolView<'_>, key: FlowKey, _rng: &mut Rng) -> Result<Pick, Nobody> {
        let bids = pool.takers().map(|(index, one)| (index, bid(key, one)));
        let best = bids.reduce(|best, other| if other.1 > best.1 { other } else { best });
        pool.answer(best.map(|(index, _)| index))
    }

    fn rebuild(&mut self, _candidates: &[Candidate]) {}

    fn compares_loads(&self) -> bool {
        false
    }
}

/// `weight / -ln(u)` with `u` uniform in (0, 1): the greatest of such numbers is a server's with
/// a probability in proportion to its weight.
///
/// Instances on unlike hosts may round a logarithm differently, which matters only for two bids
/// that agree in 50 bits.
fn bid(key: FlowKey, server: &Candidate) -> f64 {
    const HASHES: f64 = (1_u64 << 53) as f64;
    let uniform = ((mix(key.bits() ^ server.key) >> 11) as f64 + 0.5) / HASHES;
    f64::from(server.weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_shares, pool_of, servers_of_clients};
    use crate::balance::Standing;
    use crate::config::plan::Balance;

    #[test]
    fn weights_are_honoured_over_many_clients() {
        check_shares(Balance::IpHash, &[5, 3, 2], 100_000, 0.01);
    }

    #[test]
    fn removing_a_server_moves_only_its_own_clients() {
        let all = pool_of(&[1, 2, 3, 1, 1]);
        for gone in 0..all.len() {
            let mut fewer = all.clone();
            fewer.remove(gone);
            let before = servers_of_clients(Balance::IpHash, &all, 10_000);
            let after = servers_of_clients(Balance::IpHash, &fewer, 10_000);
            for (was, is) in before.iter().zip(&after) {
                assert!(was == is || *was == all[gone].key);
            }
        }
    }

    #[test]
    fn a_server_that_comes_back_gets_its_clients_back() {
        let pool = pool_of(&[1, 1, 1]);
        let mut down = pool.clone();
        down[1].standing = Standing::Down;
        let before = servers_of_clients(Balance::IpHash, &pool, 1_000);
        let between = servers_of_clients(Balance::IpHash, &down, 1_000);
        assert_ne!(before, between);
        assert_eq!(before, servers_of_clients(Balance::IpHash, &pool, 1_000));
    }

    #[test]
    fn a_warming_server_only_takes_clients_that_will_stay_with_it() {
        let warm = pool_of(&[1, 1, 1]);
        let mut cold = warm.clone();
        cold[2].weight /= 10;
        let at_start = servers_of_clients(Balance::IpHash, &cold, 10_000);
        let at_end = servers_of_clients(Balance::IpHash, &warm, 10_000);
        for (first, last) in at_start.iter().zip(&at_end) {
            assert!(first == last || *last == warm[2].key);
        }
    }
}
