//! HTTP/2 listeners of the real binary, asked by curl.

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::peers::{command, need, run};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

#[test]
fn curl_speaks_http_2_with_and_without_tls_to_a_server_of_http_1() {
    if !need(&["curl"]) {
        return;
    }
    let backend = Backend::start(|seen| Reply::ok(&String::from_utf8_lossy(&seen.body)));
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.plain]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[listener.secure]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\ntls = {{ cert = \"file:{CERTS}/www.pem\", \
         key = \"file:{CERTS}/www.key\" }}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let body = "x".repeat(200_000);
    let file = gate.dir.path().join("body");
    std::fs::write(&file, &body).expect("it is written");
    let data = format!("@{}", file.display());
    let ask = |how: &str, url: String| {
        let usual = ["--silent", "--show-error", "--insecure", "--write-out", "%{http_version}"];
        run(command("curl").args(usual).args([how, "--data-binary", &data, &url]))
    };
    let plain = ask("--http2-prior-knowledge", format!("http://{}/p", gate.address("plain")));
    assert!(plain == format!("{body}2"), "{} bytes", plain.len());
    let secure = ask("--http2", format!("https://{}/s", gate.address("secure")));
    assert!(secure == format!("{body}2"), "{} bytes", secure.len());
    let seen = backend.seen();
    assert!(
        seen.iter().all(|seen| seen.line().ends_with(" HTTP/1.1") && seen.body.len() == 200_000)
    );
    assert_eq!((seen.len(), backend.broken()), (2, Vec::new()));
    for line in gate.log(2) {
        assert_eq!((&line["proto"], &line["status"]), (&"HTTP/2".into(), &200.into()), "{line}");
    }
}

#[test]
fn a_head_that_is_too_long_is_refused_as_over_http_1() {
    if !need(&["curl"]) {
        return;
    }
    let backend = Backend::start(|_| Reply::ok("never"));
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nhttp = {{ max_header = \"8KiB\" }}\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    ));
    let url = format!("http://{}/p", gate.address("web"));
    let long = format!("X-Long: {}", "x".repeat(10 << 10));
    for how in ["--http1.1", "--http2-prior-knowledge"] {
        let arguments = ["--silent", "--show-error", how, "--header", &long, &url];
        let answer = run(command("curl").args(arguments).args(["--write-out", " %{http_code}"]));
        let (body, status) = answer.rsplit_once(' ').expect("both");
        assert_eq!(status, "431", "{how}");
        assert!(body.contains("\"error\":\"too-large\""), "{how}: {body}");
    }
    for line in gate.log(2) {
        assert_eq!((&line["reason"], &line["status"]), (&"too-large".into(), &431.into()));
        assert!(line["request_id"].is_string(), "{line}");
    }
    assert!(backend.seen().is_empty());
}
