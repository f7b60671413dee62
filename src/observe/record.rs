//! One ended session, as a worker hands it to the log writer: fixed size, no allocation.

use std::time::Duration;

use super::reason::Reason;
use crate::net::Peer;
use crate::registry::{ListenerId, ServerId};
use crate::runtime::time::Time;

/// Everything an access-log line of a TCP session is made of.
#[derive(Clone, Copy, Debug)]
pub struct SessionRecord {
    pub listener: ListenerId,
    pub peer: Peer,
    /// The last server tried, if any was.
    pub server: Option<ServerId>,
    pub reason: Reason,
    pub accepted_at: Time,
    pub ended_at: Time,
    /// The successful connect; `None` if there was none.
    pub connect: Option<Duration>,
    /// Payload from the client, and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Connects tried after the first.
    pub retries: u8,
}
