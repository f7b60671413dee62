//! `sluicegate schema`: the configuration's JSON Schema, or its reference page.

use std::process::ExitCode;

use crate::config::{reference, schema};

#[derive(Clone, Debug, clap::Args)]
pub struct SchemaArgs {
    /// Print the reference page in Markdown instead
    #[arg(long)]
    pub reference: bool,
}

#[must_use]
pub fn run(args: &SchemaArgs) -> ExitCode {
    let text = if args.reference { reference::page() } else { format!("{:#}\n", schema::schema()) };
    super::print_all(text.as_bytes())
}
