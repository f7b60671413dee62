//! What the keys of TLS and HTTP mean together: where clients go, what goes with what.
//!
//! Everything here makes the configuration unusable; what only looks unmeant is in
//! [`lint_http`](super::lint_http). A key whose value was refused counts as said.

use std::collections::HashMap;

use sluicegate_l7::route::pattern::capture_of;
use sluicegate_l7::route::spec::{MatchSpec, PathSpec, ValueSpec};

use super::build::{Draft, ListenerDraft, PoolDraft};
use super::code::{self, Code};
use super::fields::{Fields, Item, Said};
use super::plan::{HashBy, Mode, Protocol, SendProxy};
use super::report::{Finding, Findings};
use super::value::{Scalar, clip};

/// Reports every contradiction.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    for listener in &draft.listeners {
        destination(listener, found);
        trust(listener, found);
        if let Some(tls) = listener.fields.table("tls") {
            listener_tls(tls, listener.plan.mode, found);
        }
        for route in &listener.routes {
            route_alone(route, found);
        }
        same_routes(listener, found);
    }
    for pool in &draft.pools {
        pool_alone(pool, found);
    }
    starttls_of_pools(draft, found);
    hashes_of_requests(draft, found);
}

pub(super) fn add(
    found: &mut Findings,
    code: Code,
    fields: &Fields,
    key: &str,
    message: String,
    hint: &str,
) {
    let place = match fields.said(key) {
        // It is the key that is out of place, not its value.
        Some(said) if code == code::NOT_HERE => said.key_place,
        _ => fields.place_of(key),
    };
    found.add(Finding::new(code, place, fields.path_of(key), message).hint(hint));
}

/// `key` is said though `other` is not, without which it means nothing.
pub(super) fn needs(fields: &Fields, key: &str, other: &str, hint: &str, found: &mut Findings) {
    if fields.has(key) && !fields.has(other) {
        let message =
            format!("`{key}` of {} goes with `{other}`, which is not there", fields.title);
        add(found, code::NOT_HERE, fields, key, message, hint);
    }
}

/// Both are said, and only one can be.
pub(super) fn excludes(fields: &Fields, key: &str, other: &str, hint: &str, found: &mut Findings) {
    let (Some(said), Some(other_said)) = (fields.said(key), fields.said(other)) else { return };
    let message = format!("{} cannot have both `{key}` and `{other}`", fields.title);
    let (last, first, key) = if said.key_place > other_said.key_place {
        (said, other_said, key)
    } else {
        (other_said, said, other)
    };
    let finding = Finding::new(code::CONFLICT, last.key_place, fields.path_of(key), message);
    found.add(finding.hint(hint).related(first.key_place, "the other is here"));
}

fn destination(listener: &ListenerDraft<'_>, found: &mut Findings) {
    let fields = listener.fields;
    let any = |keys: &[&str]| keys.iter().any(|key| fields.has(key));
    if !any(&["pool", "sni", "route"]) {
        let hint = match listener.plan.mode {
            Mode::Tcp => {
                "say where its clients go: `pool = \"NAME\"`, or `sni = { \"*\" = \"NAME\" }`"
                    .to_owned()
            }
            Mode::Http => format!(
                "say where its clients go: `pool = \"NAME\"`, or `[[listener.{}.route]]`",
                clip(listener.name)
            ),
        };
        let message = format!("`pool` is missing in {}", fields.title);
        found.add(
            Finding::new(code::MISSING_KEY, fields.place, fields.path_of("pool"), message)
                .hint(hint),
        );
    }
    excludes(fields, "sni", "pool", "for all other names write `\"*\" = \"NAME\"` in `sni`", found);
    let hint = "with `sni` the bytes go on undecrypted; to decrypt, leave `sni` out and route by `host` with mode = \"http\"";
    excludes(fields, "sni", "tls", hint, found);
    if listener.plan.mode == Mode::Tcp {
        needs(fields, "no_sni", "sni", "", found);
    }
    if let Some(Said { item: Item::Named(names), place, .. }) = fields.said("sni")
        && names.is_empty()
    {
        let message = format!("`sni` of {} is empty, so nobody could connect", fields.title);
        found.add(Finding::new(code::CONFLICT, *place, fields.path_of("sni"), message));
    }
}

fn trust(listener: &ListenerDraft<'_>, found: &mut Findings) {
    let fields = listener.fields;
    let empty = matches!(fields.said("trusted"), Some(Said { item: Item::List(items), .. }) if items.is_empty());
    if listener.plan.accept_proxy && (empty || !fields.has("trusted")) {
        let message = format!(
            "`accept_proxy` of {} needs `trusted`: whose PROXY header is read",
            fields.title
        );
        add(
            found,
            code::MISSING_KEY,
            fields,
            "accept_proxy",
            message,
            "write trusted = [\"10.0.0.0/8\"]",
        );
    }
    let off = matches!(
        fields.said("accept_proxy").map(Said::scalar),
        None | Some(Some(Scalar::Bool(false)))
    );
    if off && fields.has("trusted") {
        let message = format!("`trusted` of {} goes with accept_proxy = true", fields.title);
        let hint = match listener.plan.mode {
            Mode::Tcp => "",
            Mode::Http => "for X-Forwarded-For there is `trusted_proxies`",
        };
        add(found, code::NOT_HERE, fields, "trusted", message, hint);
    }
}

fn listener_tls(tls: &Fields, mode: Mode, found: &mut Findings) {
    needs(tls, "cert", "key", "add `key`, the private key of the certificate", found);
    needs(tls, "key", "cert", "add `cert`, the certificate", found);
    let certs_empty =
        matches!(tls.said("certs"), Some(Said { item: Item::List(items), .. }) if items.is_empty());
    if !tls.has("cert") && !tls.has("key") && (certs_empty || !tls.has("certs")) {
        let message = format!("{} has no certificate", tls.title);
        let finding = Finding::new(code::MISSING_KEY, tls.place, tls.path_of("cert"), message);
        found.add(finding.hint("add `cert` and `key`"));
    }
    clients(tls, tls.has("client_ca"), found);
    for entry in tls.tables("certs") {
        clients(entry, entry.has("client_ca") || tls.has("client_ca"), found);
    }
    if mode == Mode::Http && tls.has("starttls") {
        let message = format!("`starttls` of {} does not go with mode = \"http\"", tls.title);
        add(found, code::NOT_HERE, tls, "starttls", message, "it belongs to mode = \"tcp\"");
    }
    let any_ca = tls.has("client_ca") || tls.tables("certs").any(|entry| entry.has("client_ca"));
    if tls.has("client_cert_headers") && mode == Mode::Tcp {
        let message =
            format!("`client_cert_headers` of {} does not go with mode = \"tcp\"", tls.title);
        add(
            found,
            code::NOT_HERE,
            tls,
            "client_cert_headers",
            message,
            "it belongs to mode = \"http\"",
        );
    } else if tls.said("client_cert_headers").is_some_and(|said| !said.scalars().is_empty())
        && !any_ca
    {
        let message = format!("`client_cert_headers` of {} needs `client_ca`", tls.title);
        add(
            found,
            code::NOT_HERE,
            tls,
            "client_cert_headers",
            message,
            "nobody is asked for a certificate",
        );
    }
    let Some(alpn) = tls.said("alpn").filter(|_| mode == Mode::Http) else { return };
    let Item::List(items) = &alpn.item else { return };
    for said in items {
        let Some(Scalar::Text(name)) = said.scalar() else { continue };
        if name != "h2" && name != "http/1.1" {
            let message = format!(
                "`alpn` of {} has \"{}\", which an HTTP listener does not speak",
                tls.title,
                clip(name)
            );
            let finding =
                Finding::new(code::NOT_A_CHOICE, said.place, tls.path_of("alpn"), message);
            found.add(finding.hint("it can have \"h2\" and \"http/1.1\""));
        }
    }
}

fn clients(fields: &Fields, any_ca: bool, found: &mut Findings) {
    if any_ca {
        return;
    }
    for key in ["client_auth", "client_crl"] {
        needs(
            fields,
            key,
            "client_ca",
            "add client_ca = \"file:ca.pem\": whose certificates are taken",
            found,
        );
    }
}

const ACTIONS: [&str; 4] = ["pool", "split", "redirect", "respond"];
/// What a route that asks no server cannot have.
const FOR_SERVERS: [&str; 8] =
    ["rewrite", "headers", "mirror", "retries", "sticky", "timeout", "websocket", "compression"];

fn route_alone(route: &Fields, found: &mut Findings) {
    let said: Vec<&str> = ACTIONS.into_iter().filter(|key| route.has(key)).collect();
    match said.as_slice() {
        [] => {
            let message = format!(
                "{} goes nowhere: one of `pool`, `split`, `redirect` and `respond` is missing",
                route.title
            );
            found.add(Finding::new(code::MISSING_KEY, route.place, route.path_of("pool"), message));
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                excludes(route, first, other, "a route does one thing", found);
            }
        }
    }
    if let [own @ ("redirect" | "respond")] = said.as_slice() {
        for key in FOR_SERVERS.into_iter().filter(|key| route.has(key)) {
            let message = format!(
                "`{key}` of {} does not go with `{own}`, which asks no server",
                route.title
            );
            add(found, code::NOT_HERE, route, key, message, "");
        }
    }
    needs(route, "split_by", "split", "", found);
    if let Some(Said { item: Item::Named(names), place, .. }) = route.said("split")
        && names.is_empty()
    {
        let message = format!("`split` of {} names no pool", route.title);
        found.add(Finding::new(code::CONFLICT, *place, route.path_of("split"), message));
    }
    if let Some(table) = route.table("match") {
        excludes(
            table,
            "path",
            "path_regex",
            "`path` is enough for most: \"/v1/*\", \"/o/{id}/items\"",
            found,
        );
        if table.has("ignore_case") && !table.has("path") && !table.has("path_regex") {
            needs(table, "ignore_case", "path", "", found);
        }
    }
    if let Some(table) = route.table("rewrite") {
        excludes(table, "strip_prefix", "path", "", found);
        strip_prefix(route, table, found);
    }
    if let Some(table) = route.table("redirect") {
        redirect(table, found);
    }
    if let Some(table) = route.table("respond") {
        respond(table, found);
    }
}

/// A prefix that the route's paths do not have would never be cut.
fn strip_prefix(route: &Fields, rewrite: &Fields, found: &mut Findings) {
    let text = |fields: &Fields, key: &str| match fields.scalar(key) {
        Some(Scalar::Text(text)) => Some(text),
        _ => None,
    };
    let Some(prefix) = text(rewrite, "strip_prefix") else { return };
    let Some(path) = route.table("match").and_then(|table| text(table, "path")) else { return };
    let mut segments = path.trim_end_matches("/*").split('/');
    let fits = prefix.trim_end_matches('/').split('/').all(|wanted| {
        segments
            .next()
            .is_some_and(|found| found.eq_ignore_ascii_case(wanted) || capture_of(found).is_some())
    });
    if !fits {
        let message =
            format!("`strip_prefix` of {} is not how the paths of the route begin", rewrite.title);
        let finding = Finding::new(
            code::CONFLICT,
            rewrite.place_of("strip_prefix"),
            rewrite.path_of("strip_prefix"),
            message,
        );
        let path = route.table("match").map_or(route.place, |table| table.place_of("path"));
        found.add(finding.related(path, "the path is here"));
    }
}

fn redirect(table: &Fields, found: &mut Findings) {
    const STATUSES: [i64; 5] = [301, 302, 303, 307, 308];
    if !["to", "scheme", "port"].iter().any(|key| table.has(key)) {
        let message = format!(
            "{} says nowhere to go, so it would send clients round in a circle",
            table.title
        );
        let finding = Finding::new(code::MISSING_KEY, table.place, table.path_of("to"), message);
        found.add(finding.hint("write to = \"/new/*\", or scheme = \"https\""));
    }
    for key in ["scheme", "port"] {
        excludes(table, "to", key, "`to` may begin with `https://`", found);
    }
    if let Some(Scalar::Integer(status)) = table.scalar("status")
        && !STATUSES.contains(&status)
    {
        let message = format!(
            "`status` of {} must be 301, 302, 303, 307 or 308, found {status}",
            table.title
        );
        add(
            found,
            code::OUT_OF_RANGE,
            table,
            "status",
            message,
            "308 is for good and keeps the method, 307 is for now",
        );
    }
}

/// RFC 9110 §15.3.5, §15.4.5: these end with their head.
fn respond(table: &Fields, found: &mut Findings) {
    if let Some(Scalar::Integer(status @ (204 | 205 | 304))) = table.scalar("status")
        && table.has("body")
    {
        let message = format!("an answer with status {status} has no body");
        add(found, code::CONFLICT, table, "body", message, "");
    }
}

/// Two routes of one listener with the same conditions: only the first would ever be taken.
fn same_routes(listener: &ListenerDraft<'_>, found: &mut Findings) {
    let Some(http) = &listener.plan.http else { return };
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, (route, fields)) in http.routes.iter().zip(&listener.routes).enumerate() {
        if let Some(&first) = fields.has("name").then(|| names.get(route.name.as_str())).flatten() {
            let message = format!(
                "two routes of {} have the name `{}`",
                listener.fields.title,
                clip(&route.name)
            );
            let finding = Finding::new(
                code::CONFLICT,
                fields.place_of("name"),
                fields.path_of("name"),
                message,
            );
            let first = listener.routes[first];
            found.add(finding.related(first.place_of("name"), "the first is here"));
        }
        names.entry(route.name.as_str()).or_insert(index);
        if !is_whole(fields) {
            continue;
        }
        let first = *seen.entry(normal_form(&route.matches)).or_insert(index);
        if first == index {
            continue;
        }
        // A redirect to another scheme lets those pass that have it.
        if listener.routes[first].table("redirect").is_some_and(|table| !table.has("to")) {
            continue;
        }
        let message = format!(
            "{} matches the same requests as {}, so it would never be taken",
            fields.title,
            short_title(listener.routes[first]),
        );
        let at = fields.said("match").map_or(fields.place, |said| said.key_place);
        let finding = Finding::new(code::SAME_ROUTE, at, fields.path_of("match"), message);
        found.add(
            finding
                .hint("keep one of the two")
                .related(listener.routes[first].place, "the first is here"),
        );
    }
}

/// `route 1` of `route 1 of listener …`
fn short_title(fields: &Fields) -> &str {
    fields.title.split(" of listener").next().unwrap_or(&fields.title)
}

/// Whether no condition of the route was refused.
fn is_whole(route: &Fields) -> bool {
    let good = |said: &Said| match &said.item {
        Item::Bad => false,
        Item::List(items) => items.iter().all(|item| item.scalar().is_some()),
        Item::Named(names) => names.iter().all(|(_, said)| !said.scalars().is_empty()),
        Item::Scalar(_) | Item::Table(_) => true,
    };
    match route.said("match") {
        None => true,
        Some(said) => said.fields().is_some_and(|table| {
            ["host", "path", "path_regex", "methods", "headers", "query", "cookies"]
                .iter()
                .all(|key| table.said(key).is_none_or(good))
        }),
    }
}

/// The conditions as text in which order and case, where they do not matter, are gone.
pub(super) fn normal_form(matches: &MatchSpec) -> String {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        list
    };
    let values = |list: &[(String, ValueSpec)]| {
        let mut list: Vec<(String, Option<Vec<String>>)> = list
            .iter()
            .map(|(name, value)| match value {
                ValueSpec::Present => (name.clone(), None),
                ValueSpec::Any(values) => (name.clone(), Some(sorted(values))),
            })
            .collect();
        list.sort_unstable();
        list
    };
    let path = match &matches.path {
        PathSpec::Any => "any".to_owned(),
        PathSpec::Pattern(path) if matches.ignore_case => format!("={}", path.to_ascii_lowercase()),
        PathSpec::Pattern(path) => format!("={path}"),
        PathSpec::Regex(regex) => format!("~{regex}"),
    };
    format!(
        "{:?}{path:?}{}{:?}{:?}{:?}{:?}",
        sorted(&matches.hosts),
        matches.ignore_case,
        sorted(&matches.methods),
        values(&matches.headers),
        values(&matches.query),
        values(&matches.cookies)
    )
}

fn pool_alone(pool: &PoolDraft<'_>, found: &mut Findings) {
    let fields = pool.fields;
    let contradiction = match (pool.plan.protocol, fields.has("tls")) {
        (Protocol::H2, false) => Some((
            "protocol = \"h2\" of {} is HTTP/2 over TLS, and there is no `tls`",
            "add tls = {}, or write \"h2c\" for HTTP/2 without TLS",
        )),
        (Protocol::H2c, true) => Some((
            "protocol = \"h2c\" of {} is HTTP/2 without TLS, and there is `tls`",
            "write \"h2\", or leave `tls` out",
        )),
        (Protocol::H2 | Protocol::H2c, _) if pool.plan.send_proxy != SendProxy::Off => Some((
            "HTTP/2 connections to {} are shared, and a PROXY header speaks for one client",
            "leave `send_proxy` out, or write protocol = \"http/1.1\"",
        )),
        _ => None,
    };
    if let Some((what, advice)) = contradiction {
        let message = what.replace("{}", &fields.title);
        add(found, code::CONFLICT, fields, "protocol", message, advice);
    }
    if let Some(check) = fields.table("check")
        && matches!(check.scalar("tls"), Some(Scalar::Bool(true)))
        && !fields.has("tls")
    {
        let message =
            format!("`tls` of {} goes with `tls` of the pool, which is not there", check.title);
        add(found, code::NOT_HERE, check, "tls", message, "add tls = {} to the pool");
    }
    if let Some(tls) = fields.table("tls") {
        needs(tls, "client_cert", "client_key", "", found);
        needs(tls, "client_key", "client_cert", "", found);
    }
}

fn starttls_of_pools(draft: &Draft<'_>, found: &mut Findings) {
    let mut told = vec![false; draft.pools.len()];
    for listener in draft.listeners.iter().filter(|l| l.plan.mode == Mode::Http) {
        for index in listener.pools() {
            let pool = &draft.pools[index];
            let Some(tls) = pool.fields.table("tls").filter(|tls| tls.has("starttls")) else {
                continue;
            };
            if std::mem::replace(&mut told[index], true) {
                continue;
            }
            let message = format!(
                "`starttls` of {} is PostgreSQL's, but HTTP listener `{}` sends to it",
                tls.title,
                clip(listener.name)
            );
            add(
                found,
                code::CONFLICT,
                tls,
                "starttls",
                message,
                "leave it out; TLS begins at once",
            );
        }
    }
}

/// A session of a tcp listener has no header, no path and no consumer.
fn hashes_of_requests(draft: &Draft<'_>, found: &mut Findings) {
    let mut told = vec![false; draft.pools.len()];
    for listener in draft.listeners.iter().filter(|l| l.plan.mode == Mode::Tcp) {
        for index in listener.pools() {
            let pool = &draft.pools[index];
            if pool.plan.hash == HashBy::Ip || std::mem::replace(&mut told[index], true) {
                continue;
            }
            let fields = pool.fields;
            let message = format!(
                "`hash` of {} is for requests, but tcp listener `{}` sends to it",
                fields.title,
                clip(listener.name)
            );
            let finding = Finding::new(
                code::CONFLICT,
                fields.place_of("hash"),
                fields.path_of("hash"),
                message,
            );
            let finding = finding.hint("write hash = \"ip\", or give the listener another pool");
            found.add(finding.related(listener.fields.place_of("pool"), "the listener is here"));
        }
    }
}
