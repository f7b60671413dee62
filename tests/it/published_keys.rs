//! Tokens whose keys are fetched: rotation, an identity provider that dies, floods of unknown
//! keys; and the gateway that the examples describe, with real tokens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;
use super::peers::{Peer, need};
use super::talk::{Said, Talk};

/// A signing key with its name.
pub struct Key {
    kid: String,
    pair: EcdsaKeyPair,
}

impl Key {
    pub fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { kid: kid.to_owned(), pair }
    }

    pub fn public(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": part(&point[1..33]), "y": part(&point[33..]),
        })
    }

    pub fn token(&self, subject: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let claims = json!({
            "iss": "https://idp.example.com/", "aud": "api", "sub": subject,
            "exp": now.expect("after 1970").as_secs() + 600,
        });
        let head = json!({"alg": "ES256", "kid": self.kid});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let tag = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }
}

/// An identity provider that publishes what it is told to.
struct Provider {
    backend: Backend,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    dead: Arc<AtomicUsize>,
}

impl Provider {
    fn start(keys: Vec<Value>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let (asked, dead) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (told, counted, broken) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&dead));
        let backend = Backend::start(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            if broken.load(Ordering::SeqCst) > 0 {
                return Reply::raw("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
            }
            let body = json!({ "keys": *told.lock().expect("not poisoned") }).to_string();
            Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        });
        Self { backend, keys, asked, dead }
    }

    fn publish(&self, keys: &[&Key]) {
        *self.keys.lock().expect("not poisoned") = keys.iter().map(|key| key.public()).collect();
    }
}

fn gate(backend: &Backend, provider: &Provider, jwks: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         policies = [\"token\"]\n[policy.token]\ntype = \"jwt\"\n[policy.token.jwks]\n\
         url = \"http://{}/jwks.json\"\n{jwks}\n[pool.app.servers]\na = \"{}\"\n",
        provider.backend.address, backend.address
    ))
}

fn with(gate: &Gate, listener: &str, path: &str, token: &str) -> Said {
    let line = format!("Authorization: Bearer {token}\r\n");
    Talk::to(gate, listener).ask("GET", path, &line, b"")
}

fn status(gate: &Gate, token: &str) -> u16 {
    with(gate, "web", "/a", token).status
}

#[test]
fn a_token_of_a_new_key_is_good_at_once_and_one_of_a_withdrawn_key_soon_is_not() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let (old, new) = (Key::new("one"), Key::new("two"));
    let provider = Provider::start(vec![old.public()]);
    let gate = gate(&backend, &provider, "cooldown = \"1ms\"");
    until("the first keys are here", || match status(&gate, &old.token("a")) {
        200 => Ok(()),
        status => Err(status),
    });
    provider.publish(&[&new]);
    // Not one 401: whoever brings the new key waits for it.
    assert_eq!(status(&gate, &new.token("a")), 200);
    assert_eq!(status(&gate, &old.token("a")), 401);
}

#[test]
fn keys_outlive_a_provider_that_fails_and_unknown_keys_ask_it_once_in_a_cooldown() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let (key, stranger) = (Key::new("one"), Key::new("stranger"));
    let provider = Provider::start(vec![key.public()]);
    let gate = gate(&backend, &provider, "refresh = \"1s\"\ncooldown = \"1h\"\ntimeout = \"1s\"");
    until("the first keys are here", || match status(&gate, &key.token("a")) {
        200 => Ok(()),
        status => Err(status),
    });
    provider.dead.store(1, Ordering::SeqCst);
    let before = provider.asked.load(Ordering::SeqCst);
    until("it was asked in vain", || {
        let asked = provider.asked.load(Ordering::SeqCst);
        if asked > before { Ok(()) } else { Err(asked) }
    });
    assert_eq!(status(&gate, &key.token("b")), 200, "within the grace");
    let quiet = Provider::start(vec![key.public()]);
    let calm =
        self::gate(&backend, &quiet, "refresh = \"1h\"\ncooldown = \"1h\"\ntimeout = \"1s\"");
    until("the first keys are here", || match status(&calm, &key.token("a")) {
        200 => Ok(()),
        status => Err(status),
    });
    for at in 0..50 {
        assert_eq!(status(&calm, &stranger.token(&at.to_string())), 401);
    }
    assert!(quiet.asked.load(Ordering::SeqCst) <= 2, "{}", quiet.asked.load(Ordering::SeqCst));
}

#[test]
fn without_any_key_tokens_cannot_be_judged() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let provider = Provider::start(Vec::new());
    provider.dead.store(1, Ordering::SeqCst);
    let gate = gate(&backend, &provider, "timeout = \"1s\"");
    let said = with(&gate, "web", "/a", &Key::new("x").token("a"));
    assert_eq!(said.status, 503, "{}", said.head);
    assert!(String::from_utf8_lossy(&said.body).contains("auth-unavailable"));
}

#[test]
fn the_gateway_of_the_examples_does_what_its_comments_say() {
    if !need(&["redis-server"]) {
        return;
    }
    let redis = Peer::redis();
    let (key, services) = (Key::new("k"), Backend::start(|seen| Reply::ok(seen.path())));
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("jwks.json");
    std::fs::write(&keys, json!({ "keys": [key.public()] }).to_string()).expect("written");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
    let text = std::fs::read_to_string(example).expect("the example");
    let address = services.address.to_string();
    let text = text
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:6379", &redis.address.to_string())
        .replace("file:certs/jwks.json", &format!("file:{}", keys.display()))
        .replace("/health", "/")
        .replace("10.0.1.11:8080", &address)
        .replace("10.0.2.11:8080", &address)
        .replace(", u2 = \"10.0.1.12:8080\"", "");
    let gate = Gate::start(&text);
    let ask = |path: &str, who: &str| with(&gate, "api", path, &key.token(who));
    assert_eq!(Talk::to(&gate, "api").get("/v1/users/7").status, 401);
    assert_full(100.0, || ask("/v1/users/7", "ada").status);
    assert_eq!(ask("/v1/users/7", "bob").status, 200, "each has a bucket");
    let order = ask("/v1/orders/1", "ada");
    assert_eq!((order.status, order.body.as_slice()), (200, &b"/orders/1"[..]));
    let seen = services.seen();
    let last = seen.iter().rev().find(|seen| seen.path() == "/orders/1").expect("it came");
    assert_eq!(last.field("X-Gateway-Source"), Some("sluicegate"));
    assert_eq!(last.field("X-Consumer-Id"), Some("ada"));
    // One is taken already.
    assert_full(59.0, || ask("/v1/orders/1", "ada").status);
}

/// Asks until it is told to wait: `left` requests pass, and what came back meanwhile at a
/// hundred a minute at most.
fn assert_full(left: f64, ask: impl Fn() -> u16) {
    let began = std::time::Instant::now();
    let mut passed = 0.0;
    loop {
        match ask() {
            200 => passed += 1.0,
            429 => break,
            status => panic!("{status} after {passed}"),
        }
    }
    let back = began.elapsed().as_secs_f64() * 100.0 / 60.0 + 2.0;
    assert!((left..=left + back).contains(&passed), "{passed} of {left}, {back} came back");
}
