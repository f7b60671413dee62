//! What can be seen: reasons, counters, records.

pub mod counters;
pub mod reason;
pub mod record;
