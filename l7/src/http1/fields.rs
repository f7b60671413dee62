//! Fields of a head as places in the buffer that was parsed.
//!
//! The store is kept by the caller and filled anew by each parse, so it allocates only while it
//! grows. It owns no bytes; whoever moves the buffer's content must parse again.

use std::ops::Range;

use super::known::{Class, Known};
use crate::route;

/// A place in the parsed buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes, given the buffer that was parsed.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.range()]
    }

    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    #[must_use]
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Where `part`, which must lie within `buf`, lies in it.
    pub(super) fn within(buf: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr() as usize - buf.as_ptr() as usize;
        debug_assert!(start + part.len() <= buf.len());
        Self::new(start, start + part.len())
    }
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpan {
    pub name: Span,
    /// Without the white space around it.
    pub value: Span,
    pub known: Option<Known>,
    /// Ends at this hop: by its class, or because `Connection` names it.
    pub hop: bool,
}

/// The fields of one head, in order.
#[derive(Debug, Default)]
pub struct Fields {
    list: Vec<FieldSpan>,
}

impl Fields {
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.list.clear();
    }

    #[must_use]
    pub fn as_slice(&self) -> &[FieldSpan] {
        &self.list
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names and values, given the buffer that was parsed.
    pub fn iter<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.list.iter().map(|field| (field.name.of(buf), field.value.of(buf)))
    }

    /// Those that do not end at this hop.
    pub fn end_to_end(&self) -> impl Iterator<Item = &FieldSpan> {
        self.list.iter().filter(|field| !field.hop)
    }

    /// Values of all lines of one name, in order.
    #[must_use]
    pub fn values<'a>(
        &'a self,
        buf: &'a [u8],
        known: Known,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.list
            .iter()
            .filter(move |field| field.known == Some(known))
            .map(|field| field.value.of(buf))
    }

    /// Value of the first line of one name.
    #[must_use]
    pub fn first<'a>(&'a self, buf: &'a [u8], known: Known) -> Option<&'a [u8]> {
        self.values(buf, known).next()
    }

    /// Makes room for `more` fields at once.
    pub(super) fn reserve(&mut self, more: usize) {
        self.list.reserve(more);
    }

    pub(super) fn push(&mut self, name: Span, value: Span, known: Option<Known>) {
        let hop = known.is_some_and(|known| known.class() == Class::Hop);
        self.list.push(FieldSpan { name, value, known, hop });
    }

    /// Lets every line of this name end at this hop.
    pub(super) fn end_here(&mut self, buf: &[u8], name: &[u8]) {
        for field in &mut self.list {
            field.hop |= field.name.of(buf).eq_ignore_ascii_case(name);
        }
    }
}

/// The fields of a parsed head with its bytes, as the route table and the identity rules ask
/// for them.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'h> {
    pub bytes: &'h [u8],
    pub fields: &'h Fields,
}

impl route::Fields for Lines<'_> {
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
