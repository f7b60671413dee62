//! Lines in Apache's combined format, for tools that read nothing else:
//!
//! ```text
//! client - user [26/Nov/2026:15:04:05 +0000] "GET /path HTTP/1.1" 200 bytes "referer" "agent"
//! ```
//!
//! A TCP session has a line of the same shape: what it was instead of a request line, the reason
//! in the place of the status, the server name in that of Referer, and the rest in the last text.
//! Quoted texts are escaped as Apache does it, so a line stays one line and a text one text.

use std::fmt::Write as _;

use super::{LineFormat, write_ms};
use crate::observe::clock::WallClock;
use crate::observe::record::SessionRecord;
use crate::observe::requests::{Proto, RequestRecord};
use crate::runtime::time::Time;

/// What a client that had gone before its answer got; as in the metrics.
const GONE: u16 = 499;

pub(super) fn session(
    format: &LineFormat,
    listener: &str,
    record: &SessionRecord,
    clock: WallClock,
    out: &mut String,
) {
    let names = record.names.as_deref();
    let user = names.and_then(|names| names.tls.as_ref()?.client.as_ref());
    let client = record.peer.ip().map(|ip| ip.to_string());
    begin(client.as_deref(), user.map(|user| user.name.as_str()), record.ended_at, clock, out);
    out.push_str("\"TCP ");
    escape(listener, out);
    out.push(' ');
    let pool = record.pool.and_then(|id| format.pools.get(usize::from(id.0)));
    let server = record.server.and_then(|id| format.servers.get(id.0 as usize));
    escape(pool.map_or("-", |name| &name.plain), out);
    out.push('/');
    escape(server.map_or("-", |name| &name.plain), out);
    let _ = write!(out, "\" {} ", record.reason.as_str());
    count(record.bytes_out, out);
    out.push(' ');
    quoted(names.and_then(|names| names.sni.as_deref()), out);
    let _ = write!(out, " \"in={} connect_ms=", record.bytes_in);
    match record.connect {
        Some(took) => write_ms(took, out),
        None => out.push('-'),
    }
    out.push_str(" duration_ms=");
    write_ms(record.ended_at.since(record.accepted_at), out);
    let _ = writeln!(out, " retries={}\"", record.retries);
}

pub(super) fn request(record: &RequestRecord, clock: WallClock, out: &mut String) {
    let user = record.consumer.as_deref().map(|principal| principal.id.as_str());
    let client = record.client.map(|ip| ip.to_string());
    begin(client.as_deref(), user, record.ended_at, clock, out);
    let text = record.text.as_deref().filter(|text| !text.method.is_empty());
    match text {
        None => out.push_str("\"-\""),
        Some(text) => {
            out.push('"');
            escape(&text.method, out);
            out.push(' ');
            escape(&text.path, out);
            if let Some(query) = &text.query {
                out.push('?');
                escape(query, out);
            }
            let _ = write!(out, " {}\"", proto(record.proto));
        }
    }
    let status = if record.status == 0 { GONE } else { record.status };
    let _ = write!(out, " {status} ");
    count(record.bytes_out, out);
    for name in ["Referer", "User-Agent"] {
        let fields = text.and_then(|text| text.fields.as_ref());
        let at = fields.and_then(|fields| fields.names.iter().position(|own| own == name));
        out.push(' ');
        quoted(fields.zip(at).and_then(|(fields, at)| fields.value(at)), out);
    }
    out.push('\n');
}

/// As Apache writes `%H`.
const fn proto(proto: Proto) -> &'static str {
    match proto {
        Proto::Http2 => "HTTP/2.0",
        other => other.as_str(),
    }
}

fn begin(client: Option<&str>, user: Option<&str>, at: Time, clock: WallClock, out: &mut String) {
    out.push_str(client.unwrap_or("-"));
    out.push_str(" - ");
    match user.filter(|user| !user.is_empty()) {
        // A space would shift all that follows.
        Some(user) => user.split(' ').enumerate().for_each(|(n, part)| {
            out.push_str(if n == 0 { "" } else { "\\x20" });
            escape(part, out);
        }),
        None => out.push('-'),
    }
    out.push_str(" [");
    clock.write_apache(at, out);
    out.push_str("] ");
}

fn count(bytes: u64, out: &mut String) {
    if bytes == 0 {
        out.push('-');
    } else {
        let _ = write!(out, "{bytes}");
    }
}

fn quoted(text: Option<&str>, out: &mut String) {
    out.push('"');
    match text.filter(|text| !text.is_empty()) {
        Some(text) => escape(text, out),
        None => out.push('-'),
    }
    out.push('"');
}

/// Appends what stands between quotes.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            other => drop(write!(out, "\\x{other:02x}")),
        }
    }
}
