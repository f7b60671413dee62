//! Servers and clients that know nothing of a balancer, unchanged on both sides of it.

use super::gate::Gate;
use super::peers::{Peer, command, need, run};

/// One listener `it` in front of `peer`, with two workers.
fn in_front_of(peer: &Peer, check: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n\
         [runtime]\nworkers = 2\n\
         [admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"off\"\n\
         [listener.it]\nbind = \"127.0.0.1:0\"\npool = \"it\"\n\
         [pool.it]\n{check}\n\
         [pool.it.servers]\ns = \"{}\"\n",
        peer.address
    ))
}

/// What must hold after the clients have gone: all sessions over, no defect met.
fn assert_quiet(gate: &Gate) {
    super::deadline::until("all sessions have ended", || {
        let status = gate.status();
        let active = status["listeners"]["it"]["active"].as_u64().expect("a number");
        if active == 0 { Ok(()) } else { Err(active) }
    });
    let defects =
        gate.metric("sluicegate_sessions_ended_total{listener=\"it\",reason=\"internal\"}");
    assert_eq!(defects.unwrap_or(0.0), 0.0);
}

#[test]
fn redis_benchmark_runs_all_its_default_tests() {
    if !need(&["redis-server", "redis-benchmark"]) {
        return;
    }
    let redis = Peer::redis();
    let gate = in_front_of(&redis, "check = { type = \"redis\" }");
    let port = gate.address("it").port().to_string();
    let mut bench = command("redis-benchmark");
    bench.args(["-h", "127.0.0.1", "-p", &port, "-n", "2000", "-c", "50", "--csv"]);
    let printed = run(&mut bench);
    println!("{printed}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "LRANGE_600", "MSET"] {
        assert!(printed.contains(test), "no result for {test}:\n{printed}");
    }
    let new_each_time =
        ["-h", "127.0.0.1", "-p", &port, "-n", "2000", "-k", "0", "-t", "get", "-q"];
    println!("{}", run(command("redis-benchmark").args(new_each_time)).replace('\r', "\n"));
    assert_quiet(&gate);
}

#[test]
fn pgbench_and_psql_work_on_postgres() {
    if !need(&["postgres", "initdb", "pgbench", "psql"]) {
        return;
    }
    let postgres = Peer::postgres();
    let gate = in_front_of(&postgres, "check = { type = \"postgres\", user = \"lb\" }");
    let port = gate.address("it").port().to_string();
    let to = ["--host=127.0.0.1", "--port", &port, "--username=lb"];
    run(command("pgbench").args(to).args(["--initialize", "--quiet", "postgres"]));
    let load = ["--client=8", "--transactions=50", "--jobs=2", "postgres"];
    let printed = run(command("pgbench").args(to).args(load));
    println!("{printed}");
    assert!(printed.contains("number of transactions actually processed: 400/400"), "{printed}");
    let query = ["--no-align", "--tuples-only", "--command=select count(*) from pgbench_accounts"];
    let counted = run(command("psql").args(to).args(query).arg("postgres"));
    assert_eq!(counted.trim(), "100000");
    assert_quiet(&gate);
}

#[test]
fn iperf3_moves_bulk_both_ways() {
    if !need(&["iperf3"]) {
        return;
    }
    let iperf3 = Peer::iperf3();
    let gate = in_front_of(&iperf3, "");
    let port = gate.address("it").port().to_string();
    for direction in ["--interval=0", "--reverse"] {
        let words = ["--client", "127.0.0.1", "--port", &port, "--parallel", "4", "--json"];
        let bytes = ["--bytes", "200M", direction];
        // It serves one test at a time, and says so for a moment after one.
        let report = super::deadline::until("iperf3 serves", || {
            let done = command("iperf3").args(words).args(bytes).output().expect("it starts");
            let report: serde_json::Value =
                serde_json::from_slice(&done.stdout).expect("iperf3 prints JSON");
            match report.get("error") {
                None => Ok(report),
                Some(error) => Err(error.to_string()),
            }
        });
        let (sent, received) = (&report["end"]["sum_sent"], &report["end"]["sum_received"]);
        println!("{direction}: sent {sent}\nreceived {received}");
        assert!(sent["bytes"].as_u64() >= Some(200 << 20), "{sent}");
        // Its server stops counting when its client has sent all: what is in the buffers of
        // eight sockets then is not in this number. tests/it/stream.rs counts every byte.
        assert!(received["bytes"].as_u64() > Some(50 << 20), "{received}");
    }
    assert_quiet(&gate);
}

#[test]
fn wrk_gets_pages_from_nginx() {
    if !need(&["nginx", "wrk"]) {
        return;
    }
    let nginx = Peer::nginx("location / { return 200 'hello'; }");
    let gate = in_front_of(&nginx, "check = { type = \"http\", path = \"/\" }");
    let url = format!("http://{}/", gate.address("it"));
    let printed = run(command("wrk").args(["--threads", "1", "--connections", "64"]).args([
        "--duration",
        "2s",
        &url,
    ]));
    println!("{printed}");
    assert!(printed.contains("Requests/sec"), "{printed}");
    assert!(!printed.contains("Socket errors") && !printed.contains("Non-2xx"), "{printed}");
    assert_quiet(&gate);
}
