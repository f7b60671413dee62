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
//! - `errand` one request: what it is, its route, and what becomes of it
//! - `policies` what runs between a route and its server: who, how often, with what changes
//! - `kept_answers` who somebody was found to be on this worker, for a while
//! - `shared_answers` the same by what auth services say, for all workers: one asks for all
//! - `flow` what a hashing pool goes by
//! - `bodies` those that policies change
//! - `server_head` the head that the server gets
//! - `trailers` what of a request's trailers it gets
//! - `forward` a request on its way to a server, attempt by attempt
//! - `answering` its answer on its way back
//! - `account` what the log and the counters are told of it
//! - `joining` a session that becomes a relay after a 101
//! - `made_here` answers without a server
//! - `exchange` one request and its answer on two connections, both bodies streaming
//! - `squeezing` how many answers are compressed at once
//! - `mirror` copies of requests for another pool
//! - `upstream` connections to servers, kept alive and watched
//! - `stealing` those that another worker has kept and does not use
//! - `watch` the circuit breaker of a pool
//! - `reply` the head that the client gets
//! - `explain` what would become of a request, without one
//! - `h2` HTTP/2: its connections, and its streams as sessions

mod account;
mod answering;
mod bodies;
mod errand;
mod exchange;
pub mod explain;
mod flow;
mod forward;
mod h2;
mod joining;
mod kept_answers;
mod log_text;
mod made_here;
mod mirror;
mod office;
mod policies;
mod reply;
mod retry;
mod server_head;
mod session;
mod shared_answers;
pub mod shared_limits;
mod site;
mod squeezing;
mod stealing;
mod trailers;
mod upstream;
mod waiting;
mod watch;

pub use office::Office;
pub use policies::{Passwords, Rules};
pub use session::{Peers, serve};
pub use site::Site;
pub use waiting::{TICKET, Told};
