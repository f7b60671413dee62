//! The file as JSON that may be shown: what it says, includes merged, secrets blanked.
//!
//! The key table says what is a secret; the same tree that the plan is made from is walked, so
//! a key cannot be read without being looked at here. [`blank`] is the rule.
//!
//! Defaults are not added: but for the blanks, what is shown could be used as a file.

use serde_json::{Map, Number, Value as Json};

use super::blank::{self, BLANK};
use super::keys::{Kind, Section};
use super::tree::{Table, Value};
use super::walk::variant_of;

/// The whole file.
pub(super) fn root(root: &Table) -> Json {
    table(&super::table::ROOT, root)
}

fn table(section: &'static Section, said: &Table) -> Json {
    let section = variant_of(section, said);
    let shown = |entry: &super::tree::Entry| {
        // A key that the table does not have is an error, and there is no plan to show.
        let key = section.keys.get(section.index(&entry.key)?)?;
        Some((entry.key.clone(), value(&key.kind, &entry.node.value)))
    };
    Json::Object(said.entries.iter().filter_map(shown).collect())
}

fn value(kind: &'static Kind, said: &Value) -> Json {
    match (kind, said) {
        (
            Kind::Table(section)
            | Kind::TableOrFalse(section)
            | Kind::Tables { section, .. }
            | Kind::Named { section, .. },
            _,
        ) => below(kind, section, said),
        (Kind::Fields { of, .. }, Value::Table(fields)) => {
            let field = |entry: &super::tree::Entry| {
                let shown = if blank::is_credential(&entry.key) {
                    Json::from(BLANK)
                } else {
                    value(of, &entry.node.value)
                };
                (entry.key.clone(), shown)
            };
            Json::Object(fields.entries.iter().map(field).collect())
        }
        (Kind::List { of, .. } | Kind::OneOrList { of, .. }, Value::List(items)) => {
            Json::Array(items.iter().map(|item| value(of, &item.value)).collect())
        }
        (Kind::List { of, .. } | Kind::OneOrList { of, .. }, one) => value(of, one),
        (Kind::Text(form), Value::Text(said)) => Json::from(blank::text(*form, said)),
        (_, said) => plain(said),
    }
}

/// What stands where a section may: its table, tables in a list or by names, or one value that
/// stands for a table.
fn below(kind: &'static Kind, section: &'static Section, said: &Value) -> Json {
    let each = |said: &Value| match said {
        Value::Table(said) => table(section, said),
        said => match section.short.and_then(|short| section.keys.get(section.index(short)?)) {
            Some(key) => value(&key.kind, said),
            None => plain(said),
        },
    };
    match (kind, said) {
        (Kind::Named { .. }, Value::Table(table)) => {
            let entries = table.entries.iter();
            let entries = entries.map(|entry| (entry.key.clone(), each(&entry.node.value)));
            Json::Object(entries.collect())
        }
        (Kind::Tables { .. }, Value::List(items)) => {
            Json::Array(items.iter().map(|item| each(&item.value)).collect())
        }
        (_, said) => each(said),
    }
}

/// No key with a secret has anything but text.
fn plain(said: &Value) -> Json {
    match said {
        Value::Bool(on) => Json::from(*on),
        Value::Integer(number) => Number::from_i128(*number).map_or(Json::Null, Json::Number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(|item| plain(&item.value)).collect()),
        Value::Table(table) => {
            let entries = table.entries.iter();
            let entries = entries.map(|entry| (entry.key.clone(), plain(&entry.node.value)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
        Value::Float | Value::Date | Value::Null => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{load, load_text};
    use super::*;

    const WHOLE: &str = "[listener.a]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pool.p]\nservers.s = \"10.0.0.1:2\"\n";

    fn shown(text: &str) -> Json {
        let loaded = load_text("a.toml", format!("{text}\n{WHOLE}").as_bytes());
        loaded.unwrap_or_else(|report| panic!("{}", report.render(false))).plan.shown
    }

    #[test]
    fn what_is_no_secret_is_shown_as_it_is_written() {
        let shown = shown("version = 1\n[runtime]\nworkers = 2\ndrain_timeout = \"3s\"");
        assert_eq!(shown["runtime"], json!({"workers": 2, "drain_timeout": "3s"}));
        assert_eq!(shown["pool"]["p"]["servers"]["s"], "10.0.0.1:2");
    }

    #[test]
    fn the_full_example_has_its_secrets_blanked_and_could_be_used_otherwise() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/config/");
        let shown = load(format!("{dir}full.toml").as_ref()).unwrap().plan.shown;
        assert_eq!(shown["admin"]["token"], BLANK);
        assert_eq!(
            shown["consumer"]["alice"]["keys"],
            json!([BLANK, {
                "hash": BLANK, "expires": "2030-01-01T00:00:00Z"
            }])
        );
        assert_eq!(shown["consumer"]["alice"]["basic"], BLANK);
        assert_eq!(shown["policy"]["asked"]["client_secret"], BLANK);
        assert_eq!(shown["policy"]["monthly"]["store"]["redis"], "redis://127.0.0.1:6379");
        assert_eq!(shown["listener"]["api"]["tls"]["certs"][0]["key"], BLANK);
        let text = shown.to_string().replace("\"file:", &format!("\"file:{dir}"));
        let again = load_text("again.json", text.as_bytes()).unwrap_err().render(false);
        let errors = again.lines().filter(|line| line.starts_with("error"));
        for error in errors.filter(|line| !line.contains("errors")) {
            let about_blank = ["token", "key", "secret", "hash", "basic", "password"];
            assert!(about_blank.iter().any(|word| error.contains(word)), "{error}");
        }
    }

    /// A value with [`PLANTED`] in it that the form takes.
    const PLANTED: &str = "planted-secret-that-is-long-enough-to-be-one";

    #[test]
    fn no_form_of_a_secret_lets_a_planted_one_through() {
        let of_hash = "sha256:8fe7f23cc70cbb2a7e8ed3a1f5b2a4c08ae21b4eb1c4e0b8f6c1d1f2b7b1a9c3";
        let of_password = "$2b$04$abcdefghijklmnopqrstuuLqNYN3RDXkFcIpkrZ6bBWBvBz9mRt2G";
        let shown = shown(&format!(
            "[admin]\nbind = \"127.0.0.1:2\"\ntoken = \"{PLANTED}\"\nread_token = \"{PLANTED}-2\"\n\
             [policy.a]\ntype = \"jwt\"\nalgorithms = [\"HS256\"]\nsecret = \"{PLANTED}\"\n\
             [policy.b]\ntype = \"introspection\"\nurl = \"http://127.0.0.1:9/?a=b&api_key={PLANTED}\"\n\
             client_id = \"me\"\nclient_secret = \"{PLANTED}\"\n\
             [policy.c]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1/s\"\n\
             store = {{ redis = \"redis://me:{PLANTED}@127.0.0.1:6379/1\" }}\n\
             [policy.d]\ntype = \"headers\"\nheaders.set.Authorization = \"Bearer {PLANTED}\"\n\
             headers.add.X-Api-Key = \"{PLANTED}\"\nheaders.set.X-Other = \"shown\"\n\
             [consumer.x]\nkeys = [\"{of_hash}\"]\nbasic = \"{of_password}\"\n\
             [pool.q]\ncheck = {{ type = \"redis\", password = \"{PLANTED}\" }}\nservers.s = \"10.0.0.1:3\"\n\
             [pool.r]\nservers.s = \"10.0.0.1:4\"\n\
             [pool.r.check]\ntype = \"http\"\npath = \"/h?token={PLANTED}&full=1\"\n\
             headers.Authorization = \"Basic {PLANTED}\""
        ));
        let text = shown.to_string();
        for secret in [PLANTED, of_hash, of_password] {
            assert!(!text.contains(secret), "{text}");
        }
        let policies = &shown["policy"];
        assert_eq!(policies["b"]["url"], "http://127.0.0.1:9/?a=***&api_key=***");
        assert_eq!(policies["c"]["store"]["redis"], "redis://***@127.0.0.1:6379/1");
        assert_eq!(policies["d"]["headers"]["set"]["X-Other"], "shown");
        assert_eq!(shown["pool"]["r"]["check"]["path"], "/h?token=***&full=1");
    }

    #[test]
    fn every_kind_that_the_table_calls_secret_is_blanked() {
        for section in super::super::table::ROOT.all_below() {
            for key in section.keys.iter().filter(|key| key.is_secret()) {
                let said = Value::Text(format!("redis://a:{PLANTED}@b"));
                let shown = value(&key.kind, &said).to_string();
                assert!(!shown.contains(PLANTED), "{} {}", section.heading, key.name);
            }
        }
    }
}
