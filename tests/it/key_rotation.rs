//! Keys that change under load, and a provider that is killed and comes back: no client with a
//! good token hears 401, and the provider is asked once in a cool-down at most.
//!
//! `SLUICEGATE_ROTATION_FULL=1` rotates every two seconds for a minute under 1,000 requests a
//! second; the short form rotates as fast as requests and cool-downs allow.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until, within};
use super::gate::Gate;
use super::published_keys::Key;
use super::talk::Talk;

/// An identity provider that can be killed: its port refuses until it is revived.
struct Provider {
    address: SocketAddr,
    document: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    life: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Provider {
    fn start(keys: &[&Key]) -> Self {
        let address = super::peers::free_address();
        let (document, asked) = (Arc::default(), Arc::default());
        let mut provider = Self { address, document, asked, life: None };
        provider.publish(keys);
        provider.revive();
        provider
    }

    fn publish(&self, keys: &[&Key]) {
        let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
        *self.document.lock().expect("not poisoned") = json!({ "keys": keys }).to_string();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn revive(&mut self) {
        // Its old connections may linger; nobody listens there.
        let listener = until("its address", || TcpListener::bind(self.address));
        let over = Arc::new(AtomicBool::new(false));
        let (ends, document, asked) =
            (Arc::clone(&over), Arc::clone(&self.document), Arc::clone(&self.asked));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let _ = answer(stream, &document, &asked);
            }
        });
        self.life = Some((over, thread));
    }

    fn kill(&mut self) {
        let Some((over, thread)) = self.life.take() else { return };
        over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        thread.join().expect("it did not panic");
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answer(
    mut stream: TcpStream,
    document: &Mutex<String>,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let body = document.lock().expect("not poisoned").clone();
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// How much there is to do.
struct Scale {
    rotations: usize,
    /// At least, from one rotation to the next.
    every: Duration,
    /// Of all clients together; `None`: as fast as it goes.
    rate: Option<u32>,
    cooldown: Duration,
}

impl Scale {
    fn of_now() -> Self {
        if std::env::var_os("SLUICEGATE_ROTATION_FULL").is_some() {
            let (every, cooldown) = (Duration::from_secs(2), Duration::from_millis(500));
            Self { rotations: 30, every, rate: Some(1_000), cooldown }
        } else {
            let (every, cooldown) = (Duration::ZERO, Duration::from_millis(100));
            Self { rotations: 8, every, rate: None, cooldown }
        }
    }
}

const CLIENTS: u32 = 8;

/// Requests that each rotation has to live through.
const REQUESTS: usize = 100;

/// What all clients share.
struct Load {
    token: Mutex<String>,
    over: AtomicBool,
    asked: AtomicUsize,
    refused: Mutex<Vec<String>>,
}

impl Load {
    /// Asks on one connection with the token of the moment until it is over.
    fn ask(&self, gate: &Gate, rate: Option<u32>) {
        let mut talk = Talk::to(gate, "web");
        let (began, mut nth) = (Instant::now(), 0);
        while !self.over.load(Ordering::SeqCst) {
            if let Some(rate) = rate {
                let due = began + Duration::from_secs(1) * CLIENTS * nth / rate;
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
            nth += 1;
            let token = self.token.lock().expect("not poisoned").clone();
            let line = format!("Authorization: Bearer {token}\r\n");
            let said = talk.ask("GET", "/a", &line, b"");
            self.asked.fetch_add(1, Ordering::SeqCst);
            if said.status != 200 {
                self.refused.lock().expect("not poisoned").push(said.head);
            }
        }
    }

    fn answered(&self, more: usize) {
        let enough = self.asked.load(Ordering::SeqCst) + more;
        until("requests are answered", || match self.asked.load(Ordering::SeqCst) {
            asked if asked >= enough => Ok(()),
            asked => Err(asked),
        });
    }
}

/// Tokens whose key nobody knows: each would like to have a fetch of its own.
fn flood(gate: &Gate, over: &AtomicBool) -> usize {
    let (mut talk, token) = (Talk::to(gate, "web"), Key::new("nobody").token("mallory"));
    let line = format!("Authorization: Bearer {token}\r\n");
    let mut refused = 0;
    while !over.load(Ordering::SeqCst) {
        let status = talk.ask("GET", "/a", &line, b"").status;
        assert_eq!(status, 401, "nobody signed that");
        refused += 1;
        std::thread::park_timeout(Duration::from_millis(2));
    }
    refused
}

#[test]
fn rotations_under_load_and_a_dead_provider_cost_no_good_token_anything() {
    let scale = Scale::of_now();
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let mut keys = vec![Key::new("k0")];
    let mut provider = Provider::start(&[&keys[0]]);
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         policies = [\"token\"]\n[policy.token]\ntype = \"jwt\"\n[policy.token.jwks]\n\
         url = \"http://{}/jwks.json\"\nrefresh = \"1h\"\ngrace = \"24h\"\ntimeout = \"10s\"\n\
         cooldown = \"{}ms\"\n[pool.app.servers]\na = \"{}\"\n",
        provider.address,
        scale.cooldown.as_millis(),
        backend.address
    ));
    let first = keys[0].token("ada");
    until("the first keys are here", || {
        let line = format!("Authorization: Bearer {first}\r\n");
        match Talk::to(&gate, "web").ask("GET", "/a", &line, b"").status {
            200 => Ok(()),
            status => Err(status),
        }
    });
    let (began, before) = (Instant::now(), provider.asked());
    let load = Load {
        token: Mutex::new(first),
        over: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
        refused: Mutex::default(),
    };
    let strangers = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| load.ask(&gate, scale.rate));
        }
        let flood = scope.spawn(|| flood(&gate, &load.over));
        let work = std::panic::AssertUnwindSafe(|| {
            for at in 1..=scale.rotations {
                rotate(at, &scale, &mut provider, &mut keys, &load);
            }
        });
        let done = std::panic::catch_unwind(work);
        load.over.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        flood.join().expect("strangers heard 401")
    });
    let (took, fetches) = (began.elapsed(), provider.asked() - before);
    let refused = load.refused.into_inner().expect("not poisoned");
    let asked = load.asked.into_inner();
    println!(
        "{} rotations, {asked} requests with good tokens, {} refused, {strangers} of strangers, \
         {fetches} fetches in {took:?}",
        scale.rotations,
        refused.len()
    );
    assert!(refused.is_empty(), "{} of {asked}: {}", refused.len(), refused[0]);
    // The first may come at once, and the last cool-down need not have ended.
    let most = took.as_nanos() / scale.cooldown.as_nanos() + 2;
    assert!(fetches as u128 <= most, "{fetches} fetches, {most} cool-downs");
}

/// The next key is published beside the one in use, and used once it has been fetched. A third of
/// the rotations finds the provider dead, and waits until it is back.
fn rotate(at: usize, scale: &Scale, provider: &mut Provider, keys: &mut Vec<Key>, load: &Load) {
    let due = Instant::now() + scale.every;
    if at.is_multiple_of(3) {
        provider.kill();
        // Strangers make the gate ask in vain meanwhile.
        load.answered(REQUESTS);
        provider.revive();
    }
    keys.push(Key::new(&format!("k{at}")));
    provider.publish(&[&keys[at - 1], &keys[at]]);
    // One may have been answered with the old ones.
    let enough = provider.asked() + 2;
    until("the new key is fetched", || match provider.asked() {
        asked if asked >= enough => Ok(()),
        asked => Err(asked),
    });
    // The second has been asked for; the first has been read to its end.
    *load.token.lock().expect("not poisoned") = keys[at].token("ada");
    load.answered(REQUESTS);
    let _ = within(due.saturating_duration_since(Instant::now()), || Err::<(), ()>(()));
}
