//! The shape of `GET /v1/status`: written by the admin API, read by `ctl` and others.
//!
//! Names and nesting are a contract with scripts. Fields may be added, never renamed.

mod health;
mod removed;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use self::traffic::{Distribution, RouteStatus};
use super::clock;
use super::histograms::{Series, sum_of};
use super::view::{ServerGroup, View, bind_text};
use crate::balance::POLICIES;
use crate::config::plan::{self, ServerAddr};
use crate::control::instance::Phase;
use crate::control::membership::Resolution;
use crate::control::overrides::Override;
use crate::registry::{AdminState, Condition, ListenerId, Member, PoolSnapshot, ServerState};
use crate::tls::certificates::Certificate;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// The name of this machine.
    #[serde(default)]
    pub host: String,
    pub uptime_s: f64,
    /// `starting`, `ready`, `draining` or `stopped`.
    #[serde(default)]
    pub phase: String,
    /// All bound, first checks done, not draining.
    pub ready: bool,
    pub engine: String,
    pub config: ConfigStatus,
    pub log: LogStatus,
    pub workers: Vec<WorkerStatus>,
    pub listeners: BTreeMap<String, ListenerStatus>,
    pub pools: BTreeMap<String, PoolStatus>,
    /// What policies took on each route, the slowest first.
    #[serde(default)]
    pub policies: Vec<PolicyStatus>,
}

/// One policy on one route.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub policy: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// "" for requests of no route, and for the listener's own `pool`.
    pub route: String,
    pub requests: u64,
    /// Those that it refused, or would have if it were not a dry run.
    pub denied: u64,
    /// What it took of all of them together.
    #[serde(default)]
    pub total_us: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    pub hash: String,
    pub loaded_at: String,
    /// What of it waits for a restart or an upgrade, a sentence each.
    #[serde(default)]
    pub pending_restart: Vec<String>,
    pub last_reload: ReloadStatus,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadStatus {
    pub ok: bool,
    pub at: String,
    /// The report, as `check` prints it.
    pub error: Option<String>,
    /// What it changed.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Settings that wait for a restart or an upgrade.
    #[serde(default)]
    pub pending: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogStatus {
    /// Access-log lines lost since the start.
    pub dropped: u64,
    /// The log's file or pipe takes nothing at the moment.
    pub stalled: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub id: u16,
    pub cpu: Option<usize>,
    pub sessions: u32,
    /// Share of the last second that it was not waiting, 0 to 1.
    pub busy: f64,
    /// Did not answer the last scrape in time: its latencies are older than the rest.
    pub late: bool,
    /// Has not moved for seconds: its clients are not served.
    #[serde(default)]
    pub stuck: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub bind: Vec<String>,
    /// `tcp` or `http`.
    pub mode: String,
    /// The first or only pool; `null` for a listener that answers without one.
    pub pool: Option<String>,
    /// Clients speak TLS to it.
    #[serde(default)]
    pub tls: bool,
    /// Those in use; only with TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateStatus>,
    /// Why changed certificate files are not in use; `null`: all are.
    #[serde(default)]
    pub tls_error: Option<String>,
    pub active: u32,
    /// Where further clients are turned away; `null`: at no number of its own.
    #[serde(default)]
    pub max_conns: Option<u32>,
    pub total: u64,
    pub refused: u64,
    /// Payload from clients, and to them.
    #[serde(default)]
    pub bytes_in: u64,
    #[serde(default)]
    pub bytes_out: u64,
    /// Of requests where there are some, else of whole sessions; `null` before the first.
    #[serde(default)]
    pub latency: Option<Distribution>,
    /// Only of `http`; "" for requests of no route, and for the listener's own `pool`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, RouteStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The file; `env` for one out of the environment.
    pub cert: String,
    pub names: Vec<String>,
    pub not_after: String,
    /// Whole days until then; negative: it has expired.
    pub days_left: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    pub balance: String,
    /// Clients that wait for a server.
    pub held: u32,
    /// `closed`, `half-open` or `open`; `null`: it has none.
    #[serde(default)]
    pub breaker: Option<String>,
    /// Of successful connects to all its servers; `null` before the first.
    #[serde(default)]
    pub latency: Option<Distribution>,
    pub servers: BTreeMap<String, ServerStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    pub addr: String,
    /// `up`, `down`, `draining`, `maint` or `ejected`.
    pub state: String,
    pub health: HealthStatus,
    /// What the operator wants, whatever its health is: `ready`, `drain` or `maint`.
    #[serde(default)]
    pub admin: String,
    /// The weight that holds.
    pub weight: u16,
    /// What the file says, or the record of its name.
    #[serde(default)]
    pub configured: Configured,
    /// What the admin API has changed; `null`: nothing.
    pub r#override: Option<OverrideStatus>,
    pub backup: bool,
    pub max_conns: Option<u32>,
    /// Sessions, of an HTTP listener's clients requests.
    pub active: u32,
    /// The same since the start, each attempt by itself.
    pub total: u64,
    /// Failed connects, sessions that it reset, requests without an answer or with a 5xx.
    pub errors: u64,
    /// Segments sent again on the way to it.
    #[serde(default)]
    pub retransmits: u64,
    pub latency_ms: LatencyStatus,
    /// The last lookup failed and the members are those of an older one; only for names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<bool>,
    /// The addresses of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Self>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Configured {
    /// `ready`: files have no other.
    pub state: String,
    pub weight: u16,
}

/// What differs from the file; `null`: does not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OverrideStatus {
    pub state: Option<String>,
    pub weight: Option<u16>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthStatus {
    pub ok: bool,
    /// The last check in words.
    pub detail: String,
    pub at: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Successful connects since the start; `null` before the first.
    pub connect: Option<Quantiles>,
    /// From sending a request to the head of its answer; `null` before the first.
    #[serde(default)]
    pub request: Option<Quantiles>,
    /// Round trips as the kernel has measured them; `null` before the first.
    #[serde(default)]
    pub rtt: Option<Quantiles>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Renders one reading.
#[must_use]
pub fn render(view: &View<'_>) -> Status {
    let plan = &view.snapshot.plan;
    let loaded_at = clock::rfc3339(view.loading.at);
    let pools = plan.pools.iter().zip(&view.snapshot.pools).zip(view.groups());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        host: traffic::host_name(),
        uptime_s: (view.now.since(view.started_at).as_secs_f64() * 10.0).round() / 10.0,
        ready: view.phase == Phase::Ready,
        phase: view.phase.as_str().into(),
        engine: view.engine.as_str().into(),
        config: ConfigStatus {
            hash: plan.hash.clone(),
            loaded_at: loaded_at.clone(),
            pending_restart: view.loading.pending.clone(),
            last_reload: last_reload(view, loaded_at),
        },
        log: LogStatus { dropped: view.log_dropped, stalled: view.log_stalled },
        workers: workers(view),
        listeners: listeners(view),
        pools: pools
            .map(|((pool, now), groups)| (pool, pool_status(view, pool, now, &groups)))
            .filter(|(pool, status)| !pool.retired || !status.servers.is_empty())
            .map(|(pool, status)| (pool.name.clone(), status))
            .collect(),
        policies: policies(view),
    }
}

fn last_reload(view: &View<'_>, loaded_at: String) -> ReloadStatus {
    let Some(last) = &view.loading.last else {
        return ReloadStatus {
            ok: true,
            at: loaded_at,
            error: None,
            changes: vec![],
            pending: vec![],
        };
    };
    let (changes, error) = match &last.outcome {
        Ok(changes) => (changes.clone(), None),
        Err(error) => (Vec::new(), Some(error.clone())),
    };
    ReloadStatus {
        ok: error.is_none(),
        at: clock::rfc3339(last.at),
        error,
        changes,
        pending: last.pending.clone(),
    }
}

fn policies(view: &View<'_>) -> Vec<PolicyStatus> {
    let specs = &view.snapshot.plan.policies;
    let rows = view.policies();
    let mut all: Vec<PolicyStatus> = rows
        .iter()
        .map(|(&(policy, route), totals)| PolicyStatus {
            policy: specs[usize::from(policy)].name.clone(),
            kind: specs[usize::from(policy)].type_word().to_owned(),
            route: route.to_owned(),
            requests: totals.seconds.count(),
            denied: totals.denied,
            total_us: totals.seconds.sum_us(),
            p50_us: totals.seconds.quantile_ms(0.5) * 1e3,
            p99_us: totals.seconds.quantile_ms(0.99) * 1e3,
        })
        .collect();
    all.sort_by(|one, other| other.p99_us.total_cmp(&one.p99_us));
    all
}

fn workers(view: &View<'_>) -> Vec<WorkerStatus> {
    let busy = view.busy.iter().copied().chain(std::iter::repeat(0.0));
    let row = |(worker, busy): (&crate::runtime::worker::WorkerHandle, f64)| WorkerStatus {
        id: worker.id,
        cpu: worker.cpu,
        sessions: worker.counts.sessions.load(Ordering::Relaxed),
        busy: (busy * 100.0).round() / 100.0,
        late: view.late.contains(&worker.id),
        stuck: view.stuck.contains(&worker.id),
    };
    view.workers.iter().zip(busy).map(row).collect()
}

fn listeners(view: &View<'_>) -> BTreeMap<String, ListenerStatus> {
    let plan = &view.snapshot.plan;
    let row = |(id, listener): (usize, &plan::Listener)| {
        let sums = view.listener(ListenerId(id as u16));
        let bind = view.bound.get(id).unwrap_or(&listener.bind);
        let requests = traffic::requests(view, ListenerId(id as u16), listener);
        let status = ListenerStatus {
            bind: bind.iter().map(bind_text).collect(),
            mode: mode_word(listener.mode).into(),
            pool: listener.first_pool().map(|pool| plan.pools[pool].name.clone()),
            tls: listener.tls.is_some(),
            certificates: certificates(view, ListenerId(id as u16)),
            tls_error: view.tls_kept.listeners.get(&ListenerId(id as u16)).cloned(),
            active: sums.active,
            max_conns: listener.limit.max_conns.map(Into::into),
            total: sums.connections,
            refused: sums.refused(),
            bytes_in: sums.bytes_in,
            bytes_out: sums.bytes_out,
            latency: traffic::latency(view, ListenerId(id as u16), &requests),
            routes: traffic::routes(&requests),
        };
        (listener.name.clone(), status)
    };
    plan.listeners.iter().enumerate().filter(|(_, one)| !one.retired).map(row).collect()
}

fn certificates(view: &View<'_>, id: ListenerId) -> Vec<CertificateStatus> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let row = |(cert, certificate): (String, &Certificate)| CertificateStatus {
        cert,
        names: certificate.names.clone(),
        not_after: clock::rfc3339(moment(certificate.not_after)),
        days_left: (certificate.not_after - now.as_secs() as i64).div_euclid(86_400),
    };
    view.certificates(id).into_iter().map(row).collect()
}

/// A moment given in seconds since 1970, not before.
fn moment(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The word of a mode.
#[must_use]
pub const fn mode_word(mode: plan::Mode) -> &'static str {
    match mode {
        plan::Mode::Tcp => "tcp",
        plan::Mode::Http => "http",
    }
}

/// The word of a policy.
#[must_use]
pub fn balance_word(balance: plan::Balance) -> &'static str {
    POLICIES.iter().find(|row| row.balance == balance).map_or("?", |row| row.name)
}

fn pool_status(
    view: &View<'_>,
    pool: &plan::Pool,
    now: &PoolSnapshot,
    groups: &[ServerGroup<'_>],
) -> PoolStatus {
    let servers = groups.iter().map(|group| {
        let status = match group.name {
            Some(name) => named(view, pool, now, group, name),
            None => group.address().map_or_else(
                || unresolved(group, "too many servers in this process"),
                |state| single(view, pool, now, state),
            ),
        };
        let holds = view.overrides.of(&pool.name, &group.plan.name);
        (group.plan.name.clone(), overridden(status, holds))
    });
    let mut servers: BTreeMap<String, ServerStatus> = servers.collect();
    removed::add(view, pool, now, &mut servers);
    PoolStatus {
        balance: balance_word(pool.balance).into(),
        held: now.state.waiting.load(Ordering::Relaxed),
        breaker: pool
            .breaker
            .as_ref()
            .and(now.state.breaker())
            .map(|breaker| breaker_word(breaker.state()).into()),
        latency: traffic::connects(view, groups),
        servers,
    }
}

/// The same with what the admin API has changed, for a name and all its addresses.
fn overridden(mut status: ServerStatus, holds: Override) -> ServerStatus {
    if holds == Override::default() {
        return status;
    }
    if let Some(members) = status.members.take() {
        status.members = Some(members.into_iter().map(|one| overridden(one, holds)).collect());
    }
    let weight = holds.weight.map(|weight| weight.weight);
    ServerStatus {
        admin: holds.admin().as_str().into(),
        weight: weight.unwrap_or(status.weight),
        r#override: Some(OverrideStatus {
            state: holds.state.map(|state| state.as_str().into()),
            weight,
        }),
        ..status
    }
}

fn configured(weight: u16) -> Configured {
    Configured { state: AdminState::Ready.as_str().into(), weight }
}

/// The word of a breaker's state, by its number in metrics.
const fn breaker_word(state: u8) -> &'static str {
    match state {
        0 => "closed",
        1 => "half-open",
        _ => "open",
    }
}

/// One address.
fn single(
    view: &View<'_>,
    pool: &plan::Pool,
    now: &PoolSnapshot,
    state: &Arc<ServerState>,
) -> ServerStatus {
    let member = now.members.iter().find(|member| member.state.id == state.id);
    let planned = pool.servers.iter().find(|server| *server.name == *state.name);
    let weight = planned.map_or(0, |server| server.weight);
    let sums = view.servers([state]);
    let totals = view.totals;
    ServerStatus {
        addr: state.address.to_string(),
        state: state.condition(view.now).as_str().into(),
        health: health::of_one(pool, state),
        admin: AdminState::Ready.as_str().into(),
        weight: member.map_or(0, |member| member.weight),
        configured: configured(weight),
        r#override: None,
        backup: member.is_some_and(|member| member.backup),
        max_conns: member.and_then(|member: &Member| member.max_conns),
        active: sums.active,
        total: sums.total(),
        errors: sums.errors(),
        retransmits: sums.retransmits,
        latency_ms: LatencyStatus {
            connect: totals.connect.get(&state.id).map(quantiles),
            request: totals.upstream.get(&state.id).map(quantiles),
            rtt: totals.rtt.get(&state.id).map(quantiles),
        },
        stale: None,
        members: None,
    }
}

/// A name: its addresses together, and each by itself.
fn named(
    view: &View<'_>,
    pool: &plan::Pool,
    now: &PoolSnapshot,
    group: &ServerGroup<'_>,
    name: &Resolution,
) -> ServerStatus {
    let member = |state: &Arc<ServerState>| {
        let status = single(view, pool, now, state);
        let found = name.members.iter().find(|found| found.address == state.address);
        let weight = found.map_or(status.configured.weight, |found| found.weight);
        ServerStatus { configured: configured(weight), ..status }
    };
    let members: Vec<_> = group.shown().map(member).collect();
    let sums = view.servers(group.states.iter().copied());
    let latency = |series| {
        let sum = sum_of(series, group.states.iter().map(|state| state.id));
        sum.as_ref().map(quantiles)
    };
    ServerStatus {
        state: group.condition(view.now).as_str().into(),
        health: health::of_all(&members, name, pool.check.is_some()),
        active: sums.active,
        total: sums.total(),
        errors: sums.errors(),
        retransmits: sums.retransmits,
        latency_ms: LatencyStatus {
            connect: latency(&view.totals.connect),
            request: latency(&view.totals.upstream),
            rtt: latency(&view.totals.rtt),
        },
        stale: Some(name.stale),
        members: Some(members),
        ..unresolved(group, "")
    }
}

fn unresolved(group: &ServerGroup<'_>, detail: &str) -> ServerStatus {
    ServerStatus {
        addr: address_text(&group.plan.address),
        state: Condition::Down.as_str().into(),
        health: HealthStatus { ok: false, detail: detail.into(), at: None },
        admin: AdminState::Ready.as_str().into(),
        weight: group.plan.weight,
        configured: configured(group.plan.weight),
        r#override: None,
        backup: group.plan.backup,
        max_conns: group.plan.max_conns.map(Into::into),
        active: 0,
        total: 0,
        errors: 0,
        retransmits: 0,
        latency_ms: LatencyStatus { connect: None, request: None, rtt: None },
        stale: None,
        members: None,
    }
}

fn quantiles(series: &Series) -> Quantiles {
    Quantiles {
        p50: series.quantile_ms(0.5),
        p90: series.quantile_ms(0.9),
        p99: series.quantile_ms(0.99),
        p999: series.quantile_ms(0.999),
    }
}

/// A server's address as the configuration has it.
#[must_use]
pub fn address_text(address: &ServerAddr) -> String {
    match address {
        ServerAddr::Ip(address) => address.to_string(),
        ServerAddr::Unix(path) => format!("unix:{}", path.display()),
        ServerAddr::Dns { host, port } => format!("dns:{host}:{port}"),
        ServerAddr::Srv { name } => format!("srv:{name}"),
    }
}
