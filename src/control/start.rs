//! From a checked plan to a running process: everything that the system can refuse is asked
//! for here, in an order that leaves nothing half done.
//!
//! Listening sockets → admin socket → access log → workers. Whatever fails closes what came
//! before it and is one sentence. Which engine there is was found out before.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::ServeError;
use super::instance::Instance;
use super::membership::Membership;
use crate::config::plan::{BindAddr, Plan};
use crate::fronts::Fronts;
use crate::observe::access_log::{self, AccessLog};
use crate::observe::logger::Log;
use crate::observe::view::bind_text;
use crate::runtime::worker::{Setup, Shared};
use crate::runtime::{cpus, engine::Engine, listen, mail::Mail, worker};

/// Who may connect to an admin socket file: owner and group.
const ADMIN_SOCKET_MODE: u32 = 0o660;

/// The socket of the admin API.
#[derive(Debug)]
pub(super) enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// All that was got from the system.
#[derive(Debug)]
pub(super) struct Started {
    pub instance: Arc<Instance>,
    pub workers: Vec<JoinHandle<()>>,
    pub admin: Option<AdminSocket>,
    pub access_log: AccessLog,
}

/// Binds, opens and starts; nobody is accepted yet.
///
/// # Errors
/// The first thing that the system refuses.
pub(super) fn start(plan: &Arc<Plan>, engine: Engine, log: &Log) -> Result<Started, ServeError> {
    raise_descriptor_limit();
    let fronts = Fronts::new(plan).map_err(|error| ServeError::Config(error.to_string()))?;
    let cpus = cpus::placement(plan.runtime.workers);
    let bound =
        listen::bind(plan, cpus.len()).map_err(|error| ServeError::System(error.to_string()))?;
    let (admin, admin_address) = match &plan.admin {
        Some(admin) => {
            let (socket, address) = bind_admin(&admin.bind).map_err(|error| {
                let address = bind_text(&admin.bind);
                ServeError::System(format!("the admin API cannot bind {address}: {error}"))
            })?;
            (Some(socket), Some(address))
        }
        None => (None, None),
    };
    let log_file = access_log::open(&plan.log.access)
        .map_err(|error| ServeError::System(format!("the access log cannot be opened: {error}")))?;
    let shared = Shared::new(plan, &cpus, engine)
        .map_err(|error| ServeError::System(format!("no descriptor for a worker: {error}")))?;
    let membership = Membership::new(plan, Arc::new(fronts));
    let instance =
        Instance::new(plan.clone(), Arc::new(shared), membership, bound.addresses, admin_address);
    let instance = Arc::new(instance);
    let access_log = start_access_log(&instance, log_file, log)?;
    let workers = spawn_workers(&instance, bound.listening)?;
    Ok(Started { instance, workers, admin, access_log })
}

fn start_access_log(
    instance: &Arc<Instance>,
    file: Option<std::fs::File>,
    log: &Log,
) -> Result<AccessLog, ServeError> {
    let names = instance.clone();
    let (shared, state) = (instance.shared.clone(), instance.log_state.clone());
    let engine = shared.engine;
    AccessLog::start(shared, file, state, log.clone(), move || names.snapshot()).map_err(|error| {
        ServeError::System(format!("the access log cannot start: {}", engine.explain(&error)))
    })
}

fn spawn_workers(
    instance: &Instance,
    listening: Vec<Vec<worker::Listening>>,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let mut threads = Vec::new();
    for (id, listening) in listening.into_iter().enumerate() {
        let setup = Setup {
            id: id as u16,
            listening,
            snapshot: instance.snapshot(),
            shared: instance.shared.clone(),
            wait_for_accept: true,
            ring: worker::ring_config(),
        };
        match worker::spawn(setup) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                for worker in &instance.shared.workers {
                    // Those that did not start have nobody to read it.
                    let _ = worker.mailbox.post(Mail::Stop { timed_out: false });
                }
                let cause = instance.shared.engine.explain(&error);
                return Err(ServeError::System(format!("worker {id} cannot start: {cause}")));
            }
        }
    }
    Ok(threads)
}

/// Soft limit up to the hard one. If that is refused, the budget is what there is.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn bind_admin(bind: &BindAddr) -> io::Result<(AdminSocket, BindAddr)> {
    match bind {
        BindAddr::Ip(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = BindAddr::Ip(socket.local_addr()?);
            Ok((AdminSocket::Tcp(socket), address))
        }
        BindAddr::Unix(path) => Ok((bind_admin_unix(path)?, bind.clone())),
    }
}

fn bind_admin_unix(path: &Path) -> io::Result<AdminSocket> {
    listen::remove_stale(path)?;
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(ADMIN_SOCKET_MODE))?;
    socket.set_nonblocking(true)?;
    Ok(AdminSocket::Unix(socket))
}
