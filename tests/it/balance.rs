//! Where sessions land, as clients see it: over real connections, on one worker and on two.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use sluicegate::config::plan::{Balance, Plan};
use sluicegate::control::notice::Notice;
use sluicegate::registry::{PoolSnapshot, Snapshot};
use sluicegate::runtime::mail::Mail;

use crate::engine::{Backend, Engine, connect_from, greeting, listening, plan_over, with_deadline};

/// Says its tag and closes; one thread for all, for many short sessions.
fn teller(tag: u8) -> SocketAddr {
    let listener = listening();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&[tag]);
        }
    });
    address
}

fn weighted() -> Plan {
    let servers = [b'a', b'b', b'c'].map(teller);
    let mut plan = plan_over(&servers);
    for (server, weight) in plan.pools[0].servers.iter_mut().zip([5, 3, 2]) {
        server.weight = weight;
    }
    plan
}

/// Who served one connection after another.
fn told(address: SocketAddr, count: usize) -> Vec<u8> {
    let one = |_| {
        let mut client = with_deadline(TcpStream::connect(address).unwrap());
        let mut tag = Vec::new();
        client.read_to_end(&mut tag).unwrap();
        assert_eq!(tag.len(), 1);
        tag[0]
    };
    (0..count).map(one).collect()
}

/// The smooth sequence by its definition: everybody gains its weight, the richest is chosen
/// (the first of equals) and pays the sum.
fn smooth(weights: [i64; 3], count: usize) -> Vec<u8> {
    let mut credit = [0; 3];
    let next = |_| {
        for (credit, weight) in credit.iter_mut().zip(weights) {
            *credit += weight;
        }
        let richest = (0..3).rev().max_by_key(|&at| credit[at]).unwrap();
        credit[richest] -= weights.iter().sum::<i64>();
        b'a' + richest as u8
    };
    (0..count).map(next).collect()
}

#[test]
fn ten_thousand_connections_on_5_3_2_are_the_smooth_sequence_on_one_worker() {
    let engine = Engine::start(weighted(), 1);
    let seen = told(engine.address, 10_000);
    let wanted = smooth([5, 3, 2], 10_000);
    let differs = (0..10_000).find(|&at| seen[at] != wanted[at]);
    assert_eq!(differs, None, "{}", String::from_utf8_lossy(&seen[..50]));
    engine.assert_quiet();
}

#[test]
fn ten_thousand_connections_on_5_3_2_are_within_one_percent_on_two_workers() {
    let engine = Engine::start(weighted(), 2);
    let address = engine.address;
    let clients: Vec<_> =
        (0..4).map(|_| std::thread::spawn(move || told(address, 2_500))).collect();
    let seen: Vec<u8> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    for (tag, wanted) in [(b'a', 5_000), (b'b', 3_000), (b'c', 2_000_usize)] {
        let count = seen.iter().filter(|&&one| one == tag).count();
        println!("{}: {count} of {wanted}", tag as char);
        assert!(count.abs_diff(wanted) <= 100, "{count} instead of {wanted}");
    }
    engine.assert_quiet();
}

#[test]
fn least_conn_keeps_equal_servers_within_one_while_sessions_arrive_at_two_workers() {
    let backends = [b'a', b'b', b'c', b'd', b'e'].map(Backend::start);
    let mut plan = plan_over(&backends.each_ref().map(|backend| backend.address));
    plan.pools[0].balance = Balance::LeastConn;
    let engine = Arc::new(Engine::start(plan, 2));
    let arrive = |_| {
        let engine = Arc::clone(&engine);
        std::thread::spawn(move || (0..100).map(|_| engine.connect()).collect::<Vec<_>>())
    };
    let arriving: Vec<_> = (0..6).map(arrive).collect();
    let loads = || [0, 1, 2, 3, 4].map(|server| engine.load(server));
    let mut looks = 0;
    let all = 600;
    let mut last = [0; 5];
    engine.wait_for("everybody to have a server", |_| {
        // Loads only grow, so two equal readings are what it was in between.
        for _ in 0..1_000 {
            let now = loads();
            if now == last {
                let differ = now.iter().max().unwrap() - now.iter().min().unwrap();
                assert!(differ <= 1, "{now:?}");
                looks += 1;
            }
            last = now;
        }
        last.iter().sum::<u32>() == all
    });
    let clients: Vec<_> = arriving.into_iter().flat_map(|one| one.join().unwrap()).collect();
    println!("{looks} looks at whole loads, at last {last:?}");
    assert_eq!(last, [120; 5]);
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.of_workers(|counts| counts.pick_races.value()), 0);
}

/// Who serves each of 200 client addresses.
fn by_client(engine: &Engine) -> Vec<u8> {
    let one = |nth: u8| {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 9, nth));
        let mut client = connect_from(from, engine.address);
        greeting(&mut client).unwrap().0
    };
    (1..=200).map(one).collect()
}

fn hashed(balance: Balance) {
    let backends = [b'a', b'b', b'c', b'd'].map(Backend::start);
    let mut plan = plan_over(&backends.each_ref().map(|backend| backend.address));
    plan.pools[0].balance = balance;
    let engine = Engine::start(plan, 2);
    let before = by_client(&engine);
    assert_eq!(by_client(&engine), before, "a client always comes to the same server");

    engine.set_up(1, false);
    let down = by_client(&engine);
    assert!(down.iter().all(|&tag| tag != b'b'));
    engine.set_up(1, true);
    assert_eq!(by_client(&engine), before, "as it was when the server is back");

    remove_member(&engine, 1);
    let removed = by_client(&engine);
    assert!(removed.iter().all(|&tag| tag != b'b'));
    let stay = before.iter().zip(&removed).filter(|(before, _)| **before != b'b');
    let moved = stay.clone().filter(|(before, after)| before != after).count();
    println!("{balance:?}: {moved} of {} clients of remaining servers moved", stay.count());
    match balance {
        Balance::IpHash => assert_eq!(moved, 0),
        // Maglev trades a few moves for its even spread.
        _ => assert!(moved <= 20, "{moved} moved"),
    }
    engine.assert_quiet();
}

/// A new membership without this one, taken into use by every worker.
fn remove_member(engine: &Engine, at: usize) {
    let old = &engine.snapshot;
    let mut members = old.pools[0].members.clone();
    members.remove(at);
    let snapshot = Arc::new(Snapshot {
        plan: Arc::clone(&old.plan),
        listeners: old.listeners.clone(),
        pools: vec![PoolSnapshot { state: Arc::clone(&old.pools[0].state), members }],
        servers: old.servers.clone(),
        fronts: old.fronts.clone(),
        version: old.version + 1,
    });
    engine.post_all(|| Mail::Snapshot(Arc::clone(&snapshot)));
    let mut told = 0;
    engine.wait_for("the workers to use it", |engine| {
        let notices = std::iter::from_fn(|| engine.shared.notices.next_now());
        told += notices.filter(|notice| matches!(notice, Notice::Old(_))).count();
        told == engine.shared.workers.len()
    });
}

#[test]
fn ip_hash_moves_only_the_clients_of_a_server_that_goes() {
    hashed(Balance::IpHash);
}

#[test]
fn maglev_moves_few_clients_besides_those_of_a_server_that_goes() {
    hashed(Balance::Maglev);
}

#[test]
fn backups_serve_together_only_while_nobody_else_is_up() {
    let servers = [b'a', b'b', b'x', b'y'].map(teller);
    let mut plan = plan_over(&servers);
    plan.pools[0].servers[2].backup = true;
    plan.pools[0].servers[3].backup = true;
    let engine = Engine::start(plan, 1);
    let serve = |count| String::from_utf8(told(engine.address, count)).unwrap();
    assert_eq!(serve(4), "abab");
    engine.set_up(0, false);
    assert_eq!(serve(3), "bbb");
    engine.set_up(1, false);
    let backups = serve(4);
    assert!(backups == "xyxy" || backups == "yxyx", "{backups}");
    engine.set_up(0, true);
    assert_eq!(serve(3), "aaa");
    engine.assert_quiet();
}
