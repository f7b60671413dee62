//! One request: where it goes, and the head that the server gets.
//!
//! Judged in two steps, [`open`] (what it is, and its route) and [`conclude`] (what becomes of
//! it); between them the shell runs the route's policies.

use std::net::IpAddr;

use sluicegate_l7::answer::How as Manner;
use sluicegate_l7::compress::Accepts;
use sluicegate_l7::http1::request::{Method, RequestHead};
use sluicegate_l7::http1::{self, Fields, Framing, Lines, Reject, Version, host_for_matching};
use sluicegate_l7::identity::{self, Client};
use sluicegate_l7::path;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::cors;
use sluicegate_l7::route::spec::{ActionSpec, SplitBy};
use sluicegate_l7::route::template::{Variable, Variables};
use sluicegate_l7::route::{self, Allowed, Captures, Found, Query};
use sluicegate_l7::route::{headers, redirect, split, sticky};
use sluicegate_l7::text::push_ip;

use super::bodies::{self, Fit};
use super::flow::{Asker, FlowKeys};
use super::log_text;
use super::policies::{Gate, Refusal};
use super::server_head;
use super::session::Peers;
use super::site::Site;
use super::trailers;
use crate::balance::FlowKey;
use crate::config::plan::{HashBy, HttpTimeouts};
use crate::observe::requests::RequestText;
use crate::registry::PoolId;

/// A request's id: the client's if it is harmless, else made here.
#[derive(Clone, Copy)]
pub struct RequestId {
    bytes: [u8; identity::lines::REQUEST_ID_LEN_MAX],
    len: u8,
}

impl RequestId {
    /// `head` if one was understood.
    pub(super) fn of(head: Option<&Lines<'_>>, random: [u64; 2]) -> Self {
        let random = u128::from(random[0]) << 64 | u128::from(random[1]);
        let made = identity::new_request_id(random.to_ne_bytes());
        let kept = head.and_then(|head| identity::kept_request_id(head));
        let id = kept.unwrap_or(&made);
        let mut bytes = [0; identity::lines::REQUEST_ID_LEN_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, len: id.len() as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Appends the line that tells it.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Request-Id: ");
        out.extend_from_slice(self.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A request that goes to a server. Its head for the server is in the session's draft.
pub struct Errand {
    pub route: usize,
    pub pool: usize,
    pub method: Method,
    pub framing: Framing,
    pub version: Version,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// The connection becomes something else if the server agrees.
    pub upgrades: bool,
    pub client: Option<IpAddr>,
    /// The client speaks TLS, with this listener or with a proxy that is trusted.
    pub is_https: bool,
    pub id: RequestId,
    /// What the answer may be compressed with.
    pub accepts: Accepts,
    pub text: Option<Box<RequestText>>,
    /// What hashing pools choose by, where that is not its address.
    pub flows: FlowKeys,
    /// The server that the client's cookie names.
    pub sticky: Option<u64>,
    /// What policies say in the answer.
    pub answer_lines: Vec<u8>,
    /// What the operator has it say: in the place of whatever is there.
    pub route_lines: Vec<u8>,
    /// Those of the pool under this listener.
    pub timeouts: HttpTimeouts,
    /// What policies found and took.
    pub gate: Gate,
    /// The client waits for word before it sends the body.
    pub expects: bool,
    /// The body is read here as a whole, and changed.
    pub changes_body: bool,
    /// What `Connection` says, where trailers may follow.
    pub hop_names: Vec<u8>,
}

impl Errand {
    /// Before it is known where it goes.
    fn new(
        head: &RequestHead,
        client: Option<IpAddr>,
        id: RequestId,
        text: Option<Box<RequestText>>,
    ) -> Self {
        Self {
            route: usize::MAX,
            pool: usize::MAX,
            method: head.method,
            framing: head.framing,
            version: head.version,
            keep_alive: head.keep_alive,
            upgrades: false,
            client,
            is_https: false,
            id,
            accepts: Accepts::default(),
            text,
            flows: FlowKeys::default(),
            sticky: None,
            answer_lines: Vec::new(),
            route_lines: Vec::new(),
            timeouts: HttpTimeouts::default(),
            gate: Gate::default(),
            expects: head.expect_continue,
            changes_body: false,
            hop_names: Vec::new(),
        }
    }
}

impl Errand {
    /// The route, if there is one.
    #[must_use]
    pub fn route(&self) -> Option<usize> {
        (self.route != usize::MAX).then_some(self.route)
    }

    /// As whom it asks a pool for a server.
    #[must_use]
    pub fn asker(&self, pool: PoolId) -> Asker {
        Asker { client: self.client, key: self.flows.at(pool) }
    }

    /// How an answer that the gateway makes itself goes out.
    pub fn manner<'e>(&'e self, site: &'e Site, closes: bool, lines: &'e [u8]) -> Manner<'e> {
        Manner {
            is_head: self.method == Method::Head,
            closes,
            lines,
            replaced: &site.replaced(self.route()).answer,
            last: &self.route_lines,
            own_body: None,
        }
    }

    /// Appends the lines of an answer that the gateway makes itself.
    pub fn write_own_lines(&self, out: &mut Vec<u8>) {
        self.id.write_line(out);
        self.gate.write_timing(None, out);
        out.extend_from_slice(&self.answer_lines);
    }
}

/// What is to be done about a request.
pub struct Verdict {
    pub errand: Box<Errand>,
    pub act: Act,
}

pub enum Act {
    Forward,
    /// The draft holds the `Location` value.
    Redirect {
        status: u16,
    },
    Respond,
    NoRoute,
    Method(Allowed),
    /// A policy answers.
    Refused(Refusal),
    /// It is of no good meaning to this route.
    Rejected(Reject),
}

/// What decides about a request.
pub struct Bench<'a> {
    pub site: &'a Site,
    pub peers: &'a Peers,
    /// Random numbers: two for an id, and one for chance.
    pub random: [u64; 3],
    pub has_servers: &'a dyn Fn(usize) -> bool,
    /// Whether a sticky cookie's value names a server of this pool, which can take the request;
    /// the last says that clients stay with servers that drain.
    pub keeps_client: &'a dyn Fn(usize, u64, bool) -> bool,
    /// This pool and that of its fallback, as far as they go by something else than addresses.
    pub hashes: &'a dyn Fn(usize) -> Vec<(usize, HashBy)>,
    /// The head came in HTTP/2's form.
    pub is_http2: bool,
}

/// A request as it is being judged.
pub struct Case<'a> {
    pub head: &'a RequestHead,
    pub lines: Lines<'a>,
    pub method: &'a str,
    pub host: &'a str,
    /// As it will be forwarded.
    pub path: &'a str,
    /// As routes are matched with it.
    pub matching: &'a str,
    pub query: Option<&'a str>,
    pub scheme: &'static str,
    pub client: Client,
    pub id: RequestId,
    pub found: Found,
    /// A browser's question before a request of that method.
    pub preflight: bool,
}

/// Memory for what of a request is not as it was received.
#[derive(Debug)]
pub struct Scratch {
    host: [u8; http1::host::HOST_BYTES_MAX],
    path: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { host: [0; http1::host::HOST_BYTES_MAX], path: Vec::new() }
    }
}

/// A request with a route, as templates see it.
pub(super) struct Scene<'a> {
    case: &'a Case<'a>,
    captures: Captures<'a>,
    principal: Option<&'a Principal>,
}

impl<'a> std::ops::Deref for Scene<'a> {
    type Target = Case<'a>;

    fn deref(&self) -> &Case<'a> {
        self.case
    }
}

impl Variables for Scene<'_> {
    fn append(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
        let text = match variable {
            Variable::ClientIp => {
                let Some(ip) = self.client.ip else { return false };
                push_ip(ip, out);
                return true;
            }
            Variable::Host => self.host.as_bytes(),
            Variable::Path => self.path.as_bytes(),
            Variable::Scheme => self.scheme.as_bytes(),
            Variable::RequestId => self.id.as_bytes(),
            Variable::Consumer => match self.principal {
                Some(principal) => principal.id.as_bytes(),
                None => return false,
            },
            Variable::Claim(selector) => {
                let claims = self.principal.and_then(|principal| principal.claims.as_ref());
                let Some(text) = claims.and_then(|claims| claims.text(selector)) else {
                    return false;
                };
                out.extend_from_slice(text.as_bytes());
                return true;
            }
            Variable::Header(name) => match route::Fields::line(&self.lines, name, 0) {
                Some(value) => value,
                None => return false,
            },
            Variable::Capture(name) => match self.captures.value(name) {
                Some(value) => value.as_bytes(),
                None => return false,
            },
            Variable::Rest => match self.captures.rest() {
                Some(rest) => rest.as_bytes(),
                None => return false,
            },
        };
        out.extend_from_slice(text);
        true
    }
}

/// Reads the request at the beginning of `bytes`, and finds its route.
///
/// # Errors
/// What makes it a bad request.
pub fn open<'a>(
    bench: &Bench<'_>,
    bytes: &'a [u8],
    head: &'a RequestHead,
    fields: &'a Fields,
    scratch: &'a mut Scratch,
) -> Result<Case<'a>, Reject> {
    let site = bench.site;
    let lines = Lines { bytes, fields };
    let host_sent = head.host.map_or(&b""[..], |span| span.of(bytes));
    let host = bench.peers.reach(host_for_matching(host_sent, &mut scratch.host))?;
    let target = head.target.of(bytes);
    let normal = if head.asterisk {
        None
    } else {
        Some(path::normalise(target, &mut scratch.path, &site.limits)?)
    };
    // Both forms are ASCII: anything else was refused.
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or("/");
    let path = normal.as_ref().map_or("*", |normal| text(normal.forward(target, &scratch.path)));
    let matching =
        normal.as_ref().map_or("*", |normal| text(normal.matching(target, &scratch.path)));
    let query = normal.as_ref().and_then(|normal| normal.query(target)).map(text);
    if identity::passed_here(&lines, &site.via) {
        return Err(Reject::Loop);
    }
    let client = Client::find(bench.peers.ip(), &lines, &site.plan.trusted_proxies);
    let scheme = identity::scheme(&lines, client.peer_trusted, site.secure);
    let method = text(head.method_name.of(bytes));
    let asked = cors::asked_method(method, &lines);
    let mut case = Case {
        head,
        method,
        host,
        path,
        matching,
        query,
        scheme,
        client,
        id: RequestId::of(Some(&lines), [bench.random[0], bench.random[1]]),
        lines,
        found: Found::NoRoute,
        preflight: asked.is_some(),
    };
    case.found = site.table.find(&case.query());
    Ok(case)
}

impl Case<'_> {
    /// What routes are matched with: a preflight as the request that it asks about.
    pub fn query(&self) -> Query<'_> {
        let asked = cors::asked_method(self.method, &self.lines);
        let asked = asked.and_then(|method| std::str::from_utf8(method).ok());
        Query {
            host: self.host,
            path: self.matching,
            method: asked.unwrap_or(self.method),
            scheme: self.scheme,
            query: self.query.unwrap_or(""),
            fields: &self.lines,
        }
    }

    /// The errand that the request is, before it is known where it goes.
    pub fn errand(&self, bench: &Bench<'_>) -> Box<Errand> {
        let id = self.id.as_bytes();
        let text = log_text::of(bench.site, bench.peers, Some(self.head), &self.lines, id);
        let mut errand = Box::new(Errand::new(self.head, self.client.ip, self.id, text));
        errand.is_https = self.scheme == "https";
        errand.hop_names = trailers::hop_names(self.head.framing, &self.lines);
        if let Found::Route { route, .. } = self.found {
            errand.route = route;
        }
        errand
    }
}

/// Says what becomes of a request that its policies let pass, and writes the head for the server
/// (or the location of a redirect) to `draft`.
pub fn conclude(
    bench: &Bench<'_>,
    case: &Case<'_>,
    mut errand: Box<Errand>,
    draft: &mut Vec<u8>,
) -> Verdict {
    let act = match case.found {
        Found::Route { route, .. } => {
            let captures = bench.site.table.captures(route, case.path);
            let principal = errand.gate.principal.clone();
            let scene = Scene { case, captures, principal: principal.as_deref() };
            write_route_lines(bench, &scene, &mut errand);
            decide(bench, &scene, &mut errand, draft).unwrap_or_else(Act::Rejected)
        }
        Found::NoRoute => Act::NoRoute,
        Found::MethodMissed(allowed) => Act::Method(allowed),
    };
    Verdict { errand, act }
}

/// Says what becomes of a request that a policy refuses: its answer has the lines that any answer
/// of its route has.
pub fn refuse(
    bench: &Bench<'_>,
    case: &Case<'_>,
    mut errand: Box<Errand>,
    refusal: Refusal,
) -> Verdict {
    if let Found::Route { route, .. } = case.found {
        let captures = bench.site.table.captures(route, case.path);
        let principal = errand.gate.principal.clone();
        let scene = Scene { case, captures, principal: principal.as_deref() };
        write_route_lines(bench, &scene, &mut errand);
    }
    Verdict { errand, act: Act::Refused(refusal) }
}

/// What the operator has an answer say.
fn write_route_lines(bench: &Bench<'_>, case: &Scene<'_>, errand: &mut Errand) {
    let spec = bench.site.table.spec(errand.route);
    let chain = bench.site.chain(Some(errand.route));
    let changes = bench.site.changes(chain, spec).map(|(_, response)| response);
    headers::write_all(&changes, case, &mut errand.route_lines);
}

/// As received, without the query.
pub(super) fn path_of(target: &[u8]) -> String {
    let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    String::from_utf8_lossy(&target[..end]).into_owned()
}

fn decide(
    bench: &Bench<'_>,
    case: &Scene<'_>,
    errand: &mut Errand,
    draft: &mut Vec<u8>,
) -> Result<Act, Reject> {
    let spec = bench.site.table.spec(errand.route);
    let chain = bench.site.chain(Some(errand.route));
    errand.sticky = spec.sticky.as_ref().and_then(|spec| sticky::find(spec, &case.lines));
    let pool = match &spec.action {
        ActionSpec::Pool(pool) => *pool,
        ActionSpec::Split { pools, by } => {
            let keeps = spec.sticky.as_ref().is_some_and(|sticky| sticky.keep_on_drain);
            match errand.sticky.and_then(|value| pool_of_cookie(bench, pools, value, keeps)) {
                Some(pool) => pool,
                None => drawn(bench, case, pools, *by),
            }
        }
        ActionSpec::Redirect(redirect) => {
            let own = redirect::Address {
                scheme: case.scheme,
                host: case.host,
                path: case.path,
                query: case.query,
            };
            redirect::write_location(redirect, &own, case, draft).map_err(|_| Reject::Target)?;
            return Ok(Act::Redirect { status: redirect.status });
        }
        ActionSpec::Respond(_) => return Ok(Act::Respond),
    };
    errand.pool = pool;
    let mut hashes = (bench.hashes)(pool);
    if let Some(mirror) = &spec.mirror {
        hashes.extend((bench.hashes)(mirror.pool));
    }
    errand.flows = FlowKeys::of(hashes, case, case.principal);
    errand.upgrades = spec.websocket && case.head.upgrade.is_some();
    let compression = match &spec.compression {
        Some(own) => own.as_ref(),
        None => bench.site.plan.compression.as_ref(),
    };
    errand.accepts =
        compression.map(|spec| Accepts::of(&case.lines, &spec.algorithms)).unwrap_or_default();
    if bench.site.rules.request_changes(chain).next().is_some() {
        match bodies::fit(&case.lines, case.head.framing) {
            Fit::Json => errand.changes_body = true,
            Fit::Unseen | Fit::Other => {}
            Fit::Opaque => return Err(Reject::BodyCoding),
        }
    }
    server_head::write_head(bench, case, spec, errand, draft)?;
    Ok(Act::Forward)
}

/// The pool of a split that a client was sent to before.
fn pool_of_cookie(
    bench: &Bench<'_>,
    pools: &[(usize, u32)],
    value: u64,
    keeps: bool,
) -> Option<usize> {
    let mut pools = pools.iter().map(|(pool, _)| *pool);
    pools.find(|&pool| (bench.keeps_client)(pool, value, keeps))
}

/// The pool of a split for a client that none of them knows.
fn drawn(bench: &Bench<'_>, case: &Scene<'_>, pools: &[(usize, u32)], by: SplitBy) -> usize {
    let point = match (by, case.client.ip) {
        (SplitBy::Client, Some(ip)) => FlowKey::of_ip(ip).bits(),
        (SplitBy::Consumer, ip) => match (case.principal, ip) {
            (Some(principal), _) => FlowKey::of_text(&principal.id).bits(),
            (None, Some(ip)) => FlowKey::of_ip(ip).bits(),
            (None, None) => bench.random[2],
        },
        _ => bench.random[2],
    };
    split::choose(pools, point, bench.has_servers).unwrap_or_default()
}
