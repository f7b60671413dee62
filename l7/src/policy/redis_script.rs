//! Limits that several gateways share in Redis: the script that decides there, what is sent
//! for it, and what comes back. No socket here.
//!
//! The script reckons as `rate.rs` and `quota.rs` do, in microseconds of the server's own clock,
//! and all at once: Redis runs one script at a time, so the decisions of all gateways stand in
//! one order. What it answers is the state, and what is said of that is worked out here.
//!
//! - R1: an answer is read only after its shape is known to be one of the script's: at most so
//!   many integers, or one short line. Nothing is reserved for what a server announces.
//! - R2: all numbers stay below 2^53 (`rate::Rate` sees to that).

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use super::quota::{Count, QuotaSpec, Window};
use super::rate::{Bucket, Decision, Rate};

/// Decides in Redis.
pub const SCRIPT: &str = include_str!("redis_script/script.lua");

/// What EVALSHA knows it by: its SHA-1, as `SCRIPT LOAD` prints it.
pub const SCRIPT_SHA: &str = "0ca6ceee95a302af1e9f52bf55b619b6c56cc109";

/// Rates of one policy: more than these say nothing new, and an answer has a size.
pub const RATES_MAX: usize = 8;

/// Tokens taken at a time: the script takes them one by one.
pub const LEASE_MAX: u32 = 1_000;

/// A line of an answer; the longest errors of Redis have some 200 bytes.
const LINE_MAX: usize = 1_024;

/// What is limited how.
#[derive(Clone, Copy, Debug)]
pub enum Limits<'a> {
    /// At most [`RATES_MAX`].
    Rates(&'a [Rate]),
    Quota(QuotaSpec),
}

/// By digest, or with its text for a server that does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Sha,
    Text,
}

/// Appends the command that takes up to `want` tokens of what `key` is limited to.
pub fn write_call(call: Call, key: &[u8], limits: Limits<'_>, want: u32, out: &mut Vec<u8>) {
    let mut numbers = Vec::with_capacity(2 + 7 * RATES_MAX);
    numbers.push(u64::from(want.min(LEASE_MAX)));
    let mode: &[u8] = match limits {
        Limits::Rates(rates) => {
            for rate in rates.iter().take(RATES_MAX) {
                let rate = rate.in_micros();
                numbers.push(u64::from(rate.count().get()));
                for span in [rate.interval(), rate.usable(), rate.empty()] {
                    numbers.extend([span.ticks, u64::from(span.part)]);
                }
            }
            b"rate"
        }
        Limits::Quota(quota) => {
            numbers.push(u64::from(quota.limit.get()));
            match quota.window {
                Window::Hour => b"hour",
                Window::Day => b"day",
                Window::Month => b"month",
            }
        }
    };
    let (name, script): (&[u8], &[u8]) = match call {
        Call::Sha => (b"EVALSHA", SCRIPT_SHA.as_bytes()),
        Call::Text => (b"EVAL", SCRIPT.as_bytes()),
    };
    write_header(b'*', 5 + numbers.len(), out);
    for part in [name, script, b"1", key, mode] {
        write_bulk(part, out);
    }
    for number in numbers {
        write_bulk(number.to_string().as_bytes(), out);
    }
}

/// Appends any command.
pub fn write_command(parts: &[&[u8]], out: &mut Vec<u8>) {
    write_header(b'*', parts.len(), out);
    for part in parts {
        write_bulk(part, out);
    }
}

fn write_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    write_header(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn write_header(kind: u8, number: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// One answer of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`: to AUTH and SELECT.
    Done,
    /// The script's.
    Numbers(Vec<u64>),
    Refused(Refusal),
}

/// Why a server did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not know the script: send its text.
    NoScript,
    /// The key holds something that is not ours; other keys may do.
    WrongType,
    /// READONLY, LOADING, OOM, NOAUTH, MOVED and the like: it will not do anything for now.
    Unwilling,
}

impl Refusal {
    fn of(line: &str) -> Self {
        // What a script meets is told by old servers in the middle of a line of their own.
        if line.starts_with("NOSCRIPT") {
            Self::NoScript
        } else if line.contains("WRONGTYPE") {
            Self::WrongType
        } else {
            Self::Unwilling
        }
    }
}

/// Not the answer of a Redis server to anything that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage;

/// Reads the first answer, and how many bytes it has. `None`: it is not all there.
///
/// # Errors
/// [`Garbage`], after which nothing on this connection can be trusted.
pub fn read_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Garbage> {
    if !is_whole(bytes)? {
        return Ok(None);
    }
    let Some((frame, length)) = decode(bytes).map_err(|_| Garbage)? else { return Ok(None) };
    let reply = match frame {
        OwnedFrame::SimpleString(_) => Reply::Done,
        OwnedFrame::Error(line) => Reply::Refused(Refusal::of(&line)),
        OwnedFrame::Array(frames) => {
            let number = |frame| match frame {
                OwnedFrame::Integer(number) => u64::try_from(number).map_err(|_| Garbage),
                _ => Err(Garbage),
            };
            Reply::Numbers(frames.into_iter().map(number).collect::<Result<_, _>>()?)
        }
        _ => return Err(Garbage),
    };
    Ok(Some((reply, length)))
}

/// Whether all lines of the first answer are there, each of a kind that is expected (R1).
fn is_whole(bytes: &[u8]) -> Result<bool, Garbage> {
    let Some((first, mut rest)) = line(bytes)? else { return Ok(false) };
    match first.split_first() {
        Some((b'+' | b'-', _)) => Ok(true),
        Some((b'*', count)) => {
            let count = std::str::from_utf8(count).map_err(|_| Garbage)?;
            let count: usize = count.parse().map_err(|_| Garbage)?;
            if count > 2 + 2 * RATES_MAX {
                return Err(Garbage);
            }
            for _ in 0..count {
                let Some((number, after)) = line(rest)? else { return Ok(false) };
                if number.first() != Some(&b':') {
                    return Err(Garbage);
                }
                rest = after;
            }
            Ok(true)
        }
        _ => Err(Garbage),
    }
}

/// A line without its end, and what follows.
type Line<'a> = (&'a [u8], &'a [u8]);

/// The first line, if it is all there.
fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, Garbage> {
    // What cannot become an expected answer is not waited for.
    if bytes.first().is_some_and(|kind| !b"+-:*".contains(kind)) {
        return Err(Garbage);
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end > 0 && end <= LINE_MAX && bytes[end - 1] == b'\r' => {
            Ok(Some((&bytes[..end - 1], &bytes[end + 1..])))
        }
        Some(_) => Err(Garbage),
        None if bytes.len() > LINE_MAX => Err(Garbage),
        None => Ok(None),
    }
}

/// What the script gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Tokens, at most as many as were wanted. The decision is about one of them.
    pub taken: u32,
    pub decision: Decision,
}

/// What the script's numbers say.
///
/// # Errors
/// [`Garbage`] when they are not an answer to this question.
pub fn grant(numbers: &[u64], limits: Limits<'_>) -> Result<Grant, Garbage> {
    let [taken, now, pairs @ ..] = numbers else { return Err(Garbage) };
    let (taken, now) = (u32::try_from(*taken).map_err(|_| Garbage)?, *now);
    let pair = |at: usize| match pairs.get(2 * at..2 * at + 2) {
        Some(&[first, second]) => Ok((first, u32::try_from(second).map_err(|_| Garbage)?)),
        _ => Err(Garbage),
    };
    let decision = match limits {
        Limits::Rates(rates) => {
            let mut standings = Vec::with_capacity(RATES_MAX);
            for (at, rate) in rates.iter().take(RATES_MAX).enumerate() {
                let (full_at, part) = pair(at)?;
                standings.push(rate.in_micros().standing(Bucket { full_at, part }, now));
            }
            Decision::of(taken > 0, standings.into_iter())
        }
        Limits::Quota(quota) => {
            let (ends, used) = pair(0)?;
            Count { ends, used }.standing(quota, taken > 0, now / 1_000_000)
        }
    };
    Ok(Grant { taken, decision })
}

/// Where a Redis server is, and as whom: `redis://[user:password@]host[:port][/db]`, and
/// `rediss://` under TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// A name or an address, an IPv6 one without its brackets.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<String>,
    pub db: u32,
    /// It is spoken to under TLS.
    pub secure: bool,
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the password.
        let Self { host, port, db, .. } = self;
        f.debug_struct("RedisUrl").field("host", host).field("port", port).field("db", db).finish()
    }
}

impl RedisUrl {
    /// # Errors
    /// A sentence for the operator, without what may be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write \"redis://host:6379\" or \"redis://user:password@host:6379/0\"";
        let fail = |what: &str| Err(format!("{what}: {FORM}"));
        let plain = text.strip_prefix("redis://").map(|rest| (rest, false));
        let secure = || text.strip_prefix("rediss://").map(|rest| (rest, true));
        let Some((rest, secure)) = plain.or_else(secure) else {
            return fail("the address of a Redis server begins with redis:// or rediss://");
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (place, db) = rest.split_once('/').unwrap_or((rest, ""));
        let db = if db.is_empty() { "0" } else { db };
        let Ok(db) = db.parse() else { return fail("the database is a number") };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (place, "6379"),
        };
        let Ok(port) = port.parse() else { return fail("the port is 1 to 65535") };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || port == 0 {
            return fail("the host or the port is missing");
        }
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(())) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(())) => return fail("a user stands with a password"),
        };
        let plain = |text: Option<&str>| text.map(unescape).filter(|text| !text.is_empty());
        let (user, password) = (plain(user), plain(password));
        Ok(Self { host: host.to_owned(), port, user, password, db, secure })
    }

    /// Appends what is said first on a connection; returns how many answers it gets.
    pub fn write_prelude(&self, out: &mut Vec<u8>) -> u32 {
        let mut commands = 0;
        if let Some(password) = &self.password {
            let (user, password) = (self.user.as_deref().map(str::as_bytes), password.as_bytes());
            match user {
                Some(user) => write_command(&[b"AUTH", user, password], out),
                None => write_command(&[b"AUTH", password], out),
            }
            commands += 1;
        }
        if self.db > 0 {
            write_command(&[b"SELECT", self.db.to_string().as_bytes()], out);
            commands += 1;
        }
        commands
    }
}

/// `%40` is `@`; what is no escape stands for itself.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        let hex = |at: usize| rest.get(at).and_then(|digit| (*digit as char).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (byte, hex(0), hex(1)) {
            out.push((high * 16 + low) as u8);
            bytes = &rest[2..];
        } else {
            out.push(byte);
            bytes = rest;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
