//! A pool as a policy sees it for one pick.

/// What run-time state says about a server, apart from its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    Up,
    /// Health checks say so, or the first one has not ended yet.
    Down,
    /// By `outlier`, for a while.
    Ejected,
    /// Gets nothing new; its sessions go on.
    Draining,
}

/// One server of a pool at the moment of a pick.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The weight that holds now: [`super::WEIGHT_SCALE`] times the configured one, less while
    /// the server warms up. At least 1.
    pub weight: u32,
    /// The weight once it is warm, scaled likewise.
    pub weight_full: u32,
    /// Sessions that hold a place, over all workers.
    pub load: u32,
    /// `u32::MAX`: no limit.
    pub max_conns: u32,
    pub standing: Standing,
    pub backup: bool,
    /// Hash of the address: see [`super::server_key`].
    pub key: u64,
}

/// Whether a server can take the session, or the first reason why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Takes,
    Down,
    Ejected,
    Draining,
    /// A backup, while a server that is none is up, even if that one is full.
    BackupNotNeeded,
    /// This session has failed to connect to it.
    Tried,
    Full,
}

impl Verdict {
    /// For `explain` and for status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Takes => "takes new sessions",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::BackupNotNeeded => "backup, not needed",
            Self::Tried => "tried already",
            Self::Full => "full",
        }
    }
}

/// The answer of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Into the candidates.
    pub index: usize,
    /// The load that spoke for it. If it is another one when the place is reserved, another
    /// worker was faster.
    pub load_seen: u32,
}

/// Why no server can take a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// No server is up: wait for health (`hold`), or end as `no-server`.
    NoneUp,
    /// At least one is up, and each of those not tried yet is at `max_conns`: wait for room.
    AllFull,
    /// Each one that is up has failed this session.
    AllTried,
}

/// Servers one session may try: three attempts at most.
pub const TRIED_MAX: usize = 3;

/// The candidates for one session, and who of them is in play.
#[derive(Clone, Copy, Debug)]
pub struct PoolView<'a> {
    candidates: &'a [Candidate],
    /// Indices of servers that this session has failed to connect to.
    tried: &'a [usize],
    /// No server that is not a backup is up.
    backups_in_play: bool,
}

impl<'a> PoolView<'a> {
    #[must_use]
    pub fn new(candidates: &'a [Candidate], tried: &'a [usize]) -> Self {
        debug_assert!(tried.len() <= TRIED_MAX);
        let primary_up = candidates.iter().any(|one| !one.backup && one.standing == Standing::Up);
        Self { candidates, tried, backups_in_play: !primary_up }
    }

    #[must_use]
    pub const fn candidates(&self) -> &'a [Candidate] {
        self.candidates
    }

    /// Whether server `index` can take the session, or why not. All policies choose by this.
    #[must_use]
    pub fn verdict(&self, index: usize) -> Verdict {
        self.judge(index, &self.candidates[index])
    }

    /// Every server that can take the session, with its index.
    pub fn takers(self) -> impl Iterator<Item = (usize, &'a Candidate)> {
        let all = self.candidates.iter().enumerate();
        all.filter(move |&(index, one)| self.judge(index, one) == Verdict::Takes)
    }

    fn judge(&self, index: usize, one: &Candidate) -> Verdict {
        match one.standing {
            Standing::Down => Verdict::Down,
            Standing::Ejected => Verdict::Ejected,
            Standing::Draining => Verdict::Draining,
            Standing::Up if one.backup && !self.backups_in_play => Verdict::BackupNotNeeded,
            Standing::Up if self.tried.contains(&index) => Verdict::Tried,
            Standing::Up if one.load >= one.max_conns => Verdict::Full,
            Standing::Up => Verdict::Takes,
        }
    }

    /// The pick of `index`, or why there is nobody.
    pub(super) fn answer(&self, index: Option<usize>) -> Result<Pick, Nobody> {
        match index {
            Some(index) => Ok(Pick { index, load_seen: self.candidates[index].load }),
            None => Err(self.nobody()),
        }
    }

    fn nobody(&self) -> Nobody {
        let any = |verdict| (0..self.candidates.len()).any(|index| self.verdict(index) == verdict);
        if any(Verdict::Full) {
            Nobody::AllFull
        } else if any(Verdict::Tried) {
            Nobody::AllTried
        } else {
            Nobody::NoneUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Candidate = Candidate {
        weight: 100,
        weight_full: 100,
        load: 0,
        max_conns: 1,
        standing: Standing::Up,
        backup: false,
        key: 0,
    };
    const FULL: Candidate = Candidate { load: 1, ..UP };
    const DOWN: Candidate = Candidate { standing: Standing::Down, ..UP };
    const BACKUP: Candidate = Candidate { backup: true, ..UP };

    fn verdicts(candidates: &[Candidate], tried: &[usize]) -> Vec<Verdict> {
        let pool = PoolView::new(candidates, tried);
        (0..candidates.len()).map(|index| pool.verdict(index)).collect()
    }

    #[test]
    fn full_is_not_down_so_backups_stay_out() {
        use Verdict::{BackupNotNeeded, Down, Full};
        assert_eq!(verdicts(&[FULL, DOWN, BACKUP], &[]), [Full, Down, BackupNotNeeded]);
        assert_eq!(PoolView::new(&[FULL, DOWN, BACKUP], &[]).nobody(), Nobody::AllFull);
    }

    #[test]
    fn backups_are_in_play_together_while_no_other_is_up() {
        use Verdict::{Down, Ejected, Takes};
        let ejected = Candidate { standing: Standing::Ejected, ..UP };
        assert_eq!(verdicts(&[DOWN, ejected, BACKUP, BACKUP], &[]), [Down, Ejected, Takes, Takes]);
    }

    #[test]
    fn a_failed_connect_alone_does_not_bring_backups_into_play() {
        assert_eq!(verdicts(&[UP, BACKUP], &[0]), [Verdict::Tried, Verdict::BackupNotNeeded]);
        assert_eq!(PoolView::new(&[UP, BACKUP], &[0]).nobody(), Nobody::AllTried);
    }

    #[test]
    fn a_full_server_is_worth_waiting_for_while_the_other_was_tried() {
        assert_eq!(PoolView::new(&[UP, FULL], &[0]).nobody(), Nobody::AllFull);
    }

    #[test]
    fn nobody_is_up_in_an_empty_pool() {
        assert_eq!(PoolView::new(&[], &[]).nobody(), Nobody::NoneUp);
    }
}
