//! Servers that speak HTTP as the world does, behind HTTP listeners: what they are asked for comes
//! to clients of HTTP/1.1 and of HTTP/2 as if nobody stood between.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::authority::Authority;
use super::gate::Gate;
use super::peers::{PEERS_DIR, PYTHON, Peer, command, need, python, run};
use super::talk::Talk;

/// A directory with `page.txt` that servers with another user may read.
fn pages() -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut page = String::new();
    for line in 0..3000 {
        let _ = writeln!(page, "line {line} of the page");
    }
    fs::write(dir.path().join("page.txt"), &page).expect("it is written");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    (dir, page.into_bytes())
}

/// nginx tells what it was sent by asking itself: it has nothing that echoes.
fn nginx_locations(pages: &Path) -> String {
    let pages = pages.display();
    format!(
        "root {pages};
         location = /chunked {{ alias {pages}/page.txt; ssi on; ssi_types *; }}
         location = /echo {{ proxy_pass $scheme://127.0.0.1:$server_port/said;
                             proxy_set_header X-Said $request_body; proxy_pass_request_body off;
                             proxy_set_header Content-Length ''; }}
         location = /said {{ default_type text/plain; return 200 $http_x_said; }}"
    )
}

fn apache(pages: &Path) -> Peer {
    let cgi = |name: &str, text: &str| {
        let file = pages.join(name);
        fs::write(&file, format!("#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\n{text}\n"))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
            .expect("it is ours");
    };
    cgi("echo.cgi", "exec cat");
    // A pause in the middle, so that its length is not known in time.
    cgi("chunked.cgi", "head -c 1000 page.txt; sleep 0.1; tail -c +1001 page.txt");
    let mut apache = Peer::start(|port, dir| {
        let mut config = format!(
            "ServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\nErrorLog /dev/stderr\n\
             Listen 127.0.0.1:{port}\nServerName localhost\nUser www-data\nGroup www-data\n\
             DocumentRoot {pages}\nStartServers 1\nScriptAlias /echo {pages}/echo.cgi\n\
             ScriptAlias /chunked {pages}/chunked.cgi\n",
            dir = dir.display(),
            pages = pages.display()
        );
        for module in ["mpm_prefork", "authz_core", "alias", "cgi"] {
            let file = format!("/usr/lib/apache2/modules/mod_{module}.so");
            config.insert_str(0, &format!("LoadModule {module}_module {file}\n"));
        }
        fs::write(dir.join("apache.conf"), config).expect("the configuration is written");
        let mut server = command("apache2");
        server.arg("-f").arg(dir.join("apache.conf")).arg("-DFOREGROUND");
        // At its end it ends all of its group.
        server.process_group(0);
        server
    });
    apache.farewell = Signal::SIGTERM;
    apache
}

fn node(pages: &Path) -> Peer {
    Peer::start(|port, _| {
        let mut server = command("node");
        server.arg(Path::new(PEERS_DIR).join("server.js")).arg(port.to_string()).arg(pages);
        server
    })
}

fn python_server(pages: &Path) -> Peer {
    Peer::start(|port, _| {
        let mut server = python("server.py");
        server.arg(port.to_string()).arg(pages);
        server
    })
}

fn gate(server: &Peer, pool: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n\
         [log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\n[listener.secure]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\ntls = {{ cert = \"file:{CERTS}/www.pem\", \
         key = \"file:{CERTS}/www.key\" }}\n[pool.app]\n{pool}\n[pool.app.servers]\na = \"{}\"\n",
        server.address
    ))
}

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// What every server must look like to a client of HTTP/1.1, on one connection.
fn converse(gate: &Gate, page: &[u8]) {
    let mut talk = Talk::to(gate, "web");
    let first = talk.get("/page.txt");
    assert_eq!((first.status, first.body.len()), (200, page.len()), "{}", first.head);
    assert!(first.body == page, "another page");
    let head = talk.ask("HEAD", "/page.txt", "", b"");
    assert_eq!((head.status, head.field("Content-Length")), (200, first.field("Content-Length")));
    let seen = match (first.field("ETag"), first.field("Last-Modified")) {
        (Some(tag), _) => format!("If-None-Match: {tag}\r\n"),
        (_, Some(date)) => format!("If-Modified-Since: {date}\r\n"),
        _ => panic!("nothing to ask by: {}", first.head),
    };
    assert_eq!(talk.ask("GET", "/page.txt", &seen, b"").status, 304);
    assert_eq!(talk.ask("HEAD", "/page.txt", &seen, b"").status, 304);
    let posted = talk.ask("POST", "/echo", "Content-Length: 11\r\n", b"a=1&b=two+3");
    assert_eq!((posted.status, &*posted.body), (200, &b"a=1&b=two+3"[..]), "{}", posted.head);
    let posted = talk.ask("POST", "/echo", CHUNKED, b"4\r\na=1&\r\n3;x=y\r\nb=2\r\n0\r\n\r\n");
    assert_eq!((posted.status, &*posted.body), (200, &b"a=1&b=2"[..]), "{}", posted.head);
    let chunked = talk.get("/chunked");
    assert!(chunked.is_chunked(), "{}", chunked.head);
    assert!(chunked.body == page, "another page");
    for _ in 0..20 {
        assert_eq!(talk.ask("HEAD", "/page.txt", "", b"").status, 200);
    }
}

/// The same for curl with HTTP/2, in one process and so on one connection.
fn converse_http2(gate: &Gate, page: &[u8]) {
    let url = |path: &str| format!("https://{}{path}", gate.address("secure"));
    let dir = gate.dir.path();
    let file = |name: &str| dir.join(name).display().to_string();
    let mut curl = command("curl");
    let usual = ["--silent", "--show-error", "--insecure", "--http2", "--write-out"];
    let mut ask = |next: bool, arguments: &[&str], path: &str, to: &str| {
        curl.args(next.then_some("--next")).args(usual);
        curl.arg("%{http_code} %{http_version} %{num_connects}\n").args(arguments);
        curl.args(["--output", &file(to), &url(path)]);
    };
    ask(false, &[], "/page.txt", "page");
    ask(true, &["--head"], "/page.txt", "head");
    ask(true, &["--data", "a=1&b=2"], "/echo", "echo");
    ask(true, &[], "/chunked", "chunked");
    let said = run(&mut curl);
    assert_eq!(said, "200 2 1\n200 2 0\n200 2 0\n200 2 0\n");
    let read = |name: &str| fs::read(file(name)).expect("curl wrote it");
    assert!(read("page") == page && read("chunked") == page, "another page");
    assert_eq!(read("echo"), b"a=1&b=2");
}

/// Both kinds of clients have what they asked for, and the server was connected to once.
fn assert_served(server: &Peer, page: &[u8]) {
    let gate = gate(server, "");
    converse(&gate, page);
    converse_http2(&gate, page);
    let connects = "sluicegate_upstream_connects_total{pool=\"app\",server=\"a\",result=\"ok\"}";
    let connects = gate.metric(connects).expect("it is there");
    let asked = gate.log(31);
    assert!(asked.iter().all(|line| line["reason"] == "ok"), "{asked:?}");
    // The server may have closed one between two requests, if the machine was slow.
    assert!(connects <= 3.0, "{connects} connections for {} requests", asked.len());
}

#[test]
fn nginx_is_served_as_it_is() {
    if need(&["nginx", "curl"]) {
        let (dir, page) = pages();
        assert_served(&Peer::nginx(&nginx_locations(dir.path())), &page);
    }
}

#[test]
fn apache_is_served_as_it_is() {
    if need(&["apache2", "curl"]) {
        let (dir, page) = pages();
        assert_served(&apache(dir.path()), &page);
    }
}

#[test]
fn node_is_served_as_it_is() {
    if need(&["node", "curl"]) {
        let (dir, page) = pages();
        assert_served(&node(dir.path()), &page);
    }
}

#[test]
fn a_server_of_python_is_served_as_it_is() {
    if need(&[PYTHON, "curl"]) {
        let (dir, page) = pages();
        assert_served(&python_server(dir.path()), &page);
    }
}

/// The `tls` of a pool whose servers are `inner.test`.
fn pool_of_http2(authority: &Authority) -> String {
    let ca = authority.path("ca.pem");
    format!(
        "protocol = \"h2\"\ntls = {{ verify = \"file:{}\", sni = \"inner.test\" }}",
        ca.display()
    )
}

/// nginx over TLS, with these words in its `listen`.
fn nginx_over_tls(authority: &Authority, listen: &str, locations: &str) -> Peer {
    let file = |name: &str| authority.path(name).display().to_string();
    let (cert, key) = (file("inner.pem"), file("inner.key"));
    let tls = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
    Peer::nginx_listening(listen, &format!("{tls} proxy_ssl_verify off; {locations}"))
}

/// Requests on a connection until nginx says GOAWAY.
const GOAWAY_AFTER: usize = 20;

#[test]
fn nginx_over_tls_is_spoken_to_in_http_2_and_its_goaways_cost_no_request() {
    if !need(&["nginx", "curl", "h2load"]) {
        return;
    }
    let ((dir, page), authority) = (pages(), Authority::new());
    let locations = nginx_locations(dir.path());
    let protocol = "location = /protocol { default_type text/plain; return 200 $server_protocol; }";
    let few = format!("keepalive_requests {GOAWAY_AFTER}; http2_max_concurrent_streams 8;");
    let nginx = nginx_over_tls(&authority, "ssl http2", &format!("{few} {protocol} {locations}"));
    let gate = gate(&nginx, &pool_of_http2(&authority));
    assert_eq!(Talk::to(&gate, "web").get("/protocol").body, b"HTTP/2.0");
    converse(&gate, &page);
    converse_http2(&gate, &page);
    let url = format!("http://{}/page.txt", gate.address("web"));
    let load = ["--requests", "1000", "--clients", "4", "--max-concurrent-streams", "20", &url];
    let said = run(command("h2load").args(load));
    let good = "1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed";
    assert!(said.contains(good) && said.contains("status codes: 1000 2xx"), "{said}");
}

#[test]
fn nghttpd_over_tls_is_spoken_to_in_http_2() {
    if !need(&["nghttpd", "curl"]) {
        return;
    }
    let ((dir, page), authority) = (pages(), Authority::new());
    let nghttpd = Peer::start(|port, _| {
        let mut server = command("nghttpd");
        server.args(["--address=127.0.0.1", "--echo-upload", "--htdocs"]).arg(dir.path());
        server.arg(port.to_string());
        server.args([authority.path("inner.key"), authority.path("inner.pem")]);
        server
    });
    let gate = gate(&nghttpd, &pool_of_http2(&authority));
    let mut talk = Talk::to(&gate, "web");
    assert!(talk.get("/page.txt").body == page, "another page");
    assert_eq!(talk.get("/nothing").status, 404);
    // More than the windows of a stream and of the connection, each way.
    let large = page.repeat(30);
    let length = format!("Content-Length: {}\r\n", large.len());
    assert!(talk.ask("POST", "/echo", &length, &large).body == large, "another body");
}

#[test]
fn a_server_that_does_not_agree_on_http_2_gets_no_request() {
    if !need(&["nginx"]) {
        return;
    }
    let authority = Authority::new();
    let nginx = nginx_over_tls(&authority, "ssl", "location / { return 200 'hello'; }");
    let gate = gate(&nginx, &pool_of_http2(&authority));
    let said = Talk::to(&gate, "web").get("/");
    let body = String::from_utf8_lossy(&said.body);
    assert!(said.status == 502 && body.contains("\"tls-failed\""), "{} {body}", said.head);
}
