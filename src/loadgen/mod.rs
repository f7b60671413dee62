//! The load generator behind `sluicegate bench` and the demo.
//!
//! The pure parts are [`pacing`] (when exchanges start), [`http_response`], [`target`] (what is
//! said), [`tally`], [`report`] and [`hgrm`].

pub mod hgrm;
pub mod http_response;
pub mod pacing;
pub mod report;
pub mod tally;
pub mod target;
