//! `/metrics`: the Prometheus text format 0.0.4, byte for byte.
//!
//! A family is a HELP line, a TYPE line and its samples together, as the format demands.
//! Labels come only from names in the configuration, so their number is bounded by the file.

mod http;
mod policies;

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::counters::{ConnectResult, Count, RetryCause, WorkerCounts};
use super::histograms::{BUCKETS_LE, Series, sum_of};
use super::process::Process;
use super::reason::REASONS;
use super::view::{ListenerSums, ServerGroup, ServerSums, View};
use crate::registry::{Condition, ListenerId};

/// The `Content-Type` that goes with [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders one reading.
#[must_use]
pub fn render(view: &View<'_>) -> String {
    let mut text = Text(String::with_capacity(16 * 1_024));
    listeners(view, &mut text);
    http::tls(view, &mut text);
    http::requests(view, &mut text);
    policies::policies(view, &mut text);
    servers(view, &mut text);
    process(view, &mut text);
    workers(view, &mut text);
    text.0
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The text so far. Writing to a `String` cannot fail.
struct Text(String);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP sluicegate_{name} {help}");
        let _ = writeln!(self.0, "# TYPE sluicegate_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        let _ = write!(self.0, "sluicegate_{name}");
        for (n, (label, text)) in labels.iter().enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// One series of a histogram family.
    fn series(&mut self, name: &str, labels: Labels<'_>, series: &Series) {
        let bucket = format!("{name}_bucket");
        let mut labels = labels.to_vec();
        for (le, count) in BUCKETS_LE.iter().zip(series.buckets()) {
            labels.push(("le", le));
            self.sample(&bucket, &labels, count);
            labels.pop();
        }
        labels.push(("le", "+Inf"));
        self.sample(&bucket, &labels, series.count());
        labels.pop();
        self.sample(&format!("{name}_sum"), &labels, series.sum_us() as f64 / 1e6);
        self.sample(&format!("{name}_count"), &labels, series.count());
    }
}

fn listeners(view: &View<'_>, text: &mut Text) {
    let names = view.snapshot.plan.listeners.iter().map(|listener| listener.name.as_str());
    let rows: Vec<(&str, ListenerSums)> =
        names.enumerate().map(|(id, name)| (name, view.listener(ListenerId(id as u16)))).collect();
    text.family("connections_total", Kind::Counter, "Connections accepted.");
    for (listener, sums) in &rows {
        text.sample("connections_total", &[("listener", listener)], sums.connections);
    }
    text.family("connections_active", Kind::Gauge, "Sessions now.");
    for (listener, sums) in &rows {
        text.sample("connections_active", &[("listener", listener)], sums.active);
    }
    text.family("session_bytes_total", Kind::Counter, "Payload from (in) and to (out) clients.");
    for (listener, sums) in &rows {
        for (direction, bytes) in [("in", sums.bytes_in), ("out", sums.bytes_out)] {
            let labels = [("listener", *listener), ("direction", direction)];
            text.sample("session_bytes_total", &labels, bytes);
        }
    }
    text.family("sessions_ended_total", Kind::Counter, "Sessions ended, by reason.");
    for (listener, sums) in &rows {
        for &reason in REASONS {
            let labels = [("listener", *listener), ("reason", reason.as_str())];
            text.sample("sessions_ended_total", &labels, sums.ended[reason as usize]);
        }
    }
    text.family("refused_total", Kind::Counter, "Clients turned away before a server was tried.");
    for (listener, sums) in &rows {
        for &reason in REASONS.iter().filter(|reason| reason.is_refusal()) {
            let labels = [("listener", *listener), ("reason", reason.as_str())];
            text.sample("refused_total", &labels, sums.ended[reason as usize]);
        }
    }
    text.family("session_seconds", Kind::Histogram, "How long sessions lasted.");
    for (id, (listener, _)) in rows.iter().enumerate() {
        let none = Series::default();
        let series = view.totals.session.get(&ListenerId(id as u16)).unwrap_or(&none);
        text.series("session_seconds", &[("listener", listener)], series);
    }
}

/// One server of the plan, summed over its addresses.
struct ServerRow<'a> {
    labels: [(&'a str, &'a str); 2],
    sums: ServerSums,
    condition: Condition,
    connect: Option<Series>,
    rtt: Option<Series>,
}

fn servers(view: &View<'_>, text: &mut Text) {
    let groups = view.groups();
    let pools = view.snapshot.plan.pools.iter().zip(&groups);
    let rows: Vec<ServerRow<'_>> = pools
        .flat_map(|(pool, groups)| groups.iter().map(|group| row(view, &pool.name, group)))
        .collect();
    text.family("upstream_connects_total", Kind::Counter, "Connects to servers, by result.");
    for row in &rows {
        for result in ConnectResult::ALL {
            let labels = [row.labels[0], row.labels[1], ("result", result.as_str())];
            text.sample("upstream_connects_total", &labels, row.sums.connects[result as usize]);
        }
    }
    text.family("upstream_active", Kind::Gauge, "Sessions at the server now.");
    for row in &rows {
        text.sample("upstream_active", &row.labels, row.sums.active);
    }
    text.family("upstream_up", Kind::Gauge, "1 if the server gets new sessions.");
    for row in &rows {
        text.sample("upstream_up", &row.labels, u8::from(row.condition == Condition::Up));
    }
    text.family("upstream_state", Kind::Gauge, "1 for the state the server is in.");
    for row in &rows {
        for condition in Condition::ALL {
            let labels = [row.labels[0], row.labels[1], ("state", condition.as_str())];
            text.sample("upstream_state", &labels, u8::from(row.condition == condition));
        }
    }
    text.family("upstream_resets_total", Kind::Counter, "Sessions that the server reset.");
    for row in &rows {
        text.sample("upstream_resets_total", &row.labels, row.sums.resets);
    }
    let help = "Unused connections that a worker took from another.";
    text.family("upstream_stolen_total", Kind::Counter, help);
    for row in &rows {
        text.sample("upstream_stolen_total", &row.labels, row.sums.stolen);
    }
    text.family("upstream_connect_seconds", Kind::Histogram, "How long successful connects took.");
    for row in &rows {
        let none = Series::default();
        let series = row.connect.as_ref().unwrap_or(&none);
        text.series("upstream_connect_seconds", &row.labels, series);
    }
    paths(&rows, text);
    pools_of(view, text);
}

/// What the kernel measured on the way to servers.
fn paths(rows: &[ServerRow<'_>], text: &mut Text) {
    text.family("upstream_rtt_seconds", Kind::Histogram, "Round trips to servers, by the kernel.");
    for row in rows {
        let none = Series::default();
        text.series("upstream_rtt_seconds", &row.labels, row.rtt.as_ref().unwrap_or(&none));
    }
    text.family("upstream_rttvar_seconds", Kind::Gauge, "Smoothed variation of the round trip.");
    for row in rows {
        let seconds = row.sums.rttvar_us as f64 / 1e6;
        text.sample("upstream_rttvar_seconds", &row.labels, seconds);
    }
    let help = "Segments sent again on the way to servers.";
    text.family("upstream_retransmits_total", Kind::Counter, help);
    for row in rows {
        text.sample("upstream_retransmits_total", &row.labels, row.sums.retransmits);
    }
}

fn row<'a>(view: &View<'_>, pool: &'a str, group: &ServerGroup<'a>) -> ServerRow<'a> {
    ServerRow {
        labels: [("pool", pool), ("server", &group.plan.name)],
        sums: view.servers(group.states.iter().copied()),
        condition: group.condition(view.now),
        connect: sum_of(&view.totals.connect, group.states.iter().map(|state| state.id)),
        rtt: sum_of(&view.totals.rtt, group.states.iter().map(|state| state.id)),
    }
}

fn pools_of(view: &View<'_>, text: &mut Text) {
    let pools = || view.snapshot.plan.pools.iter().zip(&view.snapshot.pools);
    text.family("retries_total", Kind::Counter, "Attempts at another server, by what failed.");
    for ((pool, _), retries) in pools().zip(view.retries()) {
        for cause in RetryCause::ALL {
            let labels = [("pool", pool.name.as_str()), ("reason", cause.as_str())];
            text.sample("retries_total", &labels, retries[cause as usize]);
        }
    }
    text.family("pool_held", Kind::Gauge, "Clients that wait for a server.");
    for (pool, now) in pools() {
        let held = now.state.waiting.load(Ordering::Relaxed);
        text.sample("pool_held", &[("pool", &pool.name)], held);
    }
}

fn process(view: &View<'_>, text: &mut Text) {
    text.family("log_dropped_total", Kind::Counter, "Access-log lines lost.");
    text.sample("log_dropped_total", &[], view.log_dropped);
    text.family("log_stalled", Kind::Gauge, "1 while the access log takes nothing.");
    text.sample("log_stalled", &[], u8::from(view.log_stalled));
    text.family("config_last_reload_successful", Kind::Gauge, "1 if the last load was applied.");
    let last = view.loading.last.as_ref();
    let good = last.is_none_or(|reload| reload.outcome.is_ok());
    text.sample("config_last_reload_successful", &[], u8::from(good));
    text.family("workers_stuck", Kind::Gauge, "Workers that have not moved for seconds.");
    text.sample("workers_stuck", &[], view.stuck.len());
    let taken = Process::read();
    text.family("process_open_fds", Kind::Gauge, "Open descriptors.");
    text.sample("process_open_fds", &[], taken.descriptors);
    text.family("process_max_fds", Kind::Gauge, "Descriptors there may be.");
    text.sample("process_max_fds", &[], taken.descriptors_max);
    text.family("process_resident_memory_bytes", Kind::Gauge, "Memory in use.");
    text.sample("process_resident_memory_bytes", &[], taken.resident_bytes);
    text.family("process_cpu_seconds_total", Kind::Counter, "CPU time, user and system.");
    text.sample("process_cpu_seconds_total", &[], taken.cpu_seconds);
    text.family("uptime_seconds", Kind::Gauge, "Seconds since the start.");
    text.sample("uptime_seconds", &[], view.now.since(view.started_at).as_secs_f64());
    text.family("build_info", Kind::Gauge, "1, with version and engine as labels.");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("engine", view.engine.as_str())];
    text.sample("build_info", &labels, 1);
}

/// Counters that each worker has one of.
type WorkerRow = (&'static str, Kind, &'static str, fn(&WorkerCounts) -> &Count);

static WORKER_ROWS: [WorkerRow; 7] = [
    ("worker_turns_total", Kind::Counter, "Turns of the loop.", |counts| &counts.turns),
    ("worker_panics_total", Kind::Counter, "Sessions closed by a defect.", |counts| &counts.panics),
    ("worker_pick_races_total", Kind::Counter, "Places taken after eight lost races.", |counts| {
        &counts.pick_races
    }),
    (
        "worker_handed_over_total",
        Kind::Counter,
        "Clients given to a less loaded worker.",
        |counts| &counts.handed_over,
    ),
    ("worker_overflow_bytes", Kind::Gauge, "Bytes held for slow peers.", |counts| {
        &counts.overflow_bytes
    }),
    ("worker_overflow_bytes_peak", Kind::Gauge, "The most there were.", |counts| {
        &counts.overflow_bytes_peak
    }),
    ("worker_bytes_lost_total", Kind::Counter, "Bytes that a reset kept from a peer.", |counts| {
        &counts.bytes_lost
    }),
];

fn workers(view: &View<'_>, text: &mut Text) {
    let ids: Vec<String> = view.workers.iter().map(|worker| worker.id.to_string()).collect();
    let rows = || ids.iter().map(String::as_str).zip(view.workers);
    text.family("worker_sessions", Kind::Gauge, "Sessions in the worker's table.");
    for (id, worker) in rows() {
        let sessions = worker.counts.sessions.load(Ordering::Relaxed);
        text.sample("worker_sessions", &[("worker", id)], sessions);
    }
    text.family("worker_busy_seconds_total", Kind::Counter, "Time spent not waiting.");
    for (id, worker) in rows() {
        let seconds = worker.counts.busy_ns.value() as f64 / 1e9;
        text.sample("worker_busy_seconds_total", &[("worker", id)], seconds);
    }
    text.family("worker_late", Kind::Gauge, "1 if its histograms are of an older scrape.");
    for (id, worker) in rows() {
        text.sample("worker_late", &[("worker", id)], u8::from(view.late.contains(&worker.id)));
    }
    for (name, kind, help, count) in &WORKER_ROWS {
        text.family(name, *kind, help);
        for (id, worker) in rows() {
            text.sample(name, &[("worker", id)], count(&worker.counts).value());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_as_the_format_demands() {
        let mut text = Text(String::new());
        text.sample("x", &[("a", "q\"\\\n")], 1);
        assert_eq!(text.0, "sluicegate_x{a=\"q\\\"\\\\\\n\"} 1\n");
    }

    #[test]
    fn an_empty_series_has_every_bucket_at_zero() {
        let mut text = Text(String::new());
        text.series("y", &[("p", "v")], &Series::default());
        assert_eq!(text.0.lines().count(), BUCKETS_LE.len() + 3);
        assert!(text.0.contains("sluicegate_y_bucket{p=\"v\",le=\"+Inf\"} 0\n"), "{}", text.0);
        assert!(text.0.contains("sluicegate_y_sum{p=\"v\"} 0\n"), "{}", text.0);
    }
}
