//! Straight-line code on a worker: short async functions for prologues and HTTP sessions.
//!
//! [`Tasks`] polls them, between the completions of a turn and its timers; [`Shell`] is what
//! they reach the kernel through; [`Socket`] a connection; [`Inbox`] the bytes of one that were
//! received and not used yet. Plain TCP sessions have none of this (see `l4/`).
//!
//! Invariants:
//! - K1: the driver is in the shell exactly while tasks are polled. Outside of that, dropping a
//!   task only leaves word of what is to be done, and [`Tasks::sweep`] does it.
//! - K2: a socket's descriptor is closed, or handed back to its session or on to another worker,
//!   only when none of its operations is in flight; dropping the socket cancels them.
//! - K3: an idle connection holds no buffer: an inbox gives its memory back when it is empty.
//! - K4: a panic ends the task it happened in.

mod executor;
mod inbox;
mod lent;
mod shell;
mod sleep;
mod socket;
mod sockets;
mod turns;

pub use executor::{TaskId, Tasks};
pub use inbox::{Inbox, LARGE as HEAD_BYTES_MAX};
pub use lent::Lent;
pub use shell::Shell;
pub use sleep::Elapsed;
pub use socket::Socket;
pub use sockets::Released;
