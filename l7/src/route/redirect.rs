//! Where a redirect leads: `Location`.
//!
//! `to` as written, or the request's own address with another scheme or port. The query goes
//! along unless `to` has one, before the fragment. A location never begins with `//`, which would
//! be another host.

use super::spec::RedirectSpec;
use super::template::{Template, Variables};

/// Statuses that a redirect may have.
pub const STATUSES: &[u16] = &[301, 302, 303, 307, 308];

/// The address that the request came to.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    pub scheme: &'a str,
    /// As sent, without its port.
    pub host: &'a str,
    /// In normal form.
    pub path: &'a str,
    /// Without `?`; `None` if there was no `?`.
    pub query: Option<&'a str>,
}

/// The location would not be one: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLocation;

/// Appends the value of `Location`.
///
/// # Errors
/// [`BadLocation`] when a value made it lead elsewhere than written; `out` is then as it was.
pub fn write_location(
    spec: &RedirectSpec,
    own: &Address<'_>,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) -> Result<(), BadLocation> {
    let start = out.len();
    let result = write(spec, own, variables, out);
    if result.is_err() || out[start..].starts_with(b"//") {
        out.truncate(start);
        return Err(BadLocation);
    }
    Ok(())
}

fn write(
    spec: &RedirectSpec,
    own: &Address<'_>,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) -> Result<(), BadLocation> {
    let moves = spec.scheme.is_some() || spec.port.is_some();
    let start = out.len();
    match &spec.to {
        None => {
            write_origin(spec, own, out)?;
            out.extend_from_slice(own.path.as_bytes());
        }
        Some(to) => write_to(to, spec, own, moves, variables, out)?,
    }
    let fragment = out[start..].iter().position(|&byte| byte == b'#');
    let fragment = out.split_off(fragment.map_or(out.len(), |at| start + at));
    if let Some(query) = own.query
        && !out[start..].contains(&b'?')
    {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(&fragment);
    Ok(())
}

fn write_to(
    to: &Template,
    spec: &RedirectSpec,
    own: &Address<'_>,
    moves: bool,
    variables: &(impl Variables + ?Sized),
    out: &mut Vec<u8>,
) -> Result<(), BadLocation> {
    let start = out.len();
    to.render(variables, out);
    let fine = |&byte: &u8| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte);
    let rendered = &out[start..];
    if rendered.is_empty() || rendered.starts_with(b"//") || !rendered.iter().all(fine) {
        return Err(BadLocation);
    }
    if moves && rendered[0] == b'/' {
        let path = out.split_off(start);
        write_origin(spec, own, out)?;
        out.extend_from_slice(&path);
    }
    Ok(())
}

/// `https://host:8443`; a scheme's own port is left out.
fn write_origin(
    spec: &RedirectSpec,
    own: &Address<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BadLocation> {
    if own.host.is_empty() {
        return Err(BadLocation);
    }
    let scheme = spec.scheme.as_deref().unwrap_or(own.scheme);
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    out.extend_from_slice(own.host.as_bytes());
    let usual = if scheme == "https" { 443 } else { 80 };
    if let Some(port) = spec.port.filter(|&port| port != usual) {
        out.extend_from_slice(format!(":{port}").as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::template::Variable;
    use super::*;

    struct Rest(Option<&'static str>);

    impl Variables for Rest {
        fn append(&self, _variable: &Variable, out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(self.0.unwrap_or_default().as_bytes());
            self.0.is_some()
        }
    }

    const OWN: Address<'_> =
        Address { scheme: "http", host: "a.test", path: "/x/y", query: Some("a=%20&b") };

    fn location(spec: &RedirectSpec, rest: Option<&'static str>) -> Result<String, BadLocation> {
        let mut out = Vec::new();
        write_location(spec, &OWN, &Rest(rest), &mut out)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    fn to(text: &str) -> RedirectSpec {
        let to = Some(Template::parse(text, &["*"]).expect("template"));
        RedirectSpec { to, status: 308, ..RedirectSpec::default() }
    }

    fn moved(scheme: Option<&str>, port: Option<u16>) -> RedirectSpec {
        RedirectSpec { to: None, scheme: scheme.map(str::to_owned), port, status: 308 }
    }

    #[test]
    fn a_change_of_scheme_or_port_keeps_host_path_and_query() {
        let https = moved(Some("https"), Some(443));
        assert_eq!(location(&https, None).as_deref(), Ok("https://a.test/x/y?a=%20&b"));
        let port = moved(None, Some(8080));
        assert_eq!(location(&port, None).as_deref(), Ok("http://a.test:8080/x/y?a=%20&b"));
    }

    #[test]
    fn the_rest_and_the_query_go_along() {
        assert_eq!(location(&to("/new/*"), Some("a/b")).as_deref(), Ok("/new/a/b?a=%20&b"));
        assert_eq!(location(&to("/new/*"), None).as_deref(), Ok("/new?a=%20&b"));
        assert_eq!(location(&to("/new?v=2"), None).as_deref(), Ok("/new?v=2"));
    }

    #[test]
    fn the_query_goes_before_a_fragment() {
        assert_eq!(location(&to("/new#top"), None).as_deref(), Ok("/new?a=%20&b#top"));
        assert_eq!(location(&to("/new#a?b"), None).as_deref(), Ok("/new?a=%20&b#a?b"));
        assert_eq!(location(&to("/new?v=2#top"), None).as_deref(), Ok("/new?v=2#top"));
    }

    #[test]
    fn a_path_with_a_scheme_becomes_an_address() {
        let spec = RedirectSpec { scheme: Some("https".into()), ..to("/new/*") };
        assert_eq!(location(&spec, Some("a")).as_deref(), Ok("https://a.test/new/a?a=%20&b"));
    }

    #[test]
    fn no_location_leads_to_another_host_or_ends_the_line() {
        assert_eq!(location(&to("/*"), Some("/evil.test")), Err(BadLocation));
        assert_eq!(location(&to("/*"), Some("\\evil.test")), Err(BadLocation));
        assert_eq!(location(&to("/*"), Some("a b")), Err(BadLocation));
        assert_eq!(location(&to("/*"), Some("a\r\nb")).as_deref(), Ok("/ab?a=%20&b"));
    }
}
