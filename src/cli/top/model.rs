//! What `top` shows: readings of the status turned into rows, rates and events. Pure: readings
//! and keys come in, a picture can be drawn at any time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clap::ValueEnum;

use crate::observe::status::{PoolStatus, Quantiles, ServerStatus, Status};

/// Rates remembered for each curve: as many as fit into the widest column.
const CURVE_MAX: usize = 32;
/// Events remembered.
const EVENTS_MAX: usize = 100;
/// Letters of a filter: names are not longer.
const FILTER_MAX: usize = 64;

/// By what servers are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Column {
    #[default]
    Name,
    State,
    Active,
    Rate,
    Errors,
    P50,
    P99,
}

impl Column {
    pub(super) const ALL: [Self; 7] =
        [Self::Name, Self::State, Self::Active, Self::Rate, Self::Errors, Self::P50, Self::P99];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&one| one == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What may be asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Drain,
    Ready,
    Maint,
}

impl Change {
    /// The word in the API.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Ready => "ready",
            Self::Maint => "maint",
        }
    }
}

/// A change of one server, to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub pool: String,
    pub server: String,
    pub change: Change,
}

/// What the keys mean now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Looking,
    /// Letters go to the filter.
    Filtering,
    /// Waits for yes or no.
    Asking(Wish),
}

/// A key, without the terminal that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// What is to be done because of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Quit,
    Do(Wish),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ListenerRow {
    pub name: String,
    pub mode: String,
    pub address: String,
    pub active: u32,
    pub total: u64,
    pub refused: u64,
    /// A second; `None` before the second reading.
    pub rate: Option<f64>,
    pub curve: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServerRow {
    pub pool: String,
    pub server: String,
    pub state: String,
    /// The last check in words.
    pub why: String,
    pub active: u32,
    pub total: u64,
    pub errors: u64,
    pub rate: Option<f64>,
    pub error_rate: Option<f64>,
    /// Of requests, or of connects where there are none; milliseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub curve: Vec<u64>,
}

/// One counter over time.
#[derive(Clone, Debug, Default)]
struct Track {
    last: u64,
    rate: Option<f64>,
    curve: VecDeque<u64>,
    /// The reading that it was last in.
    seen: u64,
}

impl Track {
    fn take(&mut self, count: u64, span: Option<Duration>, reading: u64) {
        // Less than before: the process behind the address is another one.
        let known = self.seen + 1 == reading && count >= self.last;
        self.rate = span
            .filter(|span| known && !span.is_zero())
            .map(|span| (count - self.last) as f64 / span.as_secs_f64());
        if let Some(rate) = self.rate {
            if self.curve.len() == CURVE_MAX {
                self.curve.pop_front();
            }
            self.curve.push_back(rate.round() as u64);
        }
        (self.last, self.seen) = (count, reading);
    }
}

/// Everything that `top` knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub status: Option<Status>,
    /// Why the last reading failed.
    pub problem: Option<String>,
    pub listeners: Vec<ListenerRow>,
    /// As they are shown: filtered and ordered.
    pub servers: Vec<ServerRow>,
    pub events: VecDeque<(Duration, String)>,
    pub sort: Column,
    pub reversed: bool,
    pub filter: String,
    pub mode: Mode,
    /// Of `servers`.
    pub selected: usize,
    pub now: Duration,
    all: Vec<ServerRow>,
    tracks: BTreeMap<String, Track>,
    readings: u64,
    read_at: Duration,
}

impl Model {
    pub(super) fn new(sort: Column) -> Self {
        Self { sort, ..Self::default() }
    }

    /// Takes a reading, made at `at` since the start.
    pub(super) fn take(&mut self, status: Status, at: Duration) {
        let span = (self.readings > 0).then(|| at.saturating_sub(self.read_at));
        (self.readings, self.read_at, self.now) = (self.readings + 1, at, at);
        if self.problem.take().is_some() {
            self.tell("the admin API answers again".to_owned());
        }
        if let Some(before) = self.status.take() {
            self.compare(&before, &status);
        }
        self.listeners = self.listener_rows(&status, span);
        self.all = self.server_rows(&status, span);
        let readings = self.readings;
        self.tracks.retain(|_, track| track.seen == readings);
        self.status = Some(status);
        self.arrange();
    }

    /// Notes that there is no reading.
    pub(super) fn fail(&mut self, problem: String, at: Duration) {
        self.now = at;
        if self.problem.is_none() {
            self.tell(problem.clone());
        }
        self.problem = Some(problem);
    }

    /// Notes what came of a wish.
    pub(super) fn answered(&mut self, wish: &Wish, result: Result<(), String>) {
        let Wish { pool, server, change } = wish;
        self.tell(match result {
            Ok(()) => format!("{pool}/{server}: {} asked for and granted", change.word()),
            Err(error) => format!("{pool}/{server}: {} not possible: {error}", change.word()),
        });
    }

    fn tell(&mut self, text: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((self.now, text));
    }

    fn compare(&mut self, before: &Status, after: &Status) {
        if before.pid != after.pid {
            return self.tell(format!("another process answers now: pid {}", after.pid));
        }
        for (name, pool) in &after.pools {
            let old = before.pools.get(name);
            for (server, now) in &pool.servers {
                let old = old.and_then(|pool| pool.servers.get(server));
                let Some(old) = old.filter(|old| old.state != now.state) else { continue };
                let why = &now.health.detail;
                self.tell(format!("{name}/{server} is {}, was {}: {why}", now.state, old.state));
            }
        }
        let (old, new) = (&before.config, &after.config);
        if old.last_reload.at != new.last_reload.at || old.hash != new.hash {
            let error = new.last_reload.error.as_deref().unwrap_or("unknown");
            self.tell(if new.last_reload.ok {
                format!("configuration {} is in use", short(&new.hash))
            } else {
                format!("reload failed, the old configuration goes on: {error}")
            });
        }
        if after.log.dropped > before.log.dropped {
            let lost = after.log.dropped - before.log.dropped;
            self.tell(format!("{lost} lines of the access log lost"));
        }
    }

    fn track(
        &mut self,
        key: String,
        count: u64,
        span: Option<Duration>,
    ) -> (Option<f64>, Vec<u64>) {
        let reading = self.readings;
        let track = self.tracks.entry(key).or_default();
        track.take(count, span, reading);
        (track.rate, track.curve.iter().copied().collect())
    }

    fn listener_rows(&mut self, status: &Status, span: Option<Duration>) -> Vec<ListenerRow> {
        let row = |(name, listener): (&String, &crate::observe::status::ListenerStatus)| {
            let (rate, curve) = self.track(format!("l/{name}"), listener.total, span);
            ListenerRow {
                name: name.clone(),
                mode: if listener.tls {
                    format!("{}+tls", listener.mode)
                } else {
                    listener.mode.clone()
                },
                address: listener.bind.join(","),
                active: listener.active,
                total: listener.total,
                refused: listener.refused,
                rate,
                curve,
            }
        };
        status.listeners.iter().map(row).collect()
    }

    fn server_rows(&mut self, status: &Status, span: Option<Duration>) -> Vec<ServerRow> {
        let mut rows = Vec::new();
        for (pool, PoolStatus { servers, .. }) in &status.pools {
            for (server, now) in servers {
                rows.push(self.server_row(pool, server, now, span));
            }
        }
        rows
    }

    fn server_row(
        &mut self,
        pool: &str,
        server: &str,
        now: &ServerStatus,
        span: Option<Duration>,
    ) -> ServerRow {
        // Requests where there are any: over kept connections there are more of them.
        let latency: Option<&Quantiles> =
            now.latency_ms.request.as_ref().or(now.latency_ms.connect.as_ref());
        let (rate, curve) = self.track(format!("s/{pool}/{server}"), now.total, span);
        let (error_rate, _) = self.track(format!("e/{pool}/{server}"), now.errors, span);
        ServerRow {
            pool: pool.to_owned(),
            server: server.to_owned(),
            state: now.state.clone(),
            why: now.health.detail.clone(),
            active: now.active,
            total: now.total,
            errors: now.errors,
            rate,
            error_rate,
            p50: latency.map(|ms| ms.p50),
            p99: latency.map(|ms| ms.p99),
            curve,
        }
    }

    /// Filters and orders; the selected server stays selected if it is still shown.
    fn arrange(&mut self) {
        let selected = self.selected().map(|row| (row.pool.clone(), row.server.clone()));
        let filter = self.filter.to_lowercase();
        let fits = |row: &&ServerRow| {
            let text = format!("{}/{} {} {}", row.pool, row.server, row.state, row.why);
            text.to_lowercase().contains(&filter)
        };
        let mut rows: Vec<ServerRow> = self.all.iter().filter(fits).cloned().collect();
        let sort = self.sort;
        rows.sort_by(|one, other| {
            let by = |row: &ServerRow| match sort {
                Column::Name => 0.0,
                // What needs somebody to look at it comes first.
                Column::State => f64::from(u8::from(row.state != "up")),
                Column::Active => f64::from(row.active),
                Column::Rate => row.rate.unwrap_or(0.0),
                Column::Errors => row.errors as f64,
                Column::P50 => row.p50.unwrap_or(0.0),
                Column::P99 => row.p99.unwrap_or(0.0),
            };
            let names = (&one.pool, &one.server).cmp(&(&other.pool, &other.server));
            by(other).total_cmp(&by(one)).then(names)
        });
        if self.reversed {
            rows.reverse();
        }
        self.servers = rows;
        let at = selected.and_then(|(pool, server)| {
            self.servers.iter().position(|row| row.pool == pool && row.server == server)
        });
        self.selected = at.unwrap_or(self.selected).min(self.servers.len().saturating_sub(1));
    }

    pub(super) fn selected(&self) -> Option<&ServerRow> {
        self.servers.get(self.selected)
    }

    /// Reacts to a key.
    pub(super) fn press(&mut self, key: Key) -> Act {
        if key == Key::Interrupt {
            return Act::Quit;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Asking(wish) => match key {
                Key::Letter('y' | 'Y') => Act::Do(wish),
                _ => Act::Nothing,
            },
            Mode::Filtering => {
                self.edit(key);
                Act::Nothing
            }
            Mode::Looking => self.look(key),
        }
    }

    fn edit(&mut self, key: Key) {
        self.mode = Mode::Filtering;
        match key {
            Key::Letter(letter) if self.filter.chars().count() < FILTER_MAX => {
                self.filter.push(letter);
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.mode = Mode::Looking,
            Key::Escape => {
                self.filter.clear();
                self.mode = Mode::Looking;
            }
            _ => {}
        }
        self.arrange();
    }

    fn look(&mut self, key: Key) -> Act {
        const PAGE: usize = 10;
        let last = self.servers.len().saturating_sub(1);
        match key {
            Key::Letter('q' | 'Q') => return Act::Quit,
            Key::Escape if self.filter.is_empty() => return Act::Quit,
            Key::Escape => {
                self.filter.clear();
                self.arrange();
            }
            Key::Up | Key::Letter('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Letter('j') => self.selected = (self.selected + 1).min(last),
            Key::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            Key::PageDown => self.selected = (self.selected + PAGE).min(last),
            Key::Home => self.selected = 0,
            Key::End => self.selected = last,
            Key::Letter('s') => {
                self.sort = self.sort.next();
                self.arrange();
            }
            Key::Letter('S') => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            Key::Letter('/') => self.mode = Mode::Filtering,
            Key::Letter('d') => self.ask(Change::Drain),
            Key::Letter('r') => self.ask(Change::Ready),
            Key::Letter('m') => self.ask(Change::Maint),
            _ => {}
        }
        Act::Nothing
    }

    fn ask(&mut self, change: Change) {
        if let Some(row) = self.selected() {
            let (pool, server) = (row.pool.clone(), row.server.clone());
            self.mode = Mode::Asking(Wish { pool, server, change });
        }
    }
}

/// As much of a hash as one compares by eye.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

#[cfg(test)]
pub(super) mod tests;
