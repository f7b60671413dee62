//! No allocation on the relay path, and how many for a request: a binary of its own, as it counts
//! with its allocator.
//!
//! Counted are allocations of threads that call themselves `worker-…`; the far ends of the
//! test allocate as they like. One test at a time: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "it/engine.rs"]
mod engine;

use engine::{Engine, echo, plan_over, round_trip, server};
use sluicegate::runtime::engine::Engine as Chosen;

/// Counts while [`COUNTING`], and leaves the work to the system's allocator.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
enum Kind {
    Unknown,
    Worker,
    Other,
}

thread_local! {
    // Const and without a destructor: reading it never allocates.
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

fn count() {
    if COUNTING.load(Ordering::Relaxed) && is_worker() && COUNT.fetch_add(1, Ordering::Relaxed) == 0
    {
        // To say which it was takes memory, which is not counted.
        KIND.with(|kind| kind.set(Kind::Other));
        println!("allocated by {}", std::backtrace::Backtrace::force_capture());
        KIND.with(|kind| kind.set(Kind::Worker));
    }
}

fn is_worker() -> bool {
    KIND.with(|kind| {
        if let Kind::Unknown = kind.get() {
            // What finding out allocates is not counted.
            kind.set(Kind::Other);
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("worker-")) {
                kind.set(Kind::Worker);
            }
        }
        matches!(kind.get(), Kind::Worker)
    })
}

// SAFETY: every call goes to `System` with the arguments it came with, so `System`'s promises
// are this allocator's; counting touches two atomics and a thread-local that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout, as all here do.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `pointer` came from `System` with this layout, as all here do.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts.
static TURN: Mutex<()> = Mutex::new(());

/// Allocations in workers while `work` runs.
fn counted(what: &str, work: impl FnOnce()) -> u64 {
    COUNT.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    let count = COUNT.load(Ordering::Relaxed);
    println!("{what}: {count} allocations in workers");
    count
}

/// Each with its own message there and back, in turn: several are in flight at once.
fn round_trips(clients: &mut [TcpStream], message: &[u8], rounds: usize) {
    let mut back = vec![0; message.len()];
    for _ in 0..rounds {
        for client in &mut *clients {
            client.write_all(message).unwrap();
        }
        for client in &mut *clients {
            client.read_exact(&mut back).unwrap();
            assert!(back == message);
        }
    }
}

#[test]
fn ten_thousand_round_trips_on_warm_sessions_allocate_nothing_in_a_worker() {
    let _turn = TURN.lock();
    let engine = Engine::start(plan_over(&[server(echo)]), 2);
    let mut clients: Vec<_> = (0..16).map(|_| engine.connect()).collect();
    // More sessions at once than later, so that the tables have their length.
    let mut more: Vec<_> = (0..64).map(|_| engine.connect()).collect();
    round_trips(&mut more, b"hello", 1);
    drop(more);
    let (small, large) = (vec![1; 100], vec![2; 64 << 10]);
    round_trips(&mut clients, &small, 50);
    round_trips(&mut clients, &large, 50);
    let small = counted("8,000 round trips of 100 bytes", || {
        round_trips(&mut clients, &small, 500);
    });
    let large = counted("2,000 round trips of 64 KiB", || {
        round_trips(&mut clients, &large, 125);
    });
    // A slot, a place in every table and the buffers are there from the first sessions on.
    let sessions = counted("1,000 sessions one after another", || {
        for _ in 0..1_000 {
            round_trip(&mut engine.connect(), b"hello").unwrap();
        }
    });
    assert_eq!((small, large), (0, 0));
    // On epoll the address of a connect waits in a box, as few operations have one.
    let boxes = if engine.shared.engine == Chosen::Epoll { 1_000 } else { 0 };
    assert_eq!(sessions, boxes, "nor does a session that takes a slot of another");
    drop(clients);
    engine.assert_quiet();
}

/// Allocations in a worker for a request on a warm connection: its errand, in a box.
const PER_REQUEST: u64 = 1;

/// A block of the queue of tasks that are to be polled holds so many of them, and a request wakes
/// its task twice: when it comes, and when its answer does.
const WAKES_PER_BLOCK: u64 = 31;

/// Answers every request on every connection alike.
fn web() -> std::net::SocketAddr {
    server(|mut stream| {
        let mut head = Vec::new();
        let mut byte = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut byte) {
            head.extend_from_slice(&byte[..n]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
                               Content-Length: 5\r\n\r\nhello";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        }
    })
}

fn requests(clients: &mut [TcpStream], rounds: usize) {
    let request = b"GET /a/b?c=d HTTP/1.1\r\nHost: a.test\r\nUser-Agent: test\r\n\
                    Accept: */*\r\n\r\n";
    let (mut answer, mut chunk) = (Vec::with_capacity(4096), [0; 4096]);
    for _ in 0..rounds {
        for client in &mut *clients {
            client.write_all(request).unwrap();
        }
        for client in &mut *clients {
            answer.clear();
            while !answer.ends_with(b"\r\n\r\nhello") {
                let n = client.read(&mut chunk).unwrap();
                assert!(n > 0, "it ended: {}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&chunk[..n]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        }
    }
}

#[test]
fn a_request_on_a_warm_connection_allocates_its_errand_and_no_more() {
    let _turn = TURN.lock();
    let config = format!(
        "version = 1\n[log]\naccess = \"off\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[pool.app.servers]\na = \"{}\"\n",
        web()
    );
    let loaded = sluicegate::config::load_text("main.toml", config.as_bytes());
    let plan = loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).plan;
    let engine = Engine::start(plan, 1);
    let mut clients: Vec<_> = (0..16).map(|_| engine.connect()).collect();
    requests(&mut clients, 50);
    let count = counted("8,000 requests over HTTP/1.1", || requests(&mut clients, 500));
    println!("{} a request", count as f64 / 8_000.0);
    // A part that comes later wakes once more; what is done once a second is no request's.
    let most = 8_000 * PER_REQUEST + 8_000 * 3 / WAKES_PER_BLOCK + 80;
    assert!(count <= most, "{count} for 8,000 requests, not {most}");
    drop(clients);
    engine.assert_quiet();
}
