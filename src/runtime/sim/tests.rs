//! Claims about the model itself: what the data path may rely on, a test here says.

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use super::*;
use crate::net::Endpoint;
use crate::runtime::buffers::{ChunkId, Queue};
use crate::runtime::driver::{Completion, Driver, Interest, POLL_ERR, StreamOptions};
use crate::runtime::token::{Tag, Token};

/// Small, so that tests reach its ends.
pub(crate) const SIZES: Sizes = Sizes {
    ring_count: 8,
    ring_size: 1_024,
    block_count: 16,
    block_size: 4_096,
    large_count: 2,
    large_size: 32_768,
};

const SEEDS: u64 = 64;

/// A simulation with one listener, one server, and what came out of the turns so far.
struct Bench {
    sim: Sim,
    net: Network,
    listener: Fd,
    seen: Vec<Completion>,
}

fn token(op: u8) -> Token {
    Token::new(Tag::Session, op, 7, 1)
}

fn server() -> Endpoint {
    Endpoint::Ip(SocketAddr::from(([127, 0, 0, 1], 9_000)))
}

fn options() -> StreamOptions {
    StreamOptions { source: None }
}

impl Bench {
    fn new(seed: u64, faults: Faults) -> Self {
        let sim = Sim::new(seed, SIZES, faults);
        let net = sim.network();
        let listener = net.listener(false);
        Self { sim, net, listener, seen: Vec::new() }
    }

    /// Turns until `op` has its last completion, which is returned.
    fn last(&mut self, op: u8) -> Completion {
        for _ in 0..10_000 {
            let of = |c: &Completion| c.token == token(op) && !c.more;
            if let Some(at) = self.seen.iter().position(of) {
                return self.seen.remove(at);
            }
            self.turn(Duration::from_secs(1));
        }
        panic!("no completion of {op}: {}", self.sim.describe());
    }

    fn turn(&mut self, wait: Duration) {
        let deadline = self.sim.now() + wait;
        self.sim.turn(deadline, &mut self.seen).expect("a turn");
    }

    /// Lets time pass until nothing moves any more.
    fn settle(&mut self) {
        let until = self.sim.now() + Duration::from_secs(2);
        while self.sim.now() < until {
            self.turn(Duration::from_millis(100));
        }
    }

    fn accepted(&mut self) -> (Fd, Far) {
        let far = self.net.connect_client(self.listener);
        self.sim.submit_accept(self.listener, false, token(15));
        let fd = self.last(15).result.expect("an accept");
        (Fd(fd as i32), far)
    }

    fn block(&mut self, bytes: &[u8]) -> ChunkId {
        let chunk = self.sim.buffers().take_block().expect("a block");
        assert_eq!(self.sim.buffers().write(chunk, bytes) as usize, bytes.len());
        chunk
    }

    /// Everything a multishot receive brought so far, its chunks given back.
    fn received(&mut self, op: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for completion in &mut self.seen {
            if completion.token == token(op)
                && let Some(chunk) = completion.chunk.take()
            {
                bytes.extend_from_slice(self.sim.buffers().bytes(chunk));
                self.sim.release(chunk);
            }
        }
        bytes
    }
}

fn for_each_seed(faults: Faults, claim: impl Fn(&mut Bench)) {
    for seed in 0..SEEDS {
        let shown = std::panic::AssertUnwindSafe(|| claim(&mut Bench::new(seed, faults)));
        if let Err(panic) = std::panic::catch_unwind(shown) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn bytes_arrive_once_and_in_order_whatever_happens_on_the_way() {
    for_each_seed(Faults::ROUGH, |bench| {
        let (fd, far) = bench.accepted();
        let sent: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
        far.send(&sent);
        far.fin();
        let mut got = Vec::new();
        bench.sim.submit_recv(fd, true, token(0));
        loop {
            bench.turn(Duration::from_secs(1));
            got.extend(bench.received(0));
            let end = bench.seen.iter().find(|c| !c.more).map(|c| c.result);
            bench.seen.clear();
            match end {
                Some(Ok(0)) => break,
                Some(Ok(_) | Err(Errno::ENOBUFS)) => bench.sim.submit_recv(fd, true, token(0)),
                Some(Err(errno)) => panic!("{errno}"),
                None => {}
            }
        }
        assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
        bench.sim.close_now(fd);
        bench.sim.assert_quiet(1);
    });
}

#[test]
fn a_send_that_waits_for_all_sends_all_unless_cut_short() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        let chunk = bench.block(&[5; 4_096]);
        bench.sim.submit_send(fd, chunk, true, token(1));
        assert_eq!(bench.last(1).result, Ok(4_096));
        bench.settle();
        assert_eq!(far.read(), [5; 4_096]);
        assert_eq!(bench.sim.unsent_now(fd), 0);
        bench.sim.release(chunk);
        bench.sim.finish_now(fd);
        bench.settle();
        assert_eq!(far.signal(), Some(Signal::Fin));
    });
}

#[test]
fn a_reset_is_reported_once_and_then_reads_as_an_end() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.reset();
        bench.settle();
        assert_eq!(bench.sim.send_bytes_now(fd, b"x"), Err(Errno::ECONNRESET));
        assert_eq!(bench.sim.send_bytes_now(fd, b"x"), Err(Errno::EPIPE));
        bench.sim.submit_recv(fd, true, token(0));
        assert_eq!(bench.last(0).result, Ok(0));
        assert_eq!(bench.sim.peer_now(fd), None);
    });
}

#[test]
fn a_reset_after_a_fin_shows_only_to_sends_and_polls() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.fin();
        bench.sim.submit_recv(fd, true, token(0));
        assert_eq!(bench.last(0).result, Ok(0));
        bench.sim.submit_poll(fd, Interest::Reset, token(2));
        bench.settle();
        assert!(bench.seen.is_empty(), "a FIN does not wake who waits for a reset");
        far.reset();
        assert_ne!(bench.last(2).result.expect("a mask") & POLL_ERR, 0);
        bench.sim.submit_recv(fd, true, token(0));
        assert_eq!(bench.last(0).result, Ok(0));
        assert_eq!(bench.sim.send_bytes_now(fd, b"x"), Err(Errno::EPIPE));
    });
}

#[test]
fn bytes_that_arrived_before_a_reset_stay_readable() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.send(b"last words");
        bench.settle();
        far.reset();
        bench.settle();
        bench.sim.submit_recv(fd, true, token(0));
        assert_eq!(bench.last(0).result, Err(Errno::ECONNRESET));
        assert_eq!(bench.received(0), b"last words");
    });
}

#[test]
fn our_reset_throws_away_what_was_not_delivered() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut bench = Bench::new(seed, Faults::NONE);
        let (fd, far) = bench.accepted();
        far.stop_reading();
        let mut sent = 0;
        while let Ok(n) = bench.sim.send_bytes_now(fd, &vec![1; 10_000]) {
            sent += u64::from(n);
        }
        assert_eq!(u64::from(bench.sim.unsent_now(fd)), sent);
        bench.sim.reset_now(fd);
        bench.sim.close_now(fd);
        bench.settle();
        far.start_reading();
        assert_eq!(far.signal(), Some(Signal::Reset));
        assert_eq!(far.read().len() as u64 + far.lost().0, sent);
        lost += far.lost().0;
        bench.sim.assert_quiet(1);
    }
    assert!(lost > 0, "not one byte lost in {SEEDS} resets");
}

#[test]
fn a_reset_ends_every_operation_and_one_of_them_says_why() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.stop_reading();
        while bench.sim.send_bytes_now(fd, &vec![1; 10_000]).is_ok() {
            bench.settle();
        }
        let chunk = bench.block(&[1; 4_096]);
        bench.sim.submit_send(fd, chunk, true, token(1));
        bench.sim.submit_recv(fd, true, token(0));
        bench.sim.submit_poll(fd, Interest::Reset, token(2));
        bench.settle();
        bench.sim.reset_now(fd);
        let ends = [bench.last(0).result, bench.last(1).result];
        assert!(bench.last(2).result.is_ok());
        let reset = ends.iter().filter(|end| **end == Err(Errno::ECONNRESET)).count();
        assert_eq!(reset, 1, "{ends:?}");
        bench.sim.release(chunk);
        bench.sim.close_now(fd);
        bench.sim.assert_quiet(1);
    });
}

#[test]
fn half_close_lets_the_other_direction_live() {
    for_each_seed(Faults::ROUGH, |bench| {
        let (fd, far) = bench.accepted();
        bench.sim.finish_now(fd);
        bench.settle();
        assert_eq!(far.signal(), Some(Signal::Fin));
        far.send(b"still here");
        bench.sim.submit_poll(fd, Interest::Readable, token(2));
        assert!(bench.last(2).result.is_ok());
        let chunk = bench.sim.buffers().take_block().expect("a block");
        let mut got = 0;
        while got < 10 {
            bench.sim.submit_recv_into(fd, chunk, token(0));
            match bench.last(0).result {
                Ok(n) => {
                    bench.sim.buffers().extend(chunk, n);
                    got += n;
                }
                Err(errno) => assert_eq!(errno, Errno::ENOBUFS),
            }
        }
        assert_eq!(bench.sim.buffers().bytes(chunk), b"still here");
        bench.sim.release(chunk);
    });
}

#[test]
fn a_poll_for_a_reset_fires_when_both_directions_are_shut() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        bench.sim.submit_poll(fd, Interest::Reset, token(2));
        far.send(b"x");
        far.fin();
        bench.settle();
        assert!(bench.seen.is_empty());
        bench.sim.finish_now(fd);
        let mask = bench.last(2).result.expect("a mask");
        assert_ne!(mask & libc::POLLHUP as u32, 0);
        assert_eq!(mask & POLL_ERR, 0);
    });
}

#[test]
fn a_cancel_yields_exactly_one_last_completion() {
    for_each_seed(Faults::ROUGH, |bench| {
        let (fd, far) = bench.accepted();
        bench.sim.submit_recv(fd, true, token(0));
        if far.id().is_multiple_of(2) {
            bench.turn(Duration::ZERO);
        }
        far.send(&[9; 3_000]);
        bench.sim.submit_cancel(token(0));
        bench.sim.submit_cancel(token(0));
        bench.settle();
        let last = bench.seen.iter().filter(|c| !c.more).count();
        assert_eq!(last, 1);
        assert!(!bench.seen.last().expect("a completion").more);
        bench.sim.submit_cancel(token(0));
        bench.settle();
        assert_eq!(bench.seen.iter().filter(|c| !c.more).count(), 1);
        let got = bench.received(0).len();
        assert_eq!(got + far.unread() + far.unsent(), 3_000, "a cancel loses no byte");
    });
}

#[test]
fn a_cancelled_send_says_how_much_it_sent() {
    let mut short = 0;
    for seed in 0..SEEDS {
        let mut bench = Bench::new(seed, Faults::NONE);
        let (fd, far) = bench.accepted();
        far.stop_reading();
        let mut queue = Queue::default();
        let mut sent = 0;
        let cancelled = loop {
            let chunk = bench.block(&[1; 4_096]);
            queue.push(chunk, bench.sim.buffers());
            bench.sim.submit_send(fd, chunk, true, token(1));
            bench.settle();
            bench.sim.submit_cancel(token(1));
            let result = bench.last(1).result;
            sent += u64::from(result.unwrap_or(0));
            bench.sim.release(chunk);
            if result != Ok(4_096) {
                break result;
            }
        };
        short += u32::from(cancelled.is_ok());
        assert!(cancelled.is_ok() || cancelled == Err(Errno::ECANCELED));
        far.start_reading();
        bench.settle();
        assert_eq!(far.read().len() as u64, sent);
    }
    assert!(short > 0, "never a short count");
}

#[test]
fn an_empty_ring_ends_receives_with_enobufs_and_keeps_the_bytes() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.send(&vec![3; 50_000]);
        bench.sim.submit_recv(fd, true, token(0));
        assert_eq!(bench.last(0).result, Err(Errno::ENOBUFS));
        assert_eq!(bench.sim.ring_free(), 0);
        bench.settle();
        assert_eq!(bench.received(0).len() + far.unread() + far.unsent(), 50_000);
        assert_eq!(bench.sim.ring_free(), SIZES.ring_count);
    });
}

#[test]
fn servers_answer_as_they_were_told() {
    let hour = Duration::from_secs(3_600);
    let cases = [
        (Behaviour::Accept, Ok(0)),
        (Behaviour::Late(hour), Ok(0)),
        (Behaviour::Refuse, Err(Errno::ECONNREFUSED)),
        (Behaviour::Unreachable, Err(Errno::EHOSTUNREACH)),
        (Behaviour::ResetAfter(Duration::ZERO), Ok(0)),
    ];
    for_each_seed(Faults::NONE, |bench| {
        for (behaviour, answer) in cases {
            bench.net.listen(&server(), behaviour);
            let fd = bench.sim.open_now(&server(), &options()).expect("a socket");
            bench.sim.submit_connect(fd, &server(), token(3));
            assert_eq!(bench.last(3).result, answer, "{behaviour:?}");
            let far = bench.net.served();
            assert_eq!(far.is_some(), answer.is_ok());
            bench.settle();
            if behaviour == Behaviour::ResetAfter(Duration::ZERO) {
                assert_eq!(bench.sim.send_bytes_now(fd, b"x"), Err(Errno::ECONNRESET));
            }
            bench.sim.close_now(fd);
        }
        bench.sim.assert_quiet(1);
    });
}

#[test]
fn a_connect_in_flight_ends_by_cancel_fin_or_reset() {
    for_each_seed(Faults::NONE, |bench| {
        bench.net.listen(&server(), Behaviour::BlackHole);
        for how in 0..3 {
            let fd = bench.sim.open_now(&server(), &options()).expect("a socket");
            bench.sim.submit_connect(fd, &server(), token(3));
            bench.settle();
            assert!(bench.seen.is_empty());
            let expected = match how {
                0 => {
                    bench.sim.submit_cancel(token(3));
                    Errno::ECANCELED
                }
                1 => {
                    bench.sim.finish_now(fd);
                    Errno::ECONNRESET
                }
                _ => {
                    bench.sim.reset_now(fd);
                    Errno::ECONNRESET
                }
            };
            assert_eq!(bench.last(3).result, Err(expected));
            bench.sim.close_now(fd);
        }
        bench.sim.assert_quiet(1);
    });
}

#[test]
fn descriptors_run_out_and_the_client_waits() {
    for_each_seed(Faults::NONE, |bench| {
        bench.net.limit_fds(2);
        let (first, _) = bench.accepted();
        let far = bench.net.connect_client(bench.listener);
        far.send(b"hello");
        bench.sim.submit_accept(bench.listener, true, token(15));
        assert_eq!(bench.last(15).result, Err(Errno::EMFILE));
        assert_eq!(bench.sim.open_now(&server(), &options()), Err(Errno::EMFILE));
        bench.sim.close_now(first);
        bench.sim.submit_accept(bench.listener, false, token(15));
        assert_eq!(bench.last(15).result, Ok(first.0 as u32), "the lowest number is used again");
        bench.sim.submit_recv(first, true, token(0));
        bench.settle();
        assert_eq!(bench.received(0), b"hello");
    });
}

#[test]
fn a_pipe_carries_bytes_from_socket_to_socket_in_order() {
    for_each_seed(Faults::ROUGH, |bench| {
        let (from, client) = bench.accepted();
        let (to, other) = bench.accepted();
        let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 253) as u8).collect();
        client.send(&sent);
        client.fin();
        let pipe = bench.sim.take_pipe().expect("a pipe");
        let max = bench.sim.pipe_capacity(pipe);
        let mut held = 0;
        loop {
            match bench.sim.splice_in_now(from, pipe, max) {
                Ok(0) => break,
                Ok(n) => held += n,
                Err(errno) => assert_eq!(errno, Errno::EAGAIN),
            }
            while held > 0 {
                match bench.sim.splice_out_now(pipe, to, max) {
                    Ok(n) => held -= n,
                    Err(_) => break,
                }
            }
            bench.turn(Duration::from_millis(1));
        }
        while held > 0 {
            bench.turn(Duration::from_millis(1));
            held -= bench.sim.splice_out_now(pipe, to, max).unwrap_or(0);
        }
        bench.settle();
        assert!(other.read() == sent);
        bench.sim.give_pipe(pipe, true);
        bench.sim.close_now(from);
        bench.sim.close_now(to);
        bench.sim.assert_quiet(1);
    });
}

#[test]
fn closing_with_unread_bytes_is_a_reset() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.send(b"unread");
        bench.settle();
        bench.sim.close_now(fd);
        bench.settle();
        assert_eq!(far.signal(), Some(Signal::Reset));
        assert_eq!(far.deeds(), [Deed::ResetByClose]);
    });
}

#[test]
fn a_cut_network_is_silent() {
    for_each_seed(Faults::NONE, |bench| {
        let (fd, far) = bench.accepted();
        far.cut();
        far.send(b"lost in space");
        bench.sim.submit_recv(fd, true, token(0));
        assert!(bench.sim.send_bytes_now(fd, b"me too").is_ok());
        bench.settle();
        assert!(bench.seen.is_empty() && far.read().is_empty());
        far.mend();
        bench.settle();
        assert_eq!(far.read(), b"me too");
        assert_eq!(bench.received(0), b"lost in space");
    });
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let course = || {
        let mut bench = Bench::new(42, Faults::HOSTILE);
        let far = bench.net.connect_client(bench.listener);
        far.send(&vec![1; 30_000]);
        bench.sim.submit_accept(bench.listener, true, token(15));
        for _ in 0..50 {
            bench.turn(Duration::from_millis(10));
        }
        format!("{:?} {}", bench.seen, bench.sim.describe())
    };
    assert_eq!(course(), course());
}

mod breaches;
