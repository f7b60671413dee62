//! The key table as JSON Schema (draft 2020-12), for editors and generators.
//!
//! The schema holds what one value can be; what values mean together only `check` knows. So no
//! section is required: it may stand in an included file.

use serde_json::{Map, Value, json};

use super::keys::{Fallback, Key, Kind, Names, Section, Text};
use super::table::ROOT;

/// The whole schema. The same for TOML and JSON files.
#[must_use]
pub fn schema() -> Value {
    let mut out = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sluicegate configuration",
    });
    let mut definitions = Map::new();
    for section in ROOT.all_below().into_iter().skip(1) {
        definitions.insert(definition_name(section), section_schema(section));
    }
    if let (Some(out), Value::Object(root)) = (out.as_object_mut(), section_schema(&ROOT)) {
        out.extend(root);
        out.insert("$defs".to_owned(), Value::Object(definitions));
    }
    out
}

/// `[pool.NAME.check]` → `pool.check`.
fn definition_name(section: &Section) -> String {
    let (name, variant) = section.heading.split_once("] ").unwrap_or((section.heading, ""));
    let word = match variant.strip_prefix("type = ") {
        Some(word) => word.trim_matches('"'),
        None => variant.trim_matches(['(', ')']),
    };
    let name = name.split(',').next().unwrap_or(name).trim_matches(['[', ']']).replace(".NAME", "");
    if word.is_empty() { name } else { format!("{name}.{word}") }
}

fn section_schema(section: &Section) -> Value {
    let properties: Map<String, Value> = section
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), key_schema(key, section.tag.unwrap_or_default())))
        .collect();
    let required: Vec<&str> =
        section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut out = json!({
        "description": section.doc,
        "type": "object",
        "properties": properties,
    });
    if section.variants.is_empty() {
        out["additionalProperties"] = json!(false);
    } else {
        let variants = section
            .variants
            .iter()
            .map(|section| json!({ "$ref": format!("#/$defs/{}", definition_name(section)) }));
        out["oneOf"] = variants.collect();
    }
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    out
}

fn key_schema(key: &Key, tag: &str) -> Value {
    let mut out = kind_schema(&key.kind);
    out["description"] = json!(plain(key, tag));
    match key.fallback {
        Fallback::Absent | Fallback::Described(_) => {}
        Fallback::Bool(on) => out["default"] = json!(on),
        Fallback::Integer(number) => out["default"] = json!(number),
        Fallback::Text(text) => out["default"] = json!(text),
        Fallback::Words(words) => out["default"] = json!(words),
    }
    out
}

fn plain(key: &Key, tag: &str) -> String {
    let mut text = key.doc.to_owned();
    if !key.only.is_empty() {
        text = format!("{text} Only with {tag} {}.", key.only.join(" or "));
    }
    if let Fallback::Described(words) = key.fallback {
        text = format!("{text} Default: {words}.");
    }
    text
}

fn kind_schema(kind: &Kind) -> Value {
    const DURATION: &str = "[0-9]*[1-9][0-9]*(us|ms|s|m|h|d)";
    let reference =
        |section: &Section| json!({ "$ref": format!("#/$defs/{}", definition_name(section)) });
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::IntegerOrAuto { min, max } => {
            json!({ "oneOf": [{ "type": "integer", "minimum": min, "maximum": max }, { "const": "auto" }] })
        }
        Kind::Duration { off: true, .. } => {
            json!({ "type": "string", "pattern": format!("^({DURATION}|off)$") })
        }
        Kind::Duration { off: false, .. } => {
            json!({ "type": "string", "pattern": format!("^{DURATION}$") })
        }
        Kind::Rate => {
            json!({ "type": "string", "pattern": "^\\s*[0-9]*[1-9][0-9]*/(s|min|h|day)(\\s+burst\\s+[0-9]*[1-9][0-9]*)?\\s*$" })
        }
        Kind::RateOrOff => {
            json!({ "anyOf": [kind_schema(&Kind::Rate), { "const": "off" }] })
        }
        Kind::Json => json!({ "type": ["string", "integer", "boolean", "null"] }),
        Kind::Size { .. } => {
            json!({ "type": "string", "pattern": "^[0-9]*[1-9][0-9]*(B|KiB|MiB|GiB)$" })
        }
        Kind::Share => json!({ "type": "string", "pattern": "^0*([1-9][0-9]?|100)%$" }),
        Kind::Word { words, .. } => json!({ "enum": words }),
        Kind::Text(form) => text_schema(*form),
        Kind::List { of, max } => {
            json!({ "type": "array", "items": kind_schema(of), "maxItems": max })
        }
        Kind::OneOrList { of, min, max } => {
            let item = kind_schema(of);
            json!({ "anyOf": [item, { "type": "array", "items": item, "minItems": min, "maxItems": max }] })
        }
        Kind::Statuses => json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" },
        ] }),
        Kind::Table(section) => match section.short.and_then(|short| section.index(short)) {
            Some(short) => {
                json!({ "anyOf": [kind_schema(&section.keys[short].kind), reference(section)] })
            }
            None => reference(section),
        },
        Kind::TableOrFalse(section) => {
            json!({ "anyOf": [{ "const": false }, reference(section)] })
        }
        Kind::Tables { section, max } => {
            json!({ "type": "array", "items": reference(section), "maxItems": max })
        }
        Kind::Named { section, max } => named_schema(section, *max, reference(section)),
        Kind::Fields { names, of, max } => json!({
            "type": "object",
            "propertyNames": { "pattern": names_pattern(*names) },
            "additionalProperties": kind_schema(of),
            "maxProperties": max,
        }),
    }
}

const fn names_pattern(names: Names) -> &'static str {
    match names {
        Names::HeaderWritten | Names::HeaderRead | Names::Cookie => "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        Names::ServerName => "^[A-Za-z0-9.*_-]+$",
        Names::Query | Names::Pool | Names::Claim | Names::Group | Names::JsonMember => "^.+$",
    }
}

fn named_schema(section: &Section, max: usize, table: Value) -> Value {
    let item = match section.short.and_then(|short| section.index(short)) {
        Some(short) => json!({ "anyOf": [kind_schema(&section.keys[short].kind), table] }),
        None => table,
    };
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$" },
        "additionalProperties": item,
        "minProperties": 1,
        "maxProperties": max,
    })
}

fn text_schema(form: Text) -> Value {
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match form {
        Text::Bind => pattern("^(unix:/.+|.+:[0-9]+)$"),
        Text::Server => pattern("^(unix:/.+|srv:_.+|(dns:)?.+:[0-9]+)$"),
        Text::Mode => pattern("^[0-7]{3,4}$"),
        Text::LogTarget => pattern("^(stdout|off|file:.+)$"),
        Text::RequestPath | Text::PathPattern | Text::PathTemplate | Text::Prefix => pattern("^/"),
        Text::Pem { .. } => pattern("^(file:.|env:.|[\\s\\S]*-----BEGIN )"),
        Text::Verify => pattern("^(system|insecure|file:.+)$"),
        Text::RetryOn => pattern("^(connect|reset|timeout|[45][0-9]{2})$"),
        Text::ContentType | Text::MediaRange => pattern("^[^/ ]+/[^/ ]+"),
        Text::Body { .. } => json!({ "type": "string" }),
        Text::Claim => pattern("^claim:."),
        Text::FromHeader => pattern("^header:."),
        Text::TokenFrom => pattern("^(bearer|header:.+|cookie:.+)$"),
        Text::AclEntry => pattern("^(group:.+|consumer:.+|claim:.+=.+)$"),
        Text::HashKey => pattern("^(ip|consumer|path|(header|cookie):.+)$"),
        Text::LimitKey => pattern("^(consumer|ip|route|listener|header:.+)$"),
        Text::Quota => pattern("^[0-9]*[1-9][0-9]*/(hour|day|month)$"),
        Text::Origin => pattern("^(\\*|https?://[^/]+)$"),
        Text::Url => pattern("^https?://."),
        Text::RedisUrl => pattern("^(rediss?://|env:|file:)."),
        Text::KeyHash => pattern("^sha256:[0-9a-fA-F]{64}$"),
        Text::PasswordHash => pattern("^(\\$|env:|file:)."),
        Text::Free { max } => json!({ "type": "string", "minLength": 1, "maxLength": max }),
        Text::Secret { .. }
        | Text::Network
        | Text::Ip
        | Text::Resolver
        | Text::Host
        | Text::Pattern
        | Text::PoolName
        | Text::Method
        | Text::FieldValue
        | Text::ServerName
        | Text::Alpn
        | Text::HostPattern
        | Text::Regex
        | Text::Template
        | Text::HostTemplate
        | Text::AddressTemplate
        | Text::Header { .. }
        | Text::KeptHeader
        | Text::LoggedHeader
        | Text::Cookie
        | Text::PolicyRef
        | Text::PolicyName
        | Text::Jwks
        | Text::JsonMember
        | Text::Moment
        | Text::Label => json!({ "type": "string", "minLength": 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_schema_leads_somewhere() {
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap();
        let text = schema.to_string();
        let mut references = 0;
        for (at, head) in text.match_indices("\"#/$defs/") {
            let name = text[at + head.len()..].split('"').next().unwrap();
            assert!(definitions.contains_key(name), "{name}");
            references += 1;
        }
        assert!(references >= definitions.len());
    }

    #[test]
    fn every_key_of_the_table_is_in_the_schema() {
        let schema = schema();
        for section in ROOT.all_below().into_iter().skip(1) {
            for key in section.keys {
                let found = &schema["$defs"][definition_name(section)]["properties"][key.name];
                assert!(found["description"].is_string(), "{} {}", section.heading, key.name);
            }
        }
    }
}
