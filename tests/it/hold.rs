//! Clients that wait: for a server to come back (`hold`), or for room at one (`max_conns`).

use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::time::Duration;

use sluicegate::config::plan::Plan;
use sluicegate::observe::counters::ConnectResult;
use sluicegate::observe::reason::Reason;

use crate::engine::{Backend, Engine, assert_reset, greeting, plan_over, reset, round_trip};

fn holding(servers: &[SocketAddr], hold: Duration) -> Plan {
    let mut plan = plan_over(servers);
    plan.pools[0].hold = Some(hold);
    plan
}

/// One after the other, so that the order of arrival is known.
fn wait_in_line(engine: &Engine, clients: u32) -> Vec<TcpStream> {
    let before = engine.waiting();
    let one = |nth| {
        let client = engine.connect();
        engine.wait_for("the client to stand in the queue", |engine| {
            engine.waiting() == before + nth + 1
        });
        client
    };
    (0..clients).map(one).collect()
}

/// The number in the server's greeting of every client, in the order they came.
fn numbers(clients: &mut [TcpStream]) -> Vec<u32> {
    let number = |(nth, client): (usize, &mut TcpStream)| {
        greeting(client).unwrap_or_else(|error| panic!("client {nth}: {error}")).1
    };
    clients.iter_mut().enumerate().map(number).collect()
}

fn limit(max: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(max)
}

/// The length of the longest run of ever smaller numbers, with gaps: 1 in order, 2 for two
/// ordered sequences that are mixed.
fn longest_decreasing(numbers: &[u32]) -> usize {
    let mut longest = Vec::with_capacity(numbers.len());
    for (at, number) in numbers.iter().enumerate() {
        let above = numbers[..at].iter().zip(&longest).filter(|(before, _)| *before > number);
        let one = 1 + above.map(|(_, &length)| length).max().unwrap_or(0);
        longest.push(one);
    }
    longest.into_iter().max().unwrap_or(0)
}

fn clients_of_a_gap_are_served(workers: usize) {
    let (mut first, second) = (Backend::silent(b'a'), Backend::silent(b'b'));
    let plan = holding(&[first.address, second.address], Duration::from_secs(10));
    let engine = Engine::start(plan, workers);
    engine.set_up(0, false);
    engine.set_up(1, false);
    let mut clients = wait_in_line(&engine, 200);
    engine.assert_reasons(&[]);

    first.listen();
    engine.set_up(0, true);
    let served = numbers(&mut clients);
    // Each worker keeps the order; between two that connect at the same time there is none.
    let in_order = longest_decreasing(&served);
    assert!(in_order <= workers, "{in_order} clients in reverse order: {served:?}");
    for client in &mut clients {
        round_trip(client, b"and it works").unwrap();
    }
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 200, "{:?}", engine.reasons());
    let refused = |counts: &sluicegate::observe::counters::ServerCounts| {
        counts.connects[ConnectResult::Refused as usize].value()
    };
    assert_eq!(engine.of_server(0, refused) + engine.of_server(1, refused), 0);
}

#[test]
fn two_hundred_clients_of_a_gap_are_served_in_order_when_a_server_returns() {
    clients_of_a_gap_are_served(1);
}

#[test]
fn two_workers_each_serve_their_clients_of_a_gap_in_order() {
    clients_of_a_gap_are_served(2);
}

#[test]
fn clients_wait_also_while_health_still_believes_in_a_dead_server() {
    let mut backend = Backend::silent(b'a');
    let engine = Engine::start(holding(&[backend.address], Duration::from_secs(10)), 2);
    let mut clients: Vec<_> = (0..50).map(|_| engine.connect()).collect();
    engine.wait_for("all to wait", |engine| engine.waiting() == 50);
    let attempts = |engine: &Engine| {
        engine.of_server(0, |counts| counts.connects[ConnectResult::Refused as usize].value())
    };
    engine.wait_for("some to look again", |engine| attempts(engine) >= 100);
    backend.listen();
    for client in &mut clients {
        greeting(client).unwrap();
    }
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 50, "{:?}", engine.reasons());
}

#[test]
fn a_dead_server_is_not_tried_in_a_loop_by_those_who_wait_for_it() {
    let backend = Backend::silent(b'a');
    let engine = Engine::start(holding(&[backend.address], Duration::from_secs(2)), 1);
    let clients: Vec<_> = (0..20).map(|_| engine.connect()).collect();
    for client in &clients {
        assert_reset(client, "held in vain");
    }
    let attempts =
        engine.of_server(0, |counts| counts.connects[ConnectResult::Refused as usize].value());
    // Two seconds at four looks a second and client, and the first try of each. A loop makes
    // tens of thousands.
    println!("{attempts} attempts by 20 clients in a hold of 2 s");
    assert!(attempts <= 20 * 12, "{attempts} attempts");
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::NoServer), 20, "{:?}", engine.reasons());
}

#[test]
fn who_comes_behind_those_that_wait_for_a_dead_server_waits_as_long_as_they() {
    let mut backend = Backend::silent(b'a');
    let mut plan = holding(&[backend.address], Duration::from_secs(10));
    plan.pools[0].timeouts.connect = Some(Duration::from_millis(50));
    let engine = Engine::start(plan, 1);
    // Health believes in the server, so the first has tried it, and the others go behind.
    let mut clients = wait_in_line(&engine, 20);
    engine.wait_for("connect_timeout to be long over", |engine| {
        engine.of_server(0, |counts| counts.connects[ConnectResult::Refused as usize].value()) > 20
    });
    engine.wait_for("all to wait still", |engine| engine.waiting() == 20);
    engine.assert_reasons(&[]);
    backend.listen();
    for client in &mut clients {
        greeting(client).unwrap();
    }
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 20, "{:?}", engine.reasons());
}

#[test]
fn no_more_than_max_held_wait_and_the_next_is_refused() {
    let mut backend = Backend::silent(b'a');
    let mut plan = holding(&[backend.address], Duration::from_secs(10));
    plan.pools[0].max_held = 10;
    let engine = Engine::start(plan, 2);
    engine.set_up(0, false);
    let mut clients = wait_in_line(&engine, 10);
    for _ in 0..5 {
        assert_reset(engine.connect(), "over max_held");
    }
    assert_eq!(engine.waiting(), 10);
    engine.assert_reasons(&[("server-full", 5)]);
    backend.listen();
    engine.set_up(0, true);
    numbers(&mut clients);
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 10, "{:?}", engine.reasons());
}

#[test]
fn without_hold_a_client_of_a_gap_is_refused_at_once() {
    let backend = Backend::start(b'a');
    let engine = Engine::start(plan_over(&[backend.address]), 2);
    engine.set_up(0, false);
    for _ in 0..20 {
        assert_reset(engine.connect(), "nobody is up");
    }
    engine.assert_quiet();
    engine.assert_reasons(&[("no-server", 20)]);
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn who_waited_for_hold_in_vain_is_told_no_server() {
    let backend = Backend::silent(b'a');
    let engine = Engine::start(holding(&[backend.address], Duration::from_millis(200)), 1);
    engine.set_up(0, false);
    assert_reset(engine.connect(), "held in vain");
    engine.assert_quiet();
    engine.assert_reasons(&[("no-server", 1)]);
}

#[test]
fn a_full_server_makes_clients_wait_for_connect_timeout_and_then_refuses() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    plan.pools[0].servers[0].max_conns = limit(1);
    plan.pools[0].timeouts.connect = Some(Duration::from_millis(300));
    let engine = Engine::start(plan, 2);
    let mut guest = engine.connect();
    greeting(&mut guest).unwrap();
    assert_reset(engine.connect(), "no room within the timeout");
    engine.assert_reasons(&[("server-full", 1)]);
    round_trip(&mut guest, b"undisturbed").unwrap();
    drop(guest);
    engine.assert_quiet();
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn room_at_a_full_server_goes_to_the_first_who_waits() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    plan.pools[0].servers[0].max_conns = limit(2);
    plan.pools[0].timeouts.connect = Some(Duration::from_secs(20));
    let engine = Engine::start(plan, 2);
    let mut guests: Vec<_> = (0..2).map(|_| engine.connect()).collect();
    numbers(&mut guests);
    let waiting = wait_in_line(&engine, 20);
    for (number, mut next) in (2..).zip(waiting) {
        drop(guests.remove(0));
        assert_eq!(greeting(&mut next).unwrap().1, number, "in the order they came");
        assert!(engine.load(0) <= 2, "max_conns is exact");
        guests.push(next);
    }
    drop(guests);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 22, "{:?}", engine.reasons());
}

#[test]
fn who_leaves_while_waiting_is_forgotten_and_the_others_keep_their_order() {
    let mut backend = Backend::silent(b'a');
    let engine = Engine::start(holding(&[backend.address], Duration::from_secs(10)), 1);
    engine.set_up(0, false);
    let mut stay = Vec::new();
    for (nth, client) in wait_in_line(&engine, 90).into_iter().enumerate() {
        if nth % 3 == 1 { reset(client) } else { stay.push(client) }
    }
    engine.wait_for("the leavers to be gone", |engine| engine.waiting() == 60);
    engine.assert_reasons(&[("client-reset", 30)]);
    backend.listen();
    engine.set_up(0, true);
    assert!(numbers(&mut stay).into_iter().eq(0..60), "in the order they came");
    drop(stay);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 60, "{:?}", engine.reasons());
}

#[test]
fn what_a_client_said_while_it_waited_is_not_lost() {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;
    let mut backend = Backend::silent(b'a');
    let engine = Engine::start(holding(&[backend.address], Duration::from_secs(10)), 1);
    engine.set_up(0, false);
    let mut clients = wait_in_line(&engine, 3);
    let early = vec![7; 100_000];
    for client in &mut clients {
        client.write_all(&early).unwrap();
    }
    clients[1].shutdown(Shutdown::Write).unwrap();
    backend.listen();
    engine.set_up(0, true);
    for client in &mut clients {
        greeting(client).unwrap();
        let mut back = vec![0; early.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == early);
    }
    assert_eq!(clients[1].read(&mut [0]).unwrap(), 0, "the FIN went there and back");
    drop(clients);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 3, "{:?}", engine.reasons());
}
