//! What a task reaches the kernel and the clock through.

use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::errno::Errno;

use super::executor::Job;
use super::inbox::{Inbox, Spares};
use super::sleep::{Elapsed, Sleep, Sleepers};
use super::socket::Socket;
use super::sockets::Sockets;
use super::turns::Turns;
use crate::net::Endpoint;
use crate::runtime::budget::{Budget, Cover};
use crate::runtime::driver::{Driver, Fd, StreamOptions};
use crate::runtime::time::Time;

/// How long a connection to a server waits for a descriptor at most. One that is not used closes in
/// two turns of its worker, here or elsewhere; when there is none, waiting longer helps nobody.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(50);

/// Between two looks at what other workers have given back: those tell nobody.
const ROOM_LOOK: Duration = Duration::from_millis(10);

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
    pub(super) fn new(now: Time, budget: Arc<Budget>) -> Rc<Self> {
        let desk = Desk {
            driver: None,
            now,
            sockets: Sockets::new(Cover::new(budget)),
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

    /// What the connections to servers are covered by.
    pub fn cover(&self) -> RefMut<'_, Cover> {
        RefMut::map(self.desk(), |desk| &mut desk.sockets.cover)
    }

    /// Waits a moment for the descriptor of one more connection to a server. False if none comes.
    pub async fn room(self: &Rc<Self>, until: Time) -> bool {
        if self.cover().has_room() {
            return true;
        }
        let until = until.min(self.now() + ROOM_WAIT_MAX);
        let place = self.cover().enter();
        let waits = Waits { shell: Rc::clone(self), place };
        while self.now() < until {
            let look = until.min(self.now() + ROOM_LOOK);
            let room = poll_fn(|cx| waits.shell.cover().poll_room(place, cx.waker()));
            if self.timeout(look, room).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Connects to a server. Who can wait has asked for [`Shell::room`] before.
    ///
    /// # Errors
    /// socket(2)'s, bind(2)'s and connect(2)'s; `EMFILE` also when the budget has no descriptor.
    pub async fn connect(
        self: &Rc<Self>,
        to: &Endpoint,
        options: &StreamOptions,
    ) -> Result<Socket<D>, Errno> {
        let socket = {
            let mut desk = self.desk();
            let (driver, sockets, _) = desk.parts();
            if !sockets.cover.has_room() {
                return Err(Errno::EMFILE);
            }
            let fd = driver.open_now(to, options)?;
            let slot = sockets.insert_shared(fd, to.is_unix());
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

    /// Takes over a connection to a server from another worker; it closes if nothing covers it.
    pub fn adopt_shared(self: &Rc<Self>, fd: Fd, unix: bool) -> Option<Socket<D>> {
        let slot = self.desk().sockets.insert_shared(fd, unix);
        let socket = Socket::new(Rc::clone(self), slot);
        let is_enough = self.cover().is_enough();
        is_enough.then_some(socket)
    }

    /// Takes over a descriptor on which nothing is in flight, and which stays its session's.
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

/// A place among those who wait for a descriptor, given back when dropped.
struct Waits<D: Driver> {
    shell: Rc<Shell<D>>,
    place: u64,
}

impl<D: Driver> Drop for Waits<D> {
    fn drop(&mut self) {
        self.shell.cover().leave(self.place);
    }
}
