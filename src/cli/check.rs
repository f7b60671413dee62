//! `sluicegate check FILE…`: every mistake and lint of each file, by itself.
//!
//! Exit 0 when all can be used, 78 when one cannot. Needs no ring and opens no socket.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{self, Loaded, Report};

#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Configuration files; each is checked by itself, with what it includes
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print an array of findings on stdout instead of text on stderr
    #[arg(long)]
    pub json: bool,
}

#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let mut all = Vec::new();
    let mut failed = false;
    for file in &args.files {
        let outcome = config::load(file);
        failed |= outcome.is_err();
        let report = match &outcome {
            Ok(loaded) => &loaded.warnings,
            Err(report) => report,
        };
        if args.json {
            if let serde_json::Value::Array(findings) = report.to_json() {
                all.extend(findings);
            }
            continue;
        }
        print_report(report);
        if let Ok(loaded) = &outcome {
            say(&format!("{}: fine, {}", file.display(), contents(loaded)));
        }
    }
    if args.json {
        say(&format!("{:#}", serde_json::Value::Array(all)));
    }
    if failed { ExitCode::from(super::CONFIG) } else { ExitCode::SUCCESS }
}

/// Prints a report on stderr, in colour where a person reads it.
pub fn print_report(report: &Report) {
    let stderr = std::io::stderr();
    let text = report.render(stderr.is_terminal() && !crate::observe::logger::no_color());
    // Nobody is left to tell when stderr is closed.
    let _ = stderr.lock().write_all(text.as_bytes());
}

fn contents(loaded: &Loaded) -> String {
    let count =
        |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
    let servers = loaded.plan.pools.iter().map(|pool| pool.servers.len()).sum();
    format!(
        "{}, {}, {}",
        count(loaded.plan.listeners.len(), "listener"),
        count(loaded.plan.pools.len(), "pool"),
        count(servers, "server")
    )
}

fn say(line: &str) {
    // `check … | head` closes the pipe early, and that is no failure.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
