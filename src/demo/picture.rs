//! What the demo shows: one picture of the gateway, its servers and the load, for every view.
//!
//! [`Watcher`] takes pictures; views only draw them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::web::Web;
use crate::control::Running;
use crate::loadgen::Live;
use crate::loadgen::tally::{Failure, Tally};
use crate::observe::events::EventKind;

/// Events that are kept for the screen and the summary of a demo that goes on for ever.
const EVENTS_MAX: usize = 200;

/// Seconds of history in the little curve.
pub const RATES_MAX: usize = 120;

/// How good news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Plain,
}

/// Something that happened, told in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub at: Duration,
    /// A stable word.
    pub kind: &'static str,
    pub text: String,
    pub tone: Tone,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServerRow {
    pub name: String,
    pub address: String,
    pub state: String,
    /// The last check in words.
    pub detail: String,
    pub active: u32,
    pub total: u64,
    /// New sessions in the last second.
    pub fresh: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub elapsed: Duration,
    /// `None`: until somebody ends it.
    pub length: Option<Duration>,
    pub tcp: Option<SocketAddr>,
    pub web: Option<Web>,
    pub admin: Option<SocketAddr>,
    pub servers: Vec<ServerRow>,
    pub sessions: u32,
    /// Clients waiting for a server.
    pub held: u32,
    /// Of the last second: answers, and their latency in microseconds.
    pub rate: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Since the start.
    pub requests: u64,
    pub errors: u64,
    pub rates: VecDeque<u64>,
    pub events: VecDeque<Told>,
    /// Of `events`, those since the last picture.
    pub fresh_events: usize,
}

/// Takes pictures of a running demo.
#[derive(Debug)]
pub struct Watcher<'a> {
    running: &'a Running,
    live: &'a Live,
    picture: Picture,
    seen: u64,
    errors_told: u64,
}

impl<'a> Watcher<'a> {
    #[must_use]
    pub fn new(running: &'a Running, live: &'a Live, mut picture: Picture) -> Self {
        picture.events.clear();
        Self { running, live, picture, seen: 0, errors_told: 0 }
    }

    /// Notes what the demo itself does.
    pub fn tell(&mut self, at: Duration, kind: &'static str, text: String, tone: Tone) {
        let events = &mut self.picture.events;
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(Told { at, kind, text, tone });
        self.picture.fresh_events += 1;
    }

    /// Notes what the gateway says has happened; to be called often, for the times to be right.
    pub fn hear(&mut self, elapsed: Duration) {
        for event in self.running.instance.events.since(self.seen) {
            self.seen = event.number;
            let tone = match event.kind {
                EventKind::ServerUp
                | EventKind::ServerReady
                | EventKind::BreakerClosed
                | EventKind::WorkerRecovered
                | EventKind::Ready => Tone::Good,
                EventKind::Draining
                | EventKind::ServerDrained
                | EventKind::ServerMaint
                | EventKind::WeightChanged
                | EventKind::MemberAdded
                | EventKind::CertificatesRenewed => Tone::Plain,
                _ => Tone::Bad,
            };
            let text = format!("gateway: {}", event.text);
            self.tell(elapsed, event.kind.as_str(), text, tone);
        }
    }

    /// What happened since the start of it all.
    #[must_use]
    pub fn events(&self) -> Vec<Told> {
        self.picture.events.iter().cloned().collect()
    }

    /// A picture of now, to be taken once a second. What it shows as new is new since the last.
    pub fn take(&mut self, elapsed: Duration, draw: impl FnOnce(&Picture)) {
        self.read_load(elapsed);
        self.read_gateway();
        self.picture.elapsed = elapsed;
        draw(&self.picture);
        self.picture.fresh_events = 0;
    }

    fn read_load(&mut self, elapsed: Duration) {
        let window: Tally = self.live.take();
        let at = |quantile| window.latency.value_at_quantile(quantile) as f64 / 1e3;
        let picture = &mut self.picture;
        picture.rate = window.requests;
        (picture.p50_us, picture.p99_us) = (at(0.5), at(0.99));
        picture.requests += window.requests;
        picture.errors += window.errors.total();
        if picture.rates.len() == RATES_MAX {
            picture.rates.pop_front();
        }
        picture.rates.push_back(window.requests);
        if picture.errors > self.errors_told {
            self.errors_told = picture.errors;
            let first = Failure::ALL.into_iter().find_map(|kind| window.errors.first(kind));
            let text = format!("the load saw an error: {}", first.unwrap_or("unknown"));
            self.tell(elapsed, "error", text, Tone::Bad);
        }
    }

    fn read_gateway(&mut self) {
        let status = self.running.instance.status();
        let picture = &mut self.picture;
        picture.sessions = status.listeners.values().map(|listener| listener.active).sum();
        picture.held = status.pools.values().map(|pool| pool.held).sum();
        let before = std::mem::take(&mut picture.servers);
        // Each has a pool of its own besides, for the HTTP listener.
        let all = status.pools.into_iter().filter(|(name, _)| name == super::gateway::POOL);
        let servers = all.flat_map(|(_, pool)| pool.servers);
        picture.servers = servers
            .map(|(name, server)| {
                let last = before.iter().find(|row| row.name == name).map_or(0, |row| row.total);
                ServerRow {
                    name,
                    address: server.addr,
                    state: server.state,
                    detail: server.health.detail,
                    active: server.active,
                    total: server.total,
                    fresh: server.total.saturating_sub(last),
                }
            })
            .collect();
    }
}
