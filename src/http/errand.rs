//! One request: where it goes, and the head that the server gets.

use std::net::IpAddr;

use sluicegate_l7::compress::Accepts;
use sluicegate_l7::http1::request::{Method, RequestHead};
use sluicegate_l7::http1::{
    self, Fields, Framing, Known, Lines, Reject, Version, host_for_matching,
};
use sluicegate_l7::identity::{self, Client, Identity};
use sluicegate_l7::path;
use sluicegate_l7::route::spec::{ActionSpec, RouteSpec, SplitBy};
use sluicegate_l7::route::template::{Variable, Variables};
use sluicegate_l7::route::{self, Allowed, Captures, Found, Query};
use sluicegate_l7::route::{headers, redirect, rewrite, split, sticky};

use super::session::Peers;
use super::site::Site;
use crate::config::plan::{ClientCertField, HttpTimeouts};
use crate::observe::requests::RequestText;

/// A request's id: the client's if it is harmless, else made here.
#[derive(Clone, Copy)]
pub struct RequestId {
    bytes: [u8; identity::lines::REQUEST_ID_LEN_MAX],
    len: u8,
}

impl RequestId {
    fn of(head: &Lines<'_>, random: u128) -> Self {
        let made = identity::new_request_id(random.to_ne_bytes());
        let id = identity::kept_request_id(head).unwrap_or(&made);
        let mut bytes = [0; identity::lines::REQUEST_ID_LEN_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, len: id.len() as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
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
    pub id: RequestId,
    /// What the answer may be compressed with.
    pub accepts: Accepts,
    pub text: Option<Box<RequestText>>,
    /// The server that the client's cookie names.
    pub sticky: Option<u64>,
    /// What the route adds to the answer.
    pub answer_lines: Vec<u8>,
    /// Those of the pool under this listener.
    pub timeouts: HttpTimeouts,
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
            id,
            accepts: Accepts::default(),
            text,
            sticky: None,
            answer_lines: Vec::new(),
            timeouts: HttpTimeouts::default(),
        }
    }
}

impl Errand {
    /// Appends the lines of an answer that the gateway makes itself.
    pub fn write_own_lines(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Request-Id: ");
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.answer_lines);
    }
}

/// What is to be done about a request.
pub enum Verdict {
    Forward(Box<Errand>),
    /// The draft holds the `Location` value.
    Redirect {
        errand: Box<Errand>,
        status: u16,
    },
    Respond {
        errand: Box<Errand>,
    },
    NoRoute {
        errand: Box<Errand>,
    },
    Method {
        errand: Box<Errand>,
        allowed: Allowed,
    },
}

/// What decides about a request.
pub struct Bench<'a> {
    pub site: &'a Site,
    pub peers: &'a Peers,
    /// Two random numbers: for an id, and for chance.
    pub random: [u64; 3],
    pub has_servers: &'a dyn Fn(usize) -> bool,
    pub logged: bool,
    /// The head came in HTTP/2's form.
    pub is_http2: bool,
}

/// A request as it is being judged.
struct Case<'a> {
    head: &'a RequestHead,
    lines: Lines<'a>,
    host: &'a str,
    /// As it will be forwarded.
    path: &'a str,
    query: Option<&'a str>,
    scheme: &'static str,
    client: Client,
    id: &'a RequestId,
    captures: Captures<'a>,
}

impl Variables for Case<'_> {
    fn append(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
        use std::io::Write as _;
        let text = match variable {
            Variable::ClientIp => {
                return self.client.ip.is_some_and(|ip| write!(out, "{ip}").is_ok());
            }
            Variable::Host => self.host.as_bytes(),
            Variable::Path => self.path.as_bytes(),
            Variable::Scheme => self.scheme.as_bytes(),
            Variable::RequestId => self.id.as_bytes(),
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

/// Judges the request at the beginning of `bytes`, and writes the head for the server (or the
/// location of a redirect) to `draft`.
///
/// # Errors
/// What makes it a bad request.
pub fn judge(
    bench: &Bench<'_>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    draft: &mut Vec<u8>,
) -> Result<Verdict, Reject> {
    let site = bench.site;
    let lines = Lines { bytes, fields };
    let mut scratch = [0; http1::host::HOST_BYTES_MAX];
    let host_sent = head.host.map_or(&b""[..], |span| span.of(bytes));
    let host = bench.peers.reach(host_for_matching(host_sent, &mut scratch))?;
    let target = head.target.of(bytes);
    let mut rewritten = Vec::new();
    let normal = if head.asterisk {
        None
    } else {
        Some(path::normalise(target, &mut rewritten, &site.limits)?)
    };
    // Both forms are ASCII: anything else was refused.
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or("/");
    let forward = normal.as_ref().map_or("*", |normal| text(normal.forward(target, &rewritten)));
    let matching = normal.as_ref().map_or("*", |normal| text(normal.matching(target, &rewritten)));
    let query = normal.as_ref().and_then(|normal| normal.query(target)).map(text);
    if identity::passed_here(&lines, &site.via) {
        return Err(Reject::Loop);
    }
    let client = Client::find(bench.peers.ip(), &lines, &site.plan.trusted_proxies);
    let scheme = identity::scheme(&lines, client.peer_trusted, site.secure);
    let random = u128::from(bench.random[0]) << 64 | u128::from(bench.random[1]);
    let id = RequestId::of(&lines, random);
    let method = text(head.method_name.of(bytes));
    let found = site.table.find(&Query {
        host,
        path: matching,
        method,
        scheme,
        query: query.unwrap_or(""),
        fields: &lines,
    });
    let text = bench.logged.then(|| {
        Box::new(RequestText {
            method: method.to_owned(),
            host: String::from_utf8_lossy(host_sent).into_owned(),
            path: path_of(target),
            request_id: String::from_utf8_lossy(id.as_bytes()).into_owned(),
            tls: bench.peers.tls.clone(),
        })
    });
    let mut errand = Box::new(Errand::new(head, client.ip, id, text));
    let route = match found {
        Found::Route { route, .. } => route,
        Found::NoRoute => return Ok(Verdict::NoRoute { errand }),
        Found::MethodMissed(allowed) => return Ok(Verdict::Method { errand, allowed }),
    };
    errand.route = route;
    let captures = site.table.captures(route, forward);
    let case = Case {
        head,
        lines,
        host,
        path: forward,
        query,
        scheme,
        client,
        id: &errand.id.clone(),
        captures,
    };
    decide(bench, &case, errand, draft)
}

/// As received, without the query.
pub(super) fn path_of(target: &[u8]) -> String {
    let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    String::from_utf8_lossy(&target[..end]).into_owned()
}

fn decide(
    bench: &Bench<'_>,
    case: &Case<'_>,
    mut errand: Box<Errand>,
    draft: &mut Vec<u8>,
) -> Result<Verdict, Reject> {
    let spec = bench.site.table.spec(errand.route);
    headers::write_http1(&spec.response_headers, case, &mut errand.answer_lines);
    let pool = match &spec.action {
        ActionSpec::Pool(pool) => *pool,
        ActionSpec::Split { pools, by } => {
            let point = match (by, case.client.ip) {
                (SplitBy::Client, Some(ip)) => crate::balance::FlowKey::of_ip(ip).bits(),
                _ => bench.random[2],
            };
            split::choose(pools, point, bench.has_servers).unwrap_or_default()
        }
        ActionSpec::Redirect(redirect) => {
            let own = redirect::Address {
                scheme: case.scheme,
                host: case.host,
                path: case.path,
                query: case.query,
            };
            redirect::write_location(redirect, &own, case, draft).map_err(|_| Reject::Target)?;
            return Ok(Verdict::Redirect { errand, status: redirect.status });
        }
        ActionSpec::Respond(_) => return Ok(Verdict::Respond { errand }),
    };
    errand.pool = pool;
    errand.sticky = spec.sticky.as_ref().and_then(|spec| sticky::find(spec, &case.lines));
    errand.upgrades = spec.websocket && case.head.upgrade.is_some();
    let compression = match &spec.compression {
        Some(own) => own.as_ref(),
        None => bench.site.plan.compression.as_ref(),
    };
    errand.accepts =
        compression.map(|spec| Accepts::of(&case.lines, &spec.algorithms)).unwrap_or_default();
    write_head(bench, case, spec, &errand, draft)?;
    Ok(Verdict::Forward(errand))
}

/// Appends the head for the server.
fn write_head(
    bench: &Bench<'_>,
    case: &Case<'_>,
    spec: &RouteSpec,
    errand: &Errand,
    out: &mut Vec<u8>,
) -> Result<(), Reject> {
    let bytes = case.lines.bytes;
    out.extend_from_slice(case.head.method_name.of(bytes));
    out.push(b' ');
    if case.head.asterisk {
        out.push(b'*');
    } else {
        rewrite::write_path(&spec.rewrite, case.path, case, out).map_err(|_| Reject::PathSyntax)?;
    }
    if let Some(query) = case.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    if !rewrite::write_host(&spec.rewrite, case, out) {
        out.extend_from_slice(case.head.host.map_or(&b""[..], |span| span.of(bytes)));
    }
    out.extend_from_slice(b"\r\n");
    write_fields(bench, case, spec, out);
    Identity {
        peer: bench.peers.ip(),
        peer_trusted: case.client.peer_trusted,
        client: case.client.ip,
        scheme: case.scheme,
        host: case.head.host.map_or(&b""[..], |span| span.of(bytes)),
        port: bench.peers.local.map_or(0, |local| local.port()),
        request_id: case.id.as_bytes(),
        version: match case.head.version {
            _ if bench.is_http2 => "2.0",
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        },
        via: &bench.site.via,
        fields: &case.lines,
    }
    .write_http1(out);
    write_client_cert(bench, out);
    write_trace(case, bench, out);
    write_framing(case, errand, out);
    headers::write_http1(&spec.headers, case, out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_fields(bench: &Bench<'_>, case: &Case<'_>, spec: &RouteSpec, out: &mut Vec<u8>) {
    let bytes = case.lines.bytes;
    for field in case.lines.fields.end_to_end() {
        let name = field.name.of(bytes);
        if !bench.site.sieve.passes(field.known, name) || !headers::passes(&spec.headers, name) {
            continue;
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value.of(bytes));
        out.extend_from_slice(b"\r\n");
    }
}

/// What the servers are told of a client's certificate, which was verified.
fn write_client_cert(bench: &Bench<'_>, out: &mut Vec<u8>) {
    let Some(client) = bench.peers.tls.as_ref().and_then(|tls| tls.client.as_ref()) else { return };
    for field in &bench.site.client_cert_headers {
        let (name, value) = match field {
            ClientCertField::Subject => ("X-Client-Cert-Subject: ", client.subject.as_str()),
            ClientCertField::San => ("X-Client-Cert-San: ", &*client.san.join(",")),
            ClientCertField::Fingerprint => ("X-Client-Cert-Fingerprint: ", &*client.fingerprint),
        };
        for part in [name, value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

fn write_trace(case: &Case<'_>, bench: &Bench<'_>, out: &mut Vec<u8>) {
    let mut random = [0; 24];
    for (at, word) in bench.random.iter().enumerate() {
        random[8 * at..8 * at + 8].copy_from_slice(&word.rotate_left(17).to_ne_bytes());
    }
    let (trace, continued) = sluicegate_l7::trace::Trace::of(&case.lines, random);
    out.extend_from_slice(b"traceparent: ");
    out.extend_from_slice(&trace.encode());
    out.extend_from_slice(b"\r\n");
    if continued {
        for value in case.lines.fields.values(case.lines.bytes, Known::Tracestate) {
            out.extend_from_slice(b"tracestate: ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn write_framing(case: &Case<'_>, errand: &Errand, out: &mut Vec<u8>) {
    use std::io::Write as _;
    match case.head.framing {
        Framing::Length(length) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if case.head.expect_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    if let (true, Some(upgrade)) = (errand.upgrades, case.head.upgrade) {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(upgrade.of(case.lines.bytes));
        out.extend_from_slice(b"\r\n");
    }
}
