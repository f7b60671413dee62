//! A new configuration under the running process: what changes, and who does not notice.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::authority::Authority;
use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::load::{Load, until_part};
use super::named_echo::{echo, open, say};
use super::talk::Talk;
use super::tls_client::{shake, trusting};

fn reload(gate: &Gate) -> (u16, Value) {
    let (code, body) = gate.admin("POST", "/v1/reload");
    (code, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{code} {body}")))
}

/// Puts the configuration in place and reloads, which must go well; the changes it tells.
fn apply(gate: &Gate, config: &str) -> Vec<String> {
    gate.rewrite(config);
    let (code, answer) = reload(gate);
    assert_eq!((code, &answer["ok"]), (200, &Value::Bool(true)), "{answer}");
    let changes = answer["changes"].as_array().expect("a list");
    changes.iter().map(|line| line.as_str().expect("a line").to_owned()).collect()
}

/// Where a listener that a reload brought accepts.
fn bound(gate: &Gate, listener: &str) -> SocketAddr {
    let status = gate.status();
    let bind = status["listeners"][listener]["bind"][0].as_str();
    bind.unwrap_or_else(|| panic!("{status}")).parse().expect("an address")
}

const TOP: &str = "version = 1\n[admin]\nbind = \"{admin}\"\n[log]\naccess = \"off\"\n";

fn listener(name: &str, pool: &str) -> String {
    format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n")
}

fn pool(name: &str, servers: &[(&str, SocketAddr)]) -> String {
    let servers: Vec<_> = servers.iter().map(|(name, at)| format!("{name} = \"{at}\"")).collect();
    format!("[pool.{name}]\nservers = {{ {} }}\n", servers.join(", "))
}

#[test]
fn servers_and_listeners_come_and_go_and_sessions_stay_where_they_are() {
    let (one, two) = (echo("one"), echo("two"));
    let first = [TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat();
    let gate = Gate::start(&first);
    let (mut old, name) = open(gate.address("a")).expect("a session");
    assert_eq!(name, "one");

    let second = [
        TOP,
        &listener("a", "p"),
        &listener("b", "q"),
        &pool("p", &[("two", two)]),
        &pool("q", &[("one", one)]),
    ]
    .concat();
    let changes = apply(&gate, &second);
    let told = ["listener.b: added", "pool.p.servers.one: removed", "pool.q: added"];
    for line in told {
        assert!(changes.iter().any(|change| change == line), "{line} in {changes:?}");
    }
    say(&mut old, b"still here").expect("the old session");
    let status = gate.status();
    let gone = &status["pools"]["p"]["servers"]["one"];
    assert_eq!((&gone["state"], &gone["active"]), (&"draining".into(), &1.into()), "{gone}");
    assert_eq!(open(gate.address("a")).expect("a session").1, "two");
    let (mut on_b, name) = open(bound(&gate, "b")).expect("the new listener");
    assert_eq!(name, "one");
    let b = bound(&gate, "b");

    let third = [TOP, &listener("a", "p"), &pool("p", &[("one", one), ("two", two)])].concat();
    apply(&gate, &third);
    say(&mut on_b, b"still here too").expect("a session of a listener that is gone");
    say(&mut old, b"and here").expect("the old session");
    until("nobody accepts where the listener was", || match TcpStream::connect(b) {
        Err(_) => Ok(()),
        Ok(_) => Err("somebody did"),
    });
    let status = gate.status();
    assert!(status["listeners"]["b"].is_null(), "{status}");
    assert_eq!(status["pools"]["q"]["servers"]["one"]["state"], "draining", "{status}");
    let one = &status["pools"]["p"]["servers"]["one"];
    assert_eq!(one["total"], 1, "counters go on by name: {one}");
    drop(on_b);
    until("the pool has gone with its last session", || {
        let status = gate.status();
        if status["pools"]["q"].is_null() { Ok(()) } else { Err(status) }
    });
}

#[test]
fn a_server_that_moved_is_shown_where_it_is_now() {
    let (before, now) = (echo("before"), echo("now"));
    let config = |at| [TOP, &listener("a", "p"), &pool("p", &[("s", at)])].concat();
    let gate = Gate::start(&config(before));
    let (mut old, _) = open(gate.address("a")).expect("a session");
    apply(&gate, &config(now));
    let status = gate.status();
    let server = &status["pools"]["p"]["servers"]["s"];
    let wanted = (Value::from(now.to_string()), Value::from("up"));
    assert_eq!((&server["addr"], &server["state"]), (&wanted.0, &wanted.1), "{server}");
    say(&mut old, b"still here").expect("the old session");
}

#[test]
fn a_removed_listeners_certificate_and_a_removed_servers_retries_stay_out_and_in_metrics() {
    let authority = Authority::new();
    let dead = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let one = echo("one");
    let secure = listener("s", "p") + &authority.listener() + "\n";
    let servers = [("one", one), ("dead", dead)];
    let gate = Gate::start(&[TOP, &listener("a", "p"), &secure, &pool("p", &servers)].concat());
    let retries = || gate.metric("sluicegate_retries_total{pool=\"p\",reason=\"connect\"}");
    let counted = until("a retry", || {
        open(gate.address("a")).expect("at the other server");
        retries().filter(|&count| count > 0.0).ok_or(())
    });
    let alarms = || gate.admin("GET", "/metrics").1.contains("cert_not_after_seconds{");
    assert!(alarms());
    apply(&gate, &[TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat());
    assert!(!alarms(), "nobody is shown the certificate any more");
    assert!(retries().is_some_and(|now| now >= counted), "{:?} after {counted}", retries());
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_everywhere_until_it_is_mended() {
    let one = echo("one");
    let good = [TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat();
    let gate = Gate::start(&good);
    let hash = gate.status()["config"]["hash"].clone();
    let bad = good.replace("pool = \"p\"", "pool = \"pq\"") + "blance = \"x\"\n";
    gate.rewrite(&bad);
    let (code, answer) = reload(&gate);
    assert_eq!((code, &answer["ok"]), (422, &Value::Bool(false)));
    let report = answer["error"].as_str().expect("a report");
    assert!(report.contains("main.toml:8:8") && report.contains("`pq`"), "{report}");
    assert!(report.contains("unknown key `blance`"), "all of it: {report}");
    let last = gate.status()["config"]["last_reload"].clone();
    assert_eq!((&last["ok"], &last["error"]), (&Value::Bool(false), &answer["error"]));
    assert_eq!(gate.status()["config"]["hash"], hash);
    assert_eq!(gate.metric("sluicegate_config_last_reload_successful"), Some(0.0));
    assert!(gate.diagnostics().contains("unknown key `blance`"));
    assert_eq!(open(gate.address("a")).expect("it serves on").1, "one");
    apply(&gate, &good);
    assert_eq!(gate.metric("sluicegate_config_last_reload_successful"), Some(1.0));
    assert_eq!(gate.status()["config"]["last_reload"]["error"], Value::Null);
}

#[test]
fn an_address_that_cannot_be_bound_leaves_all_as_it_was() {
    let (one, taken) = (echo("one"), TcpListener::bind("127.0.0.1:0").expect("loopback"));
    let good = [TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat();
    let gate = Gate::start(&good);
    let more = listener("b", "p") + &listener("c", "p");
    let at = taken.local_addr().expect("bound").to_string();
    let more = more.replacen("127.0.0.1:0", &at, 2).replacen(&at, "127.0.0.1:0", 1);
    gate.rewrite(&(good + &more));
    let (code, answer) = reload(&gate);
    let error = answer["error"].as_str().expect("a sentence");
    assert!(code == 422 && error.contains("listener `c` cannot bind"), "{code} {error}");
    assert!(gate.status()["listeners"]["b"].is_null());
    assert_eq!(open(gate.address("a")).expect("it serves on").1, "one");
}

#[test]
fn a_check_that_a_reload_brings_finds_a_dead_server_that_was_not_checked() {
    let dead = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let before = [TOP, &listener("a", "p"), &pool("p", &[("dead", dead)])].concat();
    let gate = Gate::start(&before);
    let state = || gate.status()["pools"]["p"]["servers"]["dead"]["state"].clone();
    assert_eq!(state(), "up");
    let check = "check = { type = \"tcp\", every = \"20ms\", fall = 2, init = \"down\" }\n";
    apply(&gate, &before.replace("[pool.p]\n", &format!("[pool.p]\n{check}")));
    until("it is down", || if state() == "down" { Ok(()) } else { Err(state()) });
}

#[test]
fn a_hangup_reloads_and_settings_of_the_start_are_named() {
    let one = echo("one");
    let good = [TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat();
    let gate = Gate::start(&good);
    gate.rewrite(&(good.clone() + "[runtime]\nworkers = 7\n[defaults]\nidle_timeout = \"9m\"\n"));
    gate.signal(Signal::SIGHUP);
    let last = until("a reload", || {
        let last = gate.status()["config"]["last_reload"].clone();
        if last["changes"].as_array().is_some_and(|all| !all.is_empty()) {
            Ok(last)
        } else {
            Err(last)
        }
    });
    assert!(last["pending"][0].as_str().is_some_and(|it| it.contains("runtime.workers")), "{last}");
    let changes = last["changes"].to_string();
    assert!(changes.contains("defaults: added"), "{changes}");
    let waits = || gate.status()["config"]["pending_restart"].to_string();
    assert!(waits().contains("runtime.workers"), "{}", waits());
    gate.rewrite("version = 1\n[pool.p]\n");
    assert_eq!(reload(&gate).0, 422);
    assert!(waits().contains("runtime.workers"), "a file that is not taken changes nothing");
    apply(&gate, &good);
    assert_eq!(waits(), "[]");
}

#[test]
fn a_watched_file_is_read_again_when_it_changes() {
    let (one, two) = (echo("one"), echo("two"));
    let config = |at| {
        let watch = "[runtime]\nwatch = true\n";
        [TOP, watch, &listener("a", "p"), &pool("p", &[("s", at)])].concat()
    };
    let gate = Gate::start(&config(one));
    let hash = gate.status()["config"]["hash"].clone();
    // The first look is what later ones are compared with, and a change has to stay for two.
    let (mut written, mut round) = (None::<std::time::Instant>, 0);
    until("a change is seen", || {
        if gate.status()["config"]["hash"] != hash {
            return Ok(());
        }
        if written.is_none_or(|at| at.elapsed() > PATIENCE / 4) {
            round += 1;
            gate.rewrite(&format!("# {round}\n{}", config(two)));
            written = Some(std::time::Instant::now());
        }
        Err("not yet")
    });
    assert_eq!(open(gate.address("a")).expect("a session").1, "two");
}

#[test]
fn a_secret_in_a_watched_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "the-first-of-two-tokens\n").expect("written");
    let admin = format!(
        "version = 1\n[runtime]\nwatch = true\n[admin]\nbind = \"{{admin}}\"\ntoken = \"file:{}\"\n",
        token.display()
    );
    let rest = [listener("a", "p"), pool("p", &[("s", echo("one"))])].concat();
    let gate = Gate::start(&[admin, rest].concat());
    let ask = |token: &str| {
        let mut talk = Talk::to(&gate, "admin");
        talk.host = "localhost".to_owned();
        talk.ask("GET", "/v1/status", &format!("Authorization: Bearer {token}\r\n"), b"").status
    };
    assert_eq!((ask("the-first-of-two-tokens"), ask("the-other-of-two-tokens")), (200, 401));
    // As what is mounted is replaced. The first look is what later ones are compared with:
    // another change may be needed.
    let mut written = None::<Instant>;
    until("the other token is taken", || {
        if written.is_none_or(|at| at.elapsed() > PATIENCE / 4) {
            std::fs::write(dir.path().join("fresh"), "the-other-of-two-tokens\n").expect("written");
            std::fs::rename(dir.path().join("fresh"), &token).expect("it is ours");
            written = Some(Instant::now());
        }
        match ask("the-other-of-two-tokens") {
            200 => Ok(()),
            status => Err(status),
        }
    });
    assert_eq!(ask("the-first-of-two-tokens"), 401);
}

#[test]
fn a_file_that_comes_to_match_a_pattern_of_include_is_read() {
    let (one, two) = (echo("one"), echo("two"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let parts = dir.path().display();
    // A name that no configuration usually has: the pattern decides, and it found nothing so far.
    let top = format!("include = [\"{parts}/*.part\"]\n[runtime]\nwatch = true\n");
    let main = [&top, TOP, &listener("a", "p"), &pool("p", &[("s", one)])].concat();
    let main = main.replacen("version = 1\n", "", 1);
    let gate = Gate::start(&format!("version = 1\n{main}"));
    let extra = [listener("b", "q"), pool("q", &[("s", two)])].concat();
    let (mut written, mut round) = (None::<std::time::Instant>, 0);
    let address = until("the new file is read", || {
        if gate.status()["listeners"]["b"].is_object() {
            return Ok(bound(&gate, "b"));
        }
        // The first look is what later ones are compared with: another change may be needed.
        if written.is_none_or(|at| at.elapsed() > PATIENCE / 4) {
            round += 1;
            std::fs::write(dir.path().join("fresh"), format!("# {round}\n{extra}"))
                .expect("written");
            let part = dir.path().join("b.part");
            std::fs::rename(dir.path().join("fresh"), part).expect("it is ours");
            written = Some(std::time::Instant::now());
        }
        Err(gate.status()["config"]["last_reload"].clone())
    });
    assert_eq!(open(address).expect("a session").1, "two");
}

#[test]
fn a_new_included_file_that_was_refused_is_read_again_when_it_is_mended() {
    let (one, two) = (echo("one"), echo("two"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let part = dir.path().join("b.part");
    std::fs::write(&part, "nonsense = 1\n").expect("written");
    let rest =
        ["[runtime]\nwatch = true\n", &listener("a", "p"), &pool("p", &[("s", one)])].concat();
    let gate = Gate::start(&[TOP, &rest].concat());
    let include = format!("include = [\"{}/*.part\"]\n", dir.path().display());
    let (mut written, mut round) = (None::<Instant>, 0);
    // The first look is what later ones are compared with: another change may be needed.
    let mut again = |write: &mut dyn FnMut(u32)| {
        if written.is_none_or(|at| at.elapsed() > PATIENCE / 4) {
            round += 1;
            write(round);
            written = Some(Instant::now());
        }
    };
    until("it is refused", || {
        again(&mut |round| gate.rewrite(&format!("# {round}\n{include}{TOP}{rest}")));
        let last = gate.status()["config"]["last_reload"].clone();
        if last["ok"] == false { Ok(()) } else { Err(last) }
    });
    std::fs::write(&part, [listener("b", "q"), pool("q", &[("s", two)])].concat())
        .expect("written");
    until("it is taken", || {
        let last = gate.status()["config"]["last_reload"].clone();
        if last["ok"] == true { Ok(()) } else { Err(last) }
    });
    assert_eq!(open(bound(&gate, "b")).expect("a session").1, "two");
}

#[test]
fn a_limit_by_address_that_a_reload_brings_counts_the_sessions_that_are_there() {
    let server = echo("s");
    let config =
        |limit: &str| [TOP, &listener("a", "p"), limit, &pool("p", &[("s", server)])].concat();
    let gate = Gate::start(&config(""));
    let mut there: Vec<_> = (0..3).map(|_| open(gate.address("a")).expect("a session")).collect();
    apply(&gate, &config("limit = { conns_per_ip = 3 }\n"));
    assert!(open(gate.address("a")).is_err(), "there are three already");
    until("it is counted as refused", || {
        match gate.status()["listeners"]["a"]["refused"].as_u64() {
            Some(1) => Ok(()),
            other => Err(other),
        }
    });
    let (mut session, _) = there.pop().expect("three");
    say(&mut session, b"x").expect("it goes on");
    drop(session);
    until("its place is given back", || open(gate.address("a")).map(|held| there.push(held)));
    assert!(open(gate.address("a")).is_err(), "three again");
    // Taken away and brought back, it still knows them all.
    apply(&gate, &config(""));
    there.push(open(gate.address("a")).expect("no limit"));
    apply(&gate, &config("limit = { conns_per_ip = 5 }\n"));
    there.push(open(gate.address("a")).expect("the fifth"));
    assert!(open(gate.address("a")).is_err(), "the sixth");
    // Whichever worker the next client meets: all of them have counted theirs.
    for round in 0..20 {
        apply(&gate, &config(""));
        apply(&gate, &config("limit = { conns_per_ip = 5 }\n"));
        assert!(open(gate.address("a")).is_err(), "round {round}");
    }
}

#[test]
fn what_a_limit_has_counted_holds_over_a_reload() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let config = |policies: &str, more: &str| {
        format!(
            "{TOP}[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"p\"\n\
             policies = [{policies}]\n{more}[policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\n\
             limit = \"3/day\"\n{}",
            pool("p", &[("s", backend.address)])
        )
    };
    let gate = Gate::start(&config("\"few\"", ""));
    assert_eq!(Talk::to(&gate, "web").get("/").status, 200);
    let other = "[policy.also]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"100/day\"\n";
    apply(&gate, &config("\"also\", \"few\"", other));
    let statuses: Vec<u16> = (0..3).map(|_| Talk::to(&gate, "web").get("/").status).collect();
    assert_eq!(statuses, [200, 200, 429], "the first one counts too");
}

#[test]
fn a_key_that_was_taken_away_opens_nothing_not_even_on_a_connection_that_is_there() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let config = |key: &str| {
        let hash = sluicegate_l7::policy::consumer::KeyHash::of(key.as_bytes()).text();
        format!(
            "{TOP}[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"p\"\n\
             policies = [\"keys\"]\n[policy.keys]\ntype = \"api-key\"\n\
             [consumer.alice]\nkeys = [\"{hash}\"]\n{}",
            pool("p", &[("s", backend.address)])
        )
    };
    let gate = Gate::start(&config("sk-one-0123456789abcdef"));
    let ask = |key: &str| {
        let line = format!("X-Api-Key: {key}\r\n");
        Talk::to(&gate, "web").ask("GET", "/", &line, b"").status
    };
    assert_eq!(ask("sk-one-0123456789abcdef"), 200);
    let mut held = Talk::to(&gate, "web");
    let mut again = |key: &str| held.ask("GET", "/", &format!("X-Api-Key: {key}\r\n"), b"").status;
    assert_eq!(again("sk-one-0123456789abcdef"), 200);
    apply(&gate, &config("sk-two-0123456789abcdef"));
    assert_eq!(again("sk-two-0123456789abcdef"), 200);
    assert_eq!(again("sk-one-0123456789abcdef"), 401);
    assert_eq!(ask("sk-one-0123456789abcdef"), 401);
    assert_eq!(ask("sk-two-0123456789abcdef"), 200);
}

/// One of the configurations that the load lives through; all of them serve it.
fn variant(at: usize, tcp: &[SocketAddr], web: SocketAddr, tls: &str) -> String {
    let weight = at % 5 + 1;
    let extra = match at % 3 {
        0 => String::new(),
        1 => listener("extra", "raw"),
        _ => format!("[[listener.web.route]]\nmatch = {{ path = \"/r{at}/*\" }}\npool = \"web\"\n"),
    };
    let policies = if at.is_multiple_of(2) { "policies = [\"many\"]\n" } else { "" };
    let third = if at.is_multiple_of(4) { format!(", c = \"{}\"", tcp[2]) } else { String::new() };
    format!(
        "{TOP}[listener.raw]\nbind = \"127.0.0.1:0\"\npool = \"raw\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"web\"\n{policies}{extra}\
         [listener.safe]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"web\"\n{tls}\n\
         [policy.many]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1000000/s\"\n\
         [pool.raw.servers]\na = {{ addr = \"{}\", weight = {weight} }}\nb = \"{}\"\n\
         [pool.spare]\nservers = {{ x = \"{}\"{third} }}\n\
         [pool.web]\nservers = {{ s = {{ addr = \"{web}\", weight = {weight} }} }}\n",
        tcp[0], tcp[1], tcp[0]
    )
}

const RELOADS: usize = 100;
const SESSIONS: usize = 200;

#[test]
fn a_hundred_reloads_under_load_refuse_cut_and_fail_nobody() {
    let tcp = [echo("a"), echo("b"), echo("c")];
    let backend = Backend::start(|_| Reply::ok("ok"));
    let authority = Authority::new();
    let (tls, client) = (authority.listener(), trusting(&authority, None));
    let config = |at| variant(at, &tcp, backend.address, &tls);
    let gate = Gate::start(&config(0));
    let (at_tcp, at_web) = (gate.address("raw"), gate.address("web"));
    let mut long: Vec<_> = (0..SESSIONS).map(|_| open(at_tcp).expect("a session").0).collect();
    let before = gate.descriptors();
    let (mut early, began) = (0, Instant::now());
    let (came, asked) = Load::during(at_tcp, at_web, || {
        for at in 1..=RELOADS {
            let pair = authority.write("inner", "inner.test");
            apply(&gate, &config(at));
            let fresh = shake(&gate, "safe", &client, "inner.test").expect("a handshake");
            let shown = fresh.conn.peer_certificates().map(|all| all[0].to_vec());
            assert_eq!(shown, Some(pair.der), "the certificate of now");
            for stream in long.iter_mut().skip(at % 10).step_by(10) {
                say(stream, b"still here").expect("a long session");
            }
            if at == RELOADS / 4 {
                early = gate.resident();
            }
            until_part(began, at, RELOADS);
        }
    });
    let late = gate.resident();
    println!("{RELOADS} reloads, {came} connections, {asked} requests, {early} then {late} bytes");
    assert!(came > 100 && asked > 100, "that is no load");
    // What a reload replaces is freed; allocators keep some of it.
    assert!(late < early + (8 << 20), "it grows: {early} then {late} bytes");
    for stream in &mut long {
        say(stream, b"to the end").expect("a long session");
    }
    apply(&gate, &config(0));
    let now = until("as many descriptors as before", || {
        // Kept connections to the HTTP server, one for each client, and this question's own.
        let now = gate.descriptors();
        if now <= before + 16 { Ok(now) } else { Err((before, now)) }
    });
    println!("{before} then {now} descriptors");
}

/// Files of a case of the corpus; `None` for one whose files are made by program.
fn case_files(case: &Value) -> Option<Vec<(String, Vec<u8>)>> {
    let bytes = |text: &str| match case["latin1"].as_bool() {
        Some(true) => text.chars().map(|char| u8::try_from(char as u32).unwrap_or(b'?')).collect(),
        _ => text.as_bytes().to_vec(),
    };
    let files = case["files"].as_object()?;
    let is_error = |found: &Value| found.as_str().is_some_and(|found| found.starts_with('E'));
    let errors = case["expect"].as_array()?.iter().any(is_error);
    let plain = errors && case["pending"].is_null() && files.keys().next()? == "main.toml";
    plain.then(|| {
        files
            .iter()
            .map(|(name, text)| (name.clone(), bytes(text.as_str().unwrap_or_default())))
            .collect()
    })
}

#[test]
fn no_bad_configuration_of_the_corpus_is_taken_or_changes_anything() {
    let one = echo("one");
    let good = [TOP, &listener("a", "p"), &pool("p", &[("one", one)])].concat();
    let gate = Gate::start(&good);
    let before = gate.status();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/config.jsonl");
    let corpus = std::fs::read_to_string(corpus).expect("the corpus is there");
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");
    for entry in std::fs::read_dir(certificates).expect("they are there").flatten() {
        std::fs::copy(entry.path(), gate.dir.path().join(entry.file_name())).expect("it is ours");
    }
    let mut tried = 0;
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).expect("a case a line");
        let Some(files) = case_files(&case) else { continue };
        for (at, (name, bytes)) in files.iter().enumerate() {
            let name = if at == 0 { "main.toml" } else { name.as_str() };
            let path = gate.dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("in the directory")).expect("it is ours");
            std::fs::write(path, bytes).expect("it is ours");
        }
        let (code, answer) = reload(&gate);
        assert_eq!(code, 422, "{}: {answer}", case["id"]);
        let error = answer["error"].as_str().unwrap_or_default();
        let wanted = case["expect"][0].as_str().unwrap_or_default();
        let code = wanted.split(' ').next().unwrap_or_default();
        assert!(error.contains(code) && error.contains("-->"), "{}: {wanted}: {error}", case["id"]);
        for (name, _) in files.iter().skip(1) {
            let _ = std::fs::remove_file(gate.dir.path().join(name));
        }
        tried += 1;
    }
    println!("{tried} bad configurations tried");
    assert!(tried > 100, "the corpus is not there: {tried}");
    let after = gate.status();
    assert_eq!(after["config"]["hash"], before["config"]["hash"]);
    assert_eq!(after["listeners"]["a"]["bind"], before["listeners"]["a"]["bind"]);
    assert_eq!(open(gate.address("a")).expect("it serves on").1, "one");
    apply(&gate, &good);
}

#[test]
fn other_certificates_are_used_and_a_route_is_added_without_a_new_handshake_failing() {
    let authority = Authority::new();
    let config = |more: &str| {
        format!(
            "{TOP}[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{}\n\
             [[listener.web.route]]\nmatch = {{ path = \"/old\" }}\n\
             respond = {{ status = 200, body = \"old\" }}\n{more}",
            authority.listener()
        )
    };
    let gate = Gate::start(&config(""));
    let client = trusting(&authority, None);
    let mut held = Talk::over(shake(&gate, "web", &client, "inner.test").expect("a handshake"));
    assert_eq!(held.get("/old").body, b"old");
    assert_eq!(held.get("/new").status, 404);
    let route = "[[listener.web.route]]\nmatch = { path = \"/new\" }\n\
                 respond = { status = 200, body = \"new\" }\n";
    let pair = authority.issue("inner.test");
    for (file, text) in [("inner.pem", &pair.cert), ("inner.key", &pair.key)] {
        std::fs::write(authority.path(file), text).expect("it is ours");
    }
    apply(&gate, &config(route));
    assert_eq!(held.get("/old").body, b"old", "the connection lives on");
    assert_eq!(held.get("/new").body, b"new", "and its next request has the new routes");
    let stream = shake(&gate, "web", &client, "inner.test").expect("a handshake");
    let shown = stream.conn.peer_certificates().map(|all| all[0].to_vec());
    assert!(shown.is_none_or(|shown| shown == pair.der), "the certificate of now, or a ticket");
    assert_eq!(Talk::over(stream).get("/new").body, b"new");
    std::fs::write(authority.path("inner.key"), "no key").expect("it is ours");
    let (code, answer) = reload(&gate);
    assert_eq!(code, 422, "{answer}");
    assert!(answer["error"].as_str().is_some_and(|it| it.contains("inner.key")), "{answer}");
    assert_eq!(held.get("/old").body, b"old");
}
