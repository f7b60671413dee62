//! The key table as the reference page `docs/configuration.md`.

use std::fmt::Write as _;

use super::code::{CODES, Severity};
use super::keys::{Fallback, Key, Kind, Section, Text};
use super::table::ROOT;
use super::units::duration_text;

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

This page is made from the table that checks the file (`src/config/table.rs`), by `sluicegate schema --reference`.
`sluicegate check FILE` says everything that is wrong with a file, in one run; `sluicegate schema` prints the same
table as JSON Schema. Examples that work are in `config/`.

## Values

| what | how it is written |
|---|---|
| duration | one whole number and `us`, `ms`, `s`, `m`, `h` or `d`: `\"250ms\"`, `\"10m\"`; at most `\"365d\"` |
| rate | `\"100/min\"`, `\"20/s burst 40\"`; units `/s`, `/min`, `/h`, `/day`; `burst` is how many may come at once, by itself as many as one unit brings |
| share | `\"1%\"` to `\"100%\"` |
| off | `\"off\"`, where the table below says so; zero is an error, and so is a number without unit |
| secret | `\"env:NAME\"`, `\"file:/path\"` (relative to this file; one last newline is cut), or plain text, which is a warning |
| name | 1 to 64 of `A-Z a-z 0-9 _ . -`, not beginning with `.` or `-` |

Timeouts of a pool hold before those of the listener, and these before `[defaults]`.

";

fn section_text(section: &Section, out: &mut String) {
    let _ = writeln!(out, "## {}\n\n{}\n", code_heading(section), section.doc);
    let _ = writeln!(out, "| key | value | default | meaning |\n|---|---|---|---|");
    for key in section.keys {
        let only = match key.only {
            [] => String::new(),
            words => format!(" Only with type `{}`.", words.join("` or `")),
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
        Kind::Rate => "rate".to_owned(),
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
        Kind::Table(section) => format!("table, see {}", code_heading(section)),
        Kind::Named { section, max } => format!("1 to {max} names, see {}", code_heading(section)),
        Kind::Fields { max } => format!("table of at most {max} names and texts"),
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
