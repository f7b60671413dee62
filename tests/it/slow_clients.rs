//! Many clients that do not come to the point, beside one that does: it gets every answer, and
//! each of the others costs a bounded piece of memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::peers::{free_address, run};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

/// Of those who dawdle over a request.
const SLOW: usize = 500;

/// Of those who do not end their handshake.
const HALF_OPEN: usize = 2000;

/// An answer that does not fit into all the buffers on the way to a client that does not read.
static LARGE: [u8; 1 << 20] = [b'x'; 1 << 20];

/// Answers everything with [`LARGE`].
fn large_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Not more in this kernel than it takes to see that it stalls.
            let _ = socket2::SockRef::from(&stream).set_send_buffer_size(16 << 10);
            thread::spawn(move || {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LARGE.len());
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&LARGE));
            });
        }
    });
    address
}

/// A gateway whose patience is `timeout`, whatever it waits for.
fn gate(backend: &Backend, timeout: &str) -> Gate {
    let limits = ["header", "body", "handshake", "request", "keepalive"];
    let limits = limits.map(|name| format!("{name}_timeout = \"{timeout}\"\n")).concat();
    let tls =
        format!("tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\" }}");
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"off\"\n[defaults]\n{limits}\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/large\" }}\npool = \"large\"\n\
         [listener.secure]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n{tls}\n\
         [pool.app.servers]\na = \"{}\"\n[pool.large.servers]\na = \"{}\"\n",
        backend.address,
        large_server()
    ))
}

/// A kind of clients that dawdle.
struct Dawdlers {
    listener: &'static str,
    count: usize,
    /// What they say at once.
    opening: &'static [u8],
    /// What they say next, byte by byte; with nothing, they read as slowly.
    rest: &'static [u8],
    /// What each may cost: resident bytes.
    each_max: u64,
}

impl Dawdlers {
    /// One that has said its opening.
    fn connect(&self, gate: &Gate) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("an option of a socket");
        socket
            .connect_timeout(&gate.address(self.listener).into(), PATIENCE)
            .expect("it is accepted");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
        stream.write_all(self.opening).expect("it is sent");
        stream
    }

    /// One byte of each, over and over, until `over`.
    fn dawdle(&self, clients: &[TcpStream], over: &AtomicBool) {
        for at in 0.. {
            for mut client in clients {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let done = match self.rest.get(at % self.rest.len().max(1)) {
                    Some(byte) => client.write_all(&[*byte]),
                    None => client.read_exact(&mut [0]),
                };
                done.expect("the gateway is patient");
            }
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}

fn active(gate: &Gate, listener: &str) -> u64 {
    gate.status()["listeners"][listener]["active"].as_u64().expect("a number")
}

/// Waits until what the clients have said and taken so far is dealt with: a tenth of a second in
/// which the gateway hardly works.
fn until_calm(gate: &Gate) {
    until("the gateway is calm", || {
        let before = gate.cpu_ns();
        thread::park_timeout(Duration::from_millis(100));
        match gate.cpu_ns() - before {
            ..20_000_000 => Ok(()),
            busy => Err(busy),
        }
    });
}

/// As many descriptors as may be: each client here takes one.
pub fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may go up");
}

/// 200 requests a second of a client that wants answers, for `duration`.
fn good_client(gate: &Gate, duration: &str) -> Value {
    let url = format!("http://{}/", gate.address("web"));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    bench.args(["bench", "http", &url, "--rate", "200", "--duration", duration]);
    let said = run(bench.args(["--connections", "4", "--json"]));
    serde_json::from_str(&said).expect("one JSON object")
}

fn beside(dawdlers: &Dawdlers) {
    raise_descriptors();
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = gate(&backend, "5m");
    good_client(&gate, "200ms");
    let (before, cpu) = (gate.resident(), gate.cpu_ns());
    let clients: Vec<TcpStream> = (0..dawdlers.count).map(|_| dawdlers.connect(&gate)).collect();
    until("all are let in", || {
        let active = active(&gate, dawdlers.listener);
        if active >= dawdlers.count as u64 { Ok(()) } else { Err(active) }
    });
    until_calm(&gate);
    let (over, calm) = (AtomicBool::new(false), gate.cpu_ns());
    let result = thread::scope(|scope| {
        let dawdling = scope.spawn(|| dawdlers.dawdle(&clients, &over));
        let result = good_client(&gate, "2s");
        over.store(true, Ordering::Relaxed);
        dawdling.join().expect("nobody was turned away");
        result
    });
    let each = gate.resident().saturating_sub(before) / dawdlers.count as u64;
    println!(
        "{} requests beside {} others, of which each costs {each} bytes; latency {} us; \
         CPU {} ms to let them in, {} ms beside them",
        result["requests"],
        dawdlers.count,
        result["latency_us"],
        (calm - cpu) / 1_000_000,
        (gate.cpu_ns() - calm) / 1_000_000
    );
    let errors = result["errors"].as_object().expect("by kind");
    assert!(errors.values().all(|count| count == 0), "{result}");
    // With an open loop every request has its time, whatever became of the one before.
    let started = result["requests"].as_u64().zip(result["never_started"].as_u64());
    assert_eq!(started.map(|(done, never)| done + never), Some(400), "{result}");
    assert!(active(&gate, dawdlers.listener) >= dawdlers.count as u64, "somebody was sent away");
    assert!(each <= dawdlers.each_max, "{each} bytes each");
}

const SLOW_HEADERS: Dawdlers = Dawdlers {
    listener: "web",
    count: SLOW,
    opening: b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Long: ",
    rest: b"abcdefgh",
    each_max: 40 << 10,
};

const SLOW_BODIES: Dawdlers = Dawdlers {
    listener: "web",
    count: SLOW,
    opening: b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n",
    rest: b"abcdefgh",
    each_max: 40 << 10,
};

const SLOW_READERS: Dawdlers = Dawdlers {
    listener: "web",
    count: SLOW,
    opening: b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n",
    rest: b"",
    each_max: 256 << 10,
};

const HALF_OPEN_HANDSHAKES: Dawdlers = Dawdlers {
    listener: "secure",
    count: HALF_OPEN,
    // A handshake record of 512 bytes with a ClientHello, of which one byte a time comes.
    opening: &[0x16, 3, 1, 2, 0, 1],
    rest: &[0],
    each_max: 32 << 10,
};

#[test]
fn clients_with_slow_headers_do_not_keep_a_good_one_waiting() {
    beside(&SLOW_HEADERS);
}

#[test]
fn clients_with_slow_bodies_do_not_keep_a_good_one_waiting() {
    beside(&SLOW_BODIES);
}

#[test]
fn clients_that_read_slowly_do_not_keep_a_good_one_waiting() {
    beside(&SLOW_READERS);
}

#[test]
fn half_open_handshakes_do_not_keep_a_good_client_waiting() {
    beside(&HALF_OPEN_HANDSHAKES);
}

#[test]
fn clients_that_do_not_come_to_the_point_are_sent_away() {
    raise_descriptors();
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = gate(&backend, "300ms");
    for dawdlers in [SLOW_HEADERS, SLOW_BODIES, SLOW_READERS, HALF_OPEN_HANDSHAKES] {
        let clients: Vec<TcpStream> = (0..50).map(|_| dawdlers.connect(&gate)).collect();
        until("they are gone", || match active(&gate, dawdlers.listener) {
            0 => Ok(()),
            some => Err(some),
        });
        drop(clients);
    }
}

/// For bodies in the test below, and a server's pauses in it, which are longer.
const BODY_TIMEOUT: &str = "1s";
const PAUSE: Duration = Duration::from_millis(1500);

#[test]
fn a_server_may_pause_for_longer_than_a_client_may() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (seen, is_seen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\nab") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a whole request");
            request.push(byte[0]);
            if request.ends_with(b"\r\n\r\na") {
                seen.send(()).expect("the test waits");
            }
        }
        // Before its answer, whose time begins with the request's last byte, and in it.
        for part in ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd"] {
            thread::park_timeout(PAUSE);
            stream.write_all(part.as_bytes()).expect("it is still waited for");
        }
    });
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nbody_timeout = \"{BODY_TIMEOUT}\"\n\
         [pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut client = gate.connect("web");
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\na";
    client.write_all(head.as_bytes()).expect("it is sent");
    is_seen.recv().expect("the server has the first byte of the body");
    client.write_all(b"b").expect("it is sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer and an end");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nabcd"), "{answer}");
}

#[test]
fn a_session_through_tls_that_is_too_long_says_no_goodbye_in_the_middle_of_bytes() {
    let endless = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let server = endless.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut stream = endless.accept().expect("the gate").0;
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    let inner = free_address();
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n\
         [listener.outer]\nbind = \"127.0.0.1:0\"\npool = \"inner\"\nsession_timeout = \"2s\"\n\
         [listener.inner]\nbind = \"{inner}\"\npool = \"endless\"\naccess_log = false\n\
         tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\" }}\n\
         [pool.inner]\ntls = {{ verify = \"insecure\" }}\n[pool.inner.servers]\na = \"{inner}\"\n\
         [pool.endless.servers]\na = \"{server}\"\n"
    ));
    let mut client = gate.connect("outer");
    // Until then, everything on the way is full.
    thread::park_timeout(Duration::from_millis(2_500));
    let end = std::io::copy(&mut client, &mut std::io::sink());
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(gate.log(1)[0]["reason"], "session-timeout");
}
