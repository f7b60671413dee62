//! What checking a configuration costs: a small file, a large one, and one full of mistakes.

use std::fmt::Write as _;

use sluicegate::config::load_text;

fn main() {
    divan::main();
}

/// A configuration of `pools` pools with ten servers each and a listener for every fourth.
fn file(pools: usize) -> String {
    let mut text = String::from("version = 1\n");
    for n in 0..pools {
        if n % 4 == 0 {
            let _ = writeln!(
                text,
                "[listener.l{n}]\nbind = \"127.0.0.1:{}\"\npool = \"p{n}\"",
                1_024 + n
            );
        }
        let _ = writeln!(
            text,
            "[pool.p{n}]\nbalance = \"least-conn\"\ncheck = {{ type = \"tcp\", every = \"5s\" }}"
        );
        for server in 0..10 {
            let _ = writeln!(
                text,
                "servers.s{server} = {{ addr = \"10.0.{}.{server}:80\", weight = 3 }}",
                n % 250
            );
        }
    }
    text
}

#[divan::bench(args = [1, 10, 100, 800])]
fn pools(bencher: divan::Bencher<'_, '_>, pools: usize) {
    let text = file(pools);
    bencher
        .counter(divan::counter::BytesCount::new(text.len()))
        .bench(|| load_text("bench.toml", divan::black_box(text.as_bytes())).is_ok());
}

#[divan::bench]
fn a_thousand_mistakes(bencher: divan::Bencher<'_, '_>) {
    let text = file(100).replace("weight", "wieght");
    bencher.counter(divan::counter::BytesCount::new(text.len())).bench(|| {
        load_text("bench.toml", divan::black_box(text.as_bytes()))
            .map_err(|report| report.render(false))
            .is_err()
    });
}
