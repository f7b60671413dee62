//! Which route a request takes, and what the route makes of it.
//!
//! [`Table`] finds the route, once, on the request as received. The other modules are its
//! actions as values: [`rewrite`], [`redirect`], [`split`], [`sticky`], [`headers`]. Headers, bodies and
//! servers are other modules' matters; nothing here allocates while a request is matched,
//! except by `path_regex` on a path with `;`.
//!
//! The path of a [`Query`] has the same segments as the one that goes to the server: that is
//! what keeps a route's policies from being walked around. Captures and rewrites work on the
//! path to forward, by the number of the segment.

mod conditions;
pub mod explain;
pub mod headers;
pub mod pattern;
pub mod redirect;
pub mod rewrite;
pub mod shadow;
pub mod spec;
pub mod split;
pub mod sticky;
pub mod table;
pub mod template;
mod trie;

#[cfg(test)]
mod tests;

pub use conditions::cookies;
pub use pattern::{Captures, Pattern, PatternError};
pub use table::{Allowed, Found, Table, TableError};

/// What a request is matched by.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    /// Lower case, port and last dot cut; empty when an HTTP/1.0 request has none.
    pub host: &'q str,
    /// Normal form; parameters (`;…`) are passed over, should it have any.
    pub path: &'q str,
    /// As sent: methods are case-sensitive. An extended CONNECT is given as `GET`.
    pub method: &'q str,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'q str,
    /// Without its `?`, as sent.
    pub query: &'q str,
    pub fields: &'q dyn Fields,
}

impl std::fmt::Debug for Query<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}://{}{}?{}", self.method, self.scheme, self.host, self.path, self.query)
    }
}

/// The field lines of a head, without a map.
pub trait Fields {
    /// The value of the `nth` line (from 0) called `name`, in any case; without surrounding
    /// white space.
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]>;
}

/// No field at all, for tests and for questions about hosts and paths only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFields;

impl Fields for NoFields {
    fn line(&self, _name: &str, _nth: usize) -> Option<&[u8]> {
        None
    }
}

impl Fields for [(&str, &str)] {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        let mut lines = self.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        lines.nth(nth).map(|(_, value)| value.as_bytes())
    }
}

impl<const N: usize> Fields for [(&str, &str); N] {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.as_slice().line(name, nth)
    }
}

impl Fields for Vec<(String, String)> {
    fn line(&self, name: &str, nth: usize) -> Option<&[u8]> {
        let mut lines = self.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        lines.nth(nth).map(|(_, value)| value.as_bytes())
    }
}

/// All lines called `name`.
pub(crate) fn lines<'f>(
    fields: &'f dyn Fields,
    name: &'f str,
) -> impl Iterator<Item = &'f [u8]> + 'f {
    (0..).map_while(move |nth| fields.line(name, nth))
}
