//! WebSocket through HTTP listeners, between a real client and a real server of it.

use super::deadline::until;
use super::gate::Gate;
use super::peers::{PYTHON, Peer, need, python, run};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

const MODULE: &str = "/usr/lib/python3/dist-packages/websockets/__init__.py";

/// Connections of the client script to one URL.
const CONVERSATIONS: usize = 34;

fn echo_server() -> Peer {
    Peer::start(|port, _| {
        let mut server = python("websocket_server.py");
        server.arg(port.to_string());
        server
    })
}

fn gate(server: &Peer, websocket: bool) -> Gate {
    let tls =
        format!("tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\" }}");
    let listener = |name: &str, tls: &str| {
        format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{tls}\n\
             [[listener.{name}.route]]\nwebsocket = {websocket}\npool = \"app\"\n"
        )
    };
    Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n{}{}[pool.app.servers]\na = \"{}\"\n",
        listener("plain", ""),
        listener("secure", &tls),
        server.address
    ))
}

#[test]
fn messages_pings_and_close_codes_pass_both_ways_with_and_without_tls() {
    if !need(&[PYTHON, MODULE]) {
        return;
    }
    let server = echo_server();
    let gate = gate(&server, true);
    for url in [
        format!("ws://{}/chat", gate.address("plain")),
        format!("wss://{}/chat", gate.address("secure")),
    ] {
        run(python("websocket_client.py").arg(url));
    }
    // The client has seen the server's code; the server has seen the client's.
    until("the server has heard every close", || {
        let heard = server.output();
        let count = |line: &str| heard.lines().filter(|heard| heard.starts_with(line)).count();
        let counts =
            (count("closed 4001 enough"), count("closed 4002 as asked"), count("closed 1000"));
        if counts == (2, 2, 2 * (CONVERSATIONS - 2)) { Ok(()) } else { Err((counts, heard)) }
    });
    for line in gate.log(2 * CONVERSATIONS) {
        assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"ok".into()), "{line}");
    }
}

#[test]
fn a_route_that_does_not_say_websocket_upgrades_nobody() {
    if !need(&[PYTHON, MODULE]) {
        return;
    }
    let server = echo_server();
    let gate = gate(&server, false);
    let url = format!("ws://{}/chat", gate.address("plain"));
    let output = python("websocket_client.py").arg(url).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("InvalidStatusCode"), "{said}");
    // The server was asked for a page like any other, and says what it speaks.
    assert_eq!(gate.log(1)[0]["status"], 426);
}
