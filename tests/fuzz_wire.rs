//! Fuzz targets for what comes before any protocol: a ClientHello and a PROXY header.

#[path = "fuzz/harness.rs"]
mod harness;

use harness::run;
use sluicegate::l4::proxy_header;
use sluicegate::tls::hello;

#[test]
fn a_client_hello_is_read_in_one_way_however_it_arrives() {
    run("hello", |input, random| {
        let whole = hello::read(input);
        let early = hello::read(&input[..random.below(input.len() + 1)]);
        // What was decided early stays; only "more" may become anything.
        assert!(early == hello::Verdict::More || early == whole, "{early:?}, {whole:?}");
        if let hello::Verdict::Hello(found) = whole {
            let clean = |name: &String| {
                name.len() <= 253
                    && name.bytes().all(|byte| byte.is_ascii_graphic())
                    && *name == name.to_ascii_lowercase()
            };
            assert!(found.server_name.as_ref().is_none_or(clean), "{found:?}");
        }
    });
}

#[test]
fn a_proxy_header_is_read_in_one_way_however_it_arrives() {
    run("proxy", |input, random| {
        let whole = proxy_header::read(input);
        let early = proxy_header::read(&input[..random.below(input.len() + 1)]);
        assert!(early == proxy_header::Verdict::More || early == whole, "{early:?}, {whole:?}");
        if let proxy_header::Verdict::Header(header) = whole {
            assert!(header.len <= input.len().min(proxy_header::HEADER_MAX), "{header:?}");
            // What follows is the client's, and changes nothing.
            assert_eq!(proxy_header::read(&input[..header.len]), whole);
        }
    });
}
