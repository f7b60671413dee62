//! Servers that close kept connections when they please, under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;
use super::talk::Talk;

/// One answer in so many is the last on its connection, and does not say so.
const CLOSES_ONE_IN: u64 = 100;

const CLIENTS: usize = 8;

const REQUESTS_EACH: usize = 500;

/// The numbers of a seed, in any order of asking (SplitMix64; Steele, Lea, Flood 2014).
fn random(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn connections_closed_at_random_cost_no_get_and_double_no_post_under_load() {
    let seed = u64::from(std::process::id());
    let (served, ended) = (AtomicU64::new(0), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&ended);
    let backend = Backend::start(move |_| {
        let number = random(seed, served.fetch_add(1, Ordering::Relaxed));
        let closes = number.is_multiple_of(CLOSES_ONE_IN);
        count.fetch_add(usize::from(closes), Ordering::Relaxed);
        Reply { closes, ..Reply::ok("fine") }
    });
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 2\n[log]\naccess = \"off\"\n[listener.web]\n\
         bind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let failed_posts = AtomicUsize::new(0);
    let ask = |client: usize| {
        let mut talk = Talk::to(&gate, "web");
        for at in 0..REQUESTS_EACH {
            let path = format!("/{client}/{at}");
            let said = if at % 2 == 0 {
                talk.get(&path)
            } else {
                talk.ask("POST", &path, "Content-Length: 4\r\n", b"once")
            };
            if at % 2 == 0 {
                assert_eq!(said.status, 200, "GET {path}, seed {seed}");
            } else if said.status != 200 {
                failed_posts.fetch_add(1, Ordering::Relaxed);
            }
            if said.field("Connection") == Some("close") {
                talk = Talk::to(&gate, "web");
            }
        }
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let ask = &ask;
            scope.spawn(move || ask(client));
        }
    });
    let mut posts: BTreeMap<String, usize> = BTreeMap::new();
    for seen in backend.seen().iter().filter(|seen| seen.line().starts_with("POST ")) {
        *posts.entry(seen.path().to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = posts.iter().filter(|(_, times)| **times > 1).collect();
    let (ended, failed) = (ended.load(Ordering::Relaxed), failed_posts.into_inner());
    println!("{ended} connections closed; {failed} of {} POSTs failed; seed {seed}", posts.len());
    assert!(twice.is_empty(), "came twice, seed {seed}: {twice:?}");
    assert!(ended > 0 && posts.len() + failed >= CLIENTS * REQUESTS_EACH / 2, "seed {seed}");
}

/// Connections to `port` that are neither closing nor closed, as the kernel lists them.
fn established_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("procfs");
    let to = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.len() > 3 && words[2].ends_with(&to) && words[3] == "01"
    };
    table.lines().filter(is_one).count()
}

#[test]
fn a_load_that_needs_more_than_idle_keeps_its_connections_and_then_gives_them_up() {
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[log]\naccess = \"off\"\n[listener.web]\n\
         bind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app]\nkeepalive = {{ idle = 2 }}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let together = std::sync::Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut talk = Talk::to(&gate, "web");
                for _ in 0..100 {
                    together.wait();
                    assert_eq!(talk.get("/").status, 200);
                }
            });
        }
    });
    let (opened, requests) = (backend.connections(), backend.seen().len());
    assert_eq!(requests, CLIENTS * 100);
    // Eight, or a few more where a client pauses for a second.
    assert!(opened < requests / 4, "{opened} connections for {requests} requests");
    let port = backend.address.port();
    until("the surplus is closed", || match established_to(port) {
        0..=2 => Ok(()),
        more => Err(format!("{more} connections")),
    });
    let mut talk = Talk::to(&gate, "web");
    assert_eq!(talk.get("/").status, 200);
    assert_eq!(backend.connections(), opened, "two are kept for later");
}
