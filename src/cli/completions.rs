//! `sluicegate completions SHELL`: the completion script, from the same tree as `--help`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell, for example `bash`: `source <(sluicegate completions bash)`
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
#[must_use]
pub fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "sluicegate", &mut script);
    super::print_all(&script)
}
