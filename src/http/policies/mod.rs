//! The policies of a route, run on a request: what `l7` judges, and what a worker has to ask or
//! count for it.
//!
//! ```text
//! route found ─▶ ip ─▶ early limits ─▶ cors ─▶ size ─▶ auth ─▶ acl ─▶ limits ─▶ passed
//!                 └──────────┴──────────┴───────┴───────┴───────┴───────┴────▶ refused
//! ```
//!
//! Changes to heads and bodies come after, where these are written. What a policy takes (tokens,
//! places) stands in the [`Gate`] that the request keeps until it is over.

mod ask;
mod auth;
mod forward;
mod gate;
mod introspect;
mod limits;
mod passwords;
mod rules;
mod run;

pub use gate::{Gate, Refusal};
pub use passwords::Passwords;
pub use rules::Rules;
pub(super) use run::run;
