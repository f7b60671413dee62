//! The control thread: everything rare.
//!
//! [`serve`] is `sluicegate run` after the configuration is loaded. [`start`] is the same for
//! whoever embeds it: it returns when everything is bound and the workers run, with a
//! [`Running`] to watch and to stop.
//!
//! The thread runs tokio on one core and nothing on it computes for long or waits for a file;
//! what does goes to `spawn_blocking` or, as the access log, to a thread of its own.

mod admin;
mod certificates;
mod checks;
mod commands;
mod desk;
pub mod dns;
pub mod fetch;
mod file_watch;
#[cfg(test)]
pub(crate) mod fixture;
mod followers;
pub mod instance;
pub mod jwks;
mod life;
pub mod membership;
pub mod notice;
mod notify;
mod operator;
pub mod overrides;
pub mod probe;
mod pulse;
pub mod reload;
mod scrape;
mod signals;
mod start;
mod successor;
#[cfg(test)]
mod tests;
pub mod upgrade;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::config::plan::{BindAddr, Plan};
use crate::observe::logger::Log;
use crate::runtime::async_runtime::AsyncRuntime;
use crate::runtime::engine::{self, Chosen};
use commands::{Commands, Teller};
use instance::Instance;
use reload::{Reload, Source};
use upgrade::Inherited;

/// How to serve.
#[derive(Debug)]
pub struct ServeOptions {
    /// Print a line for each listener and `ready` on stdout.
    pub announce: bool,
    /// Stop on SIGTERM and SIGINT.
    pub signals: bool,
    /// Where the process says what happens.
    pub log: Log,
    /// What a reload reads; `None`: it can only say so.
    pub source: Option<Source>,
    /// Sockets of the process before this one.
    pub inherited: Inherited,
}

impl ServeOptions {
    /// For `run`: announces, listens to signals, says things on stderr.
    #[must_use]
    pub fn process(plan: &Plan) -> Self {
        Self {
            announce: true,
            signals: true,
            log: Log::stderr(plan.log.level),
            source: None,
            inherited: Inherited::default(),
        }
    }

    /// Inside another program: says and prints nothing, and leaves signals alone.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            announce: false,
            signals: false,
            log: Log::nowhere(),
            source: None,
            inherited: Inherited::default(),
        }
    }
}

/// Why it does not serve, or serves no more. One sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeError {
    /// The system refuses something needed: a port, `io_uring` where nothing else will do. Exit
    /// code 71.
    System(String),
    /// A file that the configuration names cannot be used. Exit code 78.
    Config(String),
    /// Something broke while running. Exit code 1.
    Failed(String),
}

impl ServeError {
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) => crate::cli::REFUSED,
            Self::Config(_) => crate::cli::CONFIG,
            Self::Failed(_) => crate::cli::FAILED,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::System(text) | Self::Config(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ServeError {}

/// Who wants to know how a reload went, or why it was not even tried.
type Reply = Option<oneshot::Sender<Result<Arc<Reload>, &'static str>>>;

/// What a running instance is told.
#[derive(Debug)]
enum Command {
    /// Drain; the second one ends at once.
    Stop,
    StopNow,
    /// Read the configuration again.
    Reload(Reply),
    /// Start the program again and hand over to it.
    Upgrade,
    /// It accepts.
    HandedOver {
        pid: u32,
    },
}

/// A started instance. Dropping it lets it run on.
#[derive(Debug)]
pub struct Running {
    pub instance: Arc<Instance>,
    commands: Teller,
    thread: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// The first TCP address that listener `name` is bound to, with its real port.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let at = self.instance.plan().listeners.iter().position(|one| one.name == name)?;
        self.instance.bound()[at].iter().find_map(|bind| match bind {
            BindAddr::Ip(address) => Some(*address),
            BindAddr::Unix(_) => None,
        })
    }

    /// Stops accepting and lets sessions end, for at most `drain_timeout`; said twice, ends at
    /// once. Returns immediately.
    pub fn stop(&self) {
        // Closed: it has ended by itself. Full: it has been told twice already.
        let _ = self.commands.try_send(Command::Stop);
    }

    /// Ends at once. Returns immediately.
    pub fn stop_now(&self) {
        let _ = self.commands.try_send(Command::StopNow);
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why it broke, if it was not told to stop.
    pub fn join(self) -> Result<(), ServeError> {
        self.thread.join().unwrap_or_else(|_| {
            Err(ServeError::Failed("the control thread panicked; this is a defect".into()))
        })
    }
}

/// Serves until a signal says to stop.
///
/// # Errors
/// What the system refused, or what broke.
pub fn serve(plan: Plan, options: ServeOptions) -> Result<(), ServeError> {
    start(plan, options)?.join()
}

/// Starts serving on threads of its own. Returns when all is bound and the workers run; the
/// first checks may still be under way, see [`Instance::wait_started`].
///
/// # Errors
/// What the system refused; nothing is left bound then.
pub fn start(plan: Plan, mut options: ServeOptions) -> Result<Running, ServeError> {
    let (commands, receiver) = commands::channel();
    let (ready, started) = sync_channel(1);
    let plan = Arc::new(plan);
    let sender = commands.clone();
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let inherited = std::mem::take(&mut options.inherited);
            run(&plan, &options, inherited, sender, receiver, &ready)
        })
        .map_err(|error| ServeError::System(format!("no thread for control: {error}")))?;
    match started.recv() {
        Ok(instance) => Ok(Running { instance, commands, thread }),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => {
                ServeError::Failed("the control thread panicked; this is a defect".into())
            }
        }),
    }
}

/// The first line of the log: what runs here, and on what.
fn introduce(chosen: &Chosen, log: &Log) {
    let (version, engine) = (env!("CARGO_PKG_VERSION"), chosen.engine.as_str());
    match &chosen.refused {
        None => log.info(format_args!("sluicegate {version}, engine {engine}")),
        Some(cause) => {
            log.warn(format_args!("sluicegate {version}, engine {engine}, because {cause}"));
        }
    }
}

/// The control thread.
fn run(
    plan: &Arc<Plan>,
    options: &ServeOptions,
    inherited: Inherited,
    commands: Teller,
    receiver: Commands,
    ready: &SyncSender<Arc<Instance>>,
) -> Result<(), ServeError> {
    let chosen = engine::choose(plan.runtime.engine).map_err(ServeError::System)?;
    let engine = chosen.engine;
    let runtime =
        AsyncRuntime::new(engine).map_err(|error| ServeError::System(engine.explain(&error)))?;
    introduce(&chosen, &options.log);
    let started = start::start(plan, engine, &options.log, inherited)?;
    // Whoever started us may have gone; then nobody will stop us but a signal.
    let _ = ready.send(started.instance.clone());
    let result = runtime.block_on(async {
        if let Some(caught) = options.signals.then(|| signals::catch(&options.log)).flatten() {
            tokio::task::spawn_local(signals::listen(caught, commands.clone()));
        }
        life::live(started, options, commands, receiver).await
    });
    runtime.finish();
    options.log.flush(std::time::Duration::from_secs(1));
    result
}
