//! Ring buffers and pipes: who has them, and how many are left.
//!
//! A chunk that was given back is filled with [`POISON`], so that whoever still reads it sends
//! rubbish and whoever gives it back again is found out.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::rng::Rng;
use crate::runtime::buffers::{Buffers, ChunkId, Kind};
use crate::runtime::driver::PipeId;

/// What stands in chunks that nobody owns.
const POISON: u8 = 0xdb;

/// Pipes of the pool: few, so that flows have to do without.
const PIPES_MAX: usize = 4;

/// The buffers of multishot receives.
#[derive(Debug)]
pub struct Ring {
    /// With the kernel, in the order they came back.
    free: VecDeque<u32>,
    lent: Vec<bool>,
    poison: Vec<u8>,
}

impl Ring {
    pub fn new(buffers: &Buffers) -> Self {
        let sizes = buffers.sizes();
        let largest = sizes.ring_size.max(sizes.block_size).max(sizes.large_size);
        Self {
            free: (0..sizes.ring_count).collect(),
            lent: vec![false; sizes.ring_count as usize],
            poison: vec![POISON; largest as usize],
        }
    }

    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// The kernel fills the next one.
    pub fn lend(&mut self, buffers: &Buffers) -> ChunkId {
        let number = self.free.pop_front().expect("the caller looked whether one is free");
        self.lent[number as usize] = true;
        buffers.ring_chunk(number)
    }

    /// Whether the program may use `chunk`.
    pub fn assert_owned(&self, buffers: &Buffers, chunk: ChunkId, what: &str) {
        let owned = match buffers.kind(chunk) {
            Kind::Ring => self.lent[chunk.index() as usize],
            Kind::Block | Kind::Large => !self.is_poisoned(buffers, chunk),
        };
        assert!(owned, "{what} of {chunk:?}, which was given back");
    }

    /// Takes `chunk` back from the program.
    pub fn release(&mut self, buffers: &mut Buffers, chunk: ChunkId) {
        self.assert_owned(buffers, chunk, "release");
        let capacity = buffers.capacity(chunk);
        buffers.set(chunk, 0, 0);
        buffers.write(chunk, &self.poison[..capacity as usize]);
        if buffers.kind(chunk) == Kind::Ring {
            self.lent[chunk.index() as usize] = false;
            self.free.push_back(chunk.index());
        } else {
            buffers.give(chunk);
        }
    }

    fn is_poisoned(&self, buffers: &Buffers, chunk: ChunkId) -> bool {
        let bytes = buffers.bytes(chunk);
        bytes.len() == buffers.capacity(chunk) as usize && bytes == &self.poison[..bytes.len()]
    }
}

/// Writes behind the chunk's bytes without saying so: the owner extends it.
pub fn fill_tail(buffers: &mut Buffers, chunk: ChunkId, bytes: &[u8]) {
    let (start, len) = buffers.span(chunk);
    let off = start as usize - buffers.storage(chunk) as usize;
    buffers.write(chunk, bytes);
    buffers.set(chunk, off as u32, len);
}

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    taken: bool,
}

/// The pool of pipes.
#[derive(Debug)]
pub struct Pipes {
    list: Vec<Pipe>,
    pub capacity: usize,
}

impl Pipes {
    pub fn new(rng: &mut Rng) -> Self {
        let list = (0..PIPES_MAX).map(|_| Pipe::default()).collect();
        Self { list, capacity: rng.between(4_096, 65_536) }
    }

    pub fn take(&mut self) -> Option<PipeId> {
        let at = self.list.iter().position(|pipe| !pipe.taken)?;
        self.list[at].taken = true;
        Some(PipeId(at as u16))
    }

    /// How many the program has.
    pub fn taken(&self) -> usize {
        self.list.iter().filter(|pipe| pipe.taken).count()
    }

    pub fn give(&mut self, pipe: PipeId, empty: bool) {
        let bytes = self.bytes(pipe);
        assert_eq!(empty, bytes.is_empty(), "{pipe:?} was given back with {} bytes", bytes.len());
        bytes.clear();
        self.list[usize::from(pipe.0)].taken = false;
    }

    pub fn bytes(&mut self, pipe: PipeId) -> &mut VecDeque<u8> {
        let pipe_state = &mut self.list[usize::from(pipe.0)];
        assert!(pipe_state.taken, "use of {pipe:?}, which was given back");
        &mut pipe_state.bytes
    }

    /// How much more it takes, at most `max`; EAGAIN when nothing. A pipe is also full when its
    /// slots are, however few bytes stand in them.
    pub fn room(&mut self, pipe: PipeId, max: u32, slots_full: bool) -> Result<usize, Errno> {
        let capacity = self.capacity;
        let held = self.bytes(pipe).len();
        let room = capacity.saturating_sub(held).min(max as usize);
        if room == 0 || (slots_full && held > 0) { Err(Errno::EAGAIN) } else { Ok(room) }
    }
}
