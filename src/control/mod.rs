//! The control thread: everything rare.

#[cfg(test)]
pub(crate) mod fixture;
pub mod membership;
pub mod notice;
