//! Rates, quotas and requests at once: keys, tables, and what the answer says.

use std::time::Duration;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::limit_lines::{LimitLine, retry_after};
use sluicegate_l7::policy::quota::QuotaSpec;
use sluicegate_l7::policy::rate::{Decision, Rate};
use sluicegate_l7::policy::redis_script::Limits;
use sluicegate_l7::policy::spec::{LimitKey, LimitSpec, OnError, StoreSpec};
use sluicegate_l7::route::Fields as _;

use super::super::errand::Errand;
use super::gate::Standing;
use super::run::Step;
use crate::runtime::driver::Driver;

/// What a limit is counted by, for one request: names and values, so that it is the same in
/// every instance.
fn scope<D: Driver>(step: &Step<'_, '_, D>, by: &[LimitKey], errand: &Errand) -> Vec<u8> {
    let mut scope = Vec::with_capacity(64);
    let mut part = |kind: u8, value: &[u8]| {
        scope.push(kind);
        scope.extend_from_slice(&(value.len() as u32).to_be_bytes());
        scope.extend_from_slice(value);
    };
    let address = step.client().map(crate::limits::scope_of).unwrap_or_default();
    let listener = &step.site.name;
    for key in by {
        match (key, errand.gate.principal.as_deref()) {
            (LimitKey::Consumer, Some(principal)) => {
                part(b'c', principal.id.as_bytes());
                // Ids of different issuers are different people.
                if principal.declared.is_none()
                    && let Some(policy) = errand.gate.auth
                {
                    part(b'a', step.site.rules.specs()[usize::from(policy)].name.as_bytes());
                }
            }
            (LimitKey::Consumer, None) | (LimitKey::Ip, _) => part(b'i', &address),
            (LimitKey::Header(name), _) => match step.case.lines.line(name, 0) {
                Some(value) => part(b'h', value),
                None => part(b'i', &address),
            },
            (LimitKey::Route, _) => {
                part(b'l', listener.as_bytes());
                if let Some(route) = errand.route() {
                    part(b'r', step.site.table.spec(route).name.as_bytes());
                }
            }
            (LimitKey::Listener, _) => part(b'l', listener.as_bytes()),
        }
    }
    scope
}

/// The limit of the best of the consumer's groups, else the usual one.
fn tier<'l, L>(limit: &'l LimitSpec<L>, errand: &Errand, better: impl Fn(&L, &L) -> bool) -> &'l L {
    let Some(principal) = errand.gate.principal.as_deref() else { return &limit.limit };
    let own = limit.by_group.iter().filter(|(group, _)| principal.is_in(group));
    own.map(|(_, limit)| limit)
        .reduce(|best, next| if better(next, best) { next } else { best })
        .unwrap_or(&limit.limit)
}

/// More in the long run: by the slowest of its rates.
fn is_more(one: &[Rate], other: &[Rate]) -> bool {
    let slowest = |rates: &[Rate]| {
        let speeds =
            rates.iter().map(|rate| f64::from(rate.count().get()) / rate.per().as_secs_f64());
        speeds.fold(f64::INFINITY, f64::min)
    };
    slowest(one) > slowest(other)
}

pub(super) async fn rate<D: Driver>(
    step: &Step<'_, '_, D>,
    limit: &LimitSpec<Vec<Rate>>,
    errand: &mut Errand,
) -> Result<(), Denial> {
    let rates = tier(limit, errand, |one, other| is_more(one, other));
    let scope = scope(step, &limit.key, errand);
    let policy = step.at as u16;
    let here = || {
        let table = step.office.limits();
        table.take(policy, table.key(&[&scope]), rates, step.office.now().0)
    };
    let decision = match &limit.store {
        None => here(),
        Some(store) => shared(step, store, &scope, Limits::Rates(rates), here).await?,
    };
    // Where nobody counts there is nothing to tell.
    if decision != Decision::UNLIMITED
        && let Some(line) = LimitLine::of_rates(&step.spec.name, rates, &decision)
    {
        errand.gate.standings.push((policy, standing(&line)));
    }
    said("rate-limited", &decision)
}

pub(super) async fn quota<D: Driver>(
    step: &Step<'_, '_, D>,
    limit: &LimitSpec<QuotaSpec>,
    errand: &mut Errand,
) -> Result<(), Denial> {
    let per_second = |quota: &QuotaSpec| {
        let window = quota.window.around(0);
        f64::from(quota.limit.get()) / (window.end - window.start) as f64
    };
    let quota = tier(limit, errand, |one, other| per_second(one) > per_second(other));
    let scope = scope(step, &limit.key, errand);
    let (policy, now) = (step.at as u16, step.office.unix_now());
    let here = || {
        let table = step.office.limits();
        table.count(policy, table.key(&[&scope]), quota, now)
    };
    let decision = match &limit.store {
        None => here(),
        Some(store) => shared(step, store, &scope, Limits::Quota(*quota), here).await?,
    };
    if decision != Decision::UNLIMITED {
        let line = LimitLine::of_quota(&step.spec.name, *quota, now, &decision);
        errand.gate.standings.push((policy, standing(&line)));
    }
    said("quota", &decision)
}

/// Decided in the store, or as the policy says when that does not answer.
async fn shared<D: Driver>(
    step: &Step<'_, '_, D>,
    store: &StoreSpec,
    scope: &[u8],
    limits: Limits<'_>,
    here: impl Fn() -> Decision,
) -> Result<Decision, Denial> {
    if let Some(shared) = step.office.shared_limits(&step.site.rules, step.at, store)
        && let Ok(decision) = shared.decide(&step.spec.name, &[scope], limits).await
    {
        return Ok(decision);
    }
    match store.on_error {
        OnError::Local => Ok(here()),
        OnError::Allow => Ok(Decision::UNLIMITED),
        OnError::Deny => {
            Err(Denial::new("overloaded", 503)
                .with_detail("limits cannot be counted at the moment"))
        }
    }
}

pub(super) fn standing(line: &LimitLine<'_>) -> Standing {
    Standing {
        quota: line.quota,
        window: line.window,
        remaining: line.remaining,
        reset_after: line.reset_after,
    }
}

fn said(reason: &'static str, decision: &Decision) -> Result<(), Denial> {
    if decision.allowed { Ok(()) } else { Err(too_many(reason, decision)) }
}

/// 429, and when to come back.
pub(super) fn too_many(reason: &'static str, decision: &Decision) -> Denial {
    let mut denial = Denial::new(reason, 429);
    let wait = decision.retry_after.max(Duration::from_secs(1));
    denial.retry_after = Some(u32::try_from(retry_after(wait)).unwrap_or(u32::MAX));
    denial
}

pub(super) fn concurrency<D: Driver>(
    step: &Step<'_, '_, D>,
    by: &[LimitKey],
    limit: u32,
    errand: &mut Errand,
) -> Result<(), Denial> {
    let scope = scope(step, by, errand);
    let table = step.office.limits();
    let permit = table.enter(step.at as u16, table.key(&[&scope]), limit);
    let permit = permit.ok_or_else(|| {
        let own = by.iter().any(|key| !matches!(key, LimitKey::Route | LimitKey::Listener));
        Denial::new("overloaded", if own { 429 } else { 503 })
    })?;
    errand.gate.permits.push(permit);
    Ok(())
}
