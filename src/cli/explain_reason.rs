//! `sluicegate explain-reason [WORD]`: what the `reason` of a log line means.
//!
//! The text comes from the table that the data path itself uses, so a word that can appear in
//! a log is known here. Without a word, the whole table.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::observe::reason::{REASONS, Reason};

#[derive(Debug, clap::Args)]
pub struct ExplainReasonArgs {
    /// The word, for example `server-reset`; without it, all of them
    #[arg(value_name = "WORD")]
    word: Option<String>,
}

/// Prints one explanation or all. An unknown word is wrong usage, with the nearest known one.
#[must_use]
pub fn run(args: &ExplainReasonArgs) -> ExitCode {
    let Some(word) = &args.word else {
        return super::print_all(table().as_bytes());
    };
    match Reason::from_word(word) {
        Some(reason) => super::print_all(format!("{}\n", reason.explain()).as_bytes()),
        None => super::fail(super::USAGE, unknown(word)),
    }
}

fn table() -> String {
    let width = REASONS.iter().map(|reason| reason.as_str().len()).max().unwrap_or(0);
    let mut table = String::new();
    for reason in REASONS {
        let _ = writeln!(table, "{:width$}  {}", reason.as_str(), reason.explain());
    }
    table
}

fn unknown(word: &str) -> String {
    let nearest = REASONS
        .iter()
        .map(|reason| (strsim::jaro_winkler(word, reason.as_str()), reason.as_str()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8);
    match nearest {
        Some((_, near)) => format!("there is no reason `{word}`; did you mean `{near}`?"),
        None => format!("there is no reason `{word}`; `sluicegate explain-reason` lists them all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_reason_once() {
        assert_eq!(table().lines().count(), Reason::COUNT);
    }

    #[test]
    fn a_misspelt_word_leads_to_the_right_one() {
        assert!(unknown("server-rest").contains("did you mean `server-reset`?"));
        assert!(unknown("zzz").contains("lists them all"));
    }
}
