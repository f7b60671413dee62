//! Whether a server that fails its clients is taken out for a while.

use crate::balance::Standing;

/// What becomes of a server that has had too many failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejection {
    Eject,
    /// It gets nothing new anyway.
    NotUp,
    /// Without it nobody would be left, and one that fails now and then is better than none.
    LastOne,
    /// `max_ejected` of the pool are out already.
    ShareOut,
}

/// Decides about server `candidate` of a pool.
///
/// At most `max_ejected_percent` of the pool's servers are out at once, but one may always be
/// if there is another. Servers that are draining belong to the pool no longer.
#[must_use]
pub fn ejection(pool: &[Standing], candidate: usize, max_ejected_percent: u8) -> Ejection {
    let count = |standing| pool.iter().filter(|&&other| other == standing).count();
    if pool.get(candidate) != Some(&Standing::Up) {
        return Ejection::NotUp;
    }
    if count(Standing::Up) == 1 {
        return Ejection::LastOne;
    }
    let servers = pool.len() - count(Standing::Draining);
    let out_max = (servers * usize::from(max_ejected_percent) / 100).max(1);
    if count(Standing::Ejected) >= out_max { Ejection::ShareOut } else { Ejection::Eject }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u` up, `d` down, `e` ejected, `-` draining; the first one is the candidate.
    fn check(pool: &str, max_ejected_percent: u8, want: Ejection) {
        let standing = |letter| match letter {
            'u' => Standing::Up,
            'd' => Standing::Down,
            'e' => Standing::Ejected,
            _ => Standing::Draining,
        };
        let pool: Vec<_> = pool.chars().map(standing).collect();
        assert_eq!(ejection(&pool, 0, max_ejected_percent), want, "{pool:?}");
    }

    #[test]
    fn the_last_eligible_server_is_never_ejected() {
        check("u", 100, Ejection::LastOne);
        check("uddd", 100, Ejection::LastOne);
        check("ueee", 100, Ejection::LastOne);
        check("u---", 100, Ejection::LastOne);
    }

    #[test]
    fn at_most_the_share_is_out_at_once() {
        check("uuuu", 50, Ejection::Eject);
        check("uuue", 50, Ejection::Eject);
        check("uuee", 50, Ejection::ShareOut);
        check("uuuee", 50, Ejection::ShareOut);
    }

    #[test]
    fn one_of_several_may_be_ejected_however_small_the_share() {
        check("uu", 1, Ejection::Eject);
        check("uuue", 1, Ejection::ShareOut);
    }

    #[test]
    fn a_server_that_is_down_is_not_out_by_ejection() {
        check("uudd", 50, Ejection::Eject);
    }

    #[test]
    fn draining_servers_do_not_enlarge_the_share() {
        check("uuue----", 50, Ejection::Eject);
        check("uuee----", 50, Ejection::ShareOut);
    }

    #[test]
    fn only_a_server_that_is_up_can_be_ejected() {
        for pool in ["duu", "euu", "-uu", ""] {
            check(pool, 100, Ejection::NotUp);
        }
    }
}
