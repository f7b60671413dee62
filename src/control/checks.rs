//! Active checks: one task for each checked address.
//!
//! A task probes, feeds `health::Health`, acts on the change, and sleeps until the next turn
//! or until a worker reports a failed connect. Invariants:
//!
//! - C1: one probe of an address at a time. A failed connect while one runs starts no second.
//! - C2: at most `probes_max` probes at once, so that checks stay within the descriptors kept
//!   for control.
//! - C3: a failure of ours changes nothing but the words.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::desk::Desk;
use super::probe::{self, Failure, Target, TargetTls};
use crate::balance::Rng;
use crate::config::plan::{Check, Init};
use crate::health::{Change, Health, Limits, Outcome};
use crate::observe::clock;
use crate::observe::events::EventKind;
use crate::registry::{AdminState, CheckResult, ServerId, ServerState};

/// Between two probes of one address, however often workers report it. A refused connect takes
/// microseconds, and the report must not become a loop.
const GAP_MIN: Duration = Duration::from_millis(100);

/// All running checks.
#[derive(Debug)]
pub(super) struct Checks {
    desk: Rc<Desk>,
    tasks: RefCell<HashMap<ServerId, Task>>,
    permits: Rc<Semaphore>,
    /// First results that the start still waits for; `None` once it does not.
    firsts: RefCell<Option<Vec<oneshot::Receiver<()>>>>,
}

#[derive(Debug)]
struct Task {
    /// Wakes the task only while it sleeps (C1).
    recheck: Rc<Notify>,
    handle: AbortHandle,
}

impl Checks {
    /// `probes_max`: C2.
    pub fn new(desk: Rc<Desk>, probes_max: usize) -> Self {
        let permits = Rc::new(Semaphore::new(probes_max));
        let firsts = RefCell::new(Some(Vec::new()));
        Self { desk, tasks: RefCell::default(), permits, firsts }
    }

    /// Starts checking, if the pool has a check and the server is not in maintenance.
    pub fn start(&self, state: &Arc<ServerState>) {
        let Some(check) = self.desk.plan_of(state).check.clone() else { return };
        self.begin(state, check, false);
    }

    /// The same for one that was there before, checked in another way or not at all: it is what it
    /// was until that says otherwise, whatever `init` says.
    pub fn renew(&self, state: &Arc<ServerState>) {
        let Some(check) = self.desk.plan_of(state).check.clone() else { return };
        let init = if state.up.load(Ordering::Relaxed) { Init::Up } else { Init::Down };
        self.begin(state, Check { init, ..check }, false);
    }

    /// The same for a server that was in maintenance: it is down until a check has passed,
    /// whatever `init` says.
    pub fn start_again(&self, state: &Arc<ServerState>) {
        let Some(check) = self.desk.plan_of(state).check.clone() else { return };
        self.begin(state, Check { init: Init::Wait, ..check }, true);
    }

    fn begin(&self, state: &Arc<ServerState>, check: Check, was_out: bool) {
        if state.admin() == AdminState::Maint {
            return;
        }
        let (first, result) = oneshot::channel();
        if let (Init::Wait, Some(firsts)) = (check.init, &mut *self.firsts.borrow_mut()) {
            firsts.push(result);
        }
        let recheck = Rc::new(Notify::new());
        let checker = Checker {
            health: Health::new(check.init),
            limits: Limits::from(&check),
            check,
            state: state.clone(),
            desk: self.desk.clone(),
            permits: self.permits.clone(),
            recheck: recheck.clone(),
            rng: Rng::new(clock::now().0 ^ u64::from(state.id.0)),
            ours_said: false,
            was_out,
        };
        let handle = tokio::task::spawn_local(checker.run(first)).abort_handle();
        let old = self.tasks.borrow_mut().insert(state.id, Task { recheck, handle });
        if let Some(old) = old {
            old.handle.abort();
        }
    }

    /// Each resolves with the first result of a check started so far that `init = "wait"` asks
    /// for, or when its address is gone. Later checks are not waited for.
    pub fn take_firsts(&self) -> Vec<oneshot::Receiver<()>> {
        self.firsts.take().unwrap_or_default()
    }

    /// The address is no member any more.
    pub fn stop(&self, server: ServerId) {
        if let Some(task) = self.tasks.borrow_mut().remove(&server) {
            task.handle.abort();
        }
    }

    /// A worker could not connect: check at once.
    pub fn recheck(&self, server: ServerId) {
        if let Some(task) = self.tasks.borrow().get(&server) {
            task.recheck.notify_waiters();
        }
    }
}

struct Checker {
    state: Arc<ServerState>,
    check: Check,
    health: Health,
    limits: Limits,
    desk: Rc<Desk>,
    permits: Rc<Semaphore>,
    recheck: Rc<Notify>,
    rng: Rng,
    /// Our own failure was logged since the last real result.
    ours_said: bool,
    /// It comes out of maintenance, where it counted as down.
    was_out: bool,
}

impl Checker {
    async fn run(mut self, first: oneshot::Sender<()>) {
        let mut first = Some(first);
        loop {
            let started = Instant::now();
            let result = self.probe().await;
            self.on_result(result);
            if let Some(first) = first.take() {
                // Nobody waits for a member that came later.
                let _ = first.send(());
            }
            let next = started + self.jittered(self.check.every);
            tokio::select! {
                () = tokio::time::sleep_until(next.max(Instant::now() + GAP_MIN / 10)) => {}
                () = self.recheck.notified() => {
                    tokio::time::sleep_until(next.min(started + GAP_MIN)).await;
                }
            }
        }
    }

    async fn probe(&mut self) -> Result<String, Failure> {
        let pool = self.desk.plan_of(&self.state);
        let sources: Vec<_> = self.state.address.sources(&pool.source).collect();
        let source = sources.get(self.rng.below(sources.len() as u64) as usize).copied();
        let snapshot = self.desk.instance.snapshot();
        let tls = snapshot.fronts.pools[usize::from(self.state.pool.0)].tls.as_ref();
        let name = snapshot.server_name(self.state.id);
        let starttls = pool.tls.as_ref().is_some_and(|tls| tls.starttls_postgres);
        let tls = tls.filter(|_| self.check.tls);
        let host = snapshot.host_at(&self.state, self.check.port, tls.is_some());
        let target = Target {
            address: &self.state.address,
            check: &self.check,
            host: &host,
            send_proxy: pool.send_proxy,
            source,
            tls: tls.map(|tls| TargetTls { tls, name: &name, starttls }),
        };
        // The semaphore lives as long as this task and is never closed.
        let _permit = self.permits.acquire().await;
        probe::run(target).await
    }

    fn on_result(&mut self, result: Result<String, Failure>) {
        let (outcome, detail) = match result {
            Ok(detail) => (Outcome::Pass, detail),
            Err(Failure::Server(detail)) => (Outcome::Fail, detail),
            Err(Failure::Ours(detail)) => return self.on_our_failure(&detail),
        };
        self.ours_said = false;
        self.show(outcome == Outcome::Pass, detail.clone());
        let (health, change) = self.health.observe(outcome, self.limits);
        self.health = health;
        if let Some(change) = change {
            self.on_change(change, &detail);
        }
    }

    fn on_change(&self, change: Change, detail: &str) {
        let desk = &self.desk;
        let name = desk.describe(&self.state);
        match change {
            Change::FirstUp if !self.was_out => {
                desk.came_up(&self.state, false);
                desk.log.debug(format_args!("server {name} is up: {detail}"));
            }
            Change::FirstUp | Change::CameUp => {
                desk.came_up(&self.state, true);
                let text = format!("server {name} is up: {detail}");
                desk.log.info(&text);
                desk.instance.events.push(EventKind::ServerUp, text);
            }
            Change::FirstDown | Change::WentDown => {
                desk.went_down(&self.state);
                let text = format!("server {name} is down: {detail}");
                desk.log.warn(&text);
                desk.instance.events.push(EventKind::ServerDown, text);
            }
        }
    }

    /// C3.
    fn on_our_failure(&mut self, detail: &str) {
        if !std::mem::replace(&mut self.ours_said, true) {
            let name = self.desk.describe(&self.state);
            self.desk.log.warn(format_args!(
                "server {name} could not be checked, which does not count against it: {detail}"
            ));
        }
        self.show(self.health.is_up(), format!("not judged: {detail}"));
    }

    fn show(&self, ok: bool, detail: String) {
        let mut last = self.state.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(CheckResult { ok, detail, at: SystemTime::now() });
    }

    /// Within a tenth of `span`, so that a fleet of balancers does not check in step.
    fn jittered(&mut self, span: Duration) -> Duration {
        let tenth = span / 10;
        let fifth = u64::try_from(tenth.as_nanos() * 2).unwrap_or(u64::MAX - 1);
        tenth * 9 + Duration::from_nanos(self.rng.below(fifth + 1))
    }
}
