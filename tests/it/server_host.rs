//! `rewrite = { host = "{server}" }`: servers are asked by their own names.

use std::io::{Read as _, Write as _};

use super::backend::Backend;
use super::deadline::until;
use super::gate::Gate;
use super::gateway::{echo, status};
use super::peers::free_address;

fn post(gate: &Gate) -> u16 {
    let mut stream = gate.connect("web");
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\
                   Content-Length: 4\r\n\r\nbody";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    status(&answer)
}

fn hosts(backend: &Backend) -> Vec<(String, usize)> {
    let all = backend.seen().into_iter();
    all.map(|seen| (seen.field("Host").unwrap_or_default().to_owned(), seen.body.len())).collect()
}

#[test]
fn each_server_is_asked_by_its_own_name_also_after_another_had_failed() {
    let (named, plain) = (echo(), echo());
    let port = named.address.port();
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\n[[listener.web.route]]\npool = \"app\"\nmirror = \"shadow\"\n\
         rewrite = {{ host = \"{{server}}\" }}\nretries = {{ attempts = 3 }}\n\
         [pool.app.servers]\ngone = \"{}\"\na = \"dns:localhost:{port}\"\n\
         [pool.shadow]\nservers = {{ s = \"{}\" }}\n",
        free_address(),
        plain.address
    ));
    until("the name resolves", || match post(&gate) {
        200 => Ok(()),
        other => Err(other),
    });
    for _ in 0..4 {
        assert_eq!(post(&gate), 200);
    }
    assert_eq!(hosts(&named), vec![(format!("localhost:{port}"), 4); 5]);
    assert_eq!(named.seen()[0].field("X-Forwarded-Host"), Some("a.test"));
    let copies = until("the copies", || match hosts(&plain) {
        copies if copies.len() >= 5 => Ok(copies),
        copies => Err(copies),
    });
    assert!(copies.iter().all(|copy| *copy == (plain.address.to_string(), 4)), "{copies:?}");
}

#[test]
fn a_check_asks_a_server_by_its_name_and_the_port_it_goes_to() {
    let (server, health) = (echo(), echo());
    let (port, checked) = (server.address.port(), health.address.port());
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app]\n\
         check = {{ type = \"http\", every = \"20ms\" }}\nservers.a = \"dns:localhost:{port}\"\n\
         [pool.other]\ncheck = {{ type = \"http\", every = \"20ms\", port = {checked} }}\n\
         servers.a = \"dns:localhost:{port}\"\n"
    ));
    for (backend, port) in [(&server, port), (&health, checked)] {
        let host = until("a check", || hosts(backend).into_iter().next().ok_or(()));
        assert_eq!(host.0, format!("localhost:{port}"));
    }
    drop(gate);
}
