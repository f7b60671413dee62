//! Who may connect, and how much of it: access lists and limits per client address.
//!
//! All here is decided before a server is picked, from the peer's address alone. A unix client
//! has no address, so none of it applies to one.

mod access;
mod per_ip;

pub use access::AccessList;
pub use per_ip::{ENTRIES_MAX, PerIp, Refusal};
