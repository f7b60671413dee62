//! One connection of a task.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};

use nix::errno::Errno;

use super::inbox::Inbox;
use super::shell::{Desk, Shell};
use super::sockets::{End, Got};
use crate::net::Endpoint;
use crate::runtime::buffers::ChunkId;
use crate::runtime::driver::{Driver, Fd, PathInfo, TcpOptions};
use crate::runtime::mail::Stolen;

/// Room that a receive wants in an inbox: a ring buffer's worth.
const ROOM_MIN: usize = 4096;

/// A flow that fills ring buffers is read from directly, so much at a time.
const BULK_ROOM: usize = 128 << 10;

/// It goes on like that, without a receive of the ring first, while this much comes at once.
const BULK_MIN: usize = 32 << 10;

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub struct Socket<D: Driver> {
    shell: Rc<Shell<D>>,
    slot: u32,
    end: End,
    /// Much came the last time.
    bulk: Cell<bool>,
    /// Retransmits that were told of.
    retransmits: Cell<u32>,
}

impl<D: Driver> Socket<D> {
    pub(super) const fn new(shell: Rc<Shell<D>>, slot: u32) -> Self {
        Self { shell, slot, end: End::Close, bulk: Cell::new(false), retransmits: Cell::new(0) }
    }

    #[must_use]
    pub const fn shell(&self) -> &Rc<Shell<D>> {
        &self.shell
    }

    #[must_use]
    pub fn fd(&self) -> Fd {
        self.shell.desk().sockets.fd(self.slot)
    }

    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.shell.desk().sockets.is_unix(self.slot)
    }

    /// Nothing is in flight on it, nothing came that nobody took, and no reset was seen.
    pub fn is_at_rest(&self) -> bool {
        self.shell.desk().sockets.is_at_rest(self.slot)
    }

    /// When dropped, the descriptor stays open and goes where that of `other` goes.
    pub const fn return_with(&mut self, other: &Self) {
        self.end = other.end;
    }

    /// When dropped, the descriptor stays open and `to` is told.
    pub const fn return_to(&mut self, to: u64) {
        self.end = End::Return { to };
    }

    /// Gives the connection to another worker, if nothing comes on it until its watch has ended.
    pub fn part(mut self, stolen: Stolen) {
        self.end = End::Part(stolen);
    }

    /// Connects again if the few local ports that were offered are taken. False if all are.
    pub(super) fn connect_from_any_port(&self, to: &Endpoint) -> bool {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        let lifted = driver.lift_ports_now(sockets.fd(self.slot));
        if lifted {
            sockets.connect(self.slot, to, driver);
        }
        lifted
    }

    /// The connect has ended.
    pub(super) async fn connected(&self) -> Result<(), Errno> {
        poll_fn(|cx| self.shell.desk().sockets.poll_write(self.slot, cx)).await
    }

    /// It is a connection to the server of this number.
    pub fn belongs_to(&self, server: u32) {
        self.shell.desk().sockets.belongs_to(self.slot, server);
    }

    /// Asks for the next bytes now, to be taken later: while nobody waits for them, this is
    /// how an idle connection is watched.
    pub fn arm_recv(&self) {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        sockets.arm_recv(self.slot, driver);
    }

    /// Nothing is known to have come since [`Socket::arm_recv`]: no bytes, no end, no error.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.shell.desk().sockets.is_quiet(self.slot)
    }

    /// As [`Socket::is_quiet`], to be relied upon; for tasks only.
    #[must_use]
    pub fn look_quiet(&self) -> bool {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        sockets.look_quiet(self.slot, driver)
    }

    /// The next bytes, behind those in `inbox`; 0 is the peer's FIN. An empty inbox gives its
    /// memory back for the wait.
    ///
    /// # Errors
    /// recv(2)'s; `EMSGSIZE` when the inbox has no room left.
    pub async fn recv(&self, inbox: &mut Inbox) -> Result<usize, Errno> {
        poll_fn(|cx| self.poll_recv(cx, inbox)).await
    }

    /// See [`Socket::recv`].
    pub fn poll_recv(&self, cx: &Context<'_>, inbox: &mut Inbox) -> Poll<Result<usize, Errno>> {
        let mut desk = self.shell.desk();
        let mut fetches = self.bulk.get() && desk.sockets.is_recv_idle(self.slot);
        loop {
            let (driver, sockets, spares) = desk.parts();
            let got = if std::mem::take(&mut fetches) {
                Poll::Ready(Got::Readable)
            } else {
                sockets.arm_recv(self.slot, driver);
                sockets.poll_recv(self.slot, cx)
            };
            let Poll::Ready(got) = got else {
                inbox.rest(spares);
                return Poll::Pending;
            };
            return Poll::Ready(match got {
                Got::Eof => Ok(0),
                // No ring buffer is free: wait until there is something, and fetch it directly.
                Got::Failed(Errno::ENOBUFS) => {
                    sockets.arm_readable(self.slot, driver);
                    continue;
                }
                Got::Failed(errno) => Err(errno),
                Got::Chunk(chunk) => self.take(chunk, &mut desk, inbox),
                Got::Readable => match self.fetch(&mut desk, inbox) {
                    Err(Errno::EAGAIN) => {
                        if self.bulk.get() {
                            let (driver, sockets, _) = desk.parts();
                            sockets.arm_readable(self.slot, driver);
                        }
                        continue;
                    }
                    other => other,
                },
            });
        }
    }

    /// Takes over a chunk; behind one that is full, more is fetched directly.
    fn take(&self, chunk: ChunkId, desk: &mut Desk<D>, inbox: &mut Inbox) -> Result<usize, Errno> {
        let (driver, sockets, spares) = desk.parts();
        let len = driver.buffers().len(chunk) as usize;
        if !inbox.reserve(len, spares) {
            driver.release(chunk);
            return Err(Errno::EMSGSIZE);
        }
        inbox.push(driver.buffers().bytes(chunk));
        driver.release(chunk);
        let is_full = len == driver.buffers().sizes().ring_size as usize;
        if !is_full || !inbox.reserve(BULK_ROOM.saturating_sub(inbox.len()), spares) {
            return Ok(len);
        }
        match driver.recv_bytes_now(sockets.fd(self.slot), inbox.room()) {
            // An end is met again; an error is told once.
            Ok(n) => {
                inbox.filled(n as usize);
                self.bulk.set(len + n as usize >= BULK_MIN);
                return Ok(len + n as usize);
            }
            Err(Errno::EAGAIN) => {}
            Err(_) => sockets.see_reset(self.slot),
        }
        Ok(len)
    }

    /// Fetches what has come, by a call.
    fn fetch(&self, desk: &mut Desk<D>, inbox: &mut Inbox) -> Result<usize, Errno> {
        let (driver, sockets, spares) = desk.parts();
        let room = BULK_ROOM.saturating_sub(inbox.len());
        let roomy = self.bulk.get() && inbox.reserve(room, spares);
        if !roomy && !inbox.reserve(ROOM_MIN, spares) {
            return Err(Errno::EMSGSIZE);
        }
        match driver.recv_bytes_now(sockets.fd(self.slot), inbox.room()) {
            Ok(0) if sockets.reset_seen(self.slot) => Err(Errno::ECONNRESET),
            Ok(n) => {
                inbox.filled(n as usize);
                self.bulk.set(n as usize >= BULK_MIN);
                Ok(n as usize)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Sends what the kernel takes now.
    ///
    /// # Errors
    /// send(2)'s; `EAGAIN` when it takes nothing.
    pub fn send_now(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        let sent = driver.send_bytes_now(sockets.fd(self.slot), bytes);
        if matches!(sent, Err(Errno::ECONNRESET | Errno::EPIPE)) {
            sockets.see_reset(self.slot);
        }
        sent.map(|n| n as usize)
    }

    /// As [`Socket::send_now`], of several parts in one call.
    ///
    /// # Errors
    /// sendmsg(2)'s.
    pub fn send_parts_now(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        let sent = driver.send_parts_now(sockets.fd(self.slot), parts);
        if matches!(sent, Err(Errno::ECONNRESET | Errno::EPIPE)) {
            sockets.see_reset(self.slot);
        }
        sent.map(|n| n as usize)
    }

    /// Waits until the kernel takes bytes again.
    ///
    /// # Errors
    /// Those of the wait itself; what is wrong with the connection shows at the next send.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<Result<(), Errno>> {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        sockets.arm_writable(self.slot, driver);
        sockets.poll_write(self.slot, cx)
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// send(2)'s.
    pub async fn send(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.send_now(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::EAGAIN) => poll_fn(|cx| self.poll_writable(cx)).await?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Puts the FIN behind what was sent.
    pub fn finish(&self) {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        driver.finish_now(sockets.fd(self.slot));
    }

    /// Sends an RST now; what is armed ends.
    pub fn reset(&self) {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        driver.reset_now(sockets.fd(self.slot));
        sockets.see_reset(self.slot);
    }

    #[must_use]
    pub fn reset_seen(&self) -> bool {
        self.shell.desk().sockets.reset_seen(self.slot)
    }

    /// Bytes the peer has not acknowledged.
    #[must_use]
    pub fn unsent(&self) -> u32 {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        driver.unsent_now(sockets.fd(self.slot))
    }

    /// What was measured on the way to the peer; of retransmits those since the last time.
    pub fn path(&self) -> Option<PathInfo> {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        let path = driver.path_now(sockets.fd(self.slot))?;
        let told = self.retransmits.replace(path.retransmits);
        Some(PathInfo { retransmits: path.retransmits.saturating_sub(told), ..path })
    }

    pub fn keep_alive(&self, options: &TcpOptions) {
        let mut desk = self.shell.desk();
        let (driver, sockets, _) = desk.parts();
        if !sockets.is_unix(self.slot) {
            driver.keep_alive_now(sockets.fd(self.slot), options);
        }
    }
}

impl<D: Driver> Drop for Socket<D> {
    fn drop(&mut self) {
        self.shell.desk().sockets.orphan(self.slot, self.end);
    }
}
