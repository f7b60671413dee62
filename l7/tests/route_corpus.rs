//! The recorded requests of `tests/corpus/route.jsonl`, from a head to what a server would see.
//!
//! Each case is a request after framing and normalisation. It says the route taken or the status
//! of the refusal, and lines that must or must not reach the server. Cases about bytes on the
//! wire are judged elsewhere.

use ipnet::IpNet;
use serde_json::Value;
use sluicegate_l7::http1::{Fields, Limits, Lines, request};
use sluicegate_l7::identity::{Client, Identity, Sieve, scheme};
use sluicegate_l7::route::spec::{ActionSpec, MatchSpec, PathSpec, RedirectSpec, RouteSpec};
use sluicegate_l7::route::template::{Template, Variable, Variables};
use sluicegate_l7::route::{Captures, Found, Query, Table, redirect};

fn route(name: &str, host: &str, path: &str, methods: &[&str]) -> RouteSpec {
    let matches = MatchSpec {
        hosts: [host].iter().filter(|host| !host.is_empty()).map(|&host| host.into()).collect(),
        path: PathSpec::Pattern(path.into()),
        methods: methods.iter().map(|&method| method.into()).collect(),
        ..MatchSpec::default()
    };
    RouteSpec { name: name.into(), matches, ..RouteSpec::default() }
}

fn fixture() -> Table {
    let mut secret = route("secret", "", "/secret/*", &[]);
    secret.matches.ignore_case = true;
    let mut websocket = route("ws", "", "/ws", &[]);
    websocket.websocket = true;
    let mut moved = route("redirect", "", "/r/*", &[]);
    let to = Some(Template::parse("/new/*", &["*"]).expect("template"));
    moved.action = ActionSpec::Redirect(RedirectSpec { to, status: 308, ..Default::default() });
    let routes = vec![
        route("all", "", "/*", &["GET", "HEAD", "POST"]),
        route("admin", "", "/admin/*", &[]),
        secret,
        route("get", "", "/get", &["PUT"]),
        websocket,
        moved,
        route("b", "*.b.test", "/only-b", &[]),
    ];
    Table::build(routes).expect("the fixture's routes")
}

struct Rest<'c>(Captures<'c>);

impl Variables for Rest<'_> {
    fn append(&self, _variable: &Variable, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.0.rest().unwrap_or_default().as_bytes());
        self.0.rest().is_some()
    }
}

/// What came of a case, in the words of its expectations.
#[derive(Debug, Default)]
struct Outcome {
    route: Option<String>,
    status: Option<u16>,
    allow: Option<String>,
    client: String,
    lines: Vec<String>,
    upgrade: Option<String>,
    location: Option<String>,
}

/// The head of a case as it would come.
fn head_of(case: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    // Only an HTTP/1.0 request may lack a host.
    let version = if text(&case["host"]).is_empty() { "1.0" } else { "1.1" };
    let mut head = format!("{} {} HTTP/{version}\r\n", text(&case["method"]), text(&case["path"]));
    let fields = case["fields"].as_array().expect("a list");
    let has_host = fields.iter().any(|pair| text(&pair[0]).eq_ignore_ascii_case("host"));
    if !has_host && version == "1.1" {
        head.extend(["Host: ", &text(&case["host"]), "\r\n"]);
    }
    for pair in fields {
        head.extend([&*text(&pair[0]), ": ", &*text(&pair[1]), "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn judge(table: &Table, case: &Value) -> Outcome {
    let text = |key: &str| case[key].as_str().expect("a text");
    let bytes = head_of(case);
    let mut parsed = Fields::new();
    let head = match request::parse(&bytes, &Limits::default(), &mut parsed) {
        Ok(head) => head.expect("a whole head"),
        Err(reject) => return Outcome { status: Some(reject.status()), ..Outcome::default() },
    };
    let fields = Lines { bytes: &bytes, fields: &parsed };
    let trusted: [IpNet; 1] = ["10.0.0.0/8".parse().expect("a network")];
    let peer = text("peer").parse().expect("an address");
    let client = Client::find(Some(peer), &fields, &trusted);
    let scheme = scheme(&fields, client.peer_trusted, false);
    let (host, path) = (text("host"), text("path"));
    let query = Query { host, path, method: text("method"), scheme, query: "", fields: &fields };
    let mut outcome = Outcome::default();
    let taken = match table.find(&query) {
        Found::Route { route, .. } => route,
        Found::NoRoute => return Outcome { status: Some(404), ..outcome },
        Found::MethodMissed(allowed) => {
            let mut allow = Vec::new();
            table.write_allow(allowed, &mut allow);
            outcome.allow = Some(String::from_utf8(allow).expect("text"));
            return Outcome { status: Some(405), ..outcome };
        }
    };
    let spec = table.spec(taken);
    outcome.route = Some(spec.name.clone());
    outcome.client = client.ip.expect("an address").to_string();
    if spec.websocket {
        let upgrade = head.upgrade.map(|span| span.of(&bytes));
        outcome.upgrade = upgrade.map(|to| String::from_utf8_lossy(to).into_owned());
    }
    if let ActionSpec::Redirect(spec) = &spec.action {
        let own = redirect::Address { scheme, host, path, query: None };
        let mut location = Vec::new();
        redirect::write_location(spec, &own, &Rest(table.captures(taken, path)), &mut location)
            .expect("a location");
        outcome.location = Some(String::from_utf8(location).expect("text"));
    }
    let identity = Identity {
        peer: Some(peer),
        peer_trusted: client.peer_trusted,
        client: client.ip,
        scheme,
        host: host.as_bytes(),
        port: 80,
        request_id: b"made",
        version: "1.1",
        via: "sg-test",
        fields: &fields,
    };
    forward(&fields, &identity, &mut outcome);
    outcome
}

fn forward(fields: &Lines<'_>, identity: &Identity<'_>, outcome: &mut Outcome) {
    let sieve = Sieve::default();
    for field in fields.fields.end_to_end() {
        let (name, value) = (field.name.of(fields.bytes), field.value.of(fields.bytes));
        if sieve.passes(field.known, name) {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            outcome.lines.push(format!("{}: {}", text(name), text(value)));
        }
    }
    let mut own = Vec::new();
    identity.write_http1(&mut own);
    let own = String::from_utf8(own).expect("text");
    outcome.lines.extend(own.lines().map(str::to_owned));
}

fn faults(case: &Value, outcome: &Outcome) -> Vec<String> {
    let expect = &case["expect"];
    let list = |key: &str| -> Vec<String> {
        let items = expect[key].as_array().into_iter().flatten();
        items.map(|item| item.as_str().expect("a text").to_owned()).collect()
    };
    let mut faults = Vec::new();
    let mut same = |key: &str, found: Value| {
        if let Some(wanted) = expect.get(key)
            && *wanted != found
        {
            faults.push(format!("{key} is {found}, not {wanted}"));
        }
    };
    same("route", outcome.route.as_deref().into());
    same("status", outcome.status.into());
    same("allow", outcome.allow.as_deref().into());
    same("client", outcome.client.as_str().into());
    same("upgrade", outcome.upgrade.as_deref().into());
    same("location", outcome.location.as_deref().into());
    if expect.get("route").is_none() && expect.get("status").is_none() {
        faults.push("the case expects neither a route nor a status".into());
    }
    for wanted in list("lines") {
        if outcome.lines.iter().filter(|line| **line == wanted).count() != 1 {
            faults.push(format!("not exactly once: `{wanted}`"));
        }
    }
    for unwanted in list("absent") {
        let begins = |line: &&String| {
            let (line, unwanted) = (line.to_lowercase(), unwanted.to_lowercase());
            line == unwanted || line.starts_with(&format!("{unwanted}:"))
        };
        if let Some(line) = outcome.lines.iter().find(begins) {
            faults.push(format!("`{line}` reaches the server"));
        }
    }
    faults
}

#[test]
fn every_recorded_request_takes_its_route_and_brings_no_false_line() {
    let table = fixture();
    let corpus = include_str!("../../tests/corpus/route.jsonl");
    let mut wrong = Vec::new();
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).expect("a case is JSON");
        let outcome = judge(&table, &case);
        for fault in faults(&case, &outcome) {
            wrong.push(format!("{} ({}): {fault}", case["id"], case["why"]));
        }
    }
    assert!(corpus.lines().count() >= 30, "the corpus has been cut");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
