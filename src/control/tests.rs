//! A whole instance on loopback: real rings, real sockets, servers that answer from threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::instance::{Instance, Phase};
use super::reload::Source;
use super::{Command, Running, ServeError, ServeOptions, fixture, start};
use crate::config::plan::{
    AccessLog, Admin, BindAddr, Check, CheckKind, Init, OnDown, Plan, Secret, ServerAddr,
};
use crate::config::{self, Loaded};
use crate::observe::logger::Log;

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `true`.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::yield_now();
    }
}

/// An echo server that can be closed, and opened again on the same port.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn open(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::spawn(move || echo(stream));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn close(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn run(plan: Plan) -> (Running, Log) {
    let log = Log::memory();
    let options = ServeOptions { log: log.clone(), ..ServeOptions::embedded() };
    let running = start(plan, options).unwrap();
    assert_eq!(running.instance.wait_started(DEADLINE), Phase::Ready);
    (running, log)
}

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.address("front").unwrap()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn says(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

fn state(instance: &Instance, server: &str) -> String {
    instance.status().pools["back"].servers[server].state.clone()
}

fn stop(running: Running) {
    running.stop();
    running.join().unwrap();
}

#[test]
fn a_session_is_served_counted_and_logged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    plan.log.access = AccessLog::File(path.clone());
    let (running, _) = run(plan);
    let mut client = connect(&running);
    says(&mut client, b"hello");
    drop(client);
    let instance = running.instance.clone();
    eventually("the session has ended", || instance.status().listeners["front"].active == 0);
    let status = instance.status();
    assert_eq!(status.listeners["front"].total, 1);
    assert_eq!(status.pools["back"].servers["s0"].total, 1);
    assert!(status.pools["back"].servers["s0"].latency_ms.connect.is_some());
    for line in [
        "sluicegate_session_bytes_total{listener=\"front\",direction=\"in\"} 5",
        "sluicegate_upstream_connects_total{pool=\"back\",server=\"s0\",result=\"ok\"} 1",
        "sluicegate_upstream_up{pool=\"back\",server=\"s0\"} 1",
        "sluicegate_session_seconds_count{listener=\"front\"} 1",
    ] {
        // Readings within 20 ms share their histograms.
        eventually(line, || instance.metrics().lines().any(|other| other == line));
    }
    stop(running);
    let log = std::fs::read_to_string(path).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!(
        (&line["reason"], &line["bytes_in"], &line["server"]),
        (&"ok".into(), &5.into(), &"s0".into())
    );
}

#[test]
fn a_server_goes_down_and_comes_back_as_its_checks_say() {
    let mut server = Server::open(any());
    let address = server.address;
    let mut plan = fixture::plan(&[address]);
    plan.pools[0].check = Some(fixture::check(CheckKind::Tcp));
    let (running, log) = run(plan);
    let instance = running.instance.clone();
    assert_eq!(state(&instance, "s0"), "up");
    server.close();
    eventually("it is down", || state(&instance, "s0") == "down");
    assert_eq!(instance.status().pools["back"].servers["s0"].health.detail, "refused");
    let _again = Server::open(address);
    eventually("it is up", || state(&instance, "s0") == "up");
    stop(running);
    let said = log.lines().join("\n");
    assert!(said.contains(&format!("server back/s0 ({address}) is down: refused")), "{said}");
    assert!(said.contains("is up: connected in"), "{said}");
}

#[test]
fn nobody_is_accepted_before_the_first_round_and_a_silent_server_does_not_hold_it_up() {
    let alive = Server::open(any());
    // Accepts by the kernel, never answers.
    let silent = TcpListener::bind(any()).unwrap();
    let mut plan = fixture::plan(&[alive.address, silent.local_addr().unwrap()]);
    let kind = CheckKind::Redis { password: None };
    let check = Check { every: Duration::from_secs(60), ..fixture::check(kind) };
    plan.pools[0].check = Some(check);
    let running = start(plan, ServeOptions::embedded()).unwrap();
    assert_eq!(running.instance.phase(), Phase::Starting);
    assert_eq!(running.instance.wait_started(DEADLINE), Phase::Ready);
    assert_eq!(state(&running.instance, "s1"), "down");
    stop(running);
}

#[test]
fn a_reload_while_it_starts_is_refused_to_whoever_asks_and_else_done_when_it_is_ready() {
    // Accepts by the kernel, never answers: it starts for as long as the check may take.
    let silent = TcpListener::bind(any()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("main.toml");
    let config = format!(
        "version = 1\n[admin]\nbind = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n\
         [listener.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pool.back]\ncheck = {{ type = \"redis\", timeout = \"2s\" }}\n\
         servers = {{ s0 = \"{}\" }}\n",
        silent.local_addr().unwrap()
    );
    std::fs::write(&path, config).unwrap();
    let Loaded { plan, outline, files, patterns, .. } = config::load(&path).unwrap();
    let source = Some(Source { path, outline, files, patterns });
    let running = start(plan, ServeOptions { source, ..ServeOptions::embedded() }).unwrap();
    let instance = running.instance.clone();
    running.commands.try_send(Command::Reload(None)).unwrap();
    let (head, body) = ask(&instance, "/v1/reload", "");
    assert_eq!(instance.phase(), Phase::Starting);
    assert_eq!(head, "HTTP/1.1 503 Service Unavailable", "{body}");
    assert!(body.contains("it is starting"), "{body}");
    assert!(instance.loading().last.is_none());
    assert_eq!(instance.wait_started(DEADLINE), Phase::Ready);
    eventually("it is reloaded", || {
        let last = instance.loading().last;
        last.is_some_and(|reload| reload.outcome.is_ok())
    });
    stop(running);
}

#[test]
fn a_pool_of_local_names_has_servers_when_it_is_ready() {
    let server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    let (host, port) = ("localhost".into(), server.address.port());
    plan.pools[0].servers[0].address = ServerAddr::Dns { host, port };
    plan.pools[0].check = Some(fixture::check(CheckKind::Tcp));
    // Nobody there: only the hosts file can answer.
    plan.runtime.dns.servers = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
    let (running, _) = run(plan);
    says(&mut connect(&running), b"hello");
    let status = running.instance.status();
    let named = &status.pools["back"].servers["s0"];
    assert_eq!((named.state.as_str(), named.stale), ("up", Some(false)));
    assert!(named.members.as_ref().is_some_and(|members| !members.is_empty()));
    stop(running);
}

#[test]
fn a_failed_connect_starts_a_check_at_once() {
    let mut server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    // Left to itself it would notice in a minute.
    let check = Check {
        every: Duration::from_secs(60),
        fall: std::num::NonZeroU8::MIN,
        ..fixture::check(CheckKind::Tcp)
    };
    plan.pools[0].check = Some(check);
    let (running, _) = run(plan);
    server.close();
    let mut client = connect(&running);
    assert!(!matches!(client.read(&mut [0]), Ok(1..)));
    let instance = running.instance.clone();
    eventually("it is down", || state(&instance, "s0") == "down");
    stop(running);
}

#[test]
fn clients_that_are_held_are_served_when_a_server_comes_up() {
    let address = Server::open(any());
    let mut closed = address;
    let at = closed.address;
    closed.close();
    let mut plan = fixture::plan(&[at]);
    plan.pools[0].check = Some(fixture::check(CheckKind::Tcp));
    plan.pools[0].hold = Some(Duration::from_secs(30));
    let (running, _) = run(plan);
    let instance = running.instance.clone();
    let clients: Vec<_> = (0..20).map(|_| connect(&running)).collect();
    eventually("all wait", || instance.status().pools["back"].held == 20);
    let _server = Server::open(at);
    for mut client in clients {
        says(&mut client, b"at last");
    }
    assert_eq!(instance.status().pools["back"].held, 0);
    stop(running);
}

#[test]
fn sessions_of_a_server_that_went_down_are_closed_if_the_pool_says_so() {
    let mut server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    plan.pools[0].check = Some(fixture::check(CheckKind::Tcp));
    plan.pools[0].on_down = OnDown::CloseSessions;
    let (running, _) = run(plan);
    let mut client = connect(&running);
    says(&mut client, b"x");
    server.close(); // only its listening socket: the session's goes on
    let gone = client.read(&mut [0]);
    assert!(gone.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    stop(running);
}

#[test]
fn a_drain_lets_sessions_end_and_a_second_stop_does_not() {
    let server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    plan.runtime.timeout_drain = Duration::from_secs(60);
    let (running, _) = run(plan.clone());
    let mut client = connect(&running);
    says(&mut client, b"x");
    running.stop();
    let instance = running.instance.clone();
    eventually("it drains", || instance.phase() == Phase::Draining);
    says(&mut client, b"still here");
    drop(client);
    running.join().unwrap();

    let (running, _) = run(plan);
    let mut client = connect(&running);
    says(&mut client, b"x");
    running.stop();
    running.stop();
    running.join().unwrap();
    assert!(client.read(&mut [0]).is_err());
}

#[test]
fn what_outlives_the_drain_timeout_is_reset() {
    let server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    plan.runtime.timeout_drain = Duration::from_millis(50);
    let (running, _) = run(plan);
    let mut client = connect(&running);
    says(&mut client, b"x");
    stop(running);
    assert!(client.read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_port_in_use_is_refused_with_its_name_and_leaves_nothing_running() {
    let taken = TcpListener::bind(any()).unwrap();
    let at = taken.local_addr().unwrap();
    let mut plan = fixture::plan(&[any()]);
    plan.listeners[0].bind = vec![BindAddr::Ip(at)];
    let error = start(plan, ServeOptions::embedded()).unwrap_err();
    assert_eq!(error.exit_code(), 71);
    assert!(
        matches!(&error, ServeError::System(text) if text.contains(&at.to_string())),
        "{error}"
    );
}

/// One request to the admin API; status line and body.
fn ask(instance: &Instance, path: &str, more: &str) -> (String, String) {
    let Some(BindAddr::Ip(at)) = instance.admin else { panic!("no admin address") };
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let what = if path == "/v1/reload" { "POST" } else { "GET" };
    let request =
        format!("{what} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn the_admin_api_answers_with_the_shapes_of_the_contract() {
    let server = Server::open(any());
    let mut plan = fixture::plan(&[server.address]);
    plan.pools[0].check = Some(Check { init: Init::Up, ..fixture::check(CheckKind::Tcp) });
    plan.admin = Some(Admin {
        bind: BindAddr::Ip(any()),
        token: Some(Secret("0123456789abcdef".into())),
        read_token: None,
        hosts: vec![],
        tls: None,
    });
    let (running, _) = run(plan);
    let instance = &running.instance;
    assert_eq!(ask(instance, "/healthz", "").0, "HTTP/1.1 200 OK");
    assert_eq!(ask(instance, "/readyz", ""), ("HTTP/1.1 200 OK".into(), "ready\n".into()));
    assert_eq!(ask(instance, "/v1/status", "").0, "HTTP/1.1 401 Unauthorized");
    let token = "Authorization: Bearer 0123456789abcdef\r\n";
    let (_, body) = ask(instance, "/v1/status", token);
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    for pointer in [
        "/version",
        "/pid",
        "/uptime_s",
        "/ready",
        "/engine",
        "/config/hash",
        "/config/loaded_at",
        "/config/pending_restart",
        "/config/last_reload/ok",
        "/workers/0/id",
        "/workers/0/cpu",
        "/workers/0/sessions",
        "/workers/0/busy",
        "/listeners/front/bind/0",
        "/listeners/front/mode",
        "/listeners/front/active",
        "/listeners/front/total",
        "/listeners/front/refused",
        "/pools/back/balance",
        "/pools/back/held",
        "/pools/back/servers/s0/addr",
        "/pools/back/servers/s0/state",
        "/pools/back/servers/s0/health/ok",
        "/pools/back/servers/s0/health/detail",
        "/pools/back/servers/s0/health/at",
        "/pools/back/servers/s0/weight",
        "/pools/back/servers/s0/override",
        "/pools/back/servers/s0/active",
        "/pools/back/servers/s0/total",
        "/pools/back/servers/s0/errors",
        "/pools/back/servers/s0/latency_ms/connect",
    ] {
        assert!(status.pointer(pointer).is_some(), "{pointer}: {body}");
    }
    let (head, body) = ask(instance, "/metrics", token);
    assert_eq!(head, "HTTP/1.1 200 OK");
    assert!(body.contains("\nsluicegate_build_info{version="), "{body}");
    assert_eq!(ask(instance, "/nothing", token).0, "HTTP/1.1 404 Not Found");
    stop(running);
}
