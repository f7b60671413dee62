//! Unused connections to servers that go from worker to worker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::engine::server;
use super::gate::Gate;
use super::talk::Talk;

/// The file alone decides, however these tests are run.
const UNTOLD: [&str; 3] = ["env", "--unset", "SLUICEGATE_ENGINE"];

/// With io_uring where there is one.
const ENGINES: [&str; 2] = ["auto", "epoll"];

/// Longer than a connection has to be unused before another worker may have it.
const UNUSED: Duration = Duration::from_millis(120);

fn gate(engine: &str, server: SocketAddr, pool: &str) -> Gate {
    Gate::start_wrapped(
        &UNTOLD,
        &format!(
            "version = 1\n[runtime]\nworkers = 2\nengine = \"{engine}\"\n\
             [admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
             [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
             [pool.app]\n{pool}\n[pool.app.servers]\na = \"{server}\"\n"
        ),
    )
}

/// Clients that each worker has.
fn sessions(gate: &Gate) -> [f64; 2] {
    let of = |worker: u8| {
        let sample = format!("sluicegate_worker_sessions{{worker=\"{worker}\"}}");
        gate.metric(&sample).expect("a worker")
    };
    [of(0), of(1)]
}

/// Waits until there are so many clients, and says which worker has how many.
fn settled(gate: &Gate, clients: f64) -> [f64; 2] {
    until("clients are where they stay", || {
        let sessions = sessions(gate);
        if sessions[0] + sessions[1] == clients { Ok(sessions) } else { Err(sessions) }
    })
}

/// A client at each of the two workers.
fn one_at_each(gate: &Gate) -> [Talk<TcpStream>; 2] {
    let first = Talk::to(gate, "web");
    settled(gate, 1.0);
    let second = until("a client at the other worker", || {
        let other = Talk::to(gate, "web");
        let together = settled(gate, 2.0);
        if together == [1.0, 1.0] {
            return Ok(other);
        }
        drop(other);
        settled(gate, 1.0);
        Err(together)
    });
    [first, second]
}

/// Lets what is kept be unused for long enough.
fn wait_unused() {
    let begun = Instant::now();
    until("it is unused", || if begun.elapsed() > UNUSED { Ok(()) } else { Err("not yet") });
}

fn stolen(gate: &Gate) -> f64 {
    let sample = "sluicegate_upstream_stolen_total{pool=\"app\",server=\"a\"}";
    gate.metric(sample).expect("it is there")
}

#[test]
fn one_connection_serves_clients_of_all_workers_one_after_the_other() {
    for engine in ENGINES {
        // An owner that gets no time to answer is not waited for; then once more.
        until("one connection for all", || {
            let backend = Backend::start(|_| Reply::ok("fine"));
            let gate = gate(engine, backend.address, "");
            let mut talks = one_at_each(&gate);
            for at in 0..6 {
                assert_eq!(talks[at % 2].get("/").status, 200, "{engine}, request {at}");
                wait_unused();
            }
            assert!(backend.broken().is_empty(), "{engine}: {:?}", backend.broken());
            match (backend.connections(), stolen(&gate)) {
                (1, 5.0) => Ok(()),
                other => Err(other),
            }
        });
    }
}

#[test]
fn what_was_used_just_now_stays_where_it_is() {
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = gate("auto", backend.address, "");
    let mut talks = one_at_each(&gate);
    let begun = Instant::now();
    for talk in &mut talks {
        assert_eq!(talk.get("/").status, 200);
    }
    let slow = begun.elapsed() >= Duration::from_millis(100);
    assert!(backend.connections() == 2 || slow, "{} connections", backend.connections());
}

#[test]
fn a_connection_that_the_server_closes_meanwhile_costs_no_request() {
    for engine in ENGINES {
        // Now before and now after another worker asks for it.
        let served = Arc::new(AtomicU64::new(0));
        let address = server(move |stream| close_soon(stream, &served));
        let gate = gate(engine, address, "");
        let mut talks = one_at_each(&gate);
        for at in 0..20 {
            assert_eq!(talks[at % 2].get("/").status, 200, "{engine}, request {at}");
            wait_unused();
        }
    }
}

/// Answers, and closes around the time when the connection may be taken by another worker.
fn close_soon(mut stream: TcpStream, served: &AtomicU64) {
    let mut request = Vec::new();
    let mut room = [0; 1024];
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut room) {
                Ok(n @ 1..) => request.extend_from_slice(&room[..n]),
                _ => return,
            }
        }
        request.clear();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        if stream.write_all(answer).is_err() {
            return;
        }
        let number = served.fetch_add(1, Ordering::Relaxed);
        let patience = UNUSED + Duration::from_micros(number * 397 % 6_000);
        stream.set_read_timeout(Some(patience)).expect("an option of a socket");
    }
}

#[test]
fn what_is_not_kept_is_not_taken() {
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = gate("auto", backend.address, "keepalive = { idle = 0 }");
    let mut talks = one_at_each(&gate);
    for at in 0..4 {
        assert_eq!(talks[at % 2].get("/").status, 200);
        wait_unused();
    }
    assert_eq!((backend.connections(), stolen(&gate)), (4, 0.0));
}
