//! What every driver over the real kernel keeps of the contract, against std sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::*;
use crate::runtime::buffers::{Queue, Sizes};
use crate::runtime::epoll::Epoll;
use crate::runtime::ports::IP_LOCAL_PORT_RANGE;
use crate::runtime::sys;
use crate::runtime::token::Tag;
use crate::runtime::uring::{self, Uring, UringConfig};

/// Small, so that tests reach its ends.
const SIZES: Sizes = Sizes {
    ring_count: 8,
    ring_size: 1_024,
    block_count: 64,
    block_size: 16_384,
    large_count: 1,
    large_size: 65_536,
};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Operations of a test, by number.
const ACCEPT: u8 = 0;
const RECV: u8 = 1;
const SEND: u8 = 2;
const POLL: u8 = 3;
const CONNECT: u8 = 4;

/// A driver, a listener, and what came out of the turns so far.
struct Bench<D> {
    driver: D,
    listener: TcpListener,
    seen: Vec<Completion>,
}

/// Every claim on every driver; without io_uring, on the other.
macro_rules! on_every_driver {
    ($($claim:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $claim() {
                if let Some(mut bench) = $crate::runtime::driver::tests::on_uring() {
                    super::$claim(&mut bench);
                }
            })*
        }
        mod epoll {
            $(#[test] fn $claim() { super::$claim(&mut $crate::runtime::driver::tests::on_epoll()); })*
        }
    };
}

mod connections;
mod receiving;
mod sending;

fn on_uring() -> Option<Bench<Uring>> {
    if let Err(cause) = uring::probe() {
        println!("not tested here: {cause}");
        return None;
    }
    let config = UringConfig { sizes: SIZES, pipes_max: 2, ..UringConfig::default() };
    Some(Bench::new(Uring::new(config).expect("a ring")))
}

fn on_epoll() -> Bench<Epoll> {
    Bench::new(Epoll::new(SIZES, 2, 1 << 16).expect("descriptors"))
}

fn token(op: u8) -> Token {
    Token::new(Tag::Session, op, 7, 1)
}

fn text(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}

/// Closes with an RST.
fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

impl<D: Driver> Bench<D> {
    fn new(driver: D) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { driver, listener, seen: Vec::new() }
    }

    fn listener(&self) -> Fd {
        Fd(self.listener.as_raw_fd())
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn turn(&mut self, wait: Duration) {
        let deadline = self.driver.clock() + wait;
        self.driver.turn(deadline, &mut self.seen).expect("a turn");
    }

    /// Turns until a completion fits, which is taken out.
    fn wait_for(&mut self, what: &str, fits: impl Fn(&Completion) -> bool) -> Completion {
        let until = self.driver.clock() + PATIENCE;
        loop {
            if let Some(at) = self.seen.iter().position(&fits) {
                return self.seen.remove(at);
            }
            assert!(self.driver.clock() < until, "no {what} among {:?}", self.seen);
            self.turn(Duration::from_secs(1));
        }
    }

    /// The next completion of `op`.
    fn next(&mut self, op: u8) -> Completion {
        self.wait_for("completion", |one| one.token == token(op))
    }

    /// The last completion of `op`.
    fn last(&mut self, op: u8) -> Completion {
        self.wait_for("last completion", |one| one.token == token(op) && !one.more)
    }

    fn accepted(&mut self) -> (Fd, TcpStream) {
        let far = self.client();
        self.driver.submit_accept(self.listener(), false, token(ACCEPT));
        let fd = self.last(ACCEPT).result.expect("an accept");
        (Fd(fd as i32), far)
    }

    fn block(&mut self, bytes: &[u8]) -> ChunkId {
        let chunk = self.driver.buffers().take_block().expect("a block");
        assert_eq!(self.driver.buffers().write(chunk, bytes) as usize, bytes.len());
        chunk
    }

    fn take(&mut self, chunk: ChunkId) -> Vec<u8> {
        let bytes = self.driver.buffers().bytes(chunk).to_vec();
        self.driver.release(chunk);
        bytes
    }

    /// Receives with multishot until the end: the bytes, and the end's result.
    fn drain(&mut self, fd: Fd) -> (Vec<u8>, Result<u32, Errno>) {
        let mut bytes = Vec::new();
        self.driver.submit_recv(fd, true, token(RECV));
        loop {
            let got = self.next(RECV);
            if let Some(chunk) = got.chunk {
                assert_eq!(self.driver.buffers().len(chunk), got.result.unwrap());
                bytes.extend(self.take(chunk));
            }
            match got.result {
                Ok(0) => {
                    assert!(!got.more, "D1");
                    return (bytes, Ok(0));
                }
                Ok(_) | Err(Errno::ENOBUFS) if !got.more => {
                    self.driver.submit_recv(fd, true, token(RECV));
                }
                Ok(_) => {}
                Err(errno) => return (bytes, Err(errno)),
            }
        }
    }

    /// Sends until the socket takes nothing more, also when the peer's kernel has had its say.
    fn fill(&mut self, fd: Fd) -> u64 {
        let (bytes, mut sent, mut refusals) = (vec![7; 1 << 16], 0, 0);
        while refusals < 4 {
            match self.driver.send_bytes_now(fd, &bytes) {
                Ok(n) => (sent, refusals) = (sent + u64::from(n), 0),
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    refusals += 1;
                    self.turn(Duration::from_millis(5));
                }
            }
        }
        sent
    }

    fn close(&mut self, fd: Fd) {
        assert!(self.seen.is_empty(), "{:?}", self.seen);
        self.driver.close_now(fd);
        assert_eq!(self.driver.ring_free(), SIZES.ring_count);
    }
}

/// Reads `n` bytes on a thread of its own, then the rest until the end.
fn reader(mut far: TcpStream) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut room, mut total) = (vec![0; 1 << 16], 0);
        while let Ok(n @ 1..) = far.read(&mut room) {
            total += n as u64;
        }
        total
    })
}
