//! Why each route was or was not taken, for `sluicegate explain`.
//!
//! Judges with the very conditions that the table judges with; that the trie finds what the
//! ranks say is a property test.

use super::Query;
use super::conditions::Miss;
use super::table::{Rank, Table};

/// What became of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'t> {
    Taken,
    /// It fits, but `route` fits better.
    Lost {
        route: usize,
        by: Criterion,
    },
    Missed(Miss<'t>),
}

/// What makes one fitting route better than another, in the order in which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    Host,
    Path,
    Conditions,
    Place,
}

impl std::fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken => f.write_str("taken"),
            Self::Lost { by: Criterion::Host, .. } => f.write_str("another names the host closer"),
            Self::Lost { by: Criterion::Path, .. } => f.write_str("another names the path closer"),
            Self::Lost { by: Criterion::Conditions, .. } => {
                f.write_str("another has more conditions that hold")
            }
            Self::Lost { by: Criterion::Place, .. } => f.write_str("another stands before it"),
            Self::Missed(miss) => miss.fmt(f),
        }
    }
}

impl std::fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("the host does not match"),
            Self::Path => f.write_str("the path does not match"),
            Self::Scheme => f.write_str("the scheme is already the one it redirects to"),
            Self::Header(name) => write!(f, "header `{name}` does not match"),
            Self::Query(name) => write!(f, "query parameter `{name}` does not match"),
            Self::Cookie(name) => write!(f, "cookie `{name}` does not match"),
            Self::Method => f.write_str("the method does not match"),
        }
    }
}

impl Table {
    /// The verdict on every route, in file order. Allocates.
    #[must_use]
    pub fn explain(&self, query: &Query<'_>) -> Vec<(usize, Verdict<'_>)> {
        let ranks: Vec<Result<Rank, Miss<'_>>> =
            (0..self.len()).map(|route| self.judge(route, query)).collect();
        let best = ranks.iter().filter_map(|rank| rank.as_ref().ok()).min().copied();
        ranks.into_iter().map(|rank| verdict(rank, best)).enumerate().collect()
    }

    /// The rank of a route that fits, or why it does not.
    fn judge(&self, route: usize, query: &Query<'_>) -> Result<Rank, Miss<'_>> {
        let mut entries = self.entries.iter().filter(|entry| entry.route == route);
        let rank = entries.find(|entry| entry.host.fits(query.host)).ok_or(Miss::Host)?.rank;
        let own = &self.routes[route];
        if !own.fits_path(query.path) {
            return Err(Miss::Path);
        }
        own.check(query, self.asked(query)).map(|()| rank)
    }
}

fn verdict(rank: Result<Rank, Miss<'_>>, best: Option<Rank>) -> Verdict<'_> {
    match (rank, best) {
        (Err(miss), _) => Verdict::Missed(miss),
        (Ok(own), Some(best)) if own != best => {
            Verdict::Lost { route: best.place, by: own.loses_by(&best) }
        }
        (Ok(_), _) => Verdict::Taken,
    }
}

impl Rank {
    fn loses_by(&self, best: &Self) -> Criterion {
        if self.host != best.host {
            Criterion::Host
        } else if self.path != best.path {
            Criterion::Path
        } else if self.conditions != best.conditions {
            Criterion::Conditions
        } else {
            Criterion::Place
        }
    }
}
