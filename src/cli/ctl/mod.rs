//! `sluicegate ctl`: talks to a running instance through its admin API.

mod client;
mod events;
mod reload;
mod servers;
mod table;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{FAILED, USAGE, fail, print_all};
use crate::observe::status::Status;
use crate::registry::AdminState;
pub(super) use client::{AdminUrl, Client, Target};
use servers::ServerPath;
pub(super) use table::{Table, span};

/// Where the admin API is when nobody says otherwise: the address in the documentation.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9901";

#[derive(Debug, Args)]
pub struct CtlArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print the answer as the API gives it
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

/// Whom to ask, and how to be let in.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// The admin API, as `http://127.0.0.1:9901`, `https://lb1.example.com:9901` or `unix:/path`;
    /// default: `SLUICEGATE_ADMIN`
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// The admin token; default: `SLUICEGATE_TOKEN`
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// With https://: authorities to believe, as PEM; default: `SLUICEGATE_ADMIN_CA`, else those of
    /// this machine
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// With https://: our certificate, as PEM; default: `SLUICEGATE_ADMIN_CERT`
    #[arg(long, value_name = "FILE", global = true, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key; default: `SLUICEGATE_ADMIN_KEY`
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
enum CtlCommand {
    /// Listeners, pools and servers: what is up, and what it does
    Status {
        /// Only the policies that take longest, by route
        #[arg(long)]
        slow: bool,
    },
    /// Have the configuration read again; exit 78 and the report when it cannot be used
    Reload,
    /// Give a server nothing new; its sessions go on, and so do its checks
    Drain {
        /// The server
        #[arg(value_name = "POOL/SERVER")]
        server: ServerPath,
        /// Come back when its last session has ended; after this long, fail
        #[arg(long, value_name = "TIME", value_parser = crate::config::units::duration)]
        wait: Option<Duration>,
    },
    /// Give a server clients again; after maintenance, once a check has passed
    Ready {
        /// The server
        #[arg(value_name = "POOL/SERVER")]
        server: ServerPath,
    },
    /// Count a server as down and leave it unchecked
    Maint {
        /// The server
        #[arg(value_name = "POOL/SERVER")]
        server: ServerPath,
    },
    /// Change a server's share, relative to the others
    Weight {
        /// The server
        #[arg(value_name = "POOL/SERVER")]
        server: ServerPath,
        /// The weight that the file has ends the change
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
        weight: u16,
    },
    /// Print what happened lately, then what happens, until interrupted
    Events,
}

#[must_use]
pub fn run(args: &CtlArgs) -> ExitCode {
    let target = match args.target.find() {
        Ok(target) => target,
        Err(error) => return fail(USAGE, error),
    };
    let client = match Client::new(target) {
        Ok(client) => client,
        Err(error) => return fail(FAILED, error),
    };
    let json = args.json;
    let done = match &args.command {
        CtlCommand::Status { slow } => status(&client, json, *slow),
        CtlCommand::Reload => reload::run(&client, json),
        CtlCommand::Drain { server, wait } => servers::drain(&client, server, *wait, json),
        CtlCommand::Ready { server } => servers::state(&client, server, AdminState::Ready, json),
        CtlCommand::Maint { server } => servers::state(&client, server, AdminState::Maint, json),
        CtlCommand::Weight { server, weight } => servers::weight(&client, server, *weight, json),
        CtlCommand::Events => events::follow(&client, json),
    };
    done.unwrap_or_else(|error| fail(FAILED, error))
}

impl TargetArgs {
    /// What the command line says, else the environment.
    ///
    /// # Errors
    /// What is wrong with the address, or does not go with it.
    pub(super) fn find(&self) -> Result<Target, String> {
        let text =
            |given: &Option<String>, name| given.clone().or_else(|| std::env::var(name).ok());
        let file = |given: &Option<PathBuf>, name| {
            given.clone().or_else(|| std::env::var_os(name).map(PathBuf::from))
        };
        let url = text(&self.admin, "SLUICEGATE_ADMIN");
        let url = AdminUrl::parse(url.as_deref().unwrap_or(ADMIN_DEFAULT))?;
        let said = [(&self.ca, "--ca"), (&self.cert, "--cert")];
        let said = said.into_iter().find(|(file, _)| file.is_some());
        if let (Some((_, option)), false) = (said, matches!(url, AdminUrl::Https(_))) {
            return Err(format!("{option} goes with an https:// address, not with {url}"));
        }
        let (cert, key) =
            (file(&self.cert, "SLUICEGATE_ADMIN_CERT"), file(&self.key, "SLUICEGATE_ADMIN_KEY"));
        Ok(Target {
            url,
            token: text(&self.token, "SLUICEGATE_TOKEN"),
            ca: file(&self.ca, "SLUICEGATE_ADMIN_CA"),
            client: cert.zip(key),
        })
    }
}

fn status(client: &Client, json: bool, slow: bool) -> Result<ExitCode, String> {
    let body = client.get("/v1/status")?;
    if json {
        return Ok(print_all(&body));
    }
    let status: Status = client.read(&body)?;
    if slow {
        return Ok(print_all(table::slowest(&status).as_bytes()));
    }
    let colour = std::io::stdout().is_terminal() && !crate::observe::logger::no_color();
    Ok(print_all(table::render(&status, colour).as_bytes()))
}
