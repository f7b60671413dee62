//! The control thread: everything rare.

pub mod notice;
