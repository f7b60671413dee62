//! One ended session, as a worker hands it to the log writer: fixed size, and no allocation
//! for a session without TLS.

use std::time::Duration;

use super::reason::Reason;
use crate::net::Peer;
use crate::registry::{ListenerId, PoolId, ServerId};
use crate::runtime::time::Time;
use crate::tls::info::TlsInfo;

/// Everything an access-log line of a TCP session is made of.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    pub listener: ListenerId,
    pub peer: Peer,
    /// Where it went or was to go; `None`: that was not decided.
    pub pool: Option<PoolId>,
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
    /// What the client's hello or handshake said.
    pub names: Option<Box<SessionNames>>,
}

/// What is known about a session that began with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionNames {
    /// The host that the client named.
    pub sni: Option<String>,
    /// `None`: the bytes went on as they were.
    pub tls: Option<TlsInfo>,
}
