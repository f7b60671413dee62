//! Claims about request heads.

use proptest::prelude::*;

use super::*;
use crate::http1::Known;

fn head(text: &str) -> Result<Option<RequestHead>, Reject> {
    parse(text.as_bytes(), &Limits::default(), &mut Fields::new())
}

/// A GET for `a.test` with these lines more.
fn with(lines: &str) -> Result<RequestHead, Reject> {
    head(&format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"))
        .map(|head| head.expect("complete"))
}

/// A GET with this request line.
fn line(line: &str) -> Result<Option<RequestHead>, Reject> {
    head(&format!("{line}\r\nHost: a.test\r\n\r\n"))
}

#[test]
fn a_head_is_spans_over_the_buffer() {
    let buf = b"POST /x?y HTTP/1.1\r\nHost: a.test\r\nX-A:  b \t\r\nContent-Length: 5\r\n\r\nhello";
    let mut fields = Fields::new();
    let head = parse(buf, &Limits::default(), &mut fields).unwrap().unwrap();
    assert_eq!(head.len, buf.len() - 5);
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.method_name.of(buf), b"POST");
    assert_eq!(head.target.of(buf), b"/x?y");
    assert_eq!(head.host.unwrap().of(buf), b"a.test");
    assert_eq!(head.framing, Framing::Length(5));
    assert!(head.keep_alive);
    let all: Vec<_> = fields.iter(buf).collect();
    assert_eq!(all, [(&b"Host"[..], &b"a.test"[..]), (b"X-A", b"b"), (b"Content-Length", b"5")]);
    assert_eq!(fields.as_slice()[0].known, Some(Known::Host));
    assert!(
        fields.iter(buf).any(|(name, value)| name.eq_ignore_ascii_case(b"x-a") && value == b"b")
    );
}

#[test]
fn one_empty_line_before_a_request_is_ignored() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(head(text).unwrap().unwrap().len, text.len());
    assert_eq!(head("\r\n\r\nGET / HTTP/1.1\r\n"), Err(Reject::EmptyLines));
    assert_eq!(head("\nGET / HTTP/1.1\r\n"), Err(Reject::BareLf));
    for partial in ["", "\r", "\r\n"] {
        assert_eq!(head(partial), Ok(None));
    }
}

#[test]
fn a_request_line_has_one_form() {
    for bad in [
        "GET  /x HTTP/1.1",
        "GET\t/x\tHTTP/1.1",
        " GET /x HTTP/1.1",
        "GET /x",
        "GET",
        "G@T / HTTP/1.1",
    ] {
        assert_eq!(line(bad).unwrap_err().status(), 400, "{bad}");
    }
    for bad in [
        "GET /x HTTP/1.1 ",
        "GE T /x HTTP/1.1",
        "GET /x http/1.1",
        "GET /x HTTP/1.10",
        "GET /x HTTP/01.1",
        "GET /x HTTP/1",
        "GET /x FTP/1.1",
    ] {
        assert_eq!(line(bad).unwrap_err().status(), 400, "{bad}");
    }
    for unknown in ["GET /x HTTP/2.0", "GET /x HTTP/1.2", "GET /x HTTP/0.9", "PRI * HTTP/2.0"] {
        assert_eq!(line(unknown), Err(Reject::VersionUnsupported), "{unknown}");
    }
}

#[test]
fn what_is_no_http_is_refused_before_its_first_line_ends() {
    assert_eq!(head("\u{16}\u{3}\u{1}"), Err(Reject::RequestLine));
    assert_eq!(head(&"A".repeat(METHOD_BYTES_MAX + 1)), Err(Reject::MethodTooLong));
    assert_eq!(head("GE"), Ok(None));
}

#[test]
fn every_line_ends_in_crlf() {
    assert_eq!(head("GET /x HTTP/1.1\nHost: a.test\n\n"), Err(Reject::BareLf));
    assert_eq!(with("X:\n\nGET /smuggled HTTP/1.1\r\n"), Err(Reject::BareLf));
    assert_eq!(with("X: a\n"), Err(Reject::BareLf));
    assert_eq!(with("X: a\rY: b\r\n"), Err(Reject::FieldValue));
    assert_eq!(with("X: a\r\r\n"), Err(Reject::FieldValue));
}

#[test]
fn field_names_and_values_hold_no_surprises() {
    for bad in [
        "X : a\r\n",
        " X: a\r\n",
        "\tX: a\r\n",
        "X: a\r\n b\r\n",
        ": a\r\n",
        "X\r\n",
        "X(Y): a\r\n",
        "\0X: a\r\n",
        "\u{ef}X: a\r\n",
    ] {
        assert_eq!(with(bad), Err(Reject::FieldName), "{bad:?}");
    }
    for bad in 0..0x20_u8 {
        if ![b'\t', b'\n'].contains(&bad) {
            let line = format!("X: a{}b\r\n", char::from(bad));
            assert_eq!(with(&line), Err(Reject::FieldValue), "{line:?}");
        }
    }
    assert_eq!(with("X: a\x7fb\r\n"), Err(Reject::FieldValue));
    assert!(with("X: caf\u{e9}\tau lait\r\nY:\r\n").is_ok());
}

#[test]
fn names_with_underscores_vanish_unless_kept() {
    let buf = b"GET / HTTP/1.1\r\nHost: a.test\r\nTransfer_Encoding: chunked\r\n\r\n";
    let mut fields = Fields::new();
    let head = parse(buf, &Limits::default(), &mut fields).unwrap().unwrap();
    assert_eq!((head.framing, fields.len()), (Framing::None, 1));
    let limits = Limits { underscores_keep: true, ..Limits::default() };
    let head = parse(buf, &limits, &mut fields).unwrap().unwrap();
    assert_eq!((head.framing, fields.len()), (Framing::None, 2));
}

#[test]
fn a_body_has_one_length() {
    assert_eq!(with("").unwrap().framing, Framing::None);
    assert_eq!(with("Content-Length: 0\r\n").unwrap().framing, Framing::None);
    assert_eq!(with("transfer-encoding: Chunked\r\n").unwrap().framing, Framing::Chunked);
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(with(both), Err(Reject::LengthWithCoding));
    let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
    assert_eq!(with(twice), Err(Reject::LengthRepeated));
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n";
    assert_eq!(with(twice), Err(Reject::CodingSyntax));
    assert_eq!(with("Transfer-Encoding: \u{a0}chunked\r\n"), Err(Reject::CodingSyntax));
    assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n"), Err(Reject::CodingUnknown));
    let old = "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old), Err(Reject::CodingOnHttp10));
    let old = "POST /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\n";
    assert_eq!(head(old).unwrap().unwrap().framing, Framing::None);
}

#[test]
fn there_is_exactly_one_host() {
    assert_eq!(head("GET / HTTP/1.1\r\n\r\n"), Err(Reject::HostMissing));
    assert_eq!(head("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().host, None);
    assert_eq!(with("Host: a.test\r\n"), Err(Reject::HostRepeated));
    assert_eq!(head("GET / HTTP/1.1\r\nHost:\r\n\r\n"), Err(Reject::HostSyntax));
    assert_eq!(head("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), Err(Reject::HostSyntax));
}

#[test]
fn a_target_has_the_form_of_its_method() {
    let path = |request: &str| {
        let text = format!("{request} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        head(&text).map(|head| {
            let head = head.expect("complete");
            (text[head.target.range()].to_owned(), head.absolute, head.asterisk)
        })
    };
    assert_eq!(path("GET /x?y"), Ok(("/x?y".into(), false, false)));
    assert_eq!(path("OPTIONS *"), Ok(("*".into(), false, true)));
    assert_eq!(path("GET http://A.test:80/x?y"), Ok(("/x?y".into(), true, false)));
    assert_eq!(path("GET HTTP://a.test?y"), Ok(("?y".into(), true, false)));
    assert_eq!(path("GET https://a.test:443"), Ok((String::new(), true, false)));
    for bad in ["*", "x", "@b.test/x", "/x#y", "ftp://a.test/", "a.test:80", "http:/x", "?x"] {
        assert_eq!(path(&format!("GET {bad}")), Err(Reject::Target), "{bad}");
    }
    assert_eq!(path("GET http:///x"), Err(Reject::HostSyntax));
    assert_eq!(path("GET https://a.test:443@b.test/"), Err(Reject::HostSyntax));
    assert_eq!(path("GET http://b.test/"), Err(Reject::HostUnlikeTarget));
    assert_eq!(path("GET http://a.test:81/"), Err(Reject::HostUnlikeTarget));
    assert_eq!(path("CONNECT a.test:22"), Err(Reject::MethodRefused));
    assert_eq!(path("TRACE /"), Err(Reject::MethodRefused));
}

#[test]
fn keep_alive_is_the_default_of_1_1_and_a_wish_of_1_0() {
    let keeps = |version: &str, connection: &str| {
        head(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n"))
            .unwrap()
            .unwrap()
            .keep_alive
    };
    assert!(keeps("1.1", "") && keeps("1.0", "x, Keep-Alive"));
    assert!(!keeps("1.1", "CLOSE") && !keeps("1.0", "") && !keeps("1.0", "keep-alive, close"));
}

#[test]
fn connection_names_what_ends_here() {
    let buf = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-A, te\r\nTE: trailers\r\nx-a: 1\r\nX-B: 2\r\nX-A: 3\r\nKeep-Alive: 5\r\n\r\n";
    let mut fields = Fields::new();
    parse(buf, &Limits::default(), &mut fields).unwrap().unwrap();
    let stay: Vec<_> = fields.end_to_end().map(|field| field.name.of(buf)).collect();
    assert_eq!(stay, [&b"Host"[..], b"X-B"]);
    assert_eq!(with("Connection: Host\r\n"), Err(Reject::ConnectionOptions));
    assert_eq!(with("Connection: content-length\r\n"), Err(Reject::ConnectionOptions));
    let many = format!("Connection: {}\r\n", "a,".repeat(CONNECTION_MANY));
    assert_eq!(with(&many), Err(Reject::ConnectionOptions));
    assert!(with("Connection: ,, ,close,\r\n").is_ok());
}

const CONNECTION_MANY: usize = 17;

#[test]
fn only_100_continue_may_be_expected_and_only_with_a_body() {
    let expects = |lines: &str| with(&format!("Expect: {lines}")).map(|head| head.expect_continue);
    assert_eq!(expects("100-Continue\r\nContent-Length: 3\r\n"), Ok(true));
    assert_eq!(expects("100-continue\r\n"), Ok(false));
    assert_eq!(expects("y 100-continue\r\n"), Err(Reject::ExpectationUnknown));
    assert_eq!(
        expects("100-continue\r\nExpect: 100-continue\r\n"),
        Err(Reject::ExpectationUnknown)
    );
    let old = "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert!(!head(old).unwrap().unwrap().expect_continue);
}

#[test]
fn an_upgrade_is_to_what_is_neither_http_nor_tls() {
    let upgrade = |lines: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = head(&text).unwrap().unwrap();
        head.upgrade.map(|span| text[span.range()].to_owned())
    };
    let asked = "Connection: Upgrade\r\nUpgrade: ";
    assert_eq!(upgrade(&format!("{asked}websocket\r\n")).as_deref(), Some("websocket"));
    assert_eq!(upgrade(&format!("{asked}h2c , websocket\r\n")).as_deref(), Some("websocket"));
    assert_eq!(upgrade(&format!("{asked}foo/9\r\n")).as_deref(), Some("foo/9"));
    for own in ["h2c", "HTTP/2.0", "TLS/1.0", "h2c, TLS/1.2,"] {
        assert_eq!(upgrade(&format!("{asked}{own}\r\n")), None, "{own}");
    }
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None);
    assert_eq!(upgrade(&format!("{asked}websocket\r\nContent-Length: 5\r\n")), None);
    let old = "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(head(old).unwrap().unwrap().upgrade, None);
}

#[test]
fn bounds_hold_for_a_head_that_never_ends() {
    let limits =
        Limits { header_bytes_max: 200, headers_max: 4, uri_bytes_max: 20, ..Limits::default() };
    let check = |text: &str| parse(text.as_bytes(), &limits, &mut Fields::new());
    assert_eq!(check(&format!("GET /{}", "a".repeat(19))), Ok(None));
    assert_eq!(check(&format!("GET /{}", "a".repeat(20))), Err(Reject::UriTooLong));
    assert_eq!(check(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(20))), Err(Reject::UriTooLong));
    let start = "GET / HTTP/1.1\r\nHost: a\r\n";
    assert_eq!(check(&format!("{start}X: {}", "a".repeat(200))), Err(Reject::HeaderTooLarge));
    assert_eq!(check(&format!("{start}{}", "a:\r\n".repeat(3))), Ok(None));
    assert!(check(&format!("{start}{}\r\n", "a:\r\n".repeat(3))).unwrap().is_some());
    assert_eq!(check(&format!("{start}{}", "a:\r\n".repeat(4))), Err(Reject::FieldsTooMany));
    // Complete, but larger than allowed.
    assert_eq!(
        check(&format!("{start}X: {}\r\n\r\n", "a".repeat(200))),
        Err(Reject::HeaderTooLarge)
    );
}

#[test]
fn no_number_of_fields_overflows_the_table() {
    let limits = Limits { headers_max: u16::MAX, ..Limits::default() };
    for (count, fits) in [(255, true), (256, false), (10_000, false)] {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(count));
        let head = parse(text.as_bytes(), &limits, &mut Fields::new());
        assert_eq!(head.is_ok(), fits, "{count}");
    }
}

/// Heads out of lines that matter, most of them almost valid.
fn heads() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "Host: a.test\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x-a\r\n",
        "X-A: 1\r\n",
        "X-B:\t \r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: websocket\r\n",
        "X_C: 1\r\n",
        " folded\r\n",
        "X: \r",
        "\n",
        "\r\n",
        "X: \u{e9}\r\n",
    ]);
    let start = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "\r\nPOST /a?b HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://a.test/x HTTP/1.1\r\n",
        "GET / HTTP/2.0\r\n",
    ]);
    (start, prop::collection::vec(line, 0..8))
        .prop_map(|(start, lines)| format!("{start}Host: a.test\r\n{}\r\n", lines.concat()))
}

proptest! {
    /// Whoever parses after each byte finds the same as who parses all at once.
    #[test]
    fn a_head_in_pieces_is_the_same_head(text in heads()) {
        let whole = head(&text);
        let first = (0..=text.len()).find_map(|end| {
            parse(&text.as_bytes()[..end], &Limits::default(), &mut Fields::new()).transpose()
        });
        match (whole, first) {
            (Ok(Some(whole)), Some(Ok(first))) => prop_assert_eq!(whole, first),
            // The order in which faults come to light may differ, not that there is one.
            (Err(_), Some(Err(_))) | (Ok(None), None) => {}
            (whole, first) => prop_assert!(false, "{whole:?} but {first:?} in pieces"),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &Limits::default(), &mut Fields::new());
    }

    #[test]
    fn no_changed_byte_makes_it_panic(text in heads(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut fields = Fields::new();
        if let Ok(Some(head)) = parse(&bytes, &Limits::default(), &mut fields) {
            prop_assert!(head.len <= bytes.len());
            for field in fields.as_slice() {
                prop_assert!(field.value.range().end <= head.len);
            }
        }
    }
}
