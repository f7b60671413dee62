//! `sluicegate run`: serves until a signal says to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::check::print_report;
use super::{CONFIG, REFUSED, USAGE, fail};
use crate::config::{self, Loaded, Report};
use crate::control::reload::Source;
use crate::control::upgrade::Inherited;
use crate::control::{self, ServeOptions};

/// Serve by a file, or by the one-liner without a file.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file, TOML or JSON
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "listen",
        conflicts_with = "listen"
    )]
    config: Option<PathBuf>,
    /// Address to accept clients on, as `0.0.0.0:5432` or `unix:/path`
    #[arg(long, value_name = "ADDR", requires = "to")]
    listen: Vec<String>,
    /// Server to balance over, as `10.0.0.11:5432`, `dns:db.internal:5432` or `unix:/path`
    #[arg(long, value_name = "ADDR", requires = "listen")]
    to: Vec<String>,
    /// What clients speak: tcp or http
    #[arg(long, value_name = "MODE", requires = "listen")]
    mode: Option<String>,
    /// How servers are chosen
    #[arg(long, value_name = "NAME", requires = "listen")]
    balance: Option<String>,
}

/// Runs until it is told to stop.
#[must_use]
pub fn run(args: &RunArgs) -> ExitCode {
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            // Without a file, what is wrong are the arguments.
            return ExitCode::from(if args.config.is_some() { CONFIG } else { USAGE });
        }
    };
    if !loaded.warnings.findings().is_empty() {
        print_report(&loaded.warnings);
    }
    let mut options = ServeOptions::process(&loaded.plan);
    let Loaded { plan, files, patterns, outline, .. } = loaded;
    options.source = args.config.clone().map(|path| Source { path, outline, files, patterns });
    match Inherited::from_environment() {
        Ok(inherited) => options.inherited = inherited,
        Err(error) => {
            return fail(
                REFUSED,
                format_args!("the listening sockets were not handed over: {error}"),
            );
        }
    }
    match control::serve(plan, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), error),
    }
}

fn load(args: &RunArgs) -> Result<Loaded, Report> {
    match &args.config {
        Some(path) => config::load(path),
        None => {
            config::one_liner(&args.listen, &args.to, args.mode.as_deref(), args.balance.as_deref())
        }
    }
}
