//! The command line: one file per subcommand, and the exit codes they share.
//!
//! Each file has an `Args` struct and `run(&Args) -> ExitCode`. What a command says to a
//! person or a pipe goes to stdout; why it failed goes to stderr through [`fail`], as
//! sentences that name the thing and the remedy.
//!
//! To add one: write `cli/<name>.rs`, add a variant to [`Command`] with the one line of help,
//! add its arm in [`main`]. Completions and the man page follow from the derive.

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod completions;
mod ctl;
mod demo;
mod doctor;
mod explain;
mod explain_reason;
mod key;
mod man;
mod run;
mod schema;
mod top;

/// Failed while running.
pub const FAILED: u8 = 1;
/// Wrong usage; clap itself exits with it too.
pub const USAGE: u8 = 2;
/// The system refuses something needed: a port in use, `io_uring` with `engine = "io_uring"`.
/// `EX_OSERR` of sysexits.h.
pub const REFUSED: u8 = 71;
/// The configuration is missing or wrong. `EX_CONFIG` of sysexits.h.
pub const CONFIG: u8 = 78;

const EXIT_CODES: &str = "\
Exit codes:
  0   fine
  1   failed while running
  2   wrong usage
  71  the system refuses something needed: a port in use, io_uring if only that will do
  78  the configuration is missing or wrong";

/// A Linux load balancer: TCP balanced on `io_uring`, one binary, one file.
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate",
    version,
    about = "A Linux load balancer: TCP balanced on io_uring, one binary, one file",
    after_help = EXIT_CODES,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance: accept clients and join them to servers until told to stop
    Run(run::RunArgs),
    /// Check configuration files: every error and warning at once
    Check(check::CheckArgs),
    /// Say where a client would go, and why not elsewhere; nothing is sent
    Explain(explain::ExplainArgs),
    /// Say what the `reason` of a log line means and what to look at
    #[command(name = "explain-reason")]
    ExplainReason(explain_reason::ExplainReasonArgs),
    /// Print the JSON Schema of the configuration
    Schema(schema::SchemaArgs),
    /// Ask a running instance, and tell its servers what to do, through its admin API
    Ctl(ctl::CtlArgs),
    /// Watch a running instance live on a terminal
    Top(top::TopArgs),
    /// Make an API key and its hash for the configuration
    Key(key::KeyArgs),
    /// Generate load and measure latency, in a closed or an open loop
    Bench(bench::BenchArgs),
    /// See it at work: servers, gateway and load in this process
    Demo(demo::DemoArgs),
    /// Examine the kernel, `io_uring` and limits, and say what to do about each
    Doctor(doctor::DoctorArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page (roff)
    Man(man::ManArgs),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are clap errors too, with exit code 0 and stdout of their own.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::ExplainReason(args) => explain_reason::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Says on stderr why the command failed, and returns the exit code.
///
/// `message` is one or more sentences: what failed, with its name, and what to do about it.
pub fn fail(code: u8, message: impl Display) -> ExitCode {
    eprintln!("sluicegate: {message}");
    ExitCode::from(code)
}

/// Writes a whole output to stdout. A reader that has gone (`| head`) is not a failure.
fn print_all(bytes: &[u8]) -> ExitCode {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, format_args!("cannot write to stdout: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "`{}` has no help line", command.get_name());
        }
    }

    #[test]
    fn a_wrong_argument_is_wrong_usage() {
        let error = Cli::try_parse_from(["sluicegate", "--no-such-flag"]).expect_err("refused");
        assert_eq!(error.exit_code(), i32::from(USAGE));
    }
}
