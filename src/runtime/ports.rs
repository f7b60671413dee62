//! The local ports that a connect may take: a few at a time, each few in its turn.
//!
//! Left alone, connect(2) looks for a port itself, among half of the range first. When many are in
//! TIME_WAIT, which a busy proxy's are, it looks at thousands of them: at 14,000 connections a
//! second to one address that is half of what such a connection costs. So a socket is offered the
//! [`WINDOW`] ports whose turn is the longest ago (`IP_LOCAL_PORT_RANGE`, ip(7), Linux 6.3), and the
//! kernel picks one of them as it always does. If all of them are taken, connect(2) says
//! EADDRNOTAVAIL, and the caller asks again with the whole range ([`Ports::lift`]).
//!
//! What RFC 6056 asks for stays: where the turns begin is secret for each destination, and within a
//! window the kernel chooses.

use std::ffi::c_int;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use super::sys;

/// How many ports one connect is offered. One that lives long blocks its port, so it is not one;
/// and the kernel looks at each of them.
const WINDOW: u16 = 8;

/// Fewer windows than this come round too fast to be worth it.
const WINDOWS_MIN: u16 = 64;

/// `IP_LOCAL_PORT_RANGE` of `linux/in.h`.
pub(super) const IP_LOCAL_PORT_RANGE: c_int = 51;

#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    /// None: the kernel is left alone.
    windows: u16,
    turn: u64,
    secret: RandomState,
}

impl Ports {
    /// Those that this host gives to connections; read once.
    pub fn of_host() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self::within(range.ok().as_deref().and_then(parse))
    }

    fn within(range: Option<(u16, u16)>) -> Self {
        let (first, last) = range.unwrap_or((1, 0));
        let windows = (last.wrapping_sub(first).wrapping_add(1)) / WINDOW;
        let windows = if windows < WINDOWS_MIN { 0 } else { windows };
        Self { first, windows, turn: 0, secret: RandomState::new() }
    }

    /// Narrows down what a new socket may take.
    pub fn offer(&mut self, fd: c_int, to: SocketAddr) {
        let Some((low, high)) = self.next(to) else { return };
        let range = (u32::from(high) << 16 | u32::from(low)).cast_signed();
        if sys::set_option(fd, libc::SOL_IP, IP_LOCAL_PORT_RANGE, range).is_err() {
            self.windows = 0; // an older kernel
        }
    }

    /// Lets a socket take any port. False if it could before.
    pub fn lift(fd: c_int) -> bool {
        sys::option(fd, libc::SOL_IP, IP_LOCAL_PORT_RANGE).is_some_and(|range| range != 0)
            && sys::set_option(fd, libc::SOL_IP, IP_LOCAL_PORT_RANGE, 0).is_ok()
    }

    /// The window whose turn it is, for a destination. One count serves all of them: a destination
    /// then comes to each window later than if it were the only one, never sooner.
    fn next(&mut self, to: SocketAddr) -> Option<(u16, u16)> {
        let begin = self.secret.hash_one(to) >> 1;
        let at = (begin + self.turn).checked_rem(u64::from(self.windows))? as u16;
        self.turn += 1;
        let low = self.first + at * WINDOW;
        Some((low, low + (WINDOW - 1)))
    }
}

fn parse(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_ascii_whitespace();
    let (first, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn every_window_of_the_range_has_its_turn_before_one_has_it_again() {
        let mut ports = Ports::within(Some((32_768, 60_999)));
        let windows: BTreeSet<_> = (0..3_529).map(|_| ports.next(to(1)).expect("one")).collect();
        assert_eq!(windows.len(), 3_529);
        assert_eq!(windows.first(), Some(&(32_768, 32_775)));
        assert_eq!(windows.last(), Some(&(60_992, 60_999)));
        assert!(windows.contains(&ports.next(to(1)).expect("the first again")));
    }

    #[test]
    fn where_it_begins_differs_by_destination_and_process() {
        let first = |at: u16| Ports::within(Some((1_024, 65_535))).next(to(at));
        let begins: BTreeSet<_> = (0..50).map(first).collect();
        assert!(begins.len() > 40, "50 of 8,064: {begins:?}");
        let again: BTreeSet<_> = (0..50).map(|_| first(1)).collect();
        assert!(again.len() > 40, "a secret of its own each: {again:?}");
    }

    #[test]
    fn a_range_that_is_small_broken_or_unknown_is_left_to_the_kernel() {
        for range in [None, Some((40_000, 40_510)), Some((5, 5))] {
            assert_eq!(Ports::within(range).next(to(1)), None, "{range:?}");
        }
        assert!(Ports::within(Some((40_000, 40_511))).next(to(1)).is_some());
        assert!(Ports::within(Some((1, 65_535))).next(to(1)).is_some());
        assert_eq!(parse("32768\t60999\n"), Some((32_768, 60_999)));
        for text in ["", "1", "7 x", "9 8", "1 65536"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
