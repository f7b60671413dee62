//! Servers that die under load, go silent, or run out of ports to be reached from.

use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluicegate::config::plan::{self, BindAddr, OnDown};
use sluicegate::control::notice::Notice;
use sluicegate::observe::counters::{ConnectResult, ServerCounts};
use sluicegate::observe::reason::Reason;
use sluicegate::registry::ServerId;
use sluicegate::runtime::mail::Mail;
use sluicegate::runtime::time::Time;

use crate::alone::is_alone;
use crate::engine::{
    Backend, DEADLINE, Engine, assert_reset, connect_from, descriptors, greeting, plan_over,
    round_trip, with_deadline, workers_cpu,
};
use crate::netns::{black_hole, in_own_network, local_ports};

fn backends() -> Vec<Backend> {
    [b'a', b'b', b'c'].map(Backend::start).into()
}

fn plan_for(backends: &[Backend]) -> plan::Plan {
    plan_over(&backends.iter().map(|backend| backend.address).collect::<Vec<_>>())
}

/// Sessions and the tag of the server each is on.
fn open_sessions(engine: &Engine, count: usize) -> Vec<(TcpStream, u8)> {
    let one = |_| {
        let mut client = engine.connect();
        let (tag, _) = greeting(&mut client).unwrap();
        (client, tag)
    };
    (0..count).map(one).collect()
}

const fn attempts(result: ConnectResult) -> impl Fn(&ServerCounts) -> u64 {
    move |counts| counts.connects[result as usize].value()
}

#[test]
fn a_server_that_dies_under_500_sessions_takes_none_of_the_others_with_it() {
    if !is_alone("failover::a_server_that_dies_under_500_sessions_takes_none_of_the_others_with_it")
    {
        return;
    }
    let mut backends = backends();
    let engine = Engine::start(plan_for(&backends), 2);
    open_sessions(&engine, 6);
    engine.assert_quiet();
    let quiet = descriptors();

    let mut sessions = open_sessions(&engine, 500);
    let on_b = sessions.iter().filter(|(_, tag)| *tag == b'b').count();
    assert!((160..=173).contains(&on_b), "{on_b} of 500 on one of three");
    backends[1].kill();
    for (client, tag) in &mut sessions {
        if *tag == b'b' {
            assert_reset(client, "its server died");
        } else {
            round_trip(client, b"untouched").unwrap();
        }
    }
    assert_eq!(engine.ended(Reason::ServerReset), on_b as u64, "{:?}", engine.reasons());

    // Before health knows, a refused connect is tried elsewhere; after, it is not even tried.
    let newcomers = open_sessions(&engine, 90);
    assert!(newcomers.iter().all(|(_, tag)| *tag != b'b'), "served by the dead");
    let tried = engine.of_server(1, attempts(ConnectResult::Refused));
    assert!(tried > 0);
    engine.set_up(1, false);
    let later = open_sessions(&engine, 90);
    assert!(later.iter().all(|(_, tag)| *tag != b'b'), "served by the dead");
    assert_eq!(engine.of_server(1, attempts(ConnectResult::Refused)), tried);

    drop((sessions, newcomers, later));
    engine.assert_quiet();
    // One descriptor less: the dead server's listening socket, and its clone in the far end.
    engine.wait_for("descriptors as before", |_| descriptors() == quiet - 2);
    let all = [("ok", 6 + 680 - on_b as u64), ("server-reset", on_b as u64)];
    engine.assert_reasons(&all);
}

#[test]
fn on_down_close_sessions_resets_the_sessions_of_a_server_that_health_gave_up() {
    let backends = backends();
    let mut plan = plan_for(&backends);
    plan.pools[0].on_down = OnDown::CloseSessions;
    let engine = Engine::start(plan, 2);
    let mut sessions = open_sessions(&engine, 60);
    engine.set_up(1, false);
    engine.post_all(|| Mail::CloseSessionsOn(ServerId(1)));
    for (client, tag) in &mut sessions {
        if *tag == b'b' {
            assert_reset(client, "its server is down");
        } else {
            round_trip(client, b"untouched").unwrap();
        }
    }
    engine.assert_reasons(&[("server-down", 20)]);
    drop(sessions);
    engine.assert_quiet();
}

/// Plays control's part: ejects a server that the workers complain about.
fn eject_outliers(engine: &Engine) -> Option<ServerId> {
    while let Some(notice) = engine.shared.notices.next_now() {
        if let Notice::Outlier { server } = notice {
            engine.state(server.0).ejected_until.store(Time::NEVER.0, Ordering::Release);
            return Some(server);
        }
    }
    None
}

const PER_SECOND: u32 = 500;
const SECONDS: u32 = 3;

/// Connects at a steady rate, each client on a thread; returns how long each waited for its
/// greeting, in the order they came.
fn clients_at_a_rate(engine: &Engine, mut each: impl FnMut()) -> Vec<Duration> {
    let start = Instant::now();
    let address = engine.address;
    let clients = (0..PER_SECOND * SECONDS).map(|nth| {
        each();
        let due = start + Duration::from_secs(1) * nth / PER_SECOND;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let client = move || {
            let begun = Instant::now();
            let mut client = with_deadline(TcpStream::connect(address).unwrap());
            let served = greeting(&mut client).and_then(|_| round_trip(&mut client, b"hello"));
            served.map(|()| begun.elapsed())
        };
        std::thread::Builder::new().stack_size(128 << 10).spawn(client).unwrap()
    });
    let clients: Vec<_> = clients.collect();
    let served = clients.into_iter().enumerate().map(|(nth, client)| {
        client.join().unwrap().unwrap_or_else(|error| panic!("client {nth} failed: {error}"))
    });
    served.collect()
}

fn p99(waits: &[Duration]) -> Duration {
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() * 99 / 100]
}

#[test]
fn no_client_fails_while_one_of_three_servers_is_a_black_hole() {
    in_own_network(&["nft"], || {
        let backends = backends();
        let mut plan = plan_for(&backends);
        plan.pools[0].timeouts.connect = Some(Duration::from_secs(1));
        plan.pools[0].outlier = Some(plan::Outlier {
            errors: 5.try_into().unwrap(),
            eject_for: Duration::from_secs(30),
            max_ejected_percent: 50,
        });
        black_hole(backends[1].address.port());
        let engine = Engine::start(plan, 2);
        let (mut nth, mut ejected_at) = (0, None);
        let waits = clients_at_a_rate(&engine, || {
            ejected_at = ejected_at.or_else(|| eject_outliers(&engine).map(|_| nth));
            nth += 1;
        });
        engine.assert_quiet();
        engine.assert_reasons(&[("ok", u64::from(PER_SECOND * SECONDS))]);
        let ejected_at = ejected_at.expect("five timeouts in a row are told to control");
        let (before, after) = waits.split_at(ejected_at);
        println!(
            "{PER_SECOND}/s, connect_timeout 1 s: ejected before client {ejected_at}; \
             p99 before {:?}, after {:?}, longest {:?}",
            p99(before),
            p99(after),
            waits.iter().max(),
        );
        let timed_out = engine.of_server(1, attempts(ConnectResult::Timeout));
        assert!(timed_out >= 5 && timed_out <= ejected_at as u64, "{timed_out} timeouts");
        assert_eq!(engine.of_server(1, attempts(ConnectResult::Ok)), 0);
        assert_eq!(backends[1].accepted(), 0);
    });
}

#[test]
fn a_pool_of_black_holes_ends_within_twice_the_connect_timeout() {
    in_own_network(&["nft"], || {
        let backend = Backend::start(b'a');
        let mut plan = plan_over(&[backend.address]);
        plan.pools[0].timeouts.connect = Some(Duration::from_millis(200));
        black_hole(backend.address.port());
        let engine = Engine::start(plan, 1);
        for _ in 0..3 {
            assert_reset(engine.connect(), "nobody answers");
        }
        engine.assert_quiet();
        engine.assert_reasons(&[("connect-timeout", 3)]);
    });
}

#[test]
fn a_lack_of_local_ports_is_told_apart_does_not_spin_and_passes() {
    in_own_network(&[], || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("front.sock");
        let backend = Backend::start(b'a');
        let mut plan = plan_over(&[backend.address]);
        // Clients need no ports of their own.
        plan.listeners[0].bind = vec![BindAddr::Unix(path.clone())];
        let engine = Engine::start(plan, 2);
        local_ports(61_000, 61_015);
        let connect = || {
            let client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client
        };
        let mut served = Vec::new();
        let mut refused = 0;
        for _ in 0..100 {
            let mut client = connect();
            match greeting(&mut client) {
                Ok(_) => served.push(client),
                Err(_) => refused += 1,
            }
        }
        assert!((10..=16).contains(&served.len()), "{} served by 16 ports", served.len());
        engine.assert_reasons(&[("ports-exhausted", refused)]);
        assert_eq!(engine.state(0).errors_in_row.load(Ordering::Relaxed), 0, "no server's fault");

        let (cpu, begun) = (workers_cpu(), Instant::now());
        for client in &mut served {
            round_trip(client, b"undisturbed").unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(300));
        let (cpu, wall) = (workers_cpu() - cpu, begun.elapsed());
        println!("{} served, {refused} refused; {cpu:?} of CPU in {wall:?} after", served.len());
        assert!(cpu < wall / 2, "spins");

        // The far end resets, so that the ports are free at once.
        drop(backend);
        for client in &mut served {
            assert!(greeting(client).is_err());
        }
        drop(served);
        engine.assert_quiet();
    });
}

#[test]
fn ports_come_back_when_sessions_end() {
    in_own_network(&[], || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("front.sock");
        let mut backend = Backend::start(b'a');
        let mut plan = plan_over(&[backend.address]);
        plan.listeners[0].bind = vec![BindAddr::Unix(path.clone())];
        let engine = Engine::start(plan, 1);
        local_ports(61_000, 61_007);
        for _ in 0..3 {
            let mut clients: Vec<_> =
                (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
            let served = clients.iter_mut().filter_map(|client| greeting(client).ok()).count();
            assert!((4..=8).contains(&served), "{served} served by 8 ports");
            backend.kill();
            engine.wait_for("all to end", |engine| engine.sessions() == 0);
            backend.listen();
        }
        engine.assert_quiet();
    });
}

#[test]
fn source_addresses_are_used_in_turn() {
    let backend = crate::engine::server(|stream| {
        use std::io::Write as _;
        let from = stream.peer_addr().unwrap().ip().to_string();
        let _ = (&stream).write_all(format!("{from:<16}").as_bytes());
    });
    let mut plan = plan_over(&[backend]);
    let sources: Vec<IpAddr> =
        ["127.0.0.5", "127.0.0.6"].map(|address| address.parse().unwrap()).into();
    plan.pools[0].source.clone_from(&sources);
    let engine = Engine::start(plan, 1);
    let from = |_| {
        use std::io::Read as _;
        let mut text = String::new();
        let mut client = connect_from([127, 0, 0, 9].into(), engine.address);
        client.read_to_string(&mut text).unwrap();
        text.trim().parse::<IpAddr>().unwrap()
    };
    let seen: Vec<IpAddr> = (0..20).map(from).collect();
    for source in sources {
        assert_eq!(seen.iter().filter(|&&from| from == source).count(), 10, "{seen:?}");
    }
    engine.assert_quiet();
}

#[test]
fn sessions_go_on_while_servers_come_and_go() {
    let mut backends = backends();
    let engine = Engine::start(plan_for(&backends), 2);
    let stop = Arc::new(AtomicBool::new(false));
    let address = engine.address;
    // Every client keeps one session for its round trips; `b` and `c` flap, `a` stays.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = with_deadline(TcpStream::connect(address).unwrap());
                    // A death after the connect is the client's to see.
                    let Ok((tag, _)) = greeting(&mut client) else { continue };
                    let done = round_trip(&mut client, b"hello");
                    assert!(done.is_ok() || tag != b'a', "{done:?}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for round in 0..20 {
        let at = 1 + round % 2;
        backends[at].kill();
        let before = engine.of_server(0, attempts(ConnectResult::Ok));
        engine.wait_for("work to go on", |engine| {
            engine.of_server(0, attempts(ConnectResult::Ok)) > before + 50
        });
        backends[at].listen();
    }
    stop.store(true, Ordering::Relaxed);
    let served: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    println!("{served} sessions over 20 deaths: {:?}", engine.reasons());
    engine.assert_quiet();
    for reason in [Reason::ConnectRefused, Reason::NoServer, Reason::Internal] {
        assert_eq!(engine.ended(reason), 0, "{reason:?}: a server is always there");
    }
}
