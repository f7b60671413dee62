//! What a line of the access log tells of a request in its client's words.
//!
//! It is copied while the head is there; the line is made by the log's own thread, later.

use sluicegate_l7::http1::{Lines, RequestHead};
use sluicegate_l7::route::Fields as _;

use super::errand::path_of;
use super::session::Peers;
use super::site::Site;
use crate::observe::requests::{LoggedFields, RequestText};

/// The text of one request; `None`: no request of the listener is logged. Without a head that
/// could be read there is nothing to tell.
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
    let Some(head) = head else { return Some(Box::new(told)) };
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

/// The lines of a field as one (RFC 9110 §5.3).
fn value(lines: &Lines<'_>, name: &str) -> Option<String> {
    let mut value = String::from_utf8_lossy(lines.line(name, 0)?).into_owned();
    for line in (1..).map_while(|nth| lines.line(name, nth)) {
        value.push_str(", ");
        value.push_str(&String::from_utf8_lossy(line));
    }
    Some(value)
}
