//! A circuit breaker: stops asking servers that fail, and finds out when they no longer do.
//!
//! ```text
//!            too many errors, or slow answers, of at least `min_requests` in `window`
//!   Closed ────────────────────────────────────────────────────────────────▶ Open
//!      ▲                                                                    │   ▲
//!      │ `probes` good answers                                 `open_for` is over │ a bad one
//!      └──────────────────────────────── HalfOpen ◀─────────────────────────┘   │
//!                                            └──────────────────────────────────┘
//! ```
//!
//! Pure: one breaker belongs to a pool, the shell puts a lock around it and shares it between
//! workers.
//!
//! - B1: half-open, requests in flight and good answers are together at most `probes`.
//! - B2: every state has a generation, and a request answers to the one that let it pass: what
//!   comes back later, from before the last change, counts for nothing.
//! - B3: a pass is either recorded or abandoned; else a probe's place would be lost.

use std::time::Duration;

/// Parts of the window that are forgotten one by one: enough that it moves smoothly.
const PARTS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPlan {
    /// Percent of failed requests that open it.
    pub errors: u8,
    /// Fewer requests than this in the window say nothing.
    pub min_requests: u32,
    pub window: Duration,
    pub open_for: Duration,
    /// Good answers that close it again.
    pub probes: u32,
    pub slow: Option<Slow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// An answer that takes longer is slow.
    pub over: Duration,
    /// Percent of slow answers that open it.
    pub share: u8,
}

/// How a request that passed has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of what the breaker counts: no connection, a reset, a timeout, a 5xx.
    pub error: bool,
    pub took: Duration,
}

/// What a request that passed shows when it ends (B2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    Pass(Ticket),
    /// One of the requests that decide whether it closes.
    Probe(Ticket),
    /// See [`Breaker::opens_in`].
    Shed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

impl BreakerState {
    /// As metrics show it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Breaker {
    plan: BreakerPlan,
    phase: Phase,
    /// Grows with every change of phase.
    generation: u64,
    /// The latest `now`; workers' clocks differ a little.
    latest: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Box<Ring>),
    Open { until: u64 },
    HalfOpen { in_flight: u32, good: u32 },
}

impl Breaker {
    #[must_use]
    pub fn new(plan: BreakerPlan) -> Self {
        Self { plan, phase: Phase::Closed(Box::default()), generation: 0, latest: 0 }
    }

    /// Goes on with other numbers; what was counted stays.
    pub const fn set_plan(&mut self, plan: BreakerPlan) {
        self.plan = plan;
    }

    /// Whether a request may go to the pool. `now` is in nanoseconds of the monotonic clock.
    pub fn admit(&mut self, now: u64) -> Admit {
        let now = self.at(now);
        match &mut self.phase {
            Phase::Closed(_) => Admit::Pass(Ticket(self.generation)),
            Phase::Open { until } if now < *until => Admit::Shed,
            Phase::Open { .. } => {
                self.enter(Phase::HalfOpen { in_flight: 1, good: 0 });
                Admit::Probe(Ticket(self.generation))
            }
            // With none in flight nothing else would ever decide: a new plan may want fewer than
            // were good already.
            Phase::HalfOpen { in_flight, good }
                if *in_flight == 0 || *in_flight + *good < self.plan.probes =>
            {
                *in_flight += 1;
                Admit::Probe(Ticket(self.generation))
            }
            Phase::HalfOpen { .. } => Admit::Shed,
        }
    }

    /// How an admitted request ended. Returns the new state if it has changed.
    pub fn record(&mut self, now: u64, ticket: Ticket, outcome: Outcome) -> Option<BreakerState> {
        let now = self.at(now);
        if ticket != Ticket(self.generation) {
            return None;
        }
        let slow = self.plan.slow.is_some_and(|slow| outcome.took > slow.over);
        let next = match &mut self.phase {
            Phase::Closed(ring) => {
                let sum = ring.count(now, self.plan.window, outcome.error, slow);
                sum.is_too_much(&self.plan).then(|| open(now, &self.plan))?
            }
            Phase::HalfOpen { .. } if outcome.error || slow => open(now, &self.plan),
            Phase::HalfOpen { in_flight, good } => {
                (*in_flight, *good) = (in_flight.saturating_sub(1), *good + 1);
                (*good >= self.plan.probes).then(|| Phase::Closed(Box::default()))?
            }
            // Nothing passes while it is open, so no ticket is of this generation.
            Phase::Open { .. } => return None,
        };
        self.enter(next);
        Some(self.state())
    }

    /// An admitted request ended without saying anything of the servers: the client has gone,
    /// or something else refused it.
    pub const fn abandon(&mut self, ticket: Ticket) {
        if let Phase::HalfOpen { in_flight, .. } = &mut self.phase
            && ticket.0 == self.generation
        {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// Until the next probe may pass; zero if that hangs on those in flight.
    #[must_use]
    pub fn opens_in(&self, now: u64) -> Duration {
        match self.phase {
            Phase::Open { until } => {
                Duration::from_nanos(until.saturating_sub(now.max(self.latest)))
            }
            _ => Duration::ZERO,
        }
    }

    /// Open until a request comes after `open_for`, for only a request can be the probe.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn at(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

fn open(now: u64, plan: &BreakerPlan) -> Phase {
    Phase::Open { until: now.saturating_add(nanos(plan.open_for)) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What happened in a length of time.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    requests: u32,
    errors: u32,
    slow: u32,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            slow: self.slow.saturating_add(other.slow),
        }
    }

    fn is_too_much(self, plan: &BreakerPlan) -> bool {
        let reaches = |part: u32, percent: u8| {
            part > 0 && u64::from(part) * 100 >= u64::from(percent) * u64::from(self.requests)
        };
        self.requests >= plan.min_requests
            && (reaches(self.errors, plan.errors)
                || plan.slow.is_some_and(|slow| reaches(self.slow, slow.share)))
    }
}

/// The window, in parts by time.
#[derive(Clone, Debug, Default)]
struct Ring {
    parts: [Tally; PARTS],
    /// The number of the part that counts now, since time began.
    current: u64,
}

impl Ring {
    /// Counts one request, and sums up the window.
    fn count(&mut self, now: u64, window: Duration, error: bool, slow: bool) -> Tally {
        let part = (nanos(window) / PARTS as u64).max(1);
        let current = now / part;
        // Another window (the plan has changed) has other numbers: all of it is forgotten.
        let passed = if current < self.current { u64::MAX } else { current - self.current };
        for ahead in 1..=passed.min(PARTS as u64) {
            self.parts[((current - ahead + 1) % PARTS as u64) as usize] = Tally::default();
        }
        self.current = current;
        let one = Tally { requests: 1, errors: u32::from(error), slow: u32::from(slow) };
        let at = (current % PARTS as u64) as usize;
        self.parts[at] = self.parts[at].plus(one);
        self.parts.iter().fold(Tally::default(), |sum, part| sum.plus(*part))
    }
}

#[cfg(test)]
mod tests;
