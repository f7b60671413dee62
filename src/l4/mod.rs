//! The data path of TCP sessions.
//!
//! [`session`] has the diagram and the invariants; [`gate`] the step. The other files add to
//! the gate in the order of a session's life.

pub mod accept;
mod admit;
mod bulk;
mod ending;
pub mod gate;
pub(crate) mod measure;
mod prologue;
pub mod proxy_header;
pub mod proxy_protocol;
mod relay;
mod seats;
pub mod session;
#[cfg(test)]
mod sim_tests;
mod trust;
mod tunnel;

pub(crate) use prologue::connect_tls;
pub(crate) use seats::{Epilogue, How, Outcome, Upgrade};
pub(crate) use tunnel::{Watchers, tunnel};
