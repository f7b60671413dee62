//! A small plan for the tests of this module.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::plan::*;

/// One listener `front` on a free port and one pool `back` with servers `s0`, `s1` … and no
/// checks.
pub fn plan(servers: &[SocketAddr]) -> Plan {
    let servers = servers.iter().enumerate().map(|(n, address)| Server {
        name: format!("s{n}"),
        address: ServerAddr::Ip(*address),
        weight: 1,
        max_conns: None,
        backup: false,
    });
    Plan {
        policies: Vec::new(),
        consumers: Vec::new(),
        runtime: Runtime {
            engine: EngineChoice::Auto,
            workers: Some(1),
            timeout_drain: Duration::from_secs(2),
            delay_shutdown: None,
            max_conns: None,
            dns: Dns {
                servers: vec![],
                ttl_min: Duration::from_secs(1),
                ttl_max: Duration::from_mins(5),
                refuse: vec![],
            },
            watch: false,
        },
        admin: None,
        log: Log { access: AccessLog::Off, level: Level::Info, lines: LogLines::default() },
        listeners: vec![Listener::tcp(
            "front",
            vec![BindAddr::Ip(SocketAddr::from(([127, 0, 0, 1], 0)))],
            0,
        )],
        pools: vec![Pool::of("back", servers.collect())],
        shown: serde_json::Value::Null,
        hash: "9f2c".into(),
    }
}

/// A check every 20 ms that wants two failures to go down and two passes to come up.
pub fn check(kind: CheckKind) -> Check {
    let two = std::num::NonZeroU8::new(2).unwrap();
    Check {
        kind,
        every: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        fall: two,
        rise: two,
        init: Init::Wait,
        port: None,
        tls: false,
    }
}
