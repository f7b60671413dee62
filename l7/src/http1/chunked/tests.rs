//! Claims about chunked bodies.

use proptest::prelude::*;

use super::*;

/// Feeds `pieces` one after the other; answers with the body and the trailers.
fn decode<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> Result<(Vec<u8>, Vec<u8>, bool), Reject> {
    let mut decoder = Decoder::new(limits);
    let mut body = Vec::new();
    let mut end = false;
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() && !end {
            let found = decoder.feed(rest)?;
            assert!(found.payload.end <= found.consumed && found.consumed <= rest.len());
            assert!(found.consumed > 0 || found.end, "no progress");
            body.extend_from_slice(&rest[found.payload]);
            rest = &rest[found.consumed..];
            end = found.end;
        }
    }
    Ok((body, decoder.trailers().to_vec(), end))
}

fn whole(text: &str) -> Result<(String, String), Reject> {
    let (body, trailers, end) = decode([text.as_bytes()], &Limits::default())?;
    assert!(end, "unfinished: {text:?}");
    Ok((String::from_utf8(body).unwrap(), String::from_utf8(trailers).unwrap()))
}

fn refuses(text: &str, reject: Reject) {
    assert_eq!(decode([text.as_bytes()], &Limits::default()), Err(reject), "{text:?}");
}

#[test]
fn chunks_are_joined_and_extensions_forgotten() {
    let body = |text: &str| whole(text).unwrap().0;
    assert_eq!(body("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), "hello world");
    assert_eq!(body("00000000\r\n\r\n"), "");
    assert_eq!(body("5;foo=bar;x;y=\"a\\\"b;\"\r\nhello\r\n0;last\r\n\r\n"), "hello");
    assert_eq!(body("5 ; a = b\t;c =\"d\" ; e\r\nhello\r\n0\r\n\r\n"), "hello");
    assert_eq!(body("00a\r\n0123456789\r\n0\r\n\r\n"), "0123456789");
}

#[test]
fn data_and_end_come_in_one_step_when_they_are_there() {
    let text = b"5\r\nhello\r\n0\r\n\r\nGET";
    let piece = Decoder::new(&Limits::default()).feed(text).unwrap();
    assert_eq!(piece, Piece { consumed: text.len() - 3, payload: 3..8, end: true });
}

#[test]
fn a_size_is_hexadecimal_digits_and_nothing_else() {
    for bad in ["0x5", "+5", "-5", " 5", "\r\n", ";x", "5\n", "ZZ", "5_0"] {
        refuses(bad, Reject::ChunkSize);
    }
    refuses("5\rX", Reject::LineEnd);
    refuses("5\r\r;A", Reject::LineEnd);
    refuses("FFFFFFFFFFFFFFFF\r\n", Reject::ChunkSize);
    refuses("8000000000000000\r\n", Reject::ChunkSize);
    refuses("00000000000000005\r\n", Reject::ChunkSize);
    assert!(decode([&b"7FFFFFFFFFFFFFFF\r\nx"[..]], &Limits::default()).is_ok());
}

#[test]
fn a_chunk_ends_where_its_size_says() {
    refuses("5\r\nhelloX\r\n", Reject::ChunkEnd);
    refuses("5\r\nhello0\r\n", Reject::ChunkEnd);
    refuses("5\r\nhello\n", Reject::ChunkEnd);
    refuses("5\r\nhello\r0", Reject::ChunkEnd);
}

#[test]
fn extensions_are_well_formed_and_do_not_outweigh_the_data() {
    for bad in [
        "5;a\rX\r\n",
        "5;;",
        "5;\r\n",
        "5;a=\r\n",
        "5;a=\"b\r\nc\"",
        "5;a\n",
        "5;a\0",
        "5 \r\n",
        "5 a",
        "5;a \r\n",
        "5;a b",
        "5;a=b c",
        "5;a=b=c",
        "5;a=\"b\"c",
    ] {
        let found = decode([bad.as_bytes()], &Limits::default()).unwrap_err();
        assert!(matches!(found, Reject::ChunkExtension | Reject::LineEnd), "{bad:?}: {found:?}");
    }
    let tiny = format!("1;{}\r\nx\r\n", "a".repeat(100)).repeat(50);
    refuses(&tiny, Reject::ChunkExtensionsTooLarge);
    refuses(&format!("1;{}", "a".repeat(5000)), Reject::ChunkExtensionsTooLarge);
    let signed = format!("400;{}\r\n{}\r\n", "a".repeat(100), "x".repeat(0x400)).repeat(50);
    assert!(decode([signed.as_bytes()], &Limits::default()).is_ok());
}

#[test]
fn trailers_go_on_unless_they_would_change_the_message() {
    let text = "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nhost: b\r\nX-Consumer-Id: a\r\nX_U: 1\r\n\
                Authorization: b\r\ngrpc-status: 0\r\n\r\n";
    assert_eq!(whole(text).unwrap().1, "X-Sum: 1\r\ngrpc-status: 0\r\n");
}

#[test]
fn trailers_are_as_strict_as_fields() {
    for bad in [
        "foo\r\n",
        " x: a\r\n",
        "x : a\r\n",
        ": a\r\n",
        "x: a\0\r\n",
        "x: a\n",
        "x: a\rb",
        "x: \x7f\r\n",
    ] {
        refuses(&format!("0\r\n{bad}"), Reject::Trailer);
    }
}

#[test]
fn the_trailer_section_has_the_bounds_of_a_header_section() {
    let limits = Limits { header_bytes_max: 100, headers_max: 3, ..Limits::default() };
    let trailers = |lines: &str| decode([format!("0\r\n{lines}").as_bytes()], &limits);
    assert!(trailers("a: b\r\na: b\r\na: b\r\n\r\n").is_ok());
    assert_eq!(trailers("a: b\r\na: b\r\na: b\r\na: b\r\n"), Err(Reject::TrailerTooLarge));
    // Dropped ones count.
    assert_eq!(trailers(&"Host: b\r\n".repeat(4)), Err(Reject::TrailerTooLarge));
    assert_eq!(trailers(&"a".repeat(101)), Err(Reject::TrailerTooLarge));
}

#[test]
fn a_chunk_head_is_its_size_in_hexadecimal() {
    for (len, text) in
        [(1, "1\r\n"), (16, "10\r\n"), (0xabc, "abc\r\n"), (u64::MAX, "ffffffffffffffff\r\n")]
    {
        assert_eq!(ChunkHead::new(len).as_bytes(), text.as_bytes());
    }
}

fn encode(chunks: &[Vec<u8>], trailers: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        out.extend_from_slice(ChunkHead::new(chunk.len() as u64).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(CHUNK_END);
    }
    push_last_chunk(&mut out, trailers);
    out
}

/// Cuts `bytes` at these places.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_in_any_pieces(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        trailers in prop::sample::select(vec!["", "X-Sum: 1\r\n", "a: b\r\nc: d\r\n"]),
    ) {
        let bytes = encode(&chunks, trailers.as_bytes());
        let found = decode(cut(&bytes, &cuts), &Limits::default());
        prop_assert_eq!(found, Ok((chunks.concat(), trailers.as_bytes().to_vec(), true)));
    }

    #[test]
    fn pieces_do_not_change_the_verdict(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "5\r\nhello\r\n", "0\r\n", "\r\n", "1;a=\"b\"\r\nx\r\n", "1;a\r\nx", "X: y\r\n", "\n", "\r", " ", "2",
            "Host: z\r\n",
        ]), 0..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = tokens.concat().into_bytes();
        let whole = decode([&bytes[..]], &Limits::default());
        prop_assert_eq!(&whole, &decode(cut(&bytes, &cuts), &Limits::default()));
        prop_assert_eq!(&whole, &decode(bytes.chunks(1), &Limits::default()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode([&bytes[..]], &Limits::default());
    }
}
