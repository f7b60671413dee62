//! A running Sluicegate as those see it who watch it: the admin API, the demo, tests.
//!
//! Everything here can be read from any thread. Only the control thread writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::membership::{Membership, NameId, Resolution};
use super::reload::Reload;
use super::scrape::Scraper;
use crate::config::plan::{BindAddr, Plan};
use crate::observe::access_log::LogState;
use crate::observe::clock;
use crate::observe::events::Events;
use crate::observe::metrics;
use crate::observe::status::{self, Status};
use crate::observe::view::{TlsKept, View};
use crate::registry::Snapshot;
use crate::runtime::time::Time;
use crate::runtime::worker::Shared;

/// Where the process stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Bound; first checks are running and nobody is accepted.
    Starting,
    Ready,
    /// Told to stop: accepts for `shutdown_delay`, then lets sessions end.
    Draining,
    Stopped,
}

impl Phase {
    /// As status shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
pub struct Instance {
    pub shared: Arc<Shared>,
    pub membership: Membership,
    bound: Mutex<Vec<Vec<BindAddr>>>,
    /// The address of the admin API, with the real port.
    pub admin: Option<BindAddr>,
    pub events: Events,
    pub log_state: Arc<LogState>,
    pub started_at: Time,
    loading: Mutex<Loading>,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    scraper: Scraper,
    busy: Mutex<Busy>,
    tls_kept: Mutex<TlsKept>,
    stuck: Mutex<BTreeSet<u16>>,
}

/// When the configuration came into use.
#[derive(Clone, Debug)]
pub struct Loading {
    pub at: SystemTime,
    /// Of all reloads the last one, whatever came of it.
    pub last: Option<Arc<Reload>>,
    /// What of the configuration in use waits for a restart or an upgrade.
    pub pending: Vec<String>,
}

/// How busy each worker was between the last two samples.
#[derive(Debug, Default)]
struct Busy {
    at: Time,
    spent_ns: Vec<u64>,
    shares: Vec<f64>,
}

impl Instance {
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        membership: Membership,
        bound: Vec<Vec<BindAddr>>,
        admin: Option<BindAddr>,
    ) -> Self {
        Self {
            shared,
            membership,
            bound: Mutex::new(bound),
            admin,
            events: Events::default(),
            log_state: Arc::default(),
            started_at: clock::now(),
            loading: Mutex::new(Loading { at: SystemTime::now(), last: None, pending: Vec::new() }),
            phase: Mutex::new(Phase::Starting),
            phase_changed: Condvar::new(),
            scraper: Scraper::default(),
            busy: Mutex::default(),
            tls_kept: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.phase_changed.notify_all();
    }

    /// Waits until the start is over, at most `deadline`. Says where it stands then.
    #[must_use]
    pub fn wait_started(&self, deadline: Duration) -> Phase {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let still = |phase: &mut Phase| *phase == Phase::Starting;
        let waited = self.phase_changed.wait_timeout_while(phase, deadline, still);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.membership.snapshot()
    }

    /// The configuration in use.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.snapshot().plan.clone()
    }

    /// Addresses really bound, by listener: where the plan says port 0, the kernel's choice.
    #[must_use]
    pub fn bound(&self) -> Vec<Vec<BindAddr>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_bound(&self, bound: Vec<Vec<BindAddr>>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = bound;
    }

    /// Since when the configuration is in use, and how the last reload went.
    #[must_use]
    pub fn loading(&self) -> Loading {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_reload(&self, reload: Arc<Reload>) {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if reload.outcome.is_ok() {
            loading.at = reload.at;
            loading.pending.clone_from(&reload.pending);
        }
        loading.last = Some(reload);
    }

    /// What `GET /v1/status` says. Asks the workers, so it blocks for up to 500 ms.
    #[must_use]
    pub fn status(&self) -> Status {
        self.read(status::render)
    }

    /// What `GET /metrics` says. Blocks as [`Instance::status`] does.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.read(metrics::render)
    }

    /// Takes one reading of everything and renders it.
    pub fn read<T>(&self, render: impl FnOnce(&View<'_>) -> T) -> T {
        let snapshot = self.snapshot();
        let names: BTreeMap<NameId, Resolution> = self.membership.resolutions();
        let (overrides, stuck) = (self.membership.overrides(), self.stuck());
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).shares.clone();
        let tls_kept = self.tls_kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let scraped = self.scraper.scrape(&self.shared.workers);
        render(&View {
            snapshot: &snapshot,
            names: &names,
            bound: &self.bound(),
            workers: &self.shared.workers,
            engine: self.shared.engine,
            busy: &busy,
            late: &scraped.late,
            stuck: &stuck,
            overrides: &overrides,
            totals: &scraped.totals,
            now: clock::now(),
            started_at: self.started_at,
            loading: &self.loading(),
            phase: self.phase(),
            tls_kept: &tls_kept,
            log_dropped: self.log_dropped(),
            log_stalled: self.log_state.stalled.load(Ordering::Relaxed),
        })
    }

    /// Workers that have not moved for seconds.
    #[must_use]
    pub fn stuck(&self) -> BTreeSet<u16> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_stuck(&self, stuck: BTreeSet<u16>) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }

    /// Notes whose certificate files could not be used.
    pub(super) fn note_tls(&self, note: impl FnOnce(&mut TlsKept)) {
        note(&mut self.tls_kept.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lines lost by the writer, and records that found no place in a queue.
    fn log_dropped(&self) -> u64 {
        let workers = self.shared.workers.iter().map(|worker| worker.counts.log_dropped.value());
        self.log_state.dropped.load(Ordering::Relaxed) + workers.sum::<u64>()
    }

    /// Ends a period of which `status` shows how busy the workers were.
    pub(super) fn sample_busy(&self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        let workers = &self.shared.workers;
        let counts: Vec<u64> = workers.iter().map(|one| one.counts.busy_ns.value()).collect();
        let span = now.since(busy.at).as_nanos() as f64;
        let shares = counts.iter().enumerate().map(|(at, &count)| {
            let before = busy.spent_ns.get(at).copied().unwrap_or(count);
            (count.saturating_sub(before) as f64 / span).min(1.0)
        });
        let shares = shares.collect();
        *busy = Busy { at: now, spent_ns: counts, shares };
    }
}
