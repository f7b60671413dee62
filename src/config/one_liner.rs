//! `run --listen ADDR --to ADDR`: a plan without a file, by the same checks.
//!
//! The arguments become a small text with one option a line, and a tree that points into it, so
//! that errors name the option and stand under the argument that is wrong.

use std::path::Path;

use super::include::Reading;
use super::source::{Place, SourceFile};
use super::tree::{Entry, Node, Table, Value};
use super::{Loaded, Report, check};

/// The name of the listener and of the pool.
const NAME: &str = "main";

/// Builds the plan: one listener on all of `listen`, one pool of all of `to`.
///
/// # Errors
/// The report, as [`load`](super::load) gives it, with `command line` in the place of the file.
pub fn one_liner(
    listen: &[String],
    to: &[String],
    mode: Option<&str>,
    balance: Option<&str>,
) -> Result<Loaded, Report> {
    let mut text = Text { text: String::new(), file: Place::top(super::source::FileId(0)) };
    let mut listener = Table::default();
    let binds = listen.iter().map(|value| text.option("listen", value)).collect::<Vec<_>>();
    if let Some(first) = binds.first().map(|node| node.place) {
        text.entry(&mut listener, "bind", Node { place: first, value: Value::List(binds) });
    }
    let pool_name = Node { place: text.file, value: Value::Text(NAME.to_owned()) };
    text.entry(&mut listener, "pool", pool_name);
    let mut pool = Table::default();
    let mut servers = Table::default();
    for (index, value) in to.iter().enumerate() {
        let node = text.option("to", value);
        text.entry(&mut servers, &format!("s{}", index + 1), node);
    }
    let servers = Node { place: text.file, value: Value::Table(servers) };
    text.entry(&mut pool, "servers", servers);
    if let Some(mode) = mode {
        let node = text.option("mode", mode);
        text.entry(&mut listener, "mode", node);
    }
    if let Some(balance) = balance {
        let node = text.option("balance", balance);
        text.entry(&mut pool, "balance", node);
    }
    let mut root = Table::default();
    for (section, table) in [("listener", listener), ("pool", pool)] {
        let mut named = Table::default();
        let node = Node { place: text.file, value: Value::Table(table) };
        text.entry(&mut named, NAME, node);
        let node = Node { place: text.file, value: Value::Table(named) };
        text.entry(&mut root, section, node);
    }
    let mut reading = Reading::default();
    reading.digest(text.text.as_bytes());
    let path = Path::new("command line");
    reading.sources.add(SourceFile::new("command line".to_owned(), path, text.text));
    check(reading, root)
}

struct Text {
    text: String,
    /// Stands for what no argument says.
    file: Place,
}

impl Text {
    /// Adds a line `--name value` and returns the value with its place.
    fn option(&mut self, name: &str, value: &str) -> Node {
        self.text.push_str("--");
        self.text.push_str(name);
        self.text.push(' ');
        let start = self.text.len();
        self.text.push_str(value);
        let place = Place::new(self.file.file, start..self.text.len());
        self.text.push('\n');
        Node { place, value: Value::Text(value.to_owned()) }
    }

    fn entry(&self, table: &mut Table, key: &str, node: Node) {
        let key_place = if node.place == self.file { self.file } else { node.place };
        table.entries.push(Entry { key: key.to_owned(), key_place, node });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Balance;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn two_servers_behind_one_address() {
        let (listen, to) = (strings(&["127.0.0.1:0"]), strings(&["127.0.0.1:1", "unix:/run/x"]));
        let plan = one_liner(&listen, &to, Some("tcp"), Some("least-conn")).unwrap().plan;
        assert_eq!(plan.pools[0].servers.len(), 2);
        assert_eq!(plan.pools[0].balance, Balance::LeastConn);
        assert_eq!(plan.listeners[0].backlog, 4_096);
        assert_eq!(plan.timeouts(&plan.listeners[0]), crate::config::plan::Timeouts::default());
    }

    #[test]
    fn one_word_makes_it_an_http_gateway() {
        let (listen, to) = (strings(&["127.0.0.1:0"]), strings(&["127.0.0.1:1"]));
        let plan = one_liner(&listen, &to, Some("http"), None).unwrap().plan;
        let http = plan.listeners[0].http.as_ref().unwrap();
        assert_eq!(http.routes.len(), 1);
        assert_eq!(http.timeouts, crate::config::plan::HttpTimeouts::default());
        assert_eq!(http.limits, crate::config::plan::HttpLimits::default());
    }

    #[test]
    fn a_wrong_argument_is_shown_with_its_option() {
        let report =
            one_liner(&strings(&["127.0.0.1:0"]), &strings(&["db:5432"]), None, None).unwrap_err();
        let text = report.render(false);
        assert!(text.contains("command line:2:6"), "{text}");
        assert!(text.contains("2 | --to db:5432"), "{text}");
        assert!(text.contains("dns:db:5432"), "{text}");
    }

    #[test]
    fn no_arguments_are_errors_and_no_panic() {
        assert!(one_liner(&[], &[], None, None).is_err());
        assert!(one_liner(&strings(&[""]), &strings(&["\n"]), Some(""), Some("\0")).is_err());
    }
}
