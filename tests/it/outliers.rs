//! Servers that take a connection and then fail it: what `outlier` makes of them on TCP listeners.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use serde_json::Value;

use super::authority::Authority;
use super::deadline::until;
use super::engine::reset;
use super::gate::Gate;
use super::named_echo::{echo, open};
use super::tls_client::{shake, trusting};

/// A server that resets every connection but each `good`th, which gets an answer.
fn resets(good: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for (nth, mut stream) in listener.incoming().flatten().enumerate() {
            if (nth + 1) % good == 0 {
                let _ = stream.write_all(b"flaky\n");
                thread::spawn(move || stream.read_to_end(&mut Vec::new()));
            } else {
                reset(stream);
            }
        }
    });
    address
}

fn gate(errors: u32, of_listener: &str, of_pool: &str, bad: SocketAddr) -> Gate {
    let good = echo("good");
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.front]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{of_listener}\n\
         [pool.p]\noutlier = {{ errors = {errors}, eject_for = \"10m\" }}\n{of_pool}\
         [pool.p.servers]\ngood = \"{good}\"\nbad = \"{bad}\"\n"
    ))
}

fn state(gate: &Gate) -> Value {
    gate.status()["pools"]["p"]["servers"]["bad"]["state"].clone()
}

/// Until it is ejected; each client comes when the one before has had its end.
fn until_ejected(gate: &Gate, mut client: impl FnMut()) {
    until("the server is ejected", || {
        client();
        let now = state(gate);
        if now == "ejected" { Ok(()) } else { Err(now) }
    });
}

#[test]
fn a_server_that_resets_before_it_answers_is_ejected() {
    let gate = gate(3, "", "", resets(usize::MAX));
    until_ejected(&gate, || drop(open(gate.address("front"))));
}

#[test]
fn a_server_that_resets_before_it_answers_is_ejected_behind_tls_too() {
    let authority = Authority::new();
    let tls = authority.listener();
    let gate = gate(3, &tls, "", resets(usize::MAX));
    let config = trusting(&authority, None);
    until_ejected(&gate, || {
        if let Ok(mut client) = shake(&gate, "front", &config, "inner.test") {
            let _ = client.read(&mut [0]);
        }
    });
}

#[test]
fn a_server_that_cannot_speak_tls_is_ejected() {
    // Both cannot, and the last of a pool is never ejected.
    let gate = gate(3, "", "tls = { verify = \"insecure\" }\n", echo("plain"));
    let any = |gate: &Gate| {
        let servers = gate.status()["pools"]["p"]["servers"].clone();
        ["good", "bad"].iter().any(|name| servers[name]["state"] == "ejected")
    };
    until("one of them is ejected", || {
        let _ = open(gate.address("front"));
        if any(&gate) { Ok(()) } else { Err(()) }
    });
}

#[test]
fn an_answer_ends_the_row_of_failures() {
    // Of its sessions two are reset and one is answered, for as long as it lives: one more than
    // two would have to come in a row, and one may be counted late.
    let gate = gate(4, "", "", resets(3));
    let kept: Vec<TcpStream> = (0..60)
        .filter_map(|_| open(gate.address("front")).ok())
        .map(|(stream, _)| stream)
        .collect();
    assert!(kept.len() >= 30, "{} of 60 were answered", kept.len());
    assert_eq!(state(&gate), "up");
}
