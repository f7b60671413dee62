//! The dashboard and the alert rules beside what is really measured.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::peers::{command, need, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A configuration in which every family of metrics has something to tell.
fn gate(backend: &Backend) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.raw]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         policies = [\"keys\", \"rate\"]\n\
         tls = {{ cert = \"file:{ROOT}/config/certs/www.pem\", key = \"file:{ROOT}/config/certs/www.key\" }}\n\
         [policy.keys]\ntype = \"api-key\"\noptional = true\n\
         [policy.rate]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1000/s\"\n\
         [consumer.ada]\nkeys = [\"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\"]\n\
         [pool.app]\nbreaker = {{ errors = \"50%\" }}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ))
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("sluicegate_").map(|(at, _)| at);
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    starts
        .map(|at| {
            let rest = &text[at..];
            let name = &rest[..rest.find(|c| !letter(c)).unwrap_or(rest.len())];
            name.strip_suffix("_bucket").unwrap_or(name)
        })
        .collect()
}

/// Where a text asks a metric for one of our reasons: the metric, and the label with its value.
fn reasons(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("{reason=\"").map(|(at, _)| {
        let name = text[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let end = at + text[at..].find('}').expect("a closed brace");
        (&text[name.map_or(0, |before| before + 1)..at], &text[at + 1..end])
    })
}

#[test]
fn every_metric_of_the_dashboard_and_the_rules_is_one_that_there_is() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let metrics = gate(&backend).admin("GET", "/metrics").1;
    let there: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for file in ["grafana.json", "alerts.yml"] {
        let text = std::fs::read_to_string(format!("{ROOT}/config/{file}")).expect("it is there");
        let named = names(&text);
        assert!(named.len() > 10, "{named:?}");
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(unknown.is_empty(), "{file} has {unknown:?}");
        for (metric, label) in reasons(&text) {
            let start = format!("{metric}{{");
            let is_there = |line: &str| line.starts_with(&start) && line.contains(label);
            assert!(metrics.lines().any(is_there), "{file} asks {metric} for {label}");
        }
    }
    let dashboard = std::fs::read_to_string(format!("{ROOT}/config/grafana.json")).expect("there");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("JSON");
}

#[test]
fn promtool_likes_the_metrics_and_the_rules() {
    if !need(&["promtool"]) {
        return;
    }
    run(command("promtool").args(["check", "rules"]).arg(format!("{ROOT}/config/alerts.yml")));
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = gate(&backend);
    drop(gate.connect("raw"));
    let metrics = gate.admin("GET", "/metrics").1;
    let mut promtool = command("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(metrics.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_way_to_a_server_is_measured_at_the_end_of_a_session() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = gate(&backend);
    let mut client = gate.connect("raw");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    let _ = std::io::copy(&mut client, &mut std::io::sink());
    drop(client);
    gate.log(1);
    let labels = "{pool=\"app\",server=\"a\"}";
    let metric = |name: &str| gate.metric(&format!("sluicegate_{name}{labels}"));
    assert_eq!(metric("upstream_rtt_seconds_count"), Some(1.0));
    assert!(metric("upstream_rtt_seconds_sum") > Some(0.0));
    assert!(metric("upstream_rttvar_seconds") > Some(0.0));
    assert_eq!(metric("upstream_retransmits_total"), Some(0.0));
    let server = &gate.status()["pools"]["app"]["servers"]["a"];
    assert!(server["latency_ms"]["rtt"]["p50"].as_f64() > Some(0.0), "{server}");
    assert_eq!(server["retransmits"], 0);
}
