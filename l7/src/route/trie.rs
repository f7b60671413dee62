//! The path patterns of one host, as a trie of segments.
//!
//! Each node knows the smallest order in its subtree, so a walk leaves out what cannot win.
//! `order` is the table's: the smaller wins, whatever the request.

use super::pattern::{Pattern, Segment};

/// No route.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    ignore_case: bool,
}

#[derive(Debug)]
struct Node {
    /// Sorted by [`Trie::compare`].
    literals: Vec<(Box<str>, u32)>,
    capture: Option<u32>,
    /// Patterns that end here, ascending.
    exact: Vec<u32>,
    /// Patterns whose `*` begins here, ascending.
    rest: Vec<u32>,
    /// Smallest order here and below.
    best: u32,
}

impl Node {
    const fn new() -> Self {
        Self {
            literals: Vec::new(),
            capture: None,
            exact: Vec::new(),
            rest: Vec::new(),
            best: NONE,
        }
    }
}

/// Takes the orders that fit a path, and says what is still worth offering.
pub(crate) trait Offers {
    /// Only orders below this one matter.
    fn bound(&self) -> u32;
    fn offer(&mut self, orders: &[u32]);
}

impl Trie {
    pub(crate) fn new(ignore_case: bool) -> Self {
        Self { nodes: vec![Node::new()], ignore_case }
    }

    /// Orders are inserted ascending.
    pub(crate) fn insert(&mut self, pattern: &Pattern, order: u32) {
        let mut at = 0;
        self.lower(at, order);
        for segment in &pattern.segments {
            at = match segment {
                Segment::Literal(text) => self.literal_child(at, text),
                Segment::Capture(_) => self.capture_child(at),
            };
            self.lower(at, order);
        }
        let node = &mut self.nodes[at];
        let list = if pattern.rest { &mut node.rest } else { &mut node.exact };
        debug_assert!(list.last().is_none_or(|&last| last < order));
        list.push(order);
    }

    fn lower(&mut self, at: usize, order: u32) {
        self.nodes[at].best = self.nodes[at].best.min(order);
    }

    fn literal_child(&mut self, at: usize, text: &str) -> usize {
        match self.position(at, text) {
            Ok(found) => self.nodes[at].literals[found].1 as usize,
            Err(place) => {
                let new = self.push();
                self.nodes[at].literals.insert(place, (text.into(), new));
                new as usize
            }
        }
    }

    fn capture_child(&mut self, at: usize) -> usize {
        if let Some(found) = self.nodes[at].capture {
            return found as usize;
        }
        let new = self.push();
        self.nodes[at].capture = Some(new);
        new as usize
    }

    fn push(&mut self) -> u32 {
        self.nodes.push(Node::new());
        (self.nodes.len() - 1) as u32
    }

    fn position(&self, at: usize, text: &str) -> Result<usize, usize> {
        self.nodes[at].literals.binary_search_by(|(own, _)| self.compare(own, text))
    }

    fn compare(&self, a: &str, b: &str) -> std::cmp::Ordering {
        if self.ignore_case {
            a.bytes()
                .map(|byte| byte.to_ascii_lowercase())
                .cmp(b.bytes().map(|byte| byte.to_ascii_lowercase()))
        } else {
            a.cmp(b)
        }
    }

    /// Offers every pattern that `segments` fit and that could still win.
    pub(crate) fn walk<'p>(
        &self,
        segments: &(impl Iterator<Item = &'p str> + Clone),
        offers: &mut impl Offers,
    ) {
        self.walk_from(0, segments.clone(), offers);
    }

    fn walk_from<'p>(
        &self,
        at: usize,
        mut segments: impl Iterator<Item = &'p str> + Clone,
        offers: &mut impl Offers,
    ) {
        let node = &self.nodes[at];
        if node.best >= offers.bound() {
            return;
        }
        offers.offer(&node.rest);
        let Some(segment) = segments.next() else {
            offers.offer(&node.exact);
            return;
        };
        if let Ok(found) = self.position(at, segment) {
            self.walk_from(node.literals[found].1 as usize, segments.clone(), offers);
        }
        if let Some(child) = node.capture
            && !segment.is_empty()
        {
            self.walk_from(child as usize, segments, offers);
        }
    }
}
