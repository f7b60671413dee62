//! Certificates that change while clients come.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::authority::{Authority, Pair};
use super::deadline::until;
use super::gate::Gate;
use super::talk::Talk;
use super::tls_client::{shake, trusting};

/// Good pairs that are put in place, one after the other; each is looked for once a second.
const SWAPS: usize = 6;

/// After so many good pairs comes one that cannot be used.
const BROKEN_EVERY: usize = 3;

/// Clients that do nothing but shake hands.
const CLIENTS: usize = 2;

/// Puts both files in place, each in one step.
fn put(authority: &Authority, pair: &Pair) {
    for (file, text) in [("inner.pem", &pair.cert), ("inner.key", &pair.key)] {
        let fresh = authority.path("fresh");
        fs::write(&fresh, text).expect("it is written");
        fs::rename(fresh, authority.path(file)).expect("it is ours");
    }
}

fn error_of(gate: &Gate) -> Option<String> {
    let status = gate.status();
    status["listeners"]["web"]["tls_error"].as_str().map(str::to_owned)
}

#[test]
fn certificates_are_swapped_under_clients_and_none_fails() {
    let authority = Authority::new();
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{}\n\
         [[listener.web.route]]\nrespond = {{ status = 200, body = \"ok\" }}\n",
        authority.listener()
    ));
    let config = trusting(&authority, None);
    let (over, good, seen) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let load = || {
        while !over.load(Ordering::Relaxed) {
            let stream = shake(&gate, "web", &config, "inner.test").expect("a handshake");
            let shown = stream.conn.peer_certificates().expect("a certificate")[0].to_vec();
            assert_eq!(Talk::over(stream).get("/").body, b"ok");
            good.fetch_add(1, Ordering::Relaxed);
            let mut seen = seen.lock().expect("not poisoned");
            if seen.last() != Some(&shown) {
                seen.push(shown);
            }
        }
    };
    let is_seen = |pair: &Pair| seen.lock().expect("not poisoned").contains(&pair.der);
    let swap = || {
        for at in 1..=SWAPS {
            let pair = authority.issue("inner.test");
            put(&authority, &pair);
            until("a client is shown the new certificate", || {
                is_seen(&pair).then_some(()).ok_or(at)
            });
            until("no error is left", || error_of(&gate).map_or(Ok(()), Err));
            if at % BROKEN_EVERY == 0 {
                let other = authority.issue("inner.test");
                put(&authority, &Pair { key: pair.key, ..other });
                let error = until("a pair that does not fit is told of", || {
                    error_of(&gate).ok_or("no error")
                });
                assert!(error.contains("inner.key"), "{error}");
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(load)).collect();
        let swapped = scope.spawn(swap).join();
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("every handshake was good");
        }
        swapped.expect("every swap was seen");
    });
    let failed = gate.metric("sluicegate_tls_handshakes_total{listener=\"web\",result=\"failed\"}");
    let good = good.into_inner();
    println!("{good} handshakes over {SWAPS} swaps");
    assert_eq!(failed.unwrap_or(0.0), 0.0);
    assert!(good > SWAPS, "{good} handshakes are no load");
}
