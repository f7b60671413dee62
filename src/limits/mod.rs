//! Who may connect, and how much of it: access lists and limits per client address; and what
//! requests may do: rates, quotas, requests in flight, circuit breakers, retries.
//!
//! Addresses are judged before a server is picked, from the peer's address alone. A unix client
//! has no address, so none of that applies to one.

mod access;
mod breaker;
mod in_flight;
mod per_ip;
mod retry_budget;
mod shelf;
mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use access::AccessList;
pub use breaker::{Passage, PoolBreaker};
pub use in_flight::Permit;
pub use per_ip::{ENTRIES_MAX, PerIp, Refusal};
pub use retry_budget::RetryBudget;
pub use table::{ENTRY_BYTES_MAX, LimitTable, POLICY_ENTRIES, RATE_BYTES_MAX, Usage};

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under these locks can only be one of allocation; the entries are still a table.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: an IPv4 address, mapped or not, or an IPv6 /64.
#[must_use]
pub fn scope_of(ip: std::net::IpAddr) -> [u8; 9] {
    let mut scope = [0; 9];
    match ip.to_canonical() {
        std::net::IpAddr::V4(ip) => scope[1..5].copy_from_slice(&ip.octets()),
        std::net::IpAddr::V6(ip) => {
            scope[0] = 1;
            scope[1..].copy_from_slice(&ip.octets()[..8]);
        }
    }
    scope
}
