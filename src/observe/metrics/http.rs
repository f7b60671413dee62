//! Metrics of TLS and HTTP listeners, and of the servers behind them.
//!
//! Routes are told apart by name: those that share one are one series, and requests of no route
//! are counted with the listener's own `pool` under the name "". A code is the status that the
//! client got; 499 stands for a client that had gone before there was one.

use std::collections::{BTreeMap, BTreeSet};

use sluicegate_l7::route::spec::ActionSpec;

use super::{Kind, Text};
use crate::config::plan::Listener;
use crate::observe::counters::HandshakeResult;
use crate::observe::histograms::{RouteTotals, sum_of};
use crate::observe::requests::Mirrored;
use crate::observe::view::View;
use crate::registry::ListenerId;

/// One listener's requests by the name of their route.
type Routes<'a> = BTreeMap<&'a str, RouteTotals>;

pub(super) fn tls(view: &View<'_>, text: &mut Text) {
    let with_tls = || {
        let all = view.snapshot.plan.listeners.iter().enumerate();
        all.filter(|(_, listener)| listener.tls.is_some())
            .map(|(id, listener)| (ListenerId(id as u16), listener.name.as_str()))
    };
    if with_tls().next().is_none() {
        return;
    }
    text.family("tls_handshakes_total", Kind::Counter, "TLS handshakes of clients, by result.");
    for (id, listener) in with_tls() {
        let sums = view.listener(id);
        for result in HandshakeResult::ALL {
            let labels = [("listener", listener), ("result", result.as_str())];
            text.sample("tls_handshakes_total", &labels, sums.handshakes[result as usize]);
        }
    }
    // A certificate that nobody is shown any more alarms nobody.
    let listeners = &view.snapshot.plan.listeners;
    let in_use = || with_tls().filter(|(id, _)| !listeners[usize::from(id.0)].retired);
    let help = "When the certificate in use expires, in seconds since 1970.";
    text.family("cert_not_after_seconds", Kind::Gauge, help);
    for (id, listener) in in_use() {
        for (label, certificate) in view.certificates(id) {
            let labels = [("listener", listener), ("cert", label.as_str())];
            text.sample("cert_not_after_seconds", &labels, certificate.not_after);
        }
    }
    let help = "1 if the certificate files, as they are now, are in use.";
    text.family("cert_last_reload_successful", Kind::Gauge, help);
    for (id, listener) in in_use() {
        let kept = view.tls_kept.listeners.contains_key(&id);
        text.sample("cert_last_reload_successful", &[("listener", listener)], u8::from(!kept));
    }
}

pub(super) fn requests(view: &View<'_>, text: &mut Text) {
    let listeners = view.snapshot.plan.listeners.iter().enumerate();
    let rows: Vec<(&str, Routes<'_>)> = listeners
        .filter_map(|(id, listener)| {
            let http = listener.http.as_ref()?;
            Some((listener.name.as_str(), view.routes(ListenerId(id as u16), http)))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    text.family("http_requests_total", Kind::Counter, "Requests, by route and status.");
    for (listener, routes) in &rows {
        for (route, totals) in routes {
            for (code, count) in &totals.codes {
                let code = code.to_string();
                let labels = [("listener", *listener), ("route", *route), ("code", code.as_str())];
                text.sample("http_requests_total", &labels, count);
            }
        }
    }
    text.family(
        "http_request_seconds",
        Kind::Histogram,
        "From a request's head to its answer's end.",
    );
    for (listener, routes) in &rows {
        for (route, totals) in routes {
            let labels = [("listener", *listener), ("route", *route)];
            text.series("http_request_seconds", &labels, &totals.seconds);
        }
    }
    mirrors(view, text);
    servers(view, text);
}

/// Copies, of routes that make them.
fn mirrors(view: &View<'_>, text: &mut Text) {
    let mut rows: BTreeMap<(&str, &str, Mirrored), u64> = BTreeMap::new();
    for listener in &view.snapshot.plan.listeners {
        let routes = listener.http.iter().flat_map(|http| &http.routes);
        for route in routes.filter(|route| route.mirror.is_some()) {
            for result in Mirrored::ALL {
                rows.insert((&listener.name, &route.name, result), 0);
            }
        }
    }
    for (&(listener, route, result), count) in &view.totals.mirrored {
        let listener = &view.snapshot.plan.listeners[usize::from(listener.0)];
        let key = (listener.name.as_str(), view.route_name(Some(route)), result);
        *rows.entry(key).or_default() += count;
    }
    if rows.is_empty() {
        return;
    }
    text.family("mirrored_total", Kind::Counter, "Copies of requests, by what became of them.");
    for (&(listener, route, result), count) in &rows {
        let labels = [("listener", listener), ("route", route), ("result", result.as_str())];
        text.sample("mirrored_total", &labels, count);
    }
}

/// The servers of all pools that requests may go to.
fn servers(view: &View<'_>, text: &mut Text) {
    let plan = &view.snapshot.plan;
    let asked: BTreeSet<usize> = plan.listeners.iter().flat_map(pools_of).collect();
    let fallbacks = asked.iter().filter_map(|&pool| plan.fallback_pool(pool));
    let pools: BTreeSet<usize> = asked.iter().copied().chain(fallbacks).collect();
    text.family(
        "upstream_request_seconds",
        Kind::Histogram,
        "From sending a request to the head of its answer.",
    );
    for (at, groups) in view.groups().iter().enumerate().filter(|(at, _)| pools.contains(at)) {
        for group in groups {
            let ids = group.states.iter().map(|state| state.id);
            let series = sum_of(&view.totals.upstream, ids).unwrap_or_default();
            let labels = [("pool", plan.pools[at].name.as_str()), ("server", &group.plan.name)];
            text.series("upstream_request_seconds", &labels, &series);
        }
    }
}

/// The pools that an HTTP listener sends requests to.
fn pools_of(listener: &Listener) -> Vec<usize> {
    let Some(http) = &listener.http else { return Vec::new() };
    let mut pools: Vec<usize> = listener.pool.into_iter().collect();
    for route in &http.routes {
        match &route.action {
            ActionSpec::Pool(pool) => pools.push(*pool),
            ActionSpec::Split { pools: split, .. } => pools.extend(split.iter().map(|one| one.0)),
            ActionSpec::Redirect(_) | ActionSpec::Respond(_) => {}
        }
        pools.extend(route.mirror.as_ref().map(|mirror| mirror.pool));
    }
    pools
}
