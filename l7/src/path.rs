//! One normal form of a path, for routes and for servers.
//!
//! What is forwarded is what was matched: routes and servers get the same segments, so no
//! spelling of a path passes a rule that another spelling does not. Escaped unreserved
//! characters are decoded (RFC 3986 §6.2.2.2), dot segments resolved (§5.2.4), double slashes
//! merged. What servers are known to read in different ways is refused.
//!
//! Two forms leave here. The one to forward keeps `;parameters` and the case of escapes. The one
//! to match has no parameters, and escapes in upper case (§6.2.2.1). Both have the same number of
//! segments, and the normal form of a normal form is itself.
//!
//! The query is not looked into, only kept free of bytes that no request line may hold.

use std::ops::Range;

use memchr::{memchr, memrchr};

use crate::http1::{Limits, Reject};

/// Where a part of the result is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Target(Range<usize>),
    Out(Range<usize>),
}

impl Place {
    fn of<'a>(&self, target: &'a [u8], out: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Target(range) => &target[range.clone()],
            Self::Out(range) => &out[range.clone()],
        }
    }
}

/// A target in normal form, as places in the target and in the buffer that [`normalise`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    forward: Place,
    matching: Place,
    query: Option<Range<usize>>,
}

impl Normal {
    /// The path to forward. Begins with `/`, never with `//`.
    #[must_use]
    pub fn forward<'a>(&self, target: &'a [u8], out: &'a [u8]) -> &'a [u8] {
        self.forward.of(target, out)
    }

    /// The path to match routes against.
    #[must_use]
    pub fn matching<'a>(&self, target: &'a [u8], out: &'a [u8]) -> &'a [u8] {
        self.matching.of(target, out)
    }

    /// What stands behind the first `?`, which may be nothing.
    #[must_use]
    pub fn query<'a>(&self, target: &'a [u8]) -> Option<&'a [u8]> {
        self.query.clone().map(|range| &target[range])
    }

    /// Path and query may be forwarded as they came.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        matches!(self.forward, Place::Target(_))
    }
}

/// What a byte means to the scan of the fast path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Plain,
    /// `/`: what follows it decides.
    Slash,
    Question,
    /// Needs the slow path.
    Special,
}

static SORTS: [Sort; 256] = {
    let mut sorts = [Sort::Special; 256];
    let mut byte = b'!';
    while byte < 0x7F {
        sorts[byte as usize] = match byte {
            b'/' => Sort::Slash,
            b'?' => Sort::Question,
            b'%' | b';' | b'\\' | b'#' => Sort::Special,
            _ => Sort::Plain,
        };
        byte += 1;
    }
    sorts
};

/// Brings an origin-form target, or what an absolute-form has behind its authority, into normal
/// form. `out` is overwritten, and stays empty when there is nothing to change.
///
/// # Errors
///
/// When servers would read the path in different ways, or it holds what no target may.
pub fn normalise(target: &[u8], out: &mut Vec<u8>, limits: &Limits) -> Result<Normal, Reject> {
    out.clear();
    let (path_end, simple) = scan(target);
    let query = (path_end < target.len()).then_some(path_end + 1..target.len());
    if let Some(query) = &query {
        check_query(&target[query.clone()])?;
    }
    if simple {
        let place = Place::Target(0..path_end);
        return Ok(Normal { forward: place.clone(), matching: place, query });
    }
    let path = match &target[..path_end] {
        // RFC 9112 §3.2.1: an empty path is sent as `/`.
        b"" => b"/",
        path => path,
    };
    let rest = path.strip_prefix(b"/").ok_or(Reject::Target)?;
    write_forward(rest, out, limits)?;
    let forward = if out.as_slice() == &target[..path_end] {
        out.clear();
        Place::Target(0..path_end)
    } else {
        Place::Out(0..out.len())
    };
    let matching = write_matching(&forward, target, out);
    Ok(Normal { forward, matching, query })
}

/// Where the path ends, and whether it is in normal form for both uses already.
fn scan(target: &[u8]) -> (usize, bool) {
    let mut simple = target.first() == Some(&b'/');
    for (at, &byte) in target.iter().enumerate() {
        match SORTS[usize::from(byte)] {
            Sort::Plain => {}
            // A dot file is plain, too, but not worth a look here.
            Sort::Slash => simple &= !matches!(target.get(at + 1), Some(b'/' | b'.')),
            Sort::Question => return (at, simple),
            Sort::Special => return (memchr(b'?', target).unwrap_or(target.len()), false),
        }
    }
    (target.len(), simple)
}

fn check_query(query: &[u8]) -> Result<(), Reject> {
    if query.iter().any(|&byte| byte <= b' ' || byte == 0x7F || byte == b'#') {
        return Err(Reject::Target);
    }
    Ok(())
}

/// Writes the form to forward of `/rest`.
fn write_forward(rest: &[u8], out: &mut Vec<u8>, limits: &Limits) -> Result<(), Reject> {
    out.push(b'/');
    let mut segments = rest.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // `out` ends with a slash here.
        let start = out.len();
        push_decoded(segment, out, limits)?;
        match &out[start..] {
            b"" | b"." => out.truncate(start),
            // RFC 3986 §5.2.4: above the root is the root.
            b".." => {
                let parent = memrchr(b'/', &out[..start - 1]).unwrap_or(0);
                out.truncate(parent + 1);
            }
            segment => {
                check_segment(segment)?;
                if segments.peek().is_some() {
                    out.push(b'/');
                }
            }
        }
    }
    Ok(())
}

/// Appends a segment, its escaped unreserved characters decoded.
fn push_decoded(segment: &[u8], out: &mut Vec<u8>, limits: &Limits) -> Result<(), Reject> {
    let mut at = 0;
    while let Some(&byte) = segment.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let value = escape(segment.get(at..at + 2)).ok_or(Reject::PathEscape)?;
                match value {
                    0..=0x1F | 0x7F => return Err(Reject::PathEscape),
                    b'\\' => return Err(Reject::PathBackslash),
                    b'/' if !limits.encoded_slash_keep => return Err(Reject::PathEncodedSlash),
                    _ if is_unreserved(value) => out.push(value),
                    _ => out.extend_from_slice(&segment[at - 1..at + 2]),
                }
                at += 2;
            }
            b'\\' => return Err(Reject::PathBackslash),
            0x80.. => return Err(Reject::PathNonAscii),
            0..=b' ' | 0x7F | b'#' => return Err(Reject::PathSyntax),
            _ => out.push(byte),
        }
    }
    Ok(())
}

/// Refuses segments that some servers would read as other ones: once they cut parameters, cut
/// spaces, or decode what stays escaped here.
fn check_segment(segment: &[u8]) -> Result<(), Reject> {
    // Slashes are in here only if they are kept; then each piece is a segment to someone.
    for piece in pieces(segment, *b"%2F") {
        // A server that decodes before it cuts parameters cuts at an escaped `;`, too.
        let cut = cut_parameters(piece);
        let name = pieces(cut, *b"%3B").next().unwrap_or_default();
        let is_whole = name.len() == segment.len();
        if !is_whole && name.iter().all(|&byte| byte == b'.') {
            return Err(Reject::PathParameters);
        }
        if [piece, cut, name].into_iter().any(has_space_at_edge) {
            return Err(Reject::PathSpace);
        }
    }
    Ok(())
}

fn has_space_at_edge(segment: &[u8]) -> bool {
    segment.starts_with(b"%20") || segment.ends_with(b"%20")
}

fn cut_parameters(segment: &[u8]) -> &[u8] {
    memchr(b';', segment).map_or(segment, |at| &segment[..at])
}

/// Splits at an escape, in either case.
fn pieces(segment: &[u8], escape: [u8; 3]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(segment);
    std::iter::from_fn(move || {
        let all = rest?;
        let at = all.windows(3).position(|window| window.eq_ignore_ascii_case(&escape));
        rest = at.map(|at| &all[at + 3..]);
        Some(at.map_or(all, |at| &all[..at]))
    })
}

/// Writes the form to match behind the form to forward, unless they are the same.
fn write_matching(forward: &Place, target: &[u8], out: &mut Vec<u8>) -> Place {
    let bytes = forward.of(target, out);
    if memchr(b';', bytes).is_none() && !has_lower_escape(bytes) {
        return forward.clone();
    }
    let start = out.len();
    let mut cut = false;
    let mut escaped = 0;
    let len = bytes.len();
    for at in 0..len {
        let byte = forward.of(target, out)[at];
        match byte {
            b'/' => cut = false,
            b';' => cut = true,
            _ => {}
        }
        if cut {
            continue;
        }
        out.push(if escaped > 0 { byte.to_ascii_uppercase() } else { byte });
        escaped = if byte == b'%' { 2_u8 } else { escaped.saturating_sub(1) };
    }
    Place::Out(start..out.len())
}

fn has_lower_escape(path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path)
        .any(|at| path[at + 1..].iter().take(2).any(u8::is_ascii_lowercase))
}

/// The value of two hexadecimal digits.
fn escape(digits: Option<&[u8]>) -> Option<u8> {
    let [high, low] = *digits? else { return None };
    Some(hex(high)? << 4 | hex(low)?)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keep() -> Limits {
        Limits { encoded_slash_keep: true, ..Limits::default() }
    }

    fn normal(target: &str, limits: &Limits) -> Result<(String, String), Reject> {
        let mut out = Vec::new();
        let normal = normalise(target.as_bytes(), &mut out, limits)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
        Ok((
            text(normal.forward(target.as_bytes(), &out)),
            text(normal.matching(target.as_bytes(), &out)),
        ))
    }

    #[track_caller]
    fn forwards(target: &str, forward: &str) {
        assert_eq!(normal(target, &Limits::default()).map(|n| n.0), Ok(forward.into()), "{target}");
    }

    #[track_caller]
    fn refuses(target: &str, reject: Reject) {
        assert_eq!(normal(target, &Limits::default()), Err(reject), "{target}");
    }

    #[test]
    fn a_path_in_normal_form_is_not_copied() {
        for target in ["/", "/a", "/a/b.c/", "/a,b:c@d!$&'()*+=?q=%zz;//../\\", "/.well-known/x"] {
            let mut out = Vec::new();
            let normal = normalise(target.as_bytes(), &mut out, &Limits::default()).unwrap();
            assert!(normal.is_unchanged(), "{target}");
            assert!(out.is_empty(), "{target}");
        }
    }

    #[test]
    fn dots_are_resolved_and_slashes_merged() {
        forwards("//admin", "/admin");
        forwards("/x//../admin", "/admin");
        forwards("/a/./b", "/a/b");
        forwards("/a/b/..", "/a/");
        forwards("/a/b/.", "/a/b/");
        forwards("/../../a", "/a");
        forwards("/..", "/");
        forwards("///", "/");
        forwards("//evil.test/..", "/");
        forwards("/%2e%2E/a/%2e", "/a/");
        forwards("/.../..a/a..", "/.../..a/a..");
        forwards("", "/");
        forwards("?q", "/");
    }

    #[test]
    fn only_escaped_unreserved_characters_are_decoded() {
        forwards("/%61dmin%7e%2d", "/admin~-");
        forwards("/a%20b%2Cc%c3%a9", "/a%20b%2Cc%c3%a9");
        forwards("/%252e%252e/a", "/%252e%252e/a");
        forwards("/%c0%ae%c0%ae/admin", "/%c0%ae%c0%ae/admin");
    }

    #[test]
    fn what_servers_read_in_different_ways_is_refused() {
        for bad in ["/%", "/%4", "/%zz", "/x%u0041", "/%00", "/%1f", "/a%7F", "/admin%09"] {
            refuses(bad, Reject::PathEscape);
        }
        refuses("/x/..%2fadmin", Reject::PathEncodedSlash);
        refuses("/x\\y", Reject::PathBackslash);
        refuses("/x%5cy", Reject::PathBackslash);
        refuses("/caf\u{e9}", Reject::PathNonAscii);
        for bad in
            ["/admin%20", "/%20admin/x", "/admin%20;x", "/admin;x%20", "/a%20%3bx", "/a%3b%20;"]
        {
            refuses(bad, Reject::PathSpace);
        }
        for bad in ["/;x/admin", "/a/..;/b", "/.;x", "/...;", "/a/..%3bx/b", "/%2e%2e;/b"] {
            refuses(bad, Reject::PathParameters);
        }
        for bad in ["/a b", "/a\x7f", "/a#b"] {
            refuses(bad, Reject::PathSyntax);
        }
        for bad in ["a", "*", "a/b?c", "/a?b c", "/a?b#c", "/a?\r\n"] {
            refuses(bad, Reject::Target);
        }
    }

    #[test]
    fn a_kept_slash_does_not_hide_dots() {
        assert_eq!(normal("/a%2Fb%2fc", &keep()), Ok(("/a%2Fb%2fc".into(), "/a%2Fb%2Fc".into())));
        for bad in ["/x/..%2fadmin", "/x%2f..", "/x%2f%2fy", "/x%2f.%2fy", "/%2f", "/x%2f..;a"] {
            assert_eq!(normal(bad, &keep()), Err(Reject::PathParameters), "{bad}");
        }
        assert_eq!(normal("/x%20%2fy", &keep()), Err(Reject::PathSpace));
    }

    #[test]
    fn matching_ignores_parameters_and_the_case_of_escapes() {
        let found = normal("/a;v=1/b%c3;x%2c/", &Limits::default());
        assert_eq!(found, Ok(("/a;v=1/b%c3;x%2c/".into(), "/a/b%C3/".into())));
        let found = normal("//a;v=1/./b", &Limits::default());
        assert_eq!(found, Ok(("/a;v=1/b".into(), "/a/b".into())));
    }

    #[test]
    fn the_query_goes_on_byte_for_byte() {
        let target = b"/a/../b?x=%2e%2e/..//%zz?\xff";
        let normal = normalise(target, &mut Vec::new(), &Limits::default()).unwrap();
        assert_eq!(normal.query(target), Some(&target[8..]));
        let normal = normalise(b"/a?", &mut Vec::new(), &Limits::default()).unwrap();
        assert_eq!(normal.query(b"/a?"), Some(&b""[..]));
        let normal = normalise(b"/a", &mut Vec::new(), &Limits::default()).unwrap();
        assert_eq!(normal.query(b"/a"), None);
    }

    /// Paths out of the pieces that matter, so that most of them are valid and few are plain.
    fn targets() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "//", "a", "B", ".", "..", ";", ";x=1", "%2e", "%2E", "%41", "%c3", "%20", "%2F",
            "%2f", "%3b", "%25", "%5C", "%", "?", "~", ":", "@", "=", "\\", "é",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(target in targets(), slash in any::<bool>()) {
            let limits = Limits { encoded_slash_keep: slash, ..Limits::default() };
            if let Ok((forward, matching)) = normal(&target, &limits) {
                prop_assert_eq!(normal(&forward, &limits), Ok((forward.clone(), matching.clone())));
                prop_assert_eq!(normal(&matching, &limits), Ok((matching.clone(), matching.clone())));
                prop_assert_eq!(
                    forward.matches('/').count(),
                    matching.matches('/').count(),
                    "segments differ"
                );
                prop_assert!(forward.starts_with('/') && !forward.contains("//"));
                for segment in matching.split('/') {
                    prop_assert!(segment != "." && segment != ".." && !segment.contains(';'));
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(target in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            if let Ok(normal) = normalise(&target, &mut out, &keep()) {
                prop_assert!(normal.forward(&target, &out).starts_with(b"/"));
                prop_assert!(normal.matching(&target, &out).starts_with(b"/"));
            }
        }
    }
}
