//! Which pool of a `split` a request goes to.
//!
//! The caller gives a point: a random number for `by = "request"`, a hash of the client or the
//! consumer otherwise, so that the same one stays with a pool. A pool without servers yields its
//! share to the others; nobody else moves.

/// Chooses by weight. `None` only if no weight is above zero.
///
/// When no pool has servers, the point's own pool is returned, so that its hold, fallback and
/// reason apply.
pub fn choose(
    pools: &[(usize, u32)],
    point: u64,
    has_servers: &dyn Fn(usize) -> bool,
) -> Option<usize> {
    let mixed = mix(point);
    let first = weighted(pools, mixed, &|_| true)?;
    if has_servers(first) {
        return Some(first);
    }
    // Another point, or the share would all go to whoever stands at the same place.
    weighted(pools, mix(mixed), has_servers).or(Some(first))
}

fn weighted(pools: &[(usize, u32)], point: u64, takes: &dyn Fn(usize) -> bool) -> Option<usize> {
    let living = || pools.iter().filter(|(pool, weight)| *weight > 0 && takes(*pool));
    let total: u64 = living().map(|(_, weight)| u64::from(*weight)).sum();
    let mut at = ((u128::from(point) * u128::from(total)) >> 64) as u64;
    for (pool, weight) in living() {
        if at < u64::from(*weight) {
            return Some(*pool);
        }
        at -= u64::from(*weight);
    }
    None
}

/// Spreads weak hashes over all bits (splitmix64's finaliser).
const fn mix(point: u64) -> u64 {
    let mut z = point.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: [(usize, u32); 3] = [(4, 90), (7, 10), (9, 0)];

    fn shares(has_servers: &dyn Fn(usize) -> bool) -> [usize; 10] {
        let mut counts = [0; 10];
        for point in 0..10_000 {
            counts[choose(&POOLS, point, has_servers).expect("weights")] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let counts = shares(&|_| true);
        assert!((8_800..9_200).contains(&counts[4]), "{counts:?}");
        assert_eq!(counts[4] + counts[7], 10_000);
    }

    #[test]
    fn a_pool_without_servers_yields_its_share_and_nobody_else_moves() {
        assert_eq!(shares(&|pool| pool != 4)[7], 10_000);
        for point in 0..1_000 {
            if choose(&POOLS, point, &|_| true) == Some(7) {
                assert_eq!(choose(&POOLS, point, &|pool| pool != 4), Some(7));
            }
        }
    }

    #[test]
    fn without_any_server_the_own_pool_answers() {
        assert_eq!(shares(&|_| false), shares(&|_| true));
        assert_eq!(choose(&[(1, 0)], 5, &|_| true), None);
        assert_eq!(choose(&[], 5, &|_| true), None);
    }
}
