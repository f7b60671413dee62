//! Copies of requests for another pool: what they carry, and that no client ever notices.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use super::backend::{Backend, Reply, Seen};
use super::deadline::until;
use super::gate::Gate;
use super::gateway::{echo, status};
use super::peers::{command, free_address, need, run};

/// A listener whose requests go to `app`, and whose copies to `shadow` as `mirror` says.
fn gate(app: SocketAddr, mirror: &str, shadow: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[runtime]\ndrain_timeout = \"20s\"\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\nname = \"all\"\npool = \"app\"\nmirror = {mirror}\n\
         headers = {{ set = {{ X-Mark = \"{{path}}\" }} }}\n\
         [pool.app]\nservers = {{ a = \"{app}\" }}\n[pool.shadow]\n{shadow}\n"
    ))
}

fn shadow_at(address: SocketAddr) -> String {
    format!("servers = {{ s = \"{address}\" }}")
}

fn ask(gate: &Gate, request: &str) -> String {
    let mut stream = gate.connect("web");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
    answer
}

fn get(gate: &Gate, path: &str) -> String {
    ask(gate, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"))
}

fn copies(gate: &Gate, result: &str) -> f64 {
    let labels = format!("{{listener=\"web\",route=\"all\",result=\"{result}\"}}");
    gate.metric(&format!("sluicegate_mirrored_total{labels}")).expect("a route with a mirror")
}

fn await_copies(gate: &Gate, result: &str, count: f64) {
    until("copies are counted", || {
        let found = copies(gate, result);
        if found == count { Ok(()) } else { Err(format!("{result}: {found}")) }
    });
}

fn await_seen(backend: &Backend, count: usize) -> Vec<Seen> {
    until("requests at a server", || {
        let seen = backend.seen();
        if seen.len() >= count { Ok(seen) } else { Err(seen.len()) }
    })
}

/// A server whose answers wait until they are let go, one by one.
fn held() -> (Backend, Sender<()>) {
    let (go, wait): (Sender<()>, Receiver<()>) = channel();
    let wait = Mutex::new(wait);
    let backend = Backend::start(move |_| {
        // Without a sender the test is over.
        let _ = wait.lock().expect("not poisoned").recv();
        Reply::ok("late")
    });
    (backend, go)
}

/// Accepts and says nothing; how many came.
fn mute() -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let held = Arc::<Mutex<Vec<TcpStream>>>::default();
    let kept = Arc::clone(&held);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            kept.lock().expect("not poisoned").push(stream);
        }
    });
    (address, held)
}

#[test]
fn a_copy_is_the_request_as_the_server_gets_it_and_its_answer_is_nobodys() {
    let (app, shadow) = (echo(), Backend::start(|_| Reply::ok("the shadow's")));
    let gate = gate(app.address, "\"shadow\"", &shadow_at(shadow.address));
    let chunked = "POST /a?b=c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\
                   Expect: 100-continue\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = ask(&gate, chunked);
    assert!(answer.ends_with("/a?b=c"), "{answer}");
    let fixed = "PUT /d HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\
                 Connection: close\r\n\r\nfour";
    assert_eq!(status(&ask(&gate, fixed)), 200);
    assert_eq!(status(&get(&gate, "/e")), 200);
    let sorted = |mut all: Vec<Seen>| {
        all.sort_by(|one, other| one.head.cmp(&other.head));
        let asks = "Expect: 100-continue\r\n";
        all.into_iter().map(|seen| (seen.head.replace(asks, ""), seen.body)).collect::<Vec<_>>()
    };
    let (wanted, copied) = (sorted(app.seen()), sorted(await_seen(&shadow, 3)));
    assert_eq!(wanted, copied);
    assert!(copied[1].0.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{}", copied[1].0);
    assert!(copied[1].0.contains("\r\nHost: a.test\r\n"), "{}", copied[1].0);
    assert!(shadow.seen().iter().all(|seen| seen.field("Expect").is_none()));
    await_copies(&gate, "ok", 3.0);
    // They are requests of that pool as any are, and no lines of the log.
    let counted =
        gate.metric("sluicegate_upstream_request_seconds_count{pool=\"shadow\",server=\"s\"}");
    assert_eq!(counted, Some(3.0));
    assert_eq!(gate.log(3).len(), 3);
    assert!(gate.log(3).iter().all(|line| line["pool"] == "app" && line["attempts"] == 1));
}

#[test]
fn a_client_waits_for_no_shadow_and_sees_none_fail() {
    let app = echo();
    let (address, _held) = mute();
    let mirror = "{ pool = \"shadow\", in_flight = 2 }";
    let silent = gate(app.address, mirror, &shadow_at(address));
    for _ in 0..5 {
        assert_eq!(status(&get(&silent, "/a")), 200);
    }
    // Two are on their way for as long as the shadow says nothing.
    await_copies(&silent, "dropped", 3.0);
    assert_eq!(copies(&silent, "ok") + copies(&silent, "failed"), 0.0);
    let dead = gate(app.address, "\"shadow\"", &shadow_at(free_address()));
    assert_eq!(status(&get(&dead, "/b")), 200);
    await_copies(&dead, "failed", 1.0);
    let hasty = format!("request_timeout = \"50ms\"\n{}", shadow_at(address));
    let late = gate(app.address, "\"shadow\"", &hasty);
    assert_eq!(status(&get(&late, "/c")), 200);
    await_copies(&late, "timeout", 1.0);
    let down = "check = { type = \"tcp\" }\n".to_owned() + &shadow_at(free_address());
    let down = gate(app.address, "\"shadow\"", &down);
    assert_eq!(status(&get(&down, "/d")), 200);
    // Up or down, by whether the first check has failed so often already.
    until("the copy is counted", || {
        let found = copies(&down, "no-server") + copies(&down, "failed");
        if found == 1.0 { Ok(()) } else { Err(found) }
    });
    for gate in [&silent, &dead, &late, &down] {
        assert!(gate.log(1).iter().all(|line| line["reason"] == "ok"), "{:?}", gate.log(1));
    }
}

#[test]
fn a_body_over_the_bound_is_not_copied_and_goes_on_as_it_is() {
    let app = Backend::start(|seen| Reply::ok(&seen.body.len().to_string()));
    let shadow = echo();
    let mirror = "{ pool = \"shadow\", max_body = \"1KiB\" }";
    let gate = gate(app.address, mirror, &shadow_at(shadow.address));
    let body = "x".repeat(100_000);
    let fixed = format!(
        "POST /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(ask(&gate, &fixed).ends_with("\r\n\r\n100000"));
    let chunk = format!("800\r\n{}\r\n", "y".repeat(0x800));
    let chunked = format!(
        "POST /chunks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    assert!(ask(&gate, &chunked).ends_with("\r\n\r\n4096"));
    assert_eq!(status(&get(&gate, "/short")), 200);
    assert_eq!(await_seen(&shadow, 1)[0].path(), "/short");
    await_copies(&gate, "too-large", 2.0);
    assert_eq!(shadow.seen().len(), 1);
}

#[test]
fn copies_are_made_of_http_2_and_go_by_http_2() {
    if !need(&["curl"]) {
        return;
    }
    let (app, shadow) = (echo(), echo());
    let other = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.h2]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app]\nservers = {{ a = \"{}\" }}\n",
        shadow.address
    ));
    let speaks = format!("protocol = \"h2c\"\n{}", shadow_at(other.address("h2")));
    let gate = gate(app.address, "\"shadow\"", &speaks);
    let url = format!("http://{}/twice", gate.address("web"));
    let usual = ["--silent", "--show-error", "--http2-prior-knowledge", "--data", "body", &url];
    let said = run(command("curl").args(usual));
    assert_eq!(said, "/twice");
    let copied = &await_seen(&shadow, 1)[0];
    assert_eq!((copied.path(), &copied.body[..]), ("/twice", &b"body"[..]));
    assert_eq!(copied.field("X-Mark"), Some("/twice"));
    await_copies(&gate, "ok", 1.0);
    assert_eq!(other.log(1)[0]["proto"], "HTTP/2");
}

#[test]
fn a_drain_lets_a_copy_end_and_a_second_signal_does_not_wait_for_it() {
    let (app, (shadow, go)) = (echo(), held());
    let mut first = gate(app.address, "\"shadow\"", &shadow_at(shadow.address));
    assert_eq!(status(&get(&first, "/a")), 200);
    until("the copy is on its way", || {
        let load = first.metric("sluicegate_upstream_active{pool=\"shadow\",server=\"s\"}");
        if load == Some(1.0) { Ok(()) } else { Err(load) }
    });
    first.signal(Signal::SIGTERM);
    until("it drains", || {
        let said = first.diagnostics();
        if said.contains("stopping") { Ok(()) } else { Err(said) }
    });
    go.send(()).expect("the shadow waits");
    assert_eq!(first.wait_exit().code(), Some(0));
    assert_eq!(shadow.seen().len(), 1);
    assert!(!first.diagnostics().contains("not every worker"), "{}", first.diagnostics());

    let (address, held) = mute();
    let mut second = gate(app.address, "\"shadow\"", &shadow_at(address));
    assert_eq!(status(&get(&second, "/b")), 200);
    until("the copy is on its way", || {
        let count = held.lock().expect("not poisoned").len();
        if count == 1 { Ok(()) } else { Err(count) }
    });
    second.signal(Signal::SIGTERM);
    until("it drains", || {
        let said = second.diagnostics();
        if said.contains("stopping") { Ok(()) } else { Err(said) }
    });
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait_exit().code(), Some(0));
    assert!(!second.diagnostics().contains("not every worker"), "{}", second.diagnostics());
}

#[test]
fn a_share_of_the_requests_is_copied_and_upgrades_never_are() {
    let (app, shadow) = (echo(), echo());
    let mirror = "{ pool = \"shadow\", share = \"50%\" }\nwebsocket = true";
    let gate = gate(app.address, mirror, &shadow_at(shadow.address));
    for _ in 0..64 {
        assert_eq!(status(&get(&gate, "/a")), 200);
    }
    let upgrade = "GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\n\
                   Upgrade: websocket\r\n\r\n";
    for _ in 0..16 {
        assert_eq!(status(&ask(&gate, upgrade)), 200);
    }
    // A fair coin falls on one side 64 times in a row once in 10^19.
    let copied = until("some are copied", || {
        let ok = copies(&gate, "ok");
        if ok > 0.0 { Ok(ok) } else { Err(ok) }
    });
    assert!(copied < 64.0, "{copied}");
    assert!(shadow.seen().iter().all(|seen| seen.path() == "/a"));
}
