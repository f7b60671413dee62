//! One worker of the load generator: connections, a pace and a tally on one driver.
//!
//! [`Generator::connect`] opens the connections that are kept, [`Generator::run`] starts
//! exchanges by its [`Pace`] until the run is over, [`Generator::close`] ends all in order.
//!
//! - G1: an exchange is counted by when it was due: in the measured time or before it.
//! - G2: an exchange begun is waited for, at most its timeout; only a stop calls it off.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Live;
use super::connection::{Connection, Event, Exchange, Fault, Orders};
use super::pacing::Pace;
use super::tally::{Failure, Tally};
use crate::runtime::driver::{Completion, Driver};
use crate::runtime::time::Time;

/// How often deadlines are looked at: the error of a timeout.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// How often what happened since is shown to whoever watches.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// How long the last connections may take to end.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Connects under way at once: below what listeners queue by default.
const CONNECTING_MAX: usize = 256;

/// Reads the clock. The driver's own is taken once a turn; the generator wants each exchange
/// timed, so on the ring this is the system's clock and in a simulation the driver's.
pub type Clock<D> = fn(&D) -> Time;

/// One worker.
#[derive(Debug)]
pub struct Generator<'a, D> {
    driver: D,
    clock: Clock<D>,
    orders: &'a Orders,
    /// `None`: nobody watches, and adding up would only disturb.
    live: Option<&'a Live>,
    stop: &'a AtomicBool,
    connections: Vec<Connection>,
    /// Slots that were available when they were put in, each at most once.
    free: VecDeque<u32>,
    listed: Vec<bool>,
    completions: Vec<Completion>,
    /// What was due before this is warm-up.
    measured_from: Time,
    tally: Tally,
    /// What happened since the last publication.
    window: Tally,
    connected: u64,
    connects_failed: u64,
    next_sweep: Time,
    next_publish: Time,
}

impl<'a, D: Driver> Generator<'a, D> {
    pub fn new(
        driver: D,
        clock: Clock<D>,
        count: u32,
        (orders, live, stop): (&'a Orders, Option<&'a Live>, &'a AtomicBool),
    ) -> Self {
        Self {
            driver,
            clock,
            orders,
            live,
            stop,
            connections: (0..count).map(Connection::new).collect(),
            free: (0..count).collect(),
            listed: vec![true; count as usize],
            completions: Vec::new(),
            measured_from: Time::ZERO,
            tally: Tally::default(),
            window: Tally::default(),
            connected: 0,
            connects_failed: 0,
            next_sweep: Time::ZERO,
            next_publish: Time::ZERO,
        }
    }

    fn now(&self) -> Time {
        (self.clock)(&self.driver)
    }

    /// No connect has succeeded and as many as there are connections have failed: nobody is
    /// there, and going on would only take time.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.connected == 0 && self.connects_failed >= self.connections.len() as u64
    }

    /// Opens every connection and waits until each stands or has failed.
    ///
    /// # Errors
    /// The driver's.
    pub fn connect(&mut self) -> io::Result<()> {
        let mut unopened = 0..self.connections.len();
        while !self.stopped() {
            let mut connecting = self.connections.iter().filter(|it| it.is_connecting()).count();
            while connecting < CONNECTING_MAX
                && let Some(slot) = unopened.next()
            {
                let now = self.now();
                let event = self.connections[slot].open(None, now, self.orders, &mut self.driver);
                self.note(event);
                connecting += 1;
            }
            if connecting == 0 {
                break;
            }
            self.turn(self.next_sweep)?;
        }
        Ok(())
    }

    /// Runs until the pace has ended and every exchange with it, or until it is stopped.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&mut self, mut pace: Pace, measured_from: Time, end: Time) -> io::Result<()> {
        self.measured_from = measured_from;
        // Failures to connect before the run are kept: nothing else would tell of them.
        while !self.stopped() && !self.is_unreachable() {
            let now = self.now();
            let lost = pace.give_up(now);
            if lost > 0 {
                let why = || "waited too long for a free connection".to_owned();
                self.tally.errors.add(Failure::Timeout, lost, why);
                self.window.errors.add(Failure::Timeout, lost, why);
            }
            self.begin_due(&mut pace);
            if now >= end && !self.connections.iter().any(Connection::is_busy) {
                break;
            }
            let mut deadline = self.next_sweep.min(self.next_publish);
            if !self.free.is_empty() {
                deadline = deadline.min(pace.next_due());
            }
            self.turn(deadline)?;
        }
        self.tally.never_started = pace.never_started(self.now());
        self.publish(Time::NEVER);
        Ok(())
    }

    /// Begins every exchange that is due, as long as connections are free.
    fn begin_due(&mut self, pace: &mut Pace) {
        while let Some(&slot) = self.free.front() {
            let now = self.now();
            if !self.connections[slot as usize].is_available(now) {
                self.unlist();
                continue;
            }
            let Some(intended) = pace.take(now) else { return };
            self.unlist();
            let exchange = Exchange::new(intended, now);
            let connection = &mut self.connections[slot as usize];
            let event = connection.begin(exchange, self.orders, &mut self.driver);
            self.note(event);
        }
    }

    fn unlist(&mut self) {
        if let Some(slot) = self.free.pop_front() {
            self.listed[slot as usize] = false;
        }
    }

    fn list_if_available(&mut self, slot: usize, now: Time) {
        if !self.listed[slot] && self.connections[slot].is_available(now) {
            self.listed[slot] = true;
            self.free.push_back(slot as u32);
        }
    }

    /// One turn of the driver, with all that follows from it.
    fn turn(&mut self, deadline: Time) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        let result = self.driver.turn(deadline, &mut completions);
        for completion in completions.drain(..) {
            let (slot, now) = (completion.token.slot() as usize, self.now());
            let event = self.connections[slot].step(completion, now, self.orders, &mut self.driver);
            self.note(event);
            self.list_if_available(slot, now);
        }
        self.completions = completions;
        let now = self.now();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            self.sweep(now);
        }
        if now >= self.next_publish {
            self.publish(now + PUBLISH_EVERY);
        }
        result
    }

    fn sweep(&mut self, now: Time) {
        for slot in 0..self.connections.len() {
            let connection = &mut self.connections[slot];
            let event = connection.check_deadline(now, self.orders, &mut self.driver);
            self.note(event);
            self.list_if_available(slot, now);
        }
    }

    /// Counts what happened.
    fn note(&mut self, event: Event) {
        match event {
            Event::Nothing => {}
            Event::Connected => self.connected += 1,
            Event::Retried => {
                self.tally.retried += 1;
                self.window.retried += 1;
            }
            Event::Succeeded { exchange, bytes } => {
                self.connected += 1;
                let now = self.now();
                self.window.success(exchange.intended, exchange.begun, now, bytes);
                if exchange.intended >= self.measured_from {
                    self.tally.success(exchange.intended, exchange.begun, now, bytes); // G1
                }
            }
            Event::Failed { exchange, fault } => self.note_failure(exchange, fault),
        }
    }

    fn note_failure(&mut self, exchange: Option<Exchange>, fault: Fault) {
        if fault.kind == Failure::Connect {
            self.connects_failed += 1;
        } else {
            self.connected += 1;
        }
        self.window.errors.add(fault.kind, 1, || fault.why.to_string());
        if exchange.is_none_or(|exchange| exchange.intended >= self.measured_from) {
            self.tally.errors.add(fault.kind, 1, || fault.why.to_string());
        }
    }

    fn publish(&mut self, next: Time) {
        self.next_publish = next;
        if let Some(live) = self.live {
            live.add(&self.window);
            self.window.clear();
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends every connection, waits for that, and returns what was measured.
    ///
    /// # Errors
    /// The driver's.
    pub fn close(mut self) -> io::Result<Tally> {
        let tally = std::mem::take(&mut self.tally);
        let give_up = self.now() + CLOSE_MAX;
        loop {
            let now = self.now();
            for connection in &mut self.connections {
                connection.call_off(now, &mut self.driver);
            }
            if now >= give_up || self.connections.iter().all(Connection::is_empty) {
                return Ok(tally);
            }
            self.turn(now + SWEEP_EVERY)?;
        }
    }
}
