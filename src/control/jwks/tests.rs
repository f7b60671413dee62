//! The fetcher on a thread of its own, against an issuer that answers over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::sync::oneshot;

use super::*;
use crate::config::plan::{AddressKind, Dns, Verify};

const DEADLINE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_hours(1);

const KEYS: &str = include_str!("../../../tests/corpus/keys/jwks.json");

/// The corpus's keys without the last `dropped` of them.
fn keys_but(dropped: usize) -> String {
    let mut document: serde_json::Value = serde_json::from_str(KEYS).unwrap();
    let list = document["keys"].as_array_mut().unwrap();
    list.truncate(list.len() - dropped);
    document.to_string()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        std::thread::yield_now();
    }
}

/// An issuer that can be closed, and opened again on the same port.
struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    fn open(address: SocketAddr, tls: Option<Arc<ServerConfig>>, answer: String) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (says, seen, stopped) = (answer.clone(), requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let answer = says.lock().unwrap().clone();
                match &tls {
                    None => serve(stream, &answer, &seen),
                    Some(config) => {
                        let tls = ServerConnection::new(config.clone()).unwrap();
                        serve(StreamOwned::new(tls, stream), &answer, &seen);
                    }
                }
            }
        });
        Self { address, answer, requests, stop, thread: Some(thread) }
    }

    fn plain(answer: String) -> Self {
        Self::open(SocketAddr::from(([127, 0, 0, 1], 0)), None, answer)
    }

    fn answers(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn close(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.close();
    }
}

/// One request and its answer; what was asked is in `seen` before anybody has the answer.
fn serve(mut stream: impl Read + Write, answer: &str, seen: &Mutex<Vec<String>>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&head).to_ascii_lowercase());
    // A client that has read enough may be gone.
    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
}

/// A fetcher that runs until it is dropped.
struct Fetcher {
    shared: Arc<SharedKeys>,
    log: Log,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fetcher {
    fn start(url: &str, verify: &Verify, schedule: Schedule, timeout: Duration) -> Self {
        let source = Source::new(url, verify).unwrap();
        let jwks = Jwks { name: "policy token".into(), source, schedule, timeout };
        let (shared, log) = (Arc::new(SharedKeys::default()), Log::memory());
        let (stop, stopped) = oneshot::channel();
        let (keys, says) = (shared.clone(), log.clone());
        let thread = std::thread::spawn(move || {
            let dns = Dns {
                servers: vec![],
                ttl_min: Duration::from_secs(1),
                ttl_max: Duration::from_mins(5),
                refuse: vec![AddressKind::Loopback],
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = keep_fetched(jwks, Names::new(&dns), keys, says) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { shared, log, stop: Some(stop), thread: Some(thread) }
    }

    fn of(issuer: &Issuer, schedule: Schedule) -> Self {
        let url = format!("http://{}/jwks.json", issuer.address);
        Self::start(&url, &Verify::System, schedule, DEADLINE)
    }

    /// How many keys there are; `None` while no token can be judged.
    fn len(&self) -> Option<usize> {
        self.shared.read().keys.map(|keys| keys.len())
    }

    fn says(&self, text: &str) -> bool {
        self.log.lines().iter().any(|line| line.contains(text))
    }

    /// Ends the fetcher; nothing is asked afterwards.
    fn end(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.end();
    }
}

const RARELY: Schedule = Schedule { refresh: LONG, grace: LONG, cooldown: LONG };

fn often(grace: Duration) -> Schedule {
    Schedule { refresh: Duration::from_millis(20), grace, cooldown: LONG }
}

#[test]
fn keys_are_there_after_the_first_fetch_and_follow_a_rotation() {
    let issuer = Issuer::plain(ok(&keys_but(1)));
    let fetcher = Fetcher::of(&issuer, often(LONG));
    eventually("the first keys", || fetcher.len() == Some(2));
    let request = issuer.requests.lock().unwrap()[0].clone();
    assert!(request.starts_with("get /jwks.json http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {}\r\n", issuer.address)), "{request}");
    let mut held = fetcher.shared.read();
    issuer.answers(ok(&keys_but(0)));
    eventually("the added key", || fetcher.len() == Some(3));
    held.refresh(&fetcher.shared);
    assert_eq!(held.keys.as_ref().map(|keys| keys.len()), Some(3));
    issuer.answers(ok(&keys_but(2)));
    eventually("the dropped keys", || fetcher.len() == Some(1));
}

#[test]
fn an_issuer_that_is_down_at_the_start_is_found_when_it_comes() {
    let mut issuer = Issuer::plain(ok(KEYS));
    let address = issuer.address;
    issuer.close();
    let fetcher = Fetcher::of(&issuer, RARELY);
    eventually("the failure", || fetcher.shared.counts().1 > 0);
    assert_eq!((fetcher.len(), fetcher.shared.read().generation), (None, 0));
    assert!(fetcher.says("refused; no token can be judged"), "{:?}", fetcher.log.lines());
    let _revived = Issuer::open(address, None, ok(KEYS));
    eventually("keys", || fetcher.len() == Some(3));
    assert!(fetcher.says("3 keys from http://127.0.0.1:"), "{:?}", fetcher.log.lines());
}

#[test]
fn old_keys_serve_while_the_issuer_is_down() {
    let mut issuer = Issuer::plain(ok(KEYS));
    let fetcher = Fetcher::of(&issuer, often(LONG));
    eventually("keys", || fetcher.len() == Some(3));
    let address = issuer.address;
    issuer.close();
    eventually("some failures", || fetcher.shared.counts().1 >= 3);
    assert_eq!(fetcher.len(), Some(3));
    let said = fetcher.log.lines().iter().filter(|line| line.contains("serve on")).count();
    assert_eq!(said, 1, "once: {:?}", fetcher.log.lines());
    let revived = Issuer::open(address, None, ok(&keys_but(1)));
    eventually("the new keys", || fetcher.len() == Some(2));
    eventually("it was asked", || revived.asked() >= 1);
}

#[test]
fn keys_that_outlived_their_grace_are_taken_away_and_come_back() {
    let mut issuer = Issuer::plain(ok(KEYS));
    let fetcher = Fetcher::of(&issuer, often(Duration::from_millis(20)));
    eventually("keys", || fetcher.shared.read().generation > 0);
    let address = issuer.address;
    issuer.close();
    eventually("the end", || fetcher.len().is_none() && fetcher.says("too old to be trusted"));
    let _revived = Issuer::open(address, None, ok(KEYS));
    eventually("keys again", || fetcher.len() == Some(3));
}

#[test]
fn a_flood_of_unknown_keys_is_one_fetch() {
    let issuer = Issuer::plain(ok(KEYS));
    let mut fetcher = Fetcher::of(&issuer, RARELY);
    eventually("keys", || fetcher.len() == Some(3));
    issuer.answers(ok(&keys_but(1)));
    fetcher.shared.want();
    eventually("the fetch for an unknown key", || fetcher.len() == Some(2));
    // The next wish is heard and kept for the cooldown's end; later ones only find it there.
    fetcher.shared.want();
    eventually("the wish to be heard", || !fetcher.shared.wanted.load(Ordering::Relaxed));
    for _ in 0..10_000 {
        fetcher.shared.want();
    }
    fetcher.end();
    assert_eq!(issuer.asked(), 2);
}

#[test]
fn a_bad_answer_changes_nothing() {
    let issuer = Issuer::plain(ok(KEYS));
    let fetcher = Fetcher::of(&issuer, often(LONG));
    eventually("keys", || fetcher.len() == Some(3));
    let redirect = "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n";
    let large = ok(&format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(JWKS_BYTES_MAX)));
    for (answer, words) in [
        (ok("{\"keys\":[]}"), "no key in it can be used"),
        (ok("<html>"), "not a JSON document"),
        (redirect.to_owned(), "status 302, expected 200"),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 500"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_owned(), "end of file before"),
        (large, "more than 1048576 bytes"),
        ("nonsense\r\n\r\n".to_owned(), "not HTTP"),
    ] {
        issuer.answers(answer);
        eventually(words, || fetcher.says(words));
        assert_eq!(fetcher.len(), Some(3), "after {words}");
    }
    let paths = issuer.requests.lock().unwrap().clone();
    assert!(paths.iter().all(|head| head.starts_with("get /jwks.json ")), "a redirect followed");
}

#[test]
fn a_silent_issuer_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let timeout = Duration::from_millis(50);
    let fetcher = Fetcher::start(&url, &Verify::System, RARELY, timeout);
    eventually("the timeout", || fetcher.says("timeout after 50ms"));
}

#[test]
fn odd_keys_are_remarked_upon_once() {
    let mut document: serde_json::Value = serde_json::from_str(KEYS).unwrap();
    document["keys"][1]["use"] = "enc".into();
    let issuer = Issuer::plain(ok(&document.to_string()));
    let fetcher = Fetcher::of(&issuer, often(LONG));
    eventually("some fetches", || fetcher.shared.counts().0 >= 4);
    assert_eq!(fetcher.len(), Some(2));
    let said = fetcher.log.lines().iter().filter(|line| line.contains("not for sig")).count();
    assert_eq!(said, 1, "{:?}", fetcher.log.lines());
}

/// A certificate for `localhost` in `dir/ca.pem`, and a server that has it.
fn secured(dir: &Path) -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("ca.pem"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn over_tls_the_issuer_is_verified_by_the_authority_of_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let tls = secured(dir.path());
    let issuer = Issuer::open(SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls), ok(KEYS));
    let url = format!("https://localhost:{}/jwks.json", issuer.address.port());
    let verify = Verify::File(dir.path().join("ca.pem"));
    let good = Fetcher::start(&url, &verify, RARELY, DEADLINE);
    eventually("keys", || good.len() == Some(3));
    let other = tempfile::tempdir().unwrap();
    secured(other.path());
    let verify = Verify::File(other.path().join("ca.pem"));
    let bad = Fetcher::start(&url, &verify, RARELY, DEADLINE);
    eventually("a refusal", || bad.says("TLS: invalid peer certificate"));
    assert_eq!(bad.len(), None);
}
