//! Properties over any input: no panic, a plan or an error, and places that lie in the file.
//! `PROPTEST_CASES=100000` makes a longer search of it; a failure prints its input.

use proptest::prelude::*;

use crate::config::{Report, load_text};

/// What configurations are made of, and what breaks them.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "\n",
    "#",
    "\\",
    "\0",
    "\u{FEFF}",
    "é",
    "\u{202e}",
    "pool",
    "listener",
    "servers",
    "check",
    "type",
    "include",
    "version",
    "token",
    "\"off\"",
    "\"10s\"",
    "\"99999999999h\"",
    "\"env:\"",
    "\"file:\"",
    "\"unix:\"",
    "\"dns::\"",
    "\"srv:_\"",
    "[::]:0",
    "-1",
    "0",
    "1e9",
    "0x",
    "1979-05-27",
    "true",
    "99999999999999999999999999999999999999999999",
    "[listener.web]\n",
    "[[listener.web.route]]\n",
    "mode = \"http\"\n",
    "match",
    "redirect",
    "tls",
    "[pool.web]\n",
    "pool = \"web\"\n",
    "null",
];

fn holds(name: &str, bytes: &[u8]) {
    let check = |report: &Report| {
        for finding in report.findings() {
            let related = finding.related.iter().map(|(place, _)| *place);
            for place in std::iter::once(finding.place).chain(related) {
                let text = &report.sources().file(place.file).text;
                let (start, end) = (place.start as usize, place.end as usize);
                assert!(
                    start <= end && end <= text.len(),
                    "{finding:?} lies outside of {} bytes",
                    text.len()
                );
                assert!(
                    text.is_char_boundary(start) && text.is_char_boundary(end),
                    "{finding:?} cuts a character"
                );
            }
        }
        let _ = (report.render(true), report.to_json());
    };
    match load_text(name, bytes) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.errors(), 0);
            assert!(
                loaded
                    .plan
                    .listeners
                    .iter()
                    .filter_map(crate::config::plan::Listener::first_pool)
                    .all(|pool| pool < loaded.plan.pools.len())
            );
            check(&loaded.warnings);
        }
        Err(report) => {
            assert!(report.errors() > 0, "refused without an error");
            check(&report);
        }
    }
}

fn both(bytes: &[u8]) {
    for name in ["/none/x.toml", "/none/x.json", "/none/x"] {
        holds(name, bytes);
    }
}

/// A part of a text to cut out, and what to put there.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, Vec<&'static str>)>> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..3);
    prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, pieces), 1..6)
}

fn edited(base: &str, edits: &[(prop::sample::Index, usize, Vec<&str>)]) -> String {
    let mut chars: Vec<char> = base.chars().collect();
    for (at, cut, pieces) in edits {
        let at = at.index(chars.len() + 1);
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, pieces.concat().chars().collect::<Vec<_>>());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_plan_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        both(&bytes);
    }

    #[test]
    fn any_mixture_of_pieces_gives_a_plan_or_an_error(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60),
    ) {
        both(pieces.concat().as_bytes());
        both(pieces.join(" ").as_bytes());
    }

    #[test]
    fn an_edited_example_gives_a_plan_or_an_error(edits in edits()) {
        holds("/none/x.toml", edited(include_str!("../../../config/full.toml"), &edits).as_bytes());
        holds("/none/x.json", edited(include_str!("../../../config/minimal.json"), &edits).as_bytes());
    }
}

#[test]
fn a_mistake_at_the_tls_of_the_admin_api_is_told_as_one_of_listeners() {
    // Behind its head a table's keys are read as far as they can be.
    let full = include_str!("../../../config/full.toml");
    holds("/none/x.toml", full.replacen("[admin]", "[admin][", 1).as_bytes());
}
