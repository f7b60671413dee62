//! Waiting for a moment.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::shell::Shell;
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;
use crate::runtime::timer::Wheel;

/// The moment came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Who sleeps, by the id of a timer.
#[derive(Debug)]
pub(super) struct Sleepers {
    pub wheel: Wheel,
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
    expired: Vec<u32>,
}

impl Sleepers {
    pub fn new(now: Time) -> Self {
        Self { wheel: Wheel::new(now), wakers: Vec::new(), free: Vec::new(), expired: Vec::new() }
    }

    fn start(&mut self, until: Time, waker: &Waker) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() as u32 - 1
        });
        self.wheel.ensure(id);
        self.wheel.arm(id, until);
        self.wakers[id as usize] = Some(waker.clone());
        id
    }

    fn update(&mut self, id: u32, waker: &Waker) {
        match &mut self.wakers[id as usize] {
            Some(known) if known.will_wake(waker) => {}
            known => *known = Some(waker.clone()),
        }
    }

    fn end(&mut self, id: u32) {
        self.wheel.disarm(id);
        self.wakers[id as usize] = None;
        self.free.push(id);
    }

    /// Wakes whose moment has come.
    pub fn expire(&mut self, now: Time) {
        let mut expired = std::mem::take(&mut self.expired);
        self.wheel.expire(now, &mut expired);
        for id in expired.drain(..) {
            if let Some(waker) = &self.wakers[id as usize] {
                waker.wake_by_ref();
            }
        }
        self.expired = expired;
    }
}

/// A moment that is waited for; its timer is armed at the first poll.
pub(super) struct Sleep<D: Driver> {
    shell: Rc<Shell<D>>,
    until: Time,
    id: Option<u32>,
}

impl<D: Driver> Sleep<D> {
    pub fn new(shell: Rc<Shell<D>>, until: Time) -> Self {
        Self { shell, until, id: None }
    }
}

impl<D: Driver> Future for Sleep<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (until, id) = (self.until, self.id);
        let shell = Rc::clone(&self.shell);
        let mut desk = shell.desk();
        if desk.now() >= until {
            return Poll::Ready(());
        }
        match id {
            Some(id) => desk.sleepers.update(id, cx.waker()),
            None if until == Time::NEVER => {}
            None => self.id = Some(desk.sleepers.start(until, cx.waker())),
        }
        Poll::Pending
    }
}

impl<D: Driver> Drop for Sleep<D> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shell.desk().sleepers.end(id);
        }
    }
}
