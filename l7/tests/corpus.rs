//! The recorded bad messages of `tests/corpus/`, as far as parsing alone decides about them.
//!
//! A line is `{id, intent, bytes, expect}` or `{id, pending}`. `bytes` is a text in which one
//! character is one byte, or a list of such texts with how often each comes. `expect` is what a
//! session would make of the bytes, one text for each message; see [`Request`] and [`answer`].
//! `fields` are the names that the first message would be forwarded with.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use sluicegate_l7::http1::{Asked, Body, Fields, Limits, Reject, RequestHead, request, response};
use sluicegate_l7::path;

/// Longer bodies are shown as a number of bytes.
const BODY_SHOWN_MAX: usize = 64;

#[test]
fn every_bad_request_is_refused_or_read_in_one_way() {
    check("http1.jsonl", |bytes| {
        let (mut outcomes, mut names) = (Vec::new(), None);
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut fields = Fields::new();
            let (outcome, len) = match Request::read(rest, &mut fields) {
                Ok(Some(request)) => (request.text, request.len),
                Ok(None) => ("incomplete".to_owned(), rest.len()),
                Err(reject) => (format!("refused {} {reject:?}", reject.status()), rest.len()),
            };
            names.get_or_insert_with(|| forwarded(rest, &fields));
            outcomes.push(outcome);
            rest = &rest[len..];
        }
        (Value::from(outcomes), names.unwrap_or_default())
    });
}

#[test]
fn every_bad_answer_is_refused_or_read_in_one_way() {
    check("upstream.jsonl", |bytes| {
        let mut fields = Fields::new();
        (Value::from(answer(bytes, &mut fields)), forwarded(bytes, &fields))
    });
}

/// How many bytes come at once must not matter.
#[test]
fn bad_requests_are_refused_in_pieces_too() {
    for case in cases("http1.jsonl") {
        let (Some(bytes), Some(expect)) = (bytes_of(&case), case["expect"][0].as_str()) else {
            continue;
        };
        // Where the head is refused, some beginning of it is, and none is taken for a request.
        let mut fields = Fields::new();
        let whole = request::parse(&bytes, &Limits::default(), &mut fields);
        let step = 1 + bytes.len() / 1000;
        let first = (0..=bytes.len()).step_by(step).chain([bytes.len()]).find_map(|end| {
            request::parse(&bytes[..end], &Limits::default(), &mut fields).transpose()
        });
        let first = first.expect("complete or refused");
        assert_eq!(first.is_err(), whole.is_err(), "{} {expect}", case["id"]);
    }
}

/// One request, in the words of `expect`:
/// `METHOD host path[ matching=path][ query=q][ upgrade=p][ body=b][ unfinished]`.
struct Request {
    text: String,
    len: usize,
}

impl Request {
    fn read(buf: &[u8], fields: &mut Fields) -> Result<Option<Self>, Reject> {
        let limits = Limits::default();
        let Some(head) = request::parse(buf, &limits, fields)? else { return Ok(None) };
        let mut text = first_line(buf, &head, &limits)?;
        let mut body = Body::new(head.framing, &limits);
        let (len, payload) = drain(&mut body, &buf[head.len..])?;
        show_body(&mut text, &payload, &body);
        Ok(Some(Self { text, len: head.len + len }))
    }
}

fn first_line(buf: &[u8], head: &RequestHead, limits: &Limits) -> Result<String, Reject> {
    let host = head.host.map_or_else(|| "-".into(), |host| latin1(host.of(buf)));
    let mut text = format!("{} {host}", latin1(head.method_name.of(buf)));
    let mut out = Vec::new();
    let target = head.target.of(buf);
    if head.asterisk {
        text.push_str(" *");
    } else {
        let normal = path::normalise(target, &mut out, limits)?;
        let forward = latin1(normal.forward(target, &out));
        let matching = latin1(normal.matching(target, &out));
        write!(text, " {forward}").unwrap();
        if matching != forward {
            write!(text, " matching={matching}").unwrap();
        }
        if let Some(query) = normal.query(target) {
            write!(text, " query={}", latin1(query)).unwrap();
        }
    }
    if let Some(protocol) = head.upgrade {
        write!(text, " upgrade={}", latin1(protocol.of(buf))).unwrap();
    }
    Ok(text)
}

/// One answer to a GET, in the words of `expect`: `refused Why`, or the status and the body, or
/// the status and why the body is refused.
fn answer(buf: &[u8], fields: &mut Fields) -> String {
    let limits = Limits::default();
    let head = match response::parse(buf, &limits, Asked::default(), fields) {
        Ok(Some(head)) => head,
        Ok(None) => return "incomplete".to_owned(),
        Err(reject) => return format!("refused {reject:?}"),
    };
    let mut text = head.status.to_string();
    let mut body = Body::new(head.framing, &limits);
    match drain(&mut body, &buf[head.len..]) {
        Ok((_, payload)) => show_body(&mut text, &payload, &body),
        Err(reject) => write!(text, " refused {reject:?}").unwrap(),
    }
    text
}

fn drain(body: &mut Body, input: &[u8]) -> Result<(usize, Vec<u8>), Reject> {
    let mut at = 0;
    let mut payload = Vec::new();
    loop {
        let piece = body.next(&input[at..])?;
        payload.extend_from_slice(&input[at..][piece.payload]);
        at += piece.consumed;
        if piece.end || at == input.len() {
            return Ok((at, payload));
        }
    }
}

fn show_body(text: &mut String, payload: &[u8], body: &Body) {
    if payload.len() > BODY_SHOWN_MAX {
        write!(text, " body={} bytes", payload.len()).unwrap();
    } else if !payload.is_empty() {
        write!(text, " body={}", latin1(payload)).unwrap();
    }
    if body.close().is_err() {
        text.push_str(" unfinished");
    }
    assert!(body.trailers().is_empty(), "no case has trailers that go on");
}

fn forwarded(buf: &[u8], fields: &Fields) -> Vec<String> {
    fields.end_to_end().map(|field| latin1(field.name.of(buf))).collect()
}

/// Runs all cases of a file and reports all that differ.
fn check(file: &str, run: impl Fn(&[u8]) -> (Value, Vec<String>)) {
    let mut wrong = String::new();
    let mut judged = 0;
    for case in cases(file) {
        let Some(bytes) = bytes_of(&case) else {
            assert!(case["pending"].is_string(), "neither bytes nor pending: {case}");
            continue;
        };
        judged += 1;
        let (found, names) = run(&bytes);
        if found != case["expect"] {
            writeln!(wrong, "{}: {found}\n  not {}", case["id"], case["expect"]).unwrap();
        }
        if let Some(fields) =
            case.get("fields").filter(|fields| **fields != Value::from(names.clone()))
        {
            writeln!(wrong, "{}: forwarded with {names:?}\n  not {fields}", case["id"]).unwrap();
        }
    }
    assert!(judged > 0, "no case in {file}");
    assert!(wrong.is_empty(), "{wrong}");
}

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus").join(file);
    let text = std::fs::read_to_string(&path).expect("a corpus file");
    text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

fn bytes_of(case: &Value) -> Option<Vec<u8>> {
    let bytes = |text: &Value| -> Vec<u8> {
        let text = text.as_str().expect("text");
        text.chars().map(|char| u8::try_from(char).expect("one byte a character")).collect()
    };
    match case.get("bytes")? {
        Value::Array(parts) => Some(
            parts
                .iter()
                .flat_map(|part| {
                    bytes(&part[0]).repeat(part[1].as_u64().expect("a count") as usize)
                })
                .collect(),
        ),
        text => Some(bytes(text)),
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
