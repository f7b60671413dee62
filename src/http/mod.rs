//! HTTP listeners: the shell that runs the `l7` crate on a worker.
//!
//! ```text
//!            ┌─ site: routes, limits, pages of one listener (immutable) ─┐
//! stream ─▶ session ─▶ read a head ─▶ errand (route, head for the server) ─▶ exchange ─▶ again
//!                          │                     │                              │
//!                          └──── answer made ◀───┘        upstream ◀────────────┘
//!                                here                     (pick, keep-alive, connect, retry)
//! ```
//!
//! A session is one async function per connection. What a message is and where it goes is decided
//! by `l7` on bytes; this module moves the bytes, keeps the clock and the counts.
//!
//! - `site` what a listener is, made ready once
//! - `office` what a worker has for all its HTTP sessions
//! - `session` one HTTP/1 connection: requests in order
//! - `errand` one request: its route, and the head that the server gets
//! - `exchange` one request and its answer on two connections, both bodies streaming
//! - `upstream` connections to servers, kept alive and watched
//! - `reply` the head that the client gets
//! - `explain` what would become of a request, without one
//! - `h2` HTTP/2: its connections, and its streams as sessions

mod errand;
mod exchange;
pub mod explain;
mod forward;
mod h2;
mod office;
mod reply;
mod retry;
mod session;
pub mod shared_limits;
mod site;
mod upstream;
mod waiting;

pub use office::Office;
pub use session::{Peers, serve};
pub use site::Site;
pub use waiting::TICKET;
