//! The memory a session's bytes wait in: `cargo bench --bench buffers`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use sluicegate::runtime::buffers::{Buffers, Queue, Sizes};

fn main() {
    divan::main();
}

fn buffers() -> Buffers {
    Buffers::new(Sizes::default()).expect("address space for one worker's buffers")
}

#[divan::bench]
fn take_and_give(bencher: Bencher<'_, '_>) {
    let mut buffers = buffers();
    bencher.bench_local(|| {
        let block = buffers.take_block().expect("each is given back");
        buffers.give(black_box(block));
    });
}

/// A received chunk on its way: into the queue, sent in one go, out of it.
#[divan::bench]
fn push_and_sent(bencher: Bencher<'_, '_>) {
    let mut buffers = buffers();
    let mut queue = Queue::default();
    let chunk = buffers.ring_chunk(0);
    bencher.bench_local(|| {
        buffers.set(chunk, 0, 512);
        queue.push(black_box(chunk), &mut buffers);
        queue.sent(512, &mut buffers)
    });
}

/// A chunk that meets a slow peer: copied from the ring into a block.
#[divan::bench(args = [128, 4_096])]
fn copy_to_block(bencher: Bencher<'_, '_>, len: u32) {
    let mut buffers = buffers();
    let chunk = buffers.ring_chunk(0);
    let block = buffers.take_block().expect("the first one");
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        buffers.set(chunk, 0, len);
        buffers.set(block, 0, 0);
        buffers.copy(black_box(chunk), block)
    });
}
