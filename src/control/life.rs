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
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::checks::Checks;
use super::commands::{Commands, Teller};
use super::desk::Desk;
use super::followers::Followers;
use super::instance::Phase;
use super::notice::Notice;
use super::reload::Reloader;
use super::start::{AdminSocket, Started};
use super::upgrade::Upgrader;
use super::{Command, Reply, ServeError, ServeOptions, admin, file_watch, notify, pulse};
use crate::config::plan::{BindAddr, HttpListener, Listener, Plan, SniRoutes};
use crate::observe::clock;
use crate::observe::events::EventKind;
use crate::observe::status::mode_word;
use crate::observe::view::bind_text;
use crate::runtime::mail::Mail;
use crate::runtime::worker::pairs_max;

/// How long workers may take to end once they were told to at once.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Between two looks at what was lost to a full mailbox, or has no moment of its own.
const HOUSE_PERIOD: Duration = Duration::from_secs(1);

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
    sender: Teller,
    mut commands: Commands,
) -> Result<(), ServeError> {
    let Started { instance, sockets, mut workers, admin, access_log } = started;
    let desk = Rc::new(Desk::new(instance.clone(), options.log.clone()));
    let checks = Rc::new(Checks::new(desk.clone(), probes_max()));
    tokio::task::spawn_local(hear(desk.clone(), checks.clone()));
    let followers = Rc::new(Followers::new(desk.clone(), checks.clone()));
    let source = options.source.clone();
    let reloader = Rc::new(Reloader::new(desk.clone(), followers.clone(), source, sockets));
    let admin_copy = admin.as_ref().and_then(AdminSocket::copy);
    let admin = admin.map(|socket| {
        let serving = admin::serve(socket, desk.clone(), checks.clone(), sender.clone());
        tokio::task::spawn_local(serving).abort_handle()
    });
    let told_again = sender.clone();
    let upgrader = Upgrader::new(desk.clone(), reloader.clone(), admin_copy, sender.clone());
    tokio::task::spawn_local(pulse::watch(desk.clone()));
    followers.follow();
    tokio::task::spawn_local(file_watch::watch(desk.clone(), reloader.clone(), sender));
    let starting = "it is starting; try again when it is ready";
    let mut missed = false;
    let early = tokio::select! {
        () = first_round(&desk, &checks) => None,
        command = told_to_stop(&mut commands, starting, Some(&mut missed)) => Some(command),
    };
    let command = if let Some(command) = early {
        command
    } else {
        get_ready(&desk, options).await;
        reloader.finish_inheriting();
        if missed {
            // Nobody waits for an answer, and nobody says it again.
            reload(&desk, &reloader, None).await;
        }
        serve(&desk, &reloader, &upgrader, &workers, &mut commands).await
    };
    let command = match (upgrader.give_up(), command) {
        // Its word has been overtaken by one to stop, which comes behind it.
        (Some(pid), stop @ (Command::Stop | Command::StopNow)) => {
            // Full of others that say so.
            let _ = told_again.try_send(stop);
            Command::HandedOver { pid }
        }
        (_, command) => command,
    };
    drop((upgrader, told_again));
    if let (Command::HandedOver { .. }, Some(admin)) = (&command, admin) {
        admin.abort();
    }
    let handed_over = matches!(command, Command::HandedOver { .. });
    let mut files = reloader.release_sockets();
    if handed_over {
        files.clear(); // they are another process's now
    }
    tokio::select! {
        () = drain(&desk, command, &mut commands, files) => {}
        () = keep_house(&desk) => {}
    }
    end_workers(&desk, &mut workers).await;
    // It takes up to its deadline; nothing else is left to do.
    let _ = tokio::task::spawn_blocking(move || access_log.finish()).await;
    farewell(&desk, handed_over)
}

/// Removes the socket file of the admin API and says how it went.
fn farewell(desk: &Desk, handed_over: bool) -> Result<(), ServeError> {
    let instance = &desk.instance;
    if let (Some(BindAddr::Unix(path)), false) = (&instance.admin, handed_over) {
        // Nobody listens there any more; the next start would remove it too.
        let _ = std::fs::remove_file(path);
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

/// Starts the checks of all members and waits for the results that `init = "wait"` asks for.
async fn first_round(desk: &Desk, checks: &Checks) {
    for member in desk.instance.snapshot().pools.iter().flat_map(|pool| &pool.members) {
        checks.start(&member.state);
    }
    let _ = timeout(NAMES_GRACE, desk.names_answered()).await;
    let pools = &desk.instance.plan().pools;
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
        let lines = announcement(&desk.instance.plan(), &desk.instance.bound());
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
    // After an upgrade the main process is another one.
    tell_manager(desk, &format!("READY=1\nMAINPID={}", std::process::id()));
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
    reloader: &Reloader,
    upgrader: &Upgrader,
    workers: &[JoinHandle<()>],
    commands: &mut Commands,
) -> Command {
    loop {
        tokio::select! {
            command = commands.next() => match command {
                Command::Reload(Some(reply)) if upgrader.is_busy() => {
                    let _ = reply.send(Err("an upgrade is under way"));
                }
                Command::Reload(reply) => reload(desk, reloader, reply).await,
                Command::Upgrade => upgrader.begin(),
                command => return command,
            },
            () = sleep(HOUSE_PERIOD) => desk.keep_house(),
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

/// Reloads; a service manager hears of it, and whoever asked is told how it went.
async fn reload(desk: &Desk, reloader: &Reloader, reply: Reply) {
    let now = clock::now().0 / 1_000;
    tell_manager(desk, &format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    let done = reloader.reload().await;
    // Whoever moves the log's file away says so by SIGHUP, whatever the configuration is like.
    desk.instance.log_state.reopen();
    tell_manager(desk, "READY=1");
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(Ok(done));
    }
}

/// The next command to stop; reloads are refused for `why`. `missed`: whether there was one that
/// nobody waits for.
async fn told_to_stop(
    commands: &mut Commands,
    why: &'static str,
    mut missed: Option<&mut bool>,
) -> Command {
    loop {
        match commands.next().await {
            Command::Reload(Some(reply)) => drop(reply.send(Err(why))),
            Command::Reload(None) => {
                if let Some(missed) = &mut missed {
                    **missed = true;
                }
            }
            Command::Upgrade | Command::HandedOver { .. } => {}
            command => return command,
        }
    }
}

/// Until whatever is beside it has ended: sessions that are left may live for days.
async fn keep_house(desk: &Desk) {
    loop {
        sleep(HOUSE_PERIOD).await;
        desk.keep_house();
    }
}

/// Lets sessions end. `files` go when nobody is let in any more.
async fn drain(desk: &Desk, first: Command, commands: &mut Commands, mut files: Vec<PathBuf>) {
    desk.instance.set_phase(Phase::Draining);
    desk.instance.events.push(EventKind::Draining, "draining");
    let mut timed_out = false;
    match first {
        Command::HandedOver { pid } => {
            desk.handed_over.set(true);
            desk.log.info(format_args!(
                "process {pid} has taken over; this one serves the sessions it has to their end"
            ));
            desk.post_all(|| Mail::Leave);
            tokio::select! {
                () = workers_done(desk) => {}
                command = told_to_stop(commands, "another process has taken over", None) => {
                    if matches!(command, Command::Stop) {
                        timed_out = drain_in_time(desk, commands, &mut files).await;
                    }
                }
            }
        }
        Command::Stop => {
            tell_manager(desk, "STOPPING=1");
            timed_out = drain_in_time(desk, commands, &mut files).await;
        }
        _ => tell_manager(desk, "STOPPING=1"),
    }
    leave(&mut files);
    if desk.workers_ended.borrow().len() < desk.instance.shared.workers.len() {
        desk.post_all(|| Mail::Stop { timed_out });
        if timeout(STOP_DEADLINE, workers_done(desk)).await.is_err() {
            desk.log.warn("not every worker ended in time");
        }
    }
}

/// Removes socket files. Later they may be another process's.
fn leave(files: &mut Vec<PathBuf>) {
    for path in files.drain(..) {
        let _ = std::fs::remove_file(path);
    }
}

/// Lets sessions end, for as long as the configuration says. Whether that was too short.
async fn drain_in_time(desk: &Desk, commands: &mut Commands, files: &mut Vec<PathBuf>) -> bool {
    let runtime = &desk.instance.plan().runtime;
    desk.log.info(format_args!(
        "stopping: sessions have {:?} to end; a second signal ends them at once",
        runtime.timeout_drain
    ));
    let delayed = async {
        if let Some(delay) = runtime.delay_shutdown {
            sleep(delay).await;
        }
        leave(files);
        desk.post_all(|| Mail::Drain);
        timeout(runtime.timeout_drain, workers_done(desk)).await.is_err()
    };
    // When its main process has ended, a service manager tells all others once more.
    let is_patient = desk.handed_over.get() && notify::has_manager();
    let again = async {
        while matches!(told_to_stop(commands, "it is stopping", None).await, Command::Stop) {
            if !is_patient {
                return;
            }
        }
    };
    tokio::select! {
        timed_out = delayed => timed_out,
        () = again => {
            desk.log.info("told again: ending at once");
            false
        }
    }
}

async fn workers_done(desk: &Desk) {
    while desk.workers_ended.borrow().len() < desk.instance.shared.workers.len() {
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
            Notice::Store { worker, pool, decides } => desk.tell_store(worker, pool, decides),
            Notice::Old(snapshot) => drop(snapshot),
            Notice::WorkerDone { worker } => {
                desk.log.debug(format_args!("worker {worker} has no session left"));
                desk.workers_ended.borrow_mut().insert(worker);
                desk.worker_news.notify_one();
            }
            Notice::WorkerFailed { worker, error } => {
                let mut failed = desk.worker_failed.borrow_mut();
                failed.get_or_insert_with(|| format!("worker {worker}: its ring failed: {error}"));
                drop(failed);
                desk.workers_ended.borrow_mut().insert(worker);
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
