//! The io_uring driver: the product's implementation of [`Driver`].
//!
//! One ring per worker, used by one thread (SINGLE_ISSUER, DEFER_TASKRUN). What the kernel may
//! touch, and who keeps it valid:
//!
//! - S1 buffers. `Buffers` is one mapping made before the first submission; it never moves.
//!   Upheld by: field order of `Uring` (the ring is dropped, and with it every operation,
//!   before the mapping).
//! - S2 addresses. The kernel copies a connect's address when it takes the entry
//!   (FEAT_SUBMIT_STABLE, checked at start), so it has to stay only until the next enter.
//!   Upheld by: one address slot per queue entry, written when the entry is pushed.
//! - S3 lifetime. A chunk handed to an operation is not released before its final completion.
//!   Upheld by: the sessions' in-flight sets (`l4/session.rs`).
//!
//! Entering: always with GETEVENTS, or DEFER_TASKRUN completions never appear; wait for one
//! completion, never more, and never without a timeout.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{self, BufRingEntry, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use socket2::SockAddr;

use super::buffers::{Buffers, ChunkId, Kind, Sizes};
use super::calls::shared_calls;
use super::driver::{
    Completion, Driver, Fd, Interest, PathInfo, PipeId, StreamOptions, TcpOptions,
};
use super::pipes::Pipes;
use super::ports::Ports;
use super::sys;
use super::time::Time;
use super::token::{Tag, Token};
use crate::net::Endpoint;

/// Sizes of a ring; arguments so that tests can starve it.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    pub sizes: Sizes,
    pub sq_entries: u32,
    /// 8–16 times the submission queue: a full completion queue ends multishot operations.
    pub cq_entries: u32,
    /// Pipes for splice, each 2 descriptors and up to `pipe_bytes` of kernel memory.
    pub pipes_max: u16,
    pub pipe_bytes: u32,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            sizes: Sizes::default(),
            sq_entries: 256,
            cq_entries: 4096,
            // Few, large moves win; a flow holds one only while bytes are in it.
            pipes_max: 16,
            pipe_bytes: 1 << 20,
        }
    }
}

/// The longest one wait lasts: a bound on how late a missed wake-up could be noticed.
const WAIT_MAX_NS: u64 = 1_000_000_000;

const BUFFER_GROUP: u16 = 0;

/// `IORING_RECVSEND_POLL_FIRST`: who asks for bytes rarely finds some at once, so the kernel
/// waits before it looks.
const POLL_FIRST: u16 = 1;

pub struct Uring {
    // Dropped first: ends every operation (S1).
    ring: IoUring,
    provided: ProvidedRing,
    buffers: Buffers,
    /// One slot per submission entry (S2).
    addresses: Box<[Option<SockAddr>]>,
    pushed: usize,
    pipes: Pipes,
    ports: Ports,
    now: Time,
    /// Completions reaped while making room for a submission; delivered by the next turn.
    stash: Vec<Completion>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("ring", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Uring {
    /// Sets the ring up for the calling thread.
    ///
    /// # Errors
    /// io_uring_setup(2)'s; [`explain`] puts them into words.
    pub fn new(config: UringConfig) -> io::Result<Self> {
        let ring = build(config.sq_entries, config.cq_entries)?;
        let buffers = Buffers::new(config.sizes)?;
        let provided = ProvidedRing::new(&ring, &buffers)?;
        Ok(Self {
            ring,
            provided,
            buffers,
            addresses: (0..config.sq_entries.next_power_of_two()).map(|_| None).collect(),
            pushed: 0,
            pipes: Pipes::new(config.pipes_max, config.pipe_bytes),
            ports: Ports::of_host(),
            now: Time(sys::monotonic_ns()),
            stash: Vec::with_capacity(config.cq_entries as usize),
        })
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.bits());
        if self.ring.submission().is_full() {
            self.flush();
        }
        self.pushed += 1;
        // SAFETY: every pointer in `entry` is into the mapping (S1) or an address slot (S2) and
        // stays valid until the final completion of `token` (S3). That holds even if a later
        // submit fails: the kernel may already have taken the entry, so no error path frees.
        unsafe { self.ring.submission().push(&entry) }.expect("flushed above, so there is room");
    }

    /// Hands the queued entries to the kernel without waiting.
    fn flush(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.enter(0, None) {
                Ok(()) => {}
                // The completion queue is full: make room, keep what it held for the turn.
                Err(error) if is_full(&error) => {}
                Err(error) => {
                    debug_assert!(false, "io_uring_enter: {error}");
                    return;
                }
            }
            if !self.ring.submission().is_empty() {
                let mut stash = std::mem::take(&mut self.stash);
                self.reap(&mut stash);
                self.stash = stash;
            }
        }
    }

    fn enter(&mut self, want: u32, timeout: Option<&Timespec>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let mut args = SubmitArgs::new();
        if let Some(timeout) = timeout {
            args = args.timespec(timeout);
        }
        // SAFETY: `args` lives through the call; what the entries point to: S1–S3.
        unsafe { self.ring.submitter().enter(queued, want, flags.bits(), Some(&args)) }.map(drop)
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let (buffers, provided) = (&mut self.buffers, &mut self.provided);
        for entry in self.ring.completion() {
            let token = Token::from_bits(entry.user_data());
            if token.tag() == Tag::Driver {
                continue;
            }
            let result = match entry.result() {
                n if n >= 0 => Ok(n as u32),
                error => Err(Errno::from_raw(-error)),
            };
            let chunk = cqueue::buffer_select(entry.flags()).map(|number| {
                let chunk = buffers.ring_chunk(u32::from(number));
                buffers.set(chunk, 0, result.unwrap_or(0));
                provided.with_kernel -= 1;
                chunk
            });
            out.push(Completion { token, result, chunk, more: cqueue::more(entry.flags()) });
        }
    }
}

/// Errors of enter that mean «reap first», not «broken».
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ETIME))
}

impl Driver for Uring {
    fn clock(&self) -> Time {
        Time(sys::monotonic_ns())
    }

    fn now(&self) -> Time {
        self.now
    }

    fn turn(&mut self, deadline: Time, out: &mut Vec<Completion>) -> io::Result<()> {
        let before = sys::monotonic_ns();
        out.append(&mut self.stash);
        let wait = deadline.0.saturating_sub(before).min(WAIT_MAX_NS);
        let completions_min = u32::from(wait > 0 && out.is_empty());
        let timeout = Timespec::new().sec(wait / 1_000_000_000).nsec((wait % 1_000_000_000) as u32);
        match self.enter(completions_min, Some(&timeout)) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {}
            Err(error) => return Err(error),
        }
        self.now = Time(sys::monotonic_ns());
        self.reap(out);
        Ok(())
    }

    fn submit_accept(&mut self, listener: Fd, many: bool, token: Token) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = types::Fd(listener.0);
        let entry = if many {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            let none = std::ptr::null_mut();
            opcode::Accept::new(fd, none, none.cast()).flags(flags).build()
        };
        self.push(entry, token);
    }

    fn submit_connect(&mut self, fd: Fd, to: &Endpoint, token: Token) {
        if self.ring.submission().is_full() {
            self.flush();
        }
        let at = self.pushed & (self.addresses.len() - 1);
        // A path too long was refused by `check`; the kernel answers EINVAL to an empty one.
        let slot = &mut self.addresses[at];
        *slot = sys::sockaddr(to).ok();
        let (address, len) =
            slot.as_ref().map_or((std::ptr::null(), 0), |slot| (slot.as_ptr(), slot.len()));
        self.push(opcode::Connect::new(types::Fd(fd.0), address.cast(), len).build(), token);
    }

    fn submit_recv(&mut self, fd: Fd, many: bool, token: Token) {
        let entry = if many {
            opcode::RecvMulti::new(types::Fd(fd.0), BUFFER_GROUP).build()
        } else {
            opcode::Recv::new(types::Fd(fd.0), std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .ioprio(POLL_FIRST)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(entry, token);
    }

    fn submit_recv_into(&mut self, fd: Fd, chunk: ChunkId, token: Token) {
        let (tail, room) = self.buffers.tail(chunk);
        self.push(opcode::Recv::new(types::Fd(fd.0), tail, room).build(), token);
    }

    fn submit_send(&mut self, fd: Fd, chunk: ChunkId, wait_all: bool, token: Token) {
        let (start, len) = self.buffers.span(chunk);
        let wait = if wait_all { libc::MSG_WAITALL } else { libc::MSG_DONTWAIT };
        let entry =
            opcode::Send::new(types::Fd(fd.0), start, len).flags(wait | libc::MSG_NOSIGNAL).build();
        self.push(entry, token);
    }

    fn submit_poll(&mut self, fd: Fd, interest: Interest, token: Token) {
        let mask = match interest {
            Interest::Readable => libc::POLLIN as u32,
            Interest::Writable => libc::POLLOUT as u32,
            Interest::Reset => 0,
        };
        // A poll with mask 0 fires on a FIN as well, and a one-shot would be used up by it.
        let many = interest == Interest::Reset;
        self.push(opcode::PollAdd::new(types::Fd(fd.0), mask).multi(many).build(), token);
    }

    fn submit_cancel(&mut self, token: Token) {
        let cancel = opcode::AsyncCancel::new(token.bits()).build();
        self.push(cancel, Token::new(Tag::Driver, 0, 0, 0));
    }

    fn send_now(&mut self, fd: Fd, chunk: ChunkId) -> Result<u32, Errno> {
        sys::send(fd.0, self.buffers.span(chunk))
    }

    fn send_bytes_now(&mut self, fd: Fd, bytes: &[u8]) -> Result<u32, Errno> {
        sys::send(fd.0, (bytes.as_ptr(), bytes.len() as u32))
    }

    fn send_parts_now(&mut self, fd: Fd, parts: &[IoSlice<'_>]) -> Result<u32, Errno> {
        sys::send_parts(fd.0, parts)
    }

    fn recv_bytes_now(&mut self, fd: Fd, room: &mut [u8]) -> Result<u32, Errno> {
        sys::recv(fd.0, room)
    }

    fn accept_now(&mut self, listener: Fd) -> Result<Fd, Errno> {
        sys::accept(listener.0).map(Fd)
    }

    fn bar_now(&mut self, listener: Fd) {
        sys::drop_syns(listener.0);
    }

    fn open_now(&mut self, to: &Endpoint, options: &StreamOptions) -> Result<Fd, Errno> {
        let fd = sys::open(to, options)?;
        if let Endpoint::Ip(to) = to {
            self.ports.offer(fd, *to);
        }
        Ok(Fd(fd))
    }

    fn reset_now(&mut self, fd: Fd) {
        sys::disconnect(fd.0);
    }

    fn close_now(&mut self, fd: Fd) {
        sys::close(fd.0);
    }

    fn forget_now(&mut self, _fd: Fd) {
        // What is not in flight is nowhere in a ring.
    }

    shared_calls!();

    fn splice_in_now(&mut self, fd: Fd, pipe: PipeId, max: u32) -> Result<u32, Errno> {
        sys::splice(fd.0, self.pipes.end(pipe, 1), max)
    }

    fn release(&mut self, chunk: ChunkId) {
        match self.buffers.kind(chunk) {
            Kind::Ring => self.provided.give(chunk, &self.buffers),
            Kind::Block | Kind::Large => self.buffers.give(chunk),
        }
    }

    fn ring_free(&self) -> u32 {
        self.provided.with_kernel
    }
}

/// The ring of provided buffers: a page that the kernel and we both see.
struct ProvidedRing {
    entries: NonNull<BufRingEntry>,
    mapped: usize,
    mask: u16,
    tail: u16,
    /// Buffers the kernel could fill now.
    with_kernel: u32,
}

impl ProvidedRing {
    fn new(ring: &IoUring, buffers: &Buffers) -> io::Result<Self> {
        let count = buffers.sizes().ring_count;
        let mapped = count as usize * size_of::<BufRingEntry>();
        let entries = sys::map_anonymous(mapped)?.cast::<BufRingEntry>();
        let mut this = Self { entries, mapped, mask: (count - 1) as u16, tail: 0, with_kernel: 0 };
        // SAFETY: a page-aligned mapping of `count` entries, kept until `Uring` drops (the ring
        // first, then this field).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count as u16,
                BUFFER_GROUP,
                0,
            )?;
        }
        for number in 0..count {
            this.give(buffers.ring_chunk(number), buffers);
        }
        Ok(this)
    }

    fn give(&mut self, chunk: ChunkId, buffers: &Buffers) {
        debug_assert!(self.with_kernel <= u32::from(self.mask), "B1: more buffers than there are");
        // SAFETY: the index is masked to the mapping; the entry is ours until the tail says
        // otherwise. The tail is a u16 inside entry 0, which no other field overlaps.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask));
            entry.set_addr(buffers.storage(chunk) as u64);
            entry.set_len(buffers.sizes().ring_size);
            entry.set_bid(chunk.index() as u16);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
        self.with_kernel += 1;
    }
}

impl Drop for ProvidedRing {
    fn drop(&mut self) {
        sys::unmap(self.entries.cast(), self.mapped);
    }
}

// SAFETY: the mapping belongs to this value; it moves between threads only before first use.
unsafe impl Send for ProvidedRing {}

fn build(sq_entries: u32, cq_entries: u32) -> io::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(cq_entries)
        .build(sq_entries)?;
    if !ring.params().is_feature_submit_stable() || !ring.params().is_feature_nodrop() {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(ring)
}

/// Whether a ring as the workers need it can be made here.
///
/// # Errors
/// One line that names the cause and the remedy.
pub fn probe() -> Result<(), String> {
    let tried = build(8, 64).and_then(|ring| {
        let sizes = Sizes { ring_count: 8, block_count: 1, large_count: 0, ..Sizes::default() };
        ProvidedRing::new(&ring, &Buffers::new(sizes)?).map(drop)
    });
    tried.map_err(|error| explain(&error))
}

/// A refusal of io_uring in words: cause and remedy.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = sysctl.as_deref().map_or("0", str::trim);
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled != "0" => format!(
            "io_uring is switched off by sysctl kernel.io_uring_disabled = {disabled}; \
             set it to 0 (sysctl -w kernel.io_uring_disabled=0)"
        ),
        Some(libc::EPERM | libc::EACCES) => "io_uring is refused by a seccomp filter (Docker's \
             default profile does that from version 25 on); run with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register, or --security-opt \
             seccomp=unconfined"
            .to_owned(),
        Some(libc::ENOSYS | libc::EINVAL) => "this kernel has no io_uring as Sluicegate needs it \
             (DEFER_TASKRUN, buffer rings, multishot receive); use Linux 6.1 or newer, or allow \
             io_uring_setup if a sandbox hides it"
            .to_owned(),
        Some(libc::ENOMEM) => {
            "io_uring could not lock memory; raise `ulimit -l` (LimitMEMLOCK)".to_owned()
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor is left for a ring; raise `ulimit -n` (LimitNOFILE)".to_owned()
        }
        _ => format!("io_uring_setup failed: {error}"),
    }
}
