//! `sluicegate man`: the manual page, from the same tree as `--help`.
//!
//! One page with a section per command, so that `sluicegate man | man --local-file -` shows
//! everything there is.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

#[derive(Debug, clap::Args)]
pub struct ManArgs {}

/// Prints the page in roff.
#[must_use]
pub fn run(_args: &ManArgs) -> ExitCode {
    let mut page = Vec::new();
    match write_page(&mut page) {
        Ok(()) => super::print_all(&page),
        Err(error) => super::fail(super::FAILED, format_args!("cannot render the page: {error}")),
    }
}

fn write_page(out: &mut impl Write) -> io::Result<()> {
    let mut root = super::Cli::command();
    root.build();
    Man::new(root.clone()).render(out)?;
    for command in root.get_subcommands() {
        let name = command.get_name().to_uppercase().replace('-', "\\-");
        writeln!(out, ".SH \"SLUICEGATE {name}\"")?;
        if let Some(about) = command.get_about() {
            writeln!(out, "{about}.")?;
        }
        let page = Man::new(command.clone().display_name(format!("sluicegate {name}")));
        page.render_synopsis_section(out)?;
        page.render_options_section(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_section_for_every_command() {
        let mut page = Vec::new();
        write_page(&mut page).expect("a Vec takes everything");
        let page = String::from_utf8(page).expect("roff is text");
        for command in super::super::Cli::command().get_subcommands() {
            let name = command.get_name().to_uppercase().replace('-', "\\-");
            assert!(page.contains(&format!("SLUICEGATE {name}\"")), "no section for {name}");
        }
    }
}
