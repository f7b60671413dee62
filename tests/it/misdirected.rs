//! Requests on a connection whose client was not asked for the certificate that their Host wants.

use std::process::Command;

use super::authority::Authority;
use super::gate::Gate;
use super::peers::{command, need, run};
use super::talk::Talk;
use super::tls_client::{shake, trusting};

/// `open.test` and `also.test` ask clients for nothing, `closed.test` for a certificate.
fn gate(authority: &Authority) -> Gate {
    for name in ["open", "also", "closed"] {
        authority.write(name, &format!("{name}.test"));
    }
    authority.write("client", "client.test");
    let dir = authority.dir.path().display();
    let entry = |name: &str, more: &str| {
        format!("{{ cert = \"file:{dir}/{name}.pem\", key = \"file:{dir}/{name}.key\"{more} }}")
    };
    let ca = format!(", client_ca = \"file:{dir}/ca.pem\"");
    Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\ntls = {{ certs = [{}, {}, {}] }}\n\
         [[listener.web.route]]\nrespond = {{ status = 200, body = \"welcome\" }}\n",
        entry("open", ""),
        entry("also", ""),
        entry("closed", &ca)
    ))
}

fn ask(gate: &Gate, authority: &Authority, pair: Option<&str>, sni: &str, host: &str) -> u16 {
    let stream = shake(gate, "web", &trusting(authority, pair), sni).expect("a handshake");
    let mut talk = Talk::over(stream);
    host.clone_into(&mut talk.host);
    talk.get("/").status
}

#[test]
fn a_host_that_wants_another_client_certificate_is_misdirected_in_http_1() {
    let authority = Authority::new();
    let gate = gate(&authority);
    for (pair, sni, host, status) in [
        (None, "open.test", "open.test", 200),
        (None, "open.test", "also.test", 200),
        (None, "open.test", "unknown.test", 200),
        (None, "open.test", "closed.test", 421),
        (None, "open.test", "CLOSED.test.:443", 421),
        (Some("client"), "open.test", "closed.test", 421),
        (Some("client"), "closed.test", "closed.test", 200),
        (Some("client"), "closed.test", "open.test", 421),
    ] {
        assert_eq!(ask(&gate, &authority, pair, sni, host), status, "{sni} and then {host}");
    }
    let told = gate.log(8);
    let mut told = told.iter().filter(|line| line["status"] == 421);
    assert!(told.all(|line| line["reason"] == "bad-request"));
}

fn curl(gate: &Gate, authority: &Authority) -> Command {
    let address = gate.address("web");
    let mut curl = command("curl");
    curl.args(["--silent", "--http2", "--output", "/dev/null", "--write-out"]);
    curl.args(["%{http_version} %{http_code}", "--cacert"]).arg(authority.path("ca.pem"));
    curl.args(["--connect-to", &format!("::{address}")]);
    curl
}

#[test]
fn a_host_that_wants_another_client_certificate_is_misdirected_in_http_2() {
    if !need(&["curl"]) {
        return;
    }
    let authority = Authority::new();
    let gate = gate(&authority);
    let ask = |host: &str| {
        // The name in the hello is that of the URL, `:authority` that of the field.
        let field = format!("Host: {host}");
        run(curl(&gate, &authority).args(["--header", &field, "https://open.test/"]))
    };
    assert_eq!(ask("also.test"), "2 200");
    assert_eq!(ask("closed.test"), "2 421");
    let mut with = curl(&gate, &authority);
    with.arg("--cert").arg(authority.path("client.pem"));
    with.arg("--key").arg(authority.path("client.key"));
    assert_eq!(run(with.arg("https://closed.test/")), "2 200");
}

#[test]
fn a_ticket_of_one_entry_does_not_resume_at_another() {
    if !need(&["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let gate = gate(&authority);
    let address = gate.address("web").to_string();
    let script = "printf 'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$1\" \
                  | exec openssl s_client -connect \"$0\" -servername \"$1\" -ign_eof \"$2\" \"$3\" \"$4\" 2>&1";
    for version in ["-tls1_2", "-tls1_3"] {
        let file = gate.dir.path().join(format!("session{version}"));
        let file = file.to_str().expect("ASCII");
        let speak = |host: &str, way: &str| {
            run(command("sh").args(["-c", script, &address, host, version, way, file]))
        };
        let first = speak("open.test", "-sess_out");
        assert!(first.contains("New, TLSv1") && first.contains("welcome"), "{first}");
        let other = speak("also.test", "-sess_in");
        assert!(other.contains("New, TLSv1") && other.contains("welcome"), "{other}");
        let again = speak("open.test", "-sess_in");
        assert!(again.contains("Reused, TLSv1") && again.contains("welcome"), "{again}");
    }
}
