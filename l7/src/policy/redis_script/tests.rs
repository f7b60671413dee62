//! Claims about what is sent to Redis and read from it. What the script does is shown against
//! a real server, in the gateway's own tests.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn rate(count: u32, seconds: u64) -> Rate {
    let count = NonZeroU32::new(count).unwrap();
    Rate::new(count, Duration::from_secs(seconds), count)
}

#[test]
fn a_call_is_one_command_with_every_number_of_every_rate() {
    let mut out = Vec::new();
    write_call(Call::Sha, b"sg:a:k", Limits::Rates(&[rate(3, 1)]), 1, &mut out);
    let text = String::from_utf8(out).unwrap();
    let words: Vec<&str> =
        text.split("\r\n").filter(|word| !word.starts_with(['$', '*'])).collect();
    let want = ["EVALSHA", SCRIPT_SHA, "1", "sg:a:k", "rate", "1"];
    assert_eq!(words[..6], want);
    assert_eq!(words[6..], ["3", "333333", "1", "666666", "2", "1000000", "0", ""]);
    assert!(text.starts_with("*13\r\n$7\r\nEVALSHA\r\n$40\r\n"), "{text}");
}

#[test]
fn answers_are_read_one_after_another_and_not_before_they_are_whole() {
    let stream =
        b"*4\r\n:1\r\n:1700000000000000\r\n:1700000000500000\r\n:2\r\n+OK\r\n-NOSCRIPT x\r\n";
    let (first, used) = read_reply(stream).unwrap().unwrap();
    let numbers = vec![1, 1_700_000_000_000_000, 1_700_000_000_500_000, 2];
    assert_eq!(first, Reply::Numbers(numbers));
    for cut in 0..used {
        assert_eq!(read_reply(&stream[..cut]), Ok(None), "{cut} bytes");
    }
    let (second, more) = read_reply(&stream[used..]).unwrap().unwrap();
    assert_eq!(second, Reply::Done);
    let third = read_reply(&stream[used + more..]).unwrap().unwrap();
    assert_eq!(third.0, Reply::Refused(Refusal::NoScript));
}

#[test]
fn what_no_script_answers_is_garbage_at_once_however_large_it_says_it_is() {
    let nested = "*1\r\n".repeat(10_000);
    for bytes in [
        "$8589934592\r\n",
        "$999999999999\r\nxx",
        "*-1\r\n",
        "*999999999\r\n",
        "*18446744073709551616\r\n",
        "$-5\r\n",
        ":abc\r\n",
        "*1\r\n:abc\r\n",
        "*1\r\n:-1\r\n",
        "*1\r\n$1\r\na\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "+OK\n",
        "\r\n",
        nested.as_str(),
        &"+".repeat(2_000),
    ] {
        assert_eq!(read_reply(bytes.as_bytes()), Err(Garbage), "{bytes:.40}");
    }
}

#[test]
fn errors_say_whether_the_server_or_only_the_key_is_at_fault() {
    for (line, want) in [
        ("NOSCRIPT No matching script. Please use EVAL.", Refusal::NoScript),
        ("WRONGTYPE Operation against a key", Refusal::WrongType),
        ("ERR Error running script: @user_script:9: WRONGTYPE Operation", Refusal::WrongType),
        ("READONLY You can't write against a read only replica.", Refusal::Unwilling),
        ("LOADING Redis is loading the dataset in memory", Refusal::Unwilling),
        ("OOM command not allowed when used memory > 'maxmemory'.", Refusal::Unwilling),
        ("NOAUTH Authentication required.", Refusal::Unwilling),
        ("MOVED 3999 127.0.0.1:6381", Refusal::Unwilling),
        ("ERR unknown command", Refusal::Unwilling),
    ] {
        let bytes = format!("-{line}\r\n");
        let got = read_reply(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!(got, (Reply::Refused(want), bytes.len()), "{line}");
    }
}

#[test]
fn numbers_become_what_the_client_is_told() {
    let now = 1_700_000_000_000_000;
    let limits = Limits::Rates(&[rate(10, 1), rate(100, 60)]);
    let got = grant(&[1, now, now + 100_000, 0, now + 60_000_000, 0], limits).unwrap();
    assert_eq!((got.taken, got.decision.allowed), (1, true));
    assert_eq!((got.decision.limit, got.decision.remaining), (1, 0));
    let got = grant(&[0, now, now + 100_000, 0, now + 60_000_000, 0], limits).unwrap();
    assert_eq!((got.decision.allowed, got.decision.limit), (false, 1));
    assert_eq!(got.decision.retry_after, Duration::from_millis(600));
    for short in [&[][..], &[1], &[1, now], &[1, now, now, 0], &[1, now, now, 0, now]] {
        assert_eq!(grant(short, limits), Err(Garbage));
    }
    let limit = NonZeroU32::new(7).unwrap();
    let quota = Limits::Quota(QuotaSpec { limit, window: Window::Hour });
    let got = grant(&[0, now, now / 1_000_000 + 30, 7], quota).unwrap().decision;
    assert_eq!((got.allowed, got.remaining, got.retry_after.as_secs()), (false, 0, 30));
}

#[test]
fn addresses_say_host_port_login_and_database() {
    let url = |text: &str| RedisUrl::parse(text).unwrap();
    let plain = url("redis://127.0.0.1");
    assert_eq!((&*plain.host, plain.port, plain.db), ("127.0.0.1", 6379, 0));
    let full = url("redis://bob:p%40ss:w@[::1]:7000/3");
    assert_eq!((&*full.host, full.port, full.db), ("::1", 7000, 3));
    assert_eq!((full.user.as_deref(), full.password.as_deref()), (Some("bob"), Some("p@ss:w")));
    assert!(!full.secure);
    let secure = url("rediss://:secret@host/1");
    assert_eq!((secure.secure, &*secure.host, secure.port, secure.db), (true, "host", 6379, 1));
    let no_user = url("redis://:secret@host");
    assert_eq!((no_user.user, no_user.password.as_deref()), (None, Some("secret")));
    let mut out = Vec::new();
    assert_eq!(full.write_prelude(&mut out), 2);
    let want = "*3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$6\r\np@ss:w\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), want);
    assert!(!format!("{full:?}").contains("p@ss"));
}

#[test]
fn wrong_addresses_are_refused_and_no_password_is_repeated() {
    for text in [
        "redisx://host",
        "host:6379",
        "redis://",
        "redis://:secret@:6379",
        "redis://secret@host",
        "redis://:secret@host:0",
        "redis://:secret@host:99999",
        "redis://:secret@host/x",
    ] {
        let error = RedisUrl::parse(text).unwrap_err();
        assert!(!error.contains("secret") && error.contains("redis://host"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_read_past_them(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[*:+$-]{1,3}[0-9-]{0,4}(\r\n)?([:+-][0-9]{0,3}\r\n){0,20}".prop_map(String::into_bytes),
        ],
    ) {
        if let Ok(Some((_, used))) = read_reply(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }
}
