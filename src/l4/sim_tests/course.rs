//! One seed's course of events: a gate, its clients and servers, and what they do.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::config::plan::{self, Balance, Plan, Timeouts};
use crate::fronts::Fronts;
use crate::l4::gate::Gate;
use crate::l4::session::{SIDES, Side};
use crate::net::{Endpoint, Peer};
use crate::observe::reason::Reason;
use crate::observe::record::SessionRecord;
use crate::registry::{
    ListenerId, ListenerState, Member, PoolId, PoolSnapshot, PoolState, ServerId, ServerState,
    Snapshot,
};
use crate::runtime::buffers::Sizes;
use crate::runtime::driver::{Completion, Driver, Fd};
use crate::runtime::engine::Engine;
use crate::runtime::mail::Mail;
use crate::runtime::sim::{Behaviour, Far, Faults, Network, Rng, Sim};
use crate::runtime::time::Time;
use crate::runtime::token::Tag;
use crate::runtime::worker::{Shared, SocketId};

const SERVERS: u16 = 4;

/// Virtual time in which everything must have come to rest after the last step.
const REST_MAX: Duration = Duration::from_secs(120);

/// Bytes a far program queues before it waits.
const QUEUED_MAX: usize = 256 << 10;

/// A program at a far end, and how far its incoming bytes were checked.
pub struct Peered {
    pub far: Far,
    /// The bytes that must come are those of this program.
    pub from: Option<usize>,
    pub checked: u64,
    pub paused: bool,
    pub cut: bool,
    /// It was paused or cut once, so a reset may have come before it read all.
    pub was_slow: bool,
}

/// One client, the server it was joined to, and how its session ended.
pub struct Pair {
    pub client: Peered,
    pub server: Option<Peered>,
    pub record: Option<SessionRecord>,
    /// When the wait before a reset is over, if there was one.
    pub flush_until: Option<Time>,
    pub over: bool,
}

pub struct Course {
    pub gate: Gate<Sim>,
    pub net: Network,
    pub shared: Arc<Shared>,
    pub snapshot: Arc<Snapshot>,
    pub pairs: Vec<Pair>,
    /// Server ends of attempts that no session used.
    pub strays: Vec<Far>,
    pub pairs_max: u32,
    /// How many sessions ended for which reason.
    pub reasons: [u32; Reason::COUNT],
    /// Bulk moves and overflow blocks seen, so that a run can say what it covered.
    pub piped: u32,
    pub spilled: u32,
    /// Every completion is printed.
    pub traced: bool,
    rng: Rng,
    listener: Fd,
    endpoints: Vec<Endpoint>,
    clients_max: usize,
    completions: Vec<Completion>,
}

impl Course {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng::new(seed ^ 0x5175_1ce9);
        let sim = Sim::new(seed, sizes(&mut rng), faults);
        let net = sim.network();
        let listener = net.listener(false);
        let endpoints: Vec<_> = (0..SERVERS)
            .map(|n| Endpoint::Ip(SocketAddr::from(([10, 99, 0, 1], 9_000 + n))))
            .collect();
        for endpoint in &endpoints {
            net.listen(endpoint, Behaviour::Accept);
        }
        let plan = Arc::new(plan(&mut rng));
        let pairs_max = plan.runtime.max_conns.expect("the plan says");
        let snapshot = Arc::new(snapshot(&plan, &endpoints));
        let shared = Arc::new(Shared::new(&plan, &[None], Engine::Epoll).expect("an eventfd"));
        if rng.chance(250) {
            net.limit_fds(rng.between(8, 40));
        }
        let mut gate = Gate::new(sim, 0, Arc::clone(&snapshot), Arc::clone(&shared), seed);
        gate.add_door(SocketId(0), ListenerId(0), listener, [false; 2]);
        gate.open_doors();
        let clients_max = rng.between(1, 24);
        let (pairs, strays, completions) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            gate,
            net,
            shared,
            snapshot,
            pairs,
            strays,
            pairs_max,
            reasons: [0; Reason::COUNT],
            piped: 0,
            spilled: 0,
            traced: false,
            rng,
            listener,
            endpoints,
            clients_max,
            completions,
        }
    }

    /// Something happens outside, the worker takes a turn, all is checked.
    pub fn step(&mut self) {
        for _ in 0..self.rng.between(0, 2) {
            self.act();
        }
        let wait = match self.rng.below(100) {
            0..80 => Duration::from_micros(self.rng.below(3_000)),
            80..99 => Duration::from_millis(self.rng.below(30)),
            _ => Duration::from_millis(self.rng.below(800)),
        };
        self.turn(wait);
        self.check();
    }

    /// As `runtime::worker` does it.
    pub fn turn(&mut self, wait: Duration) {
        self.net.set_horizon(self.net.now() + wait);
        let mut completions = std::mem::take(&mut self.completions);
        let deadline = self.gate.deadline();
        self.gate.driver.turn(deadline, &mut completions).expect("a turn");
        self.join();
        self.gate.begin_turn(completions.len());
        for completion in completions.drain(..) {
            self.gate.step(completion);
            self.trace(completion);
        }
        self.completions = completions;
        self.gate.tick();
        while let Some(mail) = self.shared.workers[0].mailbox.take() {
            match mail {
                Mail::Released { pool, slot, generation } => {
                    self.gate.on_released(pool, slot, generation);
                }
                other => panic!("nobody else posts: {other:?}"),
            }
        }
        while let Some(record) = self.shared.records[0].pop() {
            let pair = self
                .pairs
                .iter_mut()
                .find(|pair| pair.client.far.address().map(Peer::from) == Some(record.peer));
            let pair = pair.expect("a record of a client that is known");
            assert!(pair.record.is_none(), "two ends of one session: {record:?}");
            self.reasons[record.reason as usize] += 1;
            pair.record = Some(record);
        }
    }

    /// What a completion did, for the one seed that is rerun.
    fn trace(&self, completion: Completion) {
        if !self.traced {
            return;
        }
        let now = self.net.now().0 / 1_000;
        let Completion { token, result, more, .. } = completion;
        eprint!("{now} {token:?} {result:?} more {more}");
        if token.tag() == Tag::Session {
            let session = &self.gate.sessions[token.slot()];
            eprint!(" -> {:?} {:?}", session.phase, session.ops);
            for side in SIDES {
                let (socket, half) = (session.socket(side), session.half(side));
                let id = socket.fd.and_then(|fd| self.net.link_of(fd));
                let (bytes, total) = (half.queue.bytes(), half.total);
                eprint!(" | {id:?} {:?} {:?} q {bytes} of {total}", half.flow, half.sending);
                let flags = [socket.fin_seen, socket.fin_sent, socket.reset_seen, half.sink];
                eprint!(" {:?}", flags.map(u8::from));
            }
        }
        eprintln!();
    }

    /// Notes which server end belongs to which client.
    fn join(&mut self) {
        while let Some(far) = self.net.served() {
            let net = &self.net;
            let of = |side: Side, id: usize| {
                self.gate.sessions.live().find(|(_, session)| {
                    session.socket(side).fd.and_then(|fd| net.link_of(fd)) == Some(id)
                })
            };
            let client = of(Side::Upstream, far.id())
                .and_then(|(_, session)| session.socket(Side::Client).fd)
                .and_then(|fd| net.link_of(fd));
            let pair = self.pairs.iter_mut().find(|pair| Some(pair.client.far.id()) == client);
            match pair {
                Some(pair) => {
                    if let Some(before) = pair.server.take() {
                        assert_eq!(before.checked, 0, "bytes passed to two servers");
                        self.strays.push(before.far);
                    }
                    pair.client.from = Some(far.id());
                    let from = Some(pair.client.far.id());
                    pair.server = Some(Peered::new(far, from));
                }
                None => self.strays.push(far),
            }
        }
    }

    fn act(&mut self) {
        let live: Vec<usize> = (0..self.pairs.len()).filter(|at| !self.pairs[*at].over).collect();
        match self.rng.below(1000) {
            0..60 if live.len() < self.clients_max => {
                let far = self.net.connect_client(self.listener);
                self.pairs.push(Pair {
                    client: Peered::new(far, None),
                    server: None,
                    record: None,
                    flush_until: None,
                    over: false,
                });
            }
            0..70 => {
                let behaviour = self.rng.pick(&[
                    Behaviour::Accept,
                    Behaviour::Accept,
                    Behaviour::Accept,
                    Behaviour::Late(Duration::from_millis(400)),
                    Behaviour::Refuse,
                    Behaviour::BlackHole,
                    Behaviour::Unreachable,
                    Behaviour::ResetAfter(Duration::from_millis(20)),
                ]);
                let at = self.rng.index(self.endpoints.len());
                self.net.listen(&self.endpoints[at], behaviour);
            }
            70..80 => {
                let at = self.rng.index(self.snapshot.servers.len());
                let up = self.rng.chance(800);
                self.snapshot.servers[at].up.store(up, Ordering::Relaxed);
            }
            _ if !live.is_empty() => {
                let at = self.rng.pick(&live);
                let pair = &mut self.pairs[at];
                match &mut pair.server {
                    Some(server) if self.rng.chance(500) => act_at(server, &mut self.rng),
                    _ => act_at(&mut pair.client, &mut self.rng),
                }
            }
            _ => {}
        }
    }

    fn describe(&self) -> String {
        let live: Vec<_> = self.gate.sessions.live().collect();
        let still = self.net.is_still();
        format!("{}sessions {live:#?}, network still: {still}", self.gate.driver.describe())
    }

    /// Everybody finishes, the gate drains, and nothing is left.
    pub fn end(&mut self) {
        self.net.set_faults(Faults::NONE);
        self.net.limit_fds(1 << 16);
        for endpoint in &self.endpoints {
            self.net.listen(endpoint, Behaviour::Accept);
        }
        for server in &self.snapshot.servers {
            server.up.store(true, Ordering::Relaxed);
        }
        self.gate.drain();
        let until = self.net.now() + REST_MAX;
        while !(self.gate.is_done() && self.net.is_still()) {
            assert!(self.net.now() < until, "no rest:\n{}", self.describe());
            for pair in self.pairs.iter_mut().filter(|pair| !pair.over) {
                let Pair { client, server, .. } = pair;
                for one in std::iter::once(client).chain(server) {
                    one.resume();
                    if !one.far.finished() {
                        one.far.fin();
                    }
                }
            }
            self.turn(Duration::from_millis(5));
            self.check();
        }
        self.check_ends();
        self.gate.driver.assert_quiet(0);
    }
}

impl Peered {
    fn new(far: Far, from: Option<usize>) -> Self {
        Self { far, from, checked: 0, paused: false, cut: false, was_slow: false }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.cut) {
            self.far.mend();
        }
        if std::mem::take(&mut self.paused) {
            self.far.start_reading();
        }
    }
}

/// The program at one far end does something.
fn act_at(one: &mut Peered, rng: &mut Rng) {
    let far = &one.far;
    match rng.below(1000) {
        0..800 if !far.finished() && far.unsent() < QUEUED_MAX => {
            let n = match rng.below(10) {
                0..5 => rng.between(1, 300),
                5..9 => rng.between(300, 8_192),
                _ => rng.between(8_192, 65_536),
            };
            let from = far.put();
            far.send(&bytes_of(far.id(), from, n));
        }
        800..860 => {
            one.paused = !one.paused;
            one.was_slow = true;
            if one.paused { far.stop_reading() } else { far.start_reading() }
        }
        860..900 if !far.finished() => far.fin(),
        900..915 => far.reset(),
        915..925 => far.close(),
        925..935 => {
            one.cut = !one.cut;
            one.was_slow = true;
            if one.cut { far.cut() } else { far.mend() }
        }
        _ => one.resume(),
    }
}

/// What the program at link `id` writes from position `at` on.
pub fn bytes_of(id: usize, at: u64, n: usize) -> Vec<u8> {
    (at..at + n as u64).map(|k| (k ^ (k >> 8) ^ (k >> 16) ^ (id as u64 * 0x4d)) as u8).collect()
}

fn sizes(rng: &mut Rng) -> Sizes {
    Sizes {
        ring_count: rng.pick(&[2, 8, 8, 64]),
        ring_size: rng.pick(&[512, 1_024, 4_096]),
        block_count: rng.pick(&[64, 256, 1_024]),
        block_size: rng.pick(&[1_024, 4_096]),
        large_count: rng.pick(&[0, 1, 4]),
        large_size: 32_768,
    }
}

fn plan(rng: &mut Rng) -> Plan {
    let timeouts = Timeouts {
        connect: Duration::from_millis(200),
        idle: Duration::from_secs(2),
        half_closed: Duration::from_millis(800),
        session: rng.chance(200).then_some(Duration::from_secs(3)),
        ..Timeouts::default()
    };
    let limit = plan::ConnLimit {
        max_conns: rng.chance(300).then(|| NonZeroU32::new(6).expect("six")),
        ..plan::ConnLimit::default()
    };
    let listener = plan::Listener { limit, ..plan::Listener::tcp("front", Vec::new(), 0) };
    let balance = rng.pick(&[
        Balance::RoundRobin,
        Balance::LeastConn,
        Balance::IpHash,
        Balance::RandomTwo,
        Balance::Maglev,
    ]);
    let pool = plan::Pool {
        balance,
        hold: rng.chance(500).then(|| Duration::from_millis(rng.pick(&[20, 500]))),
        max_held: 8,
        defaults: timeouts,
        ..plan::Pool::of("back", Vec::new())
    };
    Plan {
        policies: Vec::new(),
        consumers: Vec::new(),
        runtime: plan::Runtime {
            engine: plan::EngineChoice::Auto,
            workers: Some(1),
            timeout_drain: Duration::from_secs(30),
            delay_shutdown: None,
            max_conns: Some(rng.pick(&[3, 12, 400, 10_000])),
            dns: plan::Dns {
                servers: Vec::new(),
                ttl_min: Duration::from_secs(1),
                ttl_max: Duration::from_secs(60),
                refuse: Vec::new(),
            },
            watch: false,
        },
        admin: None,
        log: plan::Log {
            access: plan::AccessLog::Stdout,
            level: plan::Level::Info,
            lines: plan::LogLines::default(),
        },
        listeners: vec![listener],
        pools: vec![pool],
        shown: serde_json::Value::Null,
        hash: String::new(),
    }
}

fn snapshot(plan: &Arc<Plan>, endpoints: &[Endpoint]) -> Snapshot {
    let state = |(at, endpoint): (usize, &Endpoint)| {
        let id = ServerId(at as u32);
        Arc::new(ServerState::new(id, PoolId(0), &format!("s{at}"), endpoint.clone(), true))
    };
    let servers: Vec<_> = endpoints.iter().enumerate().map(state).collect();
    let member = |(at, state): (usize, &Arc<ServerState>)| Member {
        state: Arc::clone(state),
        weight: at as u16 + 1,
        max_conns: (at % 2 == 1).then_some(4),
        backup: false,
    };
    Snapshot {
        plan: Arc::clone(plan),
        listeners: vec![Arc::new(ListenerState {
            name: "front".into(),
            active: AtomicU32::new(0).into(),
        })],
        pools: vec![PoolSnapshot {
            state: Arc::new(PoolState::new("back", None)),
            members: servers.iter().enumerate().map(member).collect(),
        }],
        servers,
        fronts: Arc::new(Fronts::new(plan).expect("no TLS in it")),
        version: 1,
    }
}
