//! Operations in flight, by descriptor and by token.
//!
//! ```text
//! submit ─▶ waits for its readiness ─▶ tried ─▶ once more, or its last completion ─▶ gone
//! ```
//!
//! - P1: an operation is gone exactly when its last completion is made, and its descriptor's
//!   list then no longer leads to it.
//! - P2: operations on one descriptor are tried in the order they were submitted.
//! - P3: a cancel is bound to the operation that had the token when it was asked for.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use nix::errno::Errno;
use slab::Slab;

use super::ready;
use crate::net::Endpoint;
use crate::runtime::buffers::ChunkId;
use crate::runtime::driver::{Fd, Interest};
use crate::runtime::token::Token;

/// Nobody: the end of a descriptor's list.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) enum Kind {
    Accept {
        many: bool,
    },
    Connect {
        /// Where to, until connect(2) was called.
        to: Option<Box<Endpoint>>,
    },
    Recv {
        many: bool,
    },
    RecvInto {
        chunk: ChunkId,
    },
    Send {
        chunk: ChunkId,
        /// Bytes there were when it was submitted: its owner may append meanwhile.
        len: u32,
        done: u32,
        wait_all: bool,
    },
    Poll {
        interest: Interest,
        /// What was told of already.
        told: u32,
    },
}

#[derive(Debug)]
pub(super) struct Op {
    pub token: Token,
    pub fd: Fd,
    pub kind: Kind,
    /// Why it ends when it is looked at next: cancelled, or never to be ready.
    pub end: Option<Errno>,
    /// The next on the same descriptor.
    pub next: u32,
}

impl Op {
    /// The readiness without which there is nothing to try.
    pub const fn needs(&self) -> u8 {
        match self.kind {
            Kind::Accept { .. }
            | Kind::Recv { .. }
            | Kind::RecvInto { .. }
            | Kind::Poll { interest: Interest::Readable, .. } => ready::READ,
            Kind::Connect { .. }
            | Kind::Send { .. }
            | Kind::Poll { interest: Interest::Writable, .. } => ready::WRITE,
            Kind::Poll { interest: Interest::Reset, .. } => ready::HANG,
        }
    }
}

/// All of a worker's.
#[derive(Debug, Default)]
pub(super) struct Ops {
    all: Slab<Op>,
    tokens: HashMap<u64, u32, BuildHasherDefault<TokenHasher>>,
}

impl Ops {
    /// Appends an operation to the list that begins at `first` (P2).
    pub fn insert(&mut self, first: &mut u32, fd: Fd, kind: Kind, token: Token) -> u32 {
        let key = self.all.insert(Op { token, fd, kind, end: None, next: NONE }) as u32;
        let known = self.tokens.insert(token.bits(), key);
        debug_assert!(known.is_none(), "{token:?} is in flight already");
        if *first == NONE {
            *first = key;
            return key;
        }
        let mut last = *first;
        while self[last].next != NONE {
            last = self[last].next;
        }
        self.all[last as usize].next = key;
        key
    }

    /// Takes an operation out of the list that begins at `first` (P1).
    pub fn remove(&mut self, first: &mut u32, key: u32) {
        let op = self.all.remove(key as usize);
        self.tokens.remove(&op.token.bits());
        if *first == key {
            *first = op.next;
            return;
        }
        let mut at = *first;
        while self[at].next != key {
            at = self[at].next;
        }
        self.all[at as usize].next = op.next;
    }

    pub fn find(&self, token: Token) -> Option<u32> {
        self.tokens.get(&token.bits()).copied()
    }

    pub fn get_mut(&mut self, key: u32) -> &mut Op {
        &mut self.all[key as usize]
    }
}

impl std::ops::Index<u32> for Ops {
    type Output = Op;

    fn index(&self, key: u32) -> &Op {
        &self.all[key as usize]
    }
}

/// Tokens are our own, so nobody can choose ones that collide: spreading their bits is enough.
#[derive(Debug, Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, bits: u64) {
        // 2^64 divided by the golden ratio; the table looks at both ends of the word.
        let spread = (self.0 ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::token::Tag;

    fn order(ops: &Ops, mut at: u32) -> Vec<u8> {
        let mut seen = Vec::new();
        while at != NONE {
            seen.push(ops[at].token.op());
            at = ops[at].next;
        }
        seen
    }

    #[test]
    fn a_descriptors_operations_keep_their_order_whoever_leaves() {
        for leaves in 0..4u8 {
            let (mut ops, mut first) = (Ops::default(), NONE);
            for op in 0..4 {
                let token = Token::new(Tag::Session, op, 1, 1);
                ops.insert(&mut first, Fd(3), Kind::Recv { many: true }, token);
            }
            let token = Token::new(Tag::Session, leaves, 1, 1);
            let key = ops.find(token).unwrap();
            ops.remove(&mut first, key);
            let rest: Vec<u8> = (0..4).filter(|&op| op != leaves).collect();
            assert_eq!(order(&ops, first), rest);
            assert_eq!(ops.find(token), None);
        }
    }
}
