//! Many sessions at once, and every byte of them checked: none lost, repeated, out of order,
//! or in another session.
//!
//! Each session has a tag, and a script that follows from the seed and the tag: how much goes
//! each way, in pieces of which sizes, with which pauses, and how it ends. Each byte follows
//! from tag, direction and place. The seed is printed; `SLUICEGATE_SEED` repeats it, and
//! `SLUICEGATE_STREAM_FULL=1` runs 1,000 sessions with 2 GiB.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sluicegate::balance::Rng;
use sluicegate::observe::reason::Reason;
use sluicegate::runtime::buffers::Sizes;
use sluicegate::runtime::uring::UringConfig;
use sluicegate::runtime::worker::ring_config;

use crate::alone::is_alone;
use crate::engine::{Engine, descriptors, echo, plan_over, reset, server};

/// Sessions that are open at the same time.
const CROWD: usize = 50;

/// The longest write.
const WRITE_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Up,
    Down,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Each side sends a FIN when it has sent all.
    Fins,
    ClientResets,
    ServerResets,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
struct Load {
    sessions: u64,
    /// Per direction.
    bytes_mean: u64,
    /// Of so many sessions, one is reset by its client and one by its server.
    ends: u64,
}

/// What one session does.
#[derive(Clone, Copy, Debug)]
struct Script {
    seed: u64,
    up: u64,
    down: u64,
    end: End,
}

impl Script {
    fn new(seed: u64, tag: u64, load: Load) -> Self {
        let seed = seed ^ tag.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = Rng::new(seed);
        let up = rng.below(load.bytes_mean * 2);
        let down = rng.below(load.bytes_mean * 2);
        let end = match rng.below(load.ends) {
            0 => End::ClientResets,
            1 => End::ServerResets,
            _ => End::Fins,
        };
        Self { seed, up, down, end }
    }

    const fn bytes(&self, way: Way) -> u64 {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }

    /// The bytes from `at` on; `at` may be anything.
    fn fill(&self, way: Way, at: u64, out: &mut [u8]) {
        let stream = self.seed ^ (way as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut word_at = u64::MAX;
        let mut word = [0; 8];
        for (at, out) in (at..).zip(out) {
            if at / 8 != word_at {
                word_at = at / 8;
                let mut x = (stream ^ word_at).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                x = (x ^ (x >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
                word = (x ^ (x >> 32)).to_le_bytes();
            }
            *out = word[(at % 8) as usize];
        }
    }

    /// Sends all of one direction in pieces. `Err` when the other end is gone.
    fn write(&self, way: Way, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut rng = Rng::new(self.seed ^ 0xA5 ^ way as u64);
        let mut buffer = vec![0; WRITE_MAX];
        let mut at = 0;
        while at < self.bytes(way) {
            // Sizes of every magnitude are equally likely.
            let magnitude = rng.below(20);
            let len = rng.below(2 << magnitude) + 1;
            let len = len.min(WRITE_MAX as u64).min(self.bytes(way) - at) as usize;
            self.fill(way, at, &mut buffer[..len]);
            stream.write_all(&buffer[..len])?;
            at += len as u64;
            self.pause(&mut rng);
        }
        Ok(())
    }

    /// Reads to the end and checks every byte.
    fn read(&self, way: Way, stream: &mut TcpStream) -> (u64, Result<(), ErrorKind>) {
        let mut rng = Rng::new(self.seed ^ 0x5A ^ way as u64);
        let (mut buffer, mut expected) = (vec![0; 256 << 10], vec![0; 256 << 10]);
        let mut at = 0;
        loop {
            let magnitude = rng.below(18);
            let len = rng.below(2 << magnitude) as usize + 1;
            let n = match stream.read(&mut buffer[..len.min(256 << 10)]) {
                Ok(0) => return (at, Ok(())),
                Ok(n) => n,
                Err(error) => return (at, Err(error.kind())),
            };
            self.fill(way, at, &mut expected[..n]);
            if buffer[..n] != expected[..n] {
                let wrong = buffer.iter().zip(&expected).position(|(is, want)| is != want);
                panic!("{self:?} {way:?}: byte {} differs", at + wrong.unwrap_or(0) as u64);
            }
            at += n as u64;
            self.pause(&mut rng);
        }
    }

    /// One time in 64, long enough for the other side to fill what is between.
    #[expect(clippy::unused_self, reason = "reads as a step of the script")]
    fn pause(&self, rng: &mut Rng) {
        if rng.below(64) == 0 {
            std::thread::park_timeout(Duration::from_millis(rng.below(40)));
        }
    }

    /// One far end: sends `out`, reads the other way, ends as the script says.
    fn play(&self, out: Way, mut stream: TcpStream) {
        let resets = match self.end {
            End::Fins => None,
            End::ClientResets => Some(Way::Up),
            End::ServerResets => Some(Way::Down),
        };
        let back = if out == Way::Up { Way::Down } else { Way::Up };
        let mut reader = stream.try_clone().unwrap();
        let script = *self;
        let reading = std::thread::spawn(move || script.read(back, &mut reader));
        let wrote = self.write(out, &mut stream);
        match resets {
            Some(way) if way == out => {
                // Wakes the reader; its copy of the socket must be gone for the reset.
                let _ = stream.shutdown(Shutdown::Read);
                let _ = reading.join().unwrap();
                reset(stream);
            }
            Some(_) => {
                // No FIN: the reset is what has to end this. The kernel tells of it once.
                let (read, end) = reading.join().unwrap();
                assert!(read <= self.bytes(back), "{self:?}");
                assert!(end.is_err() || wrote.is_err(), "{self:?}: a reset looked clean");
            }
            None => {
                wrote.unwrap_or_else(|error| panic!("{self:?} {out:?}: {error}"));
                stream.shutdown(Shutdown::Write).unwrap();
                let (read, end) = reading.join().unwrap();
                assert_eq!((read, end), (self.bytes(back), Ok(())), "{self:?} {back:?}");
            }
        }
    }
}

pub fn seed() -> u64 {
    let given = std::env::var("SLUICEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    println!("SLUICEGATE_SEED={seed}");
    seed
}

/// A server that plays the script of the tag a client begins with.
fn stage(seed: u64, load: Load, failed: Arc<AtomicU64>) -> SocketAddr {
    server(move |mut stream| {
        let mut tag = [0; 8];
        stream.read_exact(&mut tag).unwrap();
        stream.write_all(&tag).unwrap();
        let script = Script::new(seed, u64::from_le_bytes(tag), load);
        let play = std::panic::AssertUnwindSafe(|| script.play(Way::Down, stream));
        if std::panic::catch_unwind(play).is_err() {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Plays as many scripts as `load` says on two workers, and counts what came of them.
fn run(load: Load, ring: UringConfig) {
    let sessions = load.sessions;
    let (seed, begun) = (seed(), Instant::now());
    let failed = Arc::new(AtomicU64::new(0));
    let address = stage(seed, load, Arc::clone(&failed));
    let engine = Engine::start_on(plan_over(&[address]), 2, ring);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| {
                loop {
                    let tag = next.fetch_add(1, Ordering::Relaxed);
                    if tag >= sessions {
                        return;
                    }
                    let mut client = engine.connect();
                    client.write_all(&tag.to_le_bytes()).unwrap();
                    // Who resets before it was accepted never had a session.
                    let mut back = [0; 8];
                    client.read_exact(&mut back).unwrap();
                    assert_eq!(u64::from_le_bytes(back), tag, "another session's server");
                    Script::new(seed, tag, load).play(Way::Up, client);
                }
            });
        }
    });
    engine.assert_quiet();
    assert_eq!(failed.load(Ordering::Relaxed), 0, "sessions that a server found wrong");
    let scripts: Vec<_> = (0..sessions).map(|tag| Script::new(seed, tag, load)).collect();
    let whole = || scripts.iter().filter(|script| script.end == End::Fins);
    let [up, down, lost] = engine.bytes();
    println!(
        "{sessions} sessions, {} whole; {up} bytes up, {down} down, {lost} lost to resets; {:?} in {:?}",
        whole().count(),
        engine.reasons(),
        begun.elapsed(),
    );
    assert_eq!(engine.ended(Reason::Ok), whole().count() as u64, "{:?}", engine.reasons());
    let resets = engine.ended(Reason::ClientReset) + engine.ended(Reason::ServerReset);
    assert_eq!(resets, sessions - whole().count() as u64, "{:?}", engine.reasons());
    let least = |way| whole().map(|script| script.bytes(way) + 8).sum::<u64>();
    assert!(up >= least(Way::Up) && down >= least(Way::Down), "{up} up, {down} down");
}

/// A ring that overflows all the time, and memory that is never enough.
fn starved() -> UringConfig {
    UringConfig {
        sizes: Sizes { ring_count: 8, block_count: 64, large_count: 1, ..Sizes::default() },
        sq_entries: 8,
        cq_entries: 16,
        pipes_max: 1,
        pipe_bytes: 64 << 10,
    }
}

#[test]
fn every_byte_of_a_crowd_arrives_once_in_order_and_in_its_session() {
    if std::env::var_os("SLUICEGATE_STREAM_FULL").is_some() {
        run(Load { sessions: 1_000, bytes_mean: 1 << 20, ends: 10 }, ring_config());
    } else {
        run(Load { sessions: 100, bytes_mean: 320 << 10, ends: 10 }, ring_config());
    }
}

#[test]
fn a_crowd_of_resets_sees_no_end_that_looks_clean() {
    run(Load { sessions: 300, bytes_mean: 700 << 10, ends: 2 }, ring_config());
}

/// uring-004, uring-005, uring-007
#[test]
fn a_starved_ring_loses_nothing() {
    run(Load { sessions: 100, bytes_mean: 160 << 10, ends: 10 }, starved());
}

#[test]
fn a_starved_ring_serves_many_small_sessions() {
    run(Load { sessions: 500, bytes_mean: 2_000, ends: 10 }, starved());
}

/// Memory of this process in KiB, without what is shared.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find_map(|row| row.strip_prefix("RssAnon:")).unwrap();
    row.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// tcp-016
#[test]
fn a_million_writes_of_one_byte_take_no_memory() {
    const WRITES: u64 = 1_000_000;
    if !is_alone("stream::a_million_writes_of_one_byte_take_no_memory") {
        return;
    }
    let script = Script { seed: seed(), up: WRITES, down: 0, end: End::Fins };
    let (done, read) = std::sync::mpsc::channel();
    let address = server(move |mut stream| done.send(script.read(Way::Up, &mut stream)).unwrap());
    let engine = Engine::start(plan_over(&[address]), 1);
    let mut client = engine.connect();
    client.set_nodelay(true).unwrap();
    let mut bytes = vec![0; WRITES as usize];
    script.fill(Way::Up, 0, &mut bytes);
    let mut before = 0;
    for (at, byte) in bytes.iter().enumerate() {
        client.write_all(std::slice::from_ref(byte)).unwrap();
        if at == 10_000 {
            before = memory_kib();
        }
    }
    let grown = memory_kib().saturating_sub(before);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read.recv().unwrap(), (WRITES, Ok(())));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    println!("{grown} KiB more after a million writes");
    // The far ends are in this process too, with 256 KiB of buffers each.
    assert!(grown <= 1024, "{grown} KiB");
    engine.assert_quiet();
}

/// uring-019
#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    const THREADS: usize = 4;
    if !is_alone("stream::ten_thousand_connections_leave_nothing_behind") {
        return;
    }
    let engine = Engine::start(plan_over(&[server(echo)]), 2);
    let crowd = |rounds: usize| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..rounds / THREADS {
                        let mut client = engine.connect();
                        client.write_all(b"hello").unwrap();
                        client.shutdown(Shutdown::Write).unwrap();
                        let mut back = Vec::new();
                        client.read_to_end(&mut back).unwrap();
                        assert_eq!(back, b"hello");
                    }
                });
            }
        });
        engine.assert_quiet();
        crate::deadline::until("the servers' threads to end", || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
            // This thread, the runner's, the server's and two workers.
            if threads <= 5 { Ok(()) } else { Err(threads) }
        });
        (descriptors(), memory_kib())
    };
    let (fds_before, kib_before) = crowd(2_000);
    let (fds, kib) = crowd(8_000);
    assert_eq!(fds, fds_before);
    println!("{kib_before} KiB after 2,000 connections, {kib} KiB after 10,000");
    assert!(kib <= kib_before + 1024, "{kib_before} KiB grew to {kib} KiB");
    assert_eq!(engine.ended(Reason::Ok), 10_000, "{:?}", engine.reasons());
}
