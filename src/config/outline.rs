//! What a configuration says, as a tree of keys to compare with another one: the lines that tell
//! an operator what a reload has changed.
//!
//! A value is shown as the file has it. A secret is compared and never shown: [`blank`] is the
//! rule, as it is for all that is shown.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use super::blank::{self, BLANK};
use super::fields::{Fields, Item, Said, item_kind};
use super::keys::{Kind, Text};
use super::plan::Pem;
use super::source::{Place, Sources};
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
        let keys = keys.filter_map(|(key, said)| {
            Some((key.name.to_owned(), node(&key.kind, said.as_ref()?, sources)?))
        });
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

fn node(kind: &'static Kind, said: &Said, sources: &Sources) -> Option<Node> {
    Some(match &said.item {
        Item::Bad => return None,
        Item::Scalar(scalar) => value(shown(kind, said, sources), [scalar]),
        Item::Table(fields) => Node::Table(Outline::of(fields, sources)),
        Item::Named(names) => {
            let entry = |(name, said): &(String, Said)| {
                let node = match kind {
                    Kind::Fields { .. } if blank::is_credential(name) => {
                        value(BLANK.to_owned(), said.scalars())
                    }
                    Kind::Fields { of, .. } => node(of, said, sources)?,
                    kind => node(kind, said, sources)?,
                };
                Some((name.clone(), node))
            };
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
        Item::List(_) => value(shown(kind, said, sources), said.scalars()),
    })
}

/// A table without a name goes by what it is for: a route by its name or by what it matches.
fn item_name(fields: &Fields, sources: &Sources) -> String {
    let text = |key: &str| {
        let index = fields.section.index(key)?;
        Some(shown(&fields.section.keys[index].kind, fields.slots[index].as_ref()?, sources))
    };
    let name = ["name", "match", "cert", "hash"].into_iter().find_map(text);
    format!("[{}]", name.unwrap_or_default())
}

fn value<'s>(shown: String, all: impl IntoIterator<Item = &'s Scalar>) -> Node {
    let mut print = DefaultHasher::new();
    for scalar in all {
        match scalar {
            Scalar::Secret { value, .. } => value.hash(&mut print),
            Scalar::Pem { pem: Pem::Text(text), .. } => text.0.hash(&mut print),
            Scalar::Pem { pem: Pem::File(path), .. } => path.hash(&mut print),
            // Its text may hold what `env:` or `file:` brought, which `Debug` shows; it is hashed.
            other => format!("{other:?}").hash(&mut print),
        }
    }
    Node::Value { shown: (shown != BLANK).then_some(shown), print: print.finish() }
}

/// What the file says there on one line, with blanks in the place of secrets.
fn shown(kind: &'static Kind, said: &Said, sources: &Sources) -> String {
    let mut blanks = Vec::new();
    secrets(kind, said, sources, &mut blanks);
    // From the last on, so that the places before it stay where they are.
    blanks.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let whole = said.place;
    let mut text = sources.file(whole.file).slice(whole).to_owned();
    for (place, shown) in blanks {
        // What a table's header stands for may have its keys elsewhere.
        let inside =
            place.file == whole.file && whole.start <= place.start && place.end <= whole.end;
        if inside {
            let start = (place.start - whole.start) as usize;
            text.replace_range(start..start + (place.end - place.start) as usize, &shown);
        }
    }
    one_line(&text)
}

/// The places of secrets, with what is shown instead.
fn secrets(kind: &'static Kind, said: &Said, sources: &Sources, blanks: &mut Vec<(Place, String)>) {
    match &said.item {
        Item::Bad => {}
        Item::Scalar(scalar) => {
            let source = sources.file(said.place.file).slice(said.place);
            blanks.extend(instead(kind, scalar, source).map(|shown| (said.place, shown)));
        }
        Item::List(items) => {
            for item in items {
                secrets(item_kind(kind), item, sources, blanks);
            }
        }
        Item::Table(fields) => {
            for (key, said) in fields.section.keys.iter().zip(&fields.slots) {
                if let Some(said) = said {
                    secrets(&key.kind, said, sources, blanks);
                }
            }
        }
        Item::Named(names) => {
            for (name, said) in names {
                match kind {
                    Kind::Fields { .. } if blank::is_credential(name) => {
                        blanks.push((said.place, BLANK.to_owned()));
                    }
                    Kind::Fields { of, .. } => secrets(of, said, sources, blanks),
                    kind => secrets(kind, said, sources, blanks),
                }
            }
        }
    }
}

/// What is shown in the place of a value; `None`: itself. `source` is how it is written.
fn instead(kind: &Kind, scalar: &Scalar, source: &str) -> Option<String> {
    match (item_kind(kind), scalar) {
        (_, Scalar::Secret { .. } | Scalar::Pem { pem: Pem::Text(_), .. }) => {
            Some(BLANK.to_owned())
        }
        (Kind::Text(form), scalar) => {
            let said = match scalar {
                // Its text may be what a reference brought.
                Scalar::Text(text) if *form != Text::Jwks => text,
                _ => source.trim_matches(['"', '\'']),
            };
            let shown = blank::text(*form, said);
            let quoted = if shown == BLANK { shown.clone() } else { format!("\"{shown}\"") };
            (shown != said).then_some(quoted)
        }
        _ => None,
    }
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

    /// Planted where a credential may stand; no line may tell it, before or after the change.
    const PLANTED: &str = "planted-one";

    fn told(text: &str) -> Vec<String> {
        let outline = |text: &str| {
            let loaded = load_text("main.toml", format!("{OLD}{text}").as_bytes());
            loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).outline
        };
        let planted = outline(text);
        let lines = planted.changes(&outline(&text.replace(PLANTED, "planted-two")));
        assert!(!lines.is_empty());
        for line in lines.iter().chain(&outline("").changes(&planted)) {
            assert!(!line.contains("planted"), "{line}");
        }
        lines
    }

    #[test]
    fn what_is_called_as_credentials_are_changes_without_being_shown() {
        let lines = told(
            "[policy.h]\ntype = \"headers\"\nheaders.set.Authorization = \"Bearer planted-one\"\n\
             headers.add = { X-Api-Key = \"planted-one\" }\n\
             [pool.q]\nservers.s = \"10.0.0.1:4\"\n\
             check = { type = \"http\", path = \"/h?token=planted-one\", headers = { Authorization = \"x planted-one\" } }\n",
        );
        let wanted = [
            "pool.q.check.path: changed",
            "pool.q.check.headers.Authorization: changed",
            "policy.h.headers.add.X-Api-Key: changed",
            "policy.h.headers.set.Authorization: changed",
        ];
        for line in wanted {
            assert!(lines.iter().any(|told| told == line), "{line}: {lines:?}");
        }
    }

    #[test]
    fn a_url_changes_without_what_its_parameters_say() {
        let lines = told(
            "[policy.i]\ntype = \"introspection\"\nurl = \"http://127.0.0.1:9/?tok=planted-one\"\n\
             client_id = \"me\"\nclient_secret = \"planted-one\"\n",
        );
        assert_eq!(lines, ["policy.i.url: changed", "policy.i.client_secret: changed"]);
    }

    #[test]
    fn a_route_is_not_called_by_a_credential_that_it_matches() {
        let lines = told(
            "[[listener.web.route]]\npool = \"app\"\n\
             match = { path = \"/c\", headers = { Authorization = \"planted-one\" } }\n",
        );
        assert_eq!(
            lines,
            [
                "listener.web.route[{ path = \"/c\", headers = { Authorization = *** } }].match.headers.Authorization: changed"
            ]
        );
    }
}
