//! Typed fields → what the plan says about HTTP: routes, limits, timeouts.
//!
//! Texts with variables and regular expressions are parsed here, since which variables there
//! are depends on the route's path; their errors have the place of the text. Whether a route
//! makes sense as a whole is checked in [`cross_http`](super::cross_http).

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_l7::route::pattern::captures_of;
use sluicegate_l7::route::spec::{
    ActionSpec, Algorithm, CompressionSpec, HeaderSpec, MatchSpec, MirrorSpec, PathSpec,
    RedirectSpec, RespondSpec, RetrySpec, RewriteSpec, RouteSpec, SplitBy, StickySpec, ValueSpec,
};
use sluicegate_l7::route::template::Template;

use super::build::{Pools, boolean, choice, duration, integer, networks, size, text};
use super::build_policy;
use super::code;
use super::fields::{Fields, Said};
use super::plan::{ErrorPage, HttpLimits, HttpListener, HttpTimeoutOverrides, HttpTimeouts};
use super::report::{Finding, Findings};
use super::value::{Scalar, clip};

/// What a compiled expression may take; the reader of the table compiles it once more.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// The half of a listener that `mode = "http"` brings. `pool` is that of the listener itself.
pub fn http_listener<'a>(
    fields: &'a Fields,
    below: HttpTimeouts,
    policies: &HashMap<&str, usize>,
    pools: &mut Pools<'a, '_>,
    found: &mut Findings,
) -> HttpListener {
    let route = |fields| RouteSpec {
        policies: build_policy::mentions(fields, policies),
        ..route(fields, pools, found)
    };
    let mut routes: Vec<RouteSpec> = fields.tables("route").map(route).collect();
    name_routes(fields, &mut routes);
    let kept = fields.list("keep_headers").into_iter().filter_map(|(scalar, _)| text_in(&scalar));
    HttpListener {
        routes,
        trusted_proxies: networks(fields, "trusted_proxies"),
        limits: fields.table("http").map(limits).unwrap_or_default(),
        compression: fields.table("compression").map(compression),
        errors: error_pages(fields, found),
        keep_headers: kept.collect(),
        timeouts: timeout_overrides(fields).over(below),
        policies: build_policy::mentions(fields, policies),
        server_timing: boolean(fields, "server_timing").unwrap_or(false),
    }
}

/// Names for those that have none: host and path as written, ` #2` for a repeat.
fn name_routes(listener: &Fields, routes: &mut [RouteSpec]) {
    let mut taken: HashMap<String, u32> = routes
        .iter()
        .filter(|route| !route.name.is_empty())
        .map(|route| (route.name.clone(), 1))
        .collect();
    for (route, fields) in routes.iter_mut().zip(listener.tables("route")) {
        if !route.name.is_empty() || fields.has("name") {
            continue;
        }
        let wanted = default_name(fields.table("match"), &route.matches);
        let count = taken.entry(wanted.clone()).or_insert(0);
        *count += 1;
        route.name = if *count == 1 { wanted } else { format!("{wanted} #{count}") };
    }
}

fn default_name(fields: Option<&Fields>, matches: &MatchSpec) -> String {
    let path =
        fields.and_then(|fields| text(fields, "path").or_else(|| text(fields, "path_regex")));
    let name = format!("{}{}", matches.hosts.join(","), path.unwrap_or_default());
    // The empty name is that of no route.
    if name.is_empty() { "*".to_owned() } else { name }
}

fn route<'a>(fields: &'a Fields, pools: &mut Pools<'a, '_>, found: &mut Findings) -> RouteSpec {
    let matches = fields.table("match").map(|table| matches(table, found)).unwrap_or_default();
    // A path that is no pattern was refused already.
    let captures = captures_of(&matches.path).unwrap_or_default();
    let captures: Vec<&str> = captures.iter().map(String::as_str).collect();
    let mut headers = |key| {
        fields.table(key).map(|table| operations(table, &captures, found)).unwrap_or_default()
    };
    let (headers, response_headers) = (headers("headers"), headers("response_headers"));
    RouteSpec {
        name: text(fields, "name").unwrap_or_default(),
        rewrite: fields
            .table("rewrite")
            .map(|table| RewriteSpec {
                strip_prefix: text(table, "strip_prefix"),
                path: template(table, "path", &captures, found),
                host: if of_server(table) {
                    None
                } else {
                    template(table, "host", &captures, found)
                },
                host_of_server: of_server(table),
            })
            .unwrap_or_default(),
        headers,
        response_headers,
        action: action(fields, &captures, pools, found),
        mirror: fields.table("mirror").map(|table| mirror(table, pools)),
        retries: fields.table("retries").map(retries).unwrap_or_default(),
        sticky: fields.table("sticky").map(sticky),
        timeout: duration(fields, "timeout"),
        websocket: boolean(fields, "websocket").unwrap_or(false),
        access_log: boolean(fields, "access_log"),
        compression: fields.said("compression").map(|said| said.fields().map(compression)),
        policies: Vec::new(),
        matches,
    }
}

/// What stands for the host of whichever server is chosen.
const SERVER: &str = "{server}";

fn of_server(rewrite: &Fields) -> bool {
    text(rewrite, "host").is_some_and(|host| host == SERVER)
}

fn matches(fields: &Fields, found: &mut Findings) -> MatchSpec {
    let texts = |key| -> Vec<String> {
        fields.said(key).map(|said| texts_in(said).collect()).unwrap_or_default()
    };
    let ignore_case = boolean(fields, "ignore_case").unwrap_or(false);
    let path = match (text(fields, "path"), text(fields, "path_regex")) {
        (Some(path), _) => PathSpec::Pattern(path),
        (None, Some(expression)) => regex(fields, &expression, ignore_case, found),
        (None, None) => PathSpec::Any,
    };
    let values = |key, lower: bool| {
        let values = fields.named(key).iter();
        values.map(move |(name, said)| {
            (if lower { name.to_ascii_lowercase() } else { name.clone() }, value(said))
        })
    };
    MatchSpec {
        hosts: texts("host"),
        path,
        methods: texts("methods").into_iter().map(|method| method.to_ascii_uppercase()).collect(),
        headers: values("headers", true).collect(),
        query: values("query", false).collect(),
        cookies: values("cookies", false).collect(),
        ignore_case,
    }
}

fn value(said: &Said) -> ValueSpec {
    let values: Vec<String> = texts_in(said).collect();
    if values.iter().any(|value| value == "*") {
        ValueSpec::Present
    } else {
        ValueSpec::Any(values)
    }
}

/// The flag stands in the expression, so that whoever anchors its text keeps it.
fn regex(fields: &Fields, text: &str, ignore_case: bool, found: &mut Findings) -> PathSpec {
    let flagged = if ignore_case { format!("(?i:{text})") } else { text.to_owned() };
    // Alone first: `a)(b` must not become good by what stands around it.
    let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    match compile(text)
        .and_then(|_| compile(&format!("^(?:{flagged})$")))
        .and_then(|_| compile(&flagged))
    {
        Ok(regex) => PathSpec::Regex(regex),
        Err(error) => {
            let why = match error {
                regex::Error::CompiledTooBig(_) => "would take too much memory".to_owned(),
                // Its last line says it; those above draw the expression.
                error => {
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or("").trim_start_matches("error: ");
                    format!("cannot be read: {}", clip(last))
                }
            };
            let message = format!("`path_regex` of {} {why}", fields.title);
            let place = fields.place_of("path_regex");
            found.add(Finding::new(code::BAD_TEXT, place, fields.path_of("path_regex"), message));
            PathSpec::Any
        }
    }
}

fn template(
    fields: &Fields,
    key: &str,
    captures: &[&str],
    found: &mut Findings,
) -> Option<Template> {
    let text = text(fields, key)?;
    let (place, path) = (fields.place_of(key), fields.path_of(key));
    parse_template(&text, captures, found, || (place, path, format!("`{key}` of {}", fields.title)))
}

fn parse_template(
    text: &str,
    captures: &[&str],
    found: &mut Findings,
    whose: impl FnOnce() -> (super::source::Place, String, String),
) -> Option<Template> {
    match Template::parse(text, captures) {
        Ok(template) => Some(template),
        Err(error) => {
            let (place, path, whose) = whose();
            found.add(Finding::new(code::BAD_TEXT, place, path, format!("{whose}: {}", error.0)));
            None
        }
    }
}

pub(super) fn operations(fields: &Fields, captures: &[&str], found: &mut Findings) -> HeaderSpec {
    let mut templates = |key: &str| -> Vec<(String, Template)> {
        let mut all = Vec::new();
        for (name, said) in fields.named(key) {
            let Some(text) = said.scalar().and_then(text_in) else { continue };
            let template = parse_template(&text, captures, found, || {
                let path = format!("{}.{name}", fields.path_of(key));
                (said.place, path, format!("`{}` in `{key}` of {}", clip(name), fields.title))
            });
            all.extend(template.map(|template| (name.clone(), template)));
        }
        all
    };
    let (add, set) = (templates("add"), templates("set"));
    let remove = fields.list("remove").into_iter().filter_map(|(scalar, _)| text_in(&scalar));
    HeaderSpec { add, set, remove: remove.collect() }
}

fn action<'a>(
    fields: &'a Fields,
    captures: &[&str],
    pools: &mut Pools<'a, '_>,
    found: &mut Findings,
) -> ActionSpec {
    const SPLIT_BY: [(&str, SplitBy); 3] = [
        ("request", SplitBy::Request),
        ("client", SplitBy::Client),
        ("consumer", SplitBy::Consumer),
    ];
    // All that is said is looked up, though only one can be: each may be misspelled.
    let pool = pools.refer(fields, "pool");
    let mut shares = Vec::new();
    for (name, said) in fields.named("split") {
        let pool = pools.refer_name(fields, "split", name, said.key_place, "");
        if let Some(Scalar::Integer(share)) = said.scalar() {
            shares.push((pool.unwrap_or(0), *share as u32));
        }
    }
    if fields.has("split") {
        let by = choice(fields.scalar("split_by").as_ref(), &SPLIT_BY).unwrap_or_default();
        return ActionSpec::Split { pools: shares, by };
    }
    if let Some(table) = fields.table("redirect") {
        return ActionSpec::Redirect(RedirectSpec {
            to: template(table, "to", captures, found),
            scheme: match table.scalar("scheme") {
                Some(Scalar::Word(word)) => Some(word.to_owned()),
                _ => None,
            },
            port: integer(table, "port").map(|n| n as u16),
            status: integer(table, "status").map_or(308, |n| n as u16),
        });
    }
    if let Some(table) = fields.table("respond") {
        return ActionSpec::Respond(RespondSpec {
            status: integer(table, "status").map_or(200, |n| n as u16),
            body: text(table, "body").unwrap_or_default(),
            content_type: text(table, "content_type").unwrap_or_default(),
        });
    }
    ActionSpec::Pool(pool.unwrap_or(0))
}

fn mirror<'a>(fields: &'a Fields, pools: &mut Pools<'a, '_>) -> MirrorSpec {
    MirrorSpec {
        pool: pools.refer(fields, "pool").unwrap_or(0),
        share_percent: share(fields, "share"),
        body_max: size(fields, "max_body"),
        in_flight_max: integer(fields, "in_flight").map_or(0, |n| n as u32),
    }
}

fn retries(fields: &Fields) -> RetrySpec {
    let on: Vec<String> =
        fields.list("on").into_iter().filter_map(|(scalar, _)| text_in(&scalar)).collect();
    let has = |word: &str| on.iter().any(|one| one == word);
    RetrySpec {
        attempts: integer(fields, "attempts").map_or(1, |n| n as u32),
        on_connect: has("connect"),
        on_reset: has("reset"),
        on_timeout: has("timeout"),
        on_status: on.iter().filter_map(|one| one.parse().ok()).collect(),
        budget_percent: share(fields, "budget"),
        body_max: size(fields, "max_body"),
        backoff: duration(fields, "backoff").unwrap_or(Duration::ZERO),
        timeout_try: duration(fields, "try_timeout"),
    }
}

fn sticky(fields: &Fields) -> StickySpec {
    StickySpec {
        cookie: text(fields, "cookie").unwrap_or_default(),
        ttl: duration(fields, "ttl"),
        keep_on_drain: word_is(fields, "on_drain", "keep"),
    }
}

fn compression(fields: &Fields) -> CompressionSpec {
    const ALGORITHMS: [(&str, Algorithm); 2] =
        [("br", Algorithm::Brotli), ("gzip", Algorithm::Gzip)];
    let algorithms = fields.list("algorithms");
    let types = fields.list("types").into_iter().filter_map(|(scalar, _)| text_in(&scalar));
    CompressionSpec {
        algorithms: algorithms
            .iter()
            .filter_map(|(scalar, _)| choice(Some(scalar), &ALGORITHMS))
            .collect(),
        types: types.map(|text| text.to_ascii_lowercase()).collect(),
        size_min: size(fields, "min_size"),
    }
}

fn limits(fields: &Fields) -> HttpLimits {
    HttpLimits {
        header_bytes_max: size(fields, "max_header") as u32,
        headers_max: integer(fields, "max_headers").map_or(0, |n| n as u16),
        uri_bytes_max: size(fields, "max_uri") as u32,
        streams_max: integer(fields, "max_streams").map_or(0, |n| n as u32),
        h2c: boolean(fields, "h2c").unwrap_or(true),
        encoded_slash_keep: word_is(fields, "encoded_slash", "keep"),
        underscores_keep: word_is(fields, "underscores", "keep"),
    }
}

fn error_pages(listener: &Fields, found: &mut Findings) -> Vec<ErrorPage> {
    let mut pages = Vec::new();
    for (name, said) in listener.named("errors") {
        let status =
            name.parse::<u16>().ok().filter(|n| (400..=599).contains(n) && name.len() == 3);
        let Some(status) = status else {
            let message = format!(
                "`{}` in `errors` of {} is no status of an error",
                clip(name),
                listener.title
            );
            let path = format!("{}.{name}", listener.path_of("errors"));
            let finding = Finding::new(code::OUT_OF_RANGE, said.key_place, path, message);
            found.add(finding.hint("the gateway makes answers from 400 to 599"));
            continue;
        };
        let Some(fields) = said.fields() else { continue };
        pages.push(ErrorPage {
            status,
            body: text(fields, "body").unwrap_or_default(),
            content_type: text(fields, "content_type").unwrap_or_default(),
        });
    }
    pages
}

/// What `[defaults]` says, or is by itself.
#[must_use]
pub fn default_timeouts(fields: &Fields) -> HttpTimeouts {
    let time = |key| duration(fields, key).unwrap_or_default();
    HttpTimeouts {
        header: time("header_timeout"),
        request: time("request_timeout"),
        body: time("body_timeout"),
        keepalive: time("keepalive_timeout"),
        total: duration(fields, "total_timeout"),
    }
}

/// What a listener or a pool says; its own defaults are not asked.
#[must_use]
pub fn timeout_overrides(fields: &Fields) -> HttpTimeoutOverrides {
    let said = |key| fields.said(key).and_then(Said::scalar);
    let time = |key| match said(key) {
        Some(Scalar::Duration(time)) => Some(*time),
        _ => None,
    };
    HttpTimeoutOverrides {
        header: time("header_timeout"),
        request: time("request_timeout"),
        body: time("body_timeout"),
        keepalive: time("keepalive_timeout"),
        total: match said("total_timeout") {
            Some(Scalar::Off) => Some(None),
            _ => time("total_timeout").map(Some),
        },
    }
}

pub(super) fn share(fields: &Fields, key: &str) -> u8 {
    match fields.scalar(key) {
        Some(Scalar::Share(percent)) => percent,
        _ => 0,
    }
}

fn word_is(fields: &Fields, key: &str, wanted: &str) -> bool {
    matches!(fields.scalar(key), Some(Scalar::Word(word)) if word == wanted)
}

pub(super) fn text_in(scalar: &Scalar) -> Option<String> {
    match scalar {
        Scalar::Text(text) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn texts_in(said: &Said) -> impl Iterator<Item = String> {
    said.scalars().into_iter().filter_map(text_in)
}
