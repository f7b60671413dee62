//! What status says about traffic beside sums: routes, and how latencies are distributed.
//!
//! Distributions are counts since the start, so whoever asks twice has those of the time between
//! by subtraction. The dashboard draws its heat map and its percentiles of late from them.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::{Quantiles, quantiles};
use crate::config::plan::Listener;
use crate::observe::histograms::{RouteTotals, Series, sum_of};
use crate::observe::view::{ServerGroup, View};
use crate::registry::ListenerId;

/// Upper bounds in microseconds, six a decade: 10 µs to 100 s. Finer than what metrics export,
/// because a person looks at them and no database keeps them.
#[rustfmt::skip]
const BOUNDS_US: [u64; 43] = [
    10, 15, 20, 30, 50, 70,
    100, 150, 200, 300, 500, 700,
    1_000, 1_500, 2_000, 3_000, 5_000, 7_000,
    10_000, 15_000, 20_000, 30_000, 50_000, 70_000,
    100_000, 150_000, 200_000, 300_000, 500_000, 700_000,
    1_000_000, 1_500_000, 2_000_000, 3_000_000, 5_000_000, 7_000_000,
    10_000_000, 15_000_000, 20_000_000, 30_000_000, 50_000_000, 70_000_000,
    100_000_000,
];

/// How often what took how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distribution {
    /// What was timed: `requests`, `sessions` or `connects`.
    pub of: String,
    /// Upper bounds of the buckets, from the first that holds something to the last. What took
    /// longer than all bounds there are is in none.
    pub le_us: Vec<u64>,
    /// Each bucket's own, not cumulative.
    pub counts: Vec<u64>,
}

impl Distribution {
    /// `None` while there is nothing.
    fn new(of: &str, series: &Series) -> Option<Self> {
        let counts = series.counts_between(&BOUNDS_US);
        let first = counts.iter().position(|&count| count > 0)?;
        let last = counts.iter().rposition(|&count| count > 0)?;
        Some(Self {
            of: of.to_owned(),
            le_us: BOUNDS_US[first..=last].to_vec(),
            counts: counts[first..=last].to_vec(),
        })
    }
}

/// One route of an HTTP listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteStatus {
    pub requests: u64,
    /// By class of status, `2xx`; only those that there were.
    pub classes: BTreeMap<String, u64>,
    /// Whole requests since the start; `null` before the first.
    pub latency_ms: Option<Quantiles>,
    pub latency: Option<Distribution>,
}

/// Requests of a listener by route; none for one that speaks no HTTP.
pub(super) fn requests<'a>(
    view: &View<'a>,
    id: ListenerId,
    listener: &'a Listener,
) -> BTreeMap<&'a str, RouteTotals> {
    listener.http.as_ref().map(|http| view.routes(id, http)).unwrap_or_default()
}

pub(super) fn routes(requests: &BTreeMap<&str, RouteTotals>) -> BTreeMap<String, RouteStatus> {
    let row = |(name, totals): (&&str, &RouteTotals)| ((*name).to_owned(), route(totals));
    requests.iter().map(row).collect()
}

fn route(totals: &RouteTotals) -> RouteStatus {
    let mut classes = BTreeMap::new();
    for (code, count) in &totals.codes {
        *classes.entry(format!("{}xx", code / 100)).or_default() += count;
    }
    RouteStatus {
        requests: totals.seconds.count(),
        classes,
        latency_ms: (totals.seconds.count() > 0).then(|| quantiles(&totals.seconds)),
        latency: Distribution::new("requests", &totals.seconds),
    }
}

/// Of a listener's requests, or of its sessions if it speaks no HTTP.
pub(super) fn latency(
    view: &View<'_>,
    id: ListenerId,
    requests: &BTreeMap<&str, RouteTotals>,
) -> Option<Distribution> {
    if requests.is_empty() {
        return Distribution::new("sessions", view.totals.session.get(&id)?);
    }
    let mut all = Series::default();
    for totals in requests.values() {
        all.add(&totals.seconds);
    }
    Distribution::new("requests", &all)
}

/// Of successful connects to the servers of a pool.
pub(super) fn connects(view: &View<'_>, groups: &[ServerGroup<'_>]) -> Option<Distribution> {
    let states = groups.iter().flat_map(|group| &group.states);
    let series = sum_of(&view.totals.connect, states.map(|state| state.id))?;
    Distribution::new("connects", &series)
}

/// "" where the system does not say.
pub(super) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn series(values: &[u64]) -> Series {
        let mut part: Histogram<u32> = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        for &value in values {
            part.record(value).unwrap();
        }
        let mut series = Series::default();
        series.merge(&part);
        series
    }

    #[test]
    fn a_distribution_reaches_from_its_first_bucket_to_its_last() {
        let all = Distribution::new("requests", &series(&[150, 160, 160, 500])).unwrap();
        assert_eq!((all.le_us, all.counts), (vec![150, 200, 300, 500], vec![1, 2, 0, 1]));
        assert!(Distribution::new("requests", &series(&[])).is_none());
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let codes = BTreeMap::from([(200, 3), (204, 1), (499, 2)]);
        let status = route(&RouteTotals { codes, seconds: series(&[10, 20]) });
        let wanted = BTreeMap::from([("2xx".to_owned(), 4), ("4xx".to_owned(), 2)]);
        assert_eq!((status.classes, status.requests), (wanted, 2));
    }
}
