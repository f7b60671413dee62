//! What becomes of shared limits while a real Redis is silent, slow, gone, unwilling or another,
//! for two gateways and each way to go on; and that they share again when it is back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::authority::Authority;
use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::peers::{Peer, need};
use super::talk::Talk;

const WAYS: [&str; 3] = ["local", "allow", "deny"];

/// What a bucket holds.
const LIMIT: usize = 2;

/// Requests while nobody decides: more than a bucket holds.
const ASKED: usize = LIMIT + 2;

/// A listener for each way to go on, with buckets by the field X-Who.
pub fn gate(backend: &Backend, redis: &str, limit: &str, store: &str) -> Gate {
    let ways = WAYS.map(|way| {
        format!(
            "[listener.{way}]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
             policies = [\"{way}\"]\n[policy.{way}]\ntype = \"rate-limit\"\n\
             key = \"header:X-Who\"\nlimit = \"{limit}\"\n\
             store = {{ redis = \"{redis}\", on_error = \"{way}\", {store} }}\n"
        )
    });
    let (ways, address) = (ways.concat(), backend.address);
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 2\n[admin]\nbind = \"{{admin}}\"\n[log]\n\
         access = \"off\"\n{ways}[pool.app.servers]\na = \"{address}\"\n"
    ))
}

pub fn echo() -> Backend {
    Backend::start(|seen| Reply::ok(seen.path()))
}

/// The status of one request on a connection of its own.
pub fn ask(gate: &Gate, listener: &str, who: &str) -> u16 {
    let fields = format!("X-Who: {who}\r\n");
    Talk::to(gate, listener).ask("GET", "/a", &fields, b"").status
}

/// How many answers there were of each status.
fn tally(gate: &Gate, listener: &str, who: &str) -> BTreeMap<u16, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..ASKED {
        *tally.entry(ask(gate, listener, who)).or_default() += 1;
    }
    tally
}

/// One command to Redis, and the first line of its answer.
struct Operator(BufReader<TcpStream>);

impl Operator {
    fn at(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("Redis accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, command: &str) {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("it is sent");
    }

    fn say(&mut self, command: &str) -> String {
        self.send(command);
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        assert!(!line.starts_with('-'), "{command}: {line}");
        line
    }

    /// That no answer comes for a while; else the answer.
    fn expect_silence(&mut self, command: &str) -> Result<(), String> {
        let stream = self.0.get_mut();
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("an option of a socket");
        self.send(command);
        let mut line = String::new();
        self.0.read_line(&mut line).map_or(Ok(()), |_| Err(line))
    }

    /// Calls of a command so far.
    fn calls(&mut self, command: &str) -> usize {
        let length = self.say("INFO commandstats");
        let length: usize = length.trim().trim_start_matches('$').parse().expect("a length");
        let mut text = vec![0; length + 2];
        std::io::Read::read_exact(&mut self.0, &mut text).expect("all of it");
        let text = String::from_utf8_lossy(&text).into_owned();
        let row = format!("cmdstat_{command}:calls=");
        let calls = text.split(&row).nth(1).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }
}

/// Nobody decides: each gateway goes on as its policies say, and no client waits for nothing.
fn assert_on_their_own(gates: &[&Gate], what: &str) {
    for gate in gates {
        let local = tally(gate, "local", what);
        assert_eq!(local, BTreeMap::from([(200, LIMIT), (429, ASKED - LIMIT)]), "{what}: local");
        assert_eq!(tally(gate, "allow", what), BTreeMap::from([(200, ASKED)]), "{what}: allow");
        assert_eq!(tally(gate, "deny", what), BTreeMap::from([(503, ASKED)]), "{what}: deny");
    }
}

/// Redis decides for both: an empty bucket is something that nobody else would speak of, and
/// together they let pass what one holds.
fn assert_sharing(gates: &[&Gate], what: &str) {
    let who = format!("{what}-after");
    for way in ["allow", "deny"] {
        let mut passed = 0;
        for gate in gates {
            until(&format!("{what}: {way}: the bucket is empty"), || match ask(gate, way, &who) {
                429 => Ok(()),
                status => {
                    passed += usize::from(status == 200);
                    Err(status)
                }
            });
        }
        // Who is let pass without Redis takes no token.
        assert!(way == "allow" || passed <= LIMIT, "{what}: {passed} passed");
    }
}

/// What helps.
enum Cure {
    Say(&'static str),
    Wake,
    Restart,
}

const FAULTS: [(&str, &str, Cure); 7] = [
    ("stopped", "", Cure::Wake),
    ("paused-writes", "CLIENT PAUSE 3600000 WRITE", Cure::Say("CLIENT UNPAUSE")),
    ("replica", "REPLICAOF 127.0.0.1 1", Cure::Say("REPLICAOF NO ONE")),
    ("full", "CONFIG SET maxmemory 1", Cure::Say("CONFIG SET maxmemory 0")),
    ("locked", "CONFIG SET requirepass other", Cure::Say("CONFIG SET requirepass \"\"")),
    ("paused", "CLIENT PAUSE 3600000 ALL", Cure::Restart),
    ("asleep", "DEBUG SLEEP 3600", Cure::Restart),
];

/// Long enough for a server that is well, short enough to be waited for often.
const PATIENT: &str = "timeout = \"100ms\", cooldown = \"200ms\"";

#[test]
fn whatever_befalls_redis_each_policy_goes_on_as_it_says_and_shares_again_afterwards() {
    if !need(&["redis-server"]) {
        return;
    }
    let backend = echo();
    let mut redis = Peer::redis_with("--port", &["--enable-debug-command", "yes"]);
    let address = redis.address;
    let url = format!("redis://{address}");
    let (one, other) = (gate(&backend, &url, "2/h", PATIENT), gate(&backend, &url, "2/h", PATIENT));
    let gates = [&one, &other];
    assert_sharing(&gates, "well");
    for (what, command, cure) in FAULTS {
        let mut operator = Operator::at(address);
        match what {
            "stopped" => kill(redis.pid(), Signal::SIGSTOP).expect("it runs"),
            "asleep" => {
                operator.send(command);
                until("it is asleep", || Operator::at(address).expect_silence("PING"));
            }
            _ => drop(operator.say(command)),
        }
        if what == "locked" {
            // Who is in stays in.
            operator.say("CLIENT KILL TYPE normal");
        }
        assert_on_their_own(&gates, what);
        match cure {
            Cure::Say(command) => drop(operator.say(command)),
            Cure::Wake => kill(redis.pid(), Signal::SIGCONT).expect("it is there"),
            Cure::Restart => {
                redis.kill();
                assert_on_their_own(&gates, &format!("{what}-gone"));
                redis.restart();
            }
        }
        assert_sharing(&gates, what);
    }
    for gate in gates {
        // Once for an outage, which lasts until the last worker has asked again.
        until("the end of it is told", || {
            ask(gate, "deny", "last");
            let said = gate.diagnostics();
            let told = |text: &str| said.lines().filter(|line| line.contains(text)).count();
            let (bad, good) = (told("policy:deny does not decide"), told("policy:deny decides"));
            if bad == good && bad > 0 { Ok(()) } else { Err(said) }
        });
    }
}

#[test]
fn who_accepts_and_never_answers_or_answers_something_else_decides_nothing() {
    let (backend, hole) = (echo(), TcpListener::bind("127.0.0.1:0").expect("loopback"));
    let hole = hole.local_addr().map(|at| (at, hole)).expect("bound");
    // Each has its own idea of an answer: a web server's is none of Redis.
    let web = Backend::start(|_| Reply::ok("hello"));
    for (what, at) in [("black-hole", hole.0), ("web", web.address)] {
        let url = format!("redis://{at}");
        let gates = [(); 2].map(|()| gate(&backend, &url, "2/h", PATIENT));
        assert_on_their_own(&[&gates[0], &gates[1]], what);
    }
}

/// What the process may grow by while it is lied to: less than a thousandth of the promise.
const GROWN_MAX: u64 = 4 << 20;

/// redis-005
#[test]
fn an_answer_that_promises_gigabytes_takes_no_memory_for_them() {
    let liar = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("redis://{}", liar.local_addr().expect("bound"));
    let lies = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&lies);
    std::thread::spawn(move || {
        for mut stream in liar.incoming().flatten() {
            let mut asked = [0; 4096];
            while std::io::Read::read(&mut stream, &mut asked).is_ok_and(|n| n > 0) {
                if stream.write_all(b"$8589934592\r\n").is_ok() {
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let backend = echo();
    let gate = gate(&backend, &url, "2/h", "timeout = \"1s\", cooldown = \"10ms\"");
    // What any request touches is resident then.
    assert_on_their_own(&[&gate], "first");
    gate.forget_peak();
    let (before, first) = (gate.resident_peak(), lies.load(Ordering::Relaxed));
    until("it was lied to often", || {
        assert_eq!(ask(&gate, "allow", "second"), 200);
        let more = lies.load(Ordering::Relaxed) - first;
        if more >= 8 { Ok(()) } else { Err(more) }
    });
    let grown = gate.resident_peak().saturating_sub(before);
    println!("{grown} bytes");
    assert!(grown < GROWN_MAX, "{grown} bytes more");
}

#[test]
fn a_wrong_password_is_told_and_decides_nothing_until_it_is_right() {
    if !need(&["redis-server"]) {
        return;
    }
    let (backend, redis) = (echo(), Peer::redis_with("--port", &["--requirepass", "right"]));
    let url = |password: &str| format!("redis://:{password}@{}", redis.address);
    let (good, bad) = (
        gate(&backend, &url("right"), "2/h", PATIENT),
        gate(&backend, &url("wrong"), "2/h", PATIENT),
    );
    assert_on_their_own(&[&bad], "wrong");
    until("it is told", || {
        let said = bad.diagnostics();
        if said.contains("as with a wrong password") { Ok(()) } else { Err(said) }
    });
    assert!(!bad.diagnostics().contains("wrong@"), "and not which: {}", bad.diagnostics());
    let mut operator = Operator::at(redis.address);
    operator.say("AUTH right");
    operator.say("CONFIG SET requirepass wrong");
    // The first is in already, and stays.
    assert_sharing(&[&bad], "right");
    drop(good);
}

/// Requests of each of the clients below.
const REQUESTS: usize = 250;

/// Asks `requests` times on connections that are kept, with four clients for each gateway.
fn crowd(gates: [&Gate; 2], listener: &str, each: impl Fn(u16) -> bool + Sync) {
    std::thread::scope(|scope| {
        for at in 0..8 {
            let (gate, each) = (gates[at % 2], &each);
            scope.spawn(move || {
                let mut talk = Talk::to(gate, listener);
                while each(talk.ask("GET", "/a", "X-Who: all\r\n", b"").status) {}
            });
        }
    });
}

/// redis-011
#[test]
fn two_gateways_under_load_let_pass_exactly_what_one_bucket_holds() {
    if !need(&["redis-server"]) {
        return;
    }
    let (backend, redis) = (echo(), Peer::redis());
    let url = format!("redis://{}", redis.address);
    let gates = [(); 2].map(|()| gate(&backend, &url, "300/day", "timeout = \"10s\""));
    let (passed, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    crowd([&gates[0], &gates[1]], "deny", |status| {
        assert!(matches!(status, 200 | 429), "{status}");
        passed.fetch_add(usize::from(status == 200), Ordering::Relaxed);
        asked.fetch_add(1, Ordering::Relaxed) < 8 * REQUESTS
    });
    let passed = passed.into_inner();
    println!("{passed} of {} requests passed, 300 may", asked.into_inner());
    assert_eq!(passed, 300);
}

/// redis-007
#[test]
fn a_server_that_forgets_the_script_under_load_fails_nobody() {
    if !need(&["redis-server"]) {
        return;
    }
    let (backend, redis) = (echo(), Peer::redis());
    let url = format!("redis://{}", redis.address);
    let gates = [(); 2].map(|()| gate(&backend, &url, "1000000/s", "timeout = \"10s\""));
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            crowd([&gates[0], &gates[1]], "deny", |status| {
                assert_eq!(status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
                !over.load(Ordering::Relaxed)
            });
        });
        let mut operator = Operator::at(redis.address);
        // Its text is sent once in a row of forgettings, by whoever comes first.
        let taught = until("the script was taught a hundred times", || {
            operator.say("SCRIPT FLUSH SYNC");
            let taught = operator.calls("eval");
            if taught >= 100 || load.is_finished() { Ok(taught) } else { Err(taught) }
        });
        over.store(true, Ordering::Relaxed);
        load.join().expect("no request failed");
        println!(
            "{} requests, the script was taught {taught} times",
            asked.load(Ordering::Relaxed)
        );
    });
}

/// A Redis under TLS with a certificate for 127.0.0.1.
fn secure(authority: &Authority) -> Peer {
    authority.write("redis", "127.0.0.1");
    let file = |name: &str| authority.path(name).display().to_string();
    let (cert, key, ca) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
    let words = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let more = ["--tls-auth-clients", "no", "--requirepass", "right"];
    Peer::redis_with("--tls-port", &[&words[..], &more[..]].concat())
}

#[test]
fn a_redis_under_tls_is_shared_when_its_certificate_is_believed() {
    if !need(&["redis-server"]) {
        return;
    }
    let (backend, authority, stranger) = (echo(), Authority::new(), Authority::new());
    let mut redis = secure(&authority);
    let url = format!("rediss://:right@{}", redis.address);
    let believes = |authority: &Authority| {
        let ca = authority.path("ca.pem").display().to_string();
        format!("timeout = \"5s\", cooldown = \"50ms\", verify = \"file:{ca}\"")
    };
    let gates = [(); 2].map(|()| gate(&backend, &url, "2/h", &believes(&authority)));
    let gates = [&gates[0], &gates[1]];
    let passed = (0..10).filter(|at| ask(gates[at % 2], "deny", "tls") == 200).count();
    assert_eq!(passed, LIMIT, "one bucket for both");
    redis.kill();
    assert_on_their_own(&gates, "gone");
    redis.restart();
    assert_sharing(&gates, "back");

    let misled = gate(&backend, &url, "2/h", &believes(&stranger));
    assert_on_their_own(&[&misled], "stranger");
    let plain = url.replace("rediss", "redis");
    let open = gate(&backend, &plain, "2/h", "timeout = \"5s\", cooldown = \"50ms\"");
    assert_on_their_own(&[&open], "plain");
    until("it is told why", || {
        let said = misled.diagnostics();
        if said.contains("the TLS handshake failed") { Ok(()) } else { Err(said) }
    });
    // Connects count at the pool that stands for the address.
    assert!(misled.metric("sluicegate_upstream_connects_total{pool=\"policy:deny\",server=\"service\",result=\"reset\"}") > Some(0.0));
    // What is shown of the configuration keeps the scheme and not the password.
    let (_, shown) = misled.admin("GET", "/v1/config");
    assert!(shown.contains("rediss://") && !shown.contains("right@"), "{shown}");
}

#[test]
fn a_connection_to_a_store_holds_nobody_up_who_is_to_stop() {
    if !need(&["redis-server"]) {
        return;
    }
    let (backend, redis) = (echo(), Peer::redis());
    let url = format!("redis://{}", redis.address);
    let store = format!("store = {{ redis = \"{url}\" }}");
    let mut gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\ndrain_timeout = \"1h\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         policies = [\"rate\"]\n[policy.rate]\ntype = \"rate-limit\"\nkey = \"ip\"\n\
         limit = \"100/min\"\n{store}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    assert_eq!(Talk::to(&gate, "web").get("/").status, 200);
    gate.signal(Signal::SIGTERM);
    assert!(gate.wait_exit().success(), "{}", gate.diagnostics());
}
