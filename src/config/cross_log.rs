//! What may not stand in the access log: credentials and cookies; and where it cannot be written.
//!
//! Names of header fields that carry them everywhere are refused where they are read; those that
//! carry them here, because a policy looks for a credential there, once the policies are known.

use std::path::Path;

use sluicegate_l7::policy::credential::{KeyFrom, TokenFrom};
use sluicegate_l7::policy::spec::{Credential, Kind, PolicySpec};

use super::build::Draft;
use super::code;
use super::fields::Fields;
use super::keys::Text;
use super::plan::{AccessLog, LogForm};
use super::report::{Finding, Findings};
use super::text_http::text;
use super::value::{Scalar, Taken, clip, refuse};

/// Fields that carry credentials or cookies, by RFC 9110, RFC 6265, or wide custom.
const SECRET: [&str; 16] = [
    "api-key",
    "apikey",
    "authorization",
    "cookie",
    "cookie2",
    "private-token",
    "proxy-authorization",
    "set-cookie",
    "set-cookie2",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-vault-token",
    "x-xsrf-token",
];

const HINT: &str = "who reads the log could act for its clients";

/// # Errors
/// Anything but the name of a header field that has no credential.
pub(super) fn header(name: &str) -> Taken {
    if SECRET.contains(&name.to_ascii_lowercase().as_str()) {
        let problem =
            format!("cannot have \"{}\", which carries a credential or a cookie", clip(name));
        return Err(refuse(code::LOGS_SECRET, problem, HINT));
    }
    text(name, Text::Header { written: false }, std::path::Path::new(""))
}

/// Reports what would write a credential, and what is never written.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let Some(fields) = draft.root.table("log") else { return };
    place(&draft.log.access, fields, found);
    for (scalar, place) in fields.list("headers") {
        let Scalar::Text(name) = scalar else { continue };
        for policy in draft.policies.specs.iter().filter(|policy| reads_header(policy, &name)) {
            let message = format!(
                "`headers` of `[log]` cannot have \"{}\": policy `{}` takes it for a credential",
                clip(&name),
                clip(&policy.name)
            );
            let path = fields.path_of("headers");
            found.add(Finding::new(code::LOGS_SECRET, place, path, message).hint(HINT));
        }
    }
    if draft.log.lines.query {
        for policy in draft.policies.specs.iter().filter(|policy| reads_query(policy)) {
            let message = format!(
                "`query` of `[log]` would write the keys that policy `{}` takes from the query",
                clip(&policy.name)
            );
            let (place, path) = (fields.place_of("query"), fields.path_of("query"));
            found.add(Finding::new(code::LOGS_SECRET, place, path, message).hint(HINT));
        }
    }
    if draft.log.lines.form == LogForm::Combined && fields.has("headers") {
        let message = "`headers` of `[log]` has no effect: lines of the combined format always have \
                       Referer and User-Agent, and nothing else";
        let (place, path) = (fields.place_of("headers"), fields.path_of("headers"));
        let finding = Finding::new(code::NO_EFFECT, place, path, message);
        found.add(finding.hint("write format = \"json\""));
    }
}

/// What can be told without opening it, which would make the file.
fn place(access: &AccessLog, fields: &Fields, found: &mut Findings) {
    let AccessLog::File(path) = access else { return };
    let shown = |path: &Path| clip(&path.display().to_string());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let (code, clause, hint) = if path.is_dir() {
        (code::NOT_A_FILE, "which is a directory".to_owned(), "name a file in it".to_owned())
    } else if !dir.exists() {
        let clause = format!("and there is no directory {}", shown(dir));
        (code::UNREADABLE, clause, format!("make it: mkdir -p {}", shown(dir)))
    } else if !dir.is_dir() {
        let clause = format!("and {} is not a directory", shown(dir));
        (code::UNREADABLE, clause, String::new())
    } else {
        return;
    };
    let message = format!("`access` of `[log]` names {}, {clause}", shown(path));
    let finding = Finding::new(code, fields.place_of("access"), fields.path_of("access"), message);
    found.add(finding.hint(hint));
}

fn reads_header(policy: &PolicySpec, name: &str) -> bool {
    let Kind::Auth(auth) = &policy.kind else { return false };
    let token =
        |from: &TokenFrom| matches!(from, TokenFrom::Header(own) if own.eq_ignore_ascii_case(name));
    match &auth.by {
        Credential::Jwt(jwt) => token(&jwt.from),
        Credential::Introspection(spec) => token(&spec.from),
        Credential::ApiKey(KeyFrom::Header(own)) => own.eq_ignore_ascii_case(name),
        // What an auth service is asked with is what it decides by.
        Credential::ForwardAuth(spec) => spec.send.iter().any(|own| own.eq_ignore_ascii_case(name)),
        _ => false,
    }
}

fn reads_query(policy: &PolicySpec) -> bool {
    let Kind::Auth(auth) = &policy.kind else { return false };
    matches!(auth.by, Credential::ApiKey(KeyFrom::Query(_)))
}
