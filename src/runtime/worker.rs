//! One worker: a pinned thread with its own driver, sockets, timers and counters.
//!
//! One turn: enter the driver (wait for one completion or the next timer), step through what
//! completed, read the mailbox if it rang, look at the timers. A panic in a step ends the
//! session it was about; the loop goes on.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::budget::Budget;
use super::driver::{Completion, Driver, Interest};
use super::engine::Engine;
use super::epoll::Epoll;
use super::mail::{Mail, Mailbox};
use super::sys;
use super::time::Time;
use super::token::{Tag, Token};
use super::uring::{Uring, UringConfig};
use crate::config::plan::{Outlier, Plan};
use crate::control::notice::{Notice, Notices};
use crate::http::Passwords;
use crate::l4::gate::Gate;
use crate::limits::{ENTRIES_MAX, LimitTable, PerIp};
use crate::observe::clock::WallClock;
use crate::observe::counters::{ConnectResult, WorkerCounts};
use crate::observe::reason::Reason;
use crate::observe::record::SessionRecord;
use crate::observe::requests::RequestRecord;
use crate::registry::{LISTENERS_MAX, ListenerId, ServerState, Snapshot};

/// How the outside reaches a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    pub id: u16,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    pub mailbox: Mailbox,
    pub counts: Arc<WorkerCounts>,
}

/// A bound address, for as long as the process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// A bound and listening socket of one worker.
#[derive(Debug)]
pub struct Listening {
    pub id: SocketId,
    pub listener: ListenerId,
    pub fd: OwnedFd,
    pub unix: bool,
    /// A service manager listens on when we have ended: its queue is not to be shut.
    pub managed: bool,
}

/// What all workers and control have in common, made once at start.
#[derive(Debug)]
pub struct Shared {
    /// What every worker runs on.
    pub engine: Engine,
    pub notices: Notices,
    /// Ended sessions for the access log, one queue a worker.
    pub records: Vec<ArrayQueue<SessionRecord>>,
    /// Ended requests, likewise.
    pub requests: Vec<ArrayQueue<RequestRecord>>,
    /// Every worker, by id.
    pub workers: Vec<WorkerHandle>,
    /// Descriptor pairs left for sessions.
    pub budget: Arc<Budget>,
    /// By listener: its table of client addresses, once a limit needs one.
    per_ip: Box<[OnceLock<PerIp>]>,
    /// What policies have let pass, over all workers.
    pub limits: LimitTable,
    /// Works out hashes of passwords.
    pub passwords: Passwords,
    /// From the monotonic clock to that of the wall, in nanoseconds. Control keeps it right.
    wall: AtomicI64,
}

/// Records that wait for the log writer, per worker: a second of 8,000 sessions.
pub const RECORDS_MAX: usize = 8_192;

/// Descriptors kept back for control: admin, probes, logs, rings, listeners.
const DESCRIPTORS_RESERVED: u64 = 64;

impl Shared {
    /// Mailboxes, counters and limits for one worker per entry of `cpus`.
    ///
    /// # Errors
    /// When the kernel refuses an eventfd.
    pub fn new(plan: &Plan, cpus: &[Option<usize>], engine: Engine) -> io::Result<Self> {
        let worker = |(id, cpu): (usize, &Option<usize>)| {
            Ok(WorkerHandle {
                id: id as u16,
                cpu: *cpu,
                mailbox: Mailbox::new()?,
                counts: Arc::new(WorkerCounts::default()),
            })
        };
        let workers: io::Result<Vec<_>> = cpus.iter().enumerate().map(worker).collect();
        let shared = Self {
            engine,
            notices: Notices::default(),
            records: cpus.iter().map(|_| ArrayQueue::new(RECORDS_MAX)).collect(),
            requests: cpus.iter().map(|_| ArrayQueue::new(RECORDS_MAX)).collect(),
            workers: workers?,
            budget: Arc::new(Budget::new(pairs_max(), plan.runtime.max_conns)),
            per_ip: (0..LISTENERS_MAX).map(|_| OnceLock::new()).collect(),
            limits: LimitTable::new(sys::secret()),
            passwords: Passwords::default(),
            wall: AtomicI64::new(WallClock::read().offset_ns()),
        };
        shared.prepare(plan)?;
        Ok(shared)
    }

    /// Makes ready what the limits of a plan need, before a worker has it.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn prepare(&self, plan: &Plan) -> io::Result<()> {
        for (listener, table) in plan.listeners.iter().zip(&self.per_ip) {
            if PerIp::is_needed(&listener.limit) {
                table.get_or_init(|| PerIp::new(ENTRIES_MAX, sys::secret()));
            }
        }
        for (id, policy) in plan.policies.iter().enumerate().filter(|(_, one)| !one.retired) {
            if let Some(entries) = policy.entries() {
                self.limits.set_entries(id as u16, entries);
            }
        }
        if plan.consumers.iter().any(|one| one.basic.is_some()) {
            self.passwords.start()?;
        }
        Ok(())
    }

    /// Drops what was counted for policies that are in the file no more, once no worker has a
    /// plan with them.
    pub fn forget_retired(&self, plan: &Plan) {
        for (id, policy) in plan.policies.iter().enumerate() {
            if policy.retired {
                self.limits.forget(id as u16);
            }
        }
    }

    /// The table of client addresses of a listener, if a limit has needed one.
    #[must_use]
    pub fn per_ip(&self, listener: ListenerId) -> Option<&PerIp> {
        self.per_ip.get(usize::from(listener.0))?.get()
    }

    /// What to add to the monotonic clock for that of the wall, in nanoseconds.
    #[must_use]
    pub fn wall(&self) -> i64 {
        self.wall.load(Ordering::Relaxed)
    }

    /// Compares both clocks again: the wall's may have been stepped.
    pub fn read_wall(&self) {
        self.wall.store(WallClock::read().offset_ns(), Ordering::Relaxed);
    }
}

impl Shared {
    /// A server failed a client: so many times in a row may eject it. After a failed connect it
    /// is checked at once.
    pub fn suspect(
        &self,
        server: &ServerState,
        outlier: Option<Outlier>,
        connect: Option<ConnectResult>,
    ) {
        let in_row = server.errors_in_row.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(result) = connect {
            self.notices.post(Notice::ConnectFailed { server: server.id, result });
        }
        if outlier.is_some_and(|outlier| in_row >= outlier.errors.get()) {
            self.notices.post(Notice::Outlier { server: server.id });
        }
    }
}

/// Sessions that the descriptor limit allows: two descriptors each.
#[must_use]
pub fn pairs_max() -> u32 {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    sessions_for(limit.map_or(1024, |(soft, _)| soft))
}

/// Sessions that `descriptors` carry, with those kept back for control taken off; at least one.
#[must_use]
pub fn sessions_for(descriptors: u64) -> u32 {
    u32::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2).unwrap_or(u32::MAX).max(1)
}

/// Everything a worker starts with.
#[derive(Debug)]
pub struct Setup {
    pub id: u16,
    pub listening: Vec<Listening>,
    pub snapshot: Arc<Snapshot>,
    pub shared: Arc<Shared>,
    /// Accept only after [`Mail::Accept`] (first checks are still to come).
    pub wait_for_accept: bool,
    /// Sizes of its memory, and of the ring if it has one; usually [`ring_config`]'s, tests
    /// starve it.
    pub ring: UringConfig,
}

/// Starts the worker's thread. It ends after [`Mail::Drain`] or [`Mail::Stop`], and says so
/// with a notice.
///
/// # Errors
/// When the thread cannot be made, or the kernel refuses the driver (a ring:
/// [`super::uring::explain`]).
pub fn spawn(setup: Setup) -> io::Result<JoinHandle<()>> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let id = setup.id;
    let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
        if let Some(cpu) = setup.shared.workers[usize::from(id)].cpu {
            pin(cpu);
        }
        // A ring belongs to the thread that makes it.
        match setup.shared.engine {
            Engine::Uring => work(Uring::new(setup.ring), setup, ready),
            Engine::Epoll => {
                let UringConfig { sizes, pipes_max, pipe_bytes, .. } = setup.ring;
                work(Epoll::new(sizes, pipes_max, pipe_bytes), setup, ready);
            }
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker died at its start")))?;
    Ok(thread)
}

/// The thread, once it has its driver, or knows that it gets none.
fn work(driver: io::Result<impl Driver>, setup: Setup, ready: SyncSender<io::Result<()>>) {
    match driver {
        Ok(driver) => {
            // Whoever started us waits for this.
            let _ = ready.send(Ok(()));
            drop(ready);
            Worker::new(driver, setup).run();
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        // A CPU that was taken away since: running unpinned is the better half.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// The ring's sizes; with few descriptors, few pipes.
#[must_use]
pub fn ring_config() -> UringConfig {
    let mut config = UringConfig::default();
    config.pipes_max = config.pipes_max.min((pairs_max() / 64).max(1) as u16);
    config
}

struct Worker<D: Driver> {
    gate: Gate<D>,
    id: u16,
    shared: Arc<Shared>,
    mailbox: Mailbox,
    completions: Vec<Completion>,
}

const MAILBOX: Token = Token::new(Tag::Mailbox, 0, 0, 0);

impl<D: Driver> Worker<D> {
    fn new(driver: D, setup: Setup) -> Self {
        let Setup { id, listening, snapshot, shared, wait_for_accept, ring: _ } = setup;
        let mailbox = shared.workers[usize::from(id)].mailbox.clone();
        let seed = sys::secret()[0];
        let mut gate = Gate::new(driver, id, snapshot, Arc::clone(&shared), seed);
        gate.add_doors(listening);
        gate.driver.submit_poll(mailbox.wake_fd(), Interest::Readable, MAILBOX);
        if !wait_for_accept {
            gate.open_doors();
        }
        Self { gate, id, shared, mailbox, completions: Vec::with_capacity(4096) }
    }

    fn run(mut self) {
        let notice = match self.turn_until_done() {
            Ok(()) => Notice::WorkerDone { worker: self.id },
            Err(error) => Notice::WorkerFailed { worker: self.id, error: error.to_string() },
        };
        self.shared.notices.post(notice);
    }

    fn turn_until_done(&mut self) -> io::Result<()> {
        loop {
            while !self.gate.is_done() {
                self.turn()?;
            }
            // A client that another worker has handed over at the last moment is served here.
            self.mailbox.close();
            self.empty_mailbox();
            if self.gate.is_done() {
                return Ok(());
            }
            self.mailbox.reopen();
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        let worked = Time(sys::monotonic_ns()).since(self.gate.driver.now());
        self.gate.counts.busy_ns.add(worked.as_nanos() as u64);
        self.gate.counts.turns.add(1);
        let deadline = self.gate.deadline();
        self.gate.driver.turn(deadline, &mut completions)?;
        self.gate.begin_turn(completions.len());
        for &completion in &completions {
            if completion.token.tag() == Tag::Mailbox {
                self.read_mail();
                continue;
            }
            let step = AssertUnwindSafe(|| self.gate.step(completion));
            if catch_unwind(step).is_err() {
                self.confine(completion.token);
            }
        }
        completions.clear();
        self.completions = completions;
        // A defect on a timer has no token; the slot's next completion or timer meets it.
        let tick = AssertUnwindSafe(|| self.gate.tick());
        if catch_unwind(tick).is_err() {
            self.gate.counts.panics.add(1);
        }
        let buffers = self.gate.driver.buffers();
        let overflow = buffers.overflow_bytes();
        self.gate.counts.set_overflow(overflow);
        Ok(())
    }

    /// Ends the session whose step panicked; if even that panics, it stays as it is.
    fn confine(&mut self, token: Token) {
        let poison = AssertUnwindSafe(|| self.gate.poison(token));
        if catch_unwind(poison).is_err() {
            self.gate.counts.panics.add(1);
        }
    }

    fn read_mail(&mut self) {
        sys::eventfd_clear(self.mailbox.wake_fd().0);
        let wake = self.mailbox.wake_fd();
        self.gate.driver.submit_poll(wake, Interest::Readable, MAILBOX);
        self.empty_mailbox();
    }

    fn empty_mailbox(&mut self) {
        while let Some(mail) = self.mailbox.take() {
            let read = AssertUnwindSafe(|| self.on_mail(mail));
            if catch_unwind(read).is_err() {
                self.gate.counts.panics.add(1);
            }
        }
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Adopt { fd, listener, peer } => self.gate.adopt(fd, listener, peer),
            Mail::Released { pool, slot, generation } => {
                self.gate.on_released(pool, slot, generation);
            }
            Mail::Told(told) => self.gate.on_told(told),
            Mail::Steal(steal) => self.gate.on_steal(steal),
            Mail::Stolen(stolen) => self.gate.on_stolen(stolen),
            Mail::Spare => self.gate.on_spare(),
            Mail::Snapshot(snapshot) => {
                let old = self.gate.use_snapshot(snapshot);
                self.gate.post_old(old);
            }
            // Whoever asked may have given up, here and below.
            Mail::Heard(reply) => drop(reply.send(())),
            Mail::Scrape(reply) => {
                // Then this share is lost to no one but them.
                let _ = reply.try_send(self.gate.take_histograms());
            }
            Mail::Accept => self.gate.open_doors(),
            Mail::Doors(changes) => self.gate.change_doors(changes),
            Mail::CloseSessionsOn(server) => self.gate.close_sessions_on(server),
            Mail::Drain => self.gate.drain(),
            Mail::Leave => self.gate.leave(),
            Mail::Stop { timed_out } => {
                self.gate.drain();
                self.gate.stop(if timed_out { Reason::DrainTimeout } else { Reason::Shutdown });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_l7::policy::rate::Rate;
    use sluicegate_l7::policy::spec::{Kind, LimitKey, LimitSpec, PolicySpec};

    use super::*;
    use crate::control::fixture;

    #[test]
    fn a_policys_entries_bound_it_and_go_with_it() {
        let count = std::num::NonZeroU32::new(100).unwrap();
        let rate = Rate::new(count, std::time::Duration::from_mins(1), count);
        let limit = LimitSpec {
            key: vec![LimitKey::Ip],
            limit: vec![rate],
            by_group: Vec::new(),
            early: false,
            entries: 3,
            store: None,
        };
        let kind = Kind::Rate(limit);
        let policy = PolicySpec { name: "few".into(), dry_run: false, retired: false, kind };
        let mut plan = fixture::plan(&[]);
        plan.policies = vec![policy];
        let shared = Shared::new(&plan, &[None], Engine::Epoll).unwrap();
        for key in 0..9_u128 {
            let _ = shared.limits.take(0, key << 64 | key, &[rate], 1);
        }
        let usage = shared.limits.usage(0);
        assert_eq!((usage.entries_max, usage.entries), (3, 3), "{usage:?}");
        shared.forget_retired(&plan);
        assert_eq!(shared.limits.usage(0).entries, 3, "it is in the file");
        plan.policies[0].retired = true;
        shared.forget_retired(&plan);
        assert_eq!(shared.limits.usage(0).entries, 0);
    }
}
