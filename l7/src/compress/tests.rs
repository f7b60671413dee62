//! Claims on the decision, the negotiation and the encoders.

use std::io::Read as _;

use proptest::prelude::*;

use super::*;
use crate::route::NoFields;

const BOTH: [Algorithm; 2] = [Algorithm::Brotli, Algorithm::Gzip];

fn accepts(request: &dyn Fields) -> Accepts {
    Accepts::of(request, &spec().algorithms)
}

fn spec() -> CompressionSpec {
    CompressionSpec {
        algorithms: BOTH.to_vec(),
        types: ["text/*", "application/json", "application/*+json"].map(str::to_owned).to_vec(),
        size_min: 1024,
    }
}

fn taken(accept: &str) -> Option<&'static str> {
    negotiate(&[("Accept-Encoding", accept)], &BOTH).map(coding)
}

#[test]
fn the_client_weighs_and_our_order_breaks_ties() {
    assert_eq!(taken("gzip, deflate, br"), Some("br"));
    assert_eq!(taken("gzip"), Some("gzip"));
    assert_eq!(taken("X-GZIP"), Some("gzip"));
    assert_eq!(taken("br;q=0.5, gzip;q=0.8"), Some("gzip"));
    assert_eq!(taken("br;q=0, *"), Some("gzip"));
    assert_eq!(taken("*;q=0.1"), Some("br"));
    let gzip_first = [Algorithm::Gzip, Algorithm::Brotli];
    let both = [("Accept-Encoding", "br"), ("accept-encoding", "gzip")];
    assert_eq!(negotiate(&both, &gzip_first), Some(Algorithm::Gzip));
}

#[test]
fn what_the_client_does_not_take_is_not_sent() {
    for accept in
        ["", "identity", "deflate", "*;q=0", "gzip;q=0, br;q=0.000", "identity, gzip;q=0.5"]
    {
        assert_eq!(taken(accept), None, "{accept}");
    }
    assert_eq!(taken("identity;q=0, gzip"), Some("gzip"));
    assert_eq!(taken("identity;q=0"), None);
    assert_eq!(negotiate(&NoFields, &BOTH), None);
}

#[test]
fn a_malformed_quality_is_none() {
    for q in ["2", "1.001", "0.1234", ".5", "-1", "x", ""] {
        assert_eq!(taken(&format!("gzip;q={q}")), None, "{q}");
    }
    assert_eq!(taken("gzip ; Q = 0.001"), Some("gzip"));
    assert_eq!(taken("gzip;level=9"), None);
    assert_eq!(taken(&"gzip;q=0.001,".repeat(4_000)), Some("gzip"));
}

fn decided(status: u16, length: Option<u64>, fields: &dyn Fields) -> Outcome {
    let request = [("Accept-Encoding", "br")];
    decide(&spec(), accepts(&request), &Response { status, fields, length, is_head: false })
}

#[test]
fn only_whole_plain_bodies_of_the_listed_types_are_compressed() {
    let compressed = Outcome::Compress(Algorithm::Brotli);
    let html = [("Content-Type", "Text/HTML; charset=utf-8")];
    assert_eq!(decided(200, None, &html), compressed);
    assert_eq!(decided(404, Some(1024), &html), compressed);
    assert_eq!(decided(200, Some(1023), &html), Outcome::Untouched);
    for status in [101, 204, 205, 206, 304] {
        assert_eq!(decided(status, None, &html), Outcome::Untouched, "{status}");
    }
    assert_eq!(decided(200, None, &[("content-type", "application/ld+json")]), compressed);
    for other in ["image/png", "application/jsonx", "text", "application/+jso", ""] {
        assert_eq!(decided(200, None, &[("content-type", other)]), Outcome::Untouched, "{other}");
    }
    assert_eq!(decided(200, None, &NoFields), Outcome::Untouched);
    let all = vec!["application/*".to_owned()];
    assert!(fits_types(b"application/x", &all));
    assert!(!fits_types(b"application/gRPC+proto", &all), "it compresses each message itself");
}

#[test]
fn nothing_is_encoded_twice_or_against_no_transform() {
    let html = ("Content-Type", "text/html");
    for more in [
        ("Content-Encoding", "gzip"),
        ("Cache-Control", "public, No-Transform"),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Type", "text/html"),
    ] {
        assert_eq!(decided(200, None, &[html, more]), Outcome::Untouched, "{more:?}");
    }
    let identity = [html, ("Content-Encoding", "identity")];
    assert_eq!(decided(200, None, &identity), Outcome::Compress(Algorithm::Brotli));
    let request = [("Accept-Encoding", "br"), ("Cache-Control", "no-transform")];
    let response = Response { status: 200, fields: &[html], length: None, is_head: false };
    assert_eq!(decide(&spec(), accepts(&request), &response), Outcome::Untouched);
}

#[test]
fn a_client_that_takes_none_still_gets_vary() {
    let fields = [("Content-Type", "text/html")];
    let response = Response { status: 200, fields: &fields, length: None, is_head: false };
    assert_eq!(decide(&spec(), accepts(&NoFields), &response), Outcome::Plain);
    let head = Response { is_head: true, ..response };
    assert_eq!(decide(&spec(), accepts(&[("Accept-Encoding", "br")]), &head), Outcome::Plain);
}

#[test]
fn vary_is_added_once() {
    assert!(lacks_vary(&[("Vary", "Origin")]));
    assert!(!lacks_vary(&[("Vary", "Origin"), ("vary", "x, ACCEPT-ENCODING")]));
    assert!(!lacks_vary(&[("Vary", "*")]));
}

#[test]
fn fields_that_speak_of_the_bytes_go_and_a_strong_etag_becomes_weak() {
    assert_eq!(change(b"ETag", b"\"a\""), Change::Weaken);
    assert_eq!(change(b"etag", b"W/\"a\""), Change::Keep);
    assert_eq!(change(b"Content-Length", b"5"), Change::Drop);
    assert_eq!(change(b"Accept-Ranges", b"bytes"), Change::Drop);
    assert_eq!(change(b"Content-Type", b"text/html"), Change::Keep);
}

fn decoded(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match algorithm {
        Algorithm::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
        Algorithm::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
    }
    .expect("a whole stream");
    plain
}

/// What a client can read of a stream that has not ended.
fn readable(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut chunk = [0; 64];
    let mut reader: Box<dyn std::io::Read + '_> = match algorithm {
        Algorithm::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
        Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
    };
    while let Ok(read @ 1..) = reader.read(&mut chunk) {
        plain.extend_from_slice(&chunk[..read]);
    }
    plain
}

#[test]
fn a_flush_brings_out_all_that_was_pushed() {
    for algorithm in BOTH {
        let mut encoder = Encoder::new(algorithm);
        let mut out = Vec::new();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            encoder.push(event.as_bytes(), &mut out);
            encoder.flush(&mut out);
        }
        assert_eq!(readable(algorithm, &out), b"data: 1\n\ndata: 2\n\n", "{algorithm:?}");
        encoder.finish(&mut out);
        assert_eq!(decoded(algorithm, &out), b"data: 1\n\ndata: 2\n\n");
    }
}

#[test]
fn an_empty_body_is_a_whole_stream() {
    for algorithm in BOTH {
        let mut out = Vec::new();
        Encoder::new(algorithm).finish(&mut out);
        assert_eq!(decoded(algorithm, &out), b"");
    }
}

#[test]
fn text_gets_smaller() {
    let text = "the same words again and again; ".repeat(1_000);
    for algorithm in BOTH {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(algorithm);
        encoder.push(text.as_bytes(), &mut out);
        encoder.finish(&mut out);
        assert!(out.len() * 20 < text.len(), "{algorithm:?}: {}", out.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_goes_in_comes_out(
        pieces in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..3_000), any::<bool>()), 0..6),
        use_brotli in any::<bool>(),
    ) {
        let algorithm = if use_brotli { Algorithm::Brotli } else { Algorithm::Gzip };
        let mut encoder = Encoder::new(algorithm);
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        for (piece, flush) in &pieces {
            encoder.push(piece, &mut out);
            plain.extend_from_slice(piece);
            if *flush {
                encoder.flush(&mut out);
            }
        }
        encoder.finish(&mut out);
        prop_assert_eq!(decoded(algorithm, &out), plain);
    }
}
