//! Forms of text that policies and consumers bring: references, claims, keys of limits, hashes,
//! addresses of the web.
//!
//! As in [`value`](super::value). What is a secret, or is refused with one in it, is not shown.

use std::path::Path;

use sluicegate_l7::policy::consumer::{KeyHash, PasswordHash};
use sluicegate_l7::policy::jwks::KeySet;
use sluicegate_l7::policy::redis_script::RedisUrl;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::address;
use super::code;
use super::keys::Text;
use super::read::SecretFrom;
use super::text_http::header_problem;
use super::units;
use super::value::{Scalar, Taken, clip, is_token, refuse};

/// Longer values are mistakes; what is compared with them is short.
const TEXT_BYTES_MAX: usize = 1_024;

/// Whether it is one of the forms here.
#[must_use]
pub const fn has(form: Text) -> bool {
    matches!(
        form,
        Text::PolicyRef
            | Text::PolicyName
            | Text::Claim
            | Text::FromHeader
            | Text::TokenFrom
            | Text::AclEntry
            | Text::LimitKey
            | Text::HashKey
            | Text::Quota
            | Text::Origin
            | Text::Url
            | Text::RedisUrl
            | Text::Jwks
            | Text::KeyHash
            | Text::PasswordHash
            | Text::JsonMember
            | Text::Moment
    )
}

/// # Errors
/// Anything but text of the form. `dir` is where relative paths start.
pub fn text(text: &str, form: Text, dir: &Path) -> Taken {
    match form {
        Text::RedisUrl => redis(text, dir),
        Text::Jwks => jwks(text, dir),
        Text::KeyHash if KeyHash::parse(text).is_some() => Ok(Scalar::Text(text.to_owned())),
        Text::KeyHash => {
            let problem = "must be \"sha256:\" and 64 hexadecimal digits";
            Err(refuse(code::BAD_SECRET, problem, "make one with `sluicegate key new`"))
        }
        Text::PasswordHash => password(text, dir),
        Text::Moment => match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(moment) => Ok(Scalar::Integer(moment.unix_timestamp())),
            Err(_) => shape(text, "must be a moment", "write \"2027-01-01T00:00:00Z\""),
        },
        Text::Quota => match units::parse_quota(text) {
            Ok(_) => Ok(Scalar::Text(text.to_owned())),
            Err(error) => Err(refuse(
                code::BAD_UNIT,
                format!("cannot be read: {}", error.problem),
                error.hint,
            )),
        },
        _ => match problem(text, form) {
            "" => Ok(Scalar::Text(text.to_owned())),
            hint => shape(text, wanted(form), hint),
        },
    }
}

fn shape(text: &str, wanted: &str, hint: &str) -> Taken {
    Err(refuse(code::BAD_TEXT, format!("{wanted}, found \"{}\"", clip(text)), hint.trim()))
}

const fn wanted(form: Text) -> &'static str {
    match form {
        Text::PolicyRef | Text::PolicyName => "must be the name of a policy",
        Text::Claim => "must name a claim",
        Text::FromHeader => "must name a header field",
        Text::TokenFrom => "must say where the token is",
        Text::AclEntry => "must be a group, a consumer or a claim",
        Text::LimitKey => "must be something to count by",
        Text::HashKey => "must be something to choose by",
        Text::Origin => "must be an origin",
        Text::Url => "must be an address of HTTP or HTTPS",
        _ => "must be a member of a JSON object",
    }
}

/// What is wrong with a text, as a hint; empty: nothing.
fn problem(text: &str, form: Text) -> &'static str {
    let visible = !text.is_empty()
        && text.len() <= TEXT_BYTES_MAX
        && !text.chars().any(|c| c.is_control() || c == ' ');
    let header = |name: &str| header_problem(name, false).is_empty();
    let after = |start: &str| text.strip_prefix(start);
    let (fits, hint) = match form {
        Text::Claim => (
            after("claim:").is_some_and(is_selector),
            "write \"claim:sub\", or a JSON pointer: \"claim:/a/b\"",
        ),
        Text::FromHeader => (after("header:").is_some_and(header), "write \"header:X-User\""),
        Text::TokenFrom => (
            text == "bearer"
                || after("header:").is_some_and(header)
                || after("cookie:").is_some_and(is_token),
            "write \"bearer\", \"header:NAME\" or \"cookie:NAME\"",
        ),
        Text::AclEntry => {
            (is_acl_entry(text), "write \"group:gold\", \"consumer:alice\" or \"claim:tier=gold\"")
        }
        Text::LimitKey => (
            ["consumer", "ip", "route", "listener"].contains(&text)
                || after("header:").is_some_and(header),
            "write \"consumer\", \"ip\", \"route\", \"listener\" or \"header:NAME\"",
        ),
        Text::HashKey => (
            ["ip", "consumer", "path"].contains(&text)
                || after("header:").is_some_and(header)
                || after("cookie:").is_some_and(is_token),
            "write \"ip\", \"header:NAME\", \"cookie:NAME\", \"consumer\" or \"path\"",
        ),
        Text::Origin => {
            (text == "*" || is_origin(text), "write \"https://app.example.com\", without a path")
        }
        Text::Url => (
            visible && is_url(text),
            "write \"https://idp.example.com/path\"; a name and a password have keys of their own",
        ),
        Text::JsonMember => (is_member(text), "write \"name\", or a JSON pointer: \"/a/b\""),
        _ => (visible, " "),
    };
    if fits { "" } else { hint }
}

/// A name of a claim, or a JSON pointer (RFC 6901).
pub fn is_selector(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && is_member(text)
}

fn is_member(text: &str) -> bool {
    let escapes = || text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let inside = |text: &str| !text.is_empty() && text.len() <= TEXT_BYTES_MAX;
    match text.strip_prefix('/') {
        Some(pointer) => inside(pointer) && escapes(),
        None => inside(text),
    }
}

fn is_acl_entry(text: &str) -> bool {
    match text.split_once(':') {
        Some(("group" | "consumer", name)) => !name.is_empty() && name.len() <= TEXT_BYTES_MAX,
        Some(("claim", rest)) => rest
            .split_once('=')
            .is_some_and(|(claim, value)| is_selector(claim) && !value.is_empty()),
        _ => false,
    }
}

/// RFC 6454 §6.1, as a browser writes it.
fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|host| address::is_host(host) && !host.ends_with('.'))
        && text.to_ascii_lowercase() == text
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    address::is_host(host) && path.bytes().all(|b| b.is_ascii_graphic()) && !path.contains('#')
}

fn redis(text: &str, dir: &Path) -> Taken {
    let from = SecretFrom::parse(text, dir);
    let plain = matches!(from, SecretFrom::Plain(_));
    let value = from.fetch().map_err(|problem| refuse(code::BAD_SECRET, problem, ""))?;
    match RedisUrl::parse(&value) {
        Ok(url) if address::is_host(&url.host) || url.host.contains(':') => {}
        Ok(_) => return Err(refuse(code::BAD_ADDRESS, "names no host that there could be", "")),
        Err(problem) => {
            return Err(refuse(code::BAD_ADDRESS, format!("cannot be used: {problem}"), ""));
        }
    }
    // Only a password makes a secret of it.
    let plain = plain && value.contains('@');
    Ok(Scalar::Secret { value, plain })
}

fn jwks(text: &str, dir: &Path) -> Taken {
    let value = SecretFrom::parse(text, dir)
        .fetch()
        .map_err(|problem| refuse(code::UNREADABLE, problem, "write \"file:/path\""))?;
    match KeySet::parse_jwks(value.as_bytes()) {
        Ok(_) => Ok(Scalar::Text(value)),
        Err(error) => {
            let problem = format!("is no JSON Web Key Set that could be used: {error}");
            Err(refuse(code::BAD_PEM, problem, ""))
        }
    }
}

fn password(text: &str, dir: &Path) -> Taken {
    let from = SecretFrom::parse(text, dir);
    let value = from.fetch().map_err(|problem| refuse(code::BAD_SECRET, problem, ""))?;
    if PasswordHash::parse(&value).is_some() {
        return Ok(Scalar::Text(value));
    }
    let problem = "must be a hash by argon2 or bcrypt: \"$argon2id$…\", \"$2b$…\"";
    let hint = "make one with `htpasswd -nB NAME`, and take what is behind the colon";
    Err(refuse(code::BAD_SECRET, problem, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(form: Text, value: &str) -> bool {
        text(value, form, Path::new("/etc/sg")).is_ok()
    }

    #[test]
    fn addresses_of_the_web_have_a_host_and_no_login() {
        for good in
            ["https://idp.example.com/jwks.json", "http://127.0.0.1:9000", "http://[::1]:1/a?b=c"]
        {
            assert!(takes(Text::Url, good), "{good}");
        }
        for bad in [
            "idp.example.com",
            "ftp://a/",
            "https://",
            "https://u:p@a/",
            "https://a/ b",
            "https://a/#b",
            "https://a:x/",
        ] {
            assert!(!takes(Text::Url, bad), "{bad}");
        }
        for good in ["*", "https://app.example.com", "http://localhost:3000"] {
            assert!(takes(Text::Origin, good), "{good}");
        }
        for bad in [
            "https://app.example.com/",
            "app.example.com",
            "https://*.example.com",
            "null",
            "HTTPS://a",
        ] {
            assert!(!takes(Text::Origin, bad), "{bad}");
        }
    }

    #[test]
    fn a_refused_redis_or_hash_is_not_shown() {
        for (form, bad) in [
            (Text::RedisUrl, "redis://u:s3cret@ho st"),
            (Text::PasswordHash, "s3cret"),
            (Text::KeyHash, "sha256:s3cret"),
        ] {
            let refusal = text(bad, form, Path::new("/")).unwrap_err();
            assert!(!refusal.problem.contains("s3cret") && !refusal.hint.contains("s3cret"));
        }
        assert!(takes(Text::RedisUrl, "redis://127.0.0.1:6379/2"));
        assert!(!takes(Text::RedisUrl, "http://127.0.0.1:6379"));
    }

    #[test]
    fn members_and_claims_are_names_or_pointers() {
        for good in ["a", "a b", "/a/b", "/a~1b/~0c"] {
            assert!(takes(Text::JsonMember, good), "{good}");
        }
        for bad in ["", "/", "/a~2"] {
            assert!(!takes(Text::JsonMember, bad), "{bad}");
        }
        assert!(takes(Text::Claim, "claim:/realm/roles"));
        assert!(!takes(Text::Claim, "sub"));
        assert!(takes(Text::AclEntry, "claim:tier=gold") && !takes(Text::AclEntry, "claim:tier"));
        assert!(takes(Text::HashKey, "cookie:sid") && takes(Text::HashKey, "header:X-Key"));
        assert!(!takes(Text::HashKey, "cookie:") && !takes(Text::HashKey, "route"));
        assert!(takes(Text::LimitKey, "header:X-Key") && !takes(Text::LimitKey, "header:"));
    }
}
