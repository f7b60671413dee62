//! One try of an operation: the call, and what came of it.

use nix::errno::Errno;

use super::ops::Kind;
use super::{Epoll, TRIES_MAX, ready};
use crate::runtime::buffers::ChunkId;
use crate::runtime::driver::{Completion, Fd, Interest, POLL_ERR, POLL_HUP};
use crate::runtime::sys;

/// What a try gave.
enum Step {
    /// Not yet. The bit it needs was taken away, or it is looked at again anyway.
    Wait,
    More(u32, Option<ChunkId>),
    Last(Result<u32, Errno>, Option<ChunkId>),
}

impl Step {
    /// One of many results, or the only one.
    const fn good(many: bool, n: u32, chunk: Option<ChunkId>) -> Self {
        if many { Self::More(n, chunk) } else { Self::Last(Ok(n), chunk) }
    }

    const fn failed(errno: Errno) -> Self {
        Self::Last(Err(errno), None)
    }
}

impl Epoll {
    /// Tries an operation until it has to wait, ends, or has had enough for one turn (E3).
    pub(super) fn attempt(&mut self, fd: Fd, key: u32, out: &mut Vec<Completion>) {
        let token = self.ops[key].token;
        for _ in 0..TRIES_MAX {
            let step = self.step(fd, key);
            let (result, chunk, more) = match step {
                Step::Wait => return,
                Step::More(n, chunk) => (Ok(n), chunk, true),
                Step::Last(result, chunk) => (result, chunk, false),
            };
            out.push(Completion { token, result, chunk, more });
            if !more {
                let mut first = self.socket(fd).first;
                self.ops.remove(&mut first, key);
                self.socket(fd).first = first;
                return;
            }
        }
        self.make_due(fd);
    }

    fn step(&mut self, fd: Fd, key: u32) -> Step {
        let op = &self.ops[key];
        if let Some(errno) = op.end {
            return match op.kind {
                // What was sent was sent.
                Kind::Send { done, .. } if done > 0 => Step::Last(Ok(done), None),
                _ => Step::failed(errno),
            };
        }
        if let Kind::Connect { to: Some(_) } = op.kind {
            return self.begin_connect(fd, key);
        }
        if let Kind::Send { wait_all: false, .. } = op.kind {
            return self.send(fd, key);
        }
        if self.socket(fd).ready & self.ops[key].needs() == 0 {
            return Step::Wait;
        }
        match self.ops[key].kind {
            Kind::Accept { many } => self.accept(fd, many),
            Kind::Connect { .. } => self.end_connect(fd),
            Kind::Recv { many } => self.receive(fd, many),
            Kind::RecvInto { chunk } => self.receive_into(fd, chunk),
            Kind::Send { .. } => self.send(fd, key),
            Kind::Poll { interest: Interest::Reset, told } => self.poll_reset(fd, key, told),
            Kind::Poll { interest, .. } => self.poll(fd, interest),
        }
    }

    fn accept(&mut self, fd: Fd, many: bool) -> Step {
        let result = sys::accept(fd.0);
        match self.spent(fd, ready::READ, result) {
            Ok(client) => Step::good(many, self.fresh(client).0 as u32, None),
            Err(Errno::EAGAIN) => Step::Wait,
            Err(errno) => Step::failed(errno),
        }
    }

    fn begin_connect(&mut self, fd: Fd, key: u32) -> Step {
        let Kind::Connect { to } = &mut self.ops.get_mut(key).kind else { return Step::Wait };
        let Some(to) = to.take() else { return Step::Wait };
        // A path too long was refused by `check`.
        let Ok(address) = sys::sockaddr(&to) else { return Step::failed(Errno::EINVAL) };
        match sys::connect(fd.0, &address) {
            Ok(()) => Step::Last(Ok(0), None),
            Err(Errno::EINPROGRESS) => match self.add(fd) {
                Ok(()) => Step::Wait,
                Err(errno) => Step::failed(errno),
            },
            Err(errno) => Step::failed(errno),
        }
    }

    fn end_connect(&mut self, fd: Fd) -> Step {
        let mask = sys::poll_mask(fd.0, libc::POLLOUT);
        if mask & (POLL_ERR | POLL_HUP) != 0 {
            let errno = sys::option(fd.0, libc::SOL_SOCKET, libc::SO_ERROR);
            // None: it was disconnected from here.
            let errno = errno.filter(|&errno| errno != 0);
            return match errno.map_or(Errno::ECONNABORTED, Errno::from_raw) {
                // Who is not let in is refused: this one was in, and was reset since.
                Errno::ECONNRESET | Errno::EPIPE => {
                    self.socket(fd).reset = true;
                    Step::Last(Ok(0), None)
                }
                errno => Step::failed(errno),
            };
        }
        if mask == 0 {
            self.socket(fd).ready &= !ready::WRITE;
            return Step::Wait;
        }
        Step::Last(Ok(0), None)
    }

    fn receive(&mut self, fd: Fd, many: bool) -> Step {
        let Some(chunk) = self.free.pop() else {
            if self.gave {
                self.make_due(fd);
                return Step::Wait;
            }
            return Step::failed(Errno::ENOBUFS);
        };
        self.buffers.set(chunk, 0, 0);
        let asked = self.buffers.sizes().ring_size;
        let result = sys::recv(fd.0, self.buffers.tail_mut(chunk));
        let result = self.read(fd, result);
        match self.spent(fd, ready::READ, result) {
            Ok(n) if n > 0 => {
                self.buffers.extend(chunk, n);
                self.gave = true;
                self.socket(fd).has_read(n, asked);
                Step::good(many, n, Some(chunk))
            }
            result => {
                self.free.push(chunk);
                if result == Err(Errno::EAGAIN) { Step::Wait } else { Step::Last(result, None) }
            }
        }
    }

    fn receive_into(&mut self, fd: Fd, chunk: ChunkId) -> Step {
        let asked = self.buffers.room(chunk);
        let result = sys::recv(fd.0, self.buffers.tail_mut(chunk));
        let result = self.read(fd, result);
        match self.spent(fd, ready::READ, result) {
            Ok(n) => {
                self.socket(fd).has_read(n, asked);
                Step::Last(Ok(n), None)
            }
            Err(Errno::EAGAIN) => Step::Wait,
            Err(errno) => Step::failed(errno),
        }
    }

    fn send(&mut self, fd: Fd, key: u32) -> Step {
        let Kind::Send { chunk, len, mut done, wait_all } = self.ops[key].kind else {
            return Step::Wait;
        };
        loop {
            let bytes = &self.buffers.bytes(chunk)[done as usize..len as usize];
            let result = sys::send(fd.0, (bytes.as_ptr(), bytes.len() as u32));
            match self.spent(fd, ready::WRITE, result) {
                Ok(n) => done += n,
                Err(Errno::EAGAIN) if wait_all => {
                    self.ops.get_mut(key).kind = Kind::Send { chunk, len, done, wait_all };
                    return Step::Wait;
                }
                // A count that is short says that there was an error.
                Err(_) if done > 0 => return Step::Last(Ok(done), None),
                Err(errno) => return Step::failed(errno),
            }
            if done == len || !wait_all {
                return Step::Last(Ok(done), None);
            }
        }
    }

    fn poll(&mut self, fd: Fd, interest: Interest) -> Step {
        let (events, bit) = match interest {
            Interest::Writable => (libc::POLLOUT, ready::WRITE),
            Interest::Readable | Interest::Reset => (libc::POLLIN, ready::READ),
        };
        let mask = sys::poll_mask(fd.0, events);
        if mask == 0 {
            self.socket(fd).ready &= !bit;
            return Step::Wait;
        }
        Step::Last(Ok(mask), None)
    }

    /// A hang-up may be that of both directions in order, and an error may follow it.
    fn poll_reset(&mut self, fd: Fd, key: u32, told: u32) -> Step {
        let mask = sys::poll_mask(fd.0, 0);
        if mask & !told == 0 {
            return Step::Wait;
        }
        if mask & POLL_HUP != mask {
            return Step::Last(Ok(mask), None);
        }
        self.ops.get_mut(key).kind = Kind::Poll { interest: Interest::Reset, told: mask };
        Step::More(mask, None)
    }
}
