//! The key table as the reference page `docs/configuration.md`.

use std::fmt::Write as _;

use super::code::{CODES, Severity};
use super::keys::{Fallback, Key, Kind, Names, Section, Text};
use super::table::ROOT;
use super::units::{duration_text, size_text};

/// The whole page in Markdown. A test compares it with the file in `docs/`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(HEAD);
    for section in ROOT.all_below() {
        section_text(section, &mut out);
    }
    codes_text(&mut out);
    out
}

const HEAD: &str = "\
# Configuration reference

This page is made from the table that checks the file (`src/config/table.rs`, `table_http.rs`, `table_policy.rs`), by `sluicegate schema --reference`.
`sluicegate check FILE` says everything that is wrong with a file, in one run; `sluicegate schema` prints the same
table as JSON Schema. Examples that work are in `config/`.

## Values

| what | how it is written |
|---|---|
| duration | one whole number and `us`, `ms`, `s`, `m`, `h` or `d`: `\"250ms\"`, `\"10m\"`; at most `\"365d\"` |
| size | one whole number and `B`, `KiB`, `MiB` or `GiB`: `\"16KiB\"` |
| rate | `\"100/min\"`, `\"20/s burst 40\"`; units `/s`, `/min`, `/h`, `/day`; `burst` is how many may come at once, by itself as many as one unit brings |
| share | `\"1%\"` to `\"100%\"` |
| off | `\"off\"`, where the table below says so; zero is an error, and so is a number without unit |
| secret | `\"env:NAME\"`, `\"file:/path\"` (relative to this file; one last newline is cut), or plain text, which is a warning |
| PEM | `\"file:/path\"` (relative to this file), `\"env:NAME\"`, or the text itself |
| text with variables | `{client_ip}`, `{host}`, `{path}`, `{scheme}`, `{request_id}`, `{header:NAME}`, and what `match.path` captures: `{id}`, and `*` for its last `*`; `{{` is a brace |
| name | 1 to 64 of `A-Z a-z 0-9 _ . -`, not beginning with `.` or `-` |

Timeouts of a route hold before those of its pool, these before those of the listener, and these before `[defaults]`.

";

fn section_text(section: &Section, out: &mut String) {
    let _ = writeln!(out, "## {}\n\n{}\n", code_heading(section), section.doc);
    let _ = writeln!(out, "| key | value | default | meaning |\n|---|---|---|---|");
    for key in section.keys {
        let only = match key.only {
            [] => String::new(),
            words => {
                format!(
                    " Only with {} `{}`.",
                    section.tag.unwrap_or_default(),
                    words.join("` or `")
                )
            }
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {}{only} |",
            key.name,
            kind_text(&key.kind),
            default_text(key),
            key.doc.replace('|', "\\|")
        );
    }
    out.push('\n');
}

fn code_heading(section: &Section) -> String {
    if section.heading.starts_with('[') {
        format!("`{}`", section.heading)
    } else {
        section.heading.to_owned()
    }
}

fn default_text(key: &Key) -> String {
    match key.fallback {
        _ if key.required => "**required**".to_owned(),
        Fallback::Absent => String::new(),
        Fallback::Bool(on) => format!("`{on}`"),
        Fallback::Integer(number) => format!("`{number}`"),
        Fallback::Text(text) => format!("`\"{text}\"`"),
        Fallback::Words(words) => {
            format!(
                "`[{}]`",
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
            )
        }
        Fallback::Described(words) => words.to_owned(),
    }
}

fn kind_text(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer { min, max } if min == max => format!("`{min}`"),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::IntegerOrAuto { min, max } => format!("{min} to {max}, or `\"auto\"`"),
        Kind::Duration { min, max, off } => {
            let off = if *off { ", or `\"off\"`" } else { "" };
            format!("duration, {} to {}{off}", duration_text(*min), duration_text(*max))
        }
        Kind::Size { min, max } => format!("size, {} to {}", size_text(*min), size_text(*max)),
        Kind::Rate => "rate".to_owned(),
        Kind::RateOrOff => "rate, or `\"off\"`".to_owned(),
        Kind::Json => "text, whole number, `true` or `false`".to_owned(),
        Kind::Share => "share".to_owned(),
        Kind::Word { words, .. } => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Text(form) => text_text(*form),
        Kind::List { of, max } => format!("list of at most {max}: {}", kind_text(of)),
        Kind::OneOrList { of, min, max } => {
            format!("{}; or a list of {min} to {max}", kind_text(of))
        }
        Kind::Statuses => "status code, or a range `\"200-399\"`".to_owned(),
        Kind::Table(section) => {
            let short = section.short.and_then(|short| section.index(short));
            let short = short.map(|at| format!("{}, or ", kind_text(&section.keys[at].kind)));
            format!("{}table, see {}", short.unwrap_or_default(), code_heading(section))
        }
        Kind::TableOrFalse(section) => format!("`false`, or table, see {}", code_heading(section)),
        Kind::Tables { section, max } => {
            format!("list of at most {max} tables, see {}", code_heading(section))
        }
        Kind::Named { section, max } => format!("1 to {max} names, see {}", code_heading(section)),
        Kind::Fields { names, of, max } => {
            let names = match names {
                Names::HeaderWritten | Names::HeaderRead => "header fields",
                Names::Query => "parameters",
                Names::Cookie => "cookies",
                Names::ServerName => "server names",
                Names::Pool => "pools",
                Names::Claim => "claims",
                Names::Group => "groups",
                Names::JsonMember => "members",
            };
            format!("table of at most {max} {names}, each with: {}", kind_text(of))
        }
    }
}

fn text_text(form: Text) -> String {
    match form {
        Text::Bind | Text::Server => "address".to_owned(),
        Text::Network => "network".to_owned(),
        Text::Ip => "IP address".to_owned(),
        Text::Resolver => "IP address, perhaps with a port".to_owned(),
        Text::Host => "host name or address".to_owned(),
        Text::Secret { min: 0 | 1 } => "secret".to_owned(),
        Text::Secret { min } => format!("secret, at least {min} bytes"),
        Text::Mode => "octal".to_owned(),
        Text::LogTarget => "`\"stdout\"`, `\"file:/path\"`, `\"off\"`".to_owned(),
        Text::Pattern => "path, perhaps with `*` and `?`".to_owned(),
        Text::PoolName => "name of a pool".to_owned(),
        Text::Method => "HTTP method".to_owned(),
        Text::RequestPath => "path".to_owned(),
        Text::FieldValue => "text".to_owned(),
        Text::Free { max } => format!("text of at most {max} bytes"),
        Text::Pem { private: false } => "PEM".to_owned(),
        Text::Pem { private: true } => "PEM, secret".to_owned(),
        Text::Verify => "`\"system\"`, `\"file:ca.pem\"`, `\"insecure\"`".to_owned(),
        Text::ServerName => "host name".to_owned(),
        Text::Alpn => "name of a protocol".to_owned(),
        Text::HostPattern => "host name, or `\"*.\"` and a host name".to_owned(),
        Text::PathPattern => "path, perhaps with `{name}` and `*`".to_owned(),
        Text::Regex => "regular expression".to_owned(),
        Text::Template => "text, perhaps with variables".to_owned(),
        Text::PathTemplate => "path, perhaps with variables".to_owned(),
        Text::HostTemplate => "host, perhaps with variables".to_owned(),
        Text::AddressTemplate => "path or address, perhaps with variables".to_owned(),
        Text::Prefix => "beginning of a path".to_owned(),
        Text::Header { .. } | Text::KeptHeader | Text::LoggedHeader => {
            "name of a header field".to_owned()
        }
        Text::Cookie => "name of a cookie".to_owned(),
        Text::ContentType | Text::MediaRange => "content type".to_owned(),
        Text::Body { max } => format!("text, or a file of at most {}", size_text(max)),
        Text::RetryOn => {
            "`\"connect\"`, `\"reset\"`, `\"timeout\"`, or a status code `\"503\"`".to_owned()
        }
        Text::Label => "text of at most 256 bytes".to_owned(),
        Text::PolicyRef => "name of a policy, `\"!name\"`, `\"!*\"`".to_owned(),
        Text::PolicyName => "name of a policy".to_owned(),
        Text::Claim => "`\"claim:NAME\"`, `\"claim:/a/b\"`".to_owned(),
        Text::FromHeader => "`\"header:NAME\"`".to_owned(),
        Text::TokenFrom => "`\"bearer\"`, `\"header:NAME\"`, `\"cookie:NAME\"`".to_owned(),
        Text::AclEntry => {
            "`\"group:NAME\"`, `\"consumer:NAME\"`, `\"claim:NAME=VALUE\"`".to_owned()
        }
        Text::LimitKey => {
            "`\"consumer\"`, `\"ip\"`, `\"route\"`, `\"listener\"`, `\"header:NAME\"`".to_owned()
        }
        Text::HashKey => {
            "`\"ip\"`, `\"header:NAME\"`, `\"cookie:NAME\"`, `\"consumer\"`, `\"path\"`".to_owned()
        }
        Text::Quota => "count and window, `\"10000/day\"`".to_owned(),
        Text::Origin => "origin, or `\"*\"`".to_owned(),
        Text::Url => "address of HTTP or HTTPS".to_owned(),
        Text::RedisUrl => "address of a Redis, secret".to_owned(),
        Text::Jwks => "JSON Web Key Set".to_owned(),
        Text::KeyHash => "hash of a key".to_owned(),
        Text::PasswordHash => "hash of a password".to_owned(),
        Text::JsonMember => "name, or a JSON pointer".to_owned(),
        Text::Moment => "moment, `\"2027-01-01T00:00:00Z\"`".to_owned(),
    }
}

fn codes_text(out: &mut String) {
    out.push_str("## Codes\n\nErrors keep a configuration from being used, warnings do not. A code never changes its meaning.\n\n");
    out.push_str("| code | | meaning |\n|---|---|---|\n");
    for code in CODES {
        let severity = match code.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let _ = writeln!(out, "| `{}` | {severity} | {} |", code.id, code.title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("SLUICEGATE_UPDATE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/configuration.md is out of date; run `SLUICEGATE_UPDATE=1 cargo test reference`"
        );
    }
}
