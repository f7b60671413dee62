//! Tree + key table → typed fields, and every mistake that one key or value can have.
//!
//! A value that is refused becomes [`Item::Bad`]: it was said, so nothing may be called missing
//! because of it, and whoever looks for its value finds none. What keys mean together is not
//! checked here.

use super::code;
use super::keys::{self, Fallback, Key, Kind, Section, Text};
use super::report::{Finding, Findings};
use super::source::{Place, Sources};
use super::tree::{Entry, Node, Table, Value};
use super::value::{self, Refusal, Scalar};

static FIELD_VALUE: Kind = Kind::Text(Text::FieldValue);

/// Names become metric labels and parts of `POOL/SERVER`.
const NAME_BYTES_MAX: usize = 64;

/// One table that was read by its section.
#[derive(Clone, Debug)]
pub struct Fields {
    section: &'static Section,
    /// Where to point at for the table as a whole.
    pub place: Place,
    /// For example `pool.pg.check`; empty at the top.
    pub path: String,
    /// For example "`check` of pool `pg`".
    pub title: String,
    /// By key index; `None`: not in the file.
    slots: Vec<Option<Said>>,
}

/// A value that the file says.
#[derive(Clone, Debug)]
pub struct Said {
    pub key_place: Place,
    pub place: Place,
    pub item: Item,
}

#[derive(Clone, Debug)]
pub enum Item {
    /// Refused, with an error.
    Bad,
    Scalar(Scalar),
    List(Vec<Said>),
    Table(Box<Fields>),
    /// Names in file order. A name whose table is `Bad` still is a name.
    Named(Vec<(String, Said)>),
}

impl Fields {
    /// A table in which nothing is said: all defaults.
    #[must_use]
    pub fn empty(section: &'static Section, place: Place) -> Self {
        let slots = section.keys.iter().map(|_| None).collect();
        Self { section, place, path: String::new(), title: section.noun.to_owned(), slots }
    }

    /// What the file says for the key, `Bad` included.
    ///
    /// # Panics
    /// When the section has no such key: a misspelling in this program, found by the first test.
    #[must_use]
    pub fn said(&self, key: &str) -> Option<&Said> {
        let index = self.section.index(key).expect("a key of the table");
        self.slots[index].as_ref()
    }

    /// The value, or the default, or `None` when there is neither (or it is `Bad`).
    #[must_use]
    pub fn scalar(&self, key: &str) -> Option<Scalar> {
        match self.said(key) {
            Some(said) => said.scalar().cloned(),
            None => default_of(&self.section.keys[self.section.index(key)?]),
        }
    }

    /// The good values of a list, or of the one value that stands for a list; else the default.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<(Scalar, Place)> {
        let good = |said: &Said| Some((said.scalar()?.clone(), said.place));
        match self.said(key) {
            Some(Said { item: Item::List(items), .. }) => items.iter().filter_map(good).collect(),
            Some(said) => good(said).into_iter().collect(),
            None => {
                let defaults =
                    self.section.index(key).map(|index| defaults_of(&self.section.keys[index]));
                defaults
                    .unwrap_or_default()
                    .into_iter()
                    .map(|scalar| (scalar, self.place))
                    .collect()
            }
        }
    }

    #[must_use]
    pub fn table(&self, key: &str) -> Option<&Fields> {
        match &self.said(key)?.item {
            Item::Table(fields) => Some(fields),
            _ => None,
        }
    }

    /// Names with what they name; empty when absent or `Bad`.
    #[must_use]
    pub fn named(&self, key: &str) -> &[(String, Said)] {
        match self.said(key) {
            Some(Said { item: Item::Named(names), .. }) => names,
            _ => &[],
        }
    }

    /// Where the key's value stands; else the table.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        self.said(key).map_or(self.place, |said| said.place)
    }

    /// The key path of one of its keys.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

impl Said {
    #[must_use]
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.item {
            Item::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    #[must_use]
    pub fn fields(&self) -> Option<&Fields> {
        match &self.item {
            Item::Table(fields) => Some(fields),
            _ => None,
        }
    }
}

fn default_of(key: &Key) -> Option<Scalar> {
    defaults_of(key).into_iter().next()
}

/// The default, read as if it stood in the file; several for a list.
fn defaults_of(key: &Key) -> Vec<Scalar> {
    let text = |text: &str| Value::Text(text.to_owned());
    let values = match key.fallback {
        Fallback::Absent | Fallback::Described(_) => Vec::new(),
        Fallback::Bool(on) => vec![Value::Bool(on)],
        Fallback::Integer(number) => vec![Value::Integer(number.into())],
        Fallback::Text(one) => vec![text(one)],
        Fallback::Words(words) => words.iter().map(|word| text(word)).collect(),
    };
    let read =
        |value: &Value| scalar(item_kind(&key.kind), value, std::path::Path::new(""), "").ok();
    values.iter().filter_map(read).collect()
}

/// The kind of one item where a list may stand.
const fn item_kind(kind: &Kind) -> &Kind {
    match kind {
        Kind::OneOrList { of, .. } | Kind::List { of, .. } => of,
        other => other,
    }
}

fn scalar(kind: &Kind, found: &Value, dir: &std::path::Path, hint: &str) -> value::Taken {
    match kind {
        Kind::Bool => value::boolean(found),
        Kind::Integer { min, max } => value::integer(found, *min, *max, hint),
        Kind::IntegerOrAuto { min, max } => value::integer_or_auto(found, *min, *max),
        Kind::Duration { min, max, off } => value::duration(found, *min, *max, *off),
        Kind::Rate => value::rate(found),
        Kind::Share => value::share(found),
        Kind::Word { words, later } => value::word(found, words, later),
        Kind::Statuses => value::statuses(found),
        Kind::Text(form) => value::text(found, *form, dir),
        Kind::List { .. } | Kind::OneOrList { .. } => {
            Err(value::wrong_type("one value", found, ""))
        }
        Kind::Table(_) | Kind::Named { .. } | Kind::Fields { .. } => {
            Err(value::wrong_type("a table", found, ""))
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads trees by the key table.
#[derive(Debug)]
pub struct Walk<'a> {
    pub sources: &'a Sources,
    pub found: &'a mut Findings,
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
        let mut fields = Fields { path, title, ..Fields::empty(section, place) };
        let tag = section.tag.and_then(|tag| match &table.get(tag)?.node.value {
            Value::Text(word) => Some(word.clone()),
            _ => None,
        });
        for entry in table.entries {
            match section.index(&entry.key) {
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
        let near = keys::nearest(name, fields.section.keys.iter().map(|key| key.name));
        let secret = |n: &str| keys::secret_names().any(|known| known == n);
        if secret(name) || near.is_some_and(secret) {
            self.found.mask(entry.node.place);
        }
        self.found.add(finding.hint(unknown_hint(fields.section, name, near)));
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
            (Kind::Table(section), Value::Table(table)) => {
                let title = if fields.path.is_empty() {
                    section.noun.to_owned()
                } else {
                    format!("{} of {}", section.noun, fields.title)
                };
                let whose = Whose {
                    path: fields.path_of(key.name),
                    title,
                    place: self.anchor(place, key_place),
                };
                Item::Table(Box::new(self.section(section, table, whose)))
            }
            (Kind::Named { section, max }, Value::Table(table)) => {
                if table.entries.len() > *max {
                    self.too_many(fields, key, key_place, table.entries.len(), *max);
                    return Item::Bad;
                }
                Item::Named(
                    table
                        .entries
                        .into_iter()
                        .map(|entry| self.named(fields, key, section, entry))
                        .collect(),
                )
            }
            (Kind::Fields { max }, Value::Table(table)) => {
                self.header_fields(fields, key, *max, key_place, table)
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
        match scalar(kind, found, dir, key.range_hint) {
            Ok(scalar) => Item::Scalar(scalar),
            Err(refusal) => self.refused(fields, key, place, refusal),
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

    fn header_fields(
        &mut self,
        fields: &Fields,
        key: &'static Key,
        max: usize,
        place: Place,
        table: Table,
    ) -> Item {
        if table.entries.len() > max {
            self.too_many(fields, key, place, table.entries.len(), max);
            return Item::Bad;
        }
        let mut names = Vec::new();
        for Entry { key: name, key_place, node } in table.entries {
            // These frame the request; the check writes them itself.
            let own = ["host", "content-length", "transfer-encoding", "connection"];
            let hint = match () {
                () if !value::is_token(&name) => "letters, digits and hyphens",
                () if own.contains(&name.to_lowercase().as_str()) => {
                    "the check sets it itself; for Host there is `host`"
                }
                () => "",
            };
            if !hint.is_empty() {
                let message = format!("\"{}\" cannot be a header field here", value::clip(&name));
                let path = join(&fields.path_of(key.name), &name);
                self.found.add(Finding::new(code::BAD_TEXT, key_place, path, message).hint(hint));
            }
            let place = node.place;
            let item = self.scalar(fields, key, &FIELD_VALUE, place, &node.value);
            names.push((name, Said { key_place, place, item }));
        }
        Item::Named(names)
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

fn unknown_hint(section: &Section, name: &str, near: Option<&str>) -> String {
    let elsewhere = || super::table::ROOT.all_below().into_iter().find(|s| s.index(name).is_some());
    if section.later.contains(&name) {
        format!("`{name}` is not in this version")
    } else if let Some(near) = near {
        format!("did you mean `{near}`?")
    } else if let Some(other) = elsewhere() {
        format!("it is a key of `{}`", other.heading)
    } else {
        String::new()
    }
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn no_key_of_today_is_called_a_key_of_later() {
        for section in super::super::table::ROOT.all_below() {
            for key in section.keys {
                assert!(!section.later.contains(&key.name), "{} {}", section.heading, key.name);
            }
        }
    }
}
