//! What an encoder takes of memory: a binary of its own, as it counts with its allocator. One
//! test only: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sluicegate_l7::compress::Encoder;
use sluicegate_l7::route::spec::Algorithm;

/// Counts the bytes that each thread has, and leaves the work to the system's allocator.
struct Counting;

thread_local! {
    // Const and without a destructor: reading it never allocates.
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get().wrapping_add(layout.size()));
        MOST.set(MOST.get().max(BYTES.get()));
        // SAFETY: the caller upholds what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get().wrapping_sub(layout.size()));
        // SAFETY: the block came from `alloc` above, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Words of a small vocabulary in no order, or bytes of which none tells of the next.
fn body(is_text: bool) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::new();
    while bytes.len() < 2 << 20 {
        let some = next();
        if is_text {
            bytes.extend_from_slice(format!("word{} ", some % 5_000).as_bytes());
        } else {
            bytes.extend_from_slice(&some.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn an_encoder_takes_no_more_memory_than_it_says_whatever_is_pushed() {
    for algorithm in [Algorithm::Brotli, Algorithm::Gzip] {
        for is_text in [true, false] {
            for piece in [1_000, 16 << 10, 160 << 10] {
                let body = body(is_text);
                // What comes out is the caller's.
                let mut out = Vec::with_capacity(2 * body.len());
                let before = BYTES.get();
                MOST.set(before);
                let mut encoder = Encoder::new(algorithm);
                for piece in body.chunks(piece) {
                    encoder.push(piece, &mut out);
                }
                let (took, max) = (MOST.get() - before, Encoder::bytes_max(algorithm));
                println!("{algorithm:?}, text {is_text}, {piece} at once: {took} of {max} bytes");
                assert!(took <= max && took > max / 2, "{took} of {max} bytes");
            }
        }
    }
}
