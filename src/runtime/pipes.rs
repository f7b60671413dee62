//! The pool of pipes that splice(2) moves bulk flows through.
//!
//! Bounded, because a pipe is two descriptors and up to a megabyte of kernel memory. An empty
//! pipe is kept for the next flow; one that still holds bytes is closed with them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::driver::PipeId;
use super::sys;

/// Pipes for splice, opened on demand and kept.
#[derive(Debug)]
pub(super) struct Pipes {
    open: Vec<Option<Pipe>>,
    free: Vec<u16>,
    bytes: u32,
}

#[derive(Debug)]
struct Pipe {
    ends: [OwnedFd; 2],
    capacity: u32,
}

impl Pipes {
    pub fn new(max: u16, bytes: u32) -> Self {
        Self { open: (0..max).map(|_| None).collect(), free: (0..max).rev().collect(), bytes }
    }

    pub fn take(&mut self) -> Option<PipeId> {
        let id = self.free.pop()?;
        let slot = &mut self.open[usize::from(id)];
        if slot.is_none() {
            let Ok((ends, capacity)) = sys::pipe(self.bytes) else {
                self.free.push(id);
                return None;
            };
            *slot = Some(Pipe { ends, capacity });
        }
        Some(PipeId(id))
    }

    pub fn give(&mut self, pipe: PipeId, empty: bool) {
        if !empty {
            self.open[usize::from(pipe.0)] = None;
        }
        self.free.push(pipe.0);
    }

    pub fn capacity(&self, pipe: PipeId) -> u32 {
        self.open[usize::from(pipe.0)].as_ref().map_or(0, |pipe| pipe.capacity)
    }

    /// The descriptor of an end: 0 to read, 1 to write.
    pub fn end(&self, pipe: PipeId, which: usize) -> i32 {
        self.open[usize::from(pipe.0)].as_ref().map_or(-1, |pipe| pipe.ends[which].as_raw_fd())
    }
}
