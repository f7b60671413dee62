//! HTTP listeners of the real binary, with a strict server behind them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::backend::{Backend, Reply};
use super::gate::Gate;

pub fn gate(backend: &Backend, listener: &str, routes: &str, pool: &str) -> Gate {
    let address = backend.address;
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n{listener}\n\
         {routes}\n[pool.app]\n{pool}\n[pool.app.servers]\na = \"{address}\"\n"
    ))
}

/// Sends `request` on a connection of its own and reads to the end.
pub fn ask(gate: &Gate, request: &str) -> String {
    let mut stream = gate.connect("web");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and an end");
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn get(gate: &Gate, path: &str) -> String {
    ask(gate, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"))
}

/// Reads one head, and leaves what follows.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// Reads one answer with a Content-Length, and leaves what follows.
pub fn read_answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
    stream.read_exact(&mut body).expect("a whole body");
    (head, body)
}

#[test]
fn a_request_goes_to_the_server_with_its_identity_and_comes_back_without_the_servers() {
    let backend = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nServer: secret/1\r\nX-Powered-By: x\r\nX-Own: 1\r\n\
             Connection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let gate = gate(&backend, "", "", "");
    let answer = ask(
        &gate,
        "GET /a/./b/../c?q=%20 HTTP/1.1\r\nHost: A.test:80\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Consumer-Id: root\r\nX-Real-IP: 6.6.6.6\r\nProxy: x\r\nX-Keep: 1\r\nX-Gone: 1\r\n\
         Connection: close, X-Gone\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    assert!(answer.contains("\r\nX-Own: 1\r\n"), "{answer}");
    for hidden in ["Server:", "X-Powered-By:", "X-Hop:"] {
        assert!(!answer.contains(hidden), "{answer}");
    }
    let seen = &backend.seen()[0];
    assert_eq!(seen.line(), "GET /a/c?q=%20 HTTP/1.1");
    assert_eq!(seen.field("Host"), Some("A.test:80"));
    assert_eq!(seen.field("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.field("X-Real-IP"), Some("127.0.0.1"));
    assert_eq!(seen.field("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.field("X-Keep"), Some("1"));
    for dropped in ["X-Consumer-Id", "Proxy", "X-Gone"] {
        assert_eq!(seen.field(dropped), None, "{}", seen.head);
    }
    let id = seen.field("X-Request-Id").expect("an id").to_owned();
    assert!(answer.contains(&format!("\r\nX-Request-Id: {id}\r\n")), "{answer}");
    assert!(seen.field("Via").is_some_and(|via| via.starts_with("1.1 ")), "{}", seen.head);
    assert!(seen.field("traceparent").is_some_and(|trace| trace.len() == 55), "{}", seen.head);
}

#[test]
fn routes_rewrite_redirect_and_respond() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let routes = "[[listener.web.route]]\nmatch = { path = \"/v1/*\" }\n\
        rewrite = { strip_prefix = \"/v1\" }\npool = \"app\"\n\
        headers = { set = { X-Who = \"{client_ip}\" }, remove = [\"X-Out\"] }\n\
        response_headers = { add = { X-By = \"gate\" } }\n\
        [[listener.web.route]]\nmatch = { path = \"/old/*\" }\n\
        redirect = { to = \"/new/*\", status = 308 }\n\
        [[listener.web.route]]\nmatch = { path = \"/fixed\", methods = [\"GET\"] }\n\
        respond = { status = 418, body = \"tea\", content_type = \"text/plain\" }\n";
    let gate = gate(&backend, "", routes, "");
    let answer = ask(
        &gate,
        "GET /v1/items/7?x HTTP/1.1\r\nHost: a.test\r\nX-Out: 1\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.ends_with("\r\n\r\n/items/7?x"), "{answer}");
    assert!(answer.contains("\r\nX-By: gate\r\n"), "{answer}");
    let seen = &backend.seen()[0];
    assert_eq!((seen.field("X-Who"), seen.field("X-Out")), (Some("127.0.0.1"), None));
    let moved = get(&gate, "/old/a/b?q=1");
    assert!(moved.starts_with("HTTP/1.1 308 "), "{moved}");
    assert!(moved.contains("\r\nLocation: /new/a/b?q=1\r\n"), "{moved}");
    let fixed = get(&gate, "/fixed");
    assert!(fixed.starts_with("HTTP/1.1 418 ") && fixed.ends_with("\r\n\r\ntea"), "{fixed}");
    assert!(get(&gate, "/v1x").ends_with("/v1x"), "a wildcard ends at a segment");
    assert_eq!(backend.seen().len(), 2, "what is answered here goes to no server");
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection_each_way() {
    let backend = Backend::start(|seen| Reply::ok(seen.path()));
    let gate = gate(&backend, "", "", "");
    let mut stream = gate.connect("web");
    let requests: String = (0..50)
        .map(|at| format!("GET /{at} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
        .collect::<Vec<_>>()
        .concat();
    stream.write_all(requests.as_bytes()).expect("they are sent");
    for at in 0..50 {
        let (head, body) = read_answer(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(String::from_utf8_lossy(&body), format!("/{at}"));
    }
    assert_eq!(backend.connections(), 1, "the connection to the server is kept");
}

#[test]
fn bodies_pass_whole_in_both_framings() {
    let backend = Backend::start(|seen| {
        let half = seen.body.len() / 2;
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in [&seen.body[..half], &seen.body[half..]] {
            bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Reply { bytes, closes: false }
    });
    let gate = gate(&backend, "", "", "");
    let body: Vec<u8> = (0..3_000_001_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    for chunked in [false, true] {
        let stream = gate.connect("web");
        let mut sender = stream.try_clone().expect("a second handle");
        let sent = body.clone();
        let thread = std::thread::spawn(move || {
            if chunked {
                let head = "POST /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\
                            Transfer-Encoding: chunked\r\n\r\n";
                sender.write_all(head.as_bytes()).expect("it is sent");
                for part in sent.chunks(70_001) {
                    write!(sender, "{:x}\r\n", part.len()).expect("it is sent");
                    sender.write_all(part).expect("it is sent");
                    sender.write_all(b"\r\n").expect("it is sent");
                }
                sender.write_all(b"0\r\n\r\n").expect("it is sent");
            } else {
                let length = sent.len();
                let head = format!(
                    "POST /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\
                     Content-Length: {length}\r\n\r\n"
                );
                sender.write_all(head.as_bytes()).expect("it is sent");
                sender.write_all(&sent).expect("it is sent");
            }
        });
        let mut answer = Vec::new();
        let mut reader = stream;
        reader.read_to_end(&mut answer).expect("an answer and an end");
        thread.join().expect("it was sent");
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        assert!(unchunk(&answer[head..]) == body, "chunked = {chunked}: the echo differs");
    }
    assert!(backend.seen().iter().all(|seen| seen.body == body));
    assert_eq!(backend.broken(), Vec::<String>::new());
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").expect("a chunk's head");
        let digits = std::str::from_utf8(&bytes[..end]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

#[test]
fn an_expected_100_continue_comes_from_the_server_before_the_body_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let head = read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").expect("it is sent");
        let mut body = [0; 5];
        stream.read_exact(&mut body).expect("the body");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("it is sent");
        (head, body)
    });
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut stream = gate.connect("web");
    let head =
        "PUT /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is sent");
    assert!(read_answer(&mut stream).0.starts_with("HTTP/1.1 100 "));
    stream.write_all(b"hello").expect("it is sent");
    assert!(read_answer(&mut stream).0.starts_with("HTTP/1.1 204 "));
    let (head, body) = server.join().expect("the server is content");
    assert_eq!(&body, b"hello");
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
}

/// One in so many connections is closed by the server after its answer, without a word in it.
const CLOSES_EVERY: usize = 7;

#[test]
fn servers_that_close_kept_connections_cost_no_get_and_double_no_post() {
    let posts = Arc::new(AtomicUsize::new(0));
    let (count, served) = (Arc::clone(&posts), AtomicUsize::new(0));
    let backend = Backend::start(move |seen| {
        if seen.line().starts_with("POST ") {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let closes = served.fetch_add(1, Ordering::Relaxed) % CLOSES_EVERY == 0;
        Reply { closes, ..Reply::ok("fine") }
    });
    let gate = gate(&backend, "", "", "");
    let mut stream = gate.connect("web");
    let mut sent = 0;
    for at in 0..300 {
        let method = if at % 3 == 0 { "POST" } else { "GET" };
        let request =
            format!("{method} /{at} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is sent");
        let (head, _) = read_answer(&mut stream);
        if method == "GET" {
            assert!(head.starts_with("HTTP/1.1 200 "), "GET {at}: {head}");
        } else {
            sent += 1;
        }
        if head.contains("Connection: close") {
            stream = gate.connect("web");
        }
    }
    let paths: Vec<String> = backend
        .seen()
        .iter()
        .filter(|seen| seen.line().starts_with("POST "))
        .map(|seen| seen.path().to_owned())
        .collect();
    let mut once = paths.clone();
    once.dedup();
    assert_eq!(paths, once, "a POST came twice");
    assert!(posts.load(Ordering::Relaxed) <= sent);
}

#[test]
fn a_request_of_a_dead_server_is_answered_by_another() {
    let backend = Backend::start(|_| Reply::ok("alive"));
    let dead = super::peers::free_address();
    // Without a check every other request meets it first: more than a usual budget.
    let routes = "[[listener.web.route]]\npool = \"app\"\nretries = { budget = \"100%\" }\n";
    let gate = gate(&backend, "", routes, &format!("[pool.app.servers.b]\naddr = \"{dead}\""));
    for _ in 0..20 {
        assert!(get(&gate, "/").ends_with("alive"));
    }
}

#[test]
fn what_no_server_can_answer_is_answered_here_in_json() {
    let backend = Backend::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"));
    let gate = gate(
        &backend,
        "",
        "[[listener.web.route]]\nmatch = { path = \"/none\" }\npool = \"dead\"\n[pool.dead.servers]\nd = \"127.0.0.1:1\"\n",
        "",
    );
    let answer = get(&gate, "/");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("{\"error\":\"bad-upstream\""), "{answer}");
    let answer = get(&gate, "/none");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("{\"error\":\"connect-refused\""), "{answer}");
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        read_head(&mut stream);
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: echo\r\n\r\nwelcome";
        stream.write_all(answer.as_bytes()).expect("it is sent");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an end");
        stream.write_all(&rest).expect("it is sent");
    });
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\n[[listener.web.route]]\nwebsocket = true\npool = \"app\"\n\
         [pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut stream = gate.connect("web");
    let head =
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly";
    stream.write_all(head.as_bytes()).expect("it is sent");
    let (answer, _) = read_answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(b" and late").expect("it is sent");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("an end");
    assert_eq!(rest, "welcomeearly and late");
    server.join().expect("the server is content");
}

#[test]
fn every_bad_request_is_refused_before_a_server_sees_it() {
    let backend = Backend::start(|seen| {
        if seen.line().starts_with("HEAD ") {
            Reply { bytes: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), closes: false }
        } else {
            Reply::ok("<seen>")
        }
    });
    let gate = gate(&backend, "", "", "");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/http1.jsonl");
    let text = std::fs::read_to_string(file).expect("the corpus");
    let (mut cases, mut exact, mut pending) = (0, 0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let id = case["id"].as_str().expect("an id").to_owned();
        let Some(expected) = case["expect"].as_array() else {
            pending.push(id);
            continue;
        };
        cases += 1;
        let first = expected[0].as_str().expect("text");
        let good = expected.iter().filter_map(Value::as_str).filter(|e| !e.starts_with("refused"));
        let good = good.filter(|e| !e.contains("unfinished")).count();
        backend.forget();
        let answer = send_case(&gate, &bytes_of(&case["bytes"]), expected.len());
        let seen = backend.seen().len();
        assert!(seen <= good, "{id}: a server saw {seen} requests, {good} were good: {answer}");
        let status = first.strip_prefix("refused ").and_then(|rest| rest.split(' ').next());
        let right = match status {
            Some(status) => answer.starts_with(&format!("HTTP/1.1 {status} ")),
            None => seen == good,
        };
        exact += usize::from(right);
        if !right {
            println!("{id}: expected {first}, got {:?}", answer.lines().next());
        }
    }
    println!("{cases} cases, {exact} exact, 0 unsafe; pending: {pending:?}");
    assert_eq!(backend.broken(), Vec::<String>::new());
    assert!(exact * 100 >= cases * 95, "{exact} of {cases} are answered exactly");
}

/// The text of a case: one character is one byte; or parts with how often each comes.
pub fn bytes_of(value: &Value) -> Vec<u8> {
    let latin = |text: &Value| -> Vec<u8> {
        text.as_str().unwrap_or_default().chars().map(|c| c as u32 as u8).collect()
    };
    match value.as_array() {
        None => latin(value),
        Some(parts) => parts
            .iter()
            .flat_map(|part| latin(&part[0]).repeat(part[1].as_u64().unwrap_or(1) as usize))
            .collect(),
    }
}

/// Sends the bytes of a case; reads until the connection ends, or as many answers came as there
/// can be.
fn send_case(gate: &Gate, bytes: &[u8], answers_max: usize) -> String {
    let mut stream = gate.connect("web");
    // The gateway may have answered and gone before the end of a long case.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..n]);
        if String::from_utf8_lossy(&answer).matches("<seen>").count() >= answers_max {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_client_that_closes_in_a_drain_has_its_answer_first() {
    let backend = Backend::start(|_| Reply::ok("last"));
    let mut gate = gate(&backend, "", "", "");
    let mut busy = gate.connect("web");
    busy.write_all(b"GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
    assert!(read_answer(&mut busy).0.starts_with("HTTP/1.1 200 "));
    gate.signal(nix::sys::signal::Signal::SIGTERM);
    let mut rest = Vec::new();
    busy.read_to_end(&mut rest).expect("an end in order");
    assert!(rest.is_empty());
    assert!(gate.wait_exit().success());
}

#[test]
fn a_cookie_keeps_a_client_at_its_server() {
    let backends = [Backend::start(|_| Reply::ok("a")), Backend::start(|_| Reply::ok("b"))];
    let routes = "[[listener.web.route]]\npool = \"app\"\nsticky = { cookie = \"sg\" }\n";
    let other = format!("[pool.app.servers.b]\naddr = \"{}\"", backends[1].address);
    let gate = gate(&backends[0], "", routes, &other);
    let first = get(&gate, "/");
    let cookie = first.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
    let cookie = cookie.expect("a cookie").split(';').next().expect("a pair").to_owned();
    for _ in 0..10 {
        let again = ask(
            &gate,
            &format!(
                "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: x=1; {cookie}\r\n\
                 Connection: close\r\n\r\n"
            ),
        );
        assert_eq!(again.chars().last(), first.chars().last());
        assert!(!again.contains("Set-Cookie"), "{again}");
    }
}

#[test]
fn a_request_that_takes_too_long_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\n[[listener.web.route]]\nmatch = {{ path = \"/slow\" }}\npool = \"app\"\n\
         timeout = \"50ms\"\n[[listener.web.route]]\nrespond = {{ status = 200, body = \"ok\" }}\n\
         [pool.app.servers]\na = \"{address}\"\n"
    ));
    let answer = get(&gate, "/slow");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("\"request-timeout\""), "{answer}");
    assert_eq!(gate.log(1)[0]["reason"], "request-timeout");
}

#[test]
fn an_interim_answer_passes_without_what_is_for_this_hop_or_tells_of_the_server() {
    let backend = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nServer: secret/1\r\n\
             Connection: X-Hop\r\nX-Hop: 1\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let gate = gate(&backend, "", "", "");
    let answer = get(&gate, "/");
    assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[test]
fn a_request_that_has_been_here_before_is_a_loop() {
    let backend = Backend::start(|_| Reply::ok("fine"));
    let gate = gate(&backend, "", "", "");
    assert!(get(&gate, "/").ends_with("fine"));
    let via = backend.seen()[0].field("Via").expect("a name").to_owned();
    let again =
        format!("GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 x, {via}\r\nConnection: close\r\n\r\n");
    assert!(ask(&gate, &again).starts_with("HTTP/1.1 508 "));
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_pools_own_timeout_holds_before_the_listeners() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\nrequest_timeout = \"1h\"\n\
         [pool.app]\nrequest_timeout = \"50ms\"\n[pool.app.servers]\na = \"{address}\"\n"
    ));
    assert!(get(&gate, "/").starts_with("HTTP/1.1 504 "));
}

#[test]
fn servers_get_a_proxy_header_of_each_client_on_a_connection_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let mut headers = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a connection for each request");
            headers.push(read_head(&mut stream).lines().next().expect("a line").to_owned());
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).expect("it is sent");
        }
        headers
    });
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app]\nsend_proxy = \"v1\"\n\
         [pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut stream = gate.connect("web");
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
        assert!(read_answer(&mut stream).0.starts_with("HTTP/1.1 200 "));
    }
    let (from, to) = (stream.local_addr().expect("bound"), gate.address("web"));
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", from.port(), to.port());
    assert_eq!(server.join().expect("the server is content"), [header.clone(), header]);
}

#[test]
fn header_rules_know_the_request_in_answers_too() {
    let backend = Backend::start(|_| Reply::ok("fine"));
    let routes = "[[listener.web.route]]\nmatch = { path = \"/o/{id}\" }\npool = \"app\"\n\
        response_headers = { set = { X-Order = \"{id} of {host}\" } }\n";
    let gate = gate(&backend, "", routes, "");
    let answer = get(&gate, "/o/7");
    assert!(answer.contains("\r\nX-Order: 7 of a.test\r\n"), "{answer}");
}

#[test]
fn a_cookie_of_a_backup_brings_its_client_home_once_the_others_are_back() {
    let [main, backup] = ["main", "backup"].map(|name| Backend::start(move |_| Reply::ok(name)));
    let routes = "[[listener.web.route]]\npool = \"app\"\nsticky = { cookie = \"sg\" }\n";
    let other = format!("[pool.app.servers.b]\naddr = \"{}\"\nbackup = true", backup.address);
    let gate = gate(&main, "", routes, &other);
    let patch = |state: &str| {
        let body = format!("{{\"state\":\"{state}\"}}");
        let mut admin = super::talk::Talk::to(&gate, "admin");
        admin.host = "localhost".to_owned();
        let fields = format!("Content-Length: {}\r\n", body.len());
        let said = admin.ask("PATCH", "/v1/pools/app/servers/a", &fields, body.as_bytes());
        assert_eq!(said.status, 200, "{said:?}");
    };
    patch("maint");
    let mut talk = super::talk::Talk::to(&gate, "web");
    let said = talk.get("/");
    assert_eq!(said.body, b"backup");
    let cookie = said.field("Set-Cookie").and_then(|line| line.split(';').next());
    let cookie = format!("Cookie: {}\r\n", cookie.expect("a cookie"));
    assert_eq!(talk.ask("GET", "/", &cookie, b"").body, b"backup");
    patch("ready");
    assert_eq!(talk.ask("GET", "/", &cookie, b"").body, b"main");
}
