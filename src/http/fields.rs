//! Field lines of a parsed head, as the route table and the identity rules ask for them.

use sluicegate_l7::http1::{Fields, Known};
use sluicegate_l7::route;

/// A head: the bytes that were parsed, and where its fields are in them.
#[derive(Clone, Copy, Debug)]
pub struct Head<'h> {
    pub bytes: &'h [u8],
    pub fields: &'h Fields,
}

impl route::Fields for Head<'_> {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        match Known::of(name.as_bytes()) {
            // A family of names (`x-consumer-*`) has one entry.
            Some(known) if known.name().len() == name.len() => {
                self.fields.values(self.bytes, known).nth(nth)
            }
            _ => {
                let mut lines = self
                    .fields
                    .iter(self.bytes)
                    .filter(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()));
                lines.nth(nth).map(|(_, value)| value)
            }
        }
    }
}
