//! The engine without its control thread: workers over real sockets, a plan made by hand.
//!
//! For claims about bytes and ends of connections, where a process of its own would only add
//! noise. Far ends are plain blocking std sockets with deadlines.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluicegate::config::plan::{self, BindAddr, Plan};
use sluicegate::fronts::Fronts;
use sluicegate::net::Endpoint;
use sluicegate::observe::counters::{ServerCounts, WorkerCounts};
use sluicegate::observe::reason::{REASONS, Reason};
use sluicegate::registry::{
    ListenerId, ListenerState, Member, PoolId, PoolSnapshot, PoolState, ServerId, ServerState,
    Snapshot, Waiter,
};
use sluicegate::runtime::mail::Mail;
use sluicegate::runtime::uring::UringConfig;
use sluicegate::runtime::worker::{self, Setup, Shared};
use sluicegate::runtime::{engine, listen};
use socket2::{Domain, Socket, Type};

/// Longer than anything here takes on a slow machine; a test that gets there has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Engine {
    pub shared: Arc<Shared>,
    pub snapshot: Arc<Snapshot>,
    pub address: SocketAddr,
    /// By listener, with real ports.
    pub bound: Vec<Vec<BindAddr>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A plan with one listener on a free port and one pool over `servers`.
pub fn plan_over(servers: &[SocketAddr]) -> Plan {
    let server = |(at, address): (usize, &SocketAddr)| {
        planned_server(&format!("s{at}"), plan::ServerAddr::Ip(*address))
    };
    Plan {
        policies: Vec::new(),
        consumers: Vec::new(),
        runtime: plan::Runtime {
            engine: plan::EngineChoice::Auto,
            workers: None,
            timeout_drain: Duration::from_secs(5),
            delay_shutdown: None,
            max_conns: None,
            dns: plan::Dns {
                servers: Vec::new(),
                ttl_min: Duration::from_secs(1),
                ttl_max: Duration::from_secs(300),
                refuse: Vec::new(),
            },
            watch: false,
        },
        admin: None,
        log: plan::Log {
            access: plan::AccessLog::Off,
            level: plan::Level::Info,
            lines: plan::LogLines::default(),
        },
        listeners: vec![plan::Listener::tcp(
            "l",
            vec![BindAddr::Ip(([127, 0, 0, 1], 0).into())],
            0,
        )],
        pools: vec![plan::Pool::of("p", servers.iter().enumerate().map(server).collect())],
        shown: serde_json::Value::Null,
        hash: String::new(),
    }
}

pub fn planned_server(name: &str, address: plan::ServerAddr) -> plan::Server {
    plan::Server { name: name.into(), address, weight: 1, max_conns: None, backup: false }
}

impl Engine {
    /// Every pool and listener of `plan`, all servers up.
    pub fn start(plan: Plan, workers: usize) -> Self {
        Self::start_on(plan, workers, worker::ring_config())
    }

    pub fn start_on(plan: Plan, workers: usize, ring: UringConfig) -> Self {
        let plan = Arc::new(plan);
        let mut servers = Vec::new();
        let pools = plan.pools.iter().enumerate().map(|(pool, planned)| PoolSnapshot {
            state: Arc::new(PoolState::new(&planned.name, None)),
            members: members(PoolId(pool as u16), planned, &mut servers),
        });
        let pools = pools.collect();
        let listeners = plan.listeners.iter().map(|listener| {
            let name = listener.name.as_str().into();
            Arc::new(ListenerState { name, active: crossbeam::utils::CachePadded::default() })
        });
        let listeners = listeners.collect();
        let fronts = Arc::new(Fronts::new(&plan).unwrap());
        let snapshot = Arc::new(Snapshot {
            plan: Arc::clone(&plan),
            listeners,
            pools,
            servers,
            fronts,
            version: 1,
        });
        // On a thread of its own: the end of the ring that it tries interrupts calls of its maker.
        let wanted = plan.runtime.engine;
        let chosen = std::thread::spawn(move || engine::choose(wanted)).join();
        let engine = chosen.unwrap().unwrap().engine;
        let shared = Arc::new(Shared::new(&plan, &vec![None; workers], engine).unwrap());
        let mut sockets = listen::Sockets::default();
        let (bound, ()) = sockets.rearrange(&plan, workers, || Ok(())).unwrap();
        // The workers' descriptors are the only ones, so that their end is the sockets'.
        drop(sockets);
        let address = bound.addresses[0].iter().find_map(|address| match address {
            BindAddr::Ip(address) => Some(*address),
            BindAddr::Unix(_) => None,
        });
        let threads = bound.doors.into_iter().enumerate().map(|(id, doors)| {
            worker::spawn(Setup {
                id: id as u16,
                listening: doors.opened,
                snapshot: Arc::clone(&snapshot),
                shared: Arc::clone(&shared),
                wait_for_accept: false,
                ring,
            })
            .unwrap()
        });
        let threads = threads.collect();
        let address = address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        Self { shared, snapshot, address, bound: bound.addresses, threads }
    }

    /// The address a listener is bound to, by its place in the plan.
    pub fn address_of(&self, listener: usize) -> SocketAddr {
        let BindAddr::Ip(address) = self.bound[listener][0] else { panic!("a unix listener") };
        address
    }

    /// Says that a server is up or down, as the control thread does after a check.
    pub fn set_up(&self, server: u32, up: bool) {
        self.state(server).up.store(up, Ordering::Release);
        if up {
            self.release_waiters(self.state(server).pool.0);
        }
    }

    pub fn state(&self, server: u32) -> &ServerState {
        &self.snapshot.servers[server as usize]
    }

    pub fn load(&self, server: u32) -> u32 {
        self.state(server).load.load(Ordering::Relaxed)
    }

    pub fn pool(&self) -> &PoolState {
        &self.snapshot.pools[0].state
    }

    pub fn waiting(&self) -> u32 {
        self.pool().waiting.load(Ordering::Acquire)
    }

    /// Lets as many waiting clients go as may be on their way at once; workers do the rest.
    pub fn release_waiters(&self, pool: u16) {
        let state = &self.snapshot.pools[usize::from(pool)].state;
        while state.release(u32::MAX, |Waiter { worker, slot, generation, .. }| {
            let mail = Mail::Released { pool: PoolId(pool), slot, generation };
            self.shared.workers[usize::from(worker)].mailbox.post(mail).is_ok()
        }) {}
    }

    pub fn post_all(&self, mail: impl Fn() -> Mail) {
        for worker in &self.shared.workers {
            assert!(worker.mailbox.post(mail()).is_ok(), "a worker's mailbox is full");
        }
    }

    /// A count of a server, over all workers.
    pub fn of_server(&self, server: u32, count: impl Fn(&ServerCounts) -> u64) -> u64 {
        let workers = self.shared.workers.iter();
        workers.map(|worker| count(worker.counts.server(ServerId(server)))).sum()
    }

    /// A count of the workers themselves, summed.
    pub fn of_workers(&self, count: impl Fn(&WorkerCounts) -> u64) -> u64 {
        self.shared.workers.iter().map(|worker| count(&worker.counts)).sum()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        with_deadline(stream)
    }

    pub fn sessions(&self) -> u32 {
        let workers = self.shared.workers.iter();
        workers.map(|worker| worker.counts.sessions.load(Ordering::Relaxed)).sum()
    }

    pub fn ended(&self, reason: Reason) -> u64 {
        let workers = self.shared.workers.iter();
        let of = |worker: &worker::WorkerHandle| {
            (0..self.bound.len() as u16)
                .map(|id| worker.counts.listener(ListenerId(id)).ended[reason as usize].value())
                .sum::<u64>()
        };
        workers.map(of).sum()
    }

    /// Every reason with a count, for messages.
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        let all = REASONS.iter().map(|&reason| (reason.as_str(), self.ended(reason)));
        all.filter(|&(_, count)| count > 0).collect()
    }

    /// Payload that ended sessions brought: from clients, from servers, and how much of it a
    /// reset kept from the other side.
    pub fn bytes(&self) -> [u64; 3] {
        let count = |count: fn(&WorkerCounts) -> u64| self.of_workers(count);
        [
            count(|counts| counts.listener(ListenerId(0)).bytes_in.value()),
            count(|counts| counts.listener(ListenerId(0)).bytes_out.value()),
            count(|counts| counts.bytes_lost.value()),
        ]
    }

    /// Waits until so many sessions ended for exactly these reasons: a client sees its end a
    /// moment before it is counted.
    pub fn assert_reasons(&self, wanted: &[(&'static str, u64)]) {
        let wait = Duration::from_secs(5);
        let begun = Instant::now();
        while self.reasons() != wanted && begun.elapsed() < wait {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        assert_eq!(self.reasons(), wanted);
    }

    pub fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < DEADLINE, "waiting for {what}: {:?}", self.reasons());
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// All sessions gone, all gauges at zero, nothing panicked.
    pub fn assert_quiet(&self) {
        self.wait_for("the last session to end", |engine| engine.sessions() == 0);
        for server in &self.snapshot.servers {
            assert_eq!(server.load.load(Ordering::Relaxed), 0, "load of {}", server.name);
        }
        for listener in &self.snapshot.listeners {
            assert_eq!(listener.active.load(Ordering::Relaxed), 0, "sessions of {}", listener.name);
        }
        for pool in &self.snapshot.pools {
            assert_eq!(
                pool.state.waiting.load(Ordering::Acquire),
                0,
                "waiting at {}",
                pool.state.name
            );
            assert_eq!(
                pool.state.released.load(Ordering::Acquire),
                0,
                "released by {}",
                pool.state.name
            );
        }
        for worker in &self.shared.workers {
            assert_eq!(worker.counts.panics.value(), 0);
        }
    }
}

fn members(pool: PoolId, planned: &plan::Pool, all: &mut Vec<Arc<ServerState>>) -> Vec<Member> {
    let member = |server: &plan::Server| {
        let endpoint = match &server.address {
            plan::ServerAddr::Ip(address) => Endpoint::Ip(*address),
            plan::ServerAddr::Unix(path) => Endpoint::Unix(path.as_path().into()),
            name => panic!("{name:?}: there is no resolver here"),
        };
        let id = ServerId(all.len() as u32);
        let state = Arc::new(ServerState::new(id, pool, &server.name, endpoint, true));
        all.push(Arc::clone(&state));
        let max_conns = server.max_conns.map(std::num::NonZero::get);
        Member { state, weight: server.weight, max_conns, backup: server.backup }
    };
    planned.servers.iter().map(member).collect()
}

impl Drop for Engine {
    fn drop(&mut self) {
        for worker in &self.shared.workers {
            let _ = worker.mailbox.post(Mail::Stop { timed_out: false });
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A server whose every connection is served by `serve` on a thread of its own.
pub fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = listening();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let stream = with_deadline(stream);
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A listener with room for everybody who comes at once; std's own has 128 places.
pub fn listening() -> TcpListener {
    let socket = shared_port(([127, 0, 0, 1], 0).into());
    socket.listen(4096).unwrap();
    socket.into()
}

/// Sends back what comes, then a FIN after the client's.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Closes with an RST.
pub fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// A server that can go away, with all its sessions, and come back at the same address.
///
/// Its port stays bound while nobody listens, so that no other process can take it. Each
/// connection gets [`Backend::greeting`] first, then an echo.
pub struct Backend {
    pub address: SocketAddr,
    tag: u8,
    _port: Socket,
    listener: Option<Socket>,
    state: Arc<BackendState>,
}

#[derive(Default)]
struct BackendState {
    accepted: AtomicU32,
    /// Sessions from before a kill end with an RST.
    kills: AtomicU32,
    /// By number of the connection.
    open: Mutex<BTreeMap<u32, TcpStream>>,
}

/// What a [`Backend`] says first: its tag, and how many connections came before this one.
pub const GREETING_LEN: usize = 5;

impl Backend {
    /// Bound; connects are refused until [`Backend::listen`].
    pub fn silent(tag: u8) -> Self {
        let port = shared_port(([127, 0, 0, 1], 0).into());
        let address = port.local_addr().unwrap().as_socket().unwrap();
        Self { address, tag, _port: port, listener: None, state: Arc::default() }
    }

    pub fn start(tag: u8) -> Self {
        let mut backend = Self::silent(tag);
        backend.listen();
        backend
    }

    pub fn listen(&mut self) {
        let listener = shared_port(self.address);
        listener.listen(4096).unwrap();
        self.listener = Some(listener.try_clone().unwrap());
        let (state, tag) = (Arc::clone(&self.state), self.tag);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let number = state.accepted.fetch_add(1, Ordering::Relaxed);
                let kills = state.kills.load(Ordering::Acquire);
                let stream = with_deadline(socket.into());
                state.open.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let state = Arc::clone(&state);
                let serve = move || {
                    serve_backend(&stream, tag, number);
                    state.open.lock().unwrap().remove(&number);
                    if state.kills.load(Ordering::Acquire) != kills {
                        reset(stream);
                    }
                };
                std::thread::Builder::new().stack_size(128 << 10).spawn(serve).unwrap();
            }
        });
    }

    /// Resets every session; from now on connects are refused.
    pub fn kill(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.shutdown(Shutdown::Both).unwrap();
        }
        self.state.kills.fetch_add(1, Ordering::AcqRel);
        for stream in std::mem::take(&mut *self.state.open.lock().unwrap()).values() {
            // Wakes its thread, which resets it.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    pub fn accepted(&self) -> u32 {
        self.state.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve_backend(mut stream: &TcpStream, tag: u8, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    let mut buffer = [0; 16 << 10];
    if stream.write_all(&[tag, a, b, c, d]).is_ok() {
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    }
}

fn shared_port(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

/// Tag and number of a [`Backend`]'s greeting.
pub fn greeting(stream: &mut impl Read) -> std::io::Result<(u8, u32)> {
    let mut bytes = [0; GREETING_LEN];
    stream.read_exact(&mut bytes)?;
    let [tag, a, b, c, d] = bytes;
    Ok((tag, u32::from_be_bytes([a, b, c, d])))
}

/// One message there and back.
pub fn round_trip(stream: &mut (impl Read + Write), message: &[u8]) -> std::io::Result<()> {
    stream.write_all(message)?;
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back)?;
    assert!(back == message, "the echo differs");
    Ok(())
}

pub fn with_deadline(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Asserts that the next thing on `stream` is an RST.
pub fn assert_reset(mut stream: impl Read, who: &str) {
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).expect_err(who);
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{who}: {error}");
}

/// Connects from this address of the loopback.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    with_deadline(socket.into())
}

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// CPU time of this process's workers so far.
pub fn workers_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ns = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        name.starts_with("worker-").then(|| text.split(' ').next()?.parse::<u64>().ok())?
    });
    Duration::from_nanos(ns.sum())
}
