//! Durations into histograms, allocated when the first one of a kind is measured.

use std::time::Duration;

use hdrhistogram::Histogram;

/// An hour; longer counts as an hour.
const MICROS_MAX: u64 = 3_600_000_000;

/// Counts one duration under `id`. Microseconds, two digits.
pub fn record<Id: PartialEq>(all: &mut Vec<(Id, Histogram<u32>)>, id: Id, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(MICROS_MAX).clamp(1, MICROS_MAX);
    let at = all.iter().position(|(known, _)| *known == id);
    let at = at.unwrap_or_else(|| {
        // The bounds are constants that hdrhistogram accepts.
        let histogram = Histogram::new_with_bounds(1, MICROS_MAX, 2);
        all.push((id, histogram.expect("1 < 3.6e9 and 2 digits are valid bounds")));
        all.len() - 1
    });
    all[at].1.saturating_record(micros);
}
