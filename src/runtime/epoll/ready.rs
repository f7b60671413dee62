//! What is known about a descriptor's readiness.
//!
//! A bit that is set means "maybe": a call will tell. A bit that is not set means that there is
//! nothing to try until the kernel says so.

use super::ops::NONE;

/// There may be something to read or accept, an end, an error.
pub(super) const READ: u8 = 1;
/// There may be room to write, or a connect is over.
pub(super) const WRITE: u8 = 2;
/// An error or a hang-up was told of. Stays.
pub(super) const HANG: u8 = 4;
/// Something was told of that a read may stop short of: an end, urgent data. Stays.
pub(super) const STOPS: u8 = 8;

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const PRI: u32 = libc::EPOLLPRI as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ERR: u32 = libc::EPOLLERR as u32;

/// All that can be told, each change once.
pub(super) const EVENTS: u32 = IN | OUT | PRI | RDHUP | libc::EPOLLET as u32;

/// What events say.
pub(super) const fn bits(events: u32) -> u8 {
    let mut bits = 0;
    if events & (IN | PRI | RDHUP | HUP | ERR) != 0 {
        bits |= READ;
    }
    if events & (OUT | HUP | ERR) != 0 {
        bits |= WRITE;
    }
    if events & (HUP | ERR) != 0 {
        bits |= HANG;
    }
    if events & (PRI | RDHUP | HUP | ERR) != 0 {
        bits |= STOPS;
    }
    bits
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    /// The first of its operations, or [`NONE`].
    pub first: u32,
    pub ready: u8,
    /// The kernel tells about it.
    pub added: bool,
    /// It stands in the list of those to look at.
    pub due: bool,
    /// A short read of it means that there is no more.
    pub tcp: bool,
    pub listens: bool,
    /// Its connect was over when the peer reset it, and that took the error: the next end that
    /// is read is none in order.
    pub reset: bool,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            first: NONE,
            ready: 0,
            added: false,
            due: false,
            tcp: false,
            listens: false,
            reset: false,
        }
    }
}

impl Socket {
    /// `n` of `asked` bytes were read. A TCP socket that gave less had no more; what comes later
    /// is told of. Not so if there is an end behind the bytes, which has been told of already,
    /// or a mark in them. Unix sockets stop where descriptors were passed.
    pub const fn has_read(&mut self, n: u32, asked: u32) {
        if n < asked && self.tcp && self.ready & STOPS == 0 {
            self.ready &= !READ;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(events: u32, tcp: bool, n: u32, asked: u32) -> u8 {
        let mut socket = Socket { ready: bits(events), tcp, ..Socket::default() };
        socket.has_read(n, asked);
        socket.ready & READ
    }

    #[test]
    fn only_a_short_read_of_a_tcp_socket_without_an_end_in_sight_spares_the_next() {
        assert_eq!(after(IN | OUT, true, 10, 4_096), 0);
        assert_eq!(after(IN | OUT, true, 4_096, 4_096), READ);
        assert_eq!(after(IN | OUT, false, 10, 4_096), READ);
        for end in [RDHUP, HUP, ERR, PRI] {
            assert_eq!(after(IN | OUT | end, true, 10, 4_096), READ);
        }
    }

    #[test]
    fn an_error_wakes_whoever_waits_for_anything() {
        assert_eq!(bits(ERR) & (READ | WRITE | HANG), READ | WRITE | HANG);
        assert_eq!(bits(RDHUP) & (READ | WRITE | HANG), READ);
    }
}
