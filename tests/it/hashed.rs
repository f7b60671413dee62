//! Pools that choose by a header, a cookie, a path or a consumer of the requests.

use std::collections::BTreeSet;

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::gateway::{get, status};

const SERVERS: usize = 4;

/// Servers that answer with their number, and a gate in front of them that goes by `hash`.
fn gate(hash: &str, rest: &str) -> (Vec<Backend>, Gate) {
    let backends: Vec<Backend> =
        (0..SERVERS).map(|at| Backend::start(move |_| Reply::ok(&at.to_string()))).collect();
    let servers: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(at, backend)| format!("s{at} = \"{}\"\n", backend.address))
        .collect();
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 2\n[log]\naccess = \"stdout\"\n[listener.web]\n\
         bind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n{rest}\n[pool.app]\n\
         balance = \"maglev\"\nhash = \"{hash}\"\n[pool.app.servers]\n{}",
        servers.concat()
    ));
    (backends, gate)
}

fn server(answer: &str) -> String {
    assert_eq!(status(answer), 200, "{answer}");
    answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

/// Asserts that each value has one server, whatever the worker, and that not all have the same.
fn spreads(what: &str, ask: impl Fn(usize) -> String) {
    let mut used = BTreeSet::new();
    for value in 0..32 {
        let first = ask(value);
        for _ in 0..3 {
            assert_eq!(ask(value), first, "{what} {value}");
        }
        used.insert(first);
    }
    // 32 values on one of four servers: once in 10^19.
    assert!(used.len() > 1, "{what}: {used:?}");
}

#[test]
fn requests_with_the_same_header_or_cookie_or_path_have_the_same_server() {
    let (_servers, by_header) = gate("header:X-Tenant", "");
    spreads("tenant", |value| server(&get(&by_header, "/", &format!("X-Tenant: t{value}\r\n"))));
    let absent: BTreeSet<String> =
        (0..8).map(|at| server(&get(&by_header, &format!("/{at}"), ""))).collect();
    assert_eq!(absent.len(), 1, "by the client's address, which is the same");
    let (_servers, by_cookie) = gate("cookie:sid", "");
    spreads("cookie", |value| server(&get(&by_cookie, "/", &format!("Cookie: sid={value}\r\n"))));
    let (_servers, by_path) = gate("path", "");
    spreads("path", |value| server(&get(&by_path, &format!("/p/{value}?q"), "")));
}

#[test]
fn a_consumer_has_its_server_whatever_its_address_or_key() {
    let keys: Vec<String> = (0..32)
        .map(|at| {
            let hash = super::gateway::key_hash(&format!("k-0123456789abcdef-{at}"));
            format!("[consumer.c{at}]\nkeys = [\"{hash}\"]\n")
        })
        .collect();
    let rest =
        format!("policies = [\"keys\"]\n[policy.keys]\ntype = \"api-key\"\n{}", keys.concat());
    let (_servers, gate) = gate("consumer", &rest);
    spreads("consumer", |at| {
        server(&get(&gate, "/", &format!("X-Api-Key: k-0123456789abcdef-{at}\r\n")))
    });
}
