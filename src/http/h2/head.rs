//! Heads between HTTP/2 and HTTP/1's form, both ways, for requests and answers.
//!
//! Requests of clients and answers of servers are written out and then parsed like any others
//! that come in HTTP/1: one set of strict rules decides about both. The opposite direction reads
//! heads that this gateway has written itself and whose parts were checked before.

use std::io::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use sluicegate_l7::text;

/// How a body goes in HTTP/1's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// There is none.
    Nothing,
    /// As it comes: its length was told.
    Plain,
    Chunked,
}

/// What may not be in a message: RFC 9113 §8.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends a client's request head.
///
/// # Errors
/// A value with white space around it, which HTTP/1 would lose (RFC 9113 §8.2.1), or a field
/// that exists in HTTP/1 only (§8.2.2).
pub fn write_request<B>(
    request: &Request<B>,
    ends: bool,
    out: &mut Vec<u8>,
) -> Result<Form, Malformed> {
    let (uri, fields) = (request.uri(), request.headers());
    push(out, &[request.method().as_str().as_bytes(), b" "]);
    match uri.path_and_query() {
        Some(target) => out.extend_from_slice(target.as_str().as_bytes()),
        // CONNECT, to be refused.
        None => out.extend_from_slice(uri.authority().map_or("/", |host| host.as_str()).as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_hosts(uri, fields, out);
    let form = form_of(fields, ends);
    write_fields(fields, form, out)?;
    if form == Form::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(form)
}

/// `:authority` is the Host (RFC 9113 §8.3.1). Another Host beside it becomes a second line,
/// which no request may have.
fn write_hosts(uri: &Uri, fields: &HeaderMap, out: &mut Vec<u8>) {
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        push(out, &[b"Host: ", authority, b"\r\n"]);
    }
    for host in fields.get_all(header::HOST) {
        if !authority.is_some_and(|own| own.eq_ignore_ascii_case(host.as_bytes())) {
            push(out, &[b"Host: ", host.as_bytes(), b"\r\n"]);
        }
    }
}

/// Trailers have no place behind a body of known length in HTTP/1, so where they may come the
/// length is left out; `h2` has the body keep to it anyway.
fn form_of(fields: &HeaderMap, ends: bool) -> Form {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) if ends => Form::Nothing,
        (None, None) => Form::Chunked,
        (Some(_), None) if !ends && has_trailers(fields) => Form::Chunked,
        _ => Form::Plain,
    }
}

fn has_trailers(fields: &HeaderMap) -> bool {
    fields.contains_key(header::TRAILER) || is_grpc(fields)
}

fn is_grpc(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|kind| text::is_grpc(kind.as_bytes()))
}

fn write_fields(fields: &HeaderMap, form: Form, out: &mut Vec<u8>) -> Result<(), Malformed> {
    for (name, value) in fields {
        let value = value.as_bytes();
        if value.trim_ascii().len() != value.len() {
            return Err(Malformed);
        }
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => {
                return Err(Malformed);
            }
            header::HOST | header::COOKIE => continue,
            header::CONTENT_LENGTH if form == Form::Chunked => continue,
            _ => {}
        }
        push(out, &[name.as_str().as_bytes(), b": ", value, b"\r\n"]);
    }
    // RFC 9113 §8.2.3: crumbs are one line in HTTP/1.
    let mut between: &[u8] = b"cookie: ";
    for crumb in fields.get_all(header::COOKIE) {
        push(out, &[between, crumb.as_bytes()]);
        between = b"; ";
    }
    if between == b"; " {
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

/// Appends a server's answer head.
///
/// # Errors
/// As [`write_request`].
pub fn write_answer<B>(
    answer: &Response<B>,
    ends: bool,
    is_head: bool,
    out: &mut Vec<u8>,
) -> Result<Form, Malformed> {
    let status = answer.status().as_u16();
    // A Vec takes every write.
    let _ = write!(out, "HTTP/1.1 {status} \r\n");
    let bodiless = is_head || matches!(status, 100..=199 | 204 | 304);
    let form = if bodiless { Form::Nothing } else { form_of(answer.headers(), ends) };
    write_fields(answer.headers(), form, out)?;
    match form {
        Form::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Form::Nothing if !bodiless => out.extend_from_slice(b"Content-Length: 0\r\n"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(form)
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// How a body that follows one of our own heads is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    Length(u64),
    Chunked,
    /// Nothing was said.
    Not,
}

/// One of our own heads, taken apart.
struct Own {
    fields: HeaderMap,
    framed: Framed,
    host: Option<HeaderValue>,
    len: usize,
}

/// Fields for which a map has room at once, so that it need not grow for nearly every head.
const FIELDS_USUAL: usize = 24;

/// The first line of a head, and the rest; `None` if it is not one of ours.
fn own(bytes: &[u8]) -> Option<(&[u8], Own)> {
    let (first, section) = bytes.split_at(Lines(bytes).next()?.len() + 2);
    let section = &section[..section_len(section)?];
    let fields = HeaderMap::with_capacity(FIELDS_USUAL);
    let len = first.len() + section.len();
    let mut own = Own { fields, framed: Framed::Not, host: None, len };
    // One copy for all values.
    let section = Bytes::copy_from_slice(section);
    for line in Lines(&section).take_while(|line| !line.is_empty()) {
        let (name, value) = field(line, &section)?;
        match name {
            header::CONTENT_LENGTH => {
                own.framed = Framed::Length(value.to_str().ok()?.parse().ok()?);
                own.fields.insert(name, value);
            }
            header::TRANSFER_ENCODING => own.framed = Framed::Chunked,
            header::HOST => own.host = Some(value),
            header::CONNECTION | header::UPGRADE => {}
            _ => drop(own.fields.try_append(name, value).ok()?),
        }
    }
    Some((first, own))
}

/// The length of a section of fields, with the empty line that ends it.
fn section_len(bytes: &[u8]) -> Option<usize> {
    let mut lines = Lines(bytes);
    while !lines.next()?.is_empty() {}
    Some(bytes.len() - lines.0.len())
}

/// A line of `section`, whose memory its value shares.
fn field(line: &[u8], section: &Bytes) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    let value = section.slice_ref(line[colon + 1..].trim_ascii());
    Some((name, HeaderValue::from_maybe_shared(value).ok()?))
}

struct Lines<'b>(&'b [u8]);

impl<'b> Iterator for Lines<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|&byte| byte == b'\r')?;
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..)?;
        Some(line)
    }
}

/// The answer at the beginning of `bytes`, how its body is framed, and the length of its head.
pub fn read_answer(bytes: &[u8]) -> Option<(Response<()>, Framed, usize)> {
    let (first, own) = own(bytes)?;
    let status = StatusCode::from_bytes(first.get(9..12)?).ok()?;
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    *answer.headers_mut() = own.fields;
    *answer.version_mut() = http::Version::HTTP_2;
    Some((answer, own.framed, own.len))
}

/// A target without what RFC 3986 has no place for, and `http` neither: HTTP/1 passes it on.
fn escaped(target: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(target.len());
    for &byte in target {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(byte);
        } else {
            // A Vec takes every write.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The request at the beginning of `bytes`, how its body is framed, and the length of its head;
/// `None` if HTTP/2 has no form for it.
pub fn read_request(bytes: &[u8], scheme: &'static str) -> Option<(Request<()>, Framed, usize)> {
    let (first, own) = own(bytes)?;
    let mut words = first.split(|&byte| byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    // One of HTTP/1.0 may have none.
    let host = own.host.filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| HeaderValue::from_static("localhost"));
    let uri = |target: &[u8]| {
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes());
        uri.path_and_query(target).build()
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = uri(target).or_else(|_| uri(&escaped(target))).ok()?;
    *request.headers_mut() = own.fields;
    *request.version_mut() = http::Version::HTTP_2;
    if is_grpc(request.headers()) {
        // Servers of gRPC insist on it; the client's own ended at this hop.
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Some((request, own.framed, own.len))
}

/// Trailer lines, each with its CRLF.
pub fn read_trailers(bytes: &[u8]) -> Option<HeaderMap> {
    let (mut fields, section) = (HeaderMap::new(), Bytes::copy_from_slice(bytes));
    for line in Lines(&section).take_while(|line| !line.is_empty()) {
        let (name, value) = field(line, &section)?;
        fields.try_append(name, value).ok()?;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri_of(head: &str) -> Option<String> {
        let (request, ..) = read_request(head.as_bytes(), "http")?;
        Some(request.uri().to_string())
    }

    #[test]
    fn what_has_no_place_in_a_target_goes_on_escaped() {
        let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(uri_of(&head("/a?q=%20{1}")).as_deref(), Some("http://a/a?q=%20{1}"));
        let wanted = "http://a/%60a%3Cb%3E?q=%22x%22";
        assert_eq!(uri_of(&head("/`a<b>?q=\"x\"")).as_deref(), Some(wanted));
        assert_eq!(uri_of(&head(&format!("/{}", "a".repeat(1 << 16)))), None);
    }

    #[test]
    fn a_request_without_a_host_asks_for_this_one() {
        let head = "GET /a HTTP/1.1\r\nHost: \r\n\r\n";
        assert_eq!(uri_of(head).as_deref(), Some("http://localhost/a"));
    }
}
