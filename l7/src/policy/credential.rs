//! Where a request has its credential, and what stands there.
//!
//! A credential that is there twice is none that one could trust: two parsers would take two of
//! them.

use crate::route::Fields;

/// Where a token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFrom {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    Bearer,
    Header(String),
    Cookie(String),
}

/// Where an API key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    Header(String),
    Query(String),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// No credential of this kind is there.
    Absent,
    /// More than one, or one that cannot be read.
    Malformed,
    Here(T),
}

impl<T> Found<T> {
    /// What `read` makes of it.
    pub fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Found<U> {
        match self {
            Self::Absent => Found::Absent,
            Self::Malformed => Found::Malformed,
            Self::Here(value) => read(value).map_or(Found::Malformed, Found::Here),
        }
    }
}

/// The one line of that name.
fn one_line<'f>(fields: &'f dyn Fields, name: &str) -> Found<&'f [u8]> {
    match (fields.line(name, 0), fields.line(name, 1)) {
        (None, _) => Found::Absent,
        (Some(line), None) => Found::Here(line),
        (Some(_), Some(_)) => Found::Malformed,
    }
}

/// What follows a scheme in `Authorization`. Another scheme is no credential of this kind.
fn authorization<'f>(fields: &'f dyn Fields, scheme: &str) -> Found<&'f [u8]> {
    let line = match one_line(fields, "authorization") {
        Found::Here(line) => line,
        Found::Absent => return Found::Absent,
        Found::Malformed => return Found::Malformed,
    };
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (found, rest) = line.split_at(end);
    if !found.eq_ignore_ascii_case(scheme.as_bytes()) {
        return Found::Absent;
    }
    let token = rest.trim_ascii_start();
    if token.is_empty() || token.contains(&b' ') { Found::Malformed } else { Found::Here(token) }
}

/// The token of a request.
pub fn token<'f>(fields: &'f dyn Fields, from: &TokenFrom) -> Found<&'f [u8]> {
    match from {
        TokenFrom::Bearer => authorization(fields, "bearer"),
        TokenFrom::Header(name) => one_line(fields, name),
        TokenFrom::Cookie(name) => cookie(fields, name),
    }
}

/// The API key of a request; `query` is what stands behind the `?`.
pub fn key<'f>(fields: &'f dyn Fields, query: &'f str, from: &KeyFrom) -> Found<Vec<u8>> {
    match from {
        KeyFrom::Header(name) => {
            one_line(fields, name).and_then(|line| (!line.is_empty()).then(|| line.to_vec()))
        }
        KeyFrom::Query(name) => {
            let mut found = Found::Absent;
            for pair in query.split('&') {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                if decoded(key).as_deref() != Some(name.as_bytes()) {
                    continue;
                }
                found = match (found, decoded(value)) {
                    (Found::Absent, Some(value)) if !value.is_empty() => Found::Here(value),
                    _ => return Found::Malformed,
                };
            }
            found
        }
    }
}

/// Name and password (RFC 7617 §2).
pub fn basic(fields: &dyn Fields) -> Found<(String, Vec<u8>)> {
    use base64::Engine as _;
    authorization(fields, "basic").and_then(|encoded| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        let colon = bytes.iter().position(|&byte| byte == b':')?;
        let name = std::str::from_utf8(&bytes[..colon]).ok()?;
        let clean = !bytes.iter().any(u8::is_ascii_control);
        clean.then(|| (name.to_owned(), bytes[colon + 1..].to_vec()))
    })
}

fn cookie<'f>(fields: &'f dyn Fields, name: &str) -> Found<&'f [u8]> {
    let mut found = Found::Absent;
    for line in crate::route::lines(fields, "cookie") {
        for pair in line.split(|&byte| byte == b';') {
            let pair = pair.trim_ascii();
            let Some(at) = pair.iter().position(|&byte| byte == b'=') else { continue };
            if &pair[..at] != name.as_bytes() {
                continue;
            }
            if found != Found::Absent {
                return Found::Malformed;
            }
            found = Found::Here(&pair[at + 1..]);
        }
    }
    found
}

/// A part of a query without its escapes.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut nibble = || char::from(bytes.next()?).to_digit(16);
                (nibble()? << 4 | nibble()?) as u8
            }
            byte => byte,
        });
    }
    Some(out)
}

/// Appends the query without the parameters of that name.
pub fn write_query_without(query: &str, name: &str, out: &mut Vec<u8>) {
    let mut first = true;
    for pair in query.split('&') {
        let key = pair.split('=').next().unwrap_or(pair);
        if decoded(key).as_deref() == Some(name.as_bytes()) {
            continue;
        }
        if !first {
            out.push(b'&');
        }
        first = false;
        out.extend_from_slice(pair.as_bytes());
    }
}

/// Appends a line of cookies without those that `hidden` names; nothing if none is left.
pub fn write_cookies_without(line: &[u8], hidden: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
    let mut first = true;
    for pair in line.split(|&byte| byte == b';').map(<[u8]>::trim_ascii) {
        // Servers cut spaces that we do not: what one of them could read as the name is it.
        let name = pair.split(|&byte| byte == b'=').next().unwrap_or(pair).trim_ascii_end();
        if pair.is_empty() || hidden(name) {
            continue;
        }
        if !first {
            out.extend_from_slice(b"; ");
        }
        first = false;
        out.extend_from_slice(pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::NoFields;

    #[test]
    fn a_bearer_token_stands_alone_behind_its_scheme() {
        let found = |value| {
            token(&[("authorization", value)], &TokenFrom::Bearer)
                .and_then(|token| Some(String::from_utf8_lossy(token).into_owned()))
        };
        assert_eq!(found("Bearer abc"), Found::Here("abc".to_owned()));
        assert_eq!(found("bearer  abc"), Found::Here("abc".to_owned()));
        assert_eq!(found("Bearer"), Found::Malformed);
        assert_eq!(found("Bearer a b"), Found::Malformed);
        assert_eq!(found("Basic abc"), Found::Absent);
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(token(&twice, &TokenFrom::Bearer), Found::Malformed);
    }

    #[test]
    fn a_key_in_the_query_is_found_whatever_way_it_is_escaped_and_only_once() {
        let none = NoFields;
        let found = |query| key(&none, query, &KeyFrom::Query("api key".to_owned()));
        assert_eq!(found("a=b&api+key=k%2D1"), Found::Here(b"k-1".to_vec()));
        assert_eq!(found("a=b"), Found::Absent);
        assert_eq!(found("api%20key=1&api+key=2"), Found::Malformed);
        assert_eq!(found("api+key="), Found::Malformed);
        let mut out = Vec::new();
        write_query_without("a=b&api%20key=1&c", "api key", &mut out);
        assert_eq!(out, b"a=b&c");
    }

    #[test]
    fn a_password_may_have_colons_and_a_name_may_not() {
        let found = |value| basic(&[("authorization", value)]);
        // QWxhZGRpbjpvcGVuOnNlc2FtZQ== is "Aladdin:open:sesame".
        let good = Found::Here(("Aladdin".to_owned(), b"open:sesame".to_vec()));
        assert_eq!(found("Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ=="), good);
        assert_eq!(found("Basic QWxhZGRpbg=="), Found::Malformed);
        assert_eq!(found("Basic ?"), Found::Malformed);
    }

    #[test]
    fn a_cookie_that_is_there_twice_is_none() {
        let from = TokenFrom::Cookie("t".to_owned());
        let found =
            |value| token(&[("cookie", value)], &from).and_then(|token| Some(token.to_vec()));
        assert_eq!(found("a=b; t=x"), Found::Here(b"x".to_vec()));
        assert_eq!(found("t=x; t=y"), Found::Malformed);
        assert_eq!(found("T=x"), Found::Absent);
    }

    #[test]
    fn one_cookie_is_cut_out_of_its_line_and_its_neighbours_stay() {
        let left = |line: &str| {
            let mut out = Vec::new();
            write_cookies_without(line.as_bytes(), |name| name == b"t", &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(left("a=1; t=secret; b=2"), "a=1; b=2");
        assert_eq!(left("t=secret"), "");
        assert_eq!(left(" t =secret;t=again;"), "");
        assert_eq!(left("tt=1; T=2; a=t; x=t=1"), "tt=1; T=2; a=t; x=t=1");
    }
}
