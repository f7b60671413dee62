//! The spanned tree that TOML and JSON are both read into.
//!
//! Every key and value knows its place; tables keep the order of the file. The tree says
//! nothing about which keys exist or what they mean.

use super::source::Place;

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Bool(bool),
    /// Too large for 128 bits: saturated, so that range checks refuse it.
    Integer(i128),
    /// No key takes one, so its value is not kept.
    Float,
    /// No key takes one, so its value is not kept.
    Date,
    /// JSON only.
    Null,
    Text(String),
    List(Vec<Node>),
    Table(Table),
}

#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In file order; no key twice.
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

impl Value {
    /// With its article, for "must be …, found …".
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Float => "a number with a fraction",
            Self::Date => "a date",
            Self::Null => "null",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Table {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Removes and returns the entry.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }
}
