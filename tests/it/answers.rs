//! What answers say beside their body: what the operator wants of their fields, and what every
//! answer has, whoever made it.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::talk::{Said, Talk};

/// An HTTP listener with these routes and policies, in front of `server`.
fn gate(server: &str, listener: &str, rest: &str) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n{listener}\n{rest}\n\
         [pool.app]\nservers = {{ a = \"{server}\" }}\n"
    ))
}

fn values<'s>(said: &'s Said, name: &str) -> Vec<&'s str> {
    let lines = said.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// Sends bytes on a connection of its own and reads to the end.
fn raw(gate: &Gate, bytes: &str) -> String {
    let mut stream = gate.connect("web");
    stream.write_all(bytes.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_headers_policy_replaces_and_removes_what_the_server_says() {
    let backend = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nX-Frame-Options: ALLOW\r\nX-Backend: b1\r\nContent-Length: 2\r\n\
             \r\nok",
        )
    });
    let rest = "[[listener.web.route]]\npool = \"app\"\n\
        response_headers = { set = { X-Own = \"2\" } }\n[policy.sec]\ntype = \"headers\"\n\
        response_headers = { set = { X-Frame-Options = \"DENY\", X-Own = \"1\" }, \
        remove = [\"X-Backend\", \"X-Request-Id\"] }\n";
    let gate = gate(&backend.address.to_string(), "policies = [\"sec\"]", rest);
    let said = Talk::to(&gate, "web").get("/");
    assert_eq!(values(&said, "X-Frame-Options"), ["DENY"]);
    assert_eq!(values(&said, "X-Own"), ["2"], "the route has the last word");
    assert!(values(&said, "X-Backend").is_empty() && values(&said, "X-Request-Id").is_empty());
}

#[test]
fn what_a_route_sets_takes_the_place_of_what_the_gateways_own_answers_say() {
    let rest = "[[listener.web.route]]\nmatch = { path = \"/fixed\" }\nrespond = { body = \"x\" }\n\
        response_headers = { set = { Content-Type = \"text/html\" } }\n\
        [[listener.web.route]]\npool = \"app\"\nresponse_headers = { set = { Retry-After = \"77\" }, \
        remove = [\"Cache-Control\"] }\n";
    let gate = gate("127.0.0.1:9", "", rest);
    let mut talk = Talk::to(&gate, "web");
    assert_eq!(values(&talk.get("/fixed"), "Content-Type"), ["text/html"]);
    let said = talk.get("/");
    assert_eq!((said.status, values(&said, "Retry-After")), (502, vec!["77"]));
    assert!(values(&said, "Cache-Control").is_empty(), "{}", said.head);
}

#[test]
fn what_a_route_sets_takes_the_place_of_what_the_gateway_tells_servers() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let rest = "[[listener.web.route]]\npool = \"app\"\nheaders = { set = { X-Real-IP = \"9.9.9.9\", \
        X-Request-Id = \"mine\" }, remove = [\"X-Forwarded-Host\", \"Via\"] }\n";
    let gate = gate(&backend.address.to_string(), "", rest);
    assert_eq!(Talk::to(&gate, "web").get("/").status, 200);
    let seen = &backend.seen()[0];
    let lines = |name: &str| seen.head.matches(&format!("\r\n{name}: ")).count();
    assert_eq!((seen.field("X-Real-IP"), lines("X-Real-IP")), (Some("9.9.9.9"), 1));
    assert_eq!((seen.field("X-Request-Id"), lines("X-Request-Id")), (Some("mine"), 1));
    assert_eq!((seen.field("X-Forwarded-Host"), seen.field("Via")), (None, None));
    assert!(seen.field("X-Forwarded-Proto").is_some());
}

#[test]
fn where_a_policy_says_who_may_read_answers_servers_do_not() {
    let backend = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\n\
             Access-Control-Allow-Credentials: true\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let rest = "[[listener.web.route]]\nmatch = { path = \"/open\" }\npool = \"app\"\n\
        [[listener.web.route]]\npool = \"app\"\npolicies = [\"app\"]\n\
        [policy.app]\ntype = \"cors\"\norigins = [\"https://a.test\"]\n";
    let gate = gate(&backend.address.to_string(), "", rest);
    let mut talk = Talk::to(&gate, "web");
    let mut origins = |path: &str, origin: &str| {
        let said = talk.ask("GET", path, &format!("Origin: {origin}\r\n"), b"");
        let credentials = values(&said, "Access-Control-Allow-Credentials").len();
        let origins = values(&said, "Access-Control-Allow-Origin");
        (origins.into_iter().map(str::to_owned).collect::<Vec<_>>(), credentials)
    };
    assert_eq!(origins("/", "https://a.test"), (vec!["https://a.test".to_owned()], 0));
    assert_eq!(origins("/", "https://evil.test"), (vec![], 0));
    assert_eq!(origins("/open", "https://a.test"), (vec!["*".to_owned()], 1));
}

#[test]
fn every_answer_has_an_id_that_the_log_has_too_however_bad_the_request_is() {
    let gate = gate("127.0.0.1:9", "pool = \"app\"", "");
    let bad = [
        ("GARBAGE\r\n\r\n", 400, None),
        ("hello world\r\n\r\n", 400, None),
        ("GET /a/%zz?q HTTP/1.1\r\nHost: a.test\r\n\r\n", 400, Some("/a/%zz")),
        ("GET /b HTTP/1.1\r\n\r\n", 400, Some("/b")),
        ("TRACE /c HTTP/1.1\r\nHost: a.test\r\n\r\n", 405, Some("/c")),
        ("GET /d HTTP/9.9\r\nHost: a.test\r\n\r\n", 505, Some("/d")),
    ];
    for (at, (request, status, path)) in bad.into_iter().enumerate() {
        let answer = raw(&gate, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("X-Request-Id: "));
        let id = id.unwrap_or_else(|| panic!("{request:?}: {answer}"));
        let line = gate.log(at + 1).remove(at);
        assert_eq!(line["request_id"], id, "{line}");
        assert_eq!(line["path"], path.map_or(Value::Null, Value::from), "{line}");
        if path.is_some() {
            assert_eq!(line["method"], request.split(' ').next().expect("a word"), "{line}");
        }
    }
}

#[test]
fn a_damaged_preface_of_http2_gets_no_answer_in_http1() {
    let gate = gate("127.0.0.1:9", "pool = \"app\"", "");
    assert_eq!(raw(&gate, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), "");
}

#[test]
fn a_refusal_after_the_policies_has_the_lines_that_they_gave() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let rest = "[[listener.web.route]]\nname = \"all\"\npool = \"app\"\n\
        policies = [\"few\", \"app\", \"small\", \"json\"]\n\
        response_headers = { set = { X-Own = \"1\" } }\n\
        [policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"100/s\"\n\
        [policy.app]\ntype = \"cors\"\norigins = [\"https://a.test\"]\n\
        [policy.small]\ntype = \"size-limit\"\nbody = \"16B\"\n\
        [policy.json]\ntype = \"transform\"\nrequest = { remove = [\"/x\"] }\n";
    let gate = gate(&backend.address.to_string(), "", rest);
    let json = "Content-Type: application/json\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let cases = [
        (
            "Content-Type: text/plain\r\n",
            chunked,
            "20\r\n01234567890123456789012345678901\r\n0\r\n\r\n",
            413,
        ),
        (json, "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}", 415),
        (json, "Content-Length: 2\r\n", "{]", 400),
    ];
    for (at, (kind, framing, body, status)) in cases.into_iter().enumerate() {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nOrigin: https://a.test\r\nX-Request-Id: my-id\r\n\
             {kind}{framing}Connection: close\r\n\r\n{body}"
        );
        let answer = raw(&gate, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        for line in [
            "Access-Control-Allow-Origin: https://a.test",
            "X-Request-Id: my-id",
            "X-Own: 1",
            "RateLimit-Policy: \"few\"",
        ] {
            assert!(answer.contains(&format!("\r\n{line}")), "no {line} in {answer}");
        }
        let logged = gate.log(at + 1).remove(at);
        assert_eq!((&logged["route"], &logged["request_id"]), (&"all".into(), &"my-id".into()));
        let number = |field: &str| logged[field].as_f64().expect("a number");
        assert!(number("duration_ms") * 1e3 + 1.0 >= number("policy_us"), "{logged}");
    }
}

#[test]
fn a_total_timeout_before_the_answer_is_answered_and_after_its_head_breaks_the_connection() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    let listener = "pool = \"app\"\ntotal_timeout = \"200ms\"";
    let slow = gate(&address.to_string(), listener, "");
    let said = Talk::to(&slow, "web").get("/");
    assert_eq!(said.status, 504, "{}", said.head);
    assert_eq!(slow.log(1)[0]["reason"], "request-timeout");

    let half = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = half.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = half.accept().expect("a connection");
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        stream.write_all(answer.as_bytes()).expect("it is sent");
        // Open until the gateway ends it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let cut = gate(&address.to_string(), listener, "");
    let mut stream = cut.connect("web");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    assert!(answer.ends_with(b"half"));
    server.join().expect("the server is content");
}

#[test]
fn a_server_that_takes_no_body_is_a_timeout_of_the_server() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let server = silent.local_addr().expect("bound").to_string();
    let gate = gate(&server, "pool = \"app\"\nbody_timeout = \"300ms\"", "");
    let mut client = gate.connect("web");
    let mut sender = client.try_clone().expect("a descriptor");
    let sending = std::thread::spawn(move || {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 536870912\r\n\r\n";
        let _ = sender.write_all(head.as_bytes());
        // More than all buffers on the way hold; it is not taken to its end.
        while sender.write_all(&[0; 1 << 16]).is_ok() {}
    });
    let mut status = [0; 12];
    client.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 504");
    drop(client);
    assert_eq!(gate.log(1)[0]["reason"], "request-timeout");
    sending.join().expect("it ends with the connection");
}

#[test]
fn a_tls_handshake_with_a_server_has_a_time_of_its_own() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let server = silent.local_addr().expect("bound").to_string();
    let times = "connect_timeout = \"1h\"\nrequest_timeout = \"1h\"\nhandshake_timeout = \"100ms\"";
    let listener = format!("pool = \"app\"\n{times}");
    let gate = gate(&server, &listener, "[pool.app.tls]\nverify = \"insecure\"");
    assert_eq!(Talk::to(&gate, "web").get("/").status, 502);
    assert_eq!(gate.log(1)[0]["reason"], "tls-failed");
}

#[test]
fn a_length_without_a_body_is_told_only_where_another_request_would_get_one() {
    let backend = Backend::start(|seen| {
        let status = seen.path().trim_start_matches('/');
        Reply::raw(format!("HTTP/1.1 {status} Said\r\nContent-Length: 7\r\n\r\n"))
    });
    let gate = gate(&backend.address.to_string(), "pool = \"app\"", "");
    for (method, path, length) in [
        ("GET", "/204", None),
        ("HEAD", "/204", None),
        ("GET", "/304", Some("7")),
        ("HEAD", "/200", Some("7")),
    ] {
        let said = Talk::to(&gate, "web").ask(method, path, "", b"");
        assert_eq!(said.field("Content-Length"), length, "{method} {path}: {}", said.head);
    }
}

#[test]
fn a_sticky_cookie_is_secure_where_the_client_speaks_tls_with_a_trusted_proxy() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let route = "[[listener.web.route]]\npool = \"app\"\nsticky = { cookie = \"sg\" }\n";
    for (listener, secure) in [("trusted_proxies = [\"127.0.0.0/8\"]", true), ("", false)] {
        let gate = gate(&backend.address.to_string(), listener, route);
        let mut talk = Talk::to(&gate, "web");
        let said = talk.ask("GET", "/", "X-Forwarded-Proto: https\r\n", b"");
        let cookie = said.field("Set-Cookie").expect("a cookie");
        assert_eq!(cookie.contains("; Secure"), secure, "{listener}: {cookie}");
        let plain = talk.get("/");
        assert!(!plain.field("Set-Cookie").expect("a cookie").contains("; Secure"));
    }
}

#[test]
fn a_request_that_is_refused_for_its_path_is_logged_with_its_client_behind_a_trusted_proxy() {
    let backend = Backend::start(|_| Reply::ok("ok"));
    let address = backend.address.to_string();
    for (trusted, client) in [("127.0.0.0/8", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let listener = format!("pool = \"app\"\ntrusted_proxies = [\"{trusted}\"]");
        let gate = gate(&address, &listener, "");
        let request = "GET /a%00b HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
        assert!(raw(&gate, request).starts_with("HTTP/1.1 400 "));
        let logged = gate.log(1);
        assert_eq!((&logged[0]["client"], &logged[0]["status"]), (&client.into(), &400.into()));
    }
}

#[test]
fn the_log_counts_the_payload_that_a_client_gets_and_not_what_was_compressed_into_it() {
    let backend = Backend::start(|_| {
        let text = "all of one kind ".repeat(1_000);
        let kind = "Content-Type: text/plain";
        let length = text.len();
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{text}"))
    });
    let listener = "pool = \"app\"\ncompression = { algorithms = [\"gzip\"] }";
    let gate = gate(&backend.address.to_string(), listener, "");
    let mut talk = Talk::to(&gate, "web");
    let small = talk.ask("GET", "/small", "Accept-Encoding: gzip\r\n", b"");
    let whole = talk.get("/whole");
    assert_eq!(small.field("Content-Encoding"), Some("gzip"), "{}", small.head);
    assert!(small.body.len() < 1_000 && whole.body.len() == 16_000);
    let logged = gate.log(2);
    let told = |path: &str| {
        let line = logged.iter().find(|line| line["path"] == path).expect("a line");
        line["bytes_out"].as_u64()
    };
    assert_eq!(told("/small"), Some(small.body.len() as u64));
    assert_eq!(told("/whole"), Some(16_000));
}
