//! Status as a page that a person reads.

use std::fmt::Write;

use crate::observe::status::{ListenerStatus, Quantiles, ServerStatus, Status};

/// Days before its end that a certificate is spoken of: renewal was due a week before that.
const DAYS_NEAR: i64 = 21;

/// Renders the whole page. `colour`: states are coloured.
pub(super) fn render(status: &Status, colour: bool) -> String {
    let mut page = String::new();
    let ready = if status.ready { "ready" } else { "not ready" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "sluicegate {}  {ready}, up {}, pid {}, configuration {}",
        status.version,
        span(status.uptime_s),
        status.pid,
        status.config.hash.get(..8).unwrap_or(&status.config.hash),
    );
    let workers = status.workers.iter().map(|worker| {
        let late = match (worker.stuck, worker.late) {
            (true, _) => ", STUCK",
            (false, true) => ", late",
            (false, false) => "",
        };
        format!(
            "{}: {} sessions, {:.0} % busy{late}",
            worker.id,
            worker.sessions,
            worker.busy * 100.0
        )
    });
    let _ = writeln!(page, "workers    {}", workers.collect::<Vec<_>>().join(" · "));
    if status.log.dropped > 0 || status.log.stalled {
        let stalled = if status.log.stalled { "log stalled, " } else { "" };
        let _ = writeln!(page, "access log {stalled}{} lines lost", status.log.dropped);
    }
    page.push('\n');
    let mut listeners =
        Table::new(&["LISTENER", "ADDRESS", "MODE", "POOL", "ACTIVE", "TOTAL", "REFUSED"]);
    for (name, listener) in &status.listeners {
        let (bind, numbers) = (listener.bind.join(", "), [listener.total, listener.refused]);
        let [total, refused] = numbers.map(|number| number.to_string());
        let active = listener.active.to_string();
        let pool = listener.pool.clone().unwrap_or_else(|| "-".into());
        listeners.row([name.clone(), bind, mode(listener), pool, active, total, refused]);
    }
    listeners.write(&mut page, false);
    certificates(status, &mut page);
    for (name, pool) in &status.pools {
        let held =
            if pool.held > 0 { format!(", {} clients wait", pool.held) } else { String::new() };
        let _ = writeln!(page, "\npool {name}  {}{held}", pool.balance);
        let mut servers = Table::new(&[
            "SERVER",
            "ADDRESS",
            "STATE",
            "WEIGHT",
            "ACTIVE",
            "TOTAL",
            "ERRORS",
            "CONNECT p50/p99",
            "REQUEST p50/p99",
            "CHECK",
        ]);
        for (name, server) in &pool.servers {
            servers.row(server_row(name.clone(), server));
            for member in server.members.iter().flatten() {
                servers.row(server_row("  ·".into(), member));
            }
        }
        servers.write(&mut page, colour);
    }
    page
}

/// `tcp`, `http`, `tcp, tls`.
fn mode(listener: &ListenerStatus) -> String {
    if listener.tls { format!("{}, tls", listener.mode) } else { listener.mode.clone() }
}

/// What needs somebody to look at it: files that cannot be used, dates that come near.
/// Policies that are told of as the slowest.
const SLOWEST: usize = 20;

/// The policies that take longest.
pub(super) fn slowest(status: &Status) -> String {
    let mut page = String::new();
    if status.policies.is_empty() {
        return "no policy has run yet\n".into();
    }
    let mut table = Table::new(&["POLICY", "TYPE", "ROUTE", "REQUESTS", "REFUSED", "P50", "P99"]);
    for row in status.policies.iter().take(SLOWEST) {
        let [p50, p99] = [row.p50_us, row.p99_us].map(|us| format!("{us:.0} µs"));
        let [requests, denied] = [row.requests, row.denied].map(|count| count.to_string());
        let route = if row.route.is_empty() { "-".into() } else { row.route.clone() };
        table.row([row.policy.clone(), row.kind.clone(), route, requests, denied, p50, p99]);
    }
    table.write(&mut page, false);
    page
}

fn certificates(status: &Status, page: &mut String) {
    for (name, listener) in &status.listeners {
        if let Some(error) = &listener.tls_error {
            let _ = writeln!(page, "listener {name}: changed certificate not in use: {error}");
        }
        for certificate in listener.certificates.iter().filter(|one| one.days_left < DAYS_NEAR) {
            let (cert, until) = (&certificate.cert, &certificate.not_after);
            let word = if certificate.days_left < 0 { "expired" } else { "expires" };
            let _ = writeln!(page, "listener {name}: certificate {cert} {word} {until}");
        }
    }
}

fn server_row(name: String, server: &ServerStatus) -> [String; 10] {
    let span = |quantiles: &Option<Quantiles>| {
        let quantiles = quantiles.as_ref();
        quantiles.map_or("-".into(), |ms| format!("{:.1}/{:.1} ms", ms.p50, ms.p99))
    };
    let (connect, request) = (span(&server.latency_ms.connect), span(&server.latency_ms.request));
    let backup = if server.backup { " backup" } else { "" };
    let said = server.r#override.as_ref().and_then(|said| said.weight);
    let weight = match (&server.members, said) {
        (Some(_), _) => "-".into(),
        (None, Some(weight)) => format!("{weight} (file: {}){backup}", server.configured.weight),
        (None, None) => format!("{}{backup}", server.weight),
    };
    [
        name,
        server.addr.clone(),
        server.state.clone(),
        weight,
        server.active.to_string(),
        server.total.to_string(),
        server.errors.to_string(),
        connect,
        request,
        server.health.detail.clone(),
    ]
}

/// `2d 3h`, `5m 12s`, `4s`.
pub(in crate::cli) fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// Rows of equal columns, as wide as the widest cell.
pub(in crate::cli) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(in crate::cli) fn new(head: &[&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    pub(in crate::cli) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(in crate::cli) fn write(&self, page: &mut String, colour: bool) {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width - cell.chars().count() + 2;
                let (on, off) = if colour { paint(cell) } else { ("", "") };
                let _ = write!(line, "{on}{cell}{off}{:pad$}", "");
            }
            page.push_str(line.trim_end());
            page.push('\n');
        }
    }
}

fn paint(cell: &str) -> (&'static str, &'static str) {
    match cell {
        "up" => ("\x1b[32m", "\x1b[0m"),
        "down" => ("\x1b[31m", "\x1b[0m"),
        "ejected" | "draining" | "maint" => ("\x1b[33m", "\x1b[0m"),
        _ => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["wider".into(), "x".into()]);
        let mut page = String::new();
        table.write(&mut page, false);
        assert_eq!(page, "A      LONG\nwider  x\n");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        assert_eq!([4.2, 312.0, 7_260.0, 183_600.0].map(span), ["4s", "5m 12s", "2h 1m", "2d 3h"]);
    }
}
