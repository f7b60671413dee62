//! The load generator behind `sluicegate bench` and the demo.
//!
//! The pure parts are [`pacing`] (when exchanges start), [`http_response`], [`target`] (what is
//! said), [`tally`], [`report`] and [`hgrm`]. [`connection`] and [`generator`] are one worker
//! on any driver; this file gives each worker a thread and a driver, starts them together and
//! adds up.
//!
//! Nothing here knows the gateway: it measures whatever answers.

pub mod connection;
pub mod generator;
pub mod hgrm;
pub mod http_response;
pub mod interrupt;
pub mod pacing;
pub mod report;
pub mod tally;
pub mod target;

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::Duration;

use self::connection::Orders;
use self::generator::Generator;
use self::pacing::{Pace, Schedule};
use self::tally::Tally;
use crate::config::plan::EngineChoice;
use crate::runtime::buffers::Sizes;
use crate::runtime::driver::Driver;
use crate::runtime::engine::{self, Engine};
use crate::runtime::epoll::Epoll;
use crate::runtime::sys;
use crate::runtime::time::Time;
use crate::runtime::uring::{Uring, UringConfig};

/// One run.
#[derive(Clone, Debug)]
pub struct Job {
    pub orders: Orders,
    /// Over all workers; at least as many as workers.
    pub connections: u32,
    pub workers: u32,
    /// Starts a second; `None`: closed loop.
    pub rate: Option<f64>,
    pub warmup: Duration,
    /// How long is measured, after the warm-up.
    pub duration: Duration,
}

/// What happens while it happens, for progress lines and live views.
#[derive(Debug, Default)]
pub struct Live(Mutex<Tally>);

impl Live {
    fn add(&self, window: &Tally) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(window);
    }

    /// Everything since the last time this was asked.
    #[must_use]
    pub fn take(&self) -> Tally {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = tally.clone();
        tally.clear();
        taken
    }
}

/// What a run measured, and for how long.
#[derive(Clone, Debug)]
pub struct Measured {
    pub tally: Tally,
    /// Shorter than asked for when the run was stopped or found nobody.
    pub duration: Duration,
}

/// Why a run gave no result.
#[derive(Debug)]
pub enum RunError {
    /// The kernel refuses what it runs on; in words, with the remedy.
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Broken(error) => write!(f, "the load generator broke off: {error}"),
        }
    }
}

/// Runs `job` on threads of its own and waits for them. Setting `stop` ends it early.
///
/// # Errors
/// When the driver is refused, or breaks.
pub fn run(job: &Job, live: Option<&Live>, stop: &AtomicBool) -> Result<Measured, RunError> {
    let workers = job.workers.clamp(1, job.connections.max(1));
    let barrier = Barrier::new(workers as usize);
    let engine = engine::choose(EngineChoice::Auto).map_err(RunError::Refused)?.engine;
    let results: Vec<Result<Measured, RunError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || work(job, engine, (index, workers), barrier, live, stop))
            })
            .collect();
        let broken = || Err(io::Error::other("a worker panicked").into());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
    });
    let mut all = Measured { tally: Tally::default(), duration: Duration::ZERO };
    for result in results {
        let one = result?;
        all.tally.add(&one.tally);
        all.duration = all.duration.max(one.duration);
    }
    Ok(all)
}

/// One worker, on whatever engine there is.
fn work(
    job: &Job,
    engine: Engine,
    place: (u32, u32),
    barrier: &Barrier,
    live: Option<&Live>,
    stop: &AtomicBool,
) -> Result<Measured, RunError> {
    let config = ring_config(&job.orders);
    match engine {
        Engine::Uring => {
            let ring =
                Uring::new(config).map_err(|error| RunError::Refused(engine.explain(&error)));
            drive(ring, job, place, barrier, live, stop)
        }
        Engine::Epoll => {
            let epoll = Epoll::new(config.sizes, config.pipes_max, config.pipe_bytes);
            drive(epoll.map_err(RunError::Broken), job, place, barrier, live, stop)
        }
    }
}

/// One worker, from its driver to its tally.
fn drive<D: Driver>(
    driver: Result<D, RunError>,
    job: &Job,
    (index, workers): (u32, u32),
    barrier: &Barrier,
    live: Option<&Live>,
    stop: &AtomicBool,
) -> Result<Measured, RunError> {
    // The default of 50 µs would be added to every start of an open loop. Without it the
    // generator still works, only later.
    let _ = nix::sys::prctl::set_timerslack(1);
    let count = share(job.connections, index, workers);
    let ready = driver.and_then(|driver| {
        let system_clock = |_: &D| Time(sys::monotonic_ns());
        let mut generator = Generator::new(driver, system_clock, count, (&job.orders, live, stop));
        if !job.orders.new_connection {
            generator.connect()?;
        }
        Ok(generator)
    });
    // Also with an error, or the others would wait for ever.
    barrier.wait();
    let mut generator = ready?;
    let start = Time(sys::monotonic_ns());
    let measured_from = start + job.warmup;
    let end = measured_from + job.duration;
    let pace = match job.rate {
        None => Pace::Closed { end },
        Some(rate) => {
            let schedule = Schedule::new(rate, (index, workers), start, end);
            Pace::Open(schedule.patience(job.orders.timeout))
        }
    };
    generator.run(pace, measured_from, end)?;
    let duration = Time(sys::monotonic_ns()).min(end).since(measured_from);
    Ok(Measured { tally: generator.close()?, duration })
}

/// The part of `total` that is worker `index`'s.
fn share(total: u32, index: u32, workers: u32) -> u32 {
    total / workers + u32::from(index < total % workers)
}

/// A ring that suits the size of the answers.
fn ring_config(orders: &Orders) -> UringConfig {
    /// From this request size on, few large buffers are cheaper than many small ones.
    const BULK: usize = 16 << 10;
    let bulk = orders.script.request().len() >= BULK;
    let (ring_count, ring_size) = if bulk { (64, 64 << 10) } else { (128, 4096) };
    // Blocks and large buffers are for relaying; a generator has none.
    let sizes = Sizes { ring_count, ring_size, block_count: 0, large_count: 0, ..Sizes::default() };
    UringConfig { sizes, sq_entries: 256, cq_entries: 4096, pipes_max: 0, ..UringConfig::default() }
}

#[cfg(test)]
mod tests;
