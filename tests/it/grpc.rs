//! gRPC through HTTP listeners, between its own client and its own server.

use super::deadline::until;
use super::gate::Gate;
use super::peers::{PYTHON, Peer, free_address, need, python, run};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

const MODULE: &str = "/usr/lib/python3/dist-packages/grpc/__init__.py";

fn server() -> Peer {
    Peer::start(|port, _| {
        let mut server = python("grpc_server.py");
        server.arg(port.to_string());
        server
    })
}

fn gate(server: &Peer, defaults: &str) -> Gate {
    let tls =
        format!("tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\" }}");
    let listener = |name: &str, tls: &str| {
        format!(
            "[listener.{name}]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{tls}\n\
             [[listener.{name}.route]]\nmatch = {{ path = \"/test.Echo/*\" }}\npool = \"app\"\n\
             [[listener.{name}.route]]\nmatch = {{ path = \"/test.Away/*\" }}\npool = \"away\"\n"
        )
    };
    Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[defaults]\n{defaults}\n{}{}\
         [pool.app]\nprotocol = \"h2c\"\n[pool.app.servers]\na = \"{}\"\n\
         [pool.away]\nprotocol = \"h2c\"\n[pool.away.servers]\na = \"{}\"\n",
        listener("plain", ""),
        listener("secure", &tls),
        server.address,
        free_address()
    ))
}

#[test]
fn calls_streams_statuses_and_deadlines_of_grpc_pass_with_and_without_tls() {
    if !need(&[PYTHON, MODULE]) {
        return;
    }
    let server = server();
    let gate = gate(&server, "");
    let mut client = python("grpc_client.py");
    run(client.args(["all", &gate.address("plain").to_string()]));
    let mut client = python("grpc_client.py");
    client.args(["all", &gate.address("secure").to_string()]);
    run(client.args([&format!("{CERTS}/www.pem"), "www.example.com"]));
    // A call whose client gave up ends at the server too: by its limit, and by a reset.
    until("the server has let go of every call", || {
        let said = server.output();
        let count = |line: &str| said.lines().filter(|said| *said == line).count();
        let counts = (count("hangs with limit"), count("hangs without limit"), count("let go"));
        if counts == (2, 2, 4) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_stream_of_grpc_may_pause_for_longer_than_a_body_may() {
    if !need(&[PYTHON, MODULE]) {
        return;
    }
    let server = server();
    let gate = gate(&server, "body_timeout = \"100ms\"\nrequest_timeout = \"100ms\"");
    run(python("grpc_client.py").args(["pauses", &gate.address("plain").to_string()]));
}
