//! `sluicegate key new [--name N]`: an API key, printed once, and its hash for the
//! configuration.

use std::fmt::Write as _;
use std::process::ExitCode;

use sluicegate_l7::policy::consumer::KeyHash;

use crate::config::{NAME_BYTES_MAX, is_name};
use crate::runtime::sys;

/// How keys begin, so that one that leaked is recognised.
const PREFIX: &str = "sg_";

#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Make a key: it is printed once, and its hash for the configuration
    New {
        /// The consumer whose key it is
        #[arg(long, value_name = "NAME", default_value = "alice")]
        name: String,
    },
}

/// Makes a key of 256 random bits.
#[must_use]
pub fn run(args: &KeyArgs) -> ExitCode {
    let KeyCommand::New { name } = &args.command;
    if !is_name(name) {
        let message = format!(
            "\"{name}\" cannot be the name of a consumer: 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ . - \
             and no . or - first"
        );
        return super::fail(super::USAGE, message);
    }
    let mut key = String::from(PREFIX);
    for word in [sys::secret(), sys::secret()].concat() {
        // A String takes every write.
        let _ = write!(key, "{word:016x}");
    }
    super::print_all(said(name, &key).as_bytes())
}

fn said(name: &str, key: &str) -> String {
    let hash = KeyHash::of(key.as_bytes()).text();
    // A dot would begin another table.
    let quoted = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
    format!(
        "{key}\n\nThis key is shown once: give it to whoever asks as {name}. The configuration \
         gets its hash:\n\n[consumer.{quoted}]\nkeys = [\"{hash}\"]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_the_configuration_is_the_hash_of_the_key() {
        let text = said("bob", "sg_0123");
        let line = text.lines().last().unwrap();
        assert_eq!(line, format!("keys = [\"{}\"]", KeyHash::of(b"sg_0123").text()));
        assert!(text.starts_with("sg_0123\n") && text.contains("[consumer.bob]"));
    }

    #[test]
    fn what_is_printed_is_a_consumer_of_that_name() {
        for name in ["bob", "bob.b", "b-1"] {
            let text = said(name, "sg_0123");
            let table = text.split_once("\n\n[").unwrap().1;
            let config = format!(
                "[{table}[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p]\n\
                 servers.s = \"127.0.0.1:2\"\n"
            );
            let loaded = crate::config::load_text("a.toml", config.as_bytes());
            let plan = loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).plan;
            assert_eq!(plan.consumers[0].name, name);
        }
    }
}
