//! Names against a name server on loopback that answers what a test wants.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;

use super::*;

/// A question as the server sees it.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    bytes: &'a [u8],
    kind: u16,
    over_tcp: bool,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl<'a> Question<'a> {
    fn new(bytes: &'a [u8], over_tcp: bool) -> Self {
        let end = name_end(bytes);
        let kind = u16::from_be_bytes([bytes[end], bytes[end + 1]]);
        Self { bytes, kind, over_tcp }
    }

    /// A reply with this question, `code`, flags and records.
    fn reply(&self, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut reply = self.bytes[..2].to_vec();
        reply.extend((0x8180 | flags).to_be_bytes());
        reply.extend([0, 1, (records.len() >> 8) as u8, records.len() as u8, 0, 0, 0, 0]);
        reply.extend(&self.bytes[12..name_end(self.bytes) + 4]);
        reply.extend(records.concat());
        reply
    }

    /// A stored message as the answer to this question.
    fn replay(&self, message: &[u8]) -> Vec<u8> {
        let mut reply = message.to_vec();
        reply[..2].copy_from_slice(&self.bytes[..2]);
        reply
    }
}

/// Past the name that begins at byte 12.
fn name_end(bytes: &[u8]) -> usize {
    let mut at = 12;
    while bytes[at] != 0 {
        at += usize::from(bytes[at]) + 1;
    }
    at + 1
}

/// A record of the name asked.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

fn address(a: u8, b: u8) -> Vec<u8> {
    record(A, 60, &[127, 0, a, b])
}

/// Answers in threads of its own until the test process ends.
fn name_server(
    answer: impl Fn(Question<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> SocketAddr {
    // A port that is free for one may be somebody's for the other.
    let both = || {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Some((UdpSocket::bind(tcp.local_addr().unwrap()).ok()?, tcp))
    };
    let (udp, tcp) = (0..100).find_map(|_| both()).unwrap();
    let at = udp.local_addr().unwrap();
    let answer = Arc::new(answer);
    let over_udp = answer.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            for reply in over_udp(Question::new(&buffer[..count], false)) {
                let _ = udp.send_to(&reply, from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut bytes).is_err() {
                    break;
                }
                for reply in answer(Question::new(&bytes, true)) {
                    let length = (reply.len() as u16).to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &reply].concat());
                }
            }
        }
    });
    at
}

fn dns(server: SocketAddr) -> Dns {
    Dns {
        servers: vec![server],
        ttl_min: Duration::from_secs(1),
        ttl_max: Duration::from_secs(300),
        refuse: vec![],
    }
}

fn server(address: ServerAddr) -> Server {
    Server { name: "named".into(), address, weight: 3, max_conns: None, backup: false }
}

fn be_test() -> Server {
    server(ServerAddr::Dns { host: "be.test".into(), port: 80 })
}

fn look_up(dns: &Dns, server: &Server, last: &[Found]) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { lookup(&resolver(dns).unwrap(), dns, server, last).await })
}

/// The addresses of `be.test` at a server that answers A with `answer` and AAAA with nothing.
fn addresses(
    answer: impl Fn(Question<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Result<Vec<String>, String> {
    let at = name_server(move |question| match question.kind {
        A => answer(question),
        _ => vec![question.reply(0, &[])],
    });
    look_up(&dns(at), &be_test(), &[]).map(|answer| texts(&answer))
}

fn texts(answer: &Answer) -> Vec<String> {
    answer.found.iter().map(|found| found.address.to_string()).collect()
}

fn found(text: &str) -> Found {
    Found { address: Endpoint::Ip(text.parse().unwrap()), weight: 3, backup: false }
}

#[test]
fn a_and_aaaa_become_members_sorted_and_without_repeats() {
    let at = name_server(|question| {
        let records = match question.kind {
            A => vec![address(0, 9), address(0, 2), address(0, 9)],
            AAAA => vec![record(AAAA, 60, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])],
            other => panic!("{other}"),
        };
        vec![question.reply(0, &records)]
    });
    let answer = look_up(&dns(at), &be_test(), &[]).unwrap();
    assert_eq!(texts(&answer), ["127.0.0.2:80", "127.0.0.9:80", "[::1]:80"]);
    assert!(answer.found.iter().all(|found| found.weight == 3 && !found.backup));
}

#[test]
fn the_time_to_live_is_kept_within_its_bounds() {
    for (ttl, wanted) in [(0, 1..=1), (60, 58..=60), (86_400, 300..=300)] {
        let at = name_server(move |question| match question.kind {
            A => vec![question.reply(0, &[record(A, ttl, &[127, 0, 0, 2])])],
            _ => vec![question.reply(0, &[])],
        });
        let answer = look_up(&dns(at), &be_test(), &[]).unwrap();
        assert!(wanted.contains(&answer.valid_for.as_secs()), "{ttl}: {:?}", answer.valid_for);
    }
}

#[test]
fn a_name_brings_no_more_than_the_most_members() {
    let many = |question: Question<'_>| {
        let records: Vec<_> = (0..4_000_u16).map(|n| address((n >> 8) as u8, n as u8)).collect();
        // 4,000 records fit TCP's 64 KiB; over UDP they are cut.
        if question.over_tcp {
            vec![question.reply(0, &records)]
        } else {
            vec![question.reply(0x200, &[])]
        }
    };
    assert_eq!(addresses(many).unwrap().len(), MEMBERS_MAX);
}

/// dsc-001
#[test]
fn an_answer_with_a_wrong_id_is_dropped_and_the_query_goes_on() {
    let got = addresses(|question| {
        let mut spoofed = question.reply(0, &[address(0, 66)]);
        spoofed[0] ^= 0x55;
        vec![spoofed, question.reply(0, &[address(0, 2)])]
    });
    assert_eq!(got.unwrap(), ["127.0.0.2:80"]);
}

/// dsc-002
#[test]
fn an_address_of_three_bytes_is_dropped() {
    let message = b"\x124\x81\x80\0\x01\0\x01\0\0\0\0\x02be\x04test\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0<\0\x03\x7f\0\0";
    let got = addresses(|question| vec![question.replay(message)]);
    assert!(got.is_err(), "{got:?}");
}

/// dsc-005
#[test]
fn a_name_that_is_an_alias_of_itself_has_no_address() {
    let message = b"\x124\x81\x80\0\x01\0\x01\0\0\0\0\x02be\x04test\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0<\0\x02\xc0\x0c";
    let got = addresses(|question| vec![question.replay(message)]);
    assert!(got.is_err(), "{got:?}");
}

/// dsc-006
#[test]
fn a_record_of_another_owner_is_ignored() {
    let message = b"\x124\x81\x80\0\x01\0\x01\0\0\0\0\x02be\x04test\0\0\x01\0\x01\x04evil\x04test\0\0\x01\0\x01\0\0\0<\0\x04\x7f\0\0\x02";
    let got = addresses(|question| vec![question.replay(message)]);
    assert!(got.is_err(), "{got:?}");
}

/// dsc-010, dsc-011
#[test]
fn trouble_and_emptiness_are_told_apart() {
    let error = addresses(|question| vec![question.reply(2, &[])]).unwrap_err();
    assert!(error.contains("`be.test`") && error.contains("Server Failure"), "{error}");
    let error = addresses(|question| vec![question.reply(0, &[])]).unwrap_err();
    assert!(error.contains("an empty answer"), "{error}");
}

/// dsc-012
#[test]
fn a_cut_answer_is_asked_for_again_over_tcp() {
    let got = addresses(|question| {
        if question.over_tcp {
            vec![question.reply(0, &[address(0, 7), address(0, 8)])]
        } else {
            vec![question.reply(0x200, &[address(0, 7)])]
        }
    });
    assert_eq!(got.unwrap(), ["127.0.0.7:80", "127.0.0.8:80"]);
}

#[test]
fn a_chain_of_aliases_is_followed() {
    let got = addresses(|question| {
        let alias = record(5, 60, b"\x04real\x04test\0");
        let mut target = b"\x04real\x04test\0".to_vec();
        target.extend(&address(0, 5)[2..]);
        vec![question.reply(0, &[alias, target])]
    });
    assert_eq!(got.unwrap(), ["127.0.0.5:80"]);
}

#[test]
fn half_an_answer_keeps_the_other_half() {
    let at = name_server(|question| {
        let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let (code, records) = match question.kind {
            A => (2, vec![]),
            _ => (0, vec![record(AAAA, 60, &address)]),
        };
        vec![question.reply(code, &records)]
    });
    let last = [found("127.0.0.4:80"), found("[fd00::6]:80")];
    let answer = look_up(&dns(at), &be_test(), &last).unwrap();
    assert_eq!(texts(&answer), ["127.0.0.4:80", "[fd00::7]:80"]);
}

/// dsc-014
#[test]
fn refused_kinds_are_not_used_and_localhost_is_spared() {
    let at = name_server(|question| match question.kind {
        A => {
            let data = [[169, 254, 169, 254], [127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1]];
            let records: Vec<_> = data.iter().map(|data| record(A, 60, data)).collect();
            vec![question.reply(0, &records)]
        }
        _ => vec![question.reply(0, &[])],
    });
    let refuse = [
        AddressKind::Loopback,
        AddressKind::LinkLocal,
        AddressKind::Multicast,
        AddressKind::Unspecified,
    ];
    let dns = Dns { refuse: refuse.to_vec(), ..dns(at) };
    let error = look_up(&dns, &be_test(), &[]).unwrap_err();
    assert!(error.contains("all 4 addresses"), "{error}");
    let local = server(ServerAddr::Dns { host: "localhost".into(), port: 80 });
    let answer = look_up(&dns, &local, &[]).unwrap();
    assert!(texts(&answer).contains(&"127.0.0.1:80".to_owned()), "{answer:?}");
}

#[test]
fn srv_brings_ports_weights_and_backups() {
    let at = name_server(|question| match question.kind {
        SRV => {
            let target = |priority: u8, weight: u16, port: u8, name: &[u8]| {
                let mut data = vec![0, priority];
                data.extend(weight.to_be_bytes());
                data.extend([0, port]);
                data.extend(name);
                record(SRV, 60, &data)
            };
            let first = target(10, 5, 81, b"\x01a\x04test\0");
            let other = target(10, 0, 82, b"\x01a\x04test\0");
            vec![question.reply(0, &[first, other, target(20, 1, 83, b"\x01a\x04test\0")])]
        }
        A => vec![question.reply(0, &[address(0, 3)])],
        _ => vec![question.reply(0, &[])],
    });
    let service = server(ServerAddr::Srv { name: "_http._tcp.be.test".into() });
    let answer = look_up(&dns(at), &service, &[]).unwrap();
    let rows: Vec<_> = answer
        .found
        .iter()
        .map(|found| (found.address.to_string(), found.weight, found.backup))
        .collect();
    let wanted =
        [("127.0.0.3:81", 5, false), ("127.0.0.3:82", 1, false), ("127.0.0.3:83", 1, true)];
    assert_eq!(rows, wanted.map(|(address, weight, backup)| (address.to_owned(), weight, backup)));
}

#[test]
fn weights_of_any_size_become_ours() {
    assert_eq!([scaled(0, 10), scaled(10, 10), scaled(1_000, 1_000)], [1, 10, 1_000]);
    assert_eq!([scaled(65_535, 65_535), scaled(1, 65_535)], [1_000, 1]);
}

#[test]
fn an_address_of_two_records_is_what_the_better_one_says() {
    let found = |port: u16, weight, backup| Found {
        address: Endpoint::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        weight,
        backup,
    };
    let all = vec![found(1, 1, true), found(1, 5, false), found(1, 3, false), found(2, 1, true)];
    assert_eq!(distinct(all), [found(1, 5, false), found(2, 1, true)]);
    let backups = (0..MEMBERS_MAX as u16).map(|port| found(port, 1, true));
    let many = distinct(backups.chain([found(9_999, 1, false)]).collect());
    assert_eq!(many.len(), MEMBERS_MAX);
    assert_eq!(many.last(), Some(&found(9_999, 1, false)), "no backup in place of it");
}
