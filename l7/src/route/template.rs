//! Text with variables: `"https://{host}/new/*"`.
//!
//! Owns parsing and rendering; the values come through [`Variables`]. `{name}` is a variable,
//! `{{` and `}}` are braces. In a text that is a path or an address (begins with `/` or a
//! scheme) a last segment `*` is what the pattern's `*` stands for; elsewhere `{*}` says so, so
//! that a header may be `*/*`.
//!
//! Invariant: what a variable puts in holds no control character, so no value can end a line.

use crate::policy::claims::Selector;

/// A parsed text: literals and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

/// A value that differs from request to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    Host,
    Path,
    Scheme,
    RequestId,
    /// Who asks, if a policy found that out.
    Consumer,
    /// A claim of the token that the request brought.
    Claim(Selector),
    Header(String),
    /// A capture of the path pattern, by name.
    Capture(String),
    /// What the pattern's `*` stands for.
    Rest,
}

/// The names without a part of their own, in the order of the documentation.
const PLAIN: &[(&str, Variable)] = &[
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("path", Variable::Path),
    ("scheme", Variable::Scheme),
    ("request_id", Variable::RequestId),
    ("consumer", Variable::Consumer),
];

/// The values of one request.
pub trait Variables {
    /// Appends the value; `false` if there is none.
    fn append(&self, variable: &Variable, out: &mut Vec<u8>) -> bool;
}

/// What is wrong with a text, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError(pub String);

impl std::fmt::Display for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Parses `text`; `captures` are the names that the route's path pattern captures, with `*`
    /// if the pattern ends with it ([`Pattern::captures`](super::Pattern::captures)).
    ///
    /// # Errors
    /// An unknown variable, a brace without its other, a `*` that the pattern has not.
    pub fn parse(text: &str, captures: &[&str]) -> Result<Self, TemplateError> {
        if text.chars().any(|c| c.is_control() && c != '\t') {
            let why = format!("{text:?} has a control character, which could end a line");
            return Err(TemplateError(why));
        }
        let has_rest = captures.contains(&"*");
        let (text, ends_with_rest) = match text.strip_suffix("/*") {
            Some(before) if is_address(text) => {
                if !has_rest {
                    let why = format!("`*` in `{text}`: the path of this route has no `/*`");
                    return Err(TemplateError(why));
                }
                (&text[..=before.len()], true)
            }
            _ => (text, false),
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let Some((name, after)) = after.split_once('}').filter(|_| brace == "{") else {
                let why = format!(
                    "`{brace}` in `{text}` has no other; write `{brace}{brace}` for a brace"
                );
                return Err(TemplateError(why));
            };
            push_literal(&mut parts, &mut literal);
            parts.push(Part::Variable(Variable::parse(name, captures)?));
            rest = after;
        }
        literal.push_str(rest);
        push_literal(&mut parts, &mut literal);
        if ends_with_rest {
            parts.push(Part::Variable(Variable::Rest));
        }
        Ok(Self { parts })
    }

    /// Appends the text with its values. Control characters in values are left out; an absent
    /// value is empty, and an absent `*` takes the slash before it along.
    pub fn render(&self, variables: &(impl Variables + ?Sized), out: &mut Vec<u8>) {
        let begin = out.len();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    let start = out.len();
                    let present = variables.append(variable, out);
                    remove_controls(out, start);
                    if !present && *variable == Variable::Rest && start > begin + 1 {
                        out.truncate(start - usize::from(out[start - 1] == b'/'));
                    }
                }
            }
        }
    }

    /// The text, if it has no variables.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The variables in it, in order.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable),
            Part::Literal(_) => None,
        })
    }
}

fn is_address(text: &str) -> bool {
    ["/", "http://", "https://", "{scheme}://"].iter().any(|start| text.starts_with(start))
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal)));
    }
}

/// Removes what could end a line or a string in a parser behind us (RFC 9110 §5.5).
fn remove_controls(out: &mut Vec<u8>, start: usize) {
    let is_control = |byte: u8| byte.is_ascii_control() && byte != b'\t';
    if !out[start..].iter().any(|&byte| is_control(byte)) {
        return;
    }
    let mut kept = start;
    for at in start..out.len() {
        if !is_control(out[at]) {
            out[kept] = out[at];
            kept += 1;
        }
    }
    out.truncate(kept);
}

impl Variable {
    fn parse(name: &str, captures: &[&str]) -> Result<Self, TemplateError> {
        if captures.contains(&name) {
            return Ok(if name == "*" { Self::Rest } else { Self::Capture(name.to_owned()) });
        }
        if let Some((_, variable)) = PLAIN.iter().find(|(own, _)| *own == name) {
            return Ok(variable.clone());
        }
        match name.split_once(':') {
            Some(("header", part)) if is_token(part) => return Ok(Self::Header(part.to_owned())),
            Some(("header", part)) => {
                let why = format!("`{{{name}}}`: `{part}` is no header name");
                return Err(TemplateError(why));
            }
            Some(("claim", claim)) => {
                let why = || TemplateError(format!("`{{{name}}}` names no claim"));
                return Selector::parse(claim).map(Self::Claim).ok_or_else(why);
            }
            _ => {}
        }
        Err(TemplateError(unknown(name, captures)))
    }
}

fn unknown(name: &str, captures: &[&str]) -> String {
    let known = PLAIN.iter().map(|(own, _)| *own).chain(captures.iter().copied());
    let nearest = known.map(|own| (distance(own, name), own)).min();
    match nearest {
        Some((far, own)) if far * 3 <= name.len().max(own.len()) => {
            format!("unknown variable `{{{name}}}`; did you mean `{{{own}}}`?")
        }
        _ => {
            let names: Vec<String> = PLAIN
                .iter()
                .map(|(own, _)| *own)
                .chain(["header:X"])
                .chain(captures.iter().copied())
                .map(|own| format!("{{{own}}}"))
                .collect();
            format!("unknown variable `{{{name}}}`; there are {}", names.join(" "))
        }
    }
}

/// Edits between two short texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, own) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(own != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// RFC 9110 §5.6.2
fn is_token(text: &str) -> bool {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Values(Vec<(Variable, &'static str)>);

    impl Variables for Values {
        fn append(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
            let found = self.0.iter().find(|(own, _)| own == variable);
            out.extend_from_slice(found.map_or("", |(_, value)| value).as_bytes());
            found.is_some()
        }
    }

    fn render(text: &str, captures: &[&str], values: &[(Variable, &'static str)]) -> String {
        let template = Template::parse(text, captures).expect("template");
        let mut out = Vec::new();
        template.render(&Values(values.to_vec()), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn variables_and_braces_are_put_in() {
        let id = (Variable::Capture("id".into()), "7");
        assert_eq!(render("/items/{id}/{{x}}", &["id"], &[id]), "/items/7/{x}");
    }

    #[test]
    fn the_rest_stands_last_in_an_address_and_nowhere_else_unasked() {
        let rest = || (Variable::Rest, "a/b");
        assert_eq!(render("/new/*", &["*"], &[rest()]), "/new/a/b");
        assert_eq!(render("https://x/*", &["*"], &[rest()]), "https://x/a/b");
        assert_eq!(render("*/*", &["*"], &[rest()]), "*/*");
        assert_eq!(render("to {*}", &["*"], &[rest()]), "to a/b");
    }

    #[test]
    fn an_absent_rest_takes_its_slash_along() {
        assert_eq!(render("/new/*", &["*"], &[]), "/new");
        assert_eq!(render("/*", &["*"], &[]), "/");
        assert_eq!(render("/new/*", &["*"], &[(Variable::Rest, "")]), "/new/");
    }

    #[test]
    fn no_value_ends_a_line() {
        let evil = (Variable::Header("X-A".into()), "a\r\nSet-Cookie: b\0c\u{7f}\td");
        assert_eq!(render("v={header:X-A};", &[], &[evil]), "v=aSet-Cookie: bc\td;");
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_names_the_nearest() {
        let error = |text| Template::parse(text, &["id", "*"]).expect_err("unknown").0;
        assert!(error("{client-ip}").contains("did you mean `{client_ip}`?"));
        assert!(error("{zzzzzzzzz}").contains("{header:X}"));
        assert!(error("{header:a b}").contains("no header name"));
        for text in ["{", "a}", "{host", "{}", "{header:}", "{claim:}", "{server}", "a\r\nb", "a\0"]
        {
            assert!(Template::parse(text, &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rest_that_the_pattern_has_not_is_an_error() {
        assert!(Template::parse("/new/*", &["id"]).is_err());
        assert!(Template::parse("{*}", &[]).is_err());
    }

    #[test]
    fn an_edit_distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
    }
}
