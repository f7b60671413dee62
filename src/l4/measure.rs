//! Durations into histograms, allocated when the first one of a kind is measured; and the ways to
//! servers.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::observe::counters::ServerCounts;
use crate::registry::ServerId;
use crate::runtime::driver::PathInfo;

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

/// Counts what was measured on the way to a server. `retransmits` of `path` are those that are new.
pub fn path(
    all: &mut Vec<(ServerId, Histogram<u32>)>,
    counts: &ServerCounts,
    server: ServerId,
    path: &PathInfo,
) {
    record(all, server, Duration::from_micros(path.rtt_us.into()));
    counts.retransmits.add(path.retransmits.into());
    // As TCP itself smooths (RFC 6298 §2): an eighth of what is new.
    let (before, new) = (counts.rttvar_us.value(), u64::from(path.rttvar_us));
    counts.rttvar_us.set(if before == 0 { new } else { (before * 7 + new) / 8 });
}
