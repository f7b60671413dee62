//! Who wants to be polled when the worker begins to drain, or when another task says so.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

/// One task that can be called.
#[derive(Debug, Default)]
pub struct Bell(RefCell<Option<Waker>>);

impl Bell {
    /// From now on the task of `cx` is called.
    pub fn set(&self, cx: &Context<'_>) {
        let mut known = self.0.borrow_mut();
        if !known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
        }
    }

    pub fn ring(&self) {
        if let Some(waker) = &*self.0.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// All bells of a worker.
#[derive(Debug, Default)]
pub struct Bells(RefCell<Vec<Weak<Bell>>>);

impl Bells {
    /// A bell that [`Bells::ring`] rings as long as it is held.
    pub fn add(&self) -> Rc<Bell> {
        let bell = Rc::new(Bell::default());
        let mut all = self.0.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|bell| bell.strong_count() > 0);
        }
        all.push(Rc::downgrade(&bell));
        bell
    }

    pub fn ring(&self) {
        for bell in self.0.borrow().iter().filter_map(Weak::upgrade) {
            bell.ring();
        }
    }
}
