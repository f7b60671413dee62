//! One reading of everything that is shown: what status and metrics are rendered from.
//!
//! Counters live per worker and per server id; people think in listeners and server names.
//! The sums stand here, once, so that `/v1/status` and `/metrics` cannot disagree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::{ConnectResult, RetryCause};
use super::histograms::{PolicyTotals, RouteTotals, Totals};
use super::reason::{REASONS, Reason};
use crate::config::plan::{BindAddr, HttpListener, Pem, Server};
use crate::control::instance::{Loading, Phase};
use crate::control::membership::{NameId, Resolution};
use crate::control::overrides::Overrides;
use crate::registry::{Condition, ListenerId, PoolId, ServerState, Snapshot};
use crate::runtime::engine::Engine;
use crate::runtime::time::Time;
use crate::runtime::worker::WorkerHandle;
use crate::tls::certificates::Certificate;
use crate::tls::server::ServerTls;

/// What one reading sees.
#[derive(Debug)]
pub struct View<'a> {
    pub snapshot: &'a Snapshot,
    /// Where the names stand.
    pub names: &'a BTreeMap<NameId, Resolution>,
    /// Addresses really bound, by listener.
    pub bound: &'a [Vec<BindAddr>],
    pub workers: &'a [WorkerHandle],
    /// What they run on.
    pub engine: Engine,
    /// Share of the last second each worker was busy, 0 to 1.
    pub busy: &'a [f64],
    /// Workers that did not answer the last scrape: their histograms are older.
    pub late: &'a [u16],
    /// Workers that have not moved for seconds.
    pub stuck: &'a BTreeSet<u16>,
    /// What the admin API has changed.
    pub overrides: &'a Overrides,
    pub totals: &'a Totals,
    pub now: Time,
    pub started_at: Time,
    pub loading: &'a Loading,
    pub phase: Phase,
    /// Where changed certificate files could not be used.
    pub tls_kept: &'a TlsKept,
    pub log_dropped: u64,
    pub log_stalled: bool,
}

/// Whose certificate files have changed and cannot be used, and why: what was there before goes
/// on to serve.
#[derive(Clone, Debug, Default)]
pub struct TlsKept {
    pub listeners: BTreeMap<ListenerId, String>,
    pub pools: BTreeMap<PoolId, String>,
}

/// What a listener has counted.
#[derive(Clone, Copy, Debug)]
pub struct ListenerSums {
    pub active: u32,
    pub connections: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// By `Reason as usize`.
    pub ended: [u64; Reason::COUNT],
    /// By `HandshakeResult as usize`.
    pub handshakes: [u64; 3],
}

impl Default for ListenerSums {
    fn default() -> Self {
        Self {
            active: 0,
            connections: 0,
            bytes_in: 0,
            bytes_out: 0,
            ended: [0; Reason::COUNT],
            handshakes: [0; 3],
        }
    }
}

impl ListenerSums {
    /// Turned away before a server was tried.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refusals = REASONS.iter().filter(|reason| reason.is_refusal());
        refusals.map(|&reason| self.ended[reason as usize]).sum()
    }
}

/// What one or several addresses have counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerSums {
    pub active: u32,
    /// By `ConnectResult as usize`.
    pub connects: [u64; 6],
    /// Those of the successful ones whose connections carry requests.
    pub connects_http: u64,
    pub requests: u64,
    /// Those that had no answer, or a 5xx.
    pub requests_failed: u64,
    pub resets: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub retransmits: u64,
    /// The largest of the workers, in microseconds.
    pub rttvar_us: u64,
    pub stolen: u64,
}

impl ServerSums {
    /// Sessions that got a connection, and requests that did: what `active` is of, and
    /// `max_conns`.
    #[must_use]
    pub const fn total(&self) -> u64 {
        // Workers count on while this is read.
        let sessions = self.connects[ConnectResult::Ok as usize].saturating_sub(self.connects_http);
        sessions + self.requests
    }

    /// What went wrong at the server: failed connects, except for want of something of our
    /// own, sessions that it reset, and requests that it failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let of = |result: ConnectResult| self.connects[result as usize];
        let ours = of(ConnectResult::Ok) + of(ConnectResult::Local);
        self.connects.iter().sum::<u64>() - ours + self.resets + self.requests_failed
    }
}

/// A server of the plan with all the addresses it ever had.
#[derive(Debug)]
pub struct ServerGroup<'a> {
    pub plan: &'a Server,
    pub states: Vec<&'a Arc<ServerState>>,
    /// `Some` if the server is a name.
    pub name: Option<&'a Resolution>,
}

impl<'a> ServerGroup<'a> {
    /// Addresses to show: those in use, and those whose last sessions still run.
    pub fn shown(&self) -> impl Iterator<Item = &Arc<ServerState>> {
        self.states.iter().copied().filter(|state| {
            !state.removed.load(Ordering::Relaxed) || state.load.load(Ordering::Relaxed) > 0
        })
    }

    /// The address of a server that has only one: the one in use, not one that it had before and
    /// whose last sessions still run.
    #[must_use]
    pub fn address(&self) -> Option<&'a Arc<ServerState>> {
        let used = |state: &&&Arc<ServerState>| !state.removed.load(Ordering::Relaxed);
        self.states.iter().find(used).or(self.states.last()).copied()
    }

    /// The best of the addresses speaks for the name; a name without any is down.
    #[must_use]
    pub fn condition(&self, now: Time) -> Condition {
        self.shown().map(|state| state.condition(now)).min().unwrap_or(Condition::Down)
    }
}

impl<'a> View<'a> {
    /// What policies took and refused, by policy and name of the route: routes that share a name
    /// are one.
    #[must_use]
    pub fn policies(&self) -> BTreeMap<(u16, &'a str), PolicyTotals> {
        let mut rows: BTreeMap<(u16, &str), PolicyTotals> = BTreeMap::new();
        for (&(_, route, policy), totals) in &self.totals.policies {
            rows.entry((policy, self.route_name(route))).or_default().add(totals);
        }
        rows
    }

    /// Requests by route: all routes of the listener, also those that nobody has asked for yet.
    #[must_use]
    pub fn routes(&self, id: ListenerId, http: &'a HttpListener) -> BTreeMap<&'a str, RouteTotals> {
        let mut routes: BTreeMap<&str, RouteTotals> =
            http.routes.iter().map(|route| (route.name.as_str(), RouteTotals::default())).collect();
        routes.insert("", RouteTotals::default());
        let range = (id, None)..=(id, Some(u32::MAX));
        for ((_, route), totals) in self.totals.routes.range(range) {
            routes.entry(self.route_name(*route)).or_default().add(totals);
        }
        routes
    }

    /// "" for no route, and for the listener's own pool.
    #[must_use]
    pub fn route_name(&self, route: Option<u32>) -> &'a str {
        route.map_or("", |route| self.snapshot.fronts.labels.name(route))
    }
}

impl View<'_> {
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> ListenerSums {
        let active = self.snapshot.listeners[usize::from(id.0)].active.load(Ordering::Relaxed);
        let mut sums = ListenerSums { active, ..ListenerSums::default() };
        for worker in self.workers {
            let counts = worker.counts.listener(id);
            sums.connections += counts.connections.value();
            sums.bytes_in += counts.bytes_in.value();
            sums.bytes_out += counts.bytes_out.value();
            for (sum, count) in sums.ended.iter_mut().zip(&counts.ended) {
                *sum += count.value();
            }
            for (sum, count) in sums.handshakes.iter_mut().zip(&counts.handshakes) {
                *sum += count.value();
            }
        }
        sums
    }

    pub fn servers<'s>(
        &self,
        states: impl IntoIterator<Item = &'s Arc<ServerState>>,
    ) -> ServerSums {
        let mut sums = ServerSums::default();
        for state in states {
            sums.active += state.load.load(Ordering::Relaxed);
            for worker in self.workers {
                let counts = worker.counts.server(state.id);
                sums.connects_http += counts.connects_http.value();
                sums.requests += counts.requests.value();
                sums.requests_failed += counts.requests_failed.value();
                sums.resets += counts.resets.value();
                sums.bytes_in += counts.bytes_in.value();
                sums.bytes_out += counts.bytes_out.value();
                sums.retransmits += counts.retransmits.value();
                sums.stolen += counts.stolen.value();
                sums.rttvar_us = sums.rttvar_us.max(counts.rttvar_us.value());
                for (sum, count) in sums.connects.iter_mut().zip(&counts.connects) {
                    *sum += count.value();
                }
            }
        }
        sums
    }

    /// Retries by pool and cause, at all servers that the pool ever had: a count does not fall
    /// because one of them is removed.
    #[must_use]
    pub fn retries(&self) -> Vec<[u64; RetryCause::ALL.len()]> {
        let mut pools = vec![[0; RetryCause::ALL.len()]; self.snapshot.pools.len()];
        for state in &self.snapshot.servers {
            for worker in self.workers {
                let counts = &worker.counts.server(state.id).retries;
                let sums = &mut pools[usize::from(state.pool.0)];
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.value());
            }
        }
        pools
    }

    /// Certificates of a listener as they are in use, with a label each of its own.
    #[must_use]
    pub fn certificates(&self, id: ListenerId) -> Vec<(String, &Certificate)> {
        let at = usize::from(id.0);
        let (Some(plan), Some(front)) =
            (&self.snapshot.plan.listeners[at].tls, self.snapshot.fronts.listeners.get(at))
        else {
            return Vec::new();
        };
        let mut labels: Vec<String> = Vec::new();
        for entry in &plan.certs {
            let label = match &entry.cert {
                Pem::File(path) => path.display().to_string(),
                Pem::Text(_) => "env".to_owned(),
            };
            let same = labels.iter().filter(|other| **other == label).count();
            labels.push(if same == 0 { label } else { format!("{label} #{}", same + 1) });
        }
        let certificates = front.tls.as_deref().map(ServerTls::certificates).unwrap_or_default();
        labels.into_iter().zip(certificates).collect()
    }

    /// The servers of every pool, in file order.
    #[must_use]
    pub fn groups(&self) -> Vec<Vec<ServerGroup<'_>>> {
        let mut states: HashMap<(PoolId, &str), Vec<&Arc<ServerState>>> = HashMap::new();
        for state in &self.snapshot.servers {
            states.entry((state.pool, &state.name)).or_default().push(state);
        }
        let pools = self.snapshot.plan.pools.iter().enumerate();
        pools
            .map(|(pool, at)| {
                let pool = PoolId(pool as u16);
                let servers = at.servers.iter();
                servers
                    .map(|plan| ServerGroup {
                        plan,
                        states: states.remove(&(pool, plan.name.as_str())).unwrap_or_default(),
                        name: self.names.get(&NameId::new(pool, plan)),
                    })
                    .collect()
            })
            .collect()
    }
}

/// How a bound address reads.
#[must_use]
pub fn bind_text(bind: &BindAddr) -> String {
    match bind {
        BindAddr::Ip(address) => address.to_string(),
        BindAddr::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_both_kinds_has_sessions_and_requests_in_its_total() {
        // ok, refused, timeout, unreachable, reset, local
        let connects = [7, 1, 2, 3, 4, 100];
        let of_sessions = ServerSums { connects, resets: 5, ..ServerSums::default() };
        assert_eq!((of_sessions.total(), of_sessions.errors()), (7, 15));
        let of_both =
            ServerSums { connects_http: 2, requests: 40, requests_failed: 6, ..of_sessions };
        assert_eq!((of_both.total(), of_both.errors()), (45, 21));
    }
}
