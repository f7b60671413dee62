//! What runs a fuzz target on stable: mutations of the seeds in this folder, under properties.

use std::path::Path;
use std::time::{Duration, Instant};

/// Rounds of a target if no time is given: a second or so in all.
const ROUNDS: u64 = 20_000;
/// Changes to one input.
const CHANGES_MAX: u64 = 8;
/// Longer inputs find nothing that shorter ones do not.
pub const INPUT_BYTES_MAX: usize = 2048;

/// Texts on which parsers part ways; random bytes would take long to spell them.
const WORDS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "\r\n\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Connection: ",
    "close",
    "chunked",
    "HTTP/1.0",
    "HTTP/1.1",
    "GET ",
    "X: ",
    "_",
    "\"",
    "\\",
    "0x",
    "+",
    "-",
    "00",
    "FFFFFFFFFFFFFFFF",
    "9223372036854775808",
    "http://a",
    "@",
    "#",
    "?",
    "*",
    "/",
    "//",
    "/../",
    "/./",
    "..",
    "%2e",
    "%2F",
    "%5c",
    "%3b",
    "%20",
    "%00",
    "%",
    "%25",
    "\u{7f}",
    "\u{e9}",
    "\u{a0}",
];

/// Runs one target over its seeds and their mutations.
pub fn run(target: &str, check: impl Fn(&[u8], &mut Random)) {
    let seconds = std::env::var("SLUICEGATE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = std::env::var("SLUICEGATE_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), target)
    });
    println!("{target}: SLUICEGATE_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let mut inputs = seeds(target);
    assert!(!inputs.is_empty(), "no seeds for {target}");
    let seeds = inputs.len();
    for input in &inputs {
        try_one(input, &mut random, &check);
    }
    let mut round = 0;
    while until.map_or(round < ROUNDS, |until| Instant::now() < until) {
        let mut input = inputs[random.below(inputs.len())].clone();
        mutate(&mut input, &inputs, &mut random);
        try_one(&input, &mut random, &check);
        // Some mutants breed, so that faults which take several steps are reached.
        if inputs.len() < 10 * seeds {
            inputs.push(input);
        } else if random.below(8) == 0 {
            let at = seeds + random.below(inputs.len() - seeds);
            inputs[at] = input;
        }
        round += 1;
    }
    println!("{target}: {round} rounds");
}

fn try_one(input: &[u8], random: &mut Random, check: &impl Fn(&[u8], &mut Random)) {
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(input, random)));
    if let Err(panic) = found {
        println!("on b\"{}\"", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

/// This folder, whichever of the two crates is being tested.
fn seeds_dir() -> std::path::PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    if own.is_dir() { own } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz") }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = seeds_dir().join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("seeds").map(|entry| entry.expect("a seed").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(CHANGES_MAX as usize) {
        let at = random.below(input.len() + 1);
        let end = input.len().min(at + 1 + random.below(8));
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            4 => {
                let other = &others[random.below(others.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                // One character is one byte.
                input.splice(at..at, word.chars().map(|char| char as u8));
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

/// SplitMix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
