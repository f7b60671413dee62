//! What a line of the access log tells of a request in its client's words.
//!
//! It is copied while the head is there; the line is made by the log's own thread, later.

use sluicegate_l7::http1::host::HOST_BYTES_MAX;
use sluicegate_l7::http1::{Lines, RequestHead};
use sluicegate_l7::route::Fields as _;

use super::errand::path_of;
use super::session::Peers;
use super::site::Site;
use crate::observe::requests::{LoggedFields, RequestText};

/// No method that is in use is longer.
const METHOD_BYTES_MAX: usize = 32;

const HOST: &[u8] = b"host:";

/// The text of one request; `None`: no request of the listener is logged. Of a head that could
/// not be read it is what the request seems to have been.
pub(super) fn of(
    site: &Site,
    peers: &Peers,
    head: Option<&RequestHead>,
    lines: &Lines<'_>,
    id: &[u8],
) -> Option<Box<RequestText>> {
    if !site.logs {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut told = RequestText {
        request_id: text(id),
        tls: peers.tls.clone(),
        fields: (!site.log_fields.is_empty())
            .then(|| LoggedFields { names: site.log_fields.clone(), values: Vec::new() }),
        ..RequestText::default()
    };
    let Some(head) = head else {
        guess(lines.bytes, site.limits.uri_bytes_max as usize, &mut told);
        return Some(Box::new(told));
    };
    let target = head.target.of(lines.bytes);
    told.method = text(head.method_name.of(lines.bytes));
    told.host = head.host.map(|host| text(host.of(lines.bytes))).unwrap_or_default();
    told.path = path_of(target);
    if site.log_query {
        told.query = target.iter().position(|&byte| byte == b'?').map(|at| text(&target[at + 1..]));
    }
    if let Some(fields) = &mut told.fields {
        fields.values = fields.names.iter().map(|name| value(lines, name)).collect();
    }
    Some(Box::new(told))
}

/// What a head says that no meaning could be made of: an operator wants to know whose it is.
fn guess(bytes: &[u8], path_bytes_max: usize, told: &mut RequestText) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let mut words = lines.next().unwrap_or_default().split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let is_word = method.iter().all(u8::is_ascii_alphabetic) && !method.is_empty();
    if !is_word || method.len() > METHOD_BYTES_MAX {
        return;
    }
    told.method = text(method);
    told.path = path_of(&target[..target.len().min(path_bytes_max)]);
    let host = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(HOST.len())?;
        name.eq_ignore_ascii_case(HOST).then_some(value.trim_ascii())
    });
    told.host = host.filter(|host| host.len() <= HOST_BYTES_MAX).map(text).unwrap_or_default();
}

/// The lines of a field as one (RFC 9110 §5.3).
fn value(lines: &Lines<'_>, name: &str) -> Option<String> {
    let mut value = String::from_utf8_lossy(lines.line(name, 0)?).into_owned();
    for line in (1..).map_while(|nth| lines.line(name, nth)) {
        value.push_str(", ");
        value.push_str(&String::from_utf8_lossy(line));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(head: &str) -> [String; 3] {
        let mut told = RequestText::default();
        guess(head.as_bytes(), 8, &mut told);
        [told.method, told.host, told.path]
    }

    #[test]
    fn a_head_without_meaning_is_told_as_far_as_it_looks_like_one() {
        let trace = "TRACE /a?b HTTP/1.1\r\nX: y\r\nHOST:  a.test \r\n\r\n";
        assert_eq!(guessed(trace), ["TRACE", "a.test", "/a"]);
        assert_eq!(guessed("GET /12345678 HTTP/1.1\r\n\r\n"), ["GET", "", "/1234567"]);
        for nothing in ["", "GARBAGE\r\n\r\n", "GET /cut", "\0\u{1}\u{2} / HTTP/1.1\r\n"] {
            assert_eq!(guessed(nothing), ["", "", ""], "{nothing:?}");
        }
    }
}
