//! Routes that no request can take, for the lint.
//!
//! A route is shadowed when, for each of its hosts, another route fits every request that it
//! fits and ranks before it. Values are compared as written; expressions only for equality. So
//! what is reported is certain, and some shadows are not seen.

use std::collections::HashMap;

use super::pattern::{Pattern, Segment};
use super::spec::{ActionSpec, MatchSpec, RouteSpec, ValueSpec};
use super::table::{Entry, HostMatch, PathMatch, Route, Table};

impl Table {
    /// Pairs of a route that is never taken and one that takes its requests.
    #[must_use]
    pub fn shadowed(&self) -> Vec<(usize, usize)> {
        // To rank before an entry and to fit all its hosts is to have the same host.
        let mut by_host: HashMap<&HostMatch, Vec<&Entry>> = HashMap::new();
        let mut shadow: Vec<Option<usize>> = vec![None; self.len()];
        let mut free = vec![false; self.len()];
        for entry in &self.entries {
            let before = by_host.entry(&entry.host).or_default();
            let own = &self.routes[entry.route];
            match before.iter().find(|other| self.routes[other.route].takes_all_of(own)) {
                Some(other) => shadow[entry.route] = shadow[entry.route].or(Some(other.route)),
                None => free[entry.route] = true,
            }
            before.push(entry);
        }
        let certain = shadow.into_iter().enumerate().filter(|(route, _)| !free[*route]);
        certain.filter_map(|(route, by)| Some((route, by?))).collect()
    }
}

impl Route {
    fn takes_all_of(&self, other: &Self) -> bool {
        !passes_by_scheme(&self.spec)
            && path_takes_all_of(self, other)
            && conditions_hold_whenever(&self.spec.matches, &other.spec.matches)
    }
}

/// A redirect that lets requests of its own scheme pass does not take all.
fn passes_by_scheme(spec: &RouteSpec) -> bool {
    matches!(&spec.action, ActionSpec::Redirect(to) if to.to.is_none() && to.scheme.is_some())
}

fn path_takes_all_of(own: &Route, other: &Route) -> bool {
    let (folds, other_folds) = (own.spec.matches.ignore_case, other.spec.matches.ignore_case);
    match (&own.path, &other.path) {
        (PathMatch::Any, _) => true,
        (_, PathMatch::Any) | (PathMatch::Regex(_), PathMatch::Pattern(_)) => false,
        (PathMatch::Regex(own), PathMatch::Regex(other)) => own.as_str() == other.as_str(),
        // `/*`: an expression may fit what is no path, but no request has such a path.
        (PathMatch::Pattern(own), PathMatch::Regex(_)) => own.rest && own.segments.is_empty(),
        (PathMatch::Pattern(own), PathMatch::Pattern(other)) => {
            pattern_takes_all_of(own, folds, other, other_folds)
        }
    }
}

fn pattern_takes_all_of(own: &Pattern, folds: bool, other: &Pattern, other_folds: bool) -> bool {
    let long_enough = other.segments.len() >= own.segments.len();
    let open_enough =
        if own.rest { true } else { !other.rest && other.segments.len() == own.segments.len() };
    long_enough
        && open_enough
        && own.segments.iter().zip(&other.segments).all(|pair| match pair {
            (Segment::Capture(_), Segment::Capture(_)) => true,
            (Segment::Capture(_), Segment::Literal(text)) => !text.is_empty(),
            (Segment::Literal(_), Segment::Capture(_)) => false,
            (Segment::Literal(own), Segment::Literal(other)) => {
                let letters = other.bytes().any(|byte| byte.is_ascii_alphabetic());
                match (folds, other_folds && letters) {
                    (true, _) => own.eq_ignore_ascii_case(other),
                    (false, false) => own == other,
                    (false, true) => false,
                }
            }
        })
}

/// Whether all that `own` asks for beside the path follows from what `other` asks for.
fn conditions_hold_whenever(own: &MatchSpec, other: &MatchSpec) -> bool {
    let methods = own.methods.is_empty()
        || !other.methods.is_empty() && other.methods.iter().all(|one| own.methods.contains(one));
    methods
        && values_hold(&own.headers, &other.headers)
        && values_hold(&own.query, &other.query)
        && values_hold(&own.cookies, &other.cookies)
}

fn values_hold(own: &[(String, ValueSpec)], other: &[(String, ValueSpec)]) -> bool {
    own.iter().all(|(name, wanted)| {
        other.iter().any(|(other_name, given)| other_name == name && follows(wanted, given))
    })
}

fn follows(wanted: &ValueSpec, given: &ValueSpec) -> bool {
    match (wanted, given) {
        (ValueSpec::Present, _) => true,
        (ValueSpec::Any(_), ValueSpec::Present) => false,
        (ValueSpec::Any(wanted), ValueSpec::Any(given)) => {
            given.iter().all(|value| wanted.contains(value))
        }
    }
}
