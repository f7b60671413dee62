//! Choosing a server for a new session.
//!
//! A policy sees a read-only view of the pool and answers with an index. It does not block,
//! allocate or read the clock, so a test drives it with a plain loop. What the view says about
//! a server is one [`Verdict`]; `pick` and `explain` read the same one.
//!
//! Every worker has its own policies and its own, slightly old view of the loads. The pick says
//! which load spoke for it, and the shell reserves the place by compare-and-exchange on that;
//! so `max_conns` and least-conn are exact over all workers.
//!
//! To add a policy: implement [`Policy`] in `balance/<name>.rs`, add the variant to
//! [`plan::Balance`] and [`AnyPolicy`], add a row to [`POLICIES`]. The properties at the end of
//! this file, the parser's suggestions and the reference then cover it.

mod ip_hash;
mod key;
mod least_conn;
mod maglev;
mod random_two;
mod rng;
mod roster;
mod round_robin;
mod slow_start;
mod view;

pub use ip_hash::IpHash;
pub use key::{FlowKey, server_key, sticky_key};
pub use least_conn::LeastConn;
pub use maglev::Maglev;
pub use random_two::RandomTwo;
pub use rng::Rng;
pub use roster::Roster;
pub use round_robin::RoundRobin;
pub use slow_start::{WEIGHT_SCALE, warm_weight};
pub use view::{Candidate, Nobody, Pick, PoolView, Standing, TRIED_MAX, Verdict};

use crate::config::plan;

/// The contract of a balancing policy.
pub trait Policy {
    /// Chooses among the servers whose verdict is [`Verdict::Takes`].
    ///
    /// # Errors
    /// When there is none: why not, so that the shell knows what to wait for.
    fn pick(&mut self, pool: PoolView<'_>, key: FlowKey, rng: &mut Rng) -> Result<Pick, Nobody>;

    /// The pool has other members, or another order of them. Only `key`, `weight_full` and
    /// `backup` of the candidates count here.
    fn rebuild(&mut self, candidates: &[Candidate]);

    /// Whether the choice was made by comparing loads. If so, a load that has moved since asks
    /// for a new pick; if not, the shell tries to reserve a place at the same server again, so
    /// that a lost race does not skip a turn.
    fn compares_loads(&self) -> bool;
}

/// One row of the table of policies.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRow {
    /// The word in the configuration.
    pub name: &'static str,
    pub balance: plan::Balance,
    /// One sentence for the reference and `explain`.
    pub doc: &'static str,
}

/// Every policy there is, in the order of the documentation.
pub static POLICIES: [PolicyRow; 5] = [
    PolicyRow {
        name: "round-robin",
        balance: plan::Balance::RoundRobin,
        doc: "Servers in turn, in proportion to their weights and evenly spread.",
    },
    PolicyRow {
        name: "least-conn",
        balance: plan::Balance::LeastConn,
        doc: "The server with the fewest sessions for its weight, counted over all workers.",
    },
    PolicyRow {
        name: "ip-hash",
        balance: plan::Balance::IpHash,
        doc: "The same server for a client address while it is up; when a server leaves, only its clients move.",
    },
    PolicyRow {
        name: "random-two",
        balance: plan::Balance::RandomTwo,
        doc: "Two servers drawn by weight, and of them the less loaded.",
    },
    PolicyRow {
        name: "maglev",
        balance: plan::Balance::Maglev,
        doc: "The same server for a client address, by a lookup that costs the same for any number of servers; few other clients move when one leaves.",
    },
];

/// The policy of one pool on one worker.
#[derive(Debug)]
pub enum AnyPolicy {
    RoundRobin(RoundRobin),
    LeastConn(LeastConn),
    IpHash(IpHash),
    RandomTwo(RandomTwo),
    Maglev(Maglev),
}

impl AnyPolicy {
    /// Knows no members yet: [`Policy::rebuild`] comes before the first pick.
    #[must_use]
    pub fn new(balance: plan::Balance) -> Self {
        match balance {
            plan::Balance::RoundRobin => Self::RoundRobin(RoundRobin::default()),
            plan::Balance::LeastConn => Self::LeastConn(LeastConn::default()),
            plan::Balance::IpHash => Self::IpHash(IpHash),
            plan::Balance::RandomTwo => Self::RandomTwo(RandomTwo),
            plan::Balance::Maglev => Self::Maglev(Maglev::default()),
        }
    }
}

macro_rules! each {
    ($self:ident, $policy:ident => $call:expr) => {
        match $self {
            AnyPolicy::RoundRobin($policy) => $call,
            AnyPolicy::LeastConn($policy) => $call,
            AnyPolicy::IpHash($policy) => $call,
            AnyPolicy::RandomTwo($policy) => $call,
            AnyPolicy::Maglev($policy) => $call,
        }
    };
}

impl Policy for AnyPolicy {
    fn pick(&mut self, pool: PoolView<'_>, key: FlowKey, rng: &mut Rng) -> Result<Pick, Nobody> {
        each!(self, policy => policy.pick(pool, key, rng))
    }

    fn rebuild(&mut self, candidates: &[Candidate]) {
        each!(self, policy => policy.rebuild(candidates));
    }

    fn compares_loads(&self) -> bool {
        each!(self, policy => policy.compares_loads())
    }
}

#[cfg(test)]
mod tests;
