//! The routes of one listener, found by one walk.
//!
//! Every pair of a route and one of its hosts is an *entry*. What makes one entry better than
//! another (host, path, number of other conditions, place in the file) does not depend on the
//! request, so entries are sorted once and a lookup takes the smallest *order* that fits:
//! the exact host, then its wildcards from the longest, then routes without a host; within a
//! host a trie of paths, then regular expressions, then routes without a path.
//!
//! Invariants: an entry's order is its index; lists of orders ascend; a lookup allocates nothing
//! unless a regular expression meets a path with parameters.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use super::conditions::{self, Methods, Miss};
use super::pattern::{Captures, PathRank, Pattern, PatternError, segments_of, without_parameters};
use super::spec::{PathSpec, RouteSpec};
use super::trie::{NONE, Offers, Trie};
use super::{Fields, Query};

/// Different methods that the routes of one listener may name: the bits of a set.
pub const METHODS_MAX: usize = 64;
/// Longest host that is looked up among wildcards. No DNS name is longer (RFC 1035 §2.3.4), and
/// each label of a longer one would cost a hash of the rest.
pub const HOST_WILDCARD_LEN_MAX: usize = 255;
/// For `Allow` when a route takes every method but those that no route takes.
const METHODS_COMMON: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

#[derive(Debug)]
pub struct Table {
    pub(super) routes: Vec<Route>,
    /// By order.
    pub(super) entries: Vec<Entry>,
    exact: HashMap<Box<str>, Paths>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Paths>,
    every: Paths,
    methods: Vec<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) spec: RouteSpec,
    pub(super) path: PathMatch,
    /// 0: all.
    methods: Methods,
}

#[derive(Debug)]
pub(super) enum PathMatch {
    Any,
    Pattern(Pattern),
    Regex(regex::Regex),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: usize,
    pub(super) host: HostMatch,
    pub(super) rank: Rank,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum HostMatch {
    Exact(String),
    /// What follows `*.`.
    Wildcard(String),
    Every,
}

/// The smaller wins. Criteria in the order in which they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// 0 exact, 1 wildcard, 2 none; then the longer.
    pub(super) host: (u8, Reverse<usize>),
    pub(super) path: PathRank,
    pub(super) conditions: Reverse<usize>,
    pub(super) place: usize,
}

/// The entries of one host.
#[derive(Debug)]
struct Paths {
    by_case: Trie,
    in_any_case: Trie,
    regexes: Vec<u32>,
    unconditional: Vec<u32>,
}

/// What a request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Route {
        /// Index into the specifications.
        route: usize,
        /// The request asks, by CORS, whether it may send another.
        preflight: bool,
    },
    /// Every other condition of some route fits: 405, with [`Table::write_allow`].
    MethodMissed(Allowed),
    NoRoute,
}

/// The methods that would have found a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    methods: Methods,
    /// A route that asks for no method fits: it refuses CONNECT and TRACE only.
    common: bool,
}

/// A route that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// Index into the specifications.
    pub route: usize,
    pub why: PatternError,
}

impl Table {
    /// Sorts the routes of a listener, in file order.
    ///
    /// # Errors
    /// The first route whose path is no pattern, or with which there are more than
    /// [`METHODS_MAX`] methods.
    pub fn build(specs: Vec<RouteSpec>) -> Result<Self, TableError> {
        let mut methods: Vec<Box<str>> = Vec::new();
        let mut routes = Vec::with_capacity(specs.len());
        for (route, spec) in specs.into_iter().enumerate() {
            routes.push(Route::new(spec, &mut methods).map_err(|why| TableError { route, why })?);
        }
        let mut entries: Vec<Entry> =
            routes.iter().enumerate().flat_map(|(at, route)| route.entries(at)).collect();
        entries.sort_by_key(|entry| entry.rank);
        let mut table = Self {
            routes,
            entries,
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            every: Paths::new(),
            methods,
        };
        table.fill();
        Ok(table)
    }

    fn fill(&mut self) {
        for (order, entry) in self.entries.iter().enumerate() {
            let paths = match &entry.host {
                HostMatch::Exact(name) => {
                    self.exact.entry(name.as_str().into()).or_insert_with(Paths::new)
                }
                HostMatch::Wildcard(name) => {
                    self.wildcards.entry(name.as_str().into()).or_insert_with(Paths::new)
                }
                HostMatch::Every => &mut self.every,
            };
            let route = &self.routes[entry.route];
            let order = order as u32;
            match &route.path {
                PathMatch::Any => paths.unconditional.push(order),
                PathMatch::Regex(_) => paths.regexes.push(order),
                PathMatch::Pattern(pattern) if route.spec.matches.ignore_case => {
                    paths.in_any_case.insert(pattern, order);
                }
                PathMatch::Pattern(pattern) => paths.by_case.insert(pattern, order),
            }
        }
    }

    /// The specification of a route.
    #[must_use]
    pub fn spec(&self, route: usize) -> &RouteSpec {
        &self.routes[route].spec
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Finds the best route.
    #[must_use]
    pub fn find(&self, query: &Query<'_>) -> Found {
        let asked = self.asked(query);
        let mut search = Search { table: self, query, asked, best: NONE, allowed: None };
        if let Some(paths) = self.exact.get(query.host) {
            search.walk(paths);
        }
        if search.best == NONE && query.host.len() <= HOST_WILDCARD_LEN_MAX {
            for (dot, _) in query.host.match_indices('.') {
                if search.best != NONE {
                    break;
                }
                // One or more labels stand for the `*`.
                if dot == 0 {
                    continue;
                }
                if let Some(paths) = self.wildcards.get(&query.host[dot + 1..]) {
                    search.walk(paths);
                }
            }
        }
        if search.best == NONE {
            search.walk(&self.every);
        }
        match (search.best, search.allowed) {
            (NONE, _) if asked.never => Found::MethodMissed(search.allowed.unwrap_or_default()),
            (NONE, None) => Found::NoRoute,
            (NONE, Some(allowed)) => Found::MethodMissed(allowed),
            (best, _) => Found::Route {
                route: self.entries[best as usize].route,
                preflight: asked.preflight,
            },
        }
    }

    /// What the route captures in `path`, the one to forward.
    #[must_use]
    pub fn captures<'c>(&'c self, route: usize, path: &'c str) -> Captures<'c> {
        match &self.routes[route].path {
            PathMatch::Any => Captures::None,
            PathMatch::Pattern(pattern) => Captures::Pattern { pattern, path },
            PathMatch::Regex(regex) => groups(regex, &plain(path)),
        }
    }

    /// Appends the value of `Allow`: `GET, POST`.
    pub fn write_allow(&self, allowed: Allowed, out: &mut Vec<u8>) {
        let start = out.len();
        if allowed.common {
            out.extend_from_slice(METHODS_COMMON.as_bytes());
        }
        for (bit, method) in self.methods.iter().enumerate() {
            let named = allowed.common && METHODS_COMMON.split(", ").any(|own| own == &**method);
            if allowed.methods & (1 << bit) == 0 || named || never_taken(method) {
                continue;
            }
            if out.len() > start {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(method.as_bytes());
        }
    }

    /// The method that is matched: a preflight's is the one it asks for.
    pub(super) fn asked(&self, query: &Query<'_>) -> Asked {
        let wanted = preflight_method(query.method, query.fields);
        let method = wanted.unwrap_or(query.method.as_bytes());
        let bit = self.methods.iter().position(|own| own.as_bytes() == method);
        Asked {
            bit: bit.map_or(0, |bit| 1 << bit),
            preflight: wanted.is_some(),
            never: never_taken(query.method),
        }
    }
}

/// The method of a request, as the table's sets know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// 0: no route names it.
    bit: Methods,
    preflight: bool,
    never: bool,
}

/// No route takes these: a tunnel or an echo of credentials.
fn never_taken(method: &str) -> bool {
    matches!(method, "CONNECT" | "TRACE")
}

/// The method that a CORS preflight asks for (Fetch, "CORS-preflight request").
fn preflight_method<'f>(method: &str, fields: &'f dyn Fields) -> Option<&'f [u8]> {
    if method != "OPTIONS" {
        return None;
    }
    fields.line("origin", 0)?;
    fields.line("access-control-request-method", 0)
}

impl Route {
    fn new(spec: RouteSpec, names: &mut Vec<Box<str>>) -> Result<Self, PatternError> {
        let path = match &spec.matches.path {
            PathSpec::Any => PathMatch::Any,
            PathSpec::Pattern(text) => PathMatch::Pattern(Pattern::parse(text)?),
            PathSpec::Regex(regex) => PathMatch::Regex(whole(regex, spec.matches.ignore_case)?),
        };
        let mut methods = 0;
        for method in &spec.matches.methods {
            let bit = names.iter().position(|own| **own == **method).unwrap_or_else(|| {
                names.push(method.as_str().into());
                names.len() - 1
            });
            if bit >= METHODS_MAX {
                let why = format!("the routes name more than {METHODS_MAX} methods");
                return Err(PatternError(why));
            }
            methods |= 1 << bit;
        }
        Ok(Self { spec, path, methods })
    }

    fn entries(&self, route: usize) -> Vec<Entry> {
        let path = match &self.path {
            PathMatch::Any => PathRank::ANY,
            PathMatch::Pattern(pattern) => pattern.rank(),
            PathMatch::Regex(_) => PathRank::REGEX,
        };
        let conditions = Reverse(conditions::count(&self.spec.matches));
        let entry = |host: HostMatch| {
            let rank = Rank { host: host.rank(), path, conditions, place: route };
            Entry { route, host, rank }
        };
        let mut hosts: Vec<HostMatch> =
            self.spec.matches.hosts.iter().map(|text| HostMatch::parse(text)).collect();
        if hosts.is_empty() {
            hosts.push(HostMatch::Every);
        }
        hosts.sort();
        hosts.dedup();
        hosts.into_iter().map(entry).collect()
    }

    pub(super) fn fits_path(&self, path: &str) -> bool {
        match &self.path {
            PathMatch::Any => true,
            PathMatch::Pattern(pattern) => pattern.fits(path, self.spec.matches.ignore_case),
            PathMatch::Regex(regex) => regex.is_match(&plain(path)),
        }
    }

    /// Judges all but host and path, the method last.
    pub(super) fn check(&self, query: &Query<'_>, asked: Asked) -> Result<(), Miss<'_>> {
        conditions::check(&self.spec, query)?;
        if asked.never || self.methods != 0 && self.methods & asked.bit == 0 {
            return Err(Miss::Method);
        }
        Ok(())
    }
}

/// Holds the expression to the whole path. An alternative that ends early must not hide a longer
/// one, so this is done in the expression and not by looking at what was found.
fn whole(regex: &regex::Regex, ignore_case: bool) -> Result<regex::Regex, PatternError> {
    regex::RegexBuilder::new(&format!("^(?:{})$", regex.as_str()))
        .case_insensitive(ignore_case)
        .build()
        .map_err(|error| PatternError(error.to_string()))
}

fn groups<'c>(regex: &'c regex::Regex, path: &str) -> Captures<'c> {
    let Some(found) = regex.captures(path) else { return Captures::None };
    let named = regex
        .capture_names()
        .flatten()
        .filter_map(|name| found.name(name).map(|group| (name, group.as_str().to_owned())));
    Captures::Groups(named.collect())
}

/// The path without parameters.
fn plain(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            plain.push('/');
        }
        plain.push_str(without_parameters(segment));
    }
    Cow::Owned(plain)
}

impl HostMatch {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("*.") {
            Some(rest) => Self::Wildcard(rest.to_owned()),
            None if text == "*" => Self::Every,
            None => Self::Exact(text.to_owned()),
        }
    }

    const fn rank(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Wildcard(rest) => (1, Reverse(rest.len())),
            Self::Every => (2, Reverse(0)),
        }
    }

    pub(super) fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(rest) => {
                host.len() <= HOST_WILDCARD_LEN_MAX
                    && host
                        .strip_suffix(rest.as_str())
                        .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
            Self::Every => true,
        }
    }
}

impl Paths {
    fn new() -> Self {
        Self {
            by_case: Trie::new(false),
            in_any_case: Trie::new(true),
            regexes: Vec::new(),
            unconditional: Vec::new(),
        }
    }
}

/// One lookup under way.
struct Search<'s> {
    table: &'s Table,
    query: &'s Query<'s>,
    asked: Asked,
    best: u32,
    /// Of routes where only the method missed.
    allowed: Option<Allowed>,
}

impl Search<'_> {
    fn walk(&mut self, paths: &Paths) {
        if let Some(segments) = segments_of(self.query.path) {
            paths.by_case.walk(&segments, self);
            paths.in_any_case.walk(&segments, self);
        }
        for order in &paths.regexes {
            if *order >= self.best {
                break;
            }
            let route = self.table.entries[*order as usize].route;
            if self.table.routes[route].fits_path(self.query.path) {
                self.offer(std::slice::from_ref(order));
            }
        }
        self.offer(&paths.unconditional);
    }
}

impl Offers for Search<'_> {
    fn bound(&self) -> u32 {
        self.best
    }

    fn offer(&mut self, orders: &[u32]) {
        for &order in orders {
            if order >= self.best {
                return;
            }
            let route = &self.table.routes[self.table.entries[order as usize].route];
            match route.check(self.query, self.asked) {
                Ok(()) => {
                    self.best = order;
                    return;
                }
                Err(Miss::Method) => {
                    let allowed = self.allowed.get_or_insert_default();
                    allowed.methods |= route.methods;
                    allowed.common |= route.methods == 0;
                }
                Err(_) => {}
            }
        }
    }
}
