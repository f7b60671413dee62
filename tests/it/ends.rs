//! How sessions end: every kind of end, by either side, at every moment, also under pressure.
//!
//! A FIN travels as a FIN and leaves the other direction alive; a reset travels as a reset and
//! never looks like a clean end; silence does nothing until `idle_timeout`. Every byte sent
//! before an end arrives, or is counted as lost. A cell of the matrix holds both far ends in
//! one thread, so the order of events is the order of the lines.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sluicegate::config::plan::Plan;
use sluicegate::l4::session::Side;
use sluicegate::observe::reason::Reason;

use crate::deadline;
use crate::engine::{DEADLINE, Engine, echo, plan_over, reset, server};

const IDLE: Duration = Duration::from_secs(3);

/// A peer that takes nothing for this long is full up.
const STUCK: Duration = Duration::from_millis(600);

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Fin,
    Rst,
    Silence,
}

/// When the actor ends, seen from what it sends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Before,
    During,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pressure {
    None,
    /// The actor does not read, and the other side has filled everything on the way to it.
    Against,
    /// The other side does not read, and the actor has filled everything on the way to it.
    Along,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    who: Side,
    end: End,
    when: When,
    pressure: Pressure,
}

fn cells(end: End, pressure: Pressure) -> impl Iterator<Item = Cell> {
    [Side::Client, Side::Upstream].into_iter().flat_map(move |who| {
        [When::Before, When::During, When::After]
            .into_iter()
            // Who has filled the way has sent something.
            .filter(move |&when| pressure != Pressure::Along || when != When::Before)
            .map(move |when| Cell { who, end, when, pressure })
    })
}

/// One far end: what it sent, what it read, each byte told by its place.
struct Peer {
    stream: TcpStream,
    salt: u64,
    sent: u64,
    read: u64,
}

fn byte_at(salt: u64, at: u64) -> u8 {
    ((at ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8
}

/// How a peer saw its stream end.
#[derive(Debug, PartialEq)]
enum Seen {
    Fin,
    Rst,
}

impl Peer {
    fn new(stream: TcpStream, side: Side) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, salt: side as u64, sent: 0, read: 0 }
    }

    fn pattern(&self, len: usize) -> Vec<u8> {
        (self.sent..self.sent + len as u64).map(|at| byte_at(self.salt, at)).collect()
    }

    fn send(&mut self, len: usize) {
        let bytes = self.pattern(len);
        self.stream.write_all(&bytes).unwrap();
        self.sent += len as u64;
    }

    /// Sends until nothing goes any more.
    fn fill(&mut self) {
        self.stream.set_write_timeout(Some(STUCK)).unwrap();
        loop {
            let bytes = self.pattern(64 << 10);
            match self.stream.write(&bytes) {
                Ok(n) => self.sent += n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("after {} bytes: {error}", self.sent),
            }
        }
        self.stream.set_write_timeout(Some(DEADLINE)).unwrap();
    }

    fn check(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let expected = byte_at(1 - self.salt, self.read);
            assert!(byte == expected, "byte {} differs", self.read);
            self.read += 1;
        }
    }

    fn read_exactly(&mut self, len: usize) {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        self.check(&bytes);
    }

    fn read_to_end(&mut self) -> Seen {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Seen::Fin,
                Ok(n) => self.check(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Seen::Rst,
                Err(error) => panic!("after {} bytes: {error}", self.read),
            }
        }
    }

    fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Bytes the gate's kernel has not acknowledged; a reset would throw them away.
    fn unsent(&self) -> u64 {
        let port = format!(":{:04X}", self.stream.local_addr().unwrap().port());
        let peer = format!(":{:04X}", self.stream.peer_addr().unwrap().port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let row = table
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.len() > 4 && row[1].ends_with(&port) && row[2].ends_with(&peer));
        let (unsent, _) = row.expect("an open socket is in the table")[4].split_once(':').unwrap();
        u64::from_str_radix(unsent, 16).unwrap()
    }

    fn wait_sent(&self) {
        deadline::until("all bytes to leave", || match self.unsent() {
            0 => Ok(()),
            left => Err(left),
        });
    }
}

/// An engine with one session, both far ends in hand: the actor's and the other's.
fn joined(plan: impl FnOnce(&mut Plan), who: Side) -> (Engine, Peer, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut made = plan_over(&[listener.local_addr().unwrap()]);
    plan(&mut made);
    let engine = Engine::start(made, 1);
    let client = Peer::new(engine.connect(), Side::Client);
    let upstream = Peer::new(listener.accept().unwrap().0, Side::Upstream);
    match who {
        Side::Client => (engine, client, upstream),
        Side::Upstream => (engine, upstream, client),
    }
}

/// What the actor and the other side do before the end.
fn lead_up(cell: Cell, actor: &mut Peer, other: &mut Peer) {
    const LEN: usize = 150_000;
    match cell.when {
        When::Before => {}
        When::During => {
            other.send(40_000);
            actor.send(LEN / 2);
        }
        When::After => {
            actor.send(LEN);
            other.read_exactly(LEN);
            other.send(LEN);
            actor.read_exactly(LEN);
        }
    }
    match cell.pressure {
        Pressure::None => {}
        Pressure::Against => other.fill(),
        Pressure::Along => actor.fill(),
    }
}

fn assert_bytes(engine: &Engine, cell: Cell, from_actor: u64, from_other: u64) {
    let [client, upstream, _] = engine.bytes();
    let counted = match cell.who {
        Side::Client => [client, upstream],
        Side::Upstream => [upstream, client],
    };
    assert_eq!(counted, [from_actor, from_other], "{cell:?}: bytes of the actor and the other");
}

fn assert_ended(engine: &Engine, cell: Cell, reason: Reason) {
    engine.assert_quiet();
    assert_eq!(engine.reasons(), [(reason.as_str(), 1)], "{cell:?}");
}

fn a_fin(cell: Cell) {
    let (engine, mut actor, mut other) = joined(|_| {}, cell.who);
    lead_up(cell, &mut actor, &mut other);
    actor.finish();
    // Under pressure along, all of the actor's bytes are still before the FIN.
    assert_eq!(other.read_to_end(), Seen::Fin, "{cell:?}");
    assert_eq!(other.read, actor.sent, "{cell:?}");
    // The other direction is alive: what is stuck in it comes, and more.
    actor.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            other.send(100_000);
            other.finish();
        });
        assert_eq!(actor.read_to_end(), Seen::Fin, "{cell:?}");
    });
    assert_eq!(actor.read, other.sent, "{cell:?}");
    assert_ended(&engine, cell, Reason::Ok);
    assert_bytes(&engine, cell, actor.sent, other.sent);
    assert_eq!(engine.bytes()[2], 0, "{cell:?}: nothing is lost in order");
}

fn a_reset(cell: Cell) {
    let (engine, mut actor, mut other) = joined(|_| {}, cell.who);
    lead_up(cell, &mut actor, &mut other);
    if cell.pressure != Pressure::Along {
        actor.wait_sent();
    }
    let left = actor.sent - actor.unsent();
    let Peer { stream, .. } = actor;
    reset(stream);
    assert_eq!(other.read_to_end(), Seen::Rst, "{cell:?}: a reset never looks like an end");
    let reason = match cell.who {
        Side::Client => Reason::ClientReset,
        Side::Upstream => Reason::ServerReset,
    };
    assert_ended(&engine, cell, reason);
    let [client, upstream, lost] = engine.bytes();
    let counted = if cell.who == Side::Client { client } else { upstream };
    if cell.pressure == Pressure::None {
        assert_eq!(other.read, left, "{cell:?}");
        assert_eq!(counted, left, "{cell:?}");
    } else {
        // On a slow machine the flush may run out of time; then the loss is counted.
        assert!(other.read == left || lost > 0, "{cell:?}: {} of {left}", other.read);
        assert!(counted <= left && other.read <= counted, "{cell:?}");
    }
}

fn silence(cell: Cell) {
    let idle = |plan: &mut Plan| plan.listeners[0].timeouts.idle = Some(IDLE);
    let (engine, mut actor, mut other) = joined(idle, cell.who);
    lead_up(cell, &mut actor, &mut other);
    if cell.pressure != Pressure::None {
        // Bytes are stuck on their way: the end must not look clean to whom they were for.
        other.read_to_end();
        assert_eq!(actor.read_to_end(), Seen::Rst, "{cell:?}");
        return assert_ended(&engine, cell, Reason::IdleTimeout);
    }
    if cell.when == When::During {
        // One side's silence is not the session's: the other goes on for longer than `idle`.
        let begun = Instant::now();
        other.read_exactly(actor.sent as usize);
        actor.read_exactly(other.sent as usize);
        while begun.elapsed() < IDLE * 3 / 2 {
            other.send(1);
            actor.read_exactly(1);
            std::thread::park_timeout(IDLE / 20);
        }
    }
    let begun = Instant::now();
    other.send(1);
    actor.read_exactly(1);
    assert_eq!(other.read_to_end(), Seen::Fin, "{cell:?}");
    assert!(begun.elapsed() >= IDLE, "{cell:?}: ended early, after {:?}", begun.elapsed());
    assert_eq!(actor.read_to_end(), Seen::Fin, "{cell:?}");
    let sent = (actor.sent, other.sent);
    drop((actor, other));
    assert_ended(&engine, cell, Reason::IdleTimeout);
    assert_bytes(&engine, cell, sent.0, sent.1);
}

/// Runs cells that mostly wait beside each other.
fn at_once(cells: impl Iterator<Item = Cell>, run: fn(Cell)) {
    std::thread::scope(|scope| {
        for cell in cells {
            scope.spawn(move || run(cell));
        }
    });
}

#[test]
fn a_fin_travels_as_a_fin_and_the_other_direction_lives_on() {
    cells(End::Fin, Pressure::None).for_each(a_fin);
}

#[test]
fn a_fin_travels_past_a_direction_that_is_stuck() {
    cells(End::Fin, Pressure::Against).for_each(a_fin);
}

#[test]
fn a_fin_comes_after_all_that_was_stuck_before_it() {
    cells(End::Fin, Pressure::Along).for_each(a_fin);
}

#[test]
fn a_reset_travels_as_a_reset_after_all_bytes_before_it() {
    cells(End::Rst, Pressure::None).for_each(a_reset);
}

#[test]
fn a_reset_travels_past_a_direction_that_is_stuck() {
    cells(End::Rst, Pressure::Against).for_each(a_reset);
}

#[test]
fn a_reset_comes_after_all_that_was_stuck_before_it() {
    cells(End::Rst, Pressure::Along).for_each(a_reset);
}

#[test]
fn silence_does_nothing_until_the_idle_timeout_and_then_both_get_a_fin() {
    at_once(cells(End::Silence, Pressure::None), silence);
}

#[test]
fn an_idle_end_with_bytes_stuck_is_a_reset_to_whom_they_were_for() {
    at_once(cells(End::Silence, Pressure::Against), silence);
}

/// tcp-004: also when nobody reads what the reset has to wait for.
#[test]
fn a_reset_does_not_wait_for_a_side_that_never_reads() {
    for who in [Side::Client, Side::Upstream] {
        let (engine, mut actor, other) = joined(|_| {}, who);
        actor.fill();
        reset(actor.stream);
        engine.wait_for("the session to end by itself", |engine| engine.sessions() == 0);
        let mut other = other;
        assert_eq!(other.read_to_end(), Seen::Rst);
        let [client, upstream, lost] = engine.bytes();
        let taken = if who == Side::Client { client } else { upstream };
        assert!(lost > 0);
        assert_eq!(other.read + lost, taken, "{who:?}: delivered and lost is all that was taken");
        engine.assert_quiet();
    }
}

/// A client that is gone before the server has answered the connect: the server may see a
/// connection, but then a reset and not a request that was empty.
#[test]
fn a_reset_before_the_server_is_connected_is_not_a_clean_end_to_the_server() {
    let (seen, ends) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        let end = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        seen.send(end).unwrap();
    });
    let engine = Engine::start(plan_over(&[address]), 2);
    for _ in 0..500 {
        reset(engine.connect());
    }
    engine.assert_quiet();
    while let Ok(end) = ends.recv_timeout(STUCK) {
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    }
}

/// tcp-001
#[test]
fn an_answer_that_comes_long_after_the_clients_fin_is_whole() {
    let (engine, mut client, mut upstream) = joined(|_| {}, Side::Client);
    client.send(100);
    client.finish();
    assert_eq!(upstream.read_to_end(), Seen::Fin);
    std::thread::park_timeout(Duration::from_secs(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            upstream.send(1_000_000);
            upstream.finish();
        });
        assert_eq!(client.read_to_end(), Seen::Fin);
    });
    assert_eq!(client.read, 1_000_000);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 1, "{:?}", engine.reasons());
}

/// tcp-002
#[test]
fn a_client_goes_on_sending_after_the_servers_fin() {
    let (engine, mut client, mut upstream) = joined(|_| {}, Side::Client);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            upstream.send(1_000_000);
            upstream.finish();
            upstream.read_to_end()
        });
        assert_eq!(client.read_to_end(), Seen::Fin);
        client.send(1_000_000);
        client.finish();
        assert_eq!(answer.join().unwrap(), Seen::Fin);
    });
    assert_eq!((client.read, upstream.read), (1_000_000, 1_000_000));
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::Ok), 1, "{:?}", engine.reasons());
}

/// tcp-003
#[test]
fn a_server_that_resets_after_100_kb_is_not_a_clean_end_to_the_client() {
    let (engine, mut upstream, mut client) = joined(|_| {}, Side::Upstream);
    upstream.send(100_000);
    upstream.wait_sent();
    reset(upstream.stream);
    assert_eq!(client.read_to_end(), Seen::Rst);
    assert_eq!(client.read, 100_000);
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::ServerReset), 1, "{:?}", engine.reasons());
}

/// tcp-010
#[test]
fn a_request_is_never_sent_to_a_second_server() {
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = server(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        reset(stream);
    });
    let mut plan = plan_over(&[first, second.local_addr().unwrap()]);
    plan.pools[0].servers[1].backup = true;
    let engine = Engine::start(plan, 1);
    for _ in 0..20 {
        let mut client = engine.connect();
        // The reset may come while this is still being written.
        let _ = client.write_all(&[7; 5_000]);
        let error = client.read(&mut [0]);
        assert!(!matches!(error, Ok(1)), "{error:?}");
    }
    engine.assert_quiet();
    assert_eq!(engine.ended(Reason::ServerReset), 20, "{:?}", engine.reasons());
    second.set_nonblocking(true).unwrap();
    assert_eq!(second.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// Open descriptors of this process; says something only where a test has it for itself.
pub fn descriptors() -> Option<usize> {
    std::env::var_os("NEXTEST")?;
    Some(std::fs::read_dir("/proc/self/fd").unwrap().count())
}

/// tcp-018
#[test]
fn both_ends_at_once_close_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = Engine::start(plan_over(&[listener.local_addr().unwrap()]), 2);
    let before = descriptors();
    const LOOPS: u64 = 1_000;
    for round in 0..LOOPS {
        let (client, (upstream, _)) = (engine.connect(), listener.accept().unwrap());
        let end = |stream: TcpStream, by_reset: bool| {
            if by_reset {
                reset(stream);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || end(client, round & 1 == 0));
            end(upstream, round & 2 == 0);
        });
    }
    engine.assert_quiet();
    assert_eq!(descriptors(), before);
    // A reset may be there before the gateway has looked at its connect: then that has failed.
    let ends = [Reason::Ok, Reason::ClientReset, Reason::ServerReset, Reason::ConnectRefused];
    let ended = ends.map(|reason| engine.ended(reason));
    assert_eq!(ended.iter().sum::<u64>(), LOOPS, "{:?}", engine.reasons());
}

/// tcp-022
#[test]
fn gauges_are_zero_after_random_ends() {
    let mut plan = plan_over(&[server(echo)]);
    plan.listeners[0].timeouts.idle = Some(IDLE);
    let engine = Engine::start(plan, 2);
    let before = descriptors();
    const LOOPS: u64 = 1_000;
    let mut silent = Vec::new();
    for round in 0..LOOPS {
        let mut client = engine.connect();
        // Once its bytes are back, it has a session, however it ends.
        let message = vec![1; 1 + (round as usize * 7919) % 5_000];
        client.write_all(&message).unwrap();
        let read = if round % 3 == 0 { 1 } else { message.len() };
        client.read_exact(&mut vec![0; read]).unwrap();
        match round % 4 {
            0 => drop(client),
            1 => reset(client),
            2 => client.shutdown(Shutdown::Both).unwrap(),
            _ if round % 100 == 3 => silent.push(client),
            _ => {
                client.shutdown(Shutdown::Write).unwrap();
                client.read_to_end(&mut Vec::new()).unwrap();
            }
        }
    }
    for mut client in silent.drain(..) {
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    engine.assert_quiet();
    deadline::until("the far ends to close", || match descriptors() {
        now if now == before => Ok(()),
        now => Err((before, now)),
    });
    let ended: u64 = engine.reasons().iter().map(|&(_, count)| count).sum();
    assert_eq!(ended, LOOPS, "{:?}", engine.reasons());
    assert_eq!(engine.ended(Reason::IdleTimeout), LOOPS / 100, "{:?}", engine.reasons());
}
