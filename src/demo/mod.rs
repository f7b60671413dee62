//! The demo: everything of the gateway at work in one process, with nothing to install.

pub mod servers;
pub mod story;
