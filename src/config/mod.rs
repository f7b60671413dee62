//! Configuration: raw file → checked plan.

pub mod plan;
pub mod units;
