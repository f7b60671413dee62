//! Polls the tasks of one worker.
//!
//! A task is a boxed future in a slot. Its waker puts the slot's number on a queue, once until
//! it is polled again; the worker polls what is on the queue, so many a turn.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use crossbeam::queue::SegQueue;

use super::lent::Lent;
use super::shell::Shell;
use super::sockets::Released;
use crate::runtime::budget::Budget;
use crate::runtime::driver::{Completion, Driver};
use crate::runtime::time::Time;

pub(super) type Job = Pin<Box<dyn Future<Output = ()>>>;

/// Polls in one turn, before completions and timers have their turn again.
const POLLS_MAX: usize = 64;

/// Names a task; never reused for another as long as anybody could ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId {
    slot: u32,
    generation: u32,
}

struct Slot {
    job: Option<Job>,
    generation: u32,
    wake: Arc<Alarm>,
    waker: Waker,
}

/// Puts a slot on the queue of those to be polled.
struct Alarm {
    slot: u32,
    queued: AtomicBool,
    ready: Arc<SegQueue<u32>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.slot);
        }
    }
}

/// The tasks of one worker.
pub struct Tasks<D: Driver> {
    shell: Rc<Shell<D>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: Arc<SegQueue<u32>>,
    /// Sockets that were given back, for the worker to fetch.
    released: Vec<Released>,
    /// Tasks that ended by a panic since the worker asked.
    panics: u64,
}

impl<D: Driver> std::fmt::Debug for Tasks<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl<D: Driver> Tasks<D> {
    #[must_use]
    pub fn new(now: Time, budget: Arc<Budget>) -> Self {
        Self {
            shell: Shell::new(now, budget),
            slots: Vec::new(),
            free: Vec::new(),
            ready: Arc::new(SegQueue::new()),
            released: Vec::new(),
            panics: 0,
        }
    }

    #[must_use]
    pub const fn shell(&self) -> &Rc<Shell<D>> {
        &self.shell
    }

    /// Adds a task; it is polled with the next ones.
    pub fn spawn(&mut self, job: impl Future<Output = ()> + 'static) -> TaskId {
        self.spawn_boxed(Box::pin(job))
    }

    fn spawn_boxed(&mut self, job: Job) -> TaskId {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len() as u32;
            let ready = Arc::clone(&self.ready);
            let wake = Arc::new(Alarm { slot, queued: AtomicBool::new(false), ready });
            let waker = Waker::from(Arc::clone(&wake));
            self.slots.push(Slot { job: None, generation: 0, wake, waker });
            slot
        });
        let entry = &mut self.slots[slot as usize];
        entry.job = Some(job);
        entry.generation = entry.generation.wrapping_add(1);
        entry.waker.wake_by_ref();
        TaskId { slot, generation: entry.generation }
    }

    /// Ends a task where it stands: its future is dropped, its sockets are orphans.
    pub fn abort(&mut self, id: TaskId) {
        let Some(entry) = self.slots.get_mut(id.slot as usize) else { return };
        if entry.generation == id.generation
            && let Some(job) = entry.job.take()
        {
            self.free.push(id.slot);
            drop_quietly(job, &mut self.panics);
        }
    }

    /// One of the tasks' operations has completed.
    pub fn complete(&mut self, completion: Completion, driver: &mut D) {
        self.shell.desk().sockets.complete(completion, driver);
    }

    /// Polls what is ready, at most [`POLLS_MAX`], with the driver in the tasks' reach.
    pub fn run(&mut self, driver: &mut Lent<D>) {
        if self.is_empty() {
            return; // nothing but TCP here
        }
        let now = driver.now();
        {
            let mut desk = self.shell.desk();
            desk.now = now;
            desk.sleepers.expire(now);
            desk.handshakes.begin();
        }
        if !self.ready.is_empty() {
            self.shell.desk().driver = driver.take();
            for _ in 0..POLLS_MAX {
                let Some(slot) = self.ready.pop() else { break };
                self.poll(slot);
                let spawned = std::mem::take(&mut self.shell.desk().spawned);
                for job in spawned {
                    self.spawn_boxed(job);
                }
            }
            driver.bring(self.shell.desk().driver.take());
        }
        self.sweep(driver);
    }

    /// Resets what tasks have of connections to a server.
    pub fn reset_server(&mut self, server: u32, driver: &mut Lent<D>) {
        self.shell.desk().sockets.reset_server(server, &mut **driver);
    }

    /// Polls every task once: what is told to all of them at once wakes none.
    pub fn poll_all(&mut self, driver: &mut Lent<D>) {
        for entry in self.slots.iter().filter(|entry| entry.job.is_some()) {
            entry.waker.wake_by_ref();
        }
        for _ in 0..self.slots.len().div_ceil(POLLS_MAX) {
            self.run(driver);
        }
    }

    fn poll(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.wake.queued.store(false, Ordering::Release);
        let Some(mut job) = entry.job.take() else { return };
        let mut context = Context::from_waker(&entry.waker);
        match catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(&mut context))) {
            Ok(std::task::Poll::Pending) => self.slots[slot as usize].job = Some(job),
            Ok(std::task::Poll::Ready(())) => self.free.push(slot),
            Err(_) => {
                self.panics += 1;
                self.free.push(slot);
                drop_quietly(job, &mut self.panics); // K4
            }
        }
    }

    /// Does for dropped sockets what is to be done (K2).
    pub fn sweep(&mut self, driver: &mut D) {
        self.shell.desk().sockets.sweep(driver, &mut self.released);
    }

    /// A socket that was given back since the last call.
    pub fn next_released(&mut self) -> Option<Released> {
        self.released.pop()
    }

    /// Panics since the last call.
    pub const fn take_panics(&mut self) -> u64 {
        std::mem::replace(&mut self.panics, 0)
    }

    /// When [`Tasks::run`] wants to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        if self.is_empty() {
            return Time::NEVER;
        }
        let desk = self.shell.desk();
        if !self.ready.is_empty() || desk.handshakes.has_waiting() || desk.sockets.has_orphans() {
            return Time::ZERO;
        }
        desk.sleepers.wheel.next_deadline().unwrap_or(Time::NEVER)
    }

    /// Tasks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.shell.desk().sockets.len() == 0
    }
}

/// Drops a future whose own drop may panic as well.
fn drop_quietly(job: Job, panics: &mut u64) {
    if catch_unwind(AssertUnwindSafe(|| drop(job))).is_err() {
        *panics += 1;
    }
}
