//! No allocation for a message, its route and its lines once the stores have grown: a binary of its own, as it counts
//! with its allocator. One test only: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ipnet::IpNet;
use sluicegate_l7::http1::{Asked, Body, Fields, Known, Limits, request, response};
use sluicegate_l7::identity::{Client, Identity, Sieve, scheme};
use sluicegate_l7::path;
use sluicegate_l7::route::spec::{MatchSpec, PathSpec, RouteSpec, ValueSpec};
use sluicegate_l7::route::{Found, Query, Table};
use sluicegate_l7::trace::Trace;

/// Counts the allocations of each thread, and leaves the work to the system's allocator.
struct Counting;

thread_local! {
    // Const and without a destructor: reading it never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` above, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"POST /a/../b;v=1/%7euser?q HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\n\
    Connection: X-A\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_message_costs_no_allocation_once_the_stores_have_grown() {
    let mut fields = Fields::new();
    let mut out = Vec::new();
    let table = table();
    let mut told = Vec::with_capacity(4096);
    exchange(&mut fields, &mut out);
    a_request_is_matched_and_told_on(&table, &mut told);
    let before = COUNT.get();
    assert!(before > 0, "the counter does not count");
    for _ in 0..1000 {
        exchange(&mut fields, &mut out);
        told.clear();
        a_request_is_matched_and_told_on(&table, &mut told);
    }
    assert_eq!(COUNT.get() - before, 0);
}

fn exchange(fields: &mut Fields, out: &mut Vec<u8>) {
    let limits = Limits::default();
    let head = request::parse(REQUEST, &limits, fields).expect("valid").expect("complete");
    let target = head.target.of(REQUEST);
    let normal = path::normalise(target, out, &limits).expect("valid");
    assert_eq!(normal.matching(target, out), b"/b/~user");
    let piece = Body::new(head.framing, &limits).next(&REQUEST[head.len..]).expect("valid");
    assert!(piece.end);

    let head = response::parse(ANSWER, &limits, Asked::default(), fields);
    let head = head.expect("valid").expect("complete");
    let piece = Body::new(head.framing, &limits).next(&ANSWER[head.len..]).expect("valid");
    assert!(piece.end);
}

fn table() -> Table {
    let route = |n: usize, path: String| {
        let matches = MatchSpec {
            hosts: vec![format!("h{}.test", n % 10), "*.wild.test".into()],
            path: PathSpec::Pattern(path),
            methods: vec!["GET".into()],
            headers: vec![("x-beta".into(), ValueSpec::Any(vec!["1".into()]))],
            query: vec![("v".into(), ValueSpec::Present)],
            cookies: vec![("c".into(), ValueSpec::Present)],
            ignore_case: n.is_multiple_of(7),
        };
        RouteSpec { matches, ..RouteSpec::default() }
    };
    let routes = (0..300).map(|n| match n % 3 {
        0 => route(n, format!("/v1/r{n}")),
        1 => route(n, format!("/v1/r{n}/*")),
        _ => route(n, format!("/v1/{{id}}/r{n}")),
    });
    Table::build(routes.collect()).expect("routes")
}

fn a_request_is_matched_and_told_on(table: &Table, out: &mut Vec<u8>) {
    let trusted: [IpNet; 1] = ["10.0.0.0/8".parse().expect("a network")];
    let fields = [
        ("Host", "a.b.wild.test"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Beta", "1"),
        ("Cookie", "a=b; c=d"),
        ("X-Forwarded-For", "192.0.2.7, 10.0.0.2"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let peer = "10.0.0.1".parse().expect("an address");
    let mut taken = [None; 3];

    let client = Client::find(Some(peer), &fields, &trusted);
    let scheme = scheme(&fields, client.peer_trusted, true);
    for (at, path) in ["/v1/r4/x/y", "/v1/7/r5", "/none"].into_iter().enumerate() {
        let query = Query {
            host: "a.b.wild.test",
            path,
            method: "GET",
            scheme,
            query: "v",
            fields: &fields,
        };
        if let Found::Route { route, .. } = table.find(&query) {
            taken[at] = Some(route);
            let captures = table.captures(route, path);
            assert!(captures.rest().is_some() || captures.value("id").is_some());
        }
    }
    let sieve = Sieve::default();
    for (name, value) in fields {
        if sieve.passes(Known::of(name.as_bytes()), name.as_bytes()) {
            out.extend_from_slice(value.as_bytes());
        }
    }
    let identity = Identity {
        peer: Some(peer),
        peer_trusted: client.peer_trusted,
        client: client.ip,
        scheme,
        host: b"a.b.wild.test",
        port: 443,
        request_id: b"id",
        version: "1.1",
        via: "sg-test",
        fields: &fields,
    };
    identity.write_http1(out);
    out.extend_from_slice(&Trace::of(&fields, [1; 24]).0.encode());
    assert_eq!(taken, [Some(4), Some(5), None]);
    assert!(out.len() > 200, "the lines were written");
}
