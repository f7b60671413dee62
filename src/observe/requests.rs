//! Requests of HTTP listeners: what the log gets of each, and the counts by listener, route and
//! status.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use sluicegate_l7::policy::consumer::Principal;

use super::reason::Reason;
use crate::l4::measure;
use crate::registry::{ListenerId, PoolId, ServerId};
use crate::runtime::time::Time;
use crate::tls::info::TlsInfo;

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Http10,
    Http11,
    Http2,
}

impl Proto {
    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Everything an access-log line of a request is made of.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    pub listener: ListenerId,
    /// The number of its name in [`Labels`](super::labels::Labels); a listener's own pool is a
    /// route named "". `None`: no route.
    pub route: Option<u32>,
    pub client: Option<IpAddr>,
    pub status: u16,
    pub reason: Reason,
    pub pool: Option<PoolId>,
    /// The last server tried.
    pub server: Option<ServerId>,
    /// Servers tried, the first too.
    pub attempts: u8,
    pub started_at: Time,
    pub ended_at: Time,
    /// From the attempt that was answered to its answer's head.
    pub upstream: Option<Duration>,
    /// Payload from the client, and to it.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub proto: Proto,
    pub secure: bool,
    /// Who asked, and what policies took, if any ran.
    pub consumer: Option<Arc<Principal>>,
    pub policies: Option<Duration>,
    /// Policies that would have refused it, did they not run dry.
    pub dry_run: Box<[u16]>,
    /// Only for a request that is logged.
    pub text: Option<Box<RequestText>>,
}

/// Texts of a request, for its line in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestText {
    pub method: String,
    pub host: String,
    /// As received, without the query.
    pub path: String,
    /// As received; `None`: there is none, or it is not logged.
    pub query: Option<String>,
    /// Fields that the log is to have.
    pub fields: Option<LoggedFields>,
    pub request_id: String,
    /// Version, cipher and protocol of TLS, and the client's name.
    pub tls: Option<Arc<TlsInfo>>,
}

/// Header fields of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedFields {
    /// As the configuration had them when the request came.
    pub names: Arc<[String]>,
    /// One for each name, or none at all where the head could not be read.
    pub values: Vec<Option<String>>,
}

impl LoggedFields {
    #[must_use]
    pub fn value(&self, at: usize) -> Option<&str> {
        self.values.get(at)?.as_deref()
    }
}

/// One route's requests.
#[derive(Clone, Debug, Default)]
pub struct RouteCounts {
    /// By status.
    pub codes: Vec<(u16, u64)>,
    /// Whole requests; microseconds, 1 µs–1 h, 2 digits.
    pub seconds: Vec<((), Histogram<u32>)>,
}

/// What became of a copy of a request: the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mirrored {
    /// A server answered, whatever it said.
    Ok,
    /// No connection, no whole answer, or the worker stopped.
    Failed,
    /// No whole answer in time.
    Timeout,
    /// No server could take it.
    NoServer,
    /// Not made: so many are in flight already.
    Dropped,
    /// Not made: the body is over the bound.
    TooLarge,
}

impl Mirrored {
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Failed, Self::Timeout, Self::NoServer, Self::Dropped, Self::TooLarge];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::NoServer => "no-server",
            Self::Dropped => "dropped",
            Self::TooLarge => "too-large",
        }
    }
}

/// What a worker has counted since it was last asked.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts {
    /// By listener and the number of the route's name; no route last, as `u32::MAX`.
    pub routes: BTreeMap<(u16, u32), RouteCounts>,
    /// From the attempt to the answer's head, by server.
    pub upstream: Vec<(ServerId, Histogram<u32>)>,
    /// By listener, route (`None` as above) and policy.
    pub policies: BTreeMap<(u16, u32, u16), PolicyCounts>,
    /// By listener, route, consumer (`u32::MAX`: one that is not declared) and the hundreds of
    /// the status.
    pub consumers: BTreeMap<(u16, u32, u32, u8), u64>,
    /// Copies by listener, route and what became of them.
    pub mirrored: BTreeMap<(u16, u32, Mirrored), u64>,
}

/// One policy on one route.
#[derive(Clone, Debug, Default)]
pub struct PolicyCounts {
    /// What it took; microseconds.
    pub seconds: Vec<((), Histogram<u32>)>,
    /// Requests that it refused, or would have.
    pub denied: u64,
}

impl RequestCounts {
    /// Counts one request.
    pub fn count(&mut self, record: &RequestRecord) {
        let key = (record.listener.0, record.route.unwrap_or(u32::MAX));
        let route = self.routes.entry(key).or_default();
        match route.codes.iter_mut().find(|(code, _)| *code == record.status) {
            Some((_, count)) => *count += 1,
            None => route.codes.push((record.status, 1)),
        }
        let took = record.ended_at.since(record.started_at);
        measure::record(&mut route.seconds, (), took);
        if let (Some(server), Some(took)) = (record.server, record.upstream) {
            measure::record(&mut self.upstream, server, took);
        }
        if let Some(principal) = record.consumer.as_deref().filter(|one| !one.id.is_empty()) {
            let consumer = principal.declared.unwrap_or(u32::MAX);
            let key = (key.0, key.1, consumer, (record.status / 100) as u8);
            *self.consumers.entry(key).or_default() += 1;
        }
    }

    /// Counts what the policies of a request took, and which of them refused it.
    pub fn count_policies(
        &mut self,
        record: &RequestRecord,
        costs: &[(u16, Duration)],
        denied: &[u16],
    ) {
        let (listener, route) = (record.listener.0, record.route.unwrap_or(u32::MAX));
        for &(policy, took) in costs {
            let counts = self.policies.entry((listener, route, policy)).or_default();
            measure::record(&mut counts.seconds, (), took);
            counts.denied += u64::from(denied.contains(&policy));
        }
    }
}
