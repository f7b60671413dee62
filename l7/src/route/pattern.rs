//! A path as written in `match.path`: `/v1/users`, `/v1/users/*`, `/o/{id}/items/*`.
//!
//! Invariants of a parsed pattern: it begins with `/`; a capture is one whole segment; `*` is
//! the last segment and stands for any number of segments, none included; literals are in the
//! normal form of paths, so they can be compared byte by byte.
//!
//! Does not know hosts, methods or files.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::spec::PathSpec;

/// Segments in a pattern. Longer ones are mistakes, and the walk through the trie recurses.
pub const SEGMENTS_MAX: usize = 64;
/// Captures in a pattern: more than anyone names, few enough to look up one by one.
pub const CAPTURES_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) segments: Vec<Segment>,
    /// Ends with `/*`.
    pub(crate) rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(String),
    Capture(String),
}

/// What is wrong with a pattern, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError(pub String);

impl std::fmt::Display for PatternError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

/// How specific a path condition is; the smaller one wins.
///
/// Exact paths, then the longest run of literal segments at the start, then patterns that begin
/// with a capture, then `/*`, then regular expressions, then routes without a path. Of two with
/// the same literal start, the plain prefix comes before the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathRank {
    kind: u8,
    literal_start: Reverse<usize>,
    is_pattern: bool,
    literals: Reverse<usize>,
    segments: Reverse<usize>,
    rest: bool,
}

impl PathRank {
    pub const REGEX: Self = Self::of_kind(4);
    pub const ANY: Self = Self::of_kind(5);

    const fn of_kind(kind: u8) -> Self {
        Self {
            kind,
            literal_start: Reverse(0),
            is_pattern: false,
            literals: Reverse(0),
            segments: Reverse(0),
            rest: false,
        }
    }
}

impl Pattern {
    /// Parses `text`.
    ///
    /// # Errors
    /// When it could never fit a normalised path, or means something else than it seems to.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(inner) = text.strip_prefix('/') else {
            return Err(error(format!("the path `{text}` must begin with `/`")));
        };
        let mut written: Vec<&str> = inner.split('/').collect();
        let rest = written.last() == Some(&"*");
        if rest {
            written.pop();
        }
        if written.len() > SEGMENTS_MAX {
            return Err(error(format!("the path has more than {SEGMENTS_MAX} segments")));
        }
        let last = written.len().saturating_sub(1);
        let mut segments = Vec::with_capacity(written.len());
        for (at, segment) in written.iter().enumerate() {
            if segment.is_empty() && (at != last || rest) {
                let why = format!("`//` in `{text}` never fits: paths are merged to one slash");
                return Err(error(why));
            }
            segments.push(Segment::parse(segment, text)?);
        }
        let pattern = Self { segments, rest };
        pattern.check_captures(text)?;
        Ok(pattern)
    }

    fn check_captures(&self, text: &str) -> Result<(), PatternError> {
        let names: Vec<&str> = self.names().collect();
        if names.len() > CAPTURES_MAX {
            return Err(error(format!("`{text}` has more than {CAPTURES_MAX} captures")));
        }
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, name)) => Err(error(format!("`{text}` captures `{{{name}}}` twice"))),
            None => Ok(()),
        }
    }

    /// What templates may name: the captures, and `*` if the pattern ends with it.
    #[must_use]
    pub fn captures(&self) -> Vec<&str> {
        self.names().chain(self.rest.then_some("*")).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether `path` fits.
    #[must_use]
    pub fn fits(&self, path: &str, ignore_case: bool) -> bool {
        let Some(mut given) = segments_of(path) else { return false };
        for wanted in &self.segments {
            let Some(segment) = given.next() else { return false };
            if !wanted.fits(segment, ignore_case) {
                return false;
            }
        }
        self.rest || given.next().is_none()
    }

    #[must_use]
    pub(crate) fn rank(&self) -> PathRank {
        let is_literal = |segment: &&Segment| matches!(segment, Segment::Literal(_));
        let literal_start = self.segments.iter().take_while(is_literal).count();
        let literals = self.segments.iter().filter(is_literal).count();
        let is_pattern = literals < self.segments.len();
        let kind = match (is_pattern, self.rest, literal_start) {
            (false, false, _) => 0,
            (_, _, 1..) => 1,
            (true, _, 0) => 2,
            (false, true, 0) => 3,
        };
        PathRank {
            kind,
            literal_start: Reverse(literal_start),
            is_pattern,
            literals: Reverse(literals),
            segments: Reverse(self.segments.len()),
            rest: self.rest,
        }
    }
}

impl Segment {
    fn parse(text: &str, whole: &str) -> Result<Self, PatternError> {
        if let Some(name) = capture_of(text) {
            return Ok(Self::Capture(name.to_owned()));
        }
        if text.contains(['{', '}']) {
            return Err(error(format!(
                "`{text}` in `{whole}`: a capture is a whole segment, its name letters, digits, `_` and `-`"
            )));
        }
        if text.contains('*') {
            let why = format!("`*` in `{whole}` must be the last segment by itself, as in `/a/*`");
            return Err(error(why));
        }
        if text == "." || text == ".." {
            return Err(error(format!("`{text}` in `{whole}` never fits: dots are resolved")));
        }
        normal_literal(text).map(Self::Literal).map_err(|why| error(format!("`{whole}` {why}")))
    }

    fn fits(&self, segment: &str, ignore_case: bool) -> bool {
        match self {
            Self::Literal(literal) if ignore_case => literal.eq_ignore_ascii_case(segment),
            Self::Literal(literal) => literal == segment,
            Self::Capture(_) => !segment.is_empty(),
        }
    }
}

fn error(why: String) -> PatternError {
    PatternError(why)
}

/// Brings a literal to the normal form of paths: escaped unreserved characters decoded, other
/// escapes in upper case (RFC 3986 §6.2.2).
fn normal_literal(text: &str) -> Result<String, &'static str> {
    let bytes = text.as_bytes();
    let mut normal = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match hex.map(char::from) {
                    None => return Err("has a `%` without two hexadecimal digits"),
                    Some(c) if c.is_ascii_control() || c == '\\' => {
                        return Err("has an escape that no path may contain");
                    }
                    Some(c) if c.is_ascii_alphanumeric() || "-._~".contains(c) => normal.push(c),
                    Some(c) => {
                        // A String takes every write.
                        let _ = write!(normal, "%{:02X}", u32::from(c));
                    }
                }
                at += 2;
            }
            b'?' | b'#' => return Err("has `?` or `#`, which no path contains"),
            b';' => return Err("has `;`, which matching passes over"),
            b'\\' => return Err("has a backslash, which no path may contain"),
            c @ 0x21..=0x7e => normal.push(char::from(c)),
            _ => return Err("has a character that a request can only send percent-encoded"),
        }
        at += 1;
    }
    Ok(normal)
}

/// The segments of a path, without parameters; `None` if it does not begin with `/` (`*`).
pub(crate) fn segments_of(path: &str) -> Option<impl Iterator<Item = &str> + Clone> {
    Some(path.strip_prefix('/')?.split('/').map(without_parameters))
}

/// Cuts `;…`: servers that know parameters pass over them, so matching does too.
pub(crate) fn without_parameters(segment: &str) -> &str {
    segment.split_once(';').map_or(segment, |(before, _)| before)
}

/// `id` of the segment `{id}`.
#[must_use]
pub fn capture_of(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!name.is_empty() && name.chars().all(word)).then_some(name)
}

/// What templates on a route with this path may name.
///
/// # Errors
/// When the path is a pattern that does not parse.
pub fn captures_of(path: &PathSpec) -> Result<Vec<String>, PatternError> {
    Ok(match path {
        PathSpec::Any => Vec::new(),
        PathSpec::Pattern(text) => {
            Pattern::parse(text)?.captures().into_iter().map(str::to_owned).collect()
        }
        PathSpec::Regex(regex) => regex.capture_names().flatten().map(str::to_owned).collect(),
    })
}

/// What a path holds at the places that a route names.
#[derive(Debug)]
pub enum Captures<'c> {
    /// The route captures nothing.
    None,
    /// Looked up by walking the two side by side; parameters (`;…`) are part of the value.
    Pattern { pattern: &'c Pattern, path: &'c str },
    /// Named groups of an expression, without parameters. This kind allocates.
    Groups(Vec<(&'c str, String)>),
}

impl Captures<'_> {
    /// The value of `{name}`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Pattern { pattern, path } => {
                let given = path.strip_prefix('/')?.split('/');
                let mut pairs = pattern.segments.iter().zip(given);
                pairs.find_map(|(segment, value)| match segment {
                    Segment::Capture(own) if own == name => Some(value),
                    _ => None,
                })
            }
            Self::Groups(groups) => {
                groups.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
            }
        }
    }

    /// What `*` stands for, without its first slash; `None` when the path ends before it.
    #[must_use]
    pub fn rest(&self) -> Option<&str> {
        let Self::Pattern { pattern, path } = self else { return None };
        if !pattern.rest {
            return None;
        }
        path.strip_prefix('/')?.splitn(pattern.segments.len() + 1, '/').nth(pattern.segments.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).expect("pattern").fits(path, false)
    }

    #[test]
    fn a_wildcard_ends_at_segments_and_fits_without_the_rest() {
        assert!(fits("/v1/users/*", "/v1/users/7"));
        assert!(fits("/v1/users/*", "/v1/users"));
        assert!(fits("/v1/users/*", "/v1/users/"));
        assert!(fits("/v1/users/*", "/v1/users/7/orders"));
        assert!(!fits("/v1/users/*", "/v1/usersX"));
        assert!(fits("/*", "/"));
        assert!(!fits("/*", "*"), "OPTIONS * is no path");
    }

    #[test]
    fn a_capture_is_one_segment_and_not_an_empty_one() {
        assert!(fits("/o/{id}/items/*", "/o/7/items/a/b"));
        assert!(fits("/o/{id}/items/*", "/o/7/items"));
        assert!(!fits("/o/{id}", "/o/7/8"));
        assert!(!fits("/o/{id}", "/o/"));
        assert!(!fits("/o/{id}", "/o"));
    }

    #[test]
    fn a_last_slash_counts() {
        assert!(fits("/a/", "/a/"));
        assert!(!fits("/a/", "/a"));
        assert!(!fits("/a", "/a/"));
    }

    #[test]
    fn parameters_are_passed_over_in_matching_and_kept_in_values() {
        assert!(fits("/admin", "/admin;x=1"));
        assert!(fits("/admin/*", "/admin;x/y"));
        let pattern = Pattern::parse("/o/{id}/*").expect("pattern");
        let captures = Captures::Pattern { pattern: &pattern, path: "/o;a/7;b/c;d/e" };
        assert_eq!(captures.value("id"), Some("7;b"));
        assert_eq!(captures.rest(), Some("c;d/e"));
    }

    #[test]
    fn the_rest_is_absent_only_when_the_path_ends_before_it() {
        let pattern = Pattern::parse("/old/*").expect("pattern");
        let rest = |path| Captures::Pattern { pattern: &pattern, path }.rest().map(str::to_owned);
        assert_eq!(rest("/old"), None);
        assert_eq!(rest("/old/").as_deref(), Some(""));
        assert_eq!(rest("/old/a/b").as_deref(), Some("a/b"));
    }

    #[test]
    fn letters_fit_in_either_case_only_when_asked() {
        let pattern = Pattern::parse("/Admin/*").expect("pattern");
        assert!(pattern.fits("/aDMIN/x", true));
        assert!(!pattern.fits("/admin/x", false));
    }

    #[test]
    fn literals_are_brought_to_the_normal_form() {
        assert!(fits("/%61dmin/%c3%a9", "/admin/%C3%A9"));
    }

    #[test]
    fn what_could_never_fit_is_refused() {
        for text in [
            "", "a", "/a*", "/*/b", "/a//b", "//*", "/a/../b", "/{a}{b}", "/x{a}", "/{}",
            "/{a}/{a}", "/a?b", "/a b", "/é", "/a;b", "/a%zz", "/a\\b", "/./",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_more_specific_path_ranks_first() {
        let written = [
            "/a/b",
            "/a/b/*",
            "/a/b/{x}",
            "/a/*",
            "/a/{x}/c/*",
            "/a/{x}/*",
            "/{x}/b",
            "/{x}",
            "/*",
        ];
        let ranks: Vec<PathRank> =
            written.iter().map(|text| Pattern::parse(text).expect("pattern").rank()).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert!(ranks[8] < PathRank::REGEX && PathRank::REGEX < PathRank::ANY);
    }
}
