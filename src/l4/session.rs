//! One session: a client's connection and the server connection it is joined to.
//!
//! ```text
//!             no server has room        every attempt failed, hold is set
//!          ┌──────────▶ Waiting ◀───────────┐
//!          │               │ released       │
//! accept ──┴──────▶ Connecting ─────────────┴──▶ Relaying ──▶ both FINs through ─▶ Closing ─▶ free
//!    │ limits           │ refused, timed out        │ reset by a side ─▶ Flushing ──▲
//!    ▼                  ▼                           │ idle ────────────▶ Lingering ─┤
//!  reset              Closing                       └ defect, drain ────────────────┘
//! ```
//!
//! Invariants:
//! - I1: a slot is freed, and a descriptor closed, only when no operation is in flight.
//! - I2: at most one receive and one send per side is in flight, so bytes keep their order.
//! - I3: a chunk is in one queue, one operation or one free list.
//! - I4: a FIN goes to a side only if the other side sent one and every byte before it went.
//! - I5: once `reset_seen`, a receive of 0 bytes is not a FIN.
//!
//! What is in flight is a set, not a count: each kind of operation is there at most once, so
//! its size is the count, and a forgotten one shows by name.

use crate::net::Peer;
use crate::observe::reason::Reason;
use crate::registry::{ListenerId, PoolId, ServerId};
use crate::runtime::buffers::{ChunkId, Queue};
use crate::runtime::driver::{Fd, PipeId, is_reset};
use crate::runtime::time::Time;

/// The two connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    Client = 0,
    Upstream = 1,
}

pub const SIDES: [Side; 2] = [Side::Client, Side::Upstream];

impl Side {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// A kind of operation on a session; the `op` of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Receive, or wait for readability in bulk mode.
    Recv(Side),
    /// Send, or wait for writability.
    Send(Side),
    /// Silent poll that completes on a reset.
    Watch(Side),
    Connect,
    /// A task has the session (`seats.rs`). The one that is none of the ring's.
    Task,
}

impl Op {
    pub const ALL: [Self; 8] = [
        Self::Recv(Side::Client),
        Self::Recv(Side::Upstream),
        Self::Send(Side::Client),
        Self::Send(Side::Upstream),
        Self::Watch(Side::Client),
        Self::Watch(Side::Upstream),
        Self::Connect,
        Self::Task,
    ];

    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Recv(side) => side as u8,
            Self::Send(side) => 2 + side as u8,
            Self::Watch(side) => 4 + side as u8,
            Self::Connect => 6,
            Self::Task => 7,
        }
    }

    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// The operations in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops(u8);

impl Ops {
    #[must_use]
    pub const fn has(self, op: Op) -> bool {
        self.0 & (1 << op.code()) != 0
    }

    pub fn start(&mut self, op: Op) {
        debug_assert!(!self.has(op), "I2: {op:?} is in flight already");
        self.0 |= 1 << op.code();
    }

    pub fn end(&mut self, op: Op) {
        debug_assert!(self.has(op), "a completion of {op:?}, which is not in flight");
        self.0 &= !(1 << op.code());
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    pub fn iter(self) -> impl Iterator<Item = Op> {
        Op::ALL.into_iter().filter(move |&op| self.has(op))
    }
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// `None` before connect and after close.
    pub fd: Option<Fd>,
    /// One-shot receives only: multishot can miss the EOF of a unix socket.
    pub unix: bool,
    pub fin_seen: bool,
    pub fin_sent: bool,
    /// Sticky: set by whichever operation saw the reset first (the kernel tells only one).
    pub reset_seen: bool,
}

impl Socket {
    /// Whether this poll mask means a reset. A unix socket hangs up when its peer just closes.
    #[must_use]
    pub const fn is_reset(&self, mask: u32) -> bool {
        is_reset(mask, self.fin_sent || self.unix)
    }

    /// Nothing more goes either way, or there is no connection.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.fd.is_none() || (self.fin_seen && self.fin_sent)
    }

    pub const NONE: Self =
        Self { fd: None, unix: false, fin_seen: false, fin_sent: false, reset_seen: false };
}

/// How the bytes of one direction are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Nothing was asked for yet.
    New,
    /// Multishot receive (one-shot on a unix socket).
    Stream,
    /// Over its share: one-shot receives when there is room, else only the watch.
    Credit,
    /// The multishot was cancelled; bulk mode begins when its last bytes are through.
    Leaving,
    /// Waits for readability; bytes go through a pipe or a large buffer.
    Bulk { quiet: u8 },
    /// Bulk, and a large buffer is being filled.
    Filling { chunk: ChunkId, quiet: u8 },
    /// Bulk, and the pipe holds bytes the target did not take yet.
    Piped { pipe: PipeId, filled: u32, since_ms: u32 },
    /// FIN or reset seen: nothing more comes.
    Ended,
}

/// What the send operation of a half is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Idle,
    /// A send of the first chunk that takes what fits now.
    Now,
    /// A send of the first chunk that waits until all is sent.
    Slow,
    /// A poll for writability, for splice.
    Writable,
}

/// One direction: from `Side` (its index) to the other.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    pub flow: Flow,
    pub sending: Sending,
    /// The target is gone: what still comes is counted and dropped.
    pub sink: bool,
    /// Full ring buffers in a row; the sign of a bulk flow.
    pub full_in_a_row: u8,
    pub queue: Queue,
    /// Bytes received.
    pub total: u64,
    /// `SIOCOUTQ` of the target at the last idle check: shows progress of a waiting send.
    pub unsent_last: u32,
}

impl Half {
    pub const NEW: fn() -> Self = || Self {
        flow: Flow::New,
        sending: Sending::Idle,
        sink: false,
        full_in_a_row: 0,
        queue: Queue::default(),
        total: 0,
        unsent_last: 0,
    };

    /// Nothing is left that the target has not been given.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.queue.is_empty()
            && self.sending == Sending::Idle
            && !matches!(self.flow, Flow::Piped { .. } | Flow::Filling { .. })
    }
}

/// Servers this session has tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    ids: [Option<ServerId>; crate::balance::TRIED_MAX],
}

impl Tried {
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.iter().flatten().count()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, id: ServerId) {
        if let Some(free) = self.ids.iter_mut().find(|id| id.is_none()) {
            *free = Some(id);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = ServerId> {
        self.ids.into_iter().flatten()
    }

    /// All of them, with places over that name nobody.
    #[must_use]
    pub fn ids(&self) -> [ServerId; crate::balance::TRIED_MAX] {
        self.ids.map(|id| id.unwrap_or(ServerId(u32::MAX)))
    }
}

/// What a waiting client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// A server that is up.
    Up,
    /// Room at a server that is up.
    Room,
    /// A file descriptor.
    Descriptor,
}

/// Where a session stands. The data of a phase lives in its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Free,
    Waiting {
        wait: WaitFor,
        until: Time,
    },
    Connecting {
        started: Time,
        timed_out: bool,
    },
    Relaying,
    /// A task has it: a prologue, a tunnel, an HTTP session.
    Tasked,
    /// FIN was sent to both after a timeout; what is left at the deadline is reset.
    Lingering {
        reason: Reason,
    },
    /// `dead` was reset: what it sent goes out first, then the other side is reset.
    Flushing {
        dead: Side,
        until: Time,
        reason: Reason,
    },
    /// Ended; waits for the last completion.
    Closing {
        reason: Reason,
    },
}

/// Places this session holds outside of it, given back when it is freed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holds {
    pub descriptor: bool,
    /// One of its descriptors covers a connection to a server that HTTP sessions share.
    pub covers: bool,
    pub listener: bool,
    pub per_ip: bool,
    /// At its server: `load` was raised.
    pub server: bool,
    /// Released from the pool's queue and not connected yet.
    pub released: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub generation: u32,
    pub ops: Ops,
    pub phase: Phase,
    pub holds: Holds,
    pub listener: ListenerId,
    pub pool: PoolId,
    /// The last server tried.
    pub server: Option<ServerId>,
    pub tried: Tried,
    pub retries: u8,
    pub peer: Peer,
    sockets: [Socket; 2],
    halves: [Half; 2],
    pub accepted_at: Time,
    /// The last time a byte moved, or a FIN came.
    pub moved_at: Time,
    /// When this client must have a server: the first attempt's start + 2 × `connect_timeout`.
    pub connect_until: Time,
    /// Its place in the pool's wait queue, kept when it has to go back.
    pub arrival: Option<u64>,
    /// When a wait ends, whatever it waits for.
    pub waits_until: Option<Time>,
    /// The server's side has its keep-alive options.
    pub kept_alive: bool,
    /// How long the successful connect took.
    pub connect_us: Option<u32>,
    /// Why the last attempt failed.
    pub last_failure: Reason,
}

// An idle session is this and two descriptors; the bar is 512 bytes of memory for one.
const _: () = assert!(size_of::<Session>() <= 256);

impl Session {
    #[must_use]
    pub fn new(generation: u32, listener: ListenerId, pool: PoolId, peer: Peer, now: Time) -> Self {
        Self {
            generation,
            ops: Ops::default(),
            phase: Phase::Free,
            holds: Holds::default(),
            listener,
            pool,
            server: None,
            tried: Tried::default(),
            retries: 0,
            peer,
            sockets: [Socket::NONE; 2],
            halves: [Half::NEW(), Half::NEW()],
            accepted_at: now,
            moved_at: now,
            connect_until: Time::NEVER,
            arrival: None,
            waits_until: None,
            kept_alive: false,
            connect_us: None,
            last_failure: Reason::NoServer,
        }
    }

    #[must_use]
    pub const fn socket(&self, side: Side) -> &Socket {
        &self.sockets[side as usize]
    }

    pub const fn socket_mut(&mut self, side: Side) -> &mut Socket {
        &mut self.sockets[side as usize]
    }

    /// The half that carries what `side` sends.
    #[must_use]
    pub const fn half(&self, side: Side) -> &Half {
        &self.halves[side as usize]
    }

    pub const fn half_mut(&mut self, side: Side) -> &mut Half {
        &mut self.halves[side as usize]
    }

    #[must_use]
    pub const fn is_free(&self) -> bool {
        matches!(self.phase, Phase::Free)
    }

    /// The end has been decided; nothing but joining is left.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }
}

/// The sessions of one worker, by slot.
#[derive(Debug, Default)]
pub struct Sessions {
    slots: Vec<Session>,
    free: Vec<u32>,
}

impl Sessions {
    /// A slot for a new session; its generation is one that no completion can carry yet.
    pub fn insert(&mut self, make: impl FnOnce(u32) -> Session) -> u32 {
        if let Some(slot) = self.free.pop() {
            let old = &mut self.slots[slot as usize];
            *old = make(old.generation.wrapping_add(1));
            return slot;
        }
        self.slots.push(make(1));
        // Room for the slot on the free list now, so that freeing never allocates.
        self.free.reserve(self.slots.len() - self.free.len());
        self.slots.len() as u32 - 1
    }

    /// Gives the slot back (I1).
    pub fn remove(&mut self, slot: u32) {
        let session = &mut self.slots[slot as usize];
        debug_assert!(session.ops.is_empty() && !session.is_free(), "I1");
        session.phase = Phase::Free;
        self.free.push(slot);
    }

    /// The session a token is about; `None` if it is another one by now.
    #[must_use]
    pub fn current(&self, slot: u32, generation: u32) -> Option<&Session> {
        let session = self.slots.get(slot as usize)?;
        (session.generation == generation && !session.is_free()).then_some(session)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots of all sessions.
    pub fn live(&self) -> impl Iterator<Item = (u32, &Session)> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, session)| !session.is_free()).map(|(slot, session)| (slot as u32, session))
    }
}

impl std::ops::Index<u32> for Sessions {
    type Output = Session;

    fn index(&self, slot: u32) -> &Session {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Sessions {
    fn index_mut(&mut self, slot: u32) -> &mut Session {
        &mut self.slots[slot as usize]
    }
}
