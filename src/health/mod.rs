//! Whether a server gets traffic: what is decided, not how it is found out.
//!
//! No socket and no clock. The control thread turns a check into an [`Outcome`] and acts on the
//! [`Change`]; workers count failed connects, and control asks [`ejection`] what follows.

mod outlier;
mod state;

pub use outlier::{Ejection, ejection};
pub use state::{Change, Health, Limits, Outcome};
