//! Requests that wait for a server: their places in the pools' queues, which they share with
//! TCP clients.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::office::Office;
use crate::balance::Nobody;
use crate::observe::reason::Reason;
use crate::registry::{PoolId, Waiter};
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

/// Set in a waiter's slot: it is a ticket of an HTTP session, not the slot of a TCP one.
pub const TICKET: u32 = 1 << 31;

/// How often a waiting request looks whether the queue can move on, should word be lost.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Ticket {
    generation: u32,
    used: bool,
    released: bool,
    /// What the word was, where there is more than one.
    good: bool,
    waker: Option<Waker>,
}

/// Who waits on this worker.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    all: Vec<Ticket>,
    free: Vec<u32>,
}

impl Tickets {
    fn take(&mut self) -> (u32, u32) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.all.push(Ticket::default());
            self.all.len() as u32 - 1
        });
        let ticket = &mut self.all[at as usize];
        *ticket = Ticket {
            generation: ticket.generation.wrapping_add(1),
            used: true,
            ..Ticket::default()
        };
        (at, ticket.generation)
    }

    fn give(&mut self, at: u32) {
        self.all[at as usize].used = false;
        self.free.push(at);
    }

    /// What whoever has the ticket was told, if anything yet.
    pub fn told(&mut self, at: u32, waker: &Waker) -> Option<bool> {
        let ticket = &mut self.all[at as usize];
        if std::mem::take(&mut ticket.released) {
            return Some(ticket.good);
        }
        ticket.waker = Some(waker.clone());
        None
    }

    /// False if nobody has the ticket any more.
    pub fn tell(&mut self, at: u32, generation: u32, good: bool) -> bool {
        if let Some(ticket) = self.all.get_mut(at as usize)
            && ticket.generation == generation
        {
            ticket.good = good;
        }
        self.release(at, generation)
    }

    /// False if nobody has the ticket any more.
    pub fn release(&mut self, at: u32, generation: u32) -> bool {
        let Some(ticket) = self.all.get_mut(at as usize) else { return false };
        if !ticket.used || ticket.generation != generation {
            return false;
        }
        ticket.released = true;
        if let Some(waker) = ticket.waker.take() {
            waker.wake();
        }
        true
    }
}

/// What another thread tells a task, by its ticket: that a password was right, that a question
/// was answered.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub ticket: u32,
    pub generation: u32,
    pub good: bool,
}

/// A ticket for one word from another thread, given back when dropped.
pub(super) struct Word<D: Driver> {
    office: Rc<Office<D>>,
    at: u32,
    generation: u32,
}

impl<D: Driver> Word<D> {
    pub fn new(office: Rc<Office<D>>) -> Self {
        let (at, generation) = office.tickets().take();
        Self { office, at, generation }
    }

    /// What is to be told, once it is known whether it is good.
    pub const fn told(&self) -> Told {
        Told { ticket: self.at, generation: self.generation, good: false }
    }

    /// What the word is, once it is here.
    pub async fn heard(&self) -> bool {
        poll_fn(|cx| match self.office.tickets().told(self.at, cx.waker()) {
            Some(good) => Poll::Ready(good),
            None => Poll::Pending,
        })
        .await
    }
}

impl<D: Driver> Drop for Word<D> {
    fn drop(&mut self) {
        self.office.tickets().give(self.at);
    }
}

/// A place in a pool's queue, left when dropped.
pub(super) struct Wait<D: Driver> {
    office: Rc<Office<D>>,
    pool: PoolId,
    at: u32,
    generation: u32,
    arrival: u64,
    until: Time,
    reason: Reason,
    /// The queue has let this one go: it has to say what came of it.
    released: bool,
    queued: bool,
}

impl<D: Driver> Wait<D> {
    /// `connect`: how long at least while all servers are full.
    ///
    /// # Errors
    /// When there is nothing to wait for, or the queue is full.
    pub fn new(
        office: Rc<Office<D>>,
        pool: PoolId,
        connect: Duration,
        until: Time,
    ) -> Result<Self, Reason> {
        let (reason, limit) = match office.nobody(pool) {
            Nobody::AllFull => {
                (Reason::ServerFull, Some(office.pool_plan(pool).wait_for_room(connect)))
            }
            _ => (Reason::NoServer, office.pool_plan(pool).hold),
        };
        let until = limit.map_or(Time::ZERO, |limit| until.min(office.now() + limit));
        if until <= office.now() {
            return Err(reason);
        }
        let (at, generation) = office.tickets().take();
        let max = office.pool_plan(pool).max_held;
        let state = office.pool_state(pool);
        let Some(arrival) = state.wait(office.worker(), at | TICKET, generation, max) else {
            office.tickets().give(at);
            return Err(Reason::ServerFull);
        };
        let (released, queued) = (false, true);
        Ok(Self { office, pool, at, generation, arrival, until, reason, released, queued })
    }

    /// The queue has let this one go.
    pub const fn released(&self) -> bool {
        self.released
    }

    /// Why there was no place when its turn came.
    pub const fn found(&mut self, nobody: Nobody) {
        self.reason = match nobody {
            Nobody::AllFull => Reason::ServerFull,
            Nobody::NoneUp | Nobody::AllTried => Reason::NoServer,
        };
    }

    /// # Errors
    /// The time is up.
    pub async fn next_turn(&mut self) -> Result<(), Reason> {
        if std::mem::take(&mut self.released) {
            // Nothing came of it: back, to the same place.
            self.queued = true;
            let state = self.office.pool_state(self.pool);
            state.done_released();
            state.wait_again(Waiter {
                worker: self.office.worker(),
                slot: self.at | TICKET,
                generation: self.generation,
                arrival: self.arrival,
            });
        }
        let shell = Rc::clone(self.office.shell());
        loop {
            if shell.now() >= self.until {
                return Err(self.reason);
            }
            let look = self.until.min(shell.now() + LOOK);
            let (office, at) = (Rc::clone(&self.office), self.at);
            let word = poll_fn(|cx| match office.tickets().told(at, cx.waker()) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            });
            if shell.timeout(look, word).await.is_ok() {
                (self.released, self.queued) = (true, false);
                return Ok(());
            }
            self.office.push_room(self.pool);
        }
    }
}

impl<D: Driver> Drop for Wait<D> {
    fn drop(&mut self) {
        let state = self.office.pool_state(self.pool);
        if self.queued {
            state.leave(self.arrival);
        }
        let pending = std::mem::take(&mut self.office.tickets().all[self.at as usize].released);
        if self.released || pending {
            state.done_released();
        }
        self.office.tickets().give(self.at);
        self.office.push_room(self.pool);
    }
}
