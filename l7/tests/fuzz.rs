//! Fuzz targets that run on stable: mutations of the seeds in `tests/fuzz/`, under properties.
//!
//! Each target runs for a number of rounds, or for `SLUICEGATE_FUZZ_SECONDS` if that is set. The
//! seed of the run is printed, and `SLUICEGATE_FUZZ_SEED` repeats it. What was found becomes a
//! file among the seeds, and so is tried first for ever after.

#[path = "../../tests/fuzz/harness.rs"]
mod harness;

use sluicegate_l7::http1::{
    Asked, Body, Fields, Framing, Known, Limits, Reject, chunked, request, response,
};
use sluicegate_l7::path;

use harness::{INPUT_BYTES_MAX, Random, run};

#[test]
fn a_request_is_read_in_one_way_however_it_arrives() {
    run("request", |input, random| {
        let limits = Limits { header_bytes_max: 1024, headers_max: 16, ..Limits::default() };
        let mut fields = Fields::new();
        let whole = request::parse(input, &limits, &mut fields);
        let cut = random.below(input.len() + 1);
        let early = request::parse(&input[..cut], &limits, &mut fields);
        assert_grows(early, whole);
        let Ok(Some(head)) = request::parse(input, &limits, &mut fields) else { return };
        assert_ne!(head.framing, Framing::UntilClose);
        assert_eq!(again(input, &fields, &head, &limits), head.framing);
        let _ = drain(head.framing, &input[head.len..], random);
    });
}

#[test]
fn an_answer_is_read_in_one_way_however_it_arrives() {
    run("response", |input, random| {
        let limits = Limits { header_bytes_max: 1024, headers_max: 16, ..Limits::default() };
        let asked = Asked { head: random.below(2) == 0, upgrade: random.below(2) == 0 };
        let mut fields = Fields::new();
        let cut = random.below(input.len() + 1);
        let early = response::parse(&input[..cut], &limits, asked, &mut fields);
        let whole = response::parse(input, &limits, asked, &mut fields);
        assert_grows(early, whole);
        let Ok(Some(head)) = whole else { return };
        assert!(!asked.head || head.framing == Framing::None);
        let _ = drain(head.framing, &input[head.len..], random);
    });
}

#[test]
fn a_chunked_body_is_read_in_one_way_however_it_arrives() {
    run("chunked", |input, random| {
        let body = drain(Framing::Chunked, input, random);
        let Ok((payload, trailers, true)) = body else { return };
        // What is forwarded reads as what was received, and forwards as itself.
        let mut out = Vec::new();
        if !payload.is_empty() {
            out.extend_from_slice(chunked::ChunkHead::new(payload.len() as u64).as_bytes());
            out.extend_from_slice(&payload);
            out.extend_from_slice(chunked::CHUNK_END);
        }
        chunked::push_last_chunk(&mut out, &trailers);
        assert_eq!(drain(Framing::Chunked, &out, random), Ok((payload, trailers, true)));
    });
}

#[test]
fn a_path_has_one_normal_form() {
    run("path", |input, random| {
        let limits = Limits { encoded_slash_keep: random.below(2) == 0, ..Limits::default() };
        let (mut out, mut out_again) = (Vec::new(), Vec::new());
        let Ok(normal) = path::normalise(input, &mut out, &limits) else { return };
        let forward = normal.forward(input, &out);
        let matching = normal.matching(input, &out);
        assert!(forward.starts_with(b"/") && !forward.windows(2).any(|pair| pair == b"//"));
        let again = path::normalise(forward, &mut out_again, &limits).expect("a normal form");
        assert!(again.is_unchanged());
        assert_eq!(again.matching(forward, &out_again), matching);
        for segment in matching.split(|&byte| byte == b'/') {
            assert!(segment != b".." && segment != b"." && !segment.contains(&b';'));
        }
        let segments = |path: &[u8]| path.split(|&byte| byte == b'/').count();
        assert_eq!(segments(forward), segments(matching));
    });
}

/// The verdict on a beginning stands, or is still open; only which fault is seen first may
/// differ.
fn assert_grows<T: PartialEq + std::fmt::Debug>(
    early: Result<Option<T>, Reject>,
    whole: Result<Option<T>, Reject>,
) {
    match (early, whole) {
        (Ok(None), _) | (Err(_), Err(_)) => {}
        (early, whole) => assert_eq!(early, whole),
    }
}

/// How the request would be framed to a server that reads it as strictly as we do.
fn again(
    input: &[u8],
    fields: &Fields,
    head: &sluicegate_l7::http1::RequestHead,
    limits: &Limits,
) -> Framing {
    let mut out = head.method_name.of(input).to_vec();
    out.extend_from_slice(b" ");
    let target = head.target.of(input);
    out.extend_from_slice(if target.first().is_some_and(|&b| b != b'?') { target } else { b"/" });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    out.extend_from_slice(b"Host: ");
    out.extend_from_slice(head.host.map_or(b"a", |host| host.of(input)));
    out.extend_from_slice(b"\r\n");
    for field in fields.end_to_end().filter(|field| field.known != Some(Known::Host)) {
        out.extend_from_slice(field.name.of(input));
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value.of(input));
        out.extend_from_slice(b"\r\n");
    }
    if head.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let limits =
        Limits { header_bytes_max: limits.header_bytes_max * 2, headers_max: 64, ..*limits };
    let read = request::parse(&out, &limits, &mut Fields::new());
    let read = read.unwrap_or_else(|reject| panic!("{reject:?}: {:?}", out.escape_ascii()));
    let read = read.expect("complete");
    assert_eq!(read.len, out.len());
    read.framing
}

type Drained = Result<(Vec<u8>, Vec<u8>, bool), Reject>;

/// Reads a body at once and in pieces, and asserts that both find the same: payload, trailers,
/// whether it ended.
fn drain(framing: Framing, input: &[u8], random: &mut Random) -> Drained {
    let limits = Limits { header_bytes_max: 200, headers_max: 4, ..Limits::default() };
    let mut read = |piece_max: usize| -> Drained {
        let mut body = Body::new(framing, &limits);
        let (mut payload, mut at) = (Vec::new(), 0);
        loop {
            let until = input.len().min(at + 1 + random.below(piece_max));
            let piece = body.next(&input[at..until])?;
            assert!(piece.payload.end <= piece.consumed && piece.consumed <= until - at);
            payload.extend_from_slice(&input[at..][piece.payload]);
            at += piece.consumed;
            if piece.end || at == input.len() {
                return Ok((payload, body.trailers().to_vec(), piece.end));
            }
            assert!(piece.consumed > 0, "no progress");
        }
    };
    let whole = read(INPUT_BYTES_MAX * 2);
    assert_eq!(read(4), whole);
    whole
}
