//! What a route asks for beside host and path: methods, fields, query, cookies, scheme.
//!
//! Owns the comparison of values; the order among routes is the table's. The method is judged
//! last, so that a miss by method means that nothing else missed.

use super::spec::{ActionSpec, MatchSpec, RouteSpec, ValueSpec};
use super::{Fields, Query, lines};

/// Methods as a set: bit `n` is the table's `n`th method.
pub(crate) type Methods = u64;

/// The first condition that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'t> {
    Host,
    Path,
    /// A redirect to the scheme that the request has already.
    Scheme,
    Header(&'t str),
    Query(&'t str),
    Cookie(&'t str),
    Method,
}

/// How many conditions beside host and path a route has.
pub(crate) fn count(spec: &MatchSpec) -> usize {
    usize::from(!spec.methods.is_empty())
        + spec.headers.len()
        + spec.query.len()
        + spec.cookies.len()
}

/// Judges all but host, path and method.
pub(crate) fn check<'t>(spec: &'t RouteSpec, query: &Query<'_>) -> Result<(), Miss<'t>> {
    if let ActionSpec::Redirect(redirect) = &spec.action
        && redirect.to.is_none()
        && redirect.scheme.as_deref().is_some_and(|scheme| scheme == query.scheme)
    {
        return Err(Miss::Scheme);
    }
    for (name, value) in &spec.matches.headers {
        if !lines(query.fields, name).any(|line| value.fits(line)) {
            return Err(Miss::Header(name));
        }
    }
    for (name, value) in &spec.matches.query {
        if !parameters(query.query)
            .any(|(own, given)| decoded_equals(own, name.as_bytes()) && value.fits_encoded(given))
        {
            return Err(Miss::Query(name));
        }
    }
    for (name, value) in &spec.matches.cookies {
        if !cookies(query.fields, name).any(|given| value.fits(given)) {
            return Err(Miss::Cookie(name));
        }
    }
    Ok(())
}

impl ValueSpec {
    fn fits(&self, given: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Any(values) => values.iter().any(|value| value.as_bytes() == given),
        }
    }

    fn fits_encoded(&self, given: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Any(values) => values.iter().any(|value| decoded_equals(given, value.as_bytes())),
        }
    }
}

/// Name and value of each parameter, still encoded.
fn parameters(query: &str) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.as_bytes().split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        }
    })
}

/// Compares as the server will read it: `%41` is `A`, `+` is a space. Bad escapes stand for
/// themselves.
fn decoded_equals(encoded: &[u8], plain: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut at = 0;
    for &wanted in plain {
        let Some(&byte) = encoded.get(at) else { return false };
        let escape = digit(encoded.get(at + 1)).zip(digit(encoded.get(at + 2)));
        let (found, width) = match (byte, escape) {
            (b'%', Some((high, low))) => ((high * 16 + low) as u8, 3),
            (b'+', _) => (b' ', 1),
            _ => (byte, 1),
        };
        if found != wanted {
            return false;
        }
        at += width;
    }
    at == encoded.len()
}

/// The values of the cookies called `name` (RFC 6265 §4.2.1), quotes cut.
pub fn cookies<'f>(fields: &'f dyn Fields, name: &'f str) -> impl Iterator<Item = &'f [u8]> + 'f {
    lines(fields, "cookie").flat_map(|line| line.split(|&byte| byte == b';')).filter_map(
        move |pair| {
            let at = memchr::memchr(b'=', pair)?;
            (pair[..at].trim_ascii() == name.as_bytes()).then(|| {
                let value = pair[at + 1..].trim_ascii();
                value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_compared_as_the_server_reads_them() {
        assert!(decoded_equals(b"a%20b+c", b"a b c"));
        assert!(decoded_equals(b"%zz", b"%zz"));
        assert!(!decoded_equals(b"ab", b"a"));
        assert!(!decoded_equals(b"a", b"ab"));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let fields = [("Cookie", "xbeta=2; beta=\"1\""), ("cookie", "beta=3")];
        let found: Vec<&[u8]> = cookies(&fields, "beta").collect();
        assert_eq!(found, [b"1", b"3"]);
    }

    #[test]
    fn an_empty_query_has_no_parameter() {
        assert_eq!(parameters("").count(), 0);
        assert_eq!(parameters("a&&b=").collect::<Vec<_>>(), [(&b"a"[..], &b""[..]), (b"b", b"")]);
    }
}
