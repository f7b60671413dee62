//! The head that a server gets: the client's, without what is not its to say, and with what the
//! gateway says of it.

use sluicegate_l7::http1::{Framing, Known, Reject, Version};
use sluicegate_l7::identity::Identity;
use sluicegate_l7::policy::chain::Chain;
use sluicegate_l7::policy::credential;
use sluicegate_l7::route::spec::RouteSpec;
use sluicegate_l7::route::{headers, rewrite};
use sluicegate_l7::text::push_decimal;

use super::errand::{Bench, Case, Errand, Scene};
use super::site::Site;
use crate::config::plan::ClientCertField;

/// Appends the head for the server.
pub(super) fn write_head(
    bench: &Bench<'_>,
    case: &Scene<'_>,
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
    write_query(bench, case, errand, out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    // That of the server is put in once there is one.
    if !spec.rewrite.host_of_server && !rewrite::write_host(&spec.rewrite, case, out) {
        out.extend_from_slice(case.head.host.map_or(&b""[..], |span| span.of(bytes)));
    }
    out.extend_from_slice(b"\r\n");
    let from = out.len();
    let chain = bench.site.chain(Some(errand.route));
    write_fields(bench, case, errand, out);
    Identity {
        peer: bench.peers.ip(),
        peer_trusted: case.client.peer_trusted,
        client: case.client.ip,
        scheme: case.scheme,
        host: case.head.host.map_or(&b""[..], |span| span.of(bytes)),
        // A unix socket has none: that of the scheme then.
        port: bench.peers.local.map_or(web_port(case.scheme), |local| local.port()),
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
    errand.gate.write_consumer(bench.site, out);
    write_trace(case, bench, out);
    write_framing(case, errand, out);
    headers::drop_lines(&bench.site.replaced(errand.route()).request, from, out);
    let changes = bench.site.changes(chain, spec).map(|(request, _)| request);
    headers::write_all(&changes, case, out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

const fn web_port(scheme: &str) -> u16 {
    if scheme.len() == "https".len() { 443 } else { 80 }
}

/// What stands behind the path: as it came, without a credential in it, as policies change it.
fn write_query(bench: &Bench<'_>, case: &Case<'_>, errand: &Errand, out: &mut Vec<u8>) {
    let site = bench.site;
    let chain = site.chain(Some(errand.route));
    let mut hidden = site.rules.hidden_queries(chain).peekable();
    let mut changes = site.rules.query_changes(chain).peekable();
    if hidden.peek().is_none() && changes.peek().is_none() {
        if let Some(query) = case.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        return;
    }
    let mut query = case.query.unwrap_or_default().to_owned();
    let mut write = |write: &dyn Fn(&str, &mut Vec<u8>)| {
        let mut next = Vec::new();
        write(&query, &mut next);
        // Escapes, and what was ASCII before.
        query = String::from_utf8(next).unwrap_or_default();
    };
    for name in hidden {
        write(&|query, out| credential::write_query_without(query, name, out));
    }
    for changes in changes {
        write(&|query, out| changes.write(query, out));
    }
    if !query.is_empty() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}

fn write_fields(bench: &Bench<'_>, case: &Case<'_>, errand: &Errand, out: &mut Vec<u8>) {
    let (bytes, site) = (case.lines.bytes, bench.site);
    let chain = site.chain(Some(errand.route));
    for field in case.lines.fields.end_to_end() {
        let name = field.name.of(bytes);
        // An encoded answer could not be changed, nor could a part of one.
        let for_us = (matches!(field.known, Some(Known::AcceptEncoding | Known::Range))
            || name.eq_ignore_ascii_case(b"if-range"))
            && site.rules.answer_changes(chain).next().is_some();
        let passes = !for_us
            && site.sieve.passes(field.known, name)
            && !site.takes(errand.route(), name)
            && !site.rules.hides(chain, name, field.value.of(bytes));
        if !passes {
            continue;
        }
        if field.known == Some(Known::Cookie) && site.rules.hidden_cookies(chain).next().is_some() {
            write_cookies(site, chain, field.value.of(bytes), out);
            continue;
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value.of(bytes));
        out.extend_from_slice(b"\r\n");
    }
}

/// The cookies of a line that have no credential of ours.
fn write_cookies(site: &Site, chain: &Chain, line: &[u8], out: &mut Vec<u8>) {
    let mut left = Vec::with_capacity(line.len());
    let hidden = |name: &[u8]| site.rules.hidden_cookies(chain).any(|own| own.as_bytes() == name);
    credential::write_cookies_without(line, hidden, &mut left);
    if !left.is_empty() {
        for part in [&b"Cookie: "[..], &left, b"\r\n"] {
            out.extend_from_slice(part);
        }
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
    if errand.changes_body {
        return; // Its length is not known yet.
    }
    match case.head.framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(length, out);
            out.extend_from_slice(b"\r\n");
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
