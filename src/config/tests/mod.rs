//! Claims about whole configurations: what is printed, what a plan holds, which examples work.

mod corpus;
mod http;
mod property;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::Duration;

use super::plan::{AccessLog, Balance, BindAddr, CheckKind, Init, ServerAddr, Timeouts};
use super::*;

fn rendered(name: &str, text: &str) -> String {
    match load_text(name, text.as_bytes()) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(report) => report.render(false),
    }
}

fn plan_of(name: &str, text: &str) -> Plan {
    match load_text(name, text.as_bytes()) {
        Ok(loaded) => loaded.plan,
        Err(report) => panic!("{}", report.render(false)),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_mistake_is_told_at_once_in_file_order_as_the_interface_prints_it() {
    let file = "\
version = 1

[listener.pg]
bind = \"0.0.0.0:5432\"
pool = \"pgz\"
mode = \"tpc\"


[pool.pg]
blance = \"least-conn\"
servers.pg1 = \"10.0.0.11:5432\"
servers.pg2 = { addr = \"10.0.0.11:5432\", weight = 2000 }
";
    let expected = "\
error[E201]: listener `pg` sends to pool `pgz`, which does not exist
  --> main.toml:5:8
  |
5 | pool = \"pgz\"
  |        ^^^^^ did you mean `pg`?
error[E104]: `mode` of listener `pg` must be one of \"tcp\", \"http\", found \"tpc\"
  --> main.toml:6:8
  |
6 | mode = \"tpc\"
  |        ^^^^^ did you mean \"tcp\"?
error[E103]: unknown key `blance` in pool `pg`
  --> main.toml:10:1
   |
10 | blance = \"least-conn\"
   | ^^^^^^ did you mean `balance`?
warning[W407]: server `pg2` of pool `pg` has the address of server `pg1`
  --> main.toml:12:24
   |
12 | servers.pg2 = { addr = \"10.0.0.11:5432\", weight = 2000 }
   |                        ^^^^^^^^^^^^^^^^ for a larger share use `weight`
  ::: main.toml:11:15
   |
11 | servers.pg1 = \"10.0.0.11:5432\"
   |               ^^^^^^^^^^^^^^^^ the first is here
error[E105]: `weight` of server `pg2` of pool `pg` must be between 1 and 1000, found 2000
  --> main.toml:12:51
   |
12 | servers.pg2 = { addr = \"10.0.0.11:5432\", weight = 2000 }
   |                                                   ^^^^ to take a server out of rotation use `drain`: `sluicegate ctl drain POOL/SERVER`
4 errors, 1 warning; nothing was applied
";
    let got = rendered("main.toml", file);
    assert_eq!(got, expected, "\n{got}");
}

#[test]
fn findings_are_objects_for_machines() {
    let Err(report) =
        load_text("a.toml", b"[listener.x]\nbind = \"127.0.0.1:1\"\npool = \"p\"\npol = 1\n")
    else {
        panic!("a dangling pool was accepted");
    };
    let json = report.to_json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    let unknown = &json[1];
    assert_eq!(
        (unknown["code"].as_str(), unknown["severity"].as_str(), unknown["file"].as_str()),
        (Some("E103"), Some("error"), Some("a.toml"))
    );
    assert_eq!((unknown["line"].as_u64(), unknown["column"].as_u64()), (Some(4), Some(1)));
    assert_eq!(unknown["key"], "listener.x.pol");
    assert_eq!(unknown["hint"], "did you mean `pool`?");
    assert!(unknown["related"].as_array().unwrap().is_empty());
}

#[test]
fn toml_and_json_of_the_same_content_give_the_same_plan() {
    let toml = "[listener.a]\nbind = [\"127.0.0.1:1\", \"unix:/run/x\"]\npool = \"p\"\nlimit.new_conns_per_ip = \"20/s burst 40\"\n\
                [pool.p]\nhold = \"2s\"\ncheck = { type = \"http\", expect = [200, \"300-302\"] }\n\
                servers.s = { addr = \"10.0.0.1:2\", weight = 3 }\n";
    let json = r#"{"listener": {"a": {"bind": ["127.0.0.1:1", "unix:/run/x"], "pool": "p",
                     "limit": {"new_conns_per_ip": "20/s burst 40"}}},
                   "pool": {"p": {"hold": "2s", "check": {"type": "http", "expect": [200, "300-302"]},
                     "servers": {"s": {"addr": "10.0.0.1:2", "weight": 3}}}}}"#;
    let without_hash = |mut plan: Plan| {
        plan.hash = String::new();
        format!("{plan:#?}")
    };
    assert_eq!(without_hash(plan_of("a.toml", toml)), without_hash(plan_of("a.json", json)));
}

#[test]
fn defaults_are_those_of_the_interface() {
    let plan = plan_of(
        "a.toml",
        "admin = {}\n[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p]\ncheck = { type = \"tcp\" }\noutlier = {}\nservers.s = \"10.0.0.1:2\"\n",
    );
    assert_eq!(plan.runtime.timeout_drain, Duration::from_secs(30));
    assert_eq!(
        (plan.runtime.workers, plan.runtime.max_conns, plan.runtime.delay_shutdown),
        (None, None, None)
    );
    assert_eq!(
        (plan.runtime.dns.ttl_min, plan.runtime.dns.ttl_max),
        (Duration::from_secs(1), Duration::from_secs(300))
    );
    assert_eq!(plan.runtime.dns.refuse.len(), 4);
    assert_eq!(plan.log.access, AccessLog::Stdout);
    let bind = BindAddr::Ip(SocketAddr::from(([127, 0, 0, 1], 9901)));
    assert_eq!(plan.admin.as_ref().map(|admin| admin.bind.clone()), Some(bind));
    let (listener, pool) = (&plan.listeners[0], &plan.pools[0]);
    assert_eq!((listener.backlog, listener.unix_mode, listener.access_log), (4_096, 0o660, true));
    assert_eq!(plan.timeouts(listener), Timeouts::default());
    assert_eq!(
        (pool.balance, pool.max_held, pool.hold, pool.slow_start),
        (Balance::RoundRobin, 1_000, None, None)
    );
    let check = pool.check.as_ref().unwrap();
    assert_eq!((check.every, check.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!((check.fall.get(), check.rise.get(), check.init), (3, 2, Init::Wait));
    let outlier = pool.outlier.unwrap();
    assert_eq!(
        (outlier.errors.get(), outlier.eject_for, outlier.max_ejected_percent),
        (5, Duration::from_secs(30), 50)
    );
    assert_eq!((pool.servers[0].weight, pool.servers[0].backup), (1, false));
}

#[test]
fn a_pool_speaks_before_its_listener_and_that_before_the_defaults() {
    let plan = plan_of(
        "a.toml",
        "[defaults]\nconnect_timeout = \"1s\"\nidle_timeout = \"1m\"\nsession_timeout = \"1h\"\n\
         [listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\nconnect_timeout = \"2s\"\nidle_timeout = \"2m\"\n\
         [pool.p]\nconnect_timeout = \"3s\"\nsession_timeout = \"off\"\nservers.s = \"10.0.0.1:2\"\n",
    );
    let times = plan.timeouts(&plan.listeners[0]);
    assert_eq!((times.connect, times.idle), (Duration::from_secs(3), Duration::from_secs(120)));
    assert_eq!(times.session, None);
}

#[test]
fn a_proxy_header_on_a_unix_socket_is_warned_of_because_nobody_is_trusted_there() {
    let told = rendered(
        "a.toml",
        "[listener.a]\nbind = \"unix:/run/a.sock\"\npool = \"p\"\naccept_proxy = true\n\
         trusted = [\"10.0.0.0/8\"]\n[pool.p]\nservers.s = \"10.0.0.1:2\"\n",
    );
    assert!(told.contains("warning[W405]: `accept_proxy` does nothing"), "{told}");
}

#[test]
fn what_only_records_say_of_a_service_is_warned_of_in_the_file() {
    let told = rendered(
        "a.toml",
        "[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p.servers]\n\
         s = { addr = \"srv:_a._tcp.b\", weight = 5, backup = true }\n\
         d = { addr = \"dns:b:1\", weight = 5 }\n",
    );
    for key in ["weight", "backup"] {
        let wanted = format!("warning[W415]: `{key}` of server `s` of pool `p` has no effect");
        assert!(told.contains(&wanted), "{told}");
    }
    assert_eq!(told.matches("W415").count(), 2, "{told}");
}

#[test]
fn secrets_come_from_the_environment_and_are_not_shown() {
    // PATH is the one variable that every test run has, and it is long enough.
    let plan = plan_of(
        "a.toml",
        "admin.token = \"env:PATH\"\n[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p]\nservers.s = \"10.0.0.1:2\"\n",
    );
    let token = plan.admin.as_ref().unwrap().token.as_ref().unwrap();
    assert_eq!(token.0, std::env::var("PATH").unwrap());
    assert!(!format!("{plan:?}").contains(&token.0));
}

#[test]
fn every_example_works_and_the_full_one_has_every_key() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(repository("config")).unwrap() {
        let path = entry.unwrap().path();
        let is_ours = |end: &OsStr| end == "toml" || end == "json";
        // A dashboard of Grafana's is JSON too.
        if !path.extension().is_some_and(is_ours) || path.ends_with("grafana.json") {
            continue;
        }
        match load(&path) {
            Ok(loaded) => assert_eq!(loaded.warnings.render(false), "", "{}", path.display()),
            Err(report) => panic!("{}", report.render(false)),
        }
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "edge.toml",
            "full.toml",
            "game-server.toml",
            "gateway.toml",
            "http.toml",
            "minimal.json",
            "postgres.toml",
            "redis.toml",
            "sni.toml",
            "tls.toml"
        ]
    );
    let full = std::fs::read_to_string(repository("config/full.toml")).unwrap();
    for section in table::ROOT.all_below() {
        for key in section.keys {
            assert!(
                full.contains(key.name) || no_use_in_the_full_one(section, key.name),
                "config/full.toml lacks `{}` of {}",
                key.name,
                section.heading
            );
        }
    }
}

#[test]
fn every_configuration_in_the_documents_works_without_a_warning() {
    let mut checked = 0;
    for page in ["from-kong.md", "from-nginx.md", "from-haproxy.md"] {
        let text = std::fs::read_to_string(repository("docs").join(page)).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // Certificates are looked for where the examples have them.
            let name = repository("config/main.toml");
            match load_text(&name.to_string_lossy(), block.as_bytes()) {
                Ok(loaded) => assert_eq!(loaded.warnings.render(false), "", "{page}"),
                Err(report) => panic!("{page}: {}", report.render(false)),
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 3);
}

/// In a pool these three are a warning, and examples have none.
fn no_use_in_the_full_one(section: &keys::Section, key: &str) -> bool {
    section.noun == "pool"
        && ["header_timeout", "keepalive_timeout", "proxy_timeout"].contains(&key)
}

#[test]
fn the_full_example_is_read_as_it_says() {
    let plan = load(&repository("config/full.toml")).unwrap().plan;
    assert_eq!(
        plan.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
        ["db", "local", "cache", "edge", "api", "plain", "gateway"]
    );
    let web = &plan.pools[plan.listeners[1].first_pool().unwrap()];
    assert_eq!(web.name, "web");
    let Some(CheckKind::Http(check)) = web.check.as_ref().map(|check| &check.kind) else {
        panic!()
    };
    assert_eq!(check.expect, [200..=200, 204..=206]);
    assert_eq!(check.headers, [("User-Agent".to_owned(), "sluicegate".to_owned())]);
    assert_eq!(
        web.servers[2].address,
        ServerAddr::Srv { name: "_http._tcp.web.internal".to_owned() }
    );
}

#[test]
fn included_tables_merge_and_their_paths_are_relative_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    write(
        "main.toml",
        "version = 1\ninclude = [\"conf.d/*.toml\", \"conf.d/b.json\"]\n[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"b\"\n",
    );
    write(
        "conf.d/a.toml",
        "version = 1\n[log]\naccess = \"file:a.log\"\n[listener.c]\nbind = \"127.0.0.1:2\"\npool = \"b\"\n",
    );
    write("conf.d/b.json", "{\"pool\": {\"b\": {\"servers\": {\"s\": \"10.0.0.1:1\"}}}}");
    write("conf.d/a.toml~", "not read");
    write("conf.d/.hidden.toml", "not read");
    let loaded = load(&dir.path().join("main.toml"))
        .unwrap_or_else(|report| panic!("{}", report.render(false)));
    assert_eq!(loaded.plan.log.access, AccessLog::File(dir.path().join("conf.d/a.log")));
    assert_eq!(loaded.plan.listeners.len(), 2);
    let names: Vec<_> =
        loaded.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["main.toml", "a.toml", "b.json"]);
    // Another byte anywhere is another hash.
    let before = loaded.plan.hash;
    write("conf.d/b.json", "{\"pool\": {\"b\": {\"servers\": {\"s\": \"10.0.0.1:2\"}}}}");
    assert_ne!(load(&dir.path().join("main.toml")).unwrap().plan.hash, before);
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let text = rendered(
        "a.toml",
        "[listener.\"\\u001b[31m\"]\n\"\\u001b[2J\" = 1\nbind = \"\\u0007\"\npool = \"\\u202e\"\n",
    );
    let allowed = |c: char| c == '\n' || !c.is_control();
    assert!(text.chars().all(allowed), "{text:?}");
}

#[test]
fn files_that_stand_for_values_are_among_those_to_watch_also_if_they_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = "version = 1\n[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"file:token\"\n\
        [log]\naccess = \"file:access.log\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
        mode = \"http\"\n[[listener.web.route]]\npolicies = [\"own\", \"keys\", \"login\"]\n\
        respond = { status = 200, body = \"file:body\" }\n\
        [policy.own]\ntype = \"jwt\"\nsecret = \"file:secret\"\nalgorithms = [\"HS256\"]\n\
        [policy.keys]\ntype = \"jwt\"\nkeys = \"file:keys\"\n\
        [policy.login]\ntype = \"basic\"\n[consumer.c]\nbasic = \"file:hash\"\n";
    std::fs::write(at("main.toml"), config).unwrap();
    let named = ["token", "body", "secret", "keys", "hash"];
    let mut wanted: Vec<_> = named.map(at).to_vec();
    wanted.push(at("main.toml"));
    wanted.sort();
    assert!(load(&at("main.toml")).is_err(), "none is there yet");
    let (mut files, _) = files(&at("main.toml"));
    files.sort();
    assert_eq!(files, wanted);
    for name in named {
        std::fs::write(at(name), "0123456789abcdef0123456789abcdef").unwrap();
    }
    std::fs::copy(repository("tests/corpus/keys/jwks.json"), at("keys")).unwrap();
    let hash = "$2b$04$bLGYbLGYbLGYbLGYbLGYbOmzkzsoJvSBKAdhuHC1e6qN5DgMfKaPy";
    std::fs::write(at("hash"), hash).unwrap();
    let loaded = load(&at("main.toml")).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let mut files = loaded.files;
    assert_eq!(files[0], at("main.toml"));
    files.sort();
    assert_eq!(files, wanted);
}
