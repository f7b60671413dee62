//! Who is let in, over what kind of socket, and what a server is told about it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use sluicegate::config::plan::{BindAddr, Plan, Rate, SendProxy, ServerAddr};
use sluicegate::observe::reason::Reason;

use crate::deadline::until;
use crate::engine::{
    Backend, DEADLINE, Engine, assert_reset, connect_from, echo, greeting, plan_over,
    planned_server, round_trip, server,
};

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn client(nth: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 7, nth))
}

/// How many of them got a greeting.
fn served(clients: &mut [TcpStream]) -> usize {
    clients.iter_mut().filter_map(|client| greeting(client).ok()).count()
}

/// Many at once. Who is refused may hear of it before its connect has returned.
fn many(engine: &Engine, count: usize) -> Vec<TcpStream> {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let address = engine.address;
            let connect = move |_| match TcpStream::connect(address) {
                Ok(stream) => Some(crate::engine::with_deadline(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
                Err(error) => panic!("{error}"),
            };
            std::thread::spawn(move || (0..count / 4).filter_map(connect).collect::<Vec<_>>())
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn max_conns_of_a_listener_is_exact_over_two_workers() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    plan.listeners[0].limit.max_conns = Some(number(50));
    let engine = Engine::start(plan, 2);
    for round in 1..=3 {
        let mut clients = many(&engine, 200);
        assert_eq!(served(&mut clients), 50, "round {round}: {:?}", engine.reasons());
        // A client sees its reset a moment before it is counted.
        until("all refusals are counted", || match engine.ended(Reason::ListenerLimit) {
            count if count == 150 * round => Ok(()),
            count => Err(count),
        });
        drop(clients);
        engine.assert_quiet();
    }
    assert_eq!(engine.ended(Reason::Ok), 150, "{:?}", engine.reasons());
    assert_eq!(backend.accepted(), 150, "the refused never get to a server");
}

#[test]
fn max_conns_of_a_server_is_exact_over_two_workers() {
    let backends = [b'a', b'b'].map(Backend::start);
    let mut plan = plan_over(&backends.each_ref().map(|backend| backend.address));
    plan.pools[0].timeouts.connect = Some(Duration::from_millis(500));
    plan.pools[0].servers[0].max_conns = Some(number(20));
    plan.pools[0].servers[1].max_conns = Some(number(30));
    let engine = Engine::start(plan, 2);
    let mut clients = many(&engine, 100);
    assert_eq!(served(&mut clients), 50, "{:?}", engine.reasons());
    assert_eq!([engine.load(0), engine.load(1)], [20, 30]);
    engine.assert_reasons(&[("server-full", 50)]);
    assert_eq!(backends.each_ref().map(Backend::accepted), [20, 30]);
    drop(clients);
    engine.assert_quiet();
}

#[test]
fn conns_per_ip_holds_for_each_address_by_itself() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    plan.listeners[0].limit.conns_per_ip = Some(number(3));
    let engine = Engine::start(plan, 2);
    let mut kept = Vec::new();
    for nth in 1..=5 {
        for _ in 0..3 {
            let mut stream = connect_from(client(nth), engine.address);
            greeting(&mut stream).unwrap();
            kept.push(stream);
        }
        assert_reset(connect_from(client(nth), engine.address), "the fourth of an address");
    }
    engine.assert_reasons(&[("ip-limit", 5)]);
    // A place that is given back can be taken again.
    drop(kept.remove(0));
    engine.wait_for("the place to be free", |engine| engine.sessions() == 14);
    greeting(&mut connect_from(client(1), engine.address)).unwrap();
    drop(kept);
    engine.assert_quiet();
}

#[test]
fn new_conns_per_ip_lets_the_burst_in_and_no_more() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    // Refilled once an hour: the burst is all there is.
    plan.listeners[0].limit.new_conns_per_ip =
        Some(Rate::new(number(1), Duration::from_secs(3600), number(10)));
    let engine = Engine::start(plan, 2);
    for nth in 1..=3 {
        for _ in 0..10 {
            greeting(&mut connect_from(client(nth), engine.address)).unwrap();
        }
        for _ in 0..5 {
            assert_reset(connect_from(client(nth), engine.address), "over the burst");
        }
    }
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 30), ("ip-rate-limit", 15)]);
    assert_eq!(backend.accepted(), 30);
}

#[test]
fn deny_wins_over_allow_and_allow_shuts_out_everybody_else() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    plan.listeners[0].allow = vec!["127.0.7.0/24".parse().unwrap()];
    plan.listeners[0].deny = vec!["127.0.7.64/26".parse().unwrap()];
    let engine = Engine::start(plan, 2);
    greeting(&mut connect_from(client(1), engine.address)).unwrap();
    assert_reset(connect_from(client(64), engine.address), "denied within allow");
    greeting(&mut connect_from(client(128), engine.address)).unwrap();
    assert_reset(connect_from([127, 0, 8, 1].into(), engine.address), "not in allow");
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 2), ("denied", 2)]);
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn a_limit_of_one_listener_does_not_touch_another_before_the_same_pool() {
    let backend = Backend::start(b'a');
    let mut plan = plan_over(&[backend.address]);
    let mut free = plan.listeners[0].clone();
    free.name = "free".into();
    plan.listeners.push(free);
    plan.listeners[0].limit.max_conns = Some(number(1));
    let engine = Engine::start(plan, 2);
    let mut guest = engine.connect();
    greeting(&mut guest).unwrap();
    assert_reset(engine.connect(), "the second of a listener for one");
    for _ in 0..10 {
        let mut other = connect_from(client(1), engine.address_of(1));
        greeting(&mut other).unwrap();
    }
    drop(guest);
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 11), ("listener-limit", 1)]);
}

#[test]
fn ipv6_clients_reach_ipv6_and_ipv4_servers() {
    let six = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = six.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in six.incoming().flatten() {
            std::thread::spawn(|| echo(stream));
        }
    });
    let mut plan = plan_over(&[address, server(echo)]);
    plan.listeners[0].bind = vec![BindAddr::Ip("[::1]:0".parse().unwrap())];
    plan.listeners[0].limit.conns_per_ip = Some(number(6));
    let engine = Engine::start(plan, 2);
    let mut clients: Vec<_> = (0..6).map(|_| engine.connect()).collect();
    for client in &mut clients {
        round_trip(client, b"six").unwrap();
    }
    assert_reset(engine.connect(), "the seventh of [::1]");
    drop(clients);
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 6), ("ip-limit", 1)]);
}

/// One listener and one server, both on unix sockets in `dir`.
fn unix_plan(dir: &std::path::Path, serve: impl Fn(UnixStream) + Copy + Send + 'static) -> Plan {
    let back = dir.join("back.sock");
    let listener = UnixListener::bind(&back).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    let mut plan = plan_over(&[]);
    plan.pools[0].servers = vec![planned_server("u", ServerAddr::Unix(back))];
    plan.listeners[0].bind = vec![BindAddr::Unix(dir.join("front.sock"))];
    plan
}

fn unix_echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

fn unix_client(dir: &std::path::Path) -> UnixStream {
    let stream = UnixStream::connect(dir.join("front.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn unix_sockets_on_both_sides_carry_bytes_and_fins() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::start(unix_plan(dir.path(), unix_echo), 2);
    for round in 1..=20_usize {
        let client = unix_client(dir.path());
        let mut reader = client.try_clone().unwrap();
        let message: Vec<u8> = (0..round * 100_000).map(|at| (at * round) as u8).collect();
        let sent = message.clone();
        let writer = std::thread::spawn(move || {
            (&client).write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        assert!(back == message, "round {round}: {} of {}", back.len(), message.len());
    }
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 20)]);
}

#[test]
fn limits_per_address_do_not_apply_to_unix_clients() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = unix_plan(dir.path(), unix_echo);
    plan.listeners[0].limit.conns_per_ip = Some(number(1));
    plan.listeners[0].deny = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let engine = Engine::start(plan, 2);
    let mut clients: Vec<_> = (0..5).map(|_| unix_client(dir.path())).collect();
    for client in &mut clients {
        round_trip(client, b"nobody in particular").unwrap();
    }
    drop(clients);
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 5)]);
}

#[test]
fn a_tcp_listener_with_a_unix_server_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = unix_plan(dir.path(), unix_echo);
    plan.listeners[0].bind.push(BindAddr::Ip(([127, 0, 0, 1], 0).into()));
    plan.pools[0].servers.push(planned_server("t", ServerAddr::Ip(server(echo))));
    let engine = Engine::start(plan, 1);
    for _ in 0..4 {
        round_trip(&mut engine.connect(), &[1; 50_000]).unwrap();
        round_trip(&mut unix_client(dir.path()), &[2; 50_000]).unwrap();
    }
    engine.assert_quiet();
    engine.assert_reasons(&[("ok", 8)]);
}

/// Sends everything back in one piece, once the FIN has come.
fn collect(mut stream: TcpStream) {
    let mut all = Vec::new();
    if stream.read_to_end(&mut all).is_ok() {
        let _ = stream.write_all(&all);
    }
}

/// What a server gets of a client that says two words, and the client's two addresses.
fn what_arrives(plan: Plan, connect: impl Fn(&Engine) -> TcpStream) -> (Vec<u8>, [SocketAddr; 2]) {
    let engine = Engine::start(plan, 1);
    let mut client = connect(&engine);
    let addresses = [client.local_addr().unwrap(), client.peer_addr().unwrap()];
    client.write_all(b"first words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    engine.assert_quiet();
    (back, addresses)
}

#[test]
fn a_proxy_header_of_version_1_comes_first_and_names_both_addresses() {
    let mut plan = plan_over(&[server(collect)]);
    plan.pools[0].send_proxy = SendProxy::V1;
    let (got, [from, to]) = what_arrives(plan, |engine| connect_from(client(9), engine.address));
    let wanted =
        format!("PROXY TCP4 127.0.7.9 127.0.0.1 {} {}\r\nfirst words", from.port(), to.port());
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

#[test]
fn a_proxy_header_of_version_1_knows_ipv6() {
    let mut plan = plan_over(&[server(collect)]);
    plan.pools[0].send_proxy = SendProxy::V1;
    plan.listeners[0].bind = vec![BindAddr::Ip("[::1]:0".parse().unwrap())];
    let (got, [from, to]) = what_arrives(plan, Engine::connect);
    let wanted = format!("PROXY TCP6 ::1 ::1 {} {}\r\nfirst words", from.port(), to.port());
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

#[test]
fn a_proxy_header_of_version_2_comes_first_and_is_exact() {
    let mut plan = plan_over(&[server(collect)]);
    plan.pools[0].send_proxy = SendProxy::V2;
    let (got, [from, to]) = what_arrives(plan, |engine| connect_from(client(9), engine.address));
    let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\x07\x09\x7f\0\0\x01".to_vec();
    wanted.extend(from.port().to_be_bytes());
    wanted.extend(to.port().to_be_bytes());
    wanted.extend(b"first words");
    assert_eq!(got.escape_ascii().to_string(), wanted.escape_ascii().to_string());
}

#[test]
fn a_unix_client_is_unknown_to_the_proxy_header() {
    for (version, header) in [
        (SendProxy::V1, b"PROXY UNKNOWN\r\n".as_slice()),
        (SendProxy::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = unix_plan(dir.path(), unix_echo);
        plan.pools[0].send_proxy = version;
        let engine = Engine::start(plan, 1);
        let mut client = unix_client(dir.path());
        client.write_all(b"words").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        let wanted = [header, b"words"].concat();
        assert_eq!(back.escape_ascii().to_string(), wanted.escape_ascii().to_string());
        engine.assert_quiet();
    }
}
