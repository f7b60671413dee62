//! What would become of a request, by the code that decides it: for `sluicegate explain`.
//!
//! Nothing is sent, and servers count as there. The head is parsed, judged and rewritten as a
//! session does it; what the table says of the other routes comes from the same conditions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sluicegate_l7::http1::request;
use sluicegate_l7::http1::{Fields, Reject};
use sluicegate_l7::route::Found;
use sluicegate_l7::route::spec::ActionSpec;

use super::errand::{self, Act, Bench, Case, Scratch, Verdict};
use super::session::{Peers, reason_of};
use super::site::Site;
use crate::balance::FlowKey;
use crate::config::plan::Plan;
use crate::control::membership::Membership;
use crate::observe::reason::Reason;
use crate::registry::PoolId;

/// A request that has one meaning, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// As routes are matched with it.
    pub scheme: &'static str,
    pub host: String,
    pub path: String,
    /// Who sent it: the peer, or whom a trusted peer names.
    pub client: Option<IpAddr>,
    /// The policies that run first, in their order.
    pub policies: Vec<usize>,
    pub fate: Fate,
    /// Each route and why it is taken or not, in file order.
    pub routes: Vec<(usize, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The first line and the Host that the server gets.
    Forward {
        route: usize,
        pool: usize,
        line: String,
        host: String,
        /// What the pool goes by, if that is there and not the client's address.
        flow: Option<FlowKey>,
        /// What the client's cookie says of its server.
        sticky: Option<u64>,
    },
    /// 204, by the policy.
    Preflight {
        route: usize,
        policy: usize,
    },
    Redirect {
        route: usize,
        status: u16,
        location: String,
    },
    Respond {
        route: usize,
        status: u16,
    },
    NoRoute,
    /// The value of `Allow`.
    Method {
        allow: String,
    },
}

/// Why a request is answered with an error at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub reason: Reason,
    pub detail: &'static str,
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Self { status: reject.status(), reason: reason_of(reject), detail: reject.detail() }
    }
}

/// Judges the HTTP/1.1 head `bytes` as sent by `peer`.
///
/// # Errors
/// When it is a bad request.
pub fn explain(
    plan: &Arc<Plan>,
    site: &Site,
    bytes: &[u8],
    peer: Option<IpAddr>,
) -> Result<Explained, Refused> {
    let mut fields = Fields::new();
    let head = request::parse(bytes, &site.limits, &mut fields)?.ok_or(Reject::RequestLine)?;
    // Ports are not asked about.
    let source = peer.map(|ip| SocketAddr::new(ip, 0));
    let peers = Peers { source, local: None, tls: None, admission: None };
    let bench = Bench {
        is_http2: false,
        site,
        peers: &peers,
        // The same question gets the same answer.
        random: [0; 3],
        has_servers: &|_| true,
        keeps_client: &|pool, value, _| names_server(plan, pool, value),
        hashes: &|pool| plan.hashes(pool),
    };
    let mut scratch = Scratch::default();
    let case = errand::open(&bench, bytes, &head, &fields, &mut scratch)?;
    let (policies, fate) = match preflight(site, &case) {
        Some(answered) => answered,
        None => concluded(&bench, &case)?,
    };
    let query = case.query();
    let routes = site.table.explain(&query);
    Ok(Explained {
        scheme: case.scheme,
        host: case.host.to_owned(),
        path: case.matching.to_owned(),
        client: case.client.ip,
        policies,
        fate,
        routes: routes.into_iter().map(|(route, why)| (route, why.to_string())).collect(),
    })
}

/// Whether a sticky cookie's value names a server of the pool. Members of names are not known
/// here.
#[must_use]
pub fn names_server(plan: &Arc<Plan>, pool: usize, value: u64) -> bool {
    let snapshot = Membership::plain(plan).snapshot();
    snapshot.named_by_cookie(PoolId(pool as u16), value).is_some()
}

/// The policies that run for a preflight which one of them answers, and that one.
fn preflight(site: &Site, case: &Case<'_>) -> Option<(Vec<usize>, Fate)> {
    let Found::Route { route, .. } = case.found else { return None };
    let steps = site.chain(Some(route)).steps();
    let at = steps.iter().position(|&step| site.rules.is_cors(step))?;
    let answered = (steps[..=at].to_vec(), Fate::Preflight { route, policy: steps[at] });
    case.preflight.then_some(answered)
}

/// The policies of any other request, and what becomes of it if they let it pass.
fn concluded(bench: &Bench<'_>, case: &Case<'_>) -> Result<(Vec<usize>, Fate), Refused> {
    let mut draft = Vec::new();
    let verdict = errand::conclude(bench, case, case.errand(bench), &mut draft);
    if let Act::Rejected(reject) = verdict.act {
        return Err(reject.into());
    }
    let policies = bench.site.chain(verdict.errand.route()).steps().to_vec();
    Ok((policies, fate(bench.site, &verdict, &draft)))
}

fn fate(site: &Site, Verdict { errand, act }: &Verdict, draft: &[u8]) -> Fate {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match act {
        Act::Forward => {
            let head = text(draft);
            let mut lines = head.split("\r\n");
            let line = lines.next().unwrap_or_default().to_owned();
            let host = lines.find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
            let of_server = site.table.spec(errand.route).rewrite.host_of_server;
            let host = if of_server { "that of the server" } else { host };
            let (route, pool) = (errand.route, errand.pool);
            let flow = errand.flows.at(PoolId(pool as u16));
            let (host, sticky) = (host.to_owned(), errand.sticky);
            Fate::Forward { route, pool, line, host, flow, sticky }
        }
        Act::Redirect { status } => {
            Fate::Redirect { route: errand.route, status: *status, location: text(draft) }
        }
        Act::Respond => {
            let status = match &site.table.spec(errand.route).action {
                ActionSpec::Respond(spec) => spec.status,
                _ => 200,
            };
            Fate::Respond { route: errand.route, status }
        }
        // No policy is run.
        Act::NoRoute | Act::Refused(_) | Act::Rejected(_) => Fate::NoRoute,
        Act::Method(allowed) => {
            let mut allow = Vec::new();
            site.table.write_allow(*allowed, &mut allow);
            Fate::Method { allow: text(&allow) }
        }
    }
}

/// Builds the head of a request out of `GET https://host/path` and `Name: value` lines. A target
/// without a scheme is taken as it is; the host is then that of a `Host` line.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn head_of(request: &str, headers: &[String]) -> Result<Vec<u8>, String> {
    let shape = || format!("`{request}` is not a request; write it as 'GET https://host/path'");
    let (method, target) = request.trim().split_once(' ').ok_or_else(shape)?;
    let target = target.trim();
    let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
    let (host, path) = match rest {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        None if target.starts_with('/') || target == "*" => (None, target),
        None => return Err(shape()),
    };
    if method.is_empty() || path.contains(' ') {
        return Err(shape());
    }
    let slash = if path.is_empty() || path.starts_with('?') { "/" } else { "" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\n");
    if let Some(host) = host {
        head.extend(["Host: ", host, "\r\n"]);
    }
    for header in headers {
        if !header.contains(':') || header.contains(['\r', '\n']) {
            return Err(format!("`{header}` is not a header; write it as 'Name: value'"));
        }
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    Ok(head.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(request: &str, headers: &[&str]) -> String {
        let headers: Vec<String> = headers.iter().map(|&line| line.to_owned()).collect();
        String::from_utf8(head_of(request, &headers).unwrap()).unwrap()
    }

    #[test]
    fn an_address_becomes_a_target_and_a_host() {
        let wanted = "GET /a?b=c HTTP/1.1\r\nHost: x.test:8443\r\nK: v\r\n\r\n";
        assert_eq!(head("GET https://x.test:8443/a?b=c", &["K: v"]), wanted);
        assert_eq!(head("GET http://x.test", &[]), "GET / HTTP/1.1\r\nHost: x.test\r\n\r\n");
        let bare = "DELETE /a HTTP/1.1\r\nHost: y\r\n\r\n";
        assert_eq!(head("DELETE /a", &["Host: y"]), bare);
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        for wrong in ["/a", "GET", "GET ftp://x/", "GET https://x/a b", "GET x.test/"] {
            let error = head_of(wrong, &[]).unwrap_err();
            assert!(error.contains(wrong) && error.contains("GET https://"), "{error}");
        }
        for wrong in ["no colon", "A: b\r\nC: d"] {
            assert!(head_of("GET /", &[wrong.to_owned()]).unwrap_err().contains("not a header"));
        }
    }
}
