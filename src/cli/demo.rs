//! `sluicegate demo`: see it at work, with nothing else installed.

use std::process::ExitCode;
use std::time::Duration;

use crate::config::units;
use crate::demo::{self, Options};

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End by itself after this long, for example 10s; else q or Ctrl-C ends it
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration)]
    length: Option<Duration>,
    /// Accept clients on this port of loopback; the admin API is two above, or on a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Print nothing but the summary, as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the demo and prints its summary.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    let options = Options { length: args.length, port: args.port, quiet: args.json };
    let summary = match demo::run(options) {
        Ok(summary) => summary,
        Err(error) => return super::fail(error.exit_code(), error),
    };
    let text = if args.json { format!("{}\n", summary.json()) } else { summary.text() };
    let printed = super::print_all(text.as_bytes());
    if summary.tally.requests == 0 {
        return super::fail(super::FAILED, "no request succeeded; the summary says why");
    }
    printed
}
