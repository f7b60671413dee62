//! No allocation from a head to its route and its lines: a binary of its own, as it counts with
//! its allocator. One test only: the counter is for the whole process.

#![allow(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ipnet::IpNet;
use sluicegate_l7::identity::{Client, Connection, Identity, Sieve, scheme};
use sluicegate_l7::route::spec::{MatchSpec, PathSpec, RouteSpec, ValueSpec};
use sluicegate_l7::route::{Found, Query, Table};
use sluicegate_l7::trace::Trace;

/// Counts for this thread, and leaves the work to the system's allocator.
struct Counting;

thread_local! {
    // Const and without a destructor: touching it never allocates.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to `System` with the arguments it came with, so `System`'s promises
// are this allocator's; counting touches a thread-local that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout, as all here do.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `pointer` came from `System` with this layout, as all here do.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

#[test]
fn a_request_is_matched_and_told_on_without_allocating() {
    let table = table();
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
    let mut out = Vec::with_capacity(4096);
    let mut taken = [None; 3];

    let before = COUNT.with(Cell::get);
    let connection = Connection::parse(&fields).expect("few options");
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
        if sieve.request_field(name.as_bytes(), &connection)
            == sluicegate_l7::identity::Decision::Keep
        {
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
    identity.write_http1(&mut out);
    out.extend_from_slice(&Trace::of(&fields, [1; 24]).0.encode());
    let counted = COUNT.with(Cell::get) - before;

    assert_eq!(taken, [Some(4), Some(5), None]);
    assert!(out.len() > 200, "the lines were written");
    assert_eq!(counted, 0, "allocations on the way");
    assert!(before > 0, "the counter counts");
}
