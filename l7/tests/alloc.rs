//! No allocation for a message once the stores have grown: a binary of its own, as it counts
//! with its allocator. One test only: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sluicegate_l7::http1::{Asked, Body, Fields, Limits, request, response};
use sluicegate_l7::path;

/// Counts the allocations of each thread, and leaves the work to the system's allocator.
struct Counting;

thread_local! {
    // Const and without a destructor: reading it never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` above, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"POST /a/../b;v=1/%7euser?q HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\n\
    Connection: X-A\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_message_costs_no_allocation_once_the_stores_have_grown() {
    let mut fields = Fields::new();
    let mut out = Vec::new();
    exchange(&mut fields, &mut out);
    let before = COUNT.get();
    assert!(before > 0, "the counter does not count");
    for _ in 0..1000 {
        exchange(&mut fields, &mut out);
    }
    assert_eq!(COUNT.get() - before, 0);
}

fn exchange(fields: &mut Fields, out: &mut Vec<u8>) {
    let limits = Limits::default();
    let head = request::parse(REQUEST, &limits, fields).expect("valid").expect("complete");
    let target = head.target.of(REQUEST);
    let normal = path::normalise(target, out, &limits).expect("valid");
    assert_eq!(normal.matching(target, out), b"/b/~user");
    let piece = Body::new(head.framing, &limits).next(&REQUEST[head.len..]).expect("valid");
    assert!(piece.end);

    let head = response::parse(ANSWER, &limits, Asked::default(), fields);
    let head = head.expect("valid").expect("complete");
    let piece = Body::new(head.framing, &limits).next(&ANSWER[head.len..]).expect("valid");
    assert!(piece.end);
}
