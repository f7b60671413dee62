//! Tree + key table → typed fields, and every mistake that one key or value can have.
//!
//! A value that is refused becomes [`Item::Bad`]: it was said, so nothing may be called missing
//! because of it, and whoever looks for its value finds none. What keys mean together is not
//! checked here.

use std::collections::HashMap;
use std::path::PathBuf;

use super::blank;
use super::code;
use super::fields::{Fields, Item, Said};
use super::keys::{self, Fallback, Key, Kind, Names, Section};
use super::report::{Finding, Findings};
use super::source::{Place, Sources};
use super::synonyms::Suggestion;
use super::text_http;
use super::text_policy;
use super::tree::{Entry, Node, Table, Value};
use super::value::{self, Refusal, Scalar};

/// Names become metric labels and parts of `POOL/SERVER`.
pub const NAME_BYTES_MAX: usize = 64;

pub(super) fn scalar(
    kind: &Kind,
    found: &Value,
    dir: &std::path::Path,
    hint: &str,
) -> value::Taken {
    match kind {
        Kind::Bool => value::boolean(found),
        Kind::Integer { min, max } => value::integer(found, *min, *max, hint),
        Kind::IntegerOrAuto { min, max } => value::integer_or_auto(found, *min, *max),
        Kind::Duration { min, max, off } => value::duration(found, *min, *max, *off),
        Kind::Size { min, max } => value::size(found, *min, *max),
        Kind::Rate => value::rate(found, false),
        Kind::RateOrOff => value::rate(found, true),
        Kind::Json => value::json(found),
        Kind::Share => value::share(found),
        Kind::Word { words } => value::word(found, words),
        Kind::Statuses => value::statuses(found),
        Kind::Text(form) => value::text(found, *form, dir),
        Kind::List { .. } | Kind::OneOrList { .. } => {
            Err(value::wrong_type("one value", found, ""))
        }
        Kind::Table(_) | Kind::Named { .. } | Kind::Fields { .. } => {
            Err(value::wrong_type("a table", found, ""))
        }
        Kind::TableOrFalse(_) => match found {
            Value::Bool(false) => Ok(Scalar::Off),
            _ => Err(value::wrong_type("a table or false", found, "`{}` means all the defaults")),
        },
        Kind::Tables { .. } => match found {
            Value::Table(_) => {
                let hint = "each is one of a list: in TOML its header has two brackets, [[…]]";
                Err(value::wrong_type("a list of tables", found, hint))
            }
            _ => Err(value::wrong_type("a list of tables", found, "")),
        },
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads trees by the key table.
#[derive(Debug)]
pub struct Walk<'a> {
    pub sources: &'a Sources,
    pub found: &'a mut Findings,
    /// Below a name that credentials have: what is refused there is not told.
    pub hides: bool,
    /// Those that stand for a value, whether they could be read or not.
    pub files: Vec<PathBuf>,
}

/// What a table is called and where messages about all of it point.
struct Whose {
    path: String,
    title: String,
    place: Place,
}

impl Walk<'_> {
    /// The whole file.
    pub fn root(&mut self, table: Table, place: Place) -> Fields {
        let whose = Whose { path: String::new(), title: "the top level".to_owned(), place };
        self.section(&super::table::ROOT, table, whose)
    }

    fn section(&mut self, section: &'static Section, table: Table, whose: Whose) -> Fields {
        let Whose { path, title, place } = whose;
        let section = variant_of(section, &table);
        let mut fields = Fields { path, title, ..Fields::empty(section, place) };
        let tag = section.tag.and_then(|tag| match table.get(tag).map(|entry| &entry.node.value) {
            Some(Value::Text(word)) => Some(word.clone()),
            Some(_) => None,
            None => match section.keys[section.index(tag)?].fallback {
                Fallback::Text(word) => Some(word.to_owned()),
                _ => None,
            },
        });
        for entry in table.entries {
            match section.index(&entry.key) {
                // What it is is not known, so nor is what it may have.
                None if !section.variants.is_empty() => {}
                None => self.unknown_key(&fields, &entry),
                Some(index) => {
                    let key = &section.keys[index];
                    self.check_tag(&fields, key, tag.as_deref(), entry.key_place);
                    fields.slots[index] = Some(self.entry(&fields, key, entry));
                }
            }
        }
        for key in section.keys.iter().filter(|key| key.required) {
            if fields.said(key.name).is_none() {
                let message = format!("`{}` is missing in {}", key.name, fields.title);
                self.found.add(Finding::new(
                    code::MISSING_KEY,
                    fields.place,
                    fields.path_of(key.name),
                    message,
                ));
            }
        }
        fields
    }

    fn unknown_key(&mut self, fields: &Fields, entry: &Entry) {
        let name = entry.key.as_str();
        let message = format!("unknown key `{}` in {}", value::clip(name), fields.title);
        let finding =
            Finding::new(code::UNKNOWN_KEY, entry.key_place, fields.path_of(name), message);
        if self.found.is_full() {
            // Nobody will read a suggestion; but the value may be a secret beside a place that
            // is shown.
            self.found.mask(entry.node.place);
            self.found.add(finding);
            return;
        }
        let Suggestion { hint, key } = Suggestion::new(fields.section, name);
        let secret = |n: &str| keys::secret_names().any(|known| known == n);
        if secret(name) || key.is_some_and(secret) || blank::is_credential(name) {
            self.found.mask(entry.node.place);
        }
        self.found.add(finding.hint(hint));
    }

    fn check_tag(&mut self, fields: &Fields, key: &Key, tag: Option<&str>, place: Place) {
        let Some((tag_key, tag)) = fields.section.tag.zip(tag) else { return };
        if key.only.is_empty() || key.only.contains(&tag) {
            return;
        }
        let known = fields.section.index(tag_key).map(|index| &fields.section.keys[index].kind);
        if !matches!(known, Some(Kind::Word { words, .. }) if words.contains(&tag)) {
            return; // The tag itself is wrong, and that is reported.
        }
        let message =
            format!("`{}` in {} does not go with {tag_key} = \"{tag}\"", key.name, fields.title);
        let hint = format!("it belongs to {tag_key} = \"{}\"", key.only.join("\" or \""));
        self.found
            .add(Finding::new(code::NOT_HERE, place, fields.path_of(key.name), message).hint(hint));
    }

    fn entry(&mut self, fields: &Fields, key: &'static Key, entry: Entry) -> Said {
        let (key_place, place) = (entry.key_place, entry.node.place);
        let item = self.item(fields, key, &key.kind, entry.node, key_place);
        Said { key_place, place, item }
    }

    fn item(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        kind: &'static Kind,
        node: Node,
        key_place: Place,
    ) -> Item {
        let Node { place, value } = node;
        match (kind, value) {
            (Kind::Table(section) | Kind::TableOrFalse(section), Value::Table(table)) => {
                let whose = self.whose_table(fields, key, section, place, key_place);
                Item::Table(Box::new(self.section(section, table, whose)))
            }
            (Kind::Table(section @ Section { short: Some(short), .. }), value @ Value::Text(_)) => {
                let whose = self.whose_table(fields, key, section, place, key_place);
                let node = Node { place, value };
                let entries = vec![Entry { key: (*short).to_owned(), key_place, node }];
                Item::Table(Box::new(self.section(section, Table { entries }, whose)))
            }
            (Kind::Tables { section, max }, Value::List(items)) => {
                if items.len() > *max {
                    self.too_many(fields, key, key_place, items.len(), *max);
                    return Item::Bad;
                }
                let items = items.into_iter().enumerate();
                Item::List(
                    items
                        .map(|(index, node)| {
                            self.one_table(fields, key, section, index, node, key_place)
                        })
                        .collect(),
                )
            }
            (Kind::Named { section, max }, Value::Table(table)) => {
                self.all_named(fields, key, section, *max, table, key_place)
            }
            (Kind::Fields { names, of, max }, Value::Table(table)) => {
                if table.entries.len() > *max {
                    self.too_many(fields, key, key_place, table.entries.len(), *max);
                    return Item::Bad;
                }
                self.free_fields(fields, key, *names, of, table)
            }
            (Kind::List { of, max } | Kind::OneOrList { of, max, .. }, Value::List(items)) => {
                let least = if let Kind::OneOrList { min, .. } = kind { *min } else { 0 };
                if items.len() > *max || items.len() < least {
                    self.too_many(fields, key, place, items.len(), *max);
                    return Item::Bad;
                }
                let said = |walk: &mut Self, node: Node| {
                    let place = node.place;
                    Said { key_place, place, item: walk.item(fields, key, of, node, key_place) }
                };
                Item::List(items.into_iter().map(|node| said(self, node)).collect())
            }
            (Kind::OneOrList { of, .. }, value) => {
                self.item(fields, key, of, Node { place, value }, key_place)
            }
            (Kind::List { .. }, value) => {
                let refusal = value::wrong_type("a list", &value, "put it in [ ]");
                self.refused(fields, key, place, refusal)
            }
            (kind, value) => self.scalar(fields, key, kind, place, &value),
        }
    }

    fn scalar(
        &mut self,
        fields: &Fields,
        key: &Key,
        kind: &Kind,
        place: Place,
        found: &Value,
    ) -> Item {
        let dir = &self.sources.file(place.file).dir;
        if key.is_secret() {
            let names_it = |t: &str| t.starts_with("env:") || t.starts_with("file:");
            if !matches!(found, Value::Text(text) if names_it(text)) {
                self.found.mask(place);
            }
        }
        if let (Kind::Text(form), Value::Text(text)) = (kind, found)
            && form.is_in_file()
            && let Some(path) = text.strip_prefix("file:")
        {
            self.files.push(dir.join(path));
        }
        let has_secret = matches!((kind, found), (Kind::Text(form), Value::Text(text))
            if blank::text(*form, text) != *text);
        if has_secret && !key.is_secret() {
            self.found.mask(place);
        }
        match scalar(kind, found, dir, key.range_hint) {
            Ok(scalar) => Item::Scalar(scalar),
            Err(mut refusal) => {
                if (has_secret || self.hides)
                    && let Some(at) = refusal.problem.find(", found \"")
                {
                    refusal.problem.truncate(at);
                }
                self.refused(fields, key, place, refusal)
            }
        }
    }

    fn refused(&mut self, fields: &Fields, key: &Key, place: Place, refusal: Refusal) -> Item {
        let message = match refusal.problem.strip_prefix('"') {
            // An address speaks for itself: `bind` of listener `x`: "…" has no port.
            Some(_) => format!("`{}` of {}: {}", key.name, fields.title, refusal.problem),
            None => format!("`{}` of {} {}", key.name, fields.title, refusal.problem),
        };
        let finding = Finding::new(refusal.code, place, fields.path_of(key.name), message);
        self.found.add(finding.hint(refusal.hint));
        Item::Bad
    }

    fn named(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        section: &'static Section,
        entry: Entry,
    ) -> (String, Said) {
        let Entry { key: name, key_place, node: Node { place, value } } = entry;
        let path = join(&fields.path_of(key.name), &name);
        if !is_name(&name) {
            let message =
                format!("\"{}\" cannot be the name of a {}", value::clip(&name), section.noun);
            let hint = format!("1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 _ . - and no . or - first");
            self.found
                .add(Finding::new(code::BAD_NAME, key_place, path.clone(), message).hint(hint));
        }
        let mut title = format!("{} `{}`", section.noun, value::clip(&name));
        if !fields.path.is_empty() {
            title = format!("{title} of {}", fields.title);
        }
        let whose = Whose { path, title, place: self.anchor(place, key_place) };
        let item = match value {
            Value::Table(table) => Item::Table(Box::new(self.section(section, table, whose))),
            value => match (section.short, &value) {
                // `pg1 = "10.0.0.11:5432"` is short for `{ addr = … }`.
                (Some(short), Value::Text(_)) => {
                    let node = Node { place, value };
                    let entries = vec![Entry { key: short.to_owned(), key_place, node }];
                    Item::Table(Box::new(self.section(section, Table { entries }, whose)))
                }
                (short, _) => {
                    let wanted = if short.is_some() { "an address or a table" } else { "a table" };
                    let message =
                        format!("{} must be {wanted}, found {}", whose.title, value.kind());
                    self.found.add(Finding::new(code::WRONG_TYPE, place, whose.path, message));
                    Item::Bad
                }
            },
        };
        (name, Said { key_place, place, item })
    }

    fn all_named(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        section: &'static Section,
        max: usize,
        table: Table,
        key_place: Place,
    ) -> Item {
        if table.entries.len() > max {
            self.too_many(fields, key, key_place, table.entries.len(), max);
            return Item::Bad;
        }
        let entries = table.entries.into_iter();
        Item::Named(entries.map(|entry| self.named(fields, key, section, entry)).collect())
    }

    fn free_fields(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        names: Names,
        of: &'static Kind,
        table: Table,
    ) -> Item {
        let mut items = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        for Entry { key: name, key_place, node } in table.entries {
            let path = join(&fields.path_of(key.name), &name);
            let hint = name_problem(names, &name);
            if !hint.is_empty() {
                let message = format!(
                    "\"{}\" cannot be {} in `{}` of {}",
                    value::clip(&name),
                    names_noun(names),
                    key.name,
                    fields.title
                );
                self.found.add(
                    Finding::new(code::BAD_TEXT, key_place, path.clone(), message)
                        .hint(hint.trim()),
                );
            } else if let Some(first) = seen.insert(folded(names, &name), key_place) {
                let message = format!("`{}` is given twice", value::clip(&name));
                let finding = Finding::new(code::DUPLICATE_KEY, key_place, path, message);
                let finding = finding.hint("upper and lower case are the same here");
                self.found.add(finding.related(first, "the first is here"));
            }
            let place = node.place;
            let outer = self.hides;
            if blank::is_credential(&name) {
                self.found.mask(place);
                self.hides = true;
            }
            let item = self.item(fields, key, of, node, key_place);
            self.hides = outer;
            items.push((name, Said { key_place, place, item }));
        }
        Item::Named(items)
    }

    fn whose_table(
        &self,
        fields: &Fields,
        key: &Key,
        section: &Section,
        place: Place,
        key_place: Place,
    ) -> Whose {
        let title = if fields.path.is_empty() {
            section.noun.to_owned()
        } else {
            format!("{} of {}", section.noun, fields.title)
        };
        Whose { path: fields.path_of(key.name), title, place: self.anchor(place, key_place) }
    }

    /// One of a list of tables, which has a number and perhaps a name.
    fn one_table(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        section: &'static Section,
        index: usize,
        node: Node,
        key_place: Place,
    ) -> Said {
        let Node { place, value } = node;
        let Value::Table(table) = value else {
            let refusal = value::wrong_type("a list of tables", &value, "");
            return Said { key_place, place, item: self.refused(fields, key, place, refusal) };
        };
        let name = match table.get("name").map(|entry| &entry.node.value) {
            Some(Value::Text(name)) => format!("`{}`", value::clip(name)),
            _ => (index + 1).to_string(),
        };
        let text = self.sources.slice(place);
        let first_line = text.lines().next().unwrap_or("").len();
        let end = (place.start as usize + first_line.max(1)).min(place.end as usize);
        let whose = Whose {
            path: format!("{}[{index}]", fields.path_of(key.name)),
            title: format!("{} {name} of {}", section.noun, fields.title),
            place: Place::new(place.file, place.start as usize..end),
        };
        let item = Item::Table(Box::new(self.section(section, table, whose)));
        Said { key_place, place, item }
    }

    fn too_many(&mut self, fields: &Fields, key: &Key, place: Place, found: usize, max: usize) {
        let (message, hint) = if found == 0 {
            (format!("`{}` of {} is an empty list", key.name, fields.title), "")
        } else {
            (
                format!(
                    "`{}` of {} has {found} entries, and {max} is the most",
                    key.name, fields.title
                ),
                "",
            )
        };
        self.found
            .add(Finding::new(code::TOO_MANY, place, fields.path_of(key.name), message).hint(hint));
    }

    /// The table's header or value when it stands on one line, else its name.
    fn anchor(&self, place: Place, key_place: Place) -> Place {
        let text = self.sources.slice(place);
        if text.is_empty() || text.contains('\n') { key_place } else { place }
    }
}

/// The section that the word in the tag says, where there are several.
pub(super) fn variant_of(section: &'static Section, table: &Table) -> &'static Section {
    let word = section.tag.and_then(|tag| match &table.get(tag)?.node.value {
        Value::Text(word) => Some(word.as_str()),
        _ => None,
    });
    word.and_then(|word| section.variant(word)).unwrap_or(section)
}

/// Why a free name is not possible, as a hint; empty: it is.
fn name_problem(names: Names, name: &str) -> &'static str {
    let bad = match names {
        Names::HeaderWritten => return text_http::header_problem(name, true),
        Names::HeaderRead => return text_http::header_problem(name, false),
        Names::ServerName if name == "*" => false,
        Names::ServerName => return text_http::host_problem(name),
        Names::Query => name.is_empty() || name.len() > 1_024,
        Names::Cookie => !value::is_token(name),
        Names::Claim | Names::JsonMember => !text_policy::is_selector(name),
        Names::Group => name.is_empty() || name.len() > 256,
        // That it exists is checked elsewhere.
        Names::Pool => false,
    };
    if bad { " " } else { "" }
}

const fn names_noun(names: Names) -> &'static str {
    match names {
        Names::HeaderWritten | Names::HeaderRead => "a header field",
        Names::Query => "a parameter of a query",
        Names::Cookie => "a cookie",
        Names::ServerName => "a server name",
        Names::Pool => "a pool",
        Names::Claim => "a claim",
        Names::Group => "a group",
        Names::JsonMember => "a member of an object",
    }
}

/// The form in which two names of a kind are the same.
fn folded(names: Names, name: &str) -> String {
    match names {
        Names::HeaderWritten | Names::HeaderRead => name.to_ascii_lowercase(),
        Names::ServerName => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
        Names::Query
        | Names::Cookie
        | Names::Pool
        | Names::Claim
        | Names::Group
        | Names::JsonMember => name.to_owned(),
    }
}

/// Whether something can be called so: a listener, a pool, a consumer.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fields::defaults_of;

    #[test]
    fn every_default_of_the_table_is_a_value_its_key_would_take() {
        for section in super::super::table::ROOT.all_below() {
            for key in section.keys {
                let given = match key.fallback {
                    Fallback::Absent | Fallback::Described(_) => 0,
                    Fallback::Words(words) => words.len(),
                    _ => 1,
                };
                assert_eq!(defaults_of(key).len(), given, "{} {}", section.heading, key.name);
            }
        }
    }
}
