//! From a checked plan to a running process: everything that the system can refuse is asked
//! for here, in an order that leaves nothing half done.
//!
//! Files → listening sockets → admin socket → workers. Whatever fails closes what came
//! before it and is one sentence. Which engine there is was found out before.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::Backlog;

use super::ServeError;
use super::instance::Instance;
use super::membership::Membership;
use super::upgrade::{Inherited, Place};
use crate::config::plan::{BindAddr, Plan};
use crate::fronts::Fronts;
use crate::observe::access_log::{self, AccessLog};
use crate::observe::logger::Log;
use crate::observe::view::bind_text;
use crate::runtime::listen::Sockets;
use crate::runtime::worker::{Setup, Shared};
use crate::runtime::{cpus, engine::Engine, listen, mail::Mail, worker};

/// Who may connect to an admin socket file: owner and group.
const ADMIN_SOCKET_MODE: u32 = 0o660;

/// Who may wait to be accepted by the admin API: a crowd that comes at once must not make the
/// kernel drop a person's first packet. The library's own number is 128.
const ADMIN_BACKLOG: u32 = 1_024;

/// The socket of the admin API.
#[derive(Debug)]
pub(super) enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl AdminSocket {
    /// Another descriptor of it, to hand over.
    pub fn copy(&self) -> Option<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.as_fd().try_clone_to_owned().ok(),
            Self::Unix(socket) => socket.as_fd().try_clone_to_owned().ok(),
        }
    }
}

/// All that was got from the system.
#[derive(Debug)]
pub(super) struct Started {
    pub instance: Arc<Instance>,
    pub sockets: Sockets,
    pub workers: Vec<JoinHandle<()>>,
    pub admin: Option<AdminSocket>,
    pub access_log: AccessLog,
}

/// Binds, opens and starts; nobody is accepted yet.
///
/// # Errors
/// The first thing that the system refuses.
pub(super) fn start(
    plan: &Arc<Plan>,
    engine: Engine,
    log: &Log,
    inherited: Inherited,
) -> Result<Started, ServeError> {
    raise_descriptor_limit();
    let fronts = Fronts::new(plan).map_err(|error| ServeError::Config(error.to_string()))?;
    // Before anything is bound, as all that the configuration names.
    let access = &plan.log.access;
    let log_file = access_log::open(access)
        .map_err(|error| ServeError::Config(access_log::explain(access, &error)))?;
    let cpus = cpus::placement(plan.runtime.workers);
    let mut sockets = Sockets::inheriting(inherited);
    let bound = sockets.rearrange(plan, cpus.len(), || Ok(()));
    let (bound, ()) = bound.map_err(ServeError::System)?;
    let (admin, admin_address) = match &plan.admin {
        Some(admin) => {
            let (socket, address) = bind_admin(&admin.bind, sockets.inherit(&Place::admin()))
                .map_err(|error| {
                    let address = bind_text(&admin.bind);
                    let why = listen::explain(&error, &admin.bind);
                    ServeError::System(format!("the admin API cannot bind {address}: {why}"))
                })?;
            (Some(socket), Some(address))
        }
        None => (None, None),
    };
    let shared = Shared::new(plan, &cpus, engine)
        .map_err(|error| ServeError::System(format!("no descriptor for a worker: {error}")))?;
    let membership = Membership::new(plan, Arc::new(fronts));
    let instance = Instance::new(Arc::new(shared), membership, bound.addresses, admin_address);
    let instance = Arc::new(instance);
    let access_log = start_access_log(&instance, log_file, log)?;
    let listening = bound.doors.into_iter().map(|doors| doors.opened).collect();
    let workers = spawn_workers(&instance, listening)?;
    Ok(Started { instance, sockets, workers, admin, access_log })
}

fn start_access_log(
    instance: &Arc<Instance>,
    file: Option<access_log::Target>,
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

fn bind_admin(bind: &BindAddr, mut given: Vec<OwnedFd>) -> io::Result<(AdminSocket, BindAddr)> {
    if let Some(fd) = given.pop()
        && let Some(inherited) = adopt_admin(bind, fd)?
    {
        return Ok(inherited);
    }
    match bind {
        BindAddr::Ip(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            nix::sys::socket::listen(&socket, Backlog::new(ADMIN_BACKLOG as i32)?)?;
            socket.set_nonblocking(true)?;
            let address = BindAddr::Ip(socket.local_addr()?);
            Ok((AdminSocket::Tcp(socket), address))
        }
        BindAddr::Unix(path) => {
            let socket = listen::bind_unix(path, ADMIN_SOCKET_MODE, ADMIN_BACKLOG)?;
            Ok((AdminSocket::Unix(socket.into()), bind.clone()))
        }
    }
}

/// The socket of the process before, if it is bound where this one wants to be.
fn adopt_admin(bind: &BindAddr, fd: OwnedFd) -> io::Result<Option<(AdminSocket, BindAddr)>> {
    let local = socket2::SockRef::from(&fd).local_addr()?;
    Ok(match (bind, local.as_socket(), local.as_pathname()) {
        (BindAddr::Ip(wanted), Some(is), _)
            if is.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == is.port()) =>
        {
            Some((AdminSocket::Tcp(fd.into()), BindAddr::Ip(is)))
        }
        (BindAddr::Unix(wanted), _, Some(is)) if wanted == is => {
            Some((AdminSocket::Unix(fd.into()), bind.clone()))
        }
        _ => None,
    })
}
