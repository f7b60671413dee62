//! What the log and the counters are told of a request.

use std::net::IpAddr;
use std::time::Duration;

use sluicegate_l7::http1::Version;

use super::errand::Errand;
use super::office::Office;
use super::policies::Gate;
use super::session::Peers;
use super::site::Site;
use crate::observe::reason::Reason;
use crate::observe::requests::{Proto, RequestRecord, RequestText};
use crate::registry::{PoolId, ServerId};
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

/// A request as far as the log wants to know it.
pub struct Account {
    pub started_at: Time,
    /// Who sent it, if not the peer.
    pub client: Option<IpAddr>,
    pub route: Option<u32>,
    pub pool: Option<PoolId>,
    pub server: Option<ServerId>,
    pub attempts: u8,
    pub upstream: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub status: u16,
    pub reason: Reason,
}

impl Account {
    pub const fn new(started_at: Time) -> Self {
        Self {
            started_at,
            client: None,
            route: None,
            pool: None,
            server: None,
            attempts: 0,
            upstream: None,
            bytes_in: 0,
            bytes_out: 0,
            status: 0,
            reason: Reason::Ok,
        }
    }

    /// What is known of it before it is answered.
    pub fn of(&mut self, errand: &Errand) {
        self.client = errand.client;
        self.route = errand.route().map(|route| route as u32);
    }
}

/// Payload that has passed of a request and its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Where a request came from.
pub struct Origin<'s, D: Driver> {
    pub office: &'s Office<D>,
    pub site: &'s Site,
    pub peers: &'s Peers,
    pub is_http2: bool,
}

/// Counts and logs a request.
pub fn record<D: Driver>(
    origin: &Origin<'_, D>,
    account: &Account,
    ended_at: Time,
    version: Version,
    text: Option<Box<RequestText>>,
    gate: &Gate,
) {
    let proto = match version {
        _ if origin.is_http2 => Proto::Http2,
        Version::Http10 => Proto::Http10,
        Version::Http11 => Proto::Http11,
    };
    let record = RequestRecord {
        listener: origin.site.listener,
        route: origin.site.label(account.route),
        client: account.client.or_else(|| origin.peers.ip()),
        status: account.status,
        reason: account.reason,
        pool: account.pool,
        server: account.server,
        attempts: account.attempts,
        started_at: account.started_at,
        ended_at,
        upstream: account.upstream,
        bytes_in: account.bytes_in,
        bytes_out: account.bytes_out,
        proto,
        secure: origin.site.secure,
        consumer: gate.principal.clone(),
        policies: (!gate.costs.is_empty()).then_some(gate.took),
        dry_run: ran_dry(origin.site, gate),
        text,
    };
    let logged = origin.site.logs_route(account.route);
    origin.office.account_policies(&record, &gate.costs, &gate.denied);
    origin.office.account(record, logged);
}

/// Policies that would have refused a request.
fn ran_dry(site: &Site, gate: &Gate) -> Box<[u16]> {
    let specs = site.rules.specs();
    gate.denied.iter().copied().filter(|&at| specs[usize::from(at)].dry_run).collect()
}
