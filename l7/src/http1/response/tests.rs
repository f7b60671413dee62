//! Claims about heads of answers.

use proptest::prelude::*;

use super::*;

const GET: Asked = Asked { head: false, upgrade: false };
const HEAD: Asked = Asked { head: true, upgrade: false };
const UPGRADE: Asked = Asked { head: false, upgrade: true };

fn head(text: &str, asked: Asked) -> Result<ResponseHead, Reject> {
    parse(text.as_bytes(), &Limits::default(), asked, &mut Fields::new())
        .map(|head| head.expect("complete"))
}

fn answer(status: &str, lines: &str, asked: Asked) -> Result<ResponseHead, Reject> {
    head(&format!("HTTP/1.1 {status}\r\n{lines}\r\n"), asked)
}

#[test]
fn a_status_line_has_three_digits_and_perhaps_a_reason() {
    let text = "HTTP/1.1 404 Not Found\r\n\r\n";
    let found = head(text, GET).unwrap();
    assert_eq!((found.status, &text[found.reason.range()]), (404, "Not Found"));
    for text in ["HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 204\r\n\r\n"] {
        let found = head(text, GET).unwrap();
        assert_eq!((found.status, &text[found.reason.range()]), (204, ""), "{text:?}");
    }
    for bad in ["2000 x", "+200 x", "20 x", "099 x", "600 x", "abc", "", "200\tOK"] {
        assert_eq!(answer(bad, "", GET), Err(Reject::Status), "{bad}");
    }
    assert_eq!(head("HTTP/2.0 200 OK\r\n\r\n", GET), Err(Reject::VersionUnsupported));
    for bad in ["SSH-2.0-x\r\n", "\r\nHTTP/1.1 200 OK\r\n", "HTP"] {
        let parsed = parse(bad.as_bytes(), &Limits::default(), GET, &mut Fields::new());
        assert_eq!(parsed, Err(Reject::Status), "{bad}");
    }
}

#[test]
fn the_body_ends_where_request_and_status_say() {
    let framing =
        |status: &str, lines: &str, asked| answer(status, lines, asked).map(|h| h.framing);
    let five = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(framing("200 OK", five, GET), Ok(Framing::Length(5)));
    assert_eq!(framing("200 OK", chunked, GET), Ok(Framing::Chunked));
    assert_eq!(framing("200 OK", "Content-Length: 0\r\n", GET), Ok(Framing::None));
    assert_eq!(framing("200 OK", "", GET), Ok(Framing::UntilClose));
    for lines in [five, chunked, ""] {
        assert_eq!(framing("200 OK", lines, HEAD), Ok(Framing::None));
        assert_eq!(framing("304 Not Modified", lines, GET), Ok(Framing::None));
        assert_eq!(framing("204 No Content", lines, GET), Ok(Framing::None));
    }
    assert_eq!(framing("100 Continue", "", GET), Ok(Framing::None));
    for lines in [five, chunked] {
        assert_eq!(framing("103 Early Hints", lines, GET), Err(Reject::FramingOfBodiless));
    }
}

#[test]
fn an_ambiguous_length_is_refused() {
    let refused = [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Reject::LengthRepeated),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Reject::LengthWithCoding),
        ("Content-Length: +5\r\n", Reject::LengthSyntax),
        ("Transfer-Encoding: gzip\r\n", Reject::CodingUnknown),
        ("X: a\rSet-Cookie: sid=1\r\n", Reject::FieldValue),
        ("X : a\r\n", Reject::FieldName),
        ("X: a\r\n b\r\n", Reject::FieldName),
        ("X: a\n", Reject::BareLf),
        ("Connection: Content-Length\r\nContent-Length: 0\r\n", Reject::ConnectionOptions),
    ];
    for (lines, reject) in refused {
        assert_eq!(answer("200 OK", lines, GET), Err(reject), "{lines:?}");
        assert_eq!(answer("200 OK", lines, HEAD), Err(reject), "{lines:?}");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old, GET), Err(Reject::CodingOnHttp10));
}

#[test]
fn a_connection_is_kept_only_when_the_next_answer_is_sure_to_be_the_next() {
    let keeps = |status: &str, lines: &str| answer(status, lines, GET).unwrap().keep_alive;
    assert!(keeps("200 OK", "Content-Length: 0\r\n"));
    assert!(keeps("204 No Content", ""));
    assert!(keeps("304 Not Modified", "Content-Length: 9\r\n"));
    assert!(!keeps("200 OK", ""));
    assert!(!keeps("200 OK", "Content-Length: 0\r\nConnection: close\r\n"));
    assert!(!keeps("204 No Content", "Content-Length: 9\r\n"));
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n";
    assert!(!head(&format!("{old}\r\n"), GET).unwrap().keep_alive);
    assert!(head(&format!("{old}Connection: keep-alive\r\n\r\n"), GET).unwrap().keep_alive);
}

#[test]
fn protocols_are_switched_only_when_asked_and_as_asked() {
    let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n";
    let found = answer("101 Switching Protocols", lines, UPGRADE).unwrap();
    assert!(found.upgrade.is_some() && !found.is_interim());
    assert!(answer("100 Continue", "", UPGRADE).unwrap().is_interim());
    let bad = [
        (lines, GET),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", UPGRADE),
        ("Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n", UPGRADE),
        ("Connection: Upgrade\r\n", UPGRADE),
        ("Connection: Upgrade\r\nUpgrade:\r\n", UPGRADE),
        ("", UPGRADE),
    ];
    for (lines, asked) in bad {
        assert_eq!(answer("101 x", lines, asked), Err(Reject::Switch), "{lines:?}");
    }
}

#[test]
fn fields_that_the_server_lists_end_here() {
    let buf = b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nKeep-Alive: 5\r\nSet_Me: 2\r\n\r\n";
    let mut fields = Fields::new();
    parse(buf, &Limits::default(), GET, &mut fields).unwrap().unwrap();
    let stay: Vec<_> = fields.end_to_end().map(|field| field.name.of(buf)).collect();
    assert_eq!(stay, [&b"Set_Me"[..]]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        for start in ["", "HTTP/1.1 ", "HTTP/1.1 200 OK\r\n"] {
            let bytes = [start.as_bytes(), &tail].concat();
            let _ = parse(&bytes, &Limits::default(), UPGRADE, &mut Fields::new());
        }
    }

    #[test]
    fn a_head_in_pieces_is_the_same_head(
        lines in prop::collection::vec(prop::sample::select(vec![
            "Content-Length: 5\r\n", "X: y\r\n", "Connection: close\r\n", "\r\n", "X : y\r\n",
        ]), 0..6),
    ) {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", lines.concat());
        let parse = |end: usize| {
            super::parse(&text.as_bytes()[..end], &Limits::default(), GET, &mut Fields::new())
        };
        let first = (0..=text.len()).find_map(|end| parse(end).transpose());
        prop_assert_eq!(parse(text.len()).transpose(), first);
    }
}
