//! The control thread: everything rare.

mod checks;
mod desk;
mod dns;
#[cfg(test)]
pub(crate) mod fixture;
pub mod instance;
pub mod membership;
pub mod notice;
pub mod probe;
mod scrape;
