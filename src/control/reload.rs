//! A new configuration under the running process.
//!
//! ```text
//! read, check, seat, build (a blocking thread) ─▶ bind what is new ─▶ membership ─▶ workers
//! ```
//!
//! Up to the last arrow anything that is wrong ends it, and nothing has changed. A worker takes
//! the new snapshot between two events; then its doors change. Sessions stay on what they have.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::desk::Desk;
use super::followers::Followers;
use super::upgrade::Handed;
use crate::config::plan::Plan;
use crate::config::{self, Loaded, Outline};
use crate::fronts::Fronts;
use crate::observe::access_log;
use crate::observe::events::EventKind;
use crate::observe::view::TlsKept;
use crate::registry::Snapshot;
use crate::runtime::listen::Sockets;
use crate::runtime::mail::Mail;

/// What came of one reload.
#[derive(Clone, Debug)]
pub struct Reload {
    pub at: SystemTime,
    /// What was changed, a line each; or why nothing was: the report that `check` gives, or a
    /// sentence.
    pub outcome: Result<Vec<String>, String>,
    /// Settings that only a restart or an upgrade applies.
    pub pending: Vec<String>,
    /// Lints of the configuration, as `check` prints them; empty if there are none.
    pub warnings: String,
}

/// The file that the configuration came from.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    /// What it said.
    pub outline: Outline,
    /// It and what it includes.
    pub files: Vec<PathBuf>,
    /// By which `include` may come to find more of them.
    pub patterns: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Reloader {
    desk: Rc<Desk>,
    followers: Rc<Followers>,
    /// `None`: there is no file.
    source: RefCell<Option<Source>>,
    /// What else was read for a configuration that was not taken: a change there may mend it.
    refused: RefCell<(Vec<PathBuf>, Vec<PathBuf>)>,
    /// The plan of the start: settings that are read once are those of this one.
    started: Arc<Plan>,
    sockets: RefCell<Sockets>,
}

/// A configuration that was read and built, and is not in use yet.
struct Built {
    plan: Arc<Plan>,
    fronts: Arc<Fronts>,
    source: Source,
    warnings: String,
    pending: Vec<String>,
}

impl Reloader {
    pub fn new(
        desk: Rc<Desk>,
        followers: Rc<Followers>,
        source: Option<Source>,
        sockets: Sockets,
    ) -> Self {
        let started = desk.instance.plan();
        let (source, sockets) = (RefCell::new(source), RefCell::new(sockets));
        let refused = RefCell::default();
        Self { desk, followers, source, refused, started, sockets }
    }

    /// Reads the file again and applies what it says.
    pub async fn reload(&self) -> Arc<Reload> {
        let done = match self.build().await {
            Ok(built) => self.apply(built),
            Err(error) => Err(error),
        };
        let (outcome, pending, warnings) = match done {
            Ok((changes, pending, warnings)) => (Ok(changes), pending, warnings),
            Err(error) => (Err(error), Vec::new(), String::new()),
        };
        if outcome.is_err() {
            self.note_refused().await;
        } else {
            self.refused.take();
            self.tell_unused();
            self.desk.heard().await;
            let instance = &self.desk.instance;
            instance.shared.forget_retired(&instance.plan());
        }
        let reload = Arc::new(Reload { at: SystemTime::now(), outcome, pending, warnings });
        self.desk.instance.note_reload(reload.clone());
        self.tell(&reload);
        reload
    }

    /// This process accepts: closes what it was handed and does not want, and lets the one
    /// before it go.
    pub fn finish_inheriting(&self) {
        self.tell_unused();
        if let Some(successor) = self.sockets.borrow_mut().finish_inheriting() {
            successor.ready();
        }
    }

    /// Says where clients wait for nothing.
    fn tell_unused(&self) {
        for address in self.sockets.borrow().unused() {
            self.desk.log.warn(format_args!(
                "the service manager listens on {address} for this process, and no listener \
                 binds it: who connects there is not served"
            ));
        }
    }

    /// Descriptors of all listening sockets, to hand over.
    ///
    /// # Errors
    /// dup(2)'s.
    pub fn copies(&self) -> std::io::Result<Vec<Handed>> {
        self.sockets.borrow().copies(&self.desk.instance.plan())
    }

    /// The listening sockets are the workers' alone from now on; see [`Sockets::release`].
    pub fn release_sockets(&self) -> Vec<PathBuf> {
        self.sockets.borrow_mut().release()
    }

    /// The configuration's files, the first one that was named, and the patterns that may come
    /// to find more, also those of one that was refused; none if there are none.
    pub fn files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (source, refused) = (self.source.borrow(), self.refused.borrow());
        let both = source.as_ref().map(|source| {
            let files = source.files.iter().chain(&refused.0).cloned().collect();
            (files, source.patterns.iter().chain(&refused.1).cloned().collect())
        });
        both.unwrap_or_default()
    }

    /// Keeps in mind what was read for a configuration that was refused.
    async fn note_refused(&self) {
        let Some(path) = self.source.borrow().as_ref().map(|source| source.path.clone()) else {
            return;
        };
        let read = tokio::task::spawn_blocking(move || config::files(&path)).await;
        self.refused.replace(read.unwrap_or_default());
    }

    async fn build(&self) -> Result<Built, String> {
        let Some(path) = self.source.borrow().as_ref().map(|source| source.path.clone()) else {
            return Err("there is no configuration file to read again".into());
        };
        let (before, started) = (self.desk.instance.snapshot(), self.started.clone());
        let work = move || build(&path, &before, &started);
        let built = tokio::task::spawn_blocking(work).await;
        built.unwrap_or_else(|_| Err("reading the configuration panicked; this is a defect".into()))
    }

    fn apply(&self, built: Built) -> Result<(Vec<String>, Vec<String>, String), String> {
        let Built { plan, fronts, source, warnings, pending } = built;
        let (desk, instance) = (&self.desk, &self.desk.instance);
        instance
            .shared
            .prepare(&plan)
            .map_err(|error| format!("no thread for passwords: {error}"))?;
        let before = instance.plan();
        let workers = &instance.shared.workers;
        let rearranged = self.sockets.borrow_mut().rearrange(&plan, workers.len(), || {
            instance.membership.replan(&plan, &fronts).map_err(|error| error.0)
        });
        let (rearranged, (change, ended)) = rearranged?;
        for (server, was) in ended {
            desk.log.info(format_args!("reload: {server} is as the file says again, not {was:?}"));
        }
        desk.log.set_level(plan.log.level);
        instance.set_bound(rearranged.addresses);
        // All files were read anew, and all were good.
        instance.note_tls(|kept| *kept = TlsKept::default());
        // Every worker knows the new listeners before one of them lets a client in.
        desk.tell_membership(&change.snapshot);
        for (worker, doors) in workers.iter().zip(rearranged.doors) {
            desk.post(worker.id, Mail::Doors(doors));
        }
        self.followers.follow_checks(&before, &change);
        self.followers.follow();
        for state in &change.added {
            desk.release_waiters(state.pool);
        }
        let old = self.source.replace(Some(source));
        let new = self.source.borrow();
        let changes = old.zip(new.as_ref()).map(|(old, new)| old.outline.changes(&new.outline));
        Ok((changes.unwrap_or_default(), pending, warnings))
    }

    fn tell(&self, reload: &Reload) {
        let (desk, instance) = (&self.desk, &self.desk.instance);
        match &reload.outcome {
            Ok(changes) => {
                let count = match changes.len() {
                    0 => "nothing in the files has changed".to_owned(),
                    1 => "1 change".to_owned(),
                    count => format!("{count} changes"),
                };
                desk.log.info(format_args!("the configuration was reloaded: {count}"));
                for change in changes {
                    desk.log.info(format_args!("reload: {change}"));
                }
                for pending in &reload.pending {
                    desk.log.warn(format_args!("reload: {pending}"));
                }
                if !reload.warnings.is_empty() {
                    desk.log.warn(reload.warnings.trim_end());
                }
                instance
                    .events
                    .push(EventKind::Reloaded, format!("configuration reloaded: {count}"));
            }
            Err(error) => {
                let error = error.trim_end();
                desk.log.error(format_args!(
                    "the configuration was not reloaded, what was there before serves on:\n{error}"
                ));
                let first = error.lines().next().unwrap_or_default();
                instance
                    .events
                    .push(EventKind::ReloadFailed, format!("configuration not reloaded: {first}"));
            }
        }
    }
}

/// Everything that takes time or may wait for the disk.
fn build(path: &Path, before: &Snapshot, started: &Plan) -> Result<Built, String> {
    let loaded = config::load(path).map_err(|report| report.render(false))?;
    let Loaded { plan, warnings, files, patterns, outline } = loaded;
    let mut plan = plan.seated(&before.plan).map_err(|error| error.0)?;
    let pending = pending(&mut plan, &before.plan, started);
    if plan.log.access != before.plan.log.access {
        // Only a try: the writer opens it once the plan is in use.
        let access = &plan.log.access;
        access_log::open(access).map_err(|error| access_log::explain(access, &error))?;
    }
    let fronts = Fronts::after(&before.fronts, &plan).map_err(|error| error.to_string())?;
    let source = Source { path: path.to_owned(), outline, files, patterns };
    let warnings = warnings.render(false);
    Ok(Built { plan: Arc::new(plan), fronts: Arc::new(fronts), source, warnings, pending })
}

/// What of the new plan is read at the start alone; the running values stay in it.
fn pending(plan: &mut Plan, before: &Plan, started: &Plan) -> Vec<String> {
    let mut pending = Vec::new();
    let mut waits = |what: &str| {
        pending.push(format!("`{what}` is another one now, which a restart or an upgrade applies"));
    };
    if plan.runtime.workers != started.runtime.workers {
        plan.runtime.workers = started.runtime.workers;
        waits("runtime.workers");
    }
    if plan.runtime.engine != started.runtime.engine {
        plan.runtime.engine = started.runtime.engine;
        waits("runtime.engine");
    }
    if plan.runtime.max_conns != started.runtime.max_conns {
        plan.runtime.max_conns = started.runtime.max_conns;
        waits("runtime.max_conns");
    }
    if plan.admin.as_ref().map(|admin| &admin.bind) != started.admin.as_ref().map(|it| &it.bind) {
        waits("admin.bind");
        if keep_admin_address(plan, before, started) {
            waits("admin.token");
        }
    }
    pending
}

/// The admin API stays where the start has bound it, and does all else as it is told: a token that
/// was taken away opens nothing. True if the one in use stays too: it is asked for by the address
/// that stays, and not by the new one.
fn keep_admin_address(plan: &mut Plan, before: &Plan, started: &Plan) -> bool {
    let (Some(new), Some(running)) = (&mut plan.admin, &started.admin) else {
        // It comes or goes as a whole.
        plan.admin.clone_from(&before.admin);
        return false;
    };
    new.bind = running.bind.clone();
    if !new.bind.needs_token() || new.token.is_some() {
        return false;
    }
    let used = before.admin.as_ref();
    new.token = used.and_then(|admin| admin.token.clone());
    new.read_token = used.and_then(|admin| admin.read_token.clone());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Admin, BindAddr, Secret};
    use crate::control::fixture;

    fn with_admin(bind: &str, token: Option<&str>) -> Plan {
        let token = token.map(|token| Secret(token.to_owned()));
        let bind = BindAddr::Ip(bind.parse().unwrap());
        let admin = Admin { bind, token, read_token: None, hosts: Vec::new(), tls: None };
        Plan { admin: Some(admin), ..fixture::plan(&[]) }
    }

    /// Where the admin API is, its token, and what waits, after a reload from `before` to `plan`.
    fn after(mut plan: Plan, before: &Plan, started: &Plan) -> (String, String, usize) {
        let waiting = pending(&mut plan, before, started).len();
        let admin = plan.admin.unwrap();
        let token = admin.token.map(|Secret(token)| token).unwrap_or_default();
        (crate::observe::view::bind_text(&admin.bind), token, waiting)
    }

    #[test]
    fn another_admin_address_waits_and_another_token_does_not() {
        let started = with_admin("10.0.0.1:9901", Some("leaked"));
        let before = with_admin("10.0.0.1:9901", Some("fresh"));
        let moved = with_admin("10.0.0.1:9902", Some("freshest"));
        let here = "10.0.0.1:9901".to_owned();
        assert_eq!(after(moved, &before, &started), (here.clone(), "freshest".into(), 1));
        let mut gone = with_admin("10.0.0.1:9901", None);
        gone.admin = None;
        assert_eq!(after(gone, &before, &started), (here, "fresh".into(), 1), "not the leaked one");
    }

    #[test]
    fn an_admin_address_that_others_can_reach_keeps_its_token_until_it_moves() {
        let started = with_admin("10.0.0.1:9901", Some("leaked"));
        let before = with_admin("10.0.0.1:9901", Some("fresh"));
        let (here, fresh) = ("10.0.0.1:9901".to_owned(), "fresh".to_owned());
        let moved = with_admin("127.0.0.1:9901", None);
        assert_eq!(after(moved, &before, &started), (here, fresh, 2));
    }
}
