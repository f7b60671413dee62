//! A thing that is at home in one place and for a while in another.

use std::ops::{Deref, DerefMut};

/// Behaves as the thing itself; reaching for it while it is lent is a defect.
#[derive(Debug)]
pub struct Lent<T>(Option<Box<T>>);

impl<T> Lent<T> {
    #[must_use]
    pub fn new(thing: T) -> Self {
        Self(Some(Box::new(thing)))
    }

    /// Takes it along; [`Lent::bring`] puts it back.
    pub(super) const fn take(&mut self) -> Option<Box<T>> {
        self.0.take()
    }

    pub(super) fn bring(&mut self, thing: Option<Box<T>>) {
        self.0 = thing;
    }
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect("at home, except while tasks are polled")
    }
}

impl<T> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("at home, except while tasks are polled")
    }
}
