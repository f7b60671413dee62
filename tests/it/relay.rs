//! The engine's plain ways: bytes both ways, both FINs, a retry, a refusal.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};

use sluicegate::control::notice::Notice;
use sluicegate::observe::reason::Reason;
use sluicegate::registry::ServerId;

use crate::engine::{Engine, echo, plan_over, server};

#[test]
fn an_echo_comes_back_and_both_fins_travel() {
    let engine = Engine::start(plan_over(&[server(echo)]), 2);
    for round in 0..20u8 {
        let mut client = engine.connect();
        let message = vec![round; 1 + usize::from(round) * 5_000];
        client.write_all(&message).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == message, "round {round}: {} of {} bytes", back.len(), message.len());
    }
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 20, "{:?}", engine.reasons());
}

#[test]
fn bulk_both_ways_at_once_arrives_whole() {
    let engine = Engine::start(plan_over(&[server(echo)]), 1);
    let client = engine.connect();
    let mut reader = client.try_clone().unwrap();
    const TOTAL: usize = 64 << 20;
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 7) as u8;
    let writer = std::thread::spawn(move || {
        let mut client = client;
        let mut at = 0;
        while at < TOTAL {
            let n = (at % 200_000 + 1).min(TOTAL - at);
            let chunk: Vec<u8> = (at..at + n).map(pattern).collect();
            client.write_all(&chunk).unwrap();
            at += n;
        }
        client.shutdown(Shutdown::Write).unwrap();
    });
    let mut at = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        for (offset, &byte) in buffer[..n].iter().enumerate() {
            assert!(byte == pattern(at + offset), "byte {} differs", at + offset);
        }
        at += n;
    }
    writer.join().unwrap();
    assert_eq!(at, TOTAL);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 1, "{:?}", engine.reasons());
}

#[test]
fn a_refused_connect_is_retried_on_another_server() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let engine = Engine::start(plan_over(&[dead, server(echo)]), 2);
    for _ in 0..20 {
        let mut client = engine.connect();
        client.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
    engine.assert_quiet();
    let failed =
        engine.shared.notices.next_now().is_some_and(|notice| {
            matches!(notice, Notice::ConnectFailed { server: ServerId(0), .. })
        });
    assert!(failed, "control hears of the failed connect");
}

#[test]
fn no_server_at_all_is_a_reset() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let engine = Engine::start(plan_over(&[dead]), 1);
    let mut client = engine.connect();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::ConnectRefused), 1, "{:?}", engine.reasons());
}
