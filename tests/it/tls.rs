//! TLS of listeners and pools, SNI and PROXY headers, with clients and servers of other kinds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use super::authority::Authority;
use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::named_echo::echo;
use super::peers::{Peer, command, need, run};
use super::tls_client::{shake, trusting};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

/// The `tls` table of a listener that is `www.example.com` by default and `api.example.com`.
fn two_names(more: &str) -> String {
    format!(
        "tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\", \
         certs = [{{ cert = \"file:{CERTS}/api.pem\", key = \"file:{CERTS}/api.key\" }}]{more} }}"
    )
}

fn gate(listener: &str, pool: &str, server: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.secure]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n{listener}\n\
         [pool.app]\n{pool}\n[pool.app.servers]\na = \"{server}\"\n"
    ))
}

/// `openssl s_client` with one request as its input.
fn s_client(gate: &Gate, arguments: &[&str]) -> Output {
    let address = gate.address("secure").to_string();
    let script = "printf 'GET / HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\n\\r\\n' \
                  | exec openssl s_client -connect \"$0\" -ign_eof \"$@\" 2>&1";
    let mut shell = command("sh");
    shell.args(["-c", script, &address]).args(arguments);
    shell.output().expect("it runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn openssl_speaks_both_versions_and_gets_the_certificate_of_the_name() {
    if !need(&["openssl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let gate = gate(&two_names(""), "", &backend.address.to_string());
    for (version, word) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for (asked, subject) in [
            ("api.example.com", "api.example.com"),
            ("x.api.example.com", "api.example.com"),
            ("other.test", "www.example.com"),
        ] {
            let output = text(&s_client(&gate, &[version, "-servername", asked]));
            assert!(output.contains(&format!("subject=CN = {subject}")), "{asked}: {output}");
            assert!(output.contains(word) && output.contains("<answer>"), "{asked}: {output}");
        }
    }
}

#[test]
fn a_server_behind_tls_that_vanishes_is_noticed_by_tcp_keepalive() {
    let authority = Authority::new();
    let server = echo("one");
    let gate = gate(&authority.listener(), "", &server.to_string());
    let mut client =
        shake(&gate, "secure", &trusting(&authority, None), "inner.test").expect("a session");
    client.read_exact(&mut [0; 4]).expect("the server's name");
    // Columns: the far end is the third, timers the sixth, of which 2 is that of keepalive
    // (proc_net_tcp in the kernel's documentation).
    let to = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", gate.pid())).expect("there");
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[2].ends_with(&to)).expect("its connection to the server");
    assert!(row[5].starts_with("02:"), "{row:?}");
}

#[test]
fn a_session_is_resumed_by_its_ticket_in_both_versions() {
    if !need(&["openssl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let gate = gate(&two_names(""), "", &backend.address.to_string());
    for version in ["-tls1_2", "-tls1_3"] {
        let file = gate.dir.path().join(format!("session{version}"));
        let file = file.to_str().expect("a path of ASCII");
        let name = ["-servername", "www.example.com", version];
        let first = text(&s_client(&gate, &[&name[..], &["-sess_out", file]].concat()));
        assert!(first.contains("<answer>"), "{first}");
        let second = text(&s_client(&gate, &[&name[..], &["-sess_in", file]].concat()));
        assert!(second.contains("Reused, ") && second.contains("<answer>"), "{second}");
    }
}

#[test]
fn an_old_version_is_refused_where_the_listener_says_so() {
    if !need(&["openssl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply::ok("<answer>"));
    let gate = gate(&two_names(", min_version = \"1.3\""), "", &backend.address.to_string());
    let output = text(&s_client(&gate, &["-tls1_2"]));
    assert!(output.contains("alert protocol version"), "{output}");
    assert!(backend.seen().is_empty());
}

#[test]
fn a_client_needs_a_certificate_of_the_authority() {
    if !need(&["openssl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let more = format!(", client_ca = \"file:{CERTS}/ca.pem\", client_auth = \"require\"");
    let listener = format!(
        "tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\"{more} }}"
    );
    let gate = gate(&listener, "", &backend.address.to_string());
    let (cert, key) = (format!("{CERTS}/client.pem"), format!("{CERTS}/client.key"));
    let output = text(&s_client(&gate, &["-cert", &cert, "-key", &key]));
    assert!(output.contains("<answer>"), "{output}");
    let output = text(&s_client(&gate, &[]));
    assert!(output.contains("alert certificate required"), "{output}");
    let (cert, key) = (format!("{CERTS}/api.pem"), format!("{CERTS}/api.key"));
    let output = text(&s_client(&gate, &["-cert", &cert, "-key", &key]));
    assert!(!output.contains("<answer>"), "{output}");
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_large_page_comes_whole_through_tls_to_a_server_that_speaks_tls_too() {
    if !need(&["curl"]) {
        return;
    }
    // The inner gate encrypts for the outer one: TLS on both sides of it, in both roles.
    let page = "x".repeat(1 << 20);
    let sent = page.clone();
    let backend = Backend::start(move |_| Reply::ok(&sent));
    let authority = Authority::new();
    let inner = gate(&authority.listener(), "", &backend.address.to_string());
    let ca = authority.dir.path().join("ca.pem");
    let pool = format!("tls = {{ verify = \"file:{}\", sni = \"inner.test\" }}", ca.display());
    let outer = gate(&two_names(""), &pool, &inner.address("secure").to_string());
    let url = format!("https://{}/", outer.address("secure"));
    let got = run(command("curl").args(["--silent", "--show-error", "--insecure", &url]));
    assert!(got == page, "{} of {} bytes", got.len(), page.len());
}

#[test]
fn a_server_whose_certificate_does_not_verify_gets_nothing() {
    if !need(&["curl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply::ok("<answer>"));
    let inner = gate(&two_names(""), "", &backend.address.to_string());
    let pool = format!("tls = {{ verify = \"file:{CERTS}/ca.pem\", sni = \"www.example.com\" }}");
    let outer = gate("", &pool, &inner.address("secure").to_string());
    let mut stream = outer.connect("secure");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(answer.is_empty() && backend.seen().is_empty());
    assert_eq!(outer.log(1)[0]["reason"], "tls-failed");
}

#[test]
fn a_name_is_routed_without_decrypting() {
    if !need(&["openssl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let inner = gate(&two_names(""), "", &backend.address.to_string());
    let outer = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.secure]\nbind = \"127.0.0.1:0\"\n\
         sni = {{ \"*.api.example.com\" = \"app\" }}\n[pool.app.servers]\na = \"{}\"\n",
        inner.address("secure")
    ));
    let output = text(&s_client(&outer, &["-servername", "x.api.example.com"]));
    assert!(output.contains("subject=CN = api.example.com"), "{output}");
    assert!(output.contains("<answer>"), "{output}");
    let output = text(&s_client(&outer, &["-servername", "other.test"]));
    assert!(output.contains("unrecognized name"), "{output}");
    let mut plain = outer.connect("secure");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is sent");
    assert!(plain.read(&mut [0; 1]).is_err(), "what is no TLS is reset");
    let reasons: Vec<_> =
        outer.log(3).iter().map(|line| line["reason"].as_str().map(str::to_owned)).collect();
    assert!(reasons.contains(&Some("sni-unknown".into())), "{reasons:?}");
    assert!(reasons.contains(&Some("tls-failed".into())), "{reasons:?}");
}

#[test]
fn a_proxy_header_of_a_trusted_peer_says_who_the_client_is() {
    let backend = Backend::start(|seen| Reply::ok(seen.field("X-Real-IP").unwrap_or("none")));
    let listener = "mode = \"http\"\naccept_proxy = true\ntrusted = [\"127.0.0.0/8\"]\n\
         limit = { conns_per_ip = 2 }";
    let gate = gate(listener, "", &backend.address.to_string());
    let ask = |header: &[u8]| {
        let mut stream = gate.connect("secure");
        // In pieces, as the network may bring it.
        for piece in header.chunks(5) {
            stream.write_all(piece).expect("it is sent");
        }
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(request);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = ask(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n").expect("an answer");
    assert!(answer.ends_with("\r\n\r\n192.0.2.7"), "{answer}");
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend_from_slice(&[192, 0, 2, 9, 192, 0, 2, 1, 1, 2, 0, 80]);
    let answer = ask(&second).expect("an answer");
    assert!(answer.ends_with("\r\n\r\n192.0.2.9"), "{answer}");
    assert!(ask(b"PROXY TCP4 1.2.3 192.0.2.1 4711 80\r\n").is_err(), "a bad header is a reset");
    assert!(ask(b"").is_err(), "so is none");
    assert_eq!(backend.seen().len(), 2);
}

#[test]
fn psql_encrypts_by_starttls_and_postgres_never_sees_it() {
    if !need(&["psql", "postgres"]) {
        return;
    }
    let postgres = Peer::postgres();
    let listener = format!(
        "tls = {{ cert = \"file:{CERTS}/www.pem\", key = \"file:{CERTS}/www.key\", \
         starttls = \"postgres\" }}"
    );
    let gate = gate(&listener, "", &postgres.address.to_string());
    let port = gate.address("secure").port();
    let connect = |mode: &str| {
        format!(
            "host=www.example.com hostaddr=127.0.0.1 port={port} user=lb dbname=postgres \
             sslmode={mode} sslrootcert={CERTS}/www.pem"
        )
    };
    let query = "select 6 * 7, ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let got = run(command("psql").args(["-At", "-c", query, &connect("verify-full")]));
    assert_eq!(got.trim(), "42|f", "TLS ends at the gate");
    let refused = command("psql").args(["-c", "select 1", &connect("disable")]).output();
    let refused = refused.expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("TLS connections only"), "{said}");
}

/// Handshakes that never end, beside a client who wants a page.
const HALF_OPEN: usize = 500;

#[test]
fn half_open_handshakes_do_not_keep_others_out() {
    if !need(&["curl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let gate = gate(&two_names(""), "", &backend.address.to_string());
    let begun: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|_| {
            let mut stream = gate.connect("secure");
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("the start of a hello");
            stream
        })
        .collect();
    let url = format!("https://{}/", gate.address("secure"));
    for _ in 0..20 {
        let got = run(command("curl").args(["--silent", "--show-error", "--insecure", &url]));
        assert_eq!(got, "<answer>");
    }
    drop(begun);
}

#[test]
fn an_alert_is_not_taken_away_by_a_reset_behind_it() {
    let backend = Backend::start(|_| Reply::ok("<answer>"));
    let gate = gate(&two_names(", strict_sni = true"), "", &backend.address.to_string());
    let mut stream = gate.connect("secure");
    // A hello of TLS 1.2 without any name.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 0]);
    stream.write_all(&hello).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end in order");
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    drop(stream);
    assert_eq!(gate.log(1)[0]["reason"], "tls-failed");
}

#[test]
fn a_server_that_speaks_tls_is_checked_over_tls() {
    let backend = Backend::start(|_| Reply { closes: true, ..Reply::ok("<answer>") });
    let authority = Authority::new();
    let inner = gate(&authority.listener(), "", &backend.address.to_string());
    let ca = authority.dir.path().join("ca.pem");
    let pool = format!(
        "tls = {{ verify = \"file:{}\", sni = \"inner.test\" }}\n\
         check = {{ type = \"http\", path = \"/health\", every = \"50ms\" }}",
        ca.display()
    );
    let outer = gate("", &pool, &inner.address("secure").to_string());
    let server = &outer.status()["pools"]["app"]["servers"]["a"];
    assert_eq!(
        (&server["state"], &server["health"]["ok"]),
        (&"up".into(), &true.into()),
        "{server}"
    );
    assert_eq!(backend.seen()[0].path(), "/health");
}

/// The first bytes of a client that asks for `name`.
fn hello(name: &str) -> Vec<u8> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the usual versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("room");
    bytes
}

#[test]
fn a_pool_that_a_name_chooses_has_timeouts_of_its_own() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let server = silent.local_addr().expect("bound");
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.secure]\nbind = \"127.0.0.1:0\"\n\
         sni = {{ \"long.test\" = \"long\", \"short.test\" = \"short\" }}\n\
         [pool.long]\nidle_timeout = \"1h\"\nservers = {{ a = \"{server}\" }}\n\
         [pool.short]\nidle_timeout = \"300ms\"\nservers = {{ a = \"{server}\" }}\n"
    ));
    let mut client = gate.connect("secure");
    client.write_all(&hello("short.test")).expect("it is sent");
    assert_eq!(client.read(&mut [0; 1]).expect("an end in order"), 0);
    drop((client, silent));
    let line = &gate.log(1)[0];
    assert_eq!((&line["pool"], &line["reason"]), (&"short".into(), &"idle-timeout".into()));
}
