//! A simulated kernel: the [`Driver`](super::driver::Driver) of tests.
//!
//! ```text
//!  program under test ── Driver ──▶ Sim ─┐            ┌─ Network, Far ◀── test
//!                                        └─▶ State ◀──┘
//! ```
//!
//! Time is virtual, chance comes from one seed, and everything the program does is checked.
//! A breach panics with what it was: an fd closed under an operation (D4) or used after its
//! close, a second receive or send on one socket, a splice beside an armed receive, a token
//! used twice, a chunk used or given back without being owned, a FIN sent past a send.
//!
//! What it does not do: move data faster or slower than chance says, lose or reorder bytes
//! other than by a reset, or know anything about what is in them.

pub mod far;
pub mod faults;
mod kernel;
mod memory;
mod ops;
pub mod rng;
mod socket;
#[cfg(test)]
pub(crate) mod tests;
mod world;

use std::cell::{RefCell, RefMut};
use std::fmt::Write;
use std::rc::Rc;

use nix::errno::Errno;

pub use self::far::{Far, Ledger, Network};
pub use self::faults::Faults;
pub use self::rng::Rng;
pub use self::world::{Behaviour, Deed, Signal};

use self::memory::{Pipes, Ring};
use self::ops::Ops;
use self::world::{Open, World};
use super::buffers::{Buffers, ChunkId, Sizes};
use super::driver::Fd;
use super::time::Time;

/// What the program's side and the test's side share.
#[derive(Debug)]
pub(crate) struct State {
    world: World,
    ops: Ops,
    ring: Ring,
    pipes: Pipes,
    horizon: Time,
}

/// The simulated driver.
#[derive(Debug)]
pub struct Sim {
    state: Rc<RefCell<State>>,
    buffers: Buffers,
}

fn lock(state: &Rc<RefCell<State>>) -> RefMut<'_, State> {
    state.borrow_mut()
}

impl Sim {
    /// # Panics
    /// When the memory cannot be mapped.
    #[must_use]
    pub fn new(seed: u64, sizes: Sizes, faults: Faults) -> Self {
        let buffers = Buffers::new(sizes).expect("memory for the buffers");
        let mut world = World::new(seed, faults);
        let pipes = Pipes::new(&mut world.rng);
        let ring = Ring::new(&buffers);
        let state = State { world, ops: Ops::default(), ring, pipes, horizon: Time::NEVER };
        Self { state: Rc::new(RefCell::new(state)), buffers }
    }

    /// The test's handle on everything outside.
    #[must_use]
    pub fn network(&self) -> Network {
        Network(Rc::clone(&self.state))
    }

    /// Nothing of the program is left over: no operation, chunk, pipe or descriptor, except
    /// `listeners` of them.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_quiet(&mut self, listeners: usize) {
        let sizes = *self.buffers.sizes();
        let larges: Vec<_> = std::iter::from_fn(|| self.buffers.take_large()).collect();
        for chunk in larges.iter().rev() {
            self.buffers.give(*chunk);
        }
        let state = lock(&self.state);
        let left = [
            ("operations in flight", state.ops.len()),
            ("ring buffers", (sizes.ring_count - state.ring.free()) as usize),
            ("blocks", (sizes.block_count - self.buffers.blocks_free()) as usize),
            ("large buffers", sizes.large_count as usize - larges.len()),
            ("pipes", state.pipes.taken()),
            ("descriptors", state.world.fds_open() - listeners),
        ];
        drop(state);
        let left: Vec<_> = left.into_iter().filter(|(_, count)| *count > 0).collect();
        assert!(left.is_empty(), "left over: {left:?}\n{}", self.describe());
    }

    /// Everything there is, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let state = lock(&self.state);
        let mut text = format!("now {} ns, ring {} free", state.world.now.0, state.ring.free());
        let _ = writeln!(text, ", blocks {} free", self.buffers.blocks_free());
        if let Some(due) = state.due() {
            let _ = writeln!(text, "  next at {} ns: {}", due.0, state.world.what_is_due());
        }
        for op in state.ops.iter() {
            let _ = writeln!(text, "  op {op:?}");
        }
        for (at, open) in state.world.fds.iter().enumerate() {
            let fd = state.world.fd_at(at);
            match open {
                Open::Nothing => {}
                Open::Listener => {
                    let waiting = state.world.backlogs[&fd.0].waiting.len();
                    let _ = writeln!(text, "  {fd:?} listener, {waiting} waiting");
                }
                Open::Stream(None) => {
                    let _ = writeln!(text, "  {fd:?} fresh");
                }
                Open::Stream(Some(id)) => {
                    let _ = writeln!(text, "  {fd:?} #{id} {}", state.world.links[*id]);
                }
            }
        }
        text
    }

    fn send(&mut self, fd: Fd, chunk: ChunkId) -> Result<u32, Errno> {
        let state = &mut *lock(&self.state);
        state.ring.assert_owned(&self.buffers, chunk, "send");
        state.send_now(fd, self.buffers.bytes(chunk))
    }

    fn deed(&mut self, fd: Fd, deed: Deed, act: impl FnOnce(&mut World, usize)) {
        let world = &mut lock(&self.state).world;
        if let Some(id) = world.conn_of(fd) {
            world.links[id].deeds.push(deed);
            act(world, id);
        }
    }
}

impl State {
    fn send_now(&mut self, fd: Fd, bytes: &[u8]) -> Result<u32, Errno> {
        self.ops.assert_no_send(fd, "send_now");
        assert!(!bytes.is_empty(), "a send of nothing on {fd:?}");
        self.world.send(fd, bytes).map(|n| n as u32)
    }

    /// When anything happens next by itself.
    fn due(&self) -> Option<Time> {
        self.world.due().into_iter().chain(self.ops.due()).min()
    }
}
