//! The engine without its control thread: workers over real sockets, a plan made by hand.
//!
//! For claims about bytes and ends of connections, where a process of its own would only add
//! noise. Far ends are plain blocking std sockets with deadlines.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluicegate::config::plan::{self, BindAddr, Plan};
use sluicegate::control::notice::Notice;
use sluicegate::observe::reason::{REASONS, Reason};
use sluicegate::registry::{
    ListenerId, ListenerState, Member, PoolId, PoolSnapshot, PoolState, ServerId, ServerState,
    Snapshot,
};
use sluicegate::runtime::mail::Mail;
use sluicegate::runtime::worker::{self, Setup, Shared};
use sluicegate::{net::Endpoint, runtime::listen};

/// Longer than anything here takes on a slow machine; a test that gets there has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Engine {
    pub shared: Arc<Shared>,
    pub snapshot: Arc<Snapshot>,
    pub address: SocketAddr,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A plan with one listener on a free port and one pool over `servers`.
pub fn plan_over(servers: &[SocketAddr]) -> Plan {
    let server = |(at, address): (usize, &SocketAddr)| plan::Server {
        name: format!("s{at}"),
        address: plan::ServerAddr::Ip(*address),
        weight: 1,
        max_conns: None,
        backup: false,
    };
    Plan {
        runtime: plan::Runtime {
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
        },
        admin: None,
        log: plan::Log { access: plan::AccessLog::Off, level: plan::Level::Info },
        listeners: vec![plan::Listener {
            name: "l".into(),
            bind: vec![BindAddr::Ip(([127, 0, 0, 1], 0).into())],
            pool: 0,
            limit: plan::ConnLimit::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            backlog: 4096,
            unix_mode: 0o660,
            access_log: true,
            timeouts: plan::TimeoutOverrides::default(),
        }],
        pools: vec![plan::Pool {
            name: "p".into(),
            balance: plan::Balance::RoundRobin,
            check: None,
            send_proxy: plan::SendProxy::Off,
            slow_start: None,
            hold: None,
            max_held: 1000,
            on_down: plan::OnDown::Keep,
            outlier: None,
            source: Vec::new(),
            servers: servers.iter().enumerate().map(server).collect(),
            timeouts: plan::TimeoutOverrides::default(),
            defaults: plan::Timeouts::default(),
        }],
        hash: String::new(),
    }
}

impl Engine {
    pub fn start(plan: Plan, workers: usize) -> Self {
        let plan = Arc::new(plan);
        let pool = &plan.pools[0];
        let mut servers = Vec::new();
        let mut members = Vec::new();
        for (at, server) in pool.servers.iter().enumerate() {
            let plan::ServerAddr::Ip(address) = server.address else { panic!("by address only") };
            let id = ServerId(at as u32);
            let endpoint = Endpoint::Ip(address);
            let state = Arc::new(ServerState::new(id, PoolId(0), &server.name, endpoint, true));
            servers.push(Arc::clone(&state));
            members.push(Member {
                state,
                weight: server.weight,
                max_conns: server.max_conns.map(std::num::NonZero::get),
                backup: server.backup,
            });
        }
        let snapshot = Arc::new(Snapshot {
            plan: Arc::clone(&plan),
            listeners: vec![Arc::new(ListenerState {
                name: "l".into(),
                active: Default::default(),
            })],
            pools: vec![PoolSnapshot { state: Arc::new(PoolState::new("p")), members }],
            servers,
            version: 1,
        });
        let shared = Arc::new(Shared::new(&plan, &vec![None; workers]).unwrap());
        let bound = listen::bind(&plan, workers).unwrap();
        let BindAddr::Ip(address) = bound.addresses[0][0] else { panic!("bound an address") };
        let threads = bound.listening.into_iter().enumerate().map(|(id, listening)| {
            worker::spawn(Setup {
                id: id as u16,
                listening,
                snapshot: Arc::clone(&snapshot),
                shared: Arc::clone(&shared),
                wait_for_accept: false,
            })
            .unwrap()
        });
        let threads = threads.collect();
        Self { shared, snapshot, address, threads }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub fn sessions(&self) -> u32 {
        let workers = self.shared.workers.iter();
        workers.map(|worker| worker.counts.sessions.load(Ordering::Relaxed)).sum()
    }

    pub fn ended(&self, reason: Reason) -> u64 {
        let workers = self.shared.workers.iter();
        let of = |worker: &worker::WorkerHandle| {
            worker.counts.listener(ListenerId(0)).ended[reason as usize].value()
        };
        workers.map(of).sum()
    }

    /// Every reason with a count, for messages.
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        let all = REASONS.iter().map(|&reason| (reason.as_str(), self.ended(reason)));
        all.filter(|&(_, count)| count > 0).collect()
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
        assert_eq!(self.snapshot.listeners[0].active.load(Ordering::Relaxed), 0);
        for worker in &self.shared.workers {
            assert_eq!(worker.counts.panics.value(), 0);
        }
    }
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.set_write_timeout(Some(DEADLINE)).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
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
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn an_echo_comes_back_and_both_fins_travel() {
    let engine = Engine::start(plan_over(&[server(echo)]), 2);
    for round in 0..20u8 {
        let mut client = engine.connect();
        let message = vec![round; 1 + usize::from(round) * 5_000];
        client.write_all(&message).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == message, "round {round}: {} of {} bytes", back.len(), message.len());
    }
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 20, "{:?}", engine.reasons());
}

#[test]
fn bulk_both_ways_at_once_arrives_whole() {
    let engine = Engine::start(plan_over(&[server(echo)]), 1);
    let client = engine.connect();
    let mut reader = client.try_clone().unwrap();
    const TOTAL: usize = 64 << 20;
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 7) as u8;
    let writer = std::thread::spawn(move || {
        let mut client = client;
        let mut at = 0;
        while at < TOTAL {
            let n = (at % 200_000 + 1).min(TOTAL - at);
            let chunk: Vec<u8> = (at..at + n).map(pattern).collect();
            client.write_all(&chunk).unwrap();
            at += n;
        }
        client.shutdown(Shutdown::Write).unwrap();
    });
    let mut at = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        for (offset, &byte) in buffer[..n].iter().enumerate() {
            assert!(byte == pattern(at + offset), "byte {} differs", at + offset);
        }
        at += n;
    }
    writer.join().unwrap();
    assert_eq!(at, TOTAL);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 1, "{:?}", engine.reasons());
}

#[test]
fn a_refused_connect_is_retried_on_another_server() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let engine = Engine::start(plan_over(&[dead, server(echo)]), 2);
    for _ in 0..20 {
        let mut client = engine.connect();
        client.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
    engine.assert_quiet();
    let failed =
        engine.shared.notices.next_now().is_some_and(|notice| {
            matches!(notice, Notice::ConnectFailed { server: ServerId(0), .. })
        });
    assert!(failed, "control hears of the failed connect");
}

#[test]
fn no_server_at_all_is_a_reset() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let engine = Engine::start(plan_over(&[dead]), 1);
    let mut client = engine.connect();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::ConnectRefused), 1, "{:?}", engine.reasons());
}
