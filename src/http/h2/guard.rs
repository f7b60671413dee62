//! What a peer of HTTP/2 may make us do for nothing: pure counts over the frames that pass.
//!
//! The `h2` crate bounds some floods itself: resets of streams before we have looked at them,
//! CONTINUATION frames without end, DATA frames that are mostly framing, and it answers no
//! second PING or SETTINGS before the first answer is sent. This guard sees the frame headers of
//! both directions and bounds the rest by rate:
//!
//! - *cheap* frames: those that cost us work and the client nothing (SETTINGS, PING, PRIORITY,
//!   WINDOW_UPDATE, CONTINUATION, unknown ones, DATA without payload). Requests and data earn
//!   more of them, since an honest client sends them along with those;
//! - *resets*: RST_STREAM by the peer (rapid reset, CVE-2023-44487), and those that it makes
//!   us send by what it does wrong (MadeYouReset, CVE-2025-8671).
//!
//! A server is watched in the same way, with budgets that are larger, since the requests of many
//! clients meet there, and are earned by those requests. Its *heads* are counted too: an answer
//! has as many before it as the server likes (1xx), and none of them is worth anything.
//!
//! It also knows since when a frame or a header block is incomplete, and judges what `h2` lets
//! pass or calls by another name: a first frame that is not SETTINGS, and frames of fixed size
//! that have another. It ends nothing: whoever owns the connection asks, and says GOAWAY.

use crate::runtime::time::Time;

/// The client's preface (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEADER: usize = 9;

/// Cheap frames at once, and a second: a browser sends some dozen on a new connection.
const CHEAP: (u32, u32) = (1000, 200);

/// Cheap frames that a request earns: a window update or two, a priority, a ping.
const CHEAP_PER_HEADERS: u32 = 8;

/// Cheap frames that a frame of data earns, sent or received: a window update for the stream
/// and one for the connection; pings of those who measure bandwidth.
const CHEAP_PER_DATA: u32 = 4;

/// Resets at once, and a second. A browser that leaves a page resets what is open, which is no
/// more than `max_streams`.
const RESETS: (u32, u32) = (200, 30);

/// What a server may do that nothing of ours has earned, at once and a second: some update their
/// windows for each kilobyte that they read, and ping while nothing moves.
const CHEAP_OF_SERVER: (u32, u32) = (10_000, 1_000);
const CHEAP_OF_SERVER_PER_REQUEST: u32 = 32;
const CHEAP_OF_SERVER_PER_DATA: u32 = 16;

/// Resets by a server: it may refuse every request, and end its answers early.
const RESETS_OF_SERVER: (u32, u32) = (1_000, 100);
const RESETS_OF_SERVER_PER_REQUEST: u32 = 2;

/// Heads by a server. A request has one for its answer and one for its trailers, and before them
/// some hints; 102 is said again and again while it is worked on.
const HEADS_OF_SERVER: (u32, u32) = (1_000, 100);
const HEADS_OF_SERVER_PER_REQUEST: u32 = 8;

/// Types of frames, RFC 9113 §6.
mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer has had its share (RFC 9113 §10.5).
    Flood,
    /// The first frame is not SETTINGS (§3.4).
    NoSettings,
    /// A frame of fixed size has another (§4.2).
    FrameSize,
}

const END_HEADERS: u8 = 4;

/// Codes of resets that tell of a server's failure or of ours, not of what the client did:
/// NO_ERROR, INTERNAL_ERROR, CANCEL (RFC 9113 §7).
const OURS: [&[u8]; 3] = [&[0, 0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 8]];

/// So many at once, refilled so many a second.
#[derive(Debug)]
struct Budget {
    left: u32,
    max: u32,
    /// Nanoseconds until one more is there.
    period: u64,
    /// When the last of those came.
    filled_at: Time,
}

impl Budget {
    const fn new((max, per_second): (u32, u32), now: Time) -> Self {
        Self { left: max, max, period: 1_000_000_000 / per_second as u64, filled_at: now }
    }

    fn earn(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.max);
    }

    /// False if there is none left.
    fn spend(&mut self, now: Time) -> bool {
        let earned = now.0.saturating_sub(self.filled_at.0) / self.period;
        self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
        self.filled_at.0 += earned * self.period;
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// Finds the headers of frames in a stream of bytes.
#[derive(Debug, Default)]
struct Scanner {
    header: [u8; FRAME_HEADER],
    have: usize,
    /// Bytes until the next header.
    skip: usize,
}

/// The size of those that have one only.
const fn fixed_size(kind: u8) -> Option<usize> {
    match kind {
        kind::PRIORITY => Some(5),
        kind::RST_STREAM | kind::WINDOW_UPDATE => Some(4),
        kind::PING => Some(8),
        _ => None,
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
}

impl Scanner {
    /// Takes bytes up to the end of the next header; how many those were, and the header.
    fn next(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let rest = &bytes[skipped..];
        let n = (FRAME_HEADER - self.have).min(rest.len());
        self.header[self.have..self.have + n].copy_from_slice(&rest[..n]);
        self.have += n;
        if self.have < FRAME_HEADER {
            return (skipped + n, None);
        }
        let [a, b, c, kind, flags, ..] = self.header;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        (self.have, self.skip) = (0, len);
        (skipped + n, Some(Frame { len, kind, flags }))
    }

    const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// Watches one connection, for what its peer does.
#[derive(Debug)]
pub struct Guard {
    received: Scanner,
    sent: Scanner,
    cheap: Budget,
    cheap_per_data: u32,
    resets: Budget,
    /// `None`: a client's, whose heads are requests, and paid for elsewhere.
    heads: Option<Budget>,
    /// The last frame received is the beginning or middle of a header block.
    in_block: bool,
    in_data: bool,
    stalled_since: Option<Time>,
    /// SETTINGS came first.
    greeted: bool,
    goodbye: Goodbye,
    verdict: Option<Verdict>,
}

/// The last GOAWAY received, read while its payload passes.
#[derive(Debug)]
struct Goodbye {
    /// Bytes of the last stream's number that are still to come.
    left: usize,
    reading: u32,
    last_stream: u32,
}

impl Goodbye {
    const NONE: Self = Self { left: 0, reading: 0, last_stream: u32::MAX };

    const fn begin(&mut self) {
        (self.left, self.reading) = (4, 0);
    }

    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().take(self.left) {
            self.reading = self.reading << 8 | u32::from(byte);
            self.left -= 1;
            if self.left == 0 {
                self.last_stream = self.reading & 0x7FFF_FFFF; // one bit is reserved
                return;
            }
        }
    }
}

impl Guard {
    /// For a connection of a client.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            received: Scanner { skip: PREFACE.len(), ..Scanner::default() },
            sent: Scanner::default(),
            cheap: Budget::new(CHEAP, now),
            cheap_per_data: CHEAP_PER_DATA,
            resets: Budget::new(RESETS, now),
            heads: None,
            in_block: false,
            in_data: false,
            stalled_since: None,
            greeted: false,
            goodbye: Goodbye::NONE,
            verdict: None,
        }
    }

    /// For a connection to a server, on which nothing was sent yet.
    #[must_use]
    pub fn of_server(now: Time) -> Self {
        Self {
            received: Scanner::default(),
            sent: Scanner { skip: PREFACE.len(), ..Scanner::default() },
            cheap: Budget::new(CHEAP_OF_SERVER, now),
            cheap_per_data: CHEAP_OF_SERVER_PER_DATA,
            resets: Budget::new(RESETS_OF_SERVER, now),
            heads: Some(Budget::new(HEADS_OF_SERVER, now)),
            ..Self::new(now)
        }
    }

    /// Why nothing more of what the peer sends is to be looked at.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Since when a frame other than DATA, or a header block, has been incomplete.
    #[must_use]
    pub const fn stalled_since(&self) -> Option<Time> {
        self.stalled_since
    }

    /// The last stream that the peer has looked at or will: those behind it may be sent again
    /// (RFC 9113 §6.8). All, while it has not said GOAWAY.
    #[must_use]
    pub const fn last_stream(&self) -> u32 {
        self.goodbye.last_stream
    }

    /// Looks at received bytes; how many of them may be used.
    pub fn receive(&mut self, bytes: &[u8], now: Time) -> usize {
        let mut used = 0;
        while used < bytes.len() && self.verdict.is_none() {
            self.goodbye.read(&bytes[used..]);
            let (n, frame) = self.received.next(&bytes[used..]);
            used += n;
            if let Some(frame) = frame {
                self.on_received(frame, now);
            }
        }
        let whole = self.received.is_between_frames() || self.in_data;
        if whole && !self.in_block {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
        used
    }

    fn on_received(&mut self, frame: Frame, now: Time) {
        if !std::mem::replace(&mut self.greeted, true) && frame.kind != kind::SETTINGS {
            self.verdict = Some(Verdict::NoSettings);
        } else if fixed_size(frame.kind).is_some_and(|size| size != frame.len) {
            self.verdict = Some(Verdict::FrameSize);
        }
        let ends_block = frame.flags & END_HEADERS != 0;
        match frame.kind {
            kind::HEADERS => self.in_block = !ends_block,
            kind::CONTINUATION if ends_block => self.in_block = false,
            kind::GOAWAY => self.goodbye.begin(),
            _ => {}
        }
        self.in_data = frame.kind == kind::DATA;
        let fine = match frame.kind {
            kind::HEADERS => {
                if self.heads.is_none() {
                    self.cheap.earn(CHEAP_PER_HEADERS);
                }
                self.heads.as_mut().is_none_or(|heads| heads.spend(now))
            }
            kind::DATA if frame.len > 0 => {
                self.cheap.earn(self.cheap_per_data);
                true
            }
            kind::RST_STREAM => self.resets.spend(now),
            _ => self.cheap.spend(now),
        };
        self.object(fine);
    }

    fn object(&mut self, fine: bool) {
        if !fine && self.verdict.is_none() {
            self.verdict = Some(Verdict::Flood);
        }
    }

    /// Looks at bytes that are sent.
    pub fn send(&mut self, bytes: &[u8], now: Time) {
        let mut used = 0;
        while used < bytes.len() {
            let (n, frame) = self.sent.next(&bytes[used..]);
            used += n;
            match frame {
                Some(frame) if frame.kind == kind::DATA && frame.len > 0 => {
                    self.cheap.earn(self.cheap_per_data);
                }
                Some(frame) if frame.kind == kind::HEADERS => self.on_head_sent(),
                // A code that is cut off counts as well; `h2` writes such a frame at once.
                Some(frame) if frame.kind == kind::RST_STREAM => {
                    let ours = bytes.get(used..used + 4).is_some_and(|code| OURS.contains(&code));
                    let fine = ours || self.resets.spend(now);
                    self.object(fine);
                }
                _ => {}
            }
        }
    }

    /// A request's, if it goes to a server.
    fn on_head_sent(&mut self) {
        if let Some(heads) = &mut self.heads {
            heads.earn(HEADS_OF_SERVER_PER_REQUEST);
            self.resets.earn(RESETS_OF_SERVER_PER_REQUEST);
            self.cheap.earn(CHEAP_OF_SERVER_PER_REQUEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEADER + payload, 0);
        bytes
    }

    fn guard() -> Guard {
        let mut guard = Guard::new(Time::ZERO);
        assert_eq!(guard.receive(PREFACE, Time::ZERO), PREFACE.len());
        guard.receive(&frame(kind::SETTINGS, 0, 0), Time::ZERO);
        guard
    }

    fn is_over(guard: &Guard) -> bool {
        guard.verdict() == Some(Verdict::Flood)
    }

    /// Frames of one kind that are let through at once.
    fn passes(bytes: &[u8], step: usize) -> usize {
        let mut guard = guard();
        let mut count = 0;
        while !is_over(&guard) && count < 100_000 {
            for piece in bytes.chunks(step) {
                guard.receive(piece, Time::ZERO);
            }
            count += 1;
        }
        count - 1
    }

    #[test]
    fn each_kind_of_flood_ends_in_any_fragmentation() {
        for step in [1, 7, 64] {
            for (kind, size) in [(2, 5), (4, 6), (6, 8), (8, 4), (9, 8), (0xFE, 0), (0, 0)] {
                // The SETTINGS that came first are one of them.
                assert_eq!(passes(&frame(kind, 0, size), step), CHEAP.0 as usize - 1, "{kind}");
            }
            assert_eq!(passes(&frame(kind::RST_STREAM, 0, 4), step), RESETS.0 as usize);
        }
    }

    /// One of a server that has greeted, and was sent the preface.
    fn guard_of_server() -> Guard {
        let mut guard = Guard::of_server(Time::ZERO);
        guard.send(&[PREFACE, &frame(kind::SETTINGS, 0, 6)].concat(), Time::ZERO);
        guard.receive(&frame(kind::SETTINGS, 0, 6), Time::ZERO);
        guard
    }

    #[test]
    fn each_kind_of_flood_by_a_server_ends_too() {
        for (kind, size, passes) in [
            (kind::PRIORITY, 5, CHEAP_OF_SERVER.0 - 1),
            (kind::SETTINGS, 6, CHEAP_OF_SERVER.0 - 1),
            (kind::PING, 8, CHEAP_OF_SERVER.0 - 1),
            (kind::WINDOW_UPDATE, 4, CHEAP_OF_SERVER.0 - 1),
            (0xFE, 0, CHEAP_OF_SERVER.0 - 1),
            (kind::DATA, 0, CHEAP_OF_SERVER.0 - 1),
            (kind::HEADERS, 8, HEADS_OF_SERVER.0),
            (kind::RST_STREAM, 4, RESETS_OF_SERVER.0),
        ] {
            let mut guard = guard_of_server();
            let flood = frame(kind, END_HEADERS, size);
            guard.receive(&flood.repeat(passes as usize), Time::ZERO);
            assert!(!is_over(&guard), "{kind}");
            guard.receive(&flood, Time::ZERO);
            assert!(is_over(&guard), "{kind}");
        }
    }

    #[test]
    fn the_last_stream_of_a_goodbye_is_known_in_any_fragmentation() {
        let goodbye = |last: u32| {
            let mut bytes = frame(kind::GOAWAY, 0, 12);
            bytes[FRAME_HEADER..FRAME_HEADER + 4].copy_from_slice(&last.to_be_bytes());
            bytes
        };
        let said = [goodbye(u32::MAX), frame(kind::PING, 0, 8), goodbye(0x0102_0305)].concat();
        for step in [1, 3, 5, 64] {
            let mut guard = guard_of_server();
            assert_eq!(guard.last_stream(), u32::MAX);
            guard.receive(&said[..21], Time::ZERO);
            assert_eq!(guard.last_stream(), 0x7FFF_FFFF);
            said[21..].chunks(step).for_each(|piece| _ = guard.receive(piece, Time::ZERO));
            assert_eq!(guard.last_stream(), 0x0102_0305, "{step}");
        }
    }

    #[test]
    fn a_server_that_answers_never_ends_whatever_comes_with_its_answers() {
        let (head, data) = (frame(kind::HEADERS, END_HEADERS, 9), frame(kind::DATA, 0, 100));
        let update = frame(kind::WINDOW_UPDATE, 0, 4);
        let mut guard = guard_of_server();
        for _ in 0..20_000 {
            // A request of two frames; hints, an answer with trailers, and the stream's end.
            guard.send(&[&head[..], &data, &data].concat(), Time::ZERO);
            guard.receive(&update.repeat(16), Time::ZERO);
            guard.receive(&head.repeat(4), Time::ZERO);
            guard.receive(&[&data[..], &frame(kind::PING, 0, 8)].concat(), Time::ZERO);
            guard.receive(&[&head[..], &frame(kind::RST_STREAM, 0, 4)].concat(), Time::ZERO);
        }
        assert_eq!(guard.verdict(), None);
    }

    #[test]
    fn window_updates_that_go_with_data_never_end() {
        let mut guard = guard();
        for _ in 0..10_000 {
            guard.send(&frame(kind::DATA, 0, 100), Time::ZERO);
            guard.receive(&frame(8, 0, 4), Time::ZERO);
            guard.receive(&frame(8, 0, 4), Time::ZERO);
        }
        assert!(!is_over(&guard));
    }

    #[test]
    fn resets_a_second_are_refilled() {
        let mut guard = guard();
        for at in 0..10_000_u64 {
            guard.receive(&frame(kind::RST_STREAM, 0, 4), Time(at * 50_000_000));
        }
        assert!(!is_over(&guard));
    }

    #[test]
    fn a_time_of_rest_gives_as_many_as_a_new_connection_has_and_no_more() {
        let reset = frame(kind::RST_STREAM, 0, 4);
        let mut guard = guard();
        guard.receive(&reset.repeat(RESETS.0 as usize - 1), Time::ZERO);
        let later = Time(3_600_000_000_000);
        guard.receive(&reset.repeat(RESETS.0 as usize), later);
        assert!(!is_over(&guard));
        guard.receive(&reset, later);
        assert!(is_over(&guard));
    }

    #[test]
    fn resets_that_the_client_makes_us_send_count_and_those_for_a_server_do_not() {
        for (code, counts) in [(1, true), (3, true), (7, true), (2, false), (8, false)] {
            let mut reset = frame(kind::RST_STREAM, 0, 4);
            reset[FRAME_HEADER + 3] = code;
            let mut guard = guard();
            guard.send(&reset.repeat(RESETS.0 as usize), Time::ZERO);
            assert!(!is_over(&guard));
            guard.send(&reset, Time::ZERO);
            assert_eq!(is_over(&guard), counts, "{code}");
        }
    }

    #[test]
    fn nothing_is_used_behind_the_frame_that_was_too_much() {
        let mut guard = guard();
        let flood = frame(6, 0, 8).repeat(CHEAP.0 as usize * 2);
        let used = guard.receive(&flood, Time::ZERO);
        assert!(is_over(&guard) && used <= (CHEAP.0 as usize + 1) * 17, "{used}");
        assert_eq!(guard.receive(&flood, Time::ZERO), 0);
    }

    #[test]
    fn settings_come_first_and_fixed_sizes_are_kept() {
        let mut early = Guard::new(Time::ZERO);
        early.receive(PREFACE, Time::ZERO);
        early.receive(&frame(kind::PING, 0, 8), Time::ZERO);
        assert_eq!(early.verdict(), Some(Verdict::NoSettings));
        for (kind, size) in [(2, 4), (3, 5), (6, 7), (8, 0)] {
            let mut guard = guard();
            guard.receive(&frame(kind, 0, size), Time::ZERO);
            assert_eq!(guard.verdict(), Some(Verdict::FrameSize), "{kind}");
        }
    }

    #[test]
    fn a_header_block_stalls_until_its_end_and_data_never_does() {
        let mut guard = guard();
        guard.receive(&frame(kind::DATA, 0, 100)[..50], Time(1));
        assert_eq!(guard.stalled_since(), None);
        guard.receive(&frame(kind::DATA, 0, 100)[50..], Time(2));
        guard.receive(&frame(kind::HEADERS, 0, 5), Time(3));
        assert_eq!(guard.stalled_since(), Some(Time(3)));
        guard.receive(&frame(kind::CONTINUATION, END_HEADERS, 5)[..9], Time(4));
        assert_eq!(guard.stalled_since(), Some(Time(3)));
        guard.receive(&[0; 5], Time(5));
        assert_eq!(guard.stalled_since(), None);
    }
}
