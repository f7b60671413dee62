//! Readers that do not read, and too few descriptors: neighbours must not notice.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::engine::{
    Backend, DEADLINE, Engine, greeting, listening, plan_over, round_trip, with_deadline,
    workers_cpu,
};
use crate::gate::Gate;

/// What the descriptor limit of the machine may not hold; `STALLED=4000` asks for more.
const STALLED: usize = 500;

/// Memory for one of them, whatever its server has to say: its share, what the last turn
/// brought on top, and the session.
const EACH_MAX: u64 = 256 << 10;

/// Sends without end to everybody at once, as far as each connection takes it.
struct Flood {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Flood {
    fn start() -> Self {
        let listener = listening();
        let address = listener.local_addr().unwrap();
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let accepted = Arc::clone(&streams);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nonblocking(true).unwrap();
                // Not more in the far end's kernel than it takes to see that it stalls.
                let socket = socket2::SockRef::from(&stream);
                socket.set_send_buffer_size(16 << 10).unwrap();
                accepted.lock().unwrap().push(stream);
            }
        });
        Self { address, streams }
    }

    fn accepted(&self) -> usize {
        self.streams.lock().unwrap().len()
    }

    /// One round over all; the bytes that were taken.
    fn pour(&self, chunk: &[u8]) -> usize {
        let mut taken = 0;
        for mut stream in self.streams.lock().unwrap().iter() {
            loop {
                match stream.write(chunk) {
                    Ok(n) => taken += n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("a stalled session ended: {error}"),
                }
            }
        }
        taken
    }

    /// Pours until nobody takes anything for half a second; all bytes that were taken.
    fn pour_until_stalled(&self) -> usize {
        let chunk = vec![b'x'; 64 << 10];
        let (begun, mut total, mut quiet) = (Instant::now(), 0, 0);
        while quiet < 10 {
            let taken = self.pour(&chunk);
            total += taken;
            quiet = if taken == 0 { quiet + 1 } else { 0 };
            std::thread::park_timeout(Duration::from_millis(50));
            assert!(begun.elapsed() < DEADLINE, "never stalls: {total} bytes");
        }
        total
    }
}

/// A client that never reads, with the smallest window there is.
fn stalled_client(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// How long so many round trips of 1 KiB take.
fn work(client: &mut TcpStream, rounds: u32) -> Duration {
    let begun = Instant::now();
    for _ in 0..rounds {
        round_trip(client, &[7; 1024]).unwrap();
    }
    begun.elapsed()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn asked_for() -> usize {
    let asked = std::env::var("STALLED").ok().and_then(|text| text.parse().ok());
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("the limit can be read");
    // Four descriptors a session, as both far ends are in this process.
    asked.unwrap_or(STALLED).min(soft as usize / 5)
}

#[test]
fn zero_window_readers_hold_a_bounded_number_of_bytes_and_a_good_client_works_on() {
    let (flood, good) = (Flood::start(), Backend::start(b'g'));
    let mut plan = plan_over(&[flood.address]);
    let mut second = plan_over(&[good.address]);
    second.listeners[0].pool = Some(1);
    second.listeners[0].name = "good".into();
    second.pools[0].name = "good".into();
    plan.listeners.append(&mut second.listeners);
    plan.pools.append(&mut second.pools);
    let engine = Engine::start(plan, 2);
    let mut client = with_deadline(TcpStream::connect(engine.address_of(1)).unwrap());
    greeting(&mut client).unwrap();
    let alone = work(&mut client, 2_000);
    let before = resident();

    let count = asked_for();
    let stalled: Vec<_> = (0..count).map(|_| stalled_client(engine.address)).collect();
    engine.wait_for("all to be joined", |_| flood.accepted() == count);
    let poured = flood.pour_until_stalled();
    let peak = engine.of_workers(|counts| counts.overflow_bytes_peak.value());
    let beside = work(&mut client, 2_000);
    let grown = resident().saturating_sub(before);
    let each = |bytes: u64| bytes / count as u64;
    println!(
        "{count} stalled readers took {} bytes each, {} of them in the process; RSS grew by {} \
         each; 2,000 round trips took {alone:?} alone and {beside:?} beside them",
        each(poured as u64),
        each(peak),
        each(grown),
    );
    assert!(each(peak) > 0, "they are stalled");
    assert!(each(peak) <= EACH_MAX, "{} bytes each", each(peak));
    assert!(each(grown) <= EACH_MAX, "{} bytes each", each(grown));

    let (cpu, begun) = (workers_cpu(), Instant::now());
    std::thread::park_timeout(Duration::from_millis(500));
    let (cpu, wall) = (workers_cpu() - cpu, begun.elapsed());
    println!("{cpu:?} of CPU in {wall:?} while all are stalled");
    assert!(cpu < wall / 2, "spins");

    drop((stalled, client));
    engine.assert_quiet();
    engine.wait_for("the memory to be given back", |engine| {
        engine.of_workers(|counts| counts.overflow_bytes.value()) == 0
    });
}

#[test]
fn a_stalled_reader_that_reads_again_gets_every_byte_in_order() {
    use std::io::Read as _;
    const TOTAL: usize = 4 << 20;
    const PATTERN: fn(usize) -> u8 = |at| (at.wrapping_mul(2_654_435_761) >> 9) as u8;
    const READERS: usize = 20;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let server = crate::engine::server(move |mut stream| {
        // Most of it cannot wait in kernels: it would not stall.
        socket2::SockRef::from(&stream).set_send_buffer_size(16 << 10).unwrap();
        let all: Vec<u8> = (0..TOTAL).map(PATTERN).collect();
        for part in all.chunks(8 << 10) {
            stream.write_all(part).unwrap();
            counted.fetch_add(part.len(), Ordering::Relaxed);
        }
    });
    let engine = Engine::start(plan_over(&[server]), 2);
    let clients: Vec<_> = (0..READERS).map(|_| stalled_client(engine.address)).collect();
    let (mut seen, mut still) = (0, 0);
    engine.wait_for("all to be stalled", |_| {
        let now = taken.load(Ordering::Relaxed);
        still = if now == seen && now > 0 { still + 1 } else { 0 };
        seen = now;
        still == 300
    });
    println!("{READERS} readers stall at {} bytes each", seen / READERS);
    assert!(seen < READERS * TOTAL, "nobody stalls");
    let readers = clients.into_iter().map(|client| {
        std::thread::spawn(move || {
            let mut got = Vec::with_capacity(TOTAL);
            with_deadline(client).read_to_end(&mut got).unwrap();
            assert_eq!(got.len(), TOTAL);
            assert!(got.iter().enumerate().all(|(at, &byte)| byte == PATTERN(at)));
        })
    });
    readers.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().unwrap());
    engine.assert_quiet();
}

/// The process under a limit of 256 descriptors, and the number of sessions that it allows.
fn few_descriptors(backend: SocketAddr) -> Gate {
    let config = format!(
        "[runtime]\nworkers = 2\n[listener.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pool.back.servers]\na = \"{backend}\"\n"
    );
    Gate::start_wrapped(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""], &config)
}

#[test]
fn a_descriptor_limit_of_256_loses_no_session_of_1000_clients_does_not_spin_and_passes() {
    let backend = Backend::start(b'a');
    let gate = few_descriptors(backend.address);
    let clients: Vec<_> = (0..1_000).map(|_| gate.connect("front")).collect();
    let served = || backend.accepted() as usize;
    let stands_still = || {
        let before = served();
        std::thread::park_timeout(Duration::from_millis(300));
        if served() == before && before > 0 { Ok(before) } else { Err(before) }
    };
    let first = crate::deadline::until("the descriptors to be used up", stands_still);
    assert!((64..=128).contains(&first), "{first} sessions on 256 descriptors");
    assert!(gate.descriptors() <= 256);

    let (cpu, begun) = (gate.cpu_ns(), Instant::now());
    std::thread::park_timeout(Duration::from_secs(1));
    let (cpu, wall) = (Duration::from_nanos(gate.cpu_ns() - cpu), begun.elapsed());
    println!("{first} sessions, the others wait; {cpu:?} of CPU in {wall:?}");
    assert!(cpu < wall / 2, "spins");

    // Whoever is in works on and goes; the others come in by themselves, and nobody is lost.
    let work = clients.into_iter().map(|mut client| {
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                greeting(&mut client)?;
                round_trip(&mut client, b"established")
            })
            .unwrap()
    });
    let work: Vec<_> = work.collect();
    let lost: Vec<_> = work.into_iter().filter_map(|one| one.join().unwrap().err()).collect();
    assert!(lost.is_empty(), "{} of 1,000 lost: {:?}\n{}", lost.len(), lost[0], gate.diagnostics());
    assert_eq!(served(), 1_000);
    let mut final_one = gate.connect("front");
    greeting(&mut final_one).unwrap();
}

#[test]
fn doors_that_nobody_comes_to_take_no_place_from_those_where_clients_are() {
    let server = Backend::start(b'a');
    let names = ["a", "b", "c"];
    let listener =
        |name: &str| format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n");
    let listeners = names.map(listener).concat();
    let gate = Gate::start(&format!(
        "version = 1\n[runtime]\nworkers = 2\nmax_conns = 2\n[log]\naccess = \"off\"\n\
         {listeners}[pool.p.servers]\na = \"{}\"\n",
        server.address
    ));
    for _ in 0..4 {
        for name in names {
            let mut client = with_deadline(TcpStream::connect(gate.address(name)).unwrap());
            assert_eq!(greeting(&mut client).unwrap().0, b'a', "{name}");
        }
    }
}
