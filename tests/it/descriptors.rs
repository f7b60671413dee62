//! Connections to servers count against the descriptor limit: HTTP takes none that sessions, the
//! admin API and checks need.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::engine::{Backend as Greeter, greeting, round_trip};
use super::gate::Gate;
use super::http2_frames::{Client, request};
use super::talk::Talk;

/// Sessions that 256 descriptors allow, less the 64 that are kept back.
const PAIRS: usize = 96;

const STREAMS: usize = 100;

/// An HTTP listener `web` and one of TCP, `direct`, under a limit of 256 descriptors.
fn gate(app: SocketAddr, pool: &str, greeter: &Greeter) -> Gate {
    let config = format!(
        "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{{admin}}\"\n[log]\n\
         access = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\n[listener.direct]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         access_log = false\n[pool.app]\n{pool}\n[pool.app.servers]\na = \"{app}\"\n\
         [pool.back.servers]\nb = \"{}\"\n",
        greeter.address
    );
    Gate::start_wrapped(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""], &config)
}

/// So many sessions of TCP at once, each of them served.
fn sessions(gate: &Gate, count: usize) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..count).map(|_| gate.connect("direct")).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        greeting(client).unwrap_or_else(|error| {
            panic!("session {at}: {error}; {} descriptors", gate.descriptors());
        });
        round_trip(client, b"served").expect("an echo");
    }
    clients
}

/// Answers its checks and nothing else; and how many of those there were.
fn hanging() -> (Backend, Arc<AtomicUsize>) {
    let checks = Arc::new(AtomicUsize::new(0));
    let checked = Arc::clone(&checks);
    let backend = Backend::start(move |seen| {
        while seen.path() != "/health" {
            thread::park();
        }
        checked.fetch_add(1, Ordering::Relaxed);
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    (backend, checks)
}

#[test]
fn hanging_requests_of_http_2_leave_descriptors_to_sessions_checks_and_the_admin() {
    let (app, checks) = hanging();
    let greeter = Greeter::start(b't');
    let check = "check = { type = \"http\", path = \"/health\", every = \"50ms\" }";
    let gate = gate(app.address, check, &greeter);
    let mut clients: Vec<_> = (0..4).map(|_| Client::greet(&gate)).collect();
    for client in &mut clients {
        let requests = (0..STREAMS as u32).map(|at| request(2 * at + 1, "GET", "/hang", true));
        client.send(&requests.collect::<Vec<_>>().concat());
    }
    // A quarter of the pairs is not theirs.
    let refused = 4 * STREAMS - (4 + 2 * (PAIRS - PAIRS / 4));
    for line in gate.log(refused) {
        assert_eq!((&line["reason"], &line["status"]), (&"fd-limit".into(), &503.into()), "{line}");
    }
    assert!(gate.descriptors() < 256, "{}", gate.descriptors());

    let before = checks.load(Ordering::Relaxed);
    until("checks go on", || match checks.load(Ordering::Relaxed) - before {
        3.. => Ok(()),
        few => Err(few),
    });
    let served = sessions(&gate, PAIRS / 4 - 4);
    let status = gate.status();
    assert_eq!(status["pools"]["app"]["servers"]["a"]["state"], "up", "{status}");
    let connects = |result: &str| {
        let labels = format!("{{pool=\"app\",server=\"a\",result=\"{result}\"}}");
        gate.metric(&format!("sluicegate_upstream_connects_total{labels}"))
    };
    assert!(connects("local") >= Some(refused as f64), "{:?}", connects("local"));
    for result in ["refused", "timeout", "unreachable", "reset"] {
        assert_eq!(connects(result), Some(0.0), "{result}");
    }
    drop((served, clients));
    // All of it comes back.
    until("the descriptors of requests that are gone", || match gate.descriptors() {
        0..=80 => Ok(()),
        many => Err(many),
    });
    sessions(&gate, PAIRS);
}

#[test]
fn connections_that_are_kept_give_way_to_sessions() {
    const AT_ONCE: usize = 90;
    let together = Barrier::new(AT_ONCE);
    let app = Backend::start(move |seen| {
        if seen.path() == "/together" {
            together.wait();
        }
        Reply::ok("fine")
    });
    let greeter = Greeter::start(b't');
    let gate = gate(app.address, "keepalive = { idle = 200 }", &greeter);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| assert_eq!(Talk::to(&gate, "web").get("/together").status, 200));
        }
    });
    assert_eq!(app.connections(), AT_ONCE);
    let served = sessions(&gate, PAIRS - 1);
    assert!(gate.descriptors() < 256, "{}", gate.descriptors());
    assert_eq!(gate.admin("GET", "/v1/status").0, 200);
    // Nor does a client of HTTP need more than it came with.
    let mut talk = Talk::to(&gate, "web");
    assert_eq!(talk.get("/").status, 200);
    drop(served);
    sessions(&gate, PAIRS - 1);
}
