//! The shape of `GET /v1/status`: written by the admin API, read by `ctl` and others.
//!
//! Names and nesting are a contract with scripts. Fields may be added, never renamed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::clock;
use super::histograms::{Series, sum_of};
use super::view::{ServerGroup, View, bind_text};
use crate::balance::POLICIES;
use crate::config::plan::{self, ServerAddr};
use crate::registry::{Condition, ListenerId, Member, PoolSnapshot, ServerState};
use crate::tls::certificates::Certificate;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_s: f64,
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
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    pub hash: String,
    pub loaded_at: String,
    pub last_reload: ReloadStatus,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadStatus {
    pub ok: bool,
    pub at: String,
    pub error: Option<String>,
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
    pub total: u64,
    pub refused: u64,
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
    pub servers: BTreeMap<String, ServerStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    pub addr: String,
    /// `up`, `down`, `draining`, `maint` or `ejected`.
    pub state: String,
    pub health: HealthStatus,
    pub weight: u16,
    /// What the admin API changed; nothing can be changed yet.
    pub r#override: Option<serde_json::Value>,
    pub backup: bool,
    pub max_conns: Option<u32>,
    pub active: u32,
    pub total: u64,
    pub errors: u64,
    pub latency_ms: LatencyStatus,
    /// The last lookup failed and the members are those of an older one; only for names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<bool>,
    /// The addresses of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Self>>,
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
    let loaded_at = clock::rfc3339(view.loaded_at);
    let pools = plan.pools.iter().zip(&view.snapshot.pools).zip(view.groups());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_s: (view.now.since(view.started_at).as_secs_f64() * 10.0).round() / 10.0,
        ready: view.ready,
        engine: view.engine.as_str().into(),
        config: ConfigStatus {
            hash: plan.hash.clone(),
            loaded_at: loaded_at.clone(),
            last_reload: ReloadStatus { ok: true, at: loaded_at, error: None },
        },
        log: LogStatus { dropped: view.log_dropped, stalled: view.log_stalled },
        workers: workers(view),
        listeners: listeners(view),
        pools: pools
            .map(|((pool, now), groups)| (pool.name.clone(), pool_status(view, pool, now, &groups)))
            .collect(),
        policies: policies(view),
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
    };
    view.workers.iter().zip(busy).map(row).collect()
}

fn listeners(view: &View<'_>) -> BTreeMap<String, ListenerStatus> {
    let plan = &view.snapshot.plan;
    let row = |(id, listener): (usize, &plan::Listener)| {
        let sums = view.listener(ListenerId(id as u16));
        let bind = view.bound.get(id).unwrap_or(&listener.bind);
        let status = ListenerStatus {
            bind: bind.iter().map(bind_text).collect(),
            mode: mode_word(listener.mode).into(),
            pool: plan.pools.get(listener.first_pool()).map(|pool| pool.name.clone()),
            tls: listener.tls.is_some(),
            certificates: certificates(view, ListenerId(id as u16)),
            tls_error: view.tls_kept.listeners.get(&ListenerId(id as u16)).cloned(),
            active: sums.active,
            total: sums.connections,
            refused: sums.refused(),
        };
        (listener.name.clone(), status)
    };
    plan.listeners.iter().enumerate().map(row).collect()
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
            None => group.states.first().map_or_else(
                || unresolved(group, "too many servers in this process"),
                |state| single(view, pool, now, state),
            ),
        };
        (group.plan.name.clone(), status)
    });
    PoolStatus {
        balance: balance_word(pool.balance).into(),
        held: now.state.waiting.load(Ordering::Relaxed),
        servers: servers.collect(),
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
    let sums = view.servers([state]);
    let totals = view.totals;
    ServerStatus {
        addr: state.address.to_string(),
        state: state.condition(view.now).as_str().into(),
        health: health(pool, state),
        weight: member.map_or(0, |member| member.weight),
        r#override: None,
        backup: member.is_some_and(|member| member.backup),
        max_conns: member.and_then(|member: &Member| member.max_conns),
        active: sums.active,
        total: sums.total(),
        errors: sums.errors(),
        latency_ms: LatencyStatus {
            connect: totals.connect.get(&state.id).map(quantiles),
            request: totals.upstream.get(&state.id).map(quantiles),
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
    name: &crate::control::membership::Resolution,
) -> ServerStatus {
    let members: Vec<_> = group.shown().map(|state| single(view, pool, now, state)).collect();
    let up = members.iter().filter(|member| member.state == Condition::Up.as_str()).count();
    let sums = view.servers(group.states.iter().copied());
    let latency = |series| {
        let sum = sum_of(series, group.states.iter().map(|state| state.id));
        sum.as_ref().map(quantiles)
    };
    let mut detail = match members.len() {
        0 if name.detail.is_empty() => "not resolved yet".to_owned(),
        0 => name.detail.clone(),
        all => format!("{up} of {all} addresses up"),
    };
    if name.stale {
        detail = format!("{detail}; last answer kept: {}", name.detail);
    }
    ServerStatus {
        state: group.condition(view.now).as_str().into(),
        health: HealthStatus { ok: up > 0, detail, at: name.at.map(clock::rfc3339) },
        active: sums.active,
        total: sums.total(),
        errors: sums.errors(),
        latency_ms: LatencyStatus {
            connect: latency(&view.totals.connect),
            request: latency(&view.totals.upstream),
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
        weight: group.plan.weight,
        r#override: None,
        backup: group.plan.backup,
        max_conns: group.plan.max_conns.map(Into::into),
        active: 0,
        total: 0,
        errors: 0,
        latency_ms: LatencyStatus { connect: None, request: None },
        stale: None,
        members: None,
    }
}

fn health(pool: &plan::Pool, state: &ServerState) -> HealthStatus {
    let last = state.last_check.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*last {
        Some(check) => HealthStatus {
            ok: check.ok,
            detail: check.detail.clone(),
            at: Some(clock::rfc3339(check.at)),
        },
        None if pool.check.is_none() => {
            HealthStatus { ok: true, detail: "not checked".into(), at: None }
        }
        None => HealthStatus { ok: false, detail: "not checked yet".into(), at: None },
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
