//! No allocation on the relay path: a binary of its own, as it counts with its allocator.
//!
//! Counted are allocations of threads that call themselves `worker-…`; the far ends of the
//! test allocate as they like. One test only: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[allow(dead_code, reason = "shared with the end-to-end tests")]
#[path = "it/engine.rs"]
mod engine;

use engine::{Engine, echo, plan_over, round_trip, server};

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
    let engine = Engine::start(plan_over(&[server(echo)]), 2);
    let mut clients: Vec<_> = (0..16).map(|_| engine.connect()).collect();
    // More sessions at once than later, so that the tables have their length.
    let mut more: Vec<_> = (0..64).map(|_| engine.connect()).collect();
    round_trips(&mut more, b"hello", 1);
    drop(more);
    let (small, large) = (vec![1; 100], vec![2; 64 << 10]);
    round_trips(&mut clients, &small, 50);
    round_trips(&mut clients, &large, 50);
    let counted = |what: &str, work: &mut dyn FnMut()| {
        COUNT.store(0, Ordering::Relaxed);
        COUNTING.store(true, Ordering::SeqCst);
        work();
        COUNTING.store(false, Ordering::SeqCst);
        let count = COUNT.load(Ordering::Relaxed);
        println!("{what}: {count} allocations in workers");
        count
    };
    let small = counted("8,000 round trips of 100 bytes", &mut || {
        round_trips(&mut clients, &small, 500);
    });
    let large = counted("2,000 round trips of 64 KiB", &mut || {
        round_trips(&mut clients, &large, 125);
    });
    // A slot, a place in every table and the buffers are there from the first sessions on.
    let sessions = counted("1,000 sessions one after another", &mut || {
        for _ in 0..1_000 {
            round_trip(&mut engine.connect(), b"hello").unwrap();
        }
    });
    assert_eq!((small, large), (0, 0));
    assert_eq!(sessions, 0, "nor does a session that takes a slot of another");
    drop(clients);
    engine.assert_quiet();
}
