//! Numbers that stand for names of routes and consumers in counters and records.
//!
//! A route is an index only within one plan; what was counted, and a record on its way to the
//! log, lives longer. So a name gets a number for the life of the process, and a reload adds
//! those that are new.

use std::collections::HashMap;
use std::sync::Arc;

/// Grows only; who holds an older one has the same numbers.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Labels {
    /// The number of a name, a new one if it has none yet.
    pub fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as u32;
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// "" for a number that no name has.
    #[must_use]
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", |name| name)
    }

    /// All names, by number.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_while_others_come() {
        let mut labels = Labels::default();
        let first = labels.number("users");
        let older = labels.clone();
        assert_ne!(labels.number("orders"), first);
        assert_eq!(labels.number("users"), first);
        assert_eq!((older.name(first), labels.name(first)), ("users", "users"));
        assert_eq!((older.name(1), labels.name(1), labels.name(2)), ("", "orders", ""));
    }
}
