//! Which route a request takes.

pub mod spec;
pub mod template;
