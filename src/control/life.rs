//! The life of the process on the control thread.
//!
//! ```text
//! bound ─▶ Starting ── first checks ──▶ Ready ── told to stop ──▶ Draining ──▶ Stopped
//!              └───────────────────── told to stop ──────────────────┘
//! ```
//!
//! Told once: stop accepting, let sessions end, for at most `drain_timeout`. Told twice, or in
//! a hurry: end at once.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sluicegate_l7::policy::keyring::Schedule;
use sluicegate_l7::policy::spec::{Authority, Credential, JwtKeys, Kind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::checks::Checks;
use super::desk::Desk;
use super::fetch::{Names, Source};
use super::instance::Phase;
use super::jwks::{Jwks, keep_fetched};
use super::membership::names_of;
use super::notice::Notice;
use super::start::Started;
use super::{Command, ServeError, ServeOptions, admin, certificates, dns, notify, pulse};
use crate::config::plan::{BindAddr, HttpListener, Listener, Plan, SniRoutes, Verify};
use crate::observe::events::EventKind;
use crate::observe::status::mode_word;
use crate::observe::view::bind_text;
use crate::runtime::mail::Mail;
use crate::runtime::worker::pairs_max;

/// How long workers may take to end once they were told to at once.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// How long the start gives names to resolve: enough for a hosts file or a resolver next door,
/// so that the first client of a pool of names finds servers; too short to be waiting for DNS.
const NAMES_GRACE: Duration = Duration::from_millis(50);

/// How long a stdout that nobody reads may hold up the start.
const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(1);

/// Runs to the end.
///
/// # Errors
/// When something that the process cannot go on without failed while it ran.
pub(super) async fn live(
    started: Started,
    options: &ServeOptions,
    mut commands: mpsc::Receiver<Command>,
) -> Result<(), ServeError> {
    let Started { instance, mut workers, admin, access_log } = started;
    let desk = Rc::new(Desk::new(instance.clone(), options.log.clone()));
    let checks = Rc::new(Checks::new(desk.clone(), probes_max()));
    tokio::task::spawn_local(hear(desk.clone(), checks.clone()));
    if let (Some(socket), Some(plan)) = (admin, &instance.plan.admin) {
        tokio::task::spawn_local(admin::serve(socket, plan.clone(), desk.clone(), checks.clone()));
    }
    tokio::task::spawn_local(pulse::watch(desk.clone()));
    tokio::task::spawn_local(certificates::watch(desk.clone()));
    resolve_names(&desk, &checks);
    fetch_keys(&desk);
    let early = tokio::select! {
        () = first_round(&desk, &checks) => None,
        command = commands.recv() => Some(command.unwrap_or(Command::StopNow)),
    };
    let command = if let Some(command) = early {
        command
    } else {
        get_ready(&desk, options).await;
        serve(&desk, &workers, &mut commands).await
    };
    drain(&desk, command, &mut commands).await;
    end_workers(&desk, &mut workers).await;
    // It takes up to its deadline; nothing else is left to do.
    let _ = tokio::task::spawn_blocking(move || access_log.finish()).await;
    farewell(&desk)
}

/// Removes socket files and says how it went.
fn farewell(desk: &Desk) -> Result<(), ServeError> {
    let instance = &desk.instance;
    for bind in instance.bound.iter().flatten().chain(&instance.admin) {
        if let BindAddr::Unix(path) = bind {
            // Nobody listens there any more; the next start would remove it too.
            let _ = std::fs::remove_file(path);
        }
    }
    instance.set_phase(Phase::Stopped);
    if let Some(error) = desk.worker_failed.take() {
        return Err(ServeError::Failed(error));
    }
    desk.log.info("stopped");
    Ok(())
}

/// Probes at once: a quarter of the descriptors kept for control when there are few, and no
/// more than a fleet needs when there are many.
fn probes_max() -> usize {
    (pairs_max() as usize / 16).clamp(16, 256)
}

fn resolve_names(desk: &Rc<Desk>, checks: &Rc<Checks>) {
    let plan = desk.instance.plan.clone();
    let names: Vec<_> = names_of(&plan).collect();
    if names.is_empty() {
        return;
    }
    match dns::resolver(&plan.runtime.dns) {
        Ok(resolver) => {
            for name in names {
                let task = dns::keep_resolved(name, resolver.clone(), desk.clone(), checks.clone());
                tokio::task::spawn_local(task);
            }
        }
        Err(error) => {
            desk.log.error(format_args!("no name can be resolved: {error}"));
            for name in names {
                desk.instance.membership.unresolved(name, error.clone());
                desk.name_answered(true);
            }
        }
    }
}

/// Keeps the keys of tokens up to date that are fetched.
fn fetch_keys(desk: &Rc<Desk>) {
    let mut names = None;
    let rules = Arc::clone(&desk.instance.snapshot().fronts.rules);
    for (at, spec) in rules.specs().iter().enumerate() {
        let Kind::Auth(auth) = &spec.kind else { continue };
        let Credential::Jwt(jwt) = &auth.by else { continue };
        let (JwtKeys::Url(from), Some(shared)) = (&jwt.keys, rules.keys(at)) else { continue };
        let name = format!("policy `{}`", spec.name);
        let verify = match &from.verify {
            Authority::System => Verify::System,
            Authority::File(path) => Verify::File(path.clone()),
            Authority::Anybody => Verify::Insecure,
        };
        match Source::new(&from.url, &verify) {
            Ok(source) => {
                let (refresh, grace, cooldown) = (from.refresh, from.grace, from.cooldown);
                let schedule = Schedule { refresh, grace, cooldown };
                let jwks = Jwks { name, source, schedule, timeout: from.timeout };
                let dns = &desk.instance.plan.runtime.dns;
                let names = names.get_or_insert_with(|| Names::new(dns)).clone();
                let task = keep_fetched(jwks, names, Arc::clone(shared), desk.log.clone());
                tokio::task::spawn_local(task);
            }
            Err(error) => {
                desk.log.error(format_args!("the keys of {name} cannot be fetched: {error}"));
            }
        }
    }
}

/// Starts the checks of all members and waits for the results that `init = "wait"` asks for.
async fn first_round(desk: &Desk, checks: &Checks) {
    for member in desk.instance.snapshot().pools.iter().flat_map(|pool| &pool.members) {
        checks.start(&member.state);
    }
    let _ = timeout(NAMES_GRACE, desk.names_answered()).await;
    let pools = &desk.instance.plan.pools;
    let longest = pools.iter().filter_map(|pool| pool.check.as_ref()).map(|check| check.timeout);
    let deadline = Instant::now() + longest.max().unwrap_or_default();
    for first in checks.take_firsts() {
        if timeout_at(deadline, first).await.is_err() {
            desk.log.warn("not every server was checked within its timeout; starting anyway");
            return;
        }
    }
}

/// Announces, then accepts: log lines of the first sessions come after `ready`. Clients that
/// come meanwhile are in the backlog already.
async fn get_ready(desk: &Desk, options: &ServeOptions) {
    if options.announce {
        let lines = announcement(&desk.instance.plan, &desk.instance.bound);
        let print = move || {
            use std::io::Write;
            let mut stdout = std::io::stdout().lock();
            // Nobody may be reading, which is fine.
            let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
        };
        let printed = tokio::task::spawn_blocking(print);
        if timeout(ANNOUNCE_DEADLINE, printed).await.is_err() {
            desk.log.warn("stdout takes nothing; serving anyway");
        }
    }
    desk.post_all(|| Mail::Accept);
    desk.instance.set_phase(Phase::Ready);
    desk.instance.events.push(EventKind::Ready, "ready");
    tell_manager(desk, "READY=1");
}

/// One line a listener, then `ready`.
fn announcement(plan: &Plan, bound: &[Vec<BindAddr>]) -> String {
    let mut lines = String::new();
    for (listener, bound) in plan.listeners.iter().zip(bound) {
        let on: Vec<_> = bound.iter().map(bind_text).collect();
        let (name, on, mode) = (&listener.name, on.join(", "), mode_word(listener.mode));
        let tls = if listener.tls.is_some() { ", tls" } else { "" };
        let to = destination(plan, listener);
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "listening {name} on {on} ({mode}{tls}) -> {to}");
    }
    lines + "ready\n"
}

/// Where a listener's clients go, as far as it is not theirs to say.
fn destination(plan: &Plan, listener: &Listener) -> String {
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let pool = listener.pool.and_then(|pool| plan.pools.get(pool));
    let pool = pool.map(|pool| {
        let servers = counted(pool.servers.len(), "server");
        format!("pool {}, {servers}", pool.name)
    });
    // The listener's own pool is the last route, and has no name.
    let of_http =
        |http: &HttpListener| http.routes.iter().filter(|one| !one.name.is_empty()).count();
    let routes = listener.http.as_ref().map_or(0, of_http);
    let of_sni =
        |sni: &SniRoutes| sni.exact.len() + sni.wildcard.len() + usize::from(sni.any.is_some());
    match (pool, listener.sni.as_ref(), routes) {
        (_, Some(sni), _) => counted(of_sni(sni), "name"),
        (Some(pool), _, 0) => pool,
        (Some(pool), _, routes) => format!("{}, else {pool}", counted(routes, "route")),
        (None, _, routes) => counted(routes, "route"),
    }
}

fn tell_manager(desk: &Desk, state: &str) {
    if let Err(error) = notify::notify(state) {
        desk.log.warn(format_args!("the service manager was not told {state}: {error}"));
    }
}

/// Serves until told to stop, or until it cannot.
async fn serve(
    desk: &Desk,
    workers: &[JoinHandle<()>],
    commands: &mut mpsc::Receiver<Command>,
) -> Command {
    loop {
        tokio::select! {
            command = commands.recv() => return command.unwrap_or(Command::StopNow),
            () = sleep(Duration::from_secs(1)) => desk.keep_house(),
            () = desk.worker_news.notified() => {}
        }
        if let Some(id) = workers.iter().position(JoinHandle::is_finished) {
            // It ended without being told: a panic outside of any session, or its ring.
            let mut failed = desk.worker_failed.borrow_mut();
            failed.get_or_insert_with(|| format!("worker {id} ended by itself"));
        }
        if let Some(error) = &*desk.worker_failed.borrow() {
            desk.log.error(format_args!("{error}; stopping, because its clients are not served"));
            desk.instance.events.push(EventKind::WorkerFailed, error);
            return Command::Stop;
        }
    }
}

/// Lets sessions end.
async fn drain(desk: &Desk, first: Command, commands: &mut mpsc::Receiver<Command>) {
    let runtime = &desk.instance.plan.runtime;
    desk.instance.set_phase(Phase::Draining);
    desk.instance.events.push(EventKind::Draining, "draining");
    tell_manager(desk, "STOPPING=1");
    let mut timed_out = false;
    if first == Command::Stop {
        desk.log.info(format_args!(
            "stopping: sessions have {:?} to end; a second signal ends them at once",
            runtime.timeout_drain
        ));
        let delayed = async {
            if let Some(delay) = runtime.delay_shutdown {
                sleep(delay).await;
            }
            desk.post_all(|| Mail::Drain);
            timed_out = timeout(runtime.timeout_drain, workers_done(desk)).await.is_err();
        };
        tokio::select! {
            () = delayed => {}
            _ = commands.recv() => desk.log.info("told again: ending at once"),
        }
    }
    if desk.workers_done.get() < desk.instance.shared.workers.len() {
        desk.post_all(|| Mail::Stop { timed_out });
        if timeout(STOP_DEADLINE, workers_done(desk)).await.is_err() {
            desk.log.warn("not every worker ended in time");
        }
    }
}

async fn workers_done(desk: &Desk) {
    while desk.workers_done.get() < desk.instance.shared.workers.len() {
        desk.worker_news.notified().await;
    }
}

/// Waits for the threads of workers that said they were done.
async fn end_workers(desk: &Desk, workers: &mut Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + STOP_DEADLINE;
    while !workers.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    for (id, worker) in workers.drain(..).enumerate() {
        if worker.is_finished() && worker.join().is_err() {
            let mut failed = desk.worker_failed.borrow_mut();
            failed.get_or_insert_with(|| format!("worker {id} panicked"));
        }
    }
}

/// Acts on what workers tell, one notice at a time.
async fn hear(desk: Rc<Desk>, checks: Rc<Checks>) {
    let notices = &desk.instance.shared.notices;
    loop {
        match notices.next().await {
            Notice::ConnectFailed { server, .. } => checks.recheck(server),
            Notice::Outlier { server } => desk.consider_ejection(server),
            Notice::Breaker { pool, state } => desk.tell_breaker(pool, state),
            Notice::Old(snapshot) => drop(snapshot),
            Notice::WorkerDone { worker } => {
                desk.log.debug(format_args!("worker {worker} has no session left"));
                desk.workers_ended.borrow_mut().insert(worker);
                desk.workers_done.set(desk.workers_done.get() + 1);
                desk.worker_news.notify_one();
            }
            Notice::WorkerFailed { worker, error } => {
                let mut failed = desk.worker_failed.borrow_mut();
                failed.get_or_insert_with(|| format!("worker {worker}: its ring failed: {error}"));
                drop(failed);
                desk.workers_ended.borrow_mut().insert(worker);
                desk.workers_done.set(desk.workers_done.get() + 1);
                desk.worker_news.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn each_listener_is_announced_with_its_addresses_and_pool() {
        let plan = fixture::plan(&["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
        let bound = vec![vec![BindAddr::Ip("0.0.0.0:5432".parse().unwrap())]];
        let wanted = "listening front on 0.0.0.0:5432 (tcp) -> pool back, 2 servers\nready\n";
        assert_eq!(announcement(&plan, &bound), wanted);
    }
}
