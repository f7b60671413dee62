//! The admin API over TLS: who gets in, and what `ctl` and `top` need for it.

use std::process::{Command, Output, Stdio};

use super::authority::Authority;
use super::deadline::until;
use super::gate::Gate;

/// A gate whose admin API has the certificate of `authority` for this machine.
fn gate(authority: &Authority, more: &str) -> Gate {
    authority.write("admin", "127.0.0.1");
    let dir = authority.dir.path().display();
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\ntoken = \"{TOKEN}\"\n\
         tls = {{ cert = \"file:{dir}/admin.pem\", key = \"file:{dir}/admin.key\"{more} }}\n\
         [log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\nrespond = {{ status = 200, body = \"ok\" }}\n"
    ))
}

const TOKEN: &str = "a-token-of-this-test";

fn sluicegate(
    gate: &Gate,
    scheme: &str,
    words: &[&str],
    files: &[(&str, &Authority, &str)],
) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command
        .stdin(Stdio::null())
        .args(words)
        .env("SLUICEGATE_ADMIN", format!("{scheme}://{}", gate.address("admin")));
    command.env("SLUICEGATE_TOKEN", TOKEN);
    for (option, authority, file) in files {
        command.arg(option).arg(authority.path(file));
    }
    command.output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ctl_and_top_ask_over_tls_and_believe_only_whom_they_are_told_to() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let gate = gate(&authority, "");
    let ca = [("--ca", &authority, "ca.pem")];
    let status = sluicegate(&gate, "https", &["ctl", "status", "--json"], &ca);
    assert!(status.status.success(), "{}", said(&status));
    assert!(said(&status).contains("\"listeners\""), "{}", said(&status));
    let top = sluicegate(&gate, "https", &["top", "--once"], &ca);
    assert!(top.status.success() && said(&top).contains("web"), "{}", said(&top));
    let wrong = sluicegate(&gate, "https", &["ctl", "status"], &[("--ca", &stranger, "ca.pem")]);
    assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong));
    assert!(said(&wrong).contains("invalid peer certificate"), "{}", said(&wrong));
    let plain = sluicegate(&gate, "http", &["ctl", "status"], &[]);
    assert_eq!(plain.status.code(), Some(1), "{}", said(&plain));
    let misused = sluicegate(&gate, "http", &["ctl", "status"], &ca);
    assert_eq!(misused.status.code(), Some(2), "{}", said(&misused));
    assert!(said(&misused).contains("--ca goes with an https:// address"), "{}", said(&misused));
    let mut other = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    other.args(["ctl", "status"]).env_remove("SLUICEGATE_TOKEN");
    other.arg("--admin").arg(format!("https://{}", gate.address("admin")));
    other.env("SLUICEGATE_ADMIN_CA", authority.path("ca.pem"));
    let untold = other.output().expect("the binary starts");
    assert!(said(&untold).contains("wants a token"), "{}", said(&untold));
}

#[test]
fn with_a_client_authority_nobody_gets_in_without_its_certificate() {
    let authority = Authority::new();
    let dir = authority.dir.path().display();
    let gate = gate(&authority, &format!(", client_ca = \"file:{dir}/ca.pem\""));
    authority.write("me", "operator");
    let ca = ("--ca", &authority, "ca.pem");
    let without = sluicegate(&gate, "https", &["ctl", "status"], &[ca]);
    assert_eq!(without.status.code(), Some(1), "{}", said(&without));
    let with = [ca, ("--cert", &authority, "me.pem"), ("--key", &authority, "me.key")];
    let status = sluicegate(&gate, "https", &["ctl", "status"], &with);
    assert!(status.status.success(), "{}", said(&status));
    let stranger = Authority::new();
    stranger.write("me", "operator");
    let other = [ca, ("--cert", &stranger, "me.pem"), ("--key", &stranger, "me.key")];
    let refused = sluicegate(&gate, "https", &["ctl", "status"], &other);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
}

#[test]
fn a_renewed_certificate_is_used_for_the_next_client() {
    let (authority, next) = (Authority::new(), Authority::new());
    let gate = gate(&authority, "");
    let ask = |of: &Authority| {
        let asked = sluicegate(&gate, "https", &["ctl", "status"], &[("--ca", of, "ca.pem")]);
        if asked.status.success() { Ok(()) } else { Err(said(&asked)) }
    };
    ask(&authority).expect("the first is in use");
    let pair = next.issue("127.0.0.1");
    for (file, text) in [("admin.pem", &pair.cert), ("admin.key", &pair.key)] {
        std::fs::write(authority.path("fresh"), text).expect("it is written");
        std::fs::rename(authority.path("fresh"), authority.path(file)).expect("it is ours");
    }
    until("the new certificate is in use", || ask(&next));
    ask(&authority).expect_err("the old one is not");
}

#[test]
fn files_that_cannot_be_used_and_a_unix_socket_are_refused_at_their_place() {
    let config = |admin: &str| {
        format!(
            "version = 1\n[admin]\n{admin}\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
             pool = \"p\"\n[pool.p]\nservers = {{ s = \"127.0.0.1:1\" }}\n"
        )
    };
    let missing = "tls = { cert = \"file:no.pem\", key = \"file:no.key\" }";
    let refused = Gate::refused(&config(missing));
    assert_eq!(refused.code, Some(78));
    assert!(
        refused.stderr.contains("no.pem") && refused.stderr.contains(":3:"),
        "{}",
        refused.stderr
    );
    let authority = Authority::new();
    let dir = authority.dir.path().display();
    let unix = format!(
        "bind = \"unix:{dir}/admin.sock\"\n\
         tls = {{ cert = \"file:{dir}/inner.pem\", key = \"file:{dir}/inner.key\" }}"
    );
    let refused = Gate::refused(&config(&unix));
    assert!(refused.stderr.contains("does not go with a unix socket"), "{}", refused.stderr);
}
