//! The path and host under which a server sees a request.
//!
//! Works on the path as forwarded, parameters included; the query goes on byte for byte. What
//! comes out is checked anew: a value put into a path must not open a way that the normal form
//! had closed.

use super::pattern::without_parameters;
use super::spec::RewriteSpec;
use super::template::Variables;

/// The rewritten path is not safe to forward: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsafePath;

/// Appends the request target's path: `path` with the route's changes.
///
/// # Errors
/// [`UnsafePath`] when a value made it one; `out` is then as it was.
pub fn write_path(
    spec: &RewriteSpec,
    path: &str,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) -> Result<(), UnsafePath> {
    let start = out.len();
    if let Some(template) = &spec.path {
        template.render(variables, out);
        if !is_safe(&out[start..]) {
            out.truncate(start);
            return Err(UnsafePath);
        }
        return Ok(());
    }
    let stripped = spec.strip_prefix.as_deref().map_or(path, |prefix| strip(path, prefix));
    if !stripped.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(stripped.as_bytes());
    Ok(())
}

/// Cuts `prefix` by segments; a path without it stays. `/v1` cut from `/v1` leaves `/`.
fn strip<'p>(path: &'p str, prefix: &str) -> &'p str {
    let prefix = prefix.trim_end_matches('/');
    let mut rest = path;
    for wanted in prefix.split('/').skip(1) {
        let Some(after) = rest.strip_prefix('/') else { return path };
        let end = after.find('/').unwrap_or(after.len());
        // Without case: escapes may be written either way, and so may a path whose route ignores
        // case. A prefix that the route did not ask for may go too; it is what is named here.
        if !without_parameters(&after[..end]).eq_ignore_ascii_case(wanted) {
            return path;
        }
        rest = &after[end..];
    }
    rest
}

/// Whether a path is in normal form: printable ASCII that a path may have, whole escapes, no
/// empty and no dot segment, no escaped dot, backslash or control.
///
/// `%2F` may stand: only a listener that keeps it lets it get this far.
#[must_use]
pub fn is_safe(path: &[u8]) -> bool {
    let Some(inner) = path.strip_prefix(b"/") else { return false };
    if !bytes_are_safe(inner) {
        return false;
    }
    let mut segments = inner.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let plain = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        let last = segments.peek().is_none();
        // The empty segment after a last slash is fine, unless it has parameters.
        let empty = plain.is_empty() && !(last && segment.is_empty());
        if empty || plain == b"." || plain == b".." {
            return false;
        }
    }
    true
}

fn bytes_are_safe(path: &[u8]) -> bool {
    let mut at = 0;
    while at < path.len() {
        match path[at] {
            b'%' => {
                let digit = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
                let Some(high) = digit(path.get(at + 1)) else { return false };
                let Some(low) = digit(path.get(at + 2)) else { return false };
                let byte = (high * 16 + low) as u8;
                if byte.is_ascii_control() || matches!(byte, b'.' | b'\\') {
                    return false;
                }
                at += 3;
            }
            b'?' | b'#' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return false;
            }
            0x21..=0x7e => at += 1,
            _ => return false,
        }
    }
    true
}

/// Appends the host for the server, if the route changes it; `false` if it does not, or if the
/// value is no host.
pub fn write_host(
    spec: &RewriteSpec,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) -> bool {
    let Some(template) = &spec.host else { return false };
    let start = out.len();
    template.render(variables, out);
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte);
    let good = out.len() > start && out[start..].iter().all(fine);
    if !good {
        out.truncate(start);
    }
    good
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::template::{Template, Variable};
    use super::*;

    struct Header<'h>(&'h str);

    impl Variables for Header<'_> {
        fn append(&self, _variable: &Variable, out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(self.0.as_bytes());
            true
        }
    }

    fn stripped(path: &str, prefix: &str) -> String {
        let spec = RewriteSpec { strip_prefix: Some(prefix.into()), ..RewriteSpec::default() };
        let mut out = Vec::new();
        write_path(&spec, path, &Header(""), &mut out).expect("a cut path stays safe");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_prefix_is_cut_at_segments_only() {
        assert_eq!(stripped("/v1/users/7", "/v1"), "/users/7");
        assert_eq!(stripped("/v1", "/v1"), "/");
        assert_eq!(stripped("/v1/", "/v1/"), "/");
        assert_eq!(stripped("/v10/x", "/v1"), "/v10/x");
        assert_eq!(stripped("/v1;a/x;b", "/v1"), "/x;b");
        assert_eq!(stripped("/a", "/"), "/a");
        assert_eq!(stripped("/%c3%a9/x", "/%C3%A9"), "/x");
    }

    #[test]
    fn a_value_cannot_open_a_way_out_of_the_path() {
        let template = Template::parse("/u/{header:X-User}", &[]).expect("template");
        let spec = RewriteSpec { path: Some(template), ..RewriteSpec::default() };
        let path = |value| {
            let mut out = b"GET ".to_vec();
            write_path(&spec, "/", &Header(value), &mut out)
                .map(|()| String::from_utf8(out.clone()).expect("text"))
                .inspect_err(|_| assert_eq!(out, b"GET "))
        };
        assert_eq!(path("alice/x").as_deref(), Ok("GET /u/alice/x"));
        for evil in [
            "../admin",
            "..",
            "a/./b",
            "/admin",
            "a b",
            "%2e%2e/admin",
            "a?b",
            "a#b",
            "a\\b",
            "%0d",
            "%zz",
            "é",
            "..;x/b",
            "a;/;b/c",
            "%5c",
        ] {
            assert_eq!(path(evil), Err(UnsafePath), "{evil}");
        }
    }

    proptest! {
        /// Decoded again and again, parameters cut, as the laxest server would.
        #[test]
        fn no_value_leaves_its_place(
            value in prop::collection::vec(
                prop::sample::select(vec![
                    "a", ".", "..", ";", "/", "%", "2e", "%2e", "%2E", "%5c", "\\", "?", "#", " ", "é",
                ]),
                0..8,
            ),
        ) {
            let template = Template::parse("/u/{header:X}/end", &[]).expect("template");
            let spec = RewriteSpec { path: Some(template), ..RewriteSpec::default() };
            let (value, mut out) = (value.concat(), Vec::new());
            if write_path(&spec, "/", &Header(&value), &mut out).is_ok() {
                let text = String::from_utf8(out).expect("text");
                prop_assert!(text.starts_with("/u/") && text.ends_with("/end"));
                let lax = text.to_lowercase().replace("%2e", ".").replace(['\\'], "/");
                let lax = lax.replace("%5c", "/");
                for segment in lax.split('/').skip(1) {
                    let plain = segment.split(';').next().unwrap_or_default();
                    prop_assert!(!matches!(plain, "" | "." | ".."), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_host_that_is_none_is_not_written() {
        let template = Template::parse("{header:X-Host}", &[]).expect("template");
        let spec = RewriteSpec { host: Some(template), ..RewriteSpec::default() };
        let mut out = Vec::new();
        assert!(!write_host(&spec, &Header("a b"), &mut out) && out.is_empty());
        assert!(!write_host(&spec, &Header(""), &mut out));
        assert!(write_host(&spec, &Header("db.example.com:80"), &mut out));
        assert_eq!(out, b"db.example.com:80");
    }
}
