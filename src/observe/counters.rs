//! What each worker counts: one writer, relaxed, read by the control thread at a scrape.
//!
//! A cell is written by its worker alone, so an increment is a load and a store without a
//! locked instruction. Tables have a fixed length; pages nobody counts in are never touched.

use nix::errno::Errno;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::reason::Reason;
use crate::registry::{LISTENERS_MAX, ListenerId, SERVERS_MAX, ServerId};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owning worker may.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge; only the owning worker may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a connect ended: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectResult {
    Ok,
    Refused,
    Timeout,
    Unreachable,
    Reset,
    /// Our own lack: no port, no descriptor.
    Local,
}

impl ConnectResult {
    /// What an error of connect(2) means.
    #[must_use]
    pub const fn of(errno: Errno) -> Self {
        match errno {
            Errno::ETIMEDOUT => Self::Timeout,
            // ENOENT, EAGAIN: a unix socket that is not there, or whose backlog is full.
            Errno::ECONNREFUSED | Errno::ENOENT | Errno::EAGAIN => Self::Refused,
            Errno::ECONNRESET | Errno::EPIPE => Self::Reset,
            Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM
            | Errno::ECANCELED => Self::Local,
            _ => Self::Unreachable,
        }
    }

    /// The reason of a session or request whose last attempt ended so.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Ok | Self::Refused | Self::Reset => Reason::ConnectRefused,
            Self::Timeout => Reason::ConnectTimeout,
            Self::Unreachable => Reason::ConnectUnreachable,
            Self::Local => Reason::PortsExhausted,
        }
    }

    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset, Self::Local];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
        }
    }
}

/// Why another attempt was made: the `reason` label of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RetryCause {
    /// No connection, or no TLS on it.
    Connect,
    Reset,
    Timeout,
    /// The status of an answer.
    Status,
}

impl RetryCause {
    pub const ALL: [Self; 4] = [Self::Connect, Self::Reset, Self::Timeout, Self::Status];

    /// The cause when an attempt failed for `reason`.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::ServerReset => Self::Reset,
            Reason::RequestTimeout => Self::Timeout,
            Reason::BadUpstream => Self::Status,
            _ => Self::Connect,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }
}

/// How a client's TLS handshake ended: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HandshakeResult {
    Ok,
    /// No common version or name, a certificate that does not verify, not in time, no TLS.
    Failed,
    /// The client aborted it.
    Reset,
}

impl HandshakeResult {
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Reset];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Reset => "reset",
        }
    }
}

#[derive(Debug)]
pub struct ListenerCounts {
    pub connections: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    /// By `Reason as usize`.
    pub ended: [Count; Reason::COUNT],
    /// By `HandshakeResult as usize`.
    pub handshakes: [Count; 3],
}

impl Default for ListenerCounts {
    fn default() -> Self {
        let [connections, bytes_in, bytes_out] = Default::default();
        Self {
            connections,
            bytes_in,
            bytes_out,
            ended: std::array::from_fn(|_| Count::default()),
            handshakes: Default::default(),
        }
    }
}

#[derive(Debug, Default)]
pub struct ServerCounts {
    /// By `ConnectResult as usize`.
    pub connects: [Count; 6],
    /// Those of the successful connects whose connections carry requests; each of the others is a
    /// session.
    pub connects_http: Count,
    /// Requests that had a connection to it, each attempt by itself.
    pub requests: Count,
    /// Those of them that it failed: no answer in time, none that could be read, or a 5xx.
    pub requests_failed: Count,
    /// Sessions that ended with `server-reset`.
    pub resets: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    /// Segments sent again on the way to it, of connections that were looked at.
    pub retransmits: Count,
    /// Smoothed variation of the round trip, in microseconds; 0 until measured.
    pub rttvar_us: Count,
    /// Attempts made because this server failed another; by `RetryCause as usize`.
    pub retries: [Count; 4],
    /// Connections taken from other workers, which did not use them.
    pub stolen: Count,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerCounts {
    listeners: Box<[ListenerCounts]>,
    servers: Box<[ServerCounts]>,
    /// Sessions in its table; also read by other workers for the hand-over.
    pub sessions: CachePadded<AtomicU32>,
    /// Nanoseconds spent outside the wait.
    pub busy_ns: Count,
    pub turns: Count,
    /// Sessions closed because of a defect of ours.
    pub panics: Count,
    /// Log records that found the queue full.
    pub log_dropped: Count,
    /// Places taken at a server without the exact exchange (8 lost races in a row).
    pub pick_races: Count,
    /// Connections handed to a less loaded worker.
    pub handed_over: Count,
    /// Bytes held for slow peers in overflow blocks now, and the most there were.
    pub overflow_bytes: Count,
    pub overflow_bytes_peak: Count,
    /// Bytes accepted from one side that a reset kept from the other.
    pub bytes_lost: Count,
}

impl Default for WorkerCounts {
    fn default() -> Self {
        Self {
            listeners: (0..LISTENERS_MAX).map(|_| ListenerCounts::default()).collect(),
            servers: (0..SERVERS_MAX).map(|_| ServerCounts::default()).collect(),
            sessions: CachePadded::default(),
            busy_ns: Count::default(),
            turns: Count::default(),
            panics: Count::default(),
            log_dropped: Count::default(),
            pick_races: Count::default(),
            handed_over: Count::default(),
            overflow_bytes: Count::default(),
            overflow_bytes_peak: Count::default(),
            bytes_lost: Count::default(),
        }
    }
}

impl WorkerCounts {
    /// Notes the overflow memory in use, and its peak.
    pub fn set_overflow(&self, bytes: u64) {
        if bytes != self.overflow_bytes.value() {
            self.overflow_bytes.set(bytes);
            self.overflow_bytes_peak.set(bytes.max(self.overflow_bytes_peak.value()));
        }
    }

    #[must_use]
    pub fn listener(&self, id: ListenerId) -> &ListenerCounts {
        &self.listeners[usize::from(id.0)]
    }

    #[must_use]
    pub fn server(&self, id: ServerId) -> &ServerCounts {
        &self.servers[id.0 as usize]
    }
}
