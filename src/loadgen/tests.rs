//! The generator on the real ring, against small servers in this process.
//!
//! No test asserts how long something took, only what is counted; where a stall is needed,
//! the server makes one that is longer than what is claimed of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::connection::Orders;
use super::tally::{Failure, Tally};
use super::target::{Mode, Script, Target};
use super::{Job, Live, Measured, run};
use crate::net::Endpoint;

/// A server that gives each connection to `serve`, on a thread of its own.
fn server<F>(serve: F) -> Endpoint
where
    F: Fn(std::net::TcpStream) + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    Endpoint::Ip(address)
}

fn echo(mut stream: impl Read + Write) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

/// Answers each request head with `answer`.
fn http(answer: &'static str) -> Endpoint {
    server(move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                if stream.write_all(answer.as_bytes()).is_err() || answer.contains("close") {
                    return;
                }
            }
        }
    })
}

fn get() -> Script {
    let target = Target::parse("http://127.0.0.1/", Mode::Http).expect("a good target");
    Script::Http { request: target.get(&[], true) }
}

fn job(to: Endpoint, script: Script) -> Job {
    Job {
        orders: Orders {
            to,
            script,
            new_connection: false,
            retry: false,
            timeout: Duration::from_secs(10),
        },
        connections: 4,
        workers: 1,
        rate: None,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(200),
    }
}

fn measure(job: &Job) -> Measured {
    run(job, None, &AtomicBool::new(false)).expect("a ring can be had")
}

fn clean(tally: &Tally) {
    assert_eq!(tally.errors.total(), 0, "{:?}", tally.errors);
    assert!(tally.requests > 0);
}

#[test]
fn echoes_are_counted_with_their_bytes() {
    let tally = measure(&job(server(echo), Script::echo(100))).tally;
    clean(&tally);
    assert_eq!((tally.bytes_in, tally.bytes_out), (tally.requests * 100, tally.requests * 100));
    assert_eq!((tally.latency.len(), tally.service.len()), (tally.requests, tally.requests));
}

#[test]
fn a_payload_larger_than_any_socket_buffer_comes_back_whole() {
    let size = 16 << 20;
    let job = Job { connections: 2, ..job(server(echo), Script::echo(size)) };
    let tally = measure(&job).tally;
    clean(&tally);
    assert_eq!(tally.bytes_in, tally.requests * size as u64);
}

#[test]
fn each_exchange_can_have_a_connection_of_its_own() {
    static ACCEPTED: AtomicU64 = AtomicU64::new(0);
    let to = server(|stream| {
        ACCEPTED.fetch_add(1, Ordering::Relaxed);
        echo(stream);
    });
    let mut job = job(to, Script::echo(10));
    job.orders.new_connection = true;
    let tally = measure(&job).tally;
    clean(&tally);
    assert!(ACCEPTED.load(Ordering::Relaxed) >= tally.requests);
}

#[test]
fn an_open_loop_makes_the_starts_that_were_due() {
    let mut job = job(server(echo), Script::echo(10));
    job.rate = Some(500.0);
    job.workers = 2;
    let tally = measure(&job).tally;
    clean(&tally);
    assert_eq!(tally.requests + tally.never_started, 100);
}

#[test]
fn a_stall_is_charged_to_everybody_who_would_have_come() {
    const STALL: Duration = Duration::from_millis(300);
    let to = server(|mut stream| {
        #[allow(clippy::disallowed_methods, reason = "the stall is what is tested")]
        std::thread::sleep(STALL);
        echo(&mut stream);
    });
    let mut job = job(to, Script::echo(1));
    (job.connections, job.rate) = (1, Some(1000.0));
    let tally = measure(&job).tally;
    clean(&tally);
    // One connection, stalled for longer than the whole run: the first exchange alone was slow
    // in itself, but everybody waited.
    let from_200_ms =
        |histogram: &hdrhistogram::Histogram<u64>| histogram.count_between(100_000_000, u64::MAX);
    assert!(from_200_ms(&tally.latency) >= 50, "{}", from_200_ms(&tally.latency));
    assert!(tally.latency.mean() > tally.service.mean());
}

#[test]
fn http_answers_are_checked() {
    clean(&measure(&job(http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), get())).tally);
    clean(&measure(&job(http("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"), get())).tally);
    for (answer, kind, why) in [
        ("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", Failure::Status, "status 503"),
        ("hello\r\n\r\n", Failure::Protocol, "The status line is malformed."),
        (
            "HTTP/1.1 200 close\r\nContent-Length: 9\r\n\r\nshort",
            Failure::Reset,
            "closed before the answer was complete",
        ),
    ] {
        let tally = measure(&job(http(answer), get())).tally;
        assert_eq!((tally.requests, tally.errors.total()), (0, tally.errors.count(kind)));
        assert_eq!(tally.errors.first(kind), Some(why));
    }
}

#[test]
fn bytes_that_differ_are_a_protocol_error() {
    let to = server(|mut stream| {
        let mut bytes = [0; 10];
        while stream.read_exact(&mut bytes).is_ok() {
            bytes[7] ^= 1;
            let _ = stream.write_all(&bytes);
        }
    });
    let tally = measure(&job(to, Script::echo(10))).tally;
    assert_eq!(tally.requests, 0);
    let first = tally.errors.first(Failure::Protocol);
    assert_eq!(first, Some("the answer is not the expected bytes"));
}

#[test]
fn a_silent_server_is_a_timeout() {
    let mut job = job(server(|mut stream| drop(stream.read(&mut [0; 1]).map(|_| park()))), get());
    job.orders.timeout = Duration::from_millis(50);
    let tally = measure(&job).tally;
    assert_eq!(tally.requests, 0);
    assert_eq!(tally.errors.first(Failure::Timeout), Some("no complete answer in time"));
}

/// Keeps the connection open and silent until the process ends.
fn park() {
    std::thread::park();
}

#[test]
fn nobody_there_ends_the_run_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let to = Endpoint::Ip(free.local_addr().expect("bound"));
    drop(free);
    for new_connection in [false, true] {
        let mut job = Job { duration: Duration::from_secs(600), ..job(to.clone(), get()) };
        job.orders.new_connection = new_connection;
        let measured = measure(&job);
        assert!(measured.duration < job.duration);
        assert_eq!(measured.tally.errors.first(Failure::Connect), Some("Connection refused"));
    }
}

#[test]
fn a_kept_connection_that_is_closed_between_exchanges_is_begun_again() {
    // Closes after each answer without having said so: the next request meets a FIN or RST.
    let to = server(|mut stream| {
        let mut bytes = [0; 10];
        if stream.read_exact(&mut bytes).is_ok() {
            let _ = stream.write_all(&bytes);
        }
    });
    let mut job = job(to, Script::echo(10));
    job.orders.retry = true;
    clean(&measure(&job).tally);
}

#[test]
fn unix_sockets_are_targets_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("echo.sock");
    let listener = UnixListener::bind(&path).expect("a fresh path");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
    clean(&measure(&job(Endpoint::Unix(path.as_path().into()), Script::echo(5_000))).tally);
}

#[test]
fn a_stop_ends_a_long_run_and_what_was_measured_stays() {
    let job = Job { duration: Duration::from_secs(600), ..job(server(echo), Script::echo(10)) };
    let (live, stop) = (Live::default(), AtomicBool::new(false));
    let measured = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&job, Some(&live), &stop));
        let mut seen = 0;
        while seen == 0 && !running.is_finished() {
            seen += live.take().requests;
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        running.join().expect("no panic").expect("a ring can be had")
    });
    clean(&measured.tally);
    assert!(measured.duration < job.duration);
}

#[test]
fn warm_up_is_not_measured() {
    let mut job = job(server(echo), Script::echo(10));
    (job.rate, job.warmup) = (Some(200.0), Duration::from_millis(500));
    let tally = measure(&job).tally;
    clean(&tally);
    // 100 starts of warm-up, 40 of measured time.
    assert!(tally.requests + tally.never_started <= 41, "{}", tally.requests);
}
