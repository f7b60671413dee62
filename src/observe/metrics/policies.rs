//! Metrics of policies and consumers.
//!
//! Routes that share a name are one series, whatever listener they are of.

use std::collections::BTreeMap;

use sluicegate_l7::policy::spec::Kind as PolicyKind;

use super::{Kind, Text};
use crate::config::plan::Plan;
use crate::observe::histograms::PolicyTotals;
use crate::observe::view::View;

/// The class of a status by its hundreds.
const CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn policies(view: &View<'_>, text: &mut Text) {
    let plan = &view.snapshot.plan;
    breakers(view, text);
    if plan.policies.is_empty() {
        return;
    }
    let rows = view.policies();
    let name = |policy: u16| plan.policies[usize::from(policy)].name.as_str();
    text.family("policy_seconds", Kind::Histogram, "What a policy took of a request.");
    for (&(policy, route), totals) in &rows {
        let labels = [("policy", name(policy)), ("route", route)];
        text.series("policy_seconds", &labels, &totals.seconds);
    }
    text.family(
        "policy_denied_total",
        Kind::Counter,
        "Requests that a policy refused, or would have if it were not a dry run.",
    );
    for (&(policy, route), totals) in &rows {
        let labels = [("policy", name(policy)), ("route", route)];
        text.sample("policy_denied_total", &labels, totals.denied);
    }
    limits(plan, &rows, text);
    consumers(view, text);
}

fn breakers(view: &View<'_>, text: &mut Text) {
    let pools = || {
        let pools = view.snapshot.pools.iter().zip(&view.snapshot.plan.pools);
        let pools = pools.filter(|(_, plan)| plan.breaker.is_some() && !plan.retired);
        pools.filter_map(|(pool, _)| Some((&*pool.state.name, pool.state.breaker()?)))
    };
    if pools().next().is_none() {
        return;
    }
    text.family("breaker_state", Kind::Gauge, "0 closed, 1 half-open, 2 open.");
    for (name, breaker) in pools() {
        text.sample("breaker_state", &[("pool", name)], breaker.state());
    }
}

fn limits(plan: &Plan, rows: &BTreeMap<(u16, &str), PolicyTotals>, text: &mut Text) {
    text.family("ratelimit_total", Kind::Counter, "Decisions of policies that limit, by result.");
    for (at, policy) in plan.policies.iter().enumerate() {
        let limits = matches!(
            policy.kind,
            PolicyKind::Rate(_) | PolicyKind::Quota(_) | PolicyKind::Concurrency { .. }
        );
        if !limits {
            continue;
        }
        let own =
            rows.range((at as u16, "")..).take_while(|((policy, _), _)| usize::from(*policy) == at);
        let (all, denied) = own.fold((0, 0), |(all, denied), (_, totals)| {
            (all + totals.seconds.count(), denied + totals.denied)
        });
        for (result, count) in [("allowed", all - denied), ("limited", denied)] {
            text.sample("ratelimit_total", &[("policy", &policy.name), ("result", result)], count);
        }
    }
}

fn consumers(view: &View<'_>, text: &mut Text) {
    let labels = &view.snapshot.fronts.labels;
    let mut rows: BTreeMap<(&str, &str, u8), u64> = BTreeMap::new();
    for (&(_, route, consumer, class), count) in &view.totals.consumers {
        let consumer = consumer.map_or("other", |number| labels.name(number));
        *rows.entry((consumer, view.route_name(route), class)).or_default() += count;
    }
    text.family(
        "consumer_requests_total",
        Kind::Counter,
        "Requests by declared consumer (else `other`), route and class of status.",
    );
    for (&(consumer, route, class), count) in &rows {
        let class = CLASSES.get(usize::from(class)).copied().unwrap_or_default();
        let labels = [("consumer", consumer), ("route", route), ("class", class)];
        text.sample("consumer_requests_total", &labels, count);
    }
}
