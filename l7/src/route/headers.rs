//! A route's or policy's operations on the fields of a head: remove, then set, then add.
//!
//! The session writes a head as it would be without them, takes out what [`replaced`] names with
//! [`drop_lines`], and appends what [`write_all`] gives. So a set field takes the place of all
//! received ones, and of the gateway's own, and an added one stands beside them. Framing is not
//! the operator's to change: a configuration that names its fields is refused.

use super::spec::HeaderSpec;
use super::template::{Template, Variables};

/// Whether a line of this name stays: it is neither removed nor set.
#[must_use]
pub fn passes(spec: &HeaderSpec, name: &[u8]) -> bool {
    let is = |own: &str| name.eq_ignore_ascii_case(own.as_bytes());
    !spec.remove.iter().any(|own| is(own)) && !spec.set.iter().any(|(own, _)| is(own))
}

/// The fields that these operations remove or set.
#[must_use]
pub fn replaced<'s>(specs: impl Iterator<Item = &'s HeaderSpec>) -> Vec<String> {
    let mut names: Vec<String> = specs
        .flat_map(|spec| spec.remove.iter().chain(spec.set.iter().map(|(name, _)| name)))
        .map(|name| name.to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Takes the lines of these fields out of what is a head from `from` on: whole lines, each with
/// its CRLF.
pub fn drop_lines(names: &[String], from: usize, head: &mut Vec<u8>) {
    if names.is_empty() {
        return;
    }
    let mut at = from;
    while let Some(len) = head[at..].iter().position(|&byte| byte == b'\n') {
        let line = &head[at..=at + len];
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if names.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())) {
            head.drain(at..=at + len);
        } else {
            at += len + 1;
        }
    }
}

fn write_line(
    name: &str,
    template: &Template,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let value = out.len();
    template.render(variables, out);
    if out[value..].trim_ascii().is_empty() {
        out.truncate(start);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the lines that are set and added, each with its CRLF, of several specs in their order:
/// what one of them adds, a later one may remove. A line whose value is empty (a variable that
/// there is not) is left out.
pub fn write_all<'s>(
    specs: &(impl Iterator<Item = &'s HeaderSpec> + Clone),
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) {
    for (at, spec) in specs.clone().enumerate() {
        let stays =
            |name: &str| specs.clone().skip(at + 1).all(|later| passes(later, name.as_bytes()));
        for (name, template) in lines(spec).filter(|(name, _)| stays(name)) {
            write_line(name, template, variables, out);
        }
    }
}

fn lines(spec: &HeaderSpec) -> impl Iterator<Item = (&str, &Template)> {
    spec.set.iter().chain(&spec.add).map(|(name, template)| (name.as_str(), template))
}

#[cfg(test)]
mod tests {
    use super::super::template::Variable;
    use super::*;

    struct Host(&'static str);

    impl Variables for Host {
        fn append(&self, _variable: &Variable, out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(self.0.as_bytes());
            true
        }
    }

    fn spec() -> HeaderSpec {
        let line =
            |name: &str, text| (name.to_owned(), Template::parse(text, &[]).expect("template"));
        HeaderSpec {
            add: vec![line("X-Source", "gateway")],
            set: vec![line("X-User", "{host}")],
            remove: vec!["X-Internal".into()],
        }
    }

    #[test]
    fn what_is_removed_or_set_does_not_pass_in_any_case() {
        assert!(!passes(&spec(), b"x-internal"));
        assert!(!passes(&spec(), b"X-USER"));
        assert!(passes(&spec(), b"X-Source"));
    }

    #[test]
    fn lines_that_are_replaced_are_taken_out_and_no_others() {
        let names = replaced([spec(), spec()].iter());
        assert_eq!(names, ["x-internal", "x-user"]);
        let mut head =
            b"X-User: HTTP\r\nA: x-user: b\r\nx-USER: 1\r\nX-Internal:\r\nX-Users: c\r\n".to_vec();
        drop_lines(&names, 14, &mut head);
        assert_eq!(head, b"X-User: HTTP\r\nA: x-user: b\r\nX-Users: c\r\n");
        drop_lines(&[], 0, &mut head);
        assert_eq!(head.len(), 40);
    }

    #[test]
    fn set_and_added_lines_are_written_and_empty_ones_are_not() {
        let mut out = Vec::new();
        write_all(&std::iter::once(&spec()), &Host("alice\r\nX-Evil: 1"), &mut out);
        assert_eq!(out, b"X-User: aliceX-Evil: 1\r\nX-Source: gateway\r\n");
        out.clear();
        write_all(&std::iter::once(&spec()), &Host(""), &mut out);
        assert_eq!(out, b"X-Source: gateway\r\n");
    }

    #[test]
    fn what_one_spec_adds_a_later_one_may_remove() {
        let later = HeaderSpec { remove: vec!["x-source".into()], ..HeaderSpec::default() };
        let mut out = Vec::new();
        write_all(&[spec(), later].iter(), &Host("a"), &mut out);
        assert_eq!(out, b"X-User: a\r\n");
    }
}
