//! Lines of the access log: one for each ended session of a TCP listener, and for each request
//! of an HTTP listener. Here are those in JSON, in [`combined`] those in Apache's format.
//!
//! Every field is always there, `null` if unknown; `query` and `headers` if the configuration
//! wants them. Texts that a client chose are escaped, so a line stays one line. Owns no file:
//! `access_log` writes what is made here.

mod combined;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::clock::WallClock;
use super::record::SessionRecord;
use super::requests::{LoggedFields, RequestRecord, RequestText};
use crate::config::plan::{Listener, LogForm, LogLines, Plan};
use crate::registry::Snapshot;
use crate::tls::info::TlsInfo;

/// Names as JSON strings, made once, and the lines made of them.
#[derive(Clone, Debug, Default)]
pub struct LineFormat {
    lines: LogLines,
    listeners: Vec<ListenerNames>,
    /// By the number of the name.
    routes: Vec<String>,
    pools: Vec<Name>,
    servers: Vec<Name>,
    policies: Vec<String>,
    /// What `listeners` says is of this one.
    plan: Option<Arc<Plan>>,
}

#[derive(Clone, Debug)]
struct Name {
    plain: String,
    json: String,
}

impl Name {
    fn of(name: &str) -> Self {
        Self { plain: name.to_owned(), json: json_string(name) }
    }
}

#[derive(Clone, Debug)]
struct ListenerNames {
    name: Name,
    /// Sessions get lines; whether requests do is the worker's to say, route by route.
    logged: bool,
}

impl ListenerNames {
    fn of(listener: &Listener) -> Self {
        Self { name: Name::of(&listener.name), logged: listener.access_log }
    }
}

impl LineFormat {
    /// Takes over names that are new in `snapshot`.
    pub fn update(&mut self, snapshot: &Snapshot) {
        let plan = &snapshot.plan;
        if self.lines != plan.log.lines {
            self.lines = plan.log.lines.clone();
        }
        if !self.plan.as_ref().is_some_and(|known| Arc::ptr_eq(known, plan)) {
            self.listeners = plan.listeners.iter().map(ListenerNames::of).collect();
            self.plan = Some(Arc::clone(plan));
        }
        for name in snapshot.fronts.labels.names().iter().skip(self.routes.len()) {
            self.routes.push(json_string(name));
        }
        for pool in plan.pools.iter().skip(self.pools.len()) {
            self.pools.push(Name::of(&pool.name));
        }
        for policy in plan.policies.iter().skip(self.policies.len()) {
            self.policies.push(json_string(&policy.name));
        }
        for server in snapshot.servers.iter().skip(self.servers.len()) {
            self.servers.push(Name::of(&server.name));
        }
    }

    /// Appends the line of one session, if its listener logs.
    pub fn write(&self, record: &SessionRecord, clock: WallClock, out: &mut String) -> bool {
        let Some(listener) = self.listeners.get(usize::from(record.listener.0)) else {
            return false;
        };
        if !listener.logged {
            return false;
        }
        match self.lines.form {
            LogForm::Json => self.write_session_json(&listener.name.json, record, clock, out),
            LogForm::Combined => {
                combined::session(self, &listener.name.plain, record, clock, out);
            }
        }
        true
    }

    fn write_session_json(
        &self,
        listener: &str,
        record: &SessionRecord,
        clock: WallClock,
        out: &mut String,
    ) {
        out.push_str("{\"ts\":\"");
        clock.write(record.ended_at, out);
        let _ = write!(out, "\",\"listener\":{listener},\"client\":");
        match record.peer.address() {
            Some(address) => drop(write!(out, "\"{address}\"")),
            None => out.push_str("null"),
        }
        out.push_str(",\"sni\":");
        let names = record.names.as_deref();
        text_or_null(names.and_then(|names| names.sni.as_deref()), out);
        out.push_str(",\"pool\":");
        name_or_null(record.pool.and_then(|id| self.pools.get(usize::from(id.0))), out);
        out.push_str(",\"server\":");
        name_or_null(record.server.and_then(|id| self.servers.get(id.0 as usize)), out);
        let _ = write!(out, ",\"reason\":\"{}\",\"connect_ms\":", record.reason.as_str());
        ms_or_null(record.connect, out);
        out.push_str(",\"duration_ms\":");
        write_ms(record.ended_at.since(record.accepted_at), out);
        let _ = write!(
            out,
            ",\"bytes_in\":{},\"bytes_out\":{},\"tls\":",
            record.bytes_in, record.bytes_out
        );
        tls_or_null(names.and_then(|names| names.tls.as_ref()), out);
        let _ = writeln!(out, ",\"retries\":{}}}", record.retries);
    }

    /// Appends the line of one request.
    pub fn write_request(&self, record: &RequestRecord, clock: WallClock, out: &mut String) {
        if self.lines.form == LogForm::Combined {
            return combined::request(record, clock, out);
        }
        let listener = self.listeners.get(usize::from(record.listener.0));
        let route = record.route.and_then(|route| self.routes.get(route as usize));
        out.push_str("{\"ts\":\"");
        clock.write(record.ended_at, out);
        out.push_str("\",\"listener\":");
        name_or_null(listener.map(|listener| &listener.name), out);
        // No route is "", as in the metrics: it is known that there was none.
        let _ = write!(out, ",\"route\":{},\"client\":", route.map_or("\"\"", String::as_str));
        match record.client {
            Some(address) => drop(write!(out, "\"{address}\"")),
            None => out.push_str("null"),
        }
        let text = record.text.as_deref();
        let of = |field: fn(&RequestText) -> &String| {
            text.map(field).map(String::as_str).filter(|text| !text.is_empty())
        };
        out.push_str(",\"method\":");
        text_or_null(of(|text| &text.method), out);
        out.push_str(",\"host\":");
        text_or_null(of(|text| &text.host), out);
        out.push_str(",\"path\":");
        text_or_null(of(|text| &text.path), out);
        if self.lines.query {
            out.push_str(",\"query\":");
            text_or_null(text.and_then(|text| text.query.as_deref()), out);
        }
        out.push_str(",\"status\":");
        match record.status {
            // The client had gone before there was an answer.
            0 => out.push_str("null"),
            status => drop(write!(out, "{status}")),
        }
        let _ = write!(out, ",\"reason\":\"{}\",\"consumer\":", record.reason.as_str());
        let consumer = record.consumer.as_deref().map(|principal| principal.id.as_str());
        text_or_null(consumer.filter(|id| !id.is_empty()), out);
        self.write_upstream(record, out);
        let _ = write!(
            out,
            ",\"bytes_in\":{},\"bytes_out\":{},\"request_id\":",
            record.bytes_in, record.bytes_out
        );
        text_or_null(of(|text| &text.request_id), out);
        let _ = write!(out, ",\"proto\":\"{}\",\"tls\":", record.proto.as_str());
        tls_or_null(text.and_then(|text| text.tls.as_deref()), out);
        self.write_dry_run(record, out);
        if !self.lines.headers.is_empty() {
            out.push_str(",\"headers\":");
            fields_or_null(text.and_then(|text| text.fields.as_ref()), out);
        }
        out.push_str("}\n");
    }

    /// The policies that would have refused a request: as many as its chain has, at most.
    fn write_dry_run(&self, record: &RequestRecord, out: &mut String) {
        out.push_str(",\"dry_run\":");
        if record.dry_run.is_empty() {
            return out.push_str("null");
        }
        let mut before = '[';
        for &policy in &record.dry_run {
            let name = self.policies.get(usize::from(policy)).map_or("null", String::as_str);
            out.push(before);
            out.push_str(name);
            before = ',';
        }
        out.push(']');
    }

    /// Where a request went, and what took how long.
    fn write_upstream(&self, record: &RequestRecord, out: &mut String) {
        out.push_str(",\"pool\":");
        name_or_null(record.pool.and_then(|id| self.pools.get(usize::from(id.0))), out);
        out.push_str(",\"server\":");
        name_or_null(record.server.and_then(|id| self.servers.get(id.0 as usize)), out);
        let _ = write!(out, ",\"attempts\":{},\"duration_ms\":", record.attempts);
        write_ms(record.ended_at.since(record.started_at), out);
        out.push_str(",\"upstream_ms\":");
        ms_or_null(record.upstream, out);
        out.push_str(",\"policy_us\":");
        match record.policies {
            Some(took) => drop(write!(out, "{}", took.as_micros())),
            None => out.push_str("null"),
        }
    }
}

fn name_or_null(name: Option<&Name>, out: &mut String) {
    out.push_str(name.map_or("null", |name| &name.json));
}

fn fields_or_null(fields: Option<&LoggedFields>, out: &mut String) {
    let Some(fields) = fields else { return out.push_str("null") };
    out.push('{');
    for (at, name) in fields.names.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        write_json(name, out);
        out.push(':');
        text_or_null(fields.value(at), out);
    }
    out.push('}');
}

fn text_or_null(text: Option<&str>, out: &mut String) {
    match text {
        Some(text) => write_json(text, out),
        None => out.push_str("null"),
    }
}

fn tls_or_null(tls: Option<&TlsInfo>, out: &mut String) {
    let Some(tls) = tls else { return out.push_str("null") };
    let _ =
        write!(out, "{{\"version\":\"{}\",\"cipher\":\"{}\",\"alpn\":", tls.version, tls.cipher);
    text_or_null(tls.alpn.as_deref(), out);
    out.push_str(",\"client\":");
    text_or_null(tls.client.as_ref().map(|client| client.name.as_str()), out);
    out.push('}');
}

fn ms_or_null(span: Option<Duration>, out: &mut String) {
    match span {
        Some(span) => write_ms(span, out),
        None => out.push_str("null"),
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON string. Almost all texts have nothing to escape.
fn write_json(text: &str, out: &mut String) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&json_string(text));
    }
}

/// Milliseconds with three decimals, without going through a float.
fn write_ms(span: Duration, out: &mut String) {
    let us = span.as_micros();
    let _ = write!(out, "{}.{:03}", us / 1_000, us % 1_000);
}

#[cfg(test)]
pub(super) mod tests;
