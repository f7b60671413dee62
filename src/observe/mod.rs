//! What can be seen: reasons, counters, records, and how they are shown.

pub mod access_log;
pub mod clock;
pub mod counters;
pub mod events;
pub mod histograms;
pub mod labels;
pub mod lines;
pub mod logger;
pub mod metrics;
pub mod process;
pub mod reason;
pub mod record;
pub mod requests;
pub mod sampling;
pub mod status;
pub mod view;
