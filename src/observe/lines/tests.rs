//! Lines as the interface has them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value};
use sluicegate_l7::policy::spec::{Kind, PolicySpec};
use sluicegate_l7::route::spec::RouteSpec;

use super::*;
use crate::config::plan::{HttpListener, HttpTimeouts, Mode};
use crate::control::fixture;
use crate::control::membership::Membership;
use crate::fronts::Fronts;
use crate::net::Peer;
use crate::observe::reason::Reason;
use crate::observe::record::SessionNames;
use crate::observe::requests::Proto;
use crate::registry::{ListenerId, PoolId, ServerId};
use crate::runtime::time::Time;
use crate::tls::info::ClientCertificate;

pub fn session() -> SessionRecord {
    SessionRecord {
        listener: ListenerId(0),
        peer: Peer::from(SocketAddr::from(([192, 0, 2, 7], 4711))),
        pool: Some(PoolId(0)),
        server: Some(ServerId(0)),
        reason: Reason::Ok,
        accepted_at: Time(5_000_000_000),
        ended_at: Time(5_012_345_000),
        connect: Some(Duration::from_micros(250)),
        bytes_in: 10,
        bytes_out: 20,
        retries: 1,
        names: None,
    }
}

pub fn request() -> RequestRecord {
    RequestRecord {
        listener: ListenerId(0),
        route: Some(0),
        client: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        status: 200,
        reason: Reason::Ok,
        pool: Some(PoolId(0)),
        server: Some(ServerId(0)),
        attempts: 1,
        started_at: Time(5_000_000_000),
        ended_at: Time(5_012_345_000),
        upstream: Some(Duration::from_micros(9_500)),
        bytes_in: 10,
        bytes_out: 20,
        proto: Proto::Http11,
        consumer: None,
        policies: None,
        dry_run: Box::default(),
        secure: true,
        text: Some(Box::new(RequestText {
            method: "GET".into(),
            host: "api.example.com".into(),
            path: "/v1/users/7".into(),
            query: Some("a=1&b".into()),
            fields: Some(LoggedFields {
                names: ["Referer".to_owned(), "User-Agent".to_owned()].into(),
                values: vec![None, Some("curl \"8\"\n".into())],
            }),
            request_id: "0af7651916cd43dd".into(),
            tls: Some(tls().into()),
        })),
    }
}

fn tls() -> TlsInfo {
    TlsInfo {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        alpn: Some("http/1.1".into()),
        sni: Some("api.example.com".into()),
        client: Some(ClientCertificate {
            name: "ada".into(),
            subject: "CN=ada".into(),
            san: vec![],
            fingerprint: "00".into(),
        }),
    }
}

/// The names of one listener with one route `users`, a pool and a server.
fn format() -> LineFormat {
    format_with(LogLines::default())
}

fn format_with(lines: LogLines) -> LineFormat {
    let mut plan = fixture::plan(&[SocketAddr::from(([127, 0, 0, 1], 80))]);
    plan.log.lines = lines;
    plan.listeners[0].mode = Mode::Http;
    plan.listeners[0].http = Some(HttpListener {
        policies: Vec::new(),
        server_timing: false,
        routes: vec![
            RouteSpec { name: "users".into(), ..RouteSpec::default() },
            RouteSpec::default(),
        ],
        trusted_proxies: vec![],
        limits: crate::config::plan::HttpLimits::default(),
        compression: None,
        errors: vec![],
        keep_headers: vec![],
        timeouts: HttpTimeouts::default(),
    });
    let mut format = LineFormat::default();
    let fronts = Arc::new(Fronts::new(&plan).unwrap());
    format.update(&Membership::new(&Arc::new(plan), fronts).snapshot());
    format
}

fn parsed(text: &str) -> Map<String, Value> {
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(text.ends_with("}\n"), "{text}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn session_line(record: &SessionRecord) -> Map<String, Value> {
    let mut out = String::new();
    assert!(format().write(record, WallClock::read(), &mut out));
    parsed(&out)
}

fn request_line(record: &RequestRecord) -> Map<String, Value> {
    let mut out = String::new();
    format().write_request(record, WallClock::read(), &mut out);
    parsed(&out)
}

fn keys(line: &Map<String, Value>) -> String {
    line.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
}

const SESSION_FIELDS: &str = "ts listener client sni pool server reason connect_ms duration_ms \
                              bytes_in bytes_out tls retries";
const REQUEST_FIELDS: &str = "ts listener route client method host path status reason consumer \
                              pool server attempts duration_ms upstream_ms policy_us bytes_in \
                              bytes_out request_id proto tls dry_run";

#[test]
fn a_line_of_a_session_has_every_field_of_the_interface_in_order() {
    let line = session_line(&session());
    assert_eq!(keys(&line), SESSION_FIELDS);
    assert_eq!(line["client"], "192.0.2.7:4711");
    assert_eq!((line["pool"].as_str(), line["server"].as_str()), (Some("back"), Some("s0")));
    assert_eq!(line["duration_ms"], 12.345);
    assert_eq!(line["connect_ms"], 0.25);
}

#[test]
fn what_is_unknown_of_a_session_is_null() {
    let unknown =
        SessionRecord { pool: None, server: None, connect: None, peer: Peer::UNIX, ..session() };
    let line = session_line(&unknown);
    assert_eq!(keys(&line), SESSION_FIELDS);
    for field in ["client", "pool", "server", "connect_ms", "sni", "tls"] {
        assert!(line[field].is_null(), "{field}: {line:?}");
    }
}

#[test]
fn a_session_under_tls_tells_the_name_and_what_was_agreed() {
    let names = SessionNames { sni: Some("db.example.com".into()), tls: Some(tls()) };
    let line = session_line(&SessionRecord { names: Some(Box::new(names)), ..session() });
    assert_eq!(line["sni"], "db.example.com");
    assert_eq!(line["tls"]["version"], "TLSv1.3");
    assert_eq!(line["tls"]["client"], "ada");
}

#[test]
fn a_line_of_a_request_has_every_field_of_the_interface_in_order() {
    let line = request_line(&request());
    assert_eq!(keys(&line), REQUEST_FIELDS);
    assert_eq!((line["listener"].as_str(), line["route"].as_str()), (Some("front"), Some("users")));
    assert_eq!(line["client"], "192.0.2.7");
    assert_eq!(
        (line["method"].as_str(), line["path"].as_str()),
        (Some("GET"), Some("/v1/users/7"))
    );
    assert_eq!((line["status"].as_u64(), line["attempts"].as_u64()), (Some(200), Some(1)));
    assert_eq!(
        (line["duration_ms"].as_f64(), line["upstream_ms"].as_f64()),
        (Some(12.345), Some(9.5))
    );
    assert_eq!(line["proto"], "HTTP/1.1");
    let tls = line["tls"].as_object().unwrap();
    assert_eq!(
        tls.keys().map(String::as_str).collect::<Vec<_>>().join(" "),
        "version cipher alpn client"
    );
    assert_eq!((tls["alpn"].as_str(), tls["client"].as_str()), (Some("http/1.1"), Some("ada")));
}

#[test]
fn what_is_unknown_of_a_request_is_null_and_no_route_is_empty() {
    let unknown = RequestRecord {
        route: None,
        client: None,
        status: 0,
        pool: None,
        server: None,
        upstream: None,
        text: Some(Box::default()),
        ..request()
    };
    let line = request_line(&unknown);
    assert_eq!(keys(&line), REQUEST_FIELDS);
    for field in ["client", "method", "host", "path", "status", "consumer", "pool", "server"] {
        assert!(line[field].is_null(), "{field}: {line:?}");
    }
    for field in ["upstream_ms", "policy_us", "request_id", "tls", "dry_run"] {
        assert!(line[field].is_null(), "{field}: {line:?}");
    }
    assert_eq!(line["route"], "");
}

#[test]
fn policies_that_would_have_refused_are_named() {
    let mut plan = fixture::plan(&[SocketAddr::from(([127, 0, 0, 1], 80))]);
    plan.policies = ["few", "tokens"].map(policy).to_vec();
    let mut format = LineFormat::default();
    let fronts = Arc::new(Fronts::new(&plan).unwrap());
    format.update(&Membership::new(&Arc::new(plan), fronts).snapshot());
    let told = |dry_run: &[u16]| {
        let mut out = String::new();
        let record = RequestRecord { dry_run: dry_run.into(), ..request() };
        format.write_request(&record, WallClock::read(), &mut out);
        parsed(&out)["dry_run"].clone()
    };
    assert_eq!(told(&[1]), serde_json::json!(["tokens"]));
    assert_eq!(told(&[0, 1]), serde_json::json!(["few", "tokens"]));
    assert!(told(&[]).is_null());
}

fn policy(name: &str) -> PolicySpec {
    let kind = Kind::Size { body: 1, header: None };
    PolicySpec { name: name.into(), dry_run: true, retired: false, kind }
}

#[test]
fn the_listeners_own_pool_is_the_route_without_a_name() {
    assert_eq!(request_line(&RequestRecord { route: Some(1), ..request() })["route"], "");
}

#[test]
fn texts_of_a_client_cannot_end_the_line_or_the_string() {
    let nasty = "/\"}\n{\"status\":200\\\u{7}é\u{2028}";
    let mut record = request();
    record.text = Some(Box::new(RequestText {
        path: nasty.into(),
        host: nasty.into(),
        method: nasty.into(),
        request_id: nasty.into(),
        ..RequestText::default()
    }));
    let line = request_line(&record);
    assert_eq!(keys(&line), REQUEST_FIELDS);
    for field in ["path", "host", "method", "request_id"] {
        assert_eq!(line[field], nasty);
    }
}

#[test]
fn query_and_header_fields_are_there_when_they_are_asked_for() {
    let names = vec!["Referer".to_owned(), "User-Agent".to_owned()];
    let format = format_with(LogLines { query: true, headers: names, ..LogLines::default() });
    let line = |record: &RequestRecord| {
        let mut out = String::new();
        format.write_request(record, WallClock::read(), &mut out);
        parsed(&out)
    };
    let full = line(&request());
    assert_eq!(
        (full["path"].as_str(), full["query"].as_str()),
        (Some("/v1/users/7"), Some("a=1&b"))
    );
    assert!(full["headers"]["Referer"].is_null());
    assert_eq!(full["headers"]["User-Agent"], "curl \"8\"\n");
    let unknown = line(&RequestRecord { text: None, ..request() });
    assert!(unknown["query"].is_null() && unknown["headers"].is_null(), "{unknown:?}");
    assert_eq!(unknown.len(), full.len());
}

/// A line of the combined format without its date, which is checked for its form.
fn combined(write: impl Fn(&LineFormat, &mut String)) -> String {
    let mut out = String::new();
    write(&format_with(LogLines { form: LogForm::Combined, ..LogLines::default() }), &mut out);
    let (before, rest) = out.split_once(" [").expect("a date");
    let (date, after) = rest.split_once("] ").expect("its end");
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = date.split(['/', ':', ' ']).collect();
    assert!(parts.len() == 7 && digits(parts[0]) && digits(parts[2]), "{date}");
    assert!(parts[1].len() == 3 && parts[6] == "+0000", "{date}");
    format!("{before} {after}")
}

fn combined_request(record: &RequestRecord) -> String {
    combined(|format, out| format.write_request(record, WallClock::read(), out))
}

#[test]
fn a_request_in_the_combined_format_is_what_apache_writes() {
    let line = combined_request(&request());
    let wanted =
        "192.0.2.7 - - \"GET /v1/users/7?a=1&b HTTP/1.1\" 200 20 \"-\" \"curl \\\"8\\\"\\x0a\"\n";
    assert_eq!(line, wanted);
    let gone =
        RequestRecord { status: 0, bytes_out: 0, text: None, proto: Proto::Http2, ..request() };
    assert_eq!(combined_request(&gone), "192.0.2.7 - - \"-\" 499 - \"-\" \"-\"\n");
}

#[test]
fn a_session_in_the_combined_format_has_the_same_shape() {
    let of = |record: &SessionRecord| {
        combined(|format, out| assert!(format.write(record, WallClock::read(), out)))
    };
    assert_eq!(
        of(&session()),
        "192.0.2.7 - - \"TCP front back/s0\" ok 20 \"-\" \"in=10 connect_ms=0.250 duration_ms=12.345 retries=1\"\n"
    );
    let names = SessionNames { sni: Some("db.example.com".into()), tls: Some(tls()) };
    let refused = SessionRecord {
        names: Some(Box::new(names)),
        peer: Peer::UNIX,
        pool: None,
        server: None,
        connect: None,
        bytes_out: 0,
        reason: Reason::Denied,
        ..session()
    };
    assert_eq!(
        of(&refused),
        "- - ada \"TCP front -/-\" denied - \"db.example.com\" \"in=10 connect_ms=- duration_ms=12.345 retries=1\"\n"
    );
}
