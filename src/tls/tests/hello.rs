//! Hellos of a real client, whole, in pieces and broken.

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;

use crate::config::plan::SniRoutes;
use crate::tls::fixture::{Authority, corpus_bytes};
use crate::tls::hello::{Hello, Verdict, WIRE_MAX, is_host, read};
use crate::tls::server::{Opening, ServerTls};

/// The record that a client of rustls sends first.
fn real(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let mut record = vec![22, 3, 1];
        record.extend((part.len() as u16).to_be_bytes());
        record.extend(part);
        record
    };
    hello[5..].chunks(size).flat_map(record).collect()
}

/// A hello with these extensions and nothing unusual else.
fn with_extensions(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut bytes = vec![22, 3, 1];
    bytes.extend((body.len() as u16 + 4).to_be_bytes());
    bytes.extend([1, 0]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn with_name(name: &[u8]) -> Vec<u8> {
    let length = name.len() as u16;
    let mut extension = vec![0, 0];
    extension.extend((length + 5).to_be_bytes());
    extension.extend((length + 3).to_be_bytes());
    extension.push(0);
    extension.extend(length.to_be_bytes());
    extension.extend(name);
    with_extensions(&extension)
}

fn said(verdict: &Verdict) -> String {
    match verdict {
        Verdict::More => "more".to_owned(),
        Verdict::NotTls => "not tls".to_owned(),
        Verdict::TooLarge => "too large".to_owned(),
        Verdict::Bad(alert) => format!("alert {}", alert.name()),
        Verdict::Hello(hello) => {
            format!("hello {}", hello.server_name.as_deref().unwrap_or("without a name"))
        }
    }
}

fn byte_by_byte(bytes: &[u8]) -> Verdict {
    let end = bytes.len().min(WIRE_MAX);
    let verdicts = (0..=end).map(|end| read(&bytes[..end]));
    verdicts.into_iter().find(|verdict| *verdict != Verdict::More).unwrap_or(Verdict::More)
}

#[test]
fn a_real_hello_gives_its_name_and_protocols() {
    let Verdict::Hello(hello) = read(&real("Db.Example.com", &[b"h2", b"http/1.1"])) else {
        panic!("not a hello");
    };
    assert_eq!(hello.server_name.as_deref(), Some("db.example.com"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(said(&read(&real("192.0.2.1", &[]))), "hello without a name");
}

#[test]
fn a_hello_over_many_records_is_the_same_hello() {
    let hello = real("a.test", &[b"h2"]);
    for size in [1, 2, 3, 100, 1000] {
        let split = in_records(&hello, size);
        assert_eq!(read(&split), read(&hello), "records of {size} bytes");
        assert_eq!(byte_by_byte(&split), read(&hello), "records of {size} bytes, byte by byte");
    }
}

#[test]
fn what_follows_the_hello_is_left_alone_but_not_in_its_record() {
    let mut hello = real("a.test", &[]);
    hello.extend([20, 3, 3, 0, 1, 1]);
    assert_eq!(said(&read(&hello)), "hello a.test");
    let mut longer = real("a.test", &[]);
    let length = u16::from_be_bytes([longer[3], longer[4]]) + 1;
    longer[3..5].copy_from_slice(&length.to_be_bytes());
    assert_eq!(said(&read(&longer)), "alert unexpected_message");
}

#[test]
fn names_are_host_names_or_refused() {
    let check = |name: &[u8], want: &str| assert_eq!(said(&read(&with_name(name))), want);
    check(b"A.Test", "hello a.test");
    check(b"a.test.", "hello a.test");
    check(b"_x-1.a.test", "hello _x-1.a.test");
    check(b"2001:db8::1", "hello without a name");
    let long = [&[b'a'; 63][..], &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]].join(&b'.');
    assert_eq!(long.len(), 253);
    check(&long, &format!("hello {}", std::str::from_utf8(&long).unwrap()));
    for bad in [
        &b"a..test"[..],
        b".test",
        b".",
        b"a.test\0.b.test",
        b"a test",
        b"a.test\r\n",
        b"a/b",
        b"*.a.test",
        "é.test".as_bytes(),
        b"\xff",
        &[&b"x"[..], &long].concat(),
        &[b'a'; 64],
    ] {
        check(bad, "alert illegal_parameter");
    }
    check(b"", "alert decode_error");
}

#[test]
fn what_comes_instead_of_a_hello_is_told_apart() {
    let check = |bytes: &[u8], want: &str| {
        assert_eq!(said(&read(bytes)), want);
        assert_eq!(said(&byte_by_byte(bytes)), want);
    };
    check(b"", "more");
    check(b"\x16", "more");
    check(b"GET / HTTP/1.1\r\n", "not tls");
    check(b"\x16\x02\x00", "not tls");
    check(b"\x15\x03\x01\x00\x02\x01\x00", "alert unexpected_message");
    check(b"\x16\x03\x01\x00\x00", "alert decode_error");
    check(b"\x16\x03\x01\x40\x01", "alert decode_error");
    check(b"\x16\x03\x01\x00\x05\x02", "alert unexpected_message");
    check(b"\x16\x03\x01\x00\x02\x01\x00\x15\x03", "alert unexpected_message");
    check(b"\x16\x03\x01\x00\x05\x01\x01\x00\x00", "too large");
}

#[test]
fn a_hello_that_never_ends_is_cut_off_at_the_bound() {
    let mut bytes = vec![22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
    bytes.resize(5 + (16 << 10), 0);
    let one_byte_records = [22, 3, 1, 0, 1, 0].repeat(4000);
    bytes.extend(&one_byte_records[..600]);
    assert!(bytes.len() < WIRE_MAX);
    assert_ne!(read(&bytes), Verdict::TooLarge, "16 KiB of message may come");
    let mut slow = vec![22, 3, 1, 0, 4, 1, 0, 0x40, 0];
    slow.extend(one_byte_records);
    assert_eq!(read(&slow), Verdict::TooLarge);
    assert_eq!(read(&slow[..WIRE_MAX - 1]), Verdict::More);
}

#[test]
fn an_extension_twice_is_refused_and_three_thousand_are_not() {
    let twice = with_extensions(&[0, 23, 0, 0, 0, 10, 0, 0, 0, 23, 0, 0]);
    assert_eq!(said(&read(&twice)), "alert illegal_parameter");
    let many: Vec<u8> =
        (1000..4000u16).flat_map(|kind| [(kind >> 8) as u8, kind as u8, 0, 0]).collect();
    assert_eq!(said(&read(&with_extensions(&many))), "hello without a name");
}

#[test]
fn the_best_route_is_exact_then_the_longest_wildcard_then_any() {
    let owned = |pairs: &[(&str, usize)]| {
        pairs.iter().map(|(name, pool)| ((*name).to_owned(), *pool)).collect()
    };
    let mut routes = SniRoutes {
        exact: owned(&[("db.example.com", 0)]),
        wildcard: owned(&[(".example.com", 1), (".eu.example.com", 2)]),
        any: Some(3),
        no_sni: None,
    };
    assert_eq!(routes.choose(Some("db.example.com")), Some(0));
    assert_eq!(routes.choose(Some("www.example.com")), Some(1));
    assert_eq!(routes.choose(Some("a.b.example.com")), Some(1), "one or more labels");
    assert_eq!(routes.choose(Some("a.eu.example.com")), Some(2));
    assert_eq!(routes.choose(Some("eu.example.com")), Some(1));
    assert_eq!(routes.choose(Some("example.com")), Some(3), "no label before it");
    assert_eq!(routes.choose(Some("badexample.com")), Some(3));
    assert_eq!(routes.choose(None), None, "any is for names");
    (routes.any, routes.no_sni) = (None, Some(4));
    assert_eq!(routes.choose(None), Some(4));
    assert_eq!(routes.choose(Some("other.test")), None);
}

/// What a listener with one certificate for a.test makes of the bytes.
fn listener(tls: &Arc<ServerTls>, bytes: &[u8]) -> String {
    let alert = |alert: &[u8]| match alert {
        [21, 3, _, 0, 2, 2, kind] => format!("alert {kind}"),
        [] => "closed".to_owned(),
        // Past our hello alerts are encrypted.
        [22, ..] => "answered, then failed".to_owned(),
        other => panic!("not an alert: {other:?}"),
    };
    let mut incoming = tls.accept();
    // As a socket would bring it: the answer must not depend on how much comes at once.
    for piece in bytes.chunks(1400) {
        match incoming.read(piece) {
            Opening::More => {}
            Opening::Refused(refused) => return alert(&refused.alert),
            Opening::Ready(pending) => {
                return match pending.handshake() {
                    Ok(_) => "answered".to_owned(),
                    Err(refused) => alert(&refused.alert),
                };
            }
        }
    }
    "more".to_owned()
}

#[test]
fn each_case_of_the_corpus_is_judged_as_it_says() {
    let authority = Authority::new();
    let plan = crate::config::plan::ListenerTls {
        certs: vec![authority.server("a", &["a.test"])],
        ..Default::default()
    };
    let tls = Arc::new(ServerTls::new(&plan, Arc::default()).unwrap());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/tls.jsonl");
    let (mut ran, mut wrong) = (0, String::new());
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Some(test) = case["test"].as_str() {
            let tests = include_str!("server.rs");
            assert!(tests.contains(&format!("fn {test}()")), "no test {test}");
        }
        if !case["hello"].is_string() {
            continue;
        }
        ran += 1;
        let bytes = corpus_bytes(&case["parts"]);
        let found = [
            ("hello", said(&read(&bytes))),
            ("hello", said(&byte_by_byte(&bytes))),
            ("server", listener(&tls, &bytes)),
        ];
        for (who, found) in found {
            if case[who] != found.as_str() {
                let (id, want) = (&case["id"], &case[who]);
                let _ = writeln!(wrong, "{id} {who}: wanted {want}, found {found}");
            }
        }
    }
    assert!(ran >= 20, "the corpus is not there: {ran}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer_that_does_not_depend_on_how_they_come(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        tls in any::<bool>(),
    ) {
        let bytes = if tls { [&[22, 3, 1, 0, 90, 1, 0, 0, 86, 3, 3][..], &bytes].concat() } else { bytes };
        prop_assert_eq!(byte_by_byte(&bytes), read(&bytes));
    }

    #[test]
    fn a_broken_hello_gets_an_answer_that_does_not_depend_on_how_it_comes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        size in 1..2000usize,
    ) {
        let mut bytes = with_name(b"db.example.com");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut bytes = in_records(&bytes, size);
        bytes.truncate(cut.index(bytes.len()) + 1);
        let verdict = read(&bytes);
        prop_assert_eq!(byte_by_byte(&bytes), verdict.clone());
        if let Verdict::Hello(Hello { server_name: Some(name), .. }) = verdict {
            prop_assert!(is_host(&name) && name == name.to_ascii_lowercase());
        }
    }

    #[test]
    fn a_real_hello_with_changes_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        use std::sync::LazyLock;
        static HELLO: LazyLock<Vec<u8>> = LazyLock::new(|| real("db.example.com", &[b"h2"]));
        let mut bytes = HELLO.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(byte_by_byte(&bytes), read(&bytes));
    }
}
