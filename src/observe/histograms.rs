//! What workers measured, added up since the start: one series a listener and a server.
//!
//! A worker fills a small histogram and hands it over at a scrape; here it is merged into
//! totals that only grow, as Prometheus wants them. Values are microseconds.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::observe::requests::Mirrored;
use crate::registry::{ListenerId, ServerId};
use crate::runtime::mail::Histograms;

/// Upper bounds of the exported buckets in microseconds: 1-2.5-5, 100 µs to 60 s.
pub const BUCKETS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 60_000_000,
];

/// The same bounds in seconds, as the `le` label has them.
pub const BUCKETS_LE: [&str; 18] = [
    "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1",
    "0.25", "0.5", "1", "2.5", "5", "10", "25", "60",
];

/// One growing distribution.
#[derive(Clone, Debug)]
pub struct Series {
    merged: Histogram<u64>,
    /// Kept beside the histogram so that it never shrinks by rounding.
    sum_us: u64,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            merged: Histogram::new_with_bounds(1, 3_600_000_000, 2)
                .expect("1 µs to 1 h at 2 digits are valid bounds"),
            sum_us: 0,
        }
    }
}

impl Series {
    pub fn merge(&mut self, part: &Histogram<u32>) {
        for step in part.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), u64::from(step.count_at_value()));
            self.merged.saturating_record_n(value, count);
            self.sum_us = self.sum_us.saturating_add(value.saturating_mul(count));
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        // Equal bounds, so nothing is out of range.
        let _ = self.merged.add(&other.merged);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.merged.len()
    }

    #[must_use]
    pub const fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Values up to each of [`BUCKETS_US`], cumulative. A value of the histogram stands for a
    /// range of 1 %; the range counts where its lower end lies, so that a bound that was met
    /// exactly is met here.
    #[must_use]
    pub fn buckets(&self) -> [u64; BUCKETS_US.len()] {
        let mut counts = self.counts_between(&BUCKETS_US);
        let mut below = 0;
        for count in &mut counts {
            below += *count;
            *count = below;
        }
        counts
    }

    /// Values above the bound before and up to each of `bounds`, not cumulative.
    #[must_use]
    pub fn counts_between<const N: usize>(&self, bounds: &[u64; N]) -> [u64; N] {
        let mut counts = [0; N];
        for step in self.merged.iter_recorded() {
            let lowest = self.merged.lowest_equivalent(step.value_iterated_to());
            let at = bounds.partition_point(|&bound| bound < lowest);
            if let Some(count) = counts.get_mut(at) {
                *count += step.count_at_value();
            }
        }
        counts
    }

    /// The value in milliseconds that `share` (0 to 1) of all values do not exceed.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.merged.value_at_quantile(share) as f64 / 1_000.0
    }
}

/// All series of the process.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub session: BTreeMap<ListenerId, Series>,
    pub connect: BTreeMap<ServerId, Series>,
    /// Round trips on the way to it.
    pub rtt: BTreeMap<ServerId, Series>,
    /// Requests by listener and route (`None`: of no route).
    pub routes: BTreeMap<(ListenerId, Option<u32>), RouteTotals>,
    /// From an attempt to its answer's head.
    pub upstream: BTreeMap<ServerId, Series>,
    /// By listener, route (`None`: of no route) and policy.
    pub policies: BTreeMap<(ListenerId, Option<u32>, u16), PolicyTotals>,
    /// Requests by listener, route, consumer (`None`: not declared) and hundreds of the status.
    pub consumers: BTreeMap<(ListenerId, Option<u32>, Option<u32>, u8), u64>,
    /// Copies by listener, number of the route's name, and what became of them.
    pub mirrored: BTreeMap<(ListenerId, u32, Mirrored), u64>,
}

/// One policy on one route.
#[derive(Clone, Debug, Default)]
pub struct PolicyTotals {
    /// What it took.
    pub seconds: Series,
    pub denied: u64,
}

impl PolicyTotals {
    /// Adds another, for routes that share a name.
    pub fn add(&mut self, other: &Self) {
        self.seconds.add(&other.seconds);
        self.denied += other.denied;
    }
}

/// Requests of one route.
#[derive(Clone, Debug, Default)]
pub struct RouteTotals {
    pub codes: BTreeMap<u16, u64>,
    /// Whole requests.
    pub seconds: Series,
}

impl RouteTotals {
    /// Adds another route's, for routes that share a name.
    pub fn add(&mut self, other: &Self) {
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        self.seconds.add(&other.seconds);
    }
}

impl Totals {
    pub fn merge(&mut self, part: &Histograms) {
        for (listener, histogram) in &part.session {
            self.session.entry(*listener).or_default().merge(histogram);
        }
        for (server, histogram) in &part.connect {
            self.connect.entry(*server).or_default().merge(histogram);
        }
        for (server, histogram) in &part.rtt {
            self.rtt.entry(*server).or_default().merge(histogram);
        }
        for (&(listener, route), counts) in &part.requests.routes {
            let route = (route != u32::MAX).then_some(route);
            let totals = self.routes.entry((ListenerId(listener), route)).or_default();
            for (code, count) in &counts.codes {
                *totals.codes.entry(*code).or_default() += count;
            }
            for ((), histogram) in &counts.seconds {
                totals.seconds.merge(histogram);
            }
        }
        let known = |id: u32| (id != u32::MAX).then_some(id);
        for (&(listener, route, policy), counts) in &part.requests.policies {
            let key = (ListenerId(listener), known(route), policy);
            let totals = self.policies.entry(key).or_default();
            totals.denied += counts.denied;
            for ((), histogram) in &counts.seconds {
                totals.seconds.merge(histogram);
            }
        }
        for (&(listener, route, consumer, class), count) in &part.requests.consumers {
            let key = (ListenerId(listener), known(route), known(consumer), class);
            *self.consumers.entry(key).or_default() += count;
        }
        for (&(listener, route, result), count) in &part.requests.mirrored {
            *self.mirrored.entry((ListenerId(listener), route, result)).or_default() += count;
        }
        for (server, histogram) in &part.requests.upstream {
            self.upstream.entry(*server).or_default().merge(histogram);
        }
    }
}

/// One series of several, for a name with several addresses.
#[must_use]
pub fn sum_of(
    series: &BTreeMap<ServerId, Series>,
    servers: impl Iterator<Item = ServerId>,
) -> Option<Series> {
    let mut sum: Option<Series> = None;
    for one in servers.filter_map(|id| series.get(&id)) {
        sum.get_or_insert_default().add(one);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(values: &[u64]) -> Histogram<u32> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        for &value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn a_value_on_a_bound_is_in_that_bucket_and_all_above() {
        let mut series = Series::default();
        series.merge(&part(&BUCKETS_US));
        let wanted: Vec<u64> = (1..=BUCKETS_US.len() as u64).collect();
        assert_eq!(series.buckets().to_vec(), wanted);
    }

    #[test]
    fn a_value_beyond_the_last_bound_counts_but_is_in_no_bucket() {
        let mut series = Series::default();
        series.merge(&part(&[100_000_000]));
        assert_eq!((series.count(), series.buckets()[17]), (1, 0));
    }

    #[test]
    fn parts_of_several_workers_add_up() {
        let mut totals = Totals::default();
        for worker in 0..3 {
            totals.merge(&Histograms {
                worker,
                connect: vec![(ServerId(0), part(&[200])), (ServerId(1), part(&[400]))],
                ..Histograms::default()
            });
        }
        let both = sum_of(&totals.connect, [ServerId(0), ServerId(1)].into_iter()).unwrap();
        assert_eq!((both.count(), totals.connect[&ServerId(0)].count()), (6, 3));
        assert!(both.quantile_ms(1.0) >= 0.4);
    }

    #[test]
    fn le_labels_are_the_bounds_in_seconds() {
        for (us, le) in BUCKETS_US.iter().zip(BUCKETS_LE) {
            assert!((le.parse::<f64>().unwrap() - *us as f64 / 1e6).abs() < 1e-12, "{le}");
        }
    }
}
