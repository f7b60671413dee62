//! Limits that several gateways share in a real Redis, and what becomes of them without it.

use std::net::SocketAddr;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;
use super::peers::{Peer, need};
use super::talk::Talk;

fn gate(backend: &Backend, redis: SocketAddr, limit: &str, on_error: &str) -> Gate {
    let address = backend.address;
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         policies = [\"shared\"]\n[policy.shared]\ntype = \"rate-limit\"\nkey = \"ip\"\n\
         limit = \"{limit}\"\n\
         store = {{ redis = \"redis://{redis}\", timeout = \"2s\", cooldown = \"100ms\", \
         on_error = \"{on_error}\" }}\n[pool.app.servers]\na = \"{address}\"\n"
    ))
}

fn echo() -> Backend {
    Backend::start(|seen| Reply::ok(seen.path()))
}

fn status(gate: &Gate) -> u16 {
    Talk::to(gate, "web").get("/a").status
}

fn admitted(gates: &[&Gate], requests: usize) -> usize {
    let statuses = (0..requests).map(|at| status(gates[at % gates.len()]));
    statuses.filter(|status| *status == 200).count()
}

#[test]
fn two_gateways_together_let_pass_what_the_limit_says() {
    if !need(&["redis-server"]) {
        return;
    }
    let redis = Peer::redis();
    let backend = echo();
    let (one, other) = (
        gate(&backend, redis.address, "20/h", "deny"),
        gate(&backend, redis.address, "20/h", "deny"),
    );
    assert_eq!(admitted(&[&one, &other], 50), 20);
}

#[test]
fn without_redis_each_gateway_goes_on_as_its_policy_says_and_shares_again_when_it_is_back() {
    if !need(&["redis-server"]) {
        return;
    }
    let backend = echo();
    let mut redis = Peer::redis();
    let address = redis.address;
    let local = gate(&backend, address, "5/h", "local");
    let allow = gate(&backend, address, "5/h", "allow");
    let deny = gate(&backend, address, "5/h", "deny");
    redis.kill();
    assert_eq!(admitted(&[&local], 10), 5, "each counts for itself");
    assert_eq!(admitted(&[&allow], 10), 10, "nobody counts");
    assert_eq!(status(&deny), 503);
    redis.restart();
    until("it is asked again", || match status(&deny) {
        200 => Ok(()),
        status => Err(status),
    });
    // One was taken just now.
    until("all are taken", || match status(&deny) {
        429 => Ok(()),
        status => Err(status),
    });
    until("the others are sharing too", || match status(&allow) {
        429 => Ok(()),
        status => Err(status),
    });
}
