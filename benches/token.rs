//! Packing and reading the 64 bits of each operation: `cargo bench --bench token`.

use divan::{Bencher, black_box};
use sluicegate::runtime::token::{Tag, Token};

fn main() {
    divan::main();
}

#[divan::bench]
fn pack(bencher: Bencher<'_, '_>) {
    let (slot, generation) = (12_345, 678);
    bencher.bench_local(|| {
        Token::new(Tag::Session, black_box(7), black_box(slot), black_box(generation)).bits()
    });
}

#[divan::bench]
fn unpack(bencher: Bencher<'_, '_>) {
    let bits = Token::new(Tag::Session, 7, 12_345, 678).bits();
    bencher.bench_local(|| {
        let token = Token::from_bits(black_box(bits));
        (token.tag(), token.op(), token.slot(), token.generation())
    });
}
