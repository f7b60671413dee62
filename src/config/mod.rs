//! Configuration: raw file → checked plan.

pub mod plan;
