//! Who may be connected to the admin API.
//!
//! There are so many places. When all are taken, the connection that has been idle for longest
//! makes room for a new one, so that thousands who connect and say nothing keep nobody out: a
//! person's request makes their connection busy at once. A connection with a request under way
//! is never sent off; if all are busy, the next one waits. While a request waits for its body it is
//! not under way: the peer says nothing then, and has asked for nothing that can be done.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: RefCell<BTreeMap<u64, Rc<Seat>>>,
    entered: Cell<u64>,
    /// Rings when a place is left, or somebody is idle.
    room: Notify,
}

#[derive(Debug)]
struct Seat {
    /// `None`: a request is under way, of which all is here.
    idle_since: Cell<Option<Instant>>,
    leave: Notify,
}

/// The place of one connection, left when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Rc<Places>,
    number: u64,
    seat: Rc<Seat>,
}

/// A request is under way, until dropped.
#[derive(Debug)]
pub(super) struct Busy(Rc<Place>);

/// It waits for its peer, until dropped.
#[derive(Debug)]
pub(super) struct Waiting<'b>(&'b Busy);

impl Places {
    pub fn new(max: usize) -> Rc<Self> {
        let (taken, entered) = (RefCell::default(), Cell::new(0));
        Rc::new(Self { max, taken, entered, room: Notify::new() })
    }

    /// Takes a place; waits while all are busy.
    pub async fn enter(self: &Rc<Self>) -> Rc<Place> {
        loop {
            let room = self.room.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            room.await;
        }
    }

    fn try_enter(self: &Rc<Self>) -> Option<Rc<Place>> {
        let mut taken = self.taken.borrow_mut();
        if taken.len() >= self.max {
            let idle =
                taken.iter().filter_map(|(number, seat)| Some((seat.idle_since.get()?, *number)));
            let (_, idlest) = idle.min()?;
            let seat = taken.remove(&idlest)?;
            seat.leave.notify_one();
        }
        let number = self.entered.get();
        self.entered.set(number + 1);
        let seat = Seat { idle_since: Cell::new(Some(Instant::now())), leave: Notify::new() };
        let seat = Rc::new(seat);
        taken.insert(number, seat.clone());
        Some(Rc::new(Place { places: self.clone(), number, seat }))
    }
}

impl Place {
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.seat.idle_since.set(None);
        Busy(self.clone())
    }

    fn rest(&self) {
        self.seat.idle_since.set(Some(Instant::now()));
        self.places.room.notify_one();
    }

    /// Resolves when somebody else needs the place.
    pub async fn asked_to_leave(&self) {
        self.seat.leave.notified().await;
    }
}

impl Busy {
    /// The rest of the request has not come.
    pub fn waits(&self) -> Waiting<'_> {
        self.0.rest();
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.seat.idle_since.set(None);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.number);
        self.places.room.notify_one();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn was_asked(place: &Place) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = place.asked_to_leave() => true,
                () = std::future::ready(()) => false,
            }
        })
    }

    #[test]
    fn the_one_that_is_idle_for_longest_makes_room() {
        let places = Places::new(2);
        let (first, second) = (places.try_enter().unwrap(), places.try_enter().unwrap());
        // It has asked something since: the other one is idle for longer.
        drop(first.busy());
        let third = places.try_enter().unwrap();
        assert_eq!([&first, &second, &third].map(|place| was_asked(place)), [false, true, false]);
        drop(second);
        assert_eq!(places.taken.borrow().len(), 2, "its place was given away already");
    }

    #[test]
    fn a_request_under_way_is_not_sent_off() {
        let places = Places::new(1);
        let first = places.try_enter().unwrap();
        let busy = first.busy();
        assert!(places.try_enter().is_none());
        drop(busy);
        assert!(places.try_enter().is_some());
        assert!(was_asked(&first));
    }

    #[test]
    fn a_request_whose_body_does_not_come_makes_room_and_one_that_has_it_does_not() {
        let places = Places::new(1);
        let first = places.try_enter().unwrap();
        let busy = first.busy();
        drop(busy.waits());
        assert!(places.try_enter().is_none(), "it has come");
        let _waiting = busy.waits();
        let second = places.try_enter().unwrap();
        assert_eq!([&first, &second].map(|place| was_asked(place)), [true, false]);
    }
}
