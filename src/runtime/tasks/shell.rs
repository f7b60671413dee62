//! What a task reaches the kernel and the clock through.

use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use nix::errno::Errno;

use super::executor::Job;
use super::inbox::{Inbox, Spares};
use super::sleep::{Elapsed, Sleep, Sleepers};
use super::socket::Socket;
use super::sockets::Sockets;
use super::turns::Turns;
use crate::net::Endpoint;
use crate::runtime::driver::{Driver, Fd, StreamOptions};
use crate::runtime::time::Time;

/// Shared by the tasks of one worker.
#[derive(Debug)]
pub struct Shell<D: Driver> {
    desk: RefCell<Desk<D>>,
}

/// What is behind the shell.
pub(super) struct Desk<D: Driver> {
    /// Here while tasks are polled (K1).
    pub driver: Option<Box<D>>,
    /// The clock as it was when the driver was here last.
    pub now: Time,
    pub sockets: Sockets,
    pub sleepers: Sleepers,
    pub spares: Spares,
    /// Tasks that tasks have made.
    pub spawned: Vec<Job>,
    /// At a full handshake.
    pub handshakes: Turns,
}

impl<D: Driver> std::fmt::Debug for Desk<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl<D: Driver> Desk<D> {
    pub fn now(&self) -> Time {
        self.now
    }

    /// # Panics
    /// When no task is being polled: K1.
    pub fn driver(&mut self) -> &mut D {
        self.driver.as_deref_mut().expect("K1: only tasks that are polled reach the driver")
    }

    /// The driver beside the rest.
    pub fn parts(&mut self) -> (&mut D, &mut Sockets, &mut Spares) {
        let driver = self.driver.as_deref_mut();
        let driver = driver.expect("K1: only tasks that are polled reach the driver");
        (driver, &mut self.sockets, &mut self.spares)
    }
}

impl<D: Driver> Shell<D> {
    pub(super) fn new(now: Time) -> Rc<Self> {
        let desk = Desk {
            driver: None,
            now,
            sockets: Sockets::default(),
            sleepers: Sleepers::new(now),
            spares: Spares::default(),
            spawned: Vec::new(),
            handshakes: Turns::default(),
        };
        Rc::new(Self { desk: RefCell::new(desk) })
    }

    pub(super) fn desk(&self) -> RefMut<'_, Desk<D>> {
        self.desk.borrow_mut()
    }

    /// The cached clock of this turn.
    #[must_use]
    pub fn now(&self) -> Time {
        self.desk().now()
    }

    /// The clock, looked at now.
    #[must_use]
    pub fn clock(&self) -> Time {
        self.desk().driver().clock()
    }

    /// Runs `job` beside the task that calls this.
    pub fn spawn(&self, job: impl Future<Output = ()> + 'static) {
        self.desk().spawned.push(Box::pin(job));
    }

    pub async fn sleep_until(self: &Rc<Self>, until: Time) {
        Sleep::new(Rc::clone(self), until).await;
    }

    /// What `future` gives, if it gives it before `until`.
    ///
    /// # Errors
    /// [`Elapsed`] when the moment came first.
    pub async fn timeout<F: Future>(
        self: &Rc<Self>,
        until: Time,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(Sleep::new(Rc::clone(self), until));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Waits for a turn at work that takes a good part of a millisecond: one a loop turn, so
    /// that a storm of handshakes does not hold up everybody else's bytes.
    pub async fn handshake_turn(&self) {
        let mut ticket = None;
        poll_fn(|cx| self.desk().handshakes.poll(&mut ticket, cx.waker())).await;
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// socket(2)'s, bind(2)'s and connect(2)'s.
    pub async fn connect(
        self: &Rc<Self>,
        to: &Endpoint,
        options: &StreamOptions,
    ) -> Result<Socket<D>, Errno> {
        let socket = {
            let mut desk = self.desk();
            let (driver, sockets, _) = desk.parts();
            let fd = driver.open_now(to, options)?;
            let slot = sockets.insert(fd, to.is_unix());
            sockets.connect(slot, to, driver);
            drop(desk);
            Socket::new(Rc::clone(self), slot)
        };
        let mut connected = socket.connected().await;
        if connected == Err(Errno::EADDRNOTAVAIL) && socket.connect_from_any_port(to) {
            connected = socket.connected().await;
        }
        connected.map(|()| socket)
    }

    /// Takes over a descriptor on which nothing is in flight.
    #[must_use]
    pub fn adopt(self: &Rc<Self>, fd: Fd, unix: bool) -> Socket<D> {
        let slot = self.desk().sockets.insert(fd, unix);
        Socket::new(Rc::clone(self), slot)
    }

    /// Whether a TCP connection was reset; one whose peer has only said its end was not.
    #[must_use]
    pub fn is_gone(&self, fd: Fd) -> bool {
        self.desk().driver().peer_now(fd).is_none()
    }

    /// Gives an empty inbox's memory back.
    pub fn rest(&self, inbox: &mut Inbox) {
        inbox.rest(&mut self.desk().spares);
    }

    /// Makes room in an inbox; false if it has reached its bound.
    pub fn reserve(&self, inbox: &mut Inbox, more: usize) -> bool {
        inbox.reserve(more, &mut self.desk().spares)
    }
}
