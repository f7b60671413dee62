//! What a completion says about the operation it ends: who asked, for what.

/// Sixty-four bits that travel through the ring with an operation.
///
/// Layout: `tag` 4 | `op` 4 | `slot` 24 | `generation` 32, from the top. A late completion
/// carries the generation of the session that asked for it, so a slot that was reused since
/// does not mistake it for its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

/// Who a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// The ring's own housekeeping (a cancel); nobody waits for it.
    Driver = 0,
    /// A session's relay state machine.
    Session = 1,
    /// A listening socket; `slot` is its index on this worker.
    Accept = 2,
    /// The mailbox's eventfd.
    Mailbox = 3,
    /// A connection of the load generator.
    Load = 4,
    /// A connection of a task (`runtime/tasks`).
    Task = 5,
}

impl Token {
    /// What 24 bits hold: 16 million sessions a worker, far beyond any descriptor limit.
    pub const SLOT_MAX: u32 = (1 << 24) - 1;

    #[must_use]
    pub const fn new(tag: Tag, op: u8, slot: u32, generation: u32) -> Self {
        debug_assert!(op < 16 && slot <= Self::SLOT_MAX);
        Self(
            ((tag as u64) << 60)
                | ((op as u64 & 15) << 56)
                | ((slot as u64 & 0xff_ffff) << 32)
                | generation as u64,
        )
    }

    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn tag(self) -> Tag {
        match self.0 >> 60 {
            1 => Tag::Session,
            2 => Tag::Accept,
            3 => Tag::Mailbox,
            4 => Tag::Load,
            5 => Tag::Task,
            _ => Tag::Driver,
        }
    }

    #[must_use]
    pub const fn op(self) -> u8 {
        ((self.0 >> 56) & 15) as u8
    }

    #[must_use]
    pub const fn slot(self) -> u32 {
        ((self.0 >> 32) & 0xff_ffff) as u32
    }

    #[must_use]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}/{} slot {}#{}", self.tag(), self.op(), self.slot(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_the_trip_through_the_ring() {
        for (op, slot, generation) in [(0, 0, 0), (15, Token::SLOT_MAX, u32::MAX), (7, 12_345, 99)]
        {
            let token = Token::from_bits(Token::new(Tag::Session, op, slot, generation).bits());
            assert_eq!(
                (token.tag(), token.op(), token.slot(), token.generation()),
                (Tag::Session, op, slot, generation)
            );
        }
    }
}
