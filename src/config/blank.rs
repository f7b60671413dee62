//! The one rule of what must not be shown, for all that show what a file says: `/v1/config`, the
//! list of what a reload changed, the messages of `check`, the log.
//!
//! The key table says what is a secret. What the table cannot know is judged by its name: a
//! header field or a parameter that is called as credentials are. A blanked value says nothing,
//! not even where the secret comes from.

use super::address;
use super::keys::Text;

/// What stands in the place of a secret.
pub const BLANK: &str = "***";

/// Parts of names that credentials have. Rather one value too many is blanked.
const CREDENTIAL_WORDS: [&str; 9] =
    ["auth", "cookie", "credential", "key", "passw", "secret", "session", "signature", "token"];

/// A value of this form as it may be shown.
#[must_use]
pub fn text(form: Text, said: &str) -> String {
    let is_reference = said.starts_with("env:") || said.starts_with("file:");
    match form {
        Text::Secret { .. } | Text::Pem { private: true } | Text::KeyHash | Text::PasswordHash => {
            BLANK.to_owned()
        }
        Text::RedisUrl if is_reference => BLANK.to_owned(),
        Text::RedisUrl => match (said.split_once("://"), said.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{BLANK}@{place}"),
            _ => said.to_owned(),
        },
        // A file of certificates may have its key in it, and a set of keys a symmetric one.
        Text::Pem { .. } if said.contains("PRIVATE KEY") => BLANK.to_owned(),
        Text::Jwks if !is_reference => BLANK.to_owned(),
        Text::Url => url(said),
        Text::RequestPath => without_values(said, is_credential),
        _ => said.to_owned(),
    }
}

/// An address of the web without a login and without what its parameters say: services take keys
/// in parameters of any name.
#[must_use]
pub fn url(said: &str) -> String {
    without_values(&without_login(said), |_| true)
}

/// Whether a header field, cookie or parameter is called as credentials are.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
}

/// Where no host stands there may be a login, and what ends it is guessed: a password that nobody
/// has escaped can have any character in it.
fn without_login(said: &str) -> String {
    let (scheme, rest) = said.split_once("://").unwrap_or(("", said));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((_, place)) if !address::is_host(authority) => {
            let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
            format!("{scheme}{BLANK}@{place}")
        }
        _ => said.to_owned(),
    }
}

/// The same without the values of the parameters that `hides` names. One without a name may be
/// nothing but a secret.
fn without_values(address: &str, hides: impl Fn(&str) -> bool) -> String {
    let Some((path, query)) = address.split_once('?') else { return address.to_owned() };
    let parameter = |parameter: &str| match parameter.split_once('=') {
        Some((name, _)) if hides(name) => format!("{name}={BLANK}"),
        None if !parameter.is_empty() && hides(parameter) => BLANK.to_owned(),
        _ => parameter.to_owned(),
    };
    let query: Vec<_> = query.split('&').map(parameter).collect();
    format!("{path}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_login_and_values() {
        for (said, shown) in [
            ("https://idp.test/a", "https://idp.test/a"),
            ("https://idp.test/users/@me", "https://idp.test/users/@me"),
            ("https://idp.test:8443/a?tok=x&b=c", "https://idp.test:8443/a?tok=***&b=***"),
            ("https://idp.test/?x", "https://idp.test/?***"),
            ("https://u:p@idp.test/a?b=c", "https://***@idp.test/a?b=***"),
            ("https://u:p/q?r@idp.test/", "https://***@idp.test/"),
            ("u:p@idp.test", "***@idp.test"),
            ("", ""),
        ] {
            assert_eq!(url(said), shown, "{said}");
        }
    }

    #[test]
    fn a_path_is_shown_without_what_is_called_as_credentials_are() {
        assert_eq!(text(Text::RequestPath, "/h?Token=x&full=1&y"), "/h?Token=***&full=1&y");
    }
}
