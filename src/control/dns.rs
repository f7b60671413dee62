//! Names of servers: resolved on the control thread, again and again, one task a name.
//!
//! - N1: nothing waits for a name, but for the moment that a hosts file or a near resolver
//!   takes (`life::NAMES_GRACE`). Until it resolves it has no members.
//! - N2: an answer replaces the members; an error or an empty answer keeps the last ones,
//!   shown as stale. Half an answer (A came, AAAA failed) keeps the old half.
//! - N3: at most [`MEMBERS_MAX`] addresses a name, sorted, without repeats, without kinds
//!   that `runtime.dns.refuse` lists.
//! - N4: the time to live is kept within `min_ttl` and `max_ttl`. The resolver's own cache is
//!   off, so that there is one clock.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::checks::Checks;
use super::desk::Desk;
use super::membership::{Found, MEMBERS_MAX, NameId};
use crate::config::plan::{AddressKind, Dns, Server, ServerAddr};
use crate::net::Endpoint;
use crate::observe::events::EventKind;

/// One question to one server of a name, and how often it is put.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_ATTEMPTS: usize = 2;

/// The longest pause after a failed lookup: a name that works again is found within it.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Targets of one SRV name that are looked up: more than [`MEMBERS_MAX`] would not be used.
const TARGETS_MAX: usize = MEMBERS_MAX;

/// What a lookup brought, and until when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub found: Vec<Found>,
    pub valid_for: Duration,
}

/// A resolver as `runtime.dns` asks for it.
///
/// # Errors
/// When no servers are configured and `/etc/resolv.conf` cannot be read.
pub fn resolver(dns: &Dns) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if dns.servers.is_empty() {
        TokioResolver::builder(provider)
            .map_err(|error| format!("/etc/resolv.conf cannot be used: {error}"))?
    } else {
        let servers = dns.servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let config = ResolverConfig::from_parts(None, vec![], servers.collect());
        TokioResolver::builder_with_config(config, provider)
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_ATTEMPTS;
    options.use_hosts_file = ResolveHosts::Always;
    builder.build().map_err(|error| format!("the resolver cannot be set up: {error}"))
}

/// Keeps one name of the plan resolved, for ever.
pub(super) async fn keep_resolved(
    name: NameId,
    resolver: TokioResolver,
    desk: Rc<Desk>,
    checks: Rc<Checks>,
) {
    let plan = desk.instance.plan();
    let (dns, pool) = (&plan.runtime.dns, &plan.pools[usize::from(name.pool.0)]);
    let Some(server) = name.of(&plan) else { return };
    let (mut first, mut failures) = (true, 0_u32);
    let mut last: Vec<Found> = Vec::new();
    loop {
        let pause = match lookup(&resolver, dns, server, &last).await {
            Ok(answer) => {
                if failures > 0 {
                    desk.log.info(format_args!(
                        "server {}/{}: its name resolves again",
                        pool.name, server.name
                    ));
                }
                failures = 0;
                last.clone_from(&answer.found);
                apply(name.clone(), answer.found, &desk, &checks);
                answer.valid_for
            }
            Err(error) => {
                if failures == 0 {
                    let text = format!("server {}/{}: {error}", pool.name, server.name);
                    desk.log.warn(&text);
                    desk.instance.events.push(EventKind::NameFailed, text);
                }
                desk.instance.membership.unresolved(name.clone(), error);
                failures += 1;
                let doubled = dns.ttl_min.saturating_mul(1 << failures.min(6));
                doubled.min(RETRY_MAX).min(dns.ttl_max).max(dns.ttl_min)
            }
        };
        desk.name_answered(std::mem::take(&mut first));
        tokio::time::sleep(pause).await;
    }
}

fn apply(name: NameId, found: Vec<Found>, desk: &Desk, checks: &Checks) {
    let detail = format!("{} addresses", found.len());
    let Some(change) = desk.instance.membership.resolved(name, found, detail) else { return };
    for state in &change.removed {
        checks.stop(state.id);
    }
    desk.publish(&change);
    for state in &change.added {
        checks.start(state);
    }
}

/// Resolves one server of the plan. `last` fills the half of an answer that failed (N2).
///
/// # Errors
/// Why there is no answer, as a sentence that names the name.
pub async fn lookup(
    resolver: &TokioResolver,
    dns: &Dns,
    server: &Server,
    last: &[Found],
) -> Result<Answer, String> {
    let mut lookup = Lookup { resolver, dns, last, refused: 0, valid_for: dns.ttl_max };
    let (name, found) = match &server.address {
        ServerAddr::Dns { host, port } => {
            let addresses = lookup.addresses(host, *port).await;
            let found = addresses.map(|addresses| {
                let with = |address| Found {
                    address: Endpoint::Ip(address),
                    weight: server.weight,
                    backup: server.backup,
                };
                addresses.into_iter().map(with).collect()
            });
            (host, found)
        }
        ServerAddr::Srv { name } => (name, lookup.service(name).await),
        ServerAddr::Ip(_) | ServerAddr::Unix(_) => return Err("is not a name".into()),
    };
    let found = found.map_err(|error| format!("`{name}` does not resolve: {error}"))?;
    if found.is_empty() {
        let refused = lookup.refused;
        return Err(format!(
            "all {refused} addresses of `{name}` are of a kind that `refuse` lists"
        ));
    }
    Ok(Answer { found, valid_for: lookup.valid_for.clamp(dns.ttl_min, dns.ttl_max) })
}

/// The addresses of one host, without those that `refuse` lists. For what control itself talks to.
///
/// # Errors
/// Why there is none, as a sentence that names the host.
pub(super) async fn addresses_of(
    resolver: &TokioResolver,
    dns: &Dns,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let mut lookup = Lookup { resolver, dns, last: &[], refused: 0, valid_for: dns.ttl_max };
    match lookup.addresses(host, port).await {
        Ok(found) if found.is_empty() => {
            Err(format!("all addresses of `{host}` are of a kind that `refuse` lists"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("`{host}` does not resolve: {error}")),
    }
}

/// One lookup with all its questions.
struct Lookup<'a> {
    resolver: &'a TokioResolver,
    dns: &'a Dns,
    last: &'a [Found],
    refused: usize,
    valid_for: Duration,
}

impl Lookup<'_> {
    /// A and AAAA of `host`: sorted, and no more than [`MEMBERS_MAX`].
    async fn addresses(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let (four, six) =
            tokio::join!(self.ask(host, RecordType::A), self.ask(host, RecordType::AAAA));
        let mut all = BTreeSet::new();
        let (mut trouble, mut nothing) = (None, None);
        for (is_four, answer) in [(true, four), (false, six)] {
            match answer {
                Ok((records, valid_for)) => {
                    self.valid_for = self.valid_for.min(valid_for);
                    all.extend(records.iter().filter_map(RData::ip_addr));
                }
                // NXDOMAIN says more than that one kind of record is missing, and both say it.
                Err(Trouble::Nothing(text)) => nothing = Some(text),
                Err(Trouble::Failed(error)) => {
                    all.extend(self.remembered(port, is_four));
                    self.valid_for = self.dns.ttl_min;
                    trouble = Some(error);
                }
            }
        }
        if all.is_empty() {
            return Err(trouble.or(nothing).unwrap_or_else(|| "an empty answer".into()));
        }
        let local = is_localhost(host);
        let before = all.len();
        all.retain(|ip| local || !self.dns.refuse.iter().any(|kind| is_kind(*ip, *kind)));
        self.refused += before - all.len();
        Ok(all.into_iter().take(MEMBERS_MAX).map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// What the last answer had of one family and port.
    fn remembered(&self, port: u16, is_four: bool) -> impl Iterator<Item = IpAddr> {
        self.last.iter().filter_map(move |found| match &found.address {
            Endpoint::Ip(address) if address.port() == port && address.is_ipv4() == is_four => {
                Some(address.ip())
            }
            Endpoint::Ip(_) | Endpoint::Unix(_) => None,
        })
    }

    /// The targets of an SRV name: the best priority serves, the others are its backups.
    async fn service(&mut self, name: &str) -> Result<Vec<Found>, String> {
        let (records, valid_for) =
            self.ask(name, RecordType::SRV).await.map_err(|trouble| trouble.to_string())?;
        self.valid_for = self.valid_for.min(valid_for);
        let mut targets: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                // RFC 2782: a target of "." says that the service is not available here.
                RData::SRV(srv) if !srv.target.is_root() => {
                    Some((srv.priority, srv.weight, srv.port, srv.target.to_string()))
                }
                _ => None,
            })
            .collect();
        targets.sort();
        targets.truncate(TARGETS_MAX);
        let Some(&(best, ..)) = targets.first() else { return Err("it has no target".into()) };
        let heaviest = targets.iter().map(|target| target.1).max().unwrap_or(1).max(1);
        let mut found = Vec::new();
        let mut trouble = None;
        for (priority, weight, port, target) in targets {
            match self.addresses(&target, port).await {
                Ok(addresses) => found.extend(addresses.into_iter().map(|address| Found {
                    address: Endpoint::Ip(address),
                    weight: scaled(weight, heaviest),
                    backup: priority > best,
                })),
                Err(error) => trouble = Some(format!("its target {target}: {error}")),
            }
        }
        if let (true, Some(trouble), 0) = (found.is_empty(), trouble, self.refused) {
            return Err(trouble);
        }
        Ok(distinct(found))
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<(Vec<RData>, Duration), Trouble> {
        let answer = self.resolver.lookup(name, kind).await.map_err(Trouble::from)?;
        let records: Vec<RData> = answer
            .answers()
            .iter()
            .filter(|record| record.record_type() == kind)
            .take(ANSWERS_MAX)
            .map(|record| record.data.clone())
            .collect();
        let valid_for = answer.valid_until().saturating_duration_since(Instant::now());
        if records.is_empty() {
            return Err(Trouble::Nothing("an empty answer".into()));
        }
        Ok((records, valid_for))
    }
}

/// Records of one answer that are looked at, before sorting: a DNS message of 64 KiB holds
/// about 4,000 addresses.
const ANSWERS_MAX: usize = 4_096;

/// Why one question has no answer.
enum Trouble {
    /// The name is not there, or has no record of this kind: an answer, but an empty one.
    Nothing(String),
    /// Nobody could say.
    Failed(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Nothing(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Self {
        match &error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                if none.response_code == ResponseCode::NXDomain {
                    Self::Nothing("there is no such name (NXDOMAIN)".into())
                } else if none.response_code == ResponseCode::NoError {
                    Self::Nothing("an empty answer".into())
                } else {
                    Self::Failed(format!("the name server answered {}", none.response_code))
                }
            }
            NetError::Dns(DnsError::ResponseCode(code)) => {
                Self::Failed(format!("the name server answered {code}"))
            }
            NetError::Timeout => Self::Failed("no name server answered in time".into()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Each address once, as the best record says it; of too many the best, in the order of addresses.
fn distinct(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|one| (one.address.clone(), one.backup, Reverse(one.weight)));
    found.dedup_by(|one, other| one.address == other.address);
    found.sort_by_key(|one| one.backup);
    found.truncate(MEMBERS_MAX);
    found.sort();
    found
}

/// What the host says of names, by when it was said: a resolver reads it once.
pub(super) fn of_host() -> [Option<(SystemTime, u64)>; 2] {
    ["/etc/resolv.conf", "/etc/hosts"].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.ino()))
    })
}

/// SRV weights go to 65,535, ours from 1 to 1,000.
fn scaled(weight: u16, heaviest: u16) -> u16 {
    let weight = u32::from(weight);
    let scaled = if heaviest > 1_000 { weight * 1_000 / u32::from(heaviest) } else { weight };
    scaled.clamp(1, 1_000) as u16
}

/// Names that stand for this host by RFC 6761 §6.3; `refuse` spares them.
fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn is_kind(ip: IpAddr, kind: AddressKind) -> bool {
    match (ip.to_canonical(), kind) {
        (ip, AddressKind::Loopback) => ip.is_loopback(),
        (ip, AddressKind::Multicast) => ip.is_multicast(),
        (ip, AddressKind::Unspecified) => ip.is_unspecified(),
        (IpAddr::V4(ip), AddressKind::LinkLocal) => ip.is_link_local(),
        (IpAddr::V6(ip), AddressKind::LinkLocal) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
