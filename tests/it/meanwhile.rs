//! What is under way while a reload changes what it stands on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use super::authority::Authority;
use super::backend::Backend;
use super::deadline::until;
use super::engine::assert_reset;
use super::gate::Gate;
use super::gateway::{SECRET, echo, token_by, unix_now};
use super::peers::free_address;
use super::talk::Talk;
use super::tls_client::trusting;

fn reload(gate: &Gate, config: &str) {
    gate.rewrite(config);
    let (code, said) = gate.admin("POST", "/v1/reload");
    assert_eq!(code, 200, "{said}");
}

fn with_secret(backend: &Backend, listeners: &[&str], secret: &str) -> String {
    let listeners = listeners.iter().map(|name| {
        format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
             policies = [\"token\"]\n"
        )
    });
    format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         {}[policy.token]\ntype = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"{secret}\"\n\
         [pool.app.servers]\na = \"{}\"\n",
        listeners.collect::<String>(),
        backend.address
    )
}

#[test]
fn what_old_rules_let_in_on_a_connection_of_old_opens_nothing_under_the_new_ones() {
    const NEW: &str = "another-secret-of-more-than-thirty-two-bytes";
    let backend = echo();
    let gate = Gate::start(&with_secret(&backend, &["gone", "stays"], SECRET));
    let bearer = |secret| {
        let token = token_by(secret, &json!({"sub": "alice", "exp": unix_now() + 600}));
        format!("Authorization: Bearer {token}\r\n")
    };
    let (old, new) = (bearer(SECRET), bearer(NEW));
    let mut on_gone = Talk::to(&gate, "gone");
    assert_eq!(on_gone.ask("GET", "/", &old, b"").status, 200);
    reload(&gate, &with_secret(&backend, &["stays"], NEW));
    // Its listener is gone, so it keeps the rules it came under.
    assert_eq!(on_gone.ask("GET", "/", &old, b"").status, 200);
    let ask = |fields: &str| Talk::to(&gate, "stays").ask("GET", "/", fields, b"").status;
    assert_eq!((ask(&old), ask(&new)), (401, 200));
    assert_eq!(on_gone.ask("GET", "/", &new, b"").status, 401);
    assert_eq!((ask(&old), ask(&new)), (401, 200));
}

/// A server of HTTP that takes a PROXY header, and answers `/slow` when it is told to.
struct Slow {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    paths: Arc<Mutex<Vec<String>>>,
    go: Sender<()>,
}

impl Slow {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (go, wait) = channel();
        let wait = Arc::new(Mutex::new(wait));
        let (connections, paths) = (Arc::<AtomicUsize>::default(), Arc::default());
        let (count, seen) = (Arc::clone(&connections), Arc::clone(&paths));
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (wait, seen) = (Arc::clone(&wait), Arc::clone(&seen));
                thread::spawn(move || serve(stream.expect("a client"), &wait, &seen));
            }
        });
        Self { address, connections, paths, go }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn paths(&self) -> Vec<String> {
        self.paths.lock().expect("not poisoned").clone()
    }

    fn wait_for(&self, path: &str) {
        until("the server is asked", || {
            self.paths().iter().any(|seen| seen == path).then_some(()).ok_or("not yet")
        });
    }
}

fn serve(mut stream: std::net::TcpStream, wait: &Mutex<Receiver<()>>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
    while let Some(Ok(line)) = lines.next() {
        let Some(path) = line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        seen.lock().expect("not poisoned").push(path.to_owned());
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        if path == "/slow" {
            wait.lock().expect("not poisoned").recv().expect("it is told to");
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

fn over(server: SocketAddr, pool: &str, servers: &str) -> String {
    format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app]\n{pool}\n[pool.app.servers]\na = {{ addr = \"{server}\"{servers} }}\n"
    )
}

#[test]
fn a_connection_that_was_in_use_is_not_used_again_once_its_servers_are_spoken_to_otherwise() {
    let server = Slow::start();
    let gate = Gate::start(&over(server.address, "send_proxy = \"v1\"", ""));
    thread::scope(|scope| {
        let first = scope.spawn(|| Talk::to(&gate, "web").get("/slow").status);
        server.wait_for("/slow");
        reload(&gate, &over(server.address, "", ""));
        server.go.send(()).expect("it waits");
        assert_eq!(first.join().expect("an answer"), 200);
    });
    // It spoke for the first client.
    assert_eq!(Talk::to(&gate, "web").get("/next").status, 200);
    assert_eq!(server.connections(), 2);
    assert_eq!(Talk::to(&gate, "web").get("/next").status, 200);
    assert_eq!(server.connections(), 2, "what was opened since is used again");
}

#[test]
fn a_request_that_comes_while_another_waits_for_a_server_goes_behind_it() {
    let server = Slow::start();
    let gate = Gate::start(&over(server.address, "", ", max_conns = 1"));
    let mut first = gate.connect("web");
    // The last stands ready on the connection that has the only place, the moment that is free.
    let slow = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    first.write_all(format!("{slow}{last}").as_bytes()).expect("it is sent");
    server.wait_for("/slow");
    thread::scope(|scope| {
        let second = scope.spawn(|| Talk::to(&gate, "web").get("/second").status);
        until("somebody waits", || {
            let held = gate.status()["pools"]["app"]["held"].as_u64();
            (held == Some(1)).then_some(()).ok_or(held)
        });
        server.go.send(()).expect("it waits");
        assert_eq!(second.join().expect("an answer"), 200);
    });
    let mut answers = String::new();
    first.read_to_string(&mut answers).expect("both answers");
    assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
    assert_eq!(server.paths(), ["/slow", "/second", "/last"]);
}

fn tcp_over(server: SocketAddr, listener: &str, pool: &str) -> String {
    format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.db]\nbind = \"127.0.0.1:0\"\n{listener}\n[pool.db]\nhold = \"60s\"\n{pool}\n\
         [pool.db.servers]\na = \"{server}\"\n"
    )
}

#[test]
fn a_session_that_waits_in_plain_text_is_reset_when_its_servers_come_to_speak_tls() {
    let server = free_address();
    let gate = Gate::start(&tcp_over(server, "pool = \"db\"", ""));
    let mut client = gate.connect("db");
    client.write_all(b"hello").expect("it is sent");
    until("it waits", || {
        let held = gate.status()["pools"]["db"]["held"].as_u64();
        (held == Some(1)).then_some(()).ok_or(held)
    });
    reload(&gate, &tcp_over(server, "pool = \"db\"", "tls = { verify = \"insecure\" }"));
    let listener = TcpListener::bind(server).expect("nobody else has it");
    assert_reset(client, "half of what it sends would be missing");
    assert_eq!(gate.log(1)[0]["reason"], "tls-failed");
    listener.set_nonblocking(true).expect("an option of a socket");
    assert!(listener.accept().is_err(), "the server heard nothing of it");
}

#[test]
fn limits_count_a_session_once_though_a_reload_trusts_its_peer_while_its_hello_comes() {
    let server = super::named_echo::echo("a");
    let sni = "sni = { \"a.test\" = \"db\" }";
    let gate = Gate::start(&tcp_over(server, sni, ""));
    let config = trusting(&Authority::new(), None);
    let name = "a.test".try_into().expect("a name");
    let mut hello = Vec::new();
    let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
    tls.write_tls(&mut hello).expect("into memory");
    let mut client = gate.connect("db");
    client.write_all(&hello[..50]).expect("it is sent");
    let active = || gate.status()["listeners"]["db"]["active"].as_u64();
    until("it is there", || (active() == Some(1)).then_some(()).ok_or(active()));
    let trusting = format!("{sni}\naccept_proxy = true\ntrusted = [\"127.0.0.1\"]");
    reload(&gate, &tcp_over(server, &trusting, ""));
    client.write_all(&hello[50..]).expect("it is sent");
    let mut greeting = [0; 1];
    client.read_exact(&mut greeting).expect("the server's greeting");
    assert_eq!(active(), Some(1));
    drop(client);
    until("it is gone", || (active() == Some(0)).then_some(()).ok_or(active()));
}
