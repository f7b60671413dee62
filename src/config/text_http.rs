//! Forms of text that TLS and HTTP bring: hosts, paths, templates, header names, PEM.
//!
//! As in [`value`](super::value): every refusal says what is wanted, and nothing that could end
//! a line gets into a head. What variables a template may name depends on the route, so that is
//! checked where the route is built.

use std::path::Path;

use sluicegate_l7::http1::{Class, Known};
use sluicegate_l7::route::Pattern;

use super::address;
use super::code;
use super::cross_log;
use super::keys::Text;
use super::plan::{Pem, Secret, Verify};
use super::read::{self, SecretFrom};
use super::value::{Scalar, Taken, clip, is_field_value, is_token, refuse};

/// Longer values are mistakes; a whole head is 64 KiB.
const TEXT_BYTES_MAX: usize = 4_096;
/// Labels stand in every line of the log.
const LABEL_BYTES_MAX: usize = 256;

/// These frame a message or belong to one connection (RFC 9110 §7.6.1).
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// # Errors
/// Anything but text of the form. `dir` is where relative paths start.
pub fn text(text: &str, form: Text, dir: &Path) -> Taken {
    match form {
        Text::Pem { private } => pem(text, private, dir),
        Text::Verify => verify(text, dir),
        Text::Body { max } => body(text, max, dir),
        Text::Header { written } => match header_problem(text, written) {
            "" => Ok(Scalar::Text(text.to_owned())),
            hint => Err(refuse(code::BAD_TEXT, format!("cannot have \"{}\"", clip(text)), hint)),
        },
        Text::HostPattern => plain(text, host_problem(text), "must be a host name").map(lower),
        Text::ServerName => {
            let problem = if text.starts_with('*') {
                "a single name, without `*`"
            } else {
                host_problem(text)
            };
            plain(text, problem, "must be a host name").map(lower)
        }
        Text::PathPattern if text.len() > TEXT_BYTES_MAX => {
            Err(refuse(code::BAD_TEXT, format!("is longer than {TEXT_BYTES_MAX} bytes"), ""))
        }
        Text::PathPattern => match Pattern::parse(text) {
            Ok(_) => Ok(Scalar::Text(text.to_owned())),
            Err(error) => {
                let hint = "for example \"/v1/users/*\" or \"/o/{id}\"";
                Err(refuse(code::BAD_TEXT, format!("fits no path: {error}"), hint))
            }
        },
        Text::LoggedHeader => cross_log::header(text),
        Text::KeptHeader => {
            let spares = |known: &Known| known.class() == Class::Override;
            if let Some(known) = Known::of(text.as_bytes()).filter(spares) {
                return Ok(Scalar::Text(known.name().to_owned()));
            }
            let all: Vec<_> = Known::all().filter(spares).map(Known::name).collect();
            let hint = format!("it can have {}", all.join(", "));
            Err(refuse(code::NOT_A_CHOICE, format!("cannot have \"{}\"", clip(text)), hint))
        }
        _ => plain(text, problem(text, form), wanted(form)),
    }
}

/// What is wrong with a text of a simple form, as a hint; empty: nothing.
fn problem(text: &str, form: Text) -> &'static str {
    let visible = || text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= TEXT_BYTES_MAX;
    let bad = match form {
        Text::Alpn => !visible() || text.is_empty() || text.len() > 255,
        Text::Regex => text.is_empty() || text.len() > TEXT_BYTES_MAX,
        Text::Template => !is_field_value(text),
        Text::PathTemplate => {
            !text.starts_with('/') || text.contains(['?', '#', '\\']) || !visible()
        }
        Text::HostTemplate => text.is_empty() || text.contains(['/', '@', '?', '#']) || !visible(),
        Text::AddressTemplate => {
            let starts = ["/", "http://", "https://", "{scheme}://"];
            !starts.iter().any(|start| text.starts_with(start))
                || text.starts_with("//")
                || !visible()
        }
        Text::Prefix => {
            !text.starts_with('/')
                || text.contains(['*', '{', '?', '#', '\\'])
                || text.contains("//")
                || !visible()
        }
        Text::Cookie => !is_token(text),
        Text::ContentType | Text::MediaRange => !is_field_value(text) || !is_media(text),
        Text::RetryOn => {
            let status =
                text.len() == 3 && text.parse::<u16>().is_ok_and(|n| (400..=599).contains(&n));
            !status && !["connect", "reset", "timeout"].contains(&text)
        }
        Text::Label => {
            text.is_empty() || text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control)
        }
        _ => false,
    };
    if bad { hint(form) } else { "" }
}

const fn wanted(form: Text) -> &'static str {
    match form {
        Text::Alpn => "must be a protocol of ALPN",
        Text::Regex => "must be a regular expression of 1 to 4096 bytes",
        Text::Template => "must be the value of a header field",
        Text::PathTemplate => "must be a path",
        Text::HostTemplate => "must be a host",
        Text::AddressTemplate => "must be a path or an address of the web",
        Text::Prefix => "must be the beginning of a path",
        Text::Cookie => "must be the name of a cookie",
        Text::ContentType | Text::MediaRange => "must be a content type",
        Text::RetryOn => {
            "must be \"connect\", \"reset\", \"timeout\" or a status code from 400 to 599"
        }
        _ => "must be text of 1 to 256 bytes without control characters",
    }
}

const fn hint(form: Text) -> &'static str {
    match form {
        Text::Alpn => "write \"h2\" or \"http/1.1\"",
        Text::Template => {
            "no line break or other control character may stand in it, nor a space at its edges"
        }
        Text::PathTemplate => "begin with `/`; the query goes on by itself",
        Text::HostTemplate => "write \"app.internal\" or \"{header:X-Host}\"",
        Text::AddressTemplate => {
            "begin with `/`, `https://` or `{scheme}://`; spaces and other characters are written as %XX"
        }
        Text::Prefix => "write \"/v1\"",
        Text::ContentType => "write \"text/html\" or \"application/json\"",
        Text::MediaRange => "write \"text/*\" or \"application/json\"",
        Text::RetryOn => "write \"503\" in quotes",
        _ => " ",
    }
}

fn plain(text: &str, problem: &str, wanted: &str) -> Taken {
    if problem.is_empty() {
        return Ok(Scalar::Text(text.to_owned()));
    }
    Err(refuse(code::BAD_TEXT, format!("{wanted}, found \"{}\"", clip(text)), problem.trim()))
}

fn lower(scalar: Scalar) -> Scalar {
    match scalar {
        Scalar::Text(text) => {
            Scalar::Text(text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase())
        }
        other => other,
    }
}

/// Why a name cannot be a header field, as a hint; empty: it can.
#[must_use]
pub fn header_problem(name: &str, written: bool) -> &'static str {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        _ if !is_token(name) || name.len() > 256 => "letters, digits and hyphens",
        "host" if written => "Host has a key of its own: `host`",
        own if written && FRAMING.contains(&own) => {
            "it frames the message and is set by the gateway itself"
        }
        _ => "",
    }
}

/// Why a text is no host or `*.` and a host, as a hint; empty: it is.
#[must_use]
pub fn host_problem(text: &str) -> &'static str {
    let name = text.strip_prefix("*.").unwrap_or(text);
    match () {
        () if text == "*" => "any host is meant by leaving the key out",
        () if name.contains('*') => "`*` can only be the first label: \"*.example.com\"",
        () if name.contains("://") || name.contains('/') => {
            "without scheme and path: \"www.example.com\""
        }
        () if name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() => {
            if address::is_host(name) && text == name {
                ""
            } else {
                "write the address alone, without port"
            }
        }
        () if name.contains(':') => "without port: ports are not compared",
        () if !name.is_ascii() => "names with other letters are written in their `xn--` form",
        () if !address::is_host(name) => "labels of letters, digits and hyphens, between dots",
        () => "",
    }
}

/// `type/subtype`, perhaps with parameters; `*` passes as a token.
fn is_media(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or("").trim_end();
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

fn pem(text: &str, private: bool, dir: &Path) -> Taken {
    const HINT: &str = "write \"file:/path\" or \"env:NAME\"";
    let (pem, plain) = match SecretFrom::parse(text, dir) {
        SecretFrom::File(path) => (Pem::File(path), false),
        SecretFrom::Plain(text) if text.contains("-----BEGIN ") => (Pem::Text(Secret(text)), true),
        SecretFrom::Plain(text) => {
            // It may be a key in some other encoding, so it is not shown.
            let shown = if private || text.len() > 256 {
                String::new()
            } else {
                format!(", found \"{}\"", clip(&text))
            };
            let hint = if text.contains('/') || text.contains('.') {
                "a file is written with `file:` before its path"
            } else {
                HINT
            };
            return Err(refuse(
                code::BAD_TEXT,
                format!("must name a file or a variable{shown}"),
                hint,
            ));
        }
        from @ SecretFrom::Environment(_) => {
            let value = from.fetch().map_err(|problem| refuse(code::BAD_SECRET, problem, ""))?;
            (Pem::Text(Secret(value)), false)
        }
    };
    if matches!(&pem, Pem::File(path) if path.as_os_str().is_empty()) {
        return Err(refuse(code::BAD_TEXT, "names no file", HINT));
    }
    Ok(Scalar::Pem { pem, plain })
}

fn verify(text: &str, dir: &Path) -> Taken {
    let file = || text.strip_prefix("file:").filter(|path| !path.is_empty());
    let verify = match text {
        "system" => Some(Verify::System),
        "insecure" => Some(Verify::Insecure),
        _ => file().map(|path| Verify::File(dir.join(path))),
    };
    verify.map(Scalar::Verify).ok_or_else(|| {
        let shown = clip(text);
        let problem =
            format!("must be \"system\", \"file:ca.pem\" or \"insecure\", found \"{shown}\"");
        let near = super::keys::nearest(text, ["system", "insecure"].into_iter());
        let hint = near.map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
        refuse(code::NOT_A_CHOICE, problem, hint)
    })
}

fn body(text: &str, max: u64, dir: &Path) -> Taken {
    let Some(path) = text.strip_prefix("file:") else {
        return Ok(Scalar::Text(text.to_owned()));
    };
    let path = dir.join(path);
    let named = |clause: &str| format!("is in {}, which {clause}", path.display());
    let bytes =
        read::bytes(&path, max).map_err(|error| refuse(error.code, named(&error.clause), ""))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Scalar::Text(text)),
        Err(_) => Err(refuse(code::NOT_UTF8, named("is not UTF-8 text"), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: Text, value: &str) -> Taken {
        text(value, form, Path::new("/etc/sg"))
    }

    #[test]
    fn a_path_pattern_is_one_that_some_path_fits() {
        for good in [
            "/",
            "/*",
            "/v1/users",
            "/v1/users/",
            "/v1/users/*",
            "/o/{id}/items/*",
            "/a%20b",
            "/~x",
            "/%7Ea",
            "/a%2fb",
        ] {
            assert!(read(Text::PathPattern, good).is_ok(), "{good}");
        }
        for bad in [
            "", "v1", "*", "/a//b", "/a/../b", "/./a", "/a*", "/*/a", "/a{id}", "/{id", "/{}",
            "/{a b}", "/{a}/{a}", "/a?b=1", "/a#b", "/a b", "/é", "/%zz", "/%2", "/a%0A", "/a%5c",
            "/a\\b", "/a;b",
        ] {
            assert!(read(Text::PathPattern, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_lower_case_without_port() {
        assert_eq!(read(Text::HostPattern, "A.Test"), Ok(Scalar::Text("a.test".into())));
        assert_eq!(
            read(Text::HostPattern, "*.Example.org"),
            Ok(Scalar::Text("*.example.org".into()))
        );
        for bad in [
            "",
            "*",
            "a.*.test",
            "*a.test",
            "a.test:443",
            "http://a.test",
            "a.test/x",
            "é.test",
            "a b",
        ] {
            assert!(read(Text::HostPattern, bad).is_err(), "{bad}");
        }
        assert!(read(Text::ServerName, "*.a.test").is_err());
    }

    #[test]
    fn no_line_break_gets_into_a_head() {
        for form in [
            Text::Template,
            Text::PathTemplate,
            Text::HostTemplate,
            Text::AddressTemplate,
            Text::Header { written: true },
            Text::ContentType,
            Text::Cookie,
            Text::Prefix,
        ] {
            for value in ["/b\r\nX-C: d", "/b\nc", "/b\0c", "text/x\r\ny"] {
                assert!(read(form, value).is_err(), "{form:?} {value:?}");
            }
        }
    }

    #[test]
    fn framing_is_nobodys_to_write() {
        for name in ["Content-Length", "transfer-encoding", "Connection", "Host", "TE", "a b", ""] {
            assert!(!header_problem(name, true).is_empty(), "{name}");
        }
        assert_eq!(header_problem("Host", false), "");
        assert_eq!(header_problem("X-Request-Id", true), "");
    }

    #[test]
    fn a_key_that_is_no_reference_is_not_shown() {
        let refusal = read(Text::Pem { private: true }, "MIIEvQIBADANBgkqhkiG9w0").unwrap_err();
        assert!(!format!("{refusal:?}").contains("MIIE"), "{refusal:?}");
        assert!(read(Text::Pem { private: true }, "env:SLUICEGATE_TEST_NEVER_SET").is_err());
        let file = Pem::File("/etc/sg/a.key".into());
        assert_eq!(
            read(Text::Pem { private: true }, "file:a.key"),
            Ok(Scalar::Pem { pem: file, plain: false })
        );
    }
}
