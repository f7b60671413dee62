//! What a configuration says, as a tree of keys to compare with another one: the lines that tell
//! an operator what a reload has changed.
//!
//! A value is shown as the file has it. A secret is compared and never shown.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use super::fields::{Fields, Item, Said};
use super::source::Sources;
use super::value::Scalar;

/// Lines of one comparison: a person reads the first few, and a new file changes everything.
const LINES_MAX: usize = 100;

/// A table of keys, in file order.
#[derive(Clone, Debug, Default)]
pub struct Outline(Vec<(String, Node)>);

#[derive(Clone, Debug)]
enum Node {
    Table(Outline),
    Value {
        /// As written; `None` for a secret.
        shown: Option<String>,
        /// Two values that differ have different ones.
        print: u64,
    },
}

impl Outline {
    pub(super) fn of(fields: &Fields, sources: &Sources) -> Self {
        let keys = fields.section.keys.iter().zip(&fields.slots);
        let keys = keys
            .filter_map(|(key, said)| Some((key.name.to_owned(), node(said.as_ref()?, sources)?)));
        Self(keys.collect())
    }

    /// By key: files have a hundred thousand of them.
    fn index(&self) -> HashMap<&str, &Node> {
        self.0.iter().map(|(key, node)| (key.as_str(), node)).collect()
    }

    /// What is different in `newer`, one line a change, such as
    /// `pool.app.servers.a1.weight: 1 -> 5`, `listener.web: added`.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        self.compare(newer, "", &mut lines);
        if lines.len() > LINES_MAX {
            let more = lines.len() - LINES_MAX;
            lines.truncate(LINES_MAX);
            lines.push(format!("… and {more} more"));
        }
        lines
    }

    fn compare(&self, newer: &Self, path: &str, lines: &mut Vec<String>) {
        let (before, after) = (self.index(), newer.index());
        for (key, old) in &self.0 {
            let path = join(path, key);
            match (old, after.get(key.as_str()).copied()) {
                (Node::Table(old), Some(Node::Table(new))) => old.compare(new, &path, lines),
                (
                    Node::Value { shown: old, print: before },
                    Some(Node::Value { shown: new, print: after }),
                ) => {
                    if before != after {
                        lines.push(match (old, new) {
                            (Some(old), Some(new)) if old != new => {
                                format!("{path}: {old} -> {new}")
                            }
                            _ => format!("{path}: changed"),
                        });
                    }
                }
                (_, Some(_)) => lines.push(format!("{path}: changed")),
                (_, None) => lines.push(format!("{path}: removed")),
            }
        }
        for (key, new) in newer.0.iter().filter(|(key, _)| !before.contains_key(key.as_str())) {
            let path = join(path, key);
            lines.push(match new {
                Node::Value { shown: Some(shown), .. } => format!("{path}: added, {shown}"),
                Node::Value { .. } | Node::Table(_) => format!("{path}: added"),
            });
        }
    }
}

fn node(said: &Said, sources: &Sources) -> Option<Node> {
    Some(match &said.item {
        Item::Bad => return None,
        Item::Scalar(scalar) => value(said, [scalar], sources),
        Item::Table(fields) => Node::Table(Outline::of(fields, sources)),
        Item::Named(names) => {
            let entry = |(name, said): &(String, Said)| Some((name.clone(), node(said, sources)?));
            Node::Table(Outline(names.iter().filter_map(entry).collect()))
        }
        Item::List(items) if items.iter().any(|item| item.fields().is_some()) => {
            let mut table = Outline::default();
            let mut same: HashMap<String, usize> = HashMap::new();
            for item in items {
                let Some(fields) = item.fields() else { continue };
                let name = item_name(fields, sources);
                let nth = same.entry(name.clone()).or_default();
                *nth += 1;
                let name = if *nth == 1 { name } else { format!("{name} #{nth}") };
                table.0.push((name, Node::Table(Outline::of(fields, sources))));
            }
            Node::Table(table)
        }
        Item::List(_) => value(said, said.scalars(), sources),
    })
}

/// A table without a name goes by what it is for: a route by its name or by what it matches.
fn item_name(fields: &Fields, sources: &Sources) -> String {
    let text = |key: &str| {
        let said = fields.knows(key).then(|| fields.said(key)).flatten()?;
        Some(one_line(sources.file(said.place.file).slice(said.place)))
    };
    let name = ["name", "match", "cert", "hash"].into_iter().find_map(text);
    format!("[{}]", name.unwrap_or_default())
}

fn value<'s>(said: &Said, all: impl IntoIterator<Item = &'s Scalar>, sources: &Sources) -> Node {
    let mut print = DefaultHasher::new();
    let mut secret = false;
    for scalar in all {
        match scalar {
            Scalar::Secret { value, .. } => {
                secret = true;
                value.hash(&mut print);
            }
            Scalar::Pem { pem, .. } => {
                secret |= matches!(pem, super::plan::Pem::Text(_));
                match pem {
                    super::plan::Pem::Text(text) => text.0.hash(&mut print),
                    super::plan::Pem::File(path) => path.hash(&mut print),
                }
            }
            // Its text may hold what `env:` or `file:` brought, which `Debug` shows; it is hashed.
            other => format!("{other:?}").hash(&mut print),
        }
    }
    let text = one_line(sources.file(said.place.file).slice(said.place));
    Node::Value { shown: (!secret).then_some(text), print: print.finish() }
}

fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain = |char: &char| !char.is_control();
    let clipped: String = text.chars().filter(plain).take(CHARS_MAX).collect();
    if text.chars().nth(CHARS_MAX).is_some() { clipped + "…" } else { clipped }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() || key.starts_with('[') {
        format!("{path}{key}")
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load_text;

    const OLD: &str = r#"
version = 1
[listener.web]
bind = "127.0.0.1:80"
mode = "http"
[[listener.web.route]]
match = { path = "/a/*" }
pool = "app"
policies = ["keys"]
[pool.app]
servers = { a1 = "127.0.0.1:1", a2 = { addr = "127.0.0.1:2", weight = 2 } }
[policy.keys]
type = "jwt"
secret = "a-plain-secret-of-32-bytes-length"
"#;

    fn changes(edit: &[(&str, &str)]) -> Vec<String> {
        let new = edit.iter().fold(OLD.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        let outline = |text: &str| {
            let loaded = load_text("main.toml", text.as_bytes());
            loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).outline
        };
        outline(OLD).changes(&outline(&new))
    }

    #[test]
    fn the_same_file_has_no_changes_whatever_its_blanks() {
        assert_eq!(changes(&[]), [""; 0]);
        assert_eq!(
            changes(&[("weight = 2", "weight  =  2"), ("version = 1", "# x\nversion = 1")]),
            [""; 0]
        );
    }

    #[test]
    fn a_changed_value_is_shown_with_both() {
        assert_eq!(
            changes(&[("weight = 2", "weight = 3")]),
            ["pool.app.servers.a2.weight: 2 -> 3"]
        );
    }

    #[test]
    fn what_comes_and_goes_is_one_line_for_the_whole_of_it() {
        let lines = changes(&[
            ("[pool.app]", "[listener.l4]\nbind = \"127.0.0.1:9\"\npool = \"app\"\n[pool.app]"),
            ("a1 = \"127.0.0.1:1\", ", ""),
        ]);
        assert_eq!(lines, ["listener.l4: added", "pool.app.servers.a1: removed"]);
    }

    #[test]
    fn a_route_goes_by_what_it_matches() {
        let route = "[[listener.web.route]]\nmatch = { path = \"/b\" }\npool = \"app\"\n";
        let lines =
            changes(&[("[[listener.web.route]]\n", &format!("{route}[[listener.web.route]]\n"))]);
        assert_eq!(lines, ["listener.web.route[{ path = \"/b\" }]: added"]);
    }

    #[test]
    fn a_secret_changes_without_being_shown() {
        let lines = changes(&[("a-plain-secret-of", "b-plain-secret-of")]);
        assert_eq!(lines, ["policy.keys.secret: changed"]);
    }
}
