//! `sluicegate ctl`: talks to a running instance through its admin API.

mod client;
mod table;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{FAILED, USAGE, fail, print_all};
use crate::observe::status::Status;
pub(super) use client::{AdminUrl, change, get};
pub(super) use table::{Table, span};

/// Where the admin API is when nobody says otherwise: the address in the documentation.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9901";

#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The admin API, as `http://127.0.0.1:9901` or `unix:/path`; default: `SLUICEGATE_ADMIN`
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// The admin token; default: `SLUICEGATE_TOKEN`
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// Print the answer as the API gives it
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum CtlCommand {
    /// Listeners, pools and servers: what is up, and what it does
    Status {
        /// Only the policies that take longest, by route
        #[arg(long)]
        slow: bool,
    },
}

#[must_use]
pub fn run(args: &CtlArgs) -> ExitCode {
    let (url, token) = match target(args.admin.as_deref(), args.token.as_deref()) {
        Ok(target) => target,
        Err(error) => return fail(USAGE, error),
    };
    match args.command {
        CtlCommand::Status { slow } => status(&url, token.as_deref(), args.json, slow),
    }
}

/// Whom to ask, and with which token: as the command line says, else the environment.
///
/// # Errors
/// What is wrong with the address.
pub(super) fn target(
    admin: Option<&str>,
    token: Option<&str>,
) -> Result<(AdminUrl, Option<String>), String> {
    let or_env = |given: Option<&str>, name| match given {
        Some(given) => Some(given.to_owned()),
        None => std::env::var(name).ok(),
    };
    let url = or_env(admin, "SLUICEGATE_ADMIN");
    let url = AdminUrl::parse(url.as_deref().unwrap_or(ADMIN_DEFAULT))?;
    Ok((url, or_env(token, "SLUICEGATE_TOKEN")))
}

fn status(url: &AdminUrl, token: Option<&str>, json: bool, slow: bool) -> ExitCode {
    let body = match get(url, "/v1/status", token) {
        Ok(body) => body,
        Err(error) => return fail(FAILED, error),
    };
    if json {
        return print_all(&body);
    }
    match serde_json::from_slice::<Status>(&body) {
        Ok(status) if slow => print_all(table::slowest(&status).as_bytes()),
        Ok(status) => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print_all(table::render(&status, colour).as_bytes())
        }
        Err(error) => fail(FAILED, format_args!("{url} answered something unexpected: {error}")),
    }
}
