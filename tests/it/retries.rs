//! What a request is tried again for, how often, what counts as a try, and how long a full server
//! is waited for.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::http::{ask, gate, get, read_answer, read_head};
use super::peers::free_address;

#[test]
fn a_failed_answer_is_asked_for_again_where_the_route_says_so_and_only_then() {
    let asked = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply {
            bytes: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(),
            closes: false,
        },
        _ => Reply::ok("fine"),
    });
    let routes = "[[listener.web.route]]\nmatch = { path = \"/again\" }\npool = \"app\"\n\
        retries = { attempts = 2, on = [\"503\"], backoff = \"1ms\" }\n";
    let gate = gate(&backend, "", routes, "");
    assert!(get(&gate, "/again").ends_with("fine"));
    let post = "POST /again HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\
                Connection: close\r\n\r\n";
    assert!(ask(&gate, post).starts_with("HTTP/1.1 503 "), "a POST is not repeated");
    assert_eq!(backend.seen().len(), 3);
}

#[test]
fn a_try_that_times_out_is_one_also_on_a_connection_that_was_used_before() {
    // The first is answered; whoever asks again is not.
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                while stream.peek(&mut [0]).is_ok_and(|n| n > 0) {
                    read_head(&mut stream);
                    if count.fetch_add(1, Ordering::Relaxed) == 0 {
                        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer.as_bytes()).expect("it is sent");
                    }
                }
            });
        }
    });
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 1\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\npool = \"app\"\nretries = {{ attempts = 2, on = [\"timeout\"], \
         try_timeout = \"50ms\", backoff = \"1ms\" }}\n[pool.app.servers]\na = \"{address}\"\n"
    ));
    let mut stream = gate.connect("web");
    for status in ["200", "504"] {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
        assert!(read_answer(&mut stream).0.starts_with(&format!("HTTP/1.1 {status} ")));
    }
    assert_eq!(gate.log(2)[1]["attempts"], 2);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn all_workers_together_try_again_within_one_budget() {
    let backend = Backend::start(|_| Reply::raw("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"));
    let routes = "[[listener.web.route]]\npool = \"app\"\n\
        retries = { attempts = 2, on = [\"503\"], budget = \"1%\", backoff = \"1ms\" }\n";
    let gate = gate(&backend, "", routes, "");
    for _ in 0..60 {
        let answer = get(&gate, "/");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert_eq!(backend.seen().len(), 60 + 10, "ten are always within it, of all workers");
}

#[test]
fn a_fallback_has_its_own_time_for_an_answer_and_is_measured() {
    let other = Backend::start(|seen| {
        if seen.path() == "/slow" {
            std::thread::park_timeout(PATIENCE);
        }
        Reply::ok("instead")
    });
    let nobody = free_address();
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"off\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app]\nrequest_timeout = \"1h\"\nservers = {{ a = \"{nobody}\" }}\n\
         [pool.app.breaker]\nerrors = \"50%\"\nfallback = {{ pool = \"static\" }}\n\
         fallback_on = [\"502\"]\n[pool.static]\nrequest_timeout = \"1s\"\n\
         servers = {{ s = \"{}\" }}\n",
        other.address
    ));
    assert!(get(&gate, "/").ends_with("instead"));
    let measured = "sluicegate_upstream_request_seconds_count{pool=\"static\",server=\"s\"}";
    until("the fallback is measured", || match gate.metric(measured) {
        Some(count) if count > 0.0 => Ok(()),
        count => Err(count),
    });
    assert!(get(&gate, "/slow").starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_full_server_is_waited_for_as_long_as_the_listener_says() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (arrived, arrival) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |_| {
        arrived.send(()).expect("the test waits");
        let _ = wait.lock().expect("not poisoned").recv();
        Reply::ok("done")
    });
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"off\"\n[defaults]\nconnect_timeout = \"10m\"\n\
         request_timeout = \"20m\"\n[listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         pool = \"app\"\nconnect_timeout = \"100ms\"\n[pool.app]\n\
         servers = {{ a = {{ addr = \"{}\", max_conns = 1 }} }}\n",
        backend.address
    ));
    let mut first = gate.connect("web");
    first.write_all(b"GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    arrival.recv().expect("it is with the server");
    let second = get(&gate, "/b");
    assert!(second.contains("\"error\":\"server-full\""), "{second}");
    release.send(()).expect("it waits");
}
