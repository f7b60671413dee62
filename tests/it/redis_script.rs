//! The script that decides in Redis, on a real server: as the arithmetic of the gateway says.
//!
//! Where a test needs a clock of its own, it sends the script's text with the call of TIME
//! replaced by a number, and without expiry, which goes by the server's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::time::Duration;

use sluicegate_l7::policy::quota::{Count, QuotaSpec, Window};
use sluicegate_l7::policy::rate::{Bucket, Rate};
use sluicegate_l7::policy::redis_script::{
    Call, Grant, Limits, Refusal, Reply, SCRIPT, SCRIPT_SHA, grant, read_reply, write_call,
    write_command,
};

use super::deadline::PATIENCE;
use super::peers::{Peer, need};

/// A server of its own for a test, and a client; `None` where there is no Redis.
fn redis() -> Option<(Peer, Client)> {
    need(&["redis-server"]).then(|| {
        let redis = Peer::redis();
        let client = Client::of(&redis);
        (redis, client)
    })
}

struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Client {
    fn of(redis: &Peer) -> Self {
        let stream = TcpStream::connect(redis.address).expect("redis accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream, inbox: Vec::new() }
    }

    fn more(&mut self) {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).expect("redis answers");
        assert!(count > 0, "redis closed the connection");
        self.inbox.extend_from_slice(&bytes[..count]);
    }

    fn send(&mut self, bytes: &[u8]) -> Reply {
        self.stream.write_all(bytes).expect("redis reads");
        loop {
            match read_reply(&self.inbox).expect("an answer") {
                Some((reply, used)) => {
                    self.inbox.drain(..used);
                    return reply;
                }
                None => self.more(),
            }
        }
    }

    /// A command whose answer is one line, or one bulk string of one line.
    fn line(&mut self, parts: &[&str]) -> String {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        let mut bytes = Vec::new();
        write_command(&parts, &mut bytes);
        self.stream.write_all(&bytes).expect("redis reads");
        let whole = |inbox: &[u8]| {
            let lines = 1 + usize::from(inbox.starts_with(b"$"));
            inbox.iter().filter(|byte| **byte == b'\n').count() == lines
        };
        while !whole(&self.inbox) {
            self.more();
        }
        String::from_utf8(std::mem::take(&mut self.inbox)).expect("text").trim_end().to_owned()
    }

    fn call(&mut self, call: Call, key: &str, limits: Limits<'_>, want: u32) -> Reply {
        let mut bytes = Vec::new();
        write_call(call, key.as_bytes(), limits, want, &mut bytes);
        self.send(&bytes)
    }

    /// The script at a moment of the test's choice, in microseconds.
    fn numbers_at(&mut self, now: u64, key: &str, limits: Limits<'_>, want: u32) -> Vec<u64> {
        let time = format!("{{ '{}', '{}' }}", now / 1_000_000, now % 1_000_000);
        let script = SCRIPT.replace("redis.call('TIME')", &time).replace(", 'PX', expiry", "");
        assert!(!script.contains("TIME") && !script.contains("PX"));
        let mut bytes = Vec::new();
        write_call(Call::Text, key.as_bytes(), limits, want, &mut bytes);
        let old = format!("${}\r\n{SCRIPT}\r\n", SCRIPT.len());
        let new = format!("${}\r\n{script}\r\n", script.len());
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains(&old));
        match self.send(text.replace(&old, &new).as_bytes()) {
            Reply::Numbers(numbers) => numbers,
            other => panic!("{other:?}"),
        }
    }

    fn grant_at(&mut self, now: u64, key: &str, limits: Limits<'_>, want: u32) -> Grant {
        let numbers = self.numbers_at(now, key, limits, want);
        grant(&numbers, limits).expect("an answer to this question")
    }
}

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn rate(count: u32, seconds: u64, burst: u32) -> Rate {
    Rate::new(number(count), Duration::from_secs(seconds), number(burst))
}

/// A small generator, so that a failure repeats itself.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// One token of each or none, in microseconds, as `take_all` does it in nanoseconds.
fn take_in_micros(rates: &[Rate], buckets: &mut [Bucket], now: u64) -> bool {
    let mut taken = Vec::new();
    for (rate, bucket) in rates.iter().zip(buckets.iter_mut()) {
        *bucket = bucket.settled(&rate.in_micros(), now);
        taken.extend(bucket.take(&rate.in_micros(), now));
    }
    if taken.len() < rates.len() {
        return false;
    }
    buckets.copy_from_slice(&taken);
    true
}

#[test]
fn several_rates_in_redis_are_exactly_those_of_the_gateway() {
    let Some((_redis, mut client)) = redis() else { return };
    let sets: [&[Rate]; 4] = [
        &[rate(7, 1, 3)],
        &[rate(10, 1, 10), rate(100, 60, 25), rate(11, 3_600, 40)],
        &[rate(999_983, 1, 50), rate(3, 1, 60)],
        &[rate(1, 365 * 86_400, u32::MAX), rate(5, 1, 5)],
    ];
    for (which, rates) in sets.iter().enumerate() {
        let mut chance = Chance(0x5eed + which as u64);
        let mut buckets = vec![Bucket::FULL; rates.len()];
        let mut now = 1_700_000_000_000_000 + which as u64;
        for step in 0..500 {
            // A moment later, or some intervals, and now and then back: a failover.
            now += [0, 1, chance.below(1_000), chance.below(2_000_000)][chance.below(4) as usize];
            now -= if step % 50 == 49 { 5_000_000 } else { 0 };
            let want = [1, 1, 3][chance.below(3) as usize];
            let mut taken = 0;
            while taken < want && take_in_micros(rates, &mut buckets, now) {
                taken += 1;
            }
            let limits = Limits::Rates(rates);
            let key = format!("rates:{which}");
            let numbers = client.numbers_at(now, &key, limits, want);
            let at = format!("rates {which}, step {step}");
            assert_eq!((numbers[0], numbers[1]), (u64::from(taken), now), "{at}");
            for (kept, bucket) in numbers[2..].chunks(2).zip(&buckets) {
                let full = bucket.is_full(now) && kept == [now, 0];
                let same = kept == [bucket.full_at, u64::from(bucket.part)];
                assert!(full || same, "{at}: {kept:?}, {bucket:?}");
            }
        }
    }
}

#[test]
fn quotas_in_redis_end_where_the_calendar_of_the_gateway_ends_them() {
    let Some((_redis, mut client)) = redis() else { return };
    let mut chance = Chance(0xca1e);
    for (which, window) in [Window::Hour, Window::Day, Window::Month].into_iter().enumerate() {
        let quota = QuotaSpec { limit: number(3), window };
        for round in 0..200 {
            // Until the year 2200, and the last and first seconds of windows.
            let seconds = 1_700_000_000 + chance.below(5_500_000_000);
            let range = window.around(seconds);
            let now = [seconds, range.start, range.end - 1][round % 3];
            let (key, limits) = (format!("quota:{which}:{round}"), Limits::Quota(quota));
            let numbers = client.numbers_at(now * 1_000_000 + 999_999, &key, limits, 2);
            assert_eq!(numbers[2..], [range.end, 2], "{window:?} at {now}");
        }
        let limits = Limits::Quota(quota);
        let start = window.around(1_800_000_000).start;
        let end = window.around(1_800_000_000).end;
        let mut count = Count::default();
        for now in [start, start, end - 1, end - 1, end, end + 1] {
            let got = client.grant_at(now * 1_000_000, "quota", limits, 1);
            assert_eq!(got.decision, count.take(quota, now), "{window:?} at {now}");
        }
        let _ = client.line(&["DEL", "quota"]);
    }
}

#[test]
fn the_digest_is_the_scripts_and_a_flushed_server_learns_it_again() {
    let Some((_redis, mut client)) = redis() else { return };
    let rates = [rate(10, 1, 10)];
    let limits = Limits::Rates(&rates);
    let unknown = Reply::Refused(Refusal::NoScript);
    assert_eq!(client.call(Call::Sha, "k", limits, 1), unknown);
    assert!(matches!(client.call(Call::Text, "k", limits, 1), Reply::Numbers(_)));
    assert!(matches!(client.call(Call::Sha, "k", limits, 1), Reply::Numbers(_)));
    assert_eq!(client.line(&["SCRIPT", "FLUSH"]), "+OK");
    assert_eq!(client.call(Call::Sha, "k", limits, 1), unknown);
    let loaded = client.line(&["SCRIPT", "LOAD", SCRIPT]);
    assert_eq!(loaded.lines().nth(1), Some(SCRIPT_SHA));
}

#[test]
fn two_gateways_share_one_bucket_by_the_servers_clock() {
    let Some((redis, mut one)) = redis() else { return };
    let mut other = Client::of(&redis);
    let rates = [rate(10, 86_400, 10), rate(1_000, 1, 1_000)];
    let limits = Limits::Rates(&rates);
    let mut allowed = 0;
    for _ in 0..10 {
        for client in [&mut one, &mut other] {
            let Reply::Numbers(numbers) = client.call(Call::Text, "shared", limits, 1) else {
                panic!("not an answer of the script")
            };
            let got = grant(&numbers, limits).expect("an answer to this question");
            allowed += u32::from(got.decision.allowed);
            assert_eq!(got.decision.limit, 0);
        }
    }
    assert_eq!(allowed, 10);
    let left: i64 = one.line(&["PTTL", "shared"])[1..].parse().expect("milliseconds");
    assert!((86_000_000..=86_400_001).contains(&left), "expires once it is full: {left} ms");
}

#[test]
fn a_key_that_is_not_ours_is_refused_or_begins_anew_and_harms_no_other() {
    let Some((_redis, mut client)) = redis() else { return };
    let rates = [rate(10, 1, 10)];
    let limits = Limits::Rates(&rates);
    assert_eq!(client.line(&["LPUSH", "list", "x"]), ":1");
    let refused = Reply::Refused(Refusal::WrongType);
    assert_eq!(client.call(Call::Text, "list", limits, 1), refused);
    assert_eq!(client.line(&["SET", "text", "hello 9"]), "+OK");
    assert_eq!(client.grant_at(1_700_000_000_000_000, "text", limits, 1).decision.remaining, 9);
    assert!(matches!(client.call(Call::Sha, "list", limits, 1), Reply::Refused(_)));
    // What another policy of this name has left there, with fewer rates or with a quota.
    let more = [rates[0], rate(5, 60, 5)];
    let got = client.grant_at(1_700_000_000_000_000, "text", Limits::Rates(&more), 1);
    assert_eq!((got.decision.limit, got.decision.remaining), (1, 4));
}

#[test]
fn a_server_that_may_not_write_says_so_and_decides_nothing() {
    let Some((_redis, mut client)) = redis() else { return };
    let rates = [rate(10, 1, 10)];
    let unwilling = Reply::Refused(Refusal::Unwilling);
    assert_eq!(client.line(&["CONFIG", "SET", "maxmemory", "1"]), "+OK");
    assert_eq!(client.call(Call::Text, "k", Limits::Rates(&rates), 1), unwilling, "OOM");
    assert_eq!(client.line(&["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    assert_eq!(client.line(&["REPLICAOF", "127.0.0.1", "1"]), "+OK");
    assert_eq!(client.call(Call::Text, "k", Limits::Rates(&rates), 1), unwilling, "READONLY");
}
