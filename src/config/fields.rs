//! What the file says, read by the key table: one [`Fields`] for each table.
//!
//! A value that was refused is [`Item::Bad`]: it was said, so nothing may be called missing
//! because of it, and whoever looks for its value finds none. Absent keys have the defaults of
//! the table.

use super::keys::{Fallback, Key, Kind, Section};
use super::source::Place;
use super::tree::Value;
use super::value::Scalar;
use super::walk;

/// One table that was read by its section.
#[derive(Clone, Debug)]
pub struct Fields {
    pub(super) section: &'static Section,
    /// Where to point at for the table as a whole.
    pub place: Place,
    /// For example `pool.pg.check`; empty at the top.
    pub path: String,
    /// For example "`check` of pool `pg`".
    pub title: String,
    /// By key index; `None`: not in the file.
    pub(super) slots: Vec<Option<Said>>,
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

    /// Whether the section has such a key at all.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        self.section.index(key).is_some()
    }

    /// Whether the file says the key, well or badly.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.said(key).is_some()
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

    /// The good tables of a list; empty when absent or `Bad`.
    pub fn tables(&self, key: &str) -> impl Iterator<Item = &Fields> {
        let items = match self.said(key) {
            Some(Said { item: Item::List(items), .. }) => items.as_slice(),
            _ => &[],
        };
        items.iter().filter_map(Said::fields)
    }

    /// Where the key's value stands; else the table.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        self.said(key).map_or(self.place, |said| said.place)
    }

    /// The key path of one of its keys.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        walk::join(&self.path, key)
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

    /// The good values of a list, or of the one value that stands for a list.
    #[must_use]
    pub fn scalars(&self) -> Vec<&Scalar> {
        match &self.item {
            Item::List(items) => items.iter().filter_map(Self::scalar).collect(),
            _ => self.scalar().into_iter().collect(),
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
pub(super) fn defaults_of(key: &Key) -> Vec<Scalar> {
    let text = |text: &str| Value::Text(text.to_owned());
    let values = match key.fallback {
        Fallback::Absent | Fallback::Described(_) => Vec::new(),
        Fallback::Bool(on) => vec![Value::Bool(on)],
        Fallback::Integer(number) => vec![Value::Integer(number.into())],
        Fallback::Text(one) => vec![text(one)],
        Fallback::Words(words) => words.iter().map(|word| text(word)).collect(),
    };
    let read = |value: &Value| {
        walk::scalar(item_kind(&key.kind), value, std::path::Path::new(""), "").ok()
    };
    values.iter().filter_map(read).collect()
}

/// The kind of one item where a list may stand.
pub(super) const fn item_kind(kind: &Kind) -> &Kind {
    match kind {
        Kind::OneOrList { of, .. } | Kind::List { of, .. } => of,
        other => other,
    }
}
