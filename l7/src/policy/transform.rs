//! Changes to bodies of JSON, and to queries.
//!
//! Only what a change touches is taken apart; the rest of a body goes on byte for byte, so that
//! a number keeps its digits and members keep their order. Where a member is there twice, a
//! change means both: which of them a server takes nobody knows.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A member by name, or a JSON pointer (RFC 6901): its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member(Vec<String>);

impl Member {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix('/') {
            None => Self(vec![text.to_owned()]),
            Some(pointer) => {
                let part = |part: &str| part.replace("~1", "/").replace("~0", "~");
                Self(pointer.split('/').map(part).collect())
            }
        }
    }
}

/// In this order: removed, renamed, set, added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BodyChanges {
    pub remove: Vec<Member>,
    /// The last part of the name.
    pub rename: Vec<(Member, String)>,
    pub set: Vec<(Member, Value)>,
    pub add: Vec<(Member, Value)>,
}

/// The body is not what it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

impl BodyChanges {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.rename.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }

    /// The body with the changes.
    ///
    /// # Errors
    /// When it is not JSON (RFC 8259).
    pub fn apply(&self, body: &[u8]) -> Result<Vec<u8>, NotJson> {
        let raw: &RawValue = serde_json::from_slice(body).map_err(|_| NotJson)?;
        let mut root = Node::Raw(raw);
        for member in &self.remove {
            root.change(&member.0, &mut Change::Remove)?;
        }
        for (member, name) in &self.rename {
            root.change(&member.0, &mut Change::Rename(name))?;
        }
        for (member, value) in &self.set {
            root.change(&member.0, &mut Change::Set(value))?;
        }
        for (member, value) in &self.add {
            root.change(&member.0, &mut Change::Add(value))?;
        }
        let mut out = Vec::with_capacity(body.len() + 64);
        root.write(&mut out);
        Ok(out)
    }
}

enum Change<'c> {
    Remove,
    Rename(&'c str),
    Set(&'c Value),
    Add(&'c Value),
}

/// A body as far as it was taken apart.
enum Node<'b> {
    Raw(&'b RawValue),
    Object(Vec<(String, Node<'b>)>),
    List(Vec<Node<'b>>),
    Made(Value),
}

impl Node<'_> {
    /// Takes an object or a list apart. Anything else has no members.
    fn open(&mut self) -> Result<(), NotJson> {
        let Node::Raw(raw) = self else { return Ok(()) };
        let text = raw.get();
        if text.starts_with('{') {
            let Members(members) = serde_json::from_str(text).map_err(|_| NotJson)?;
            let members = members.into_iter().map(|(name, raw)| (name, Node::Raw(raw)));
            *self = Node::Object(members.collect());
        } else if text.starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| NotJson)?;
            *self = Node::List(items.into_iter().map(Node::Raw).collect());
        }
        Ok(())
    }

    fn change(&mut self, path: &[String], change: &mut Change<'_>) -> Result<(), NotJson> {
        let [first, rest @ ..] = path else { return Ok(()) };
        self.open()?;
        match self {
            Node::Object(members) if rest.is_empty() => {
                at_member(members, first, change);
                Ok(())
            }
            Node::Object(members) => {
                let makes = matches!(change, Change::Set(_) | Change::Add(_));
                if makes && !members.iter().any(|(name, _)| name == first) {
                    members.push((first.clone(), Node::Object(Vec::new())));
                }
                let named = members.iter_mut().filter(|(name, _)| name == first);
                named.map(|(_, node)| node).try_for_each(|node| node.change(rest, change))
            }
            Node::List(items) => {
                let at = first.parse::<usize>().ok().filter(|&at| at < items.len());
                match (at, rest.is_empty(), change) {
                    (Some(at), true, Change::Remove) => drop(items.remove(at)),
                    (Some(at), true, Change::Set(value)) => items[at] = Node::Made(value.clone()),
                    (Some(at), false, change) => return items[at].change(rest, change),
                    _ => {}
                }
                Ok(())
            }
            Node::Raw(_) | Node::Made(_) => Ok(()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Node::Raw(raw) => out.extend_from_slice(raw.get().as_bytes()),
            Node::Made(value) => write_json(value, out),
            Node::Object(members) => {
                out.push(b'{');
                for (at, (name, node)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_json(name, out);
                    out.push(b':');
                    node.write(out);
                }
                out.push(b'}');
            }
            Node::List(items) => {
                out.push(b'[');
                for (at, node) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    node.write(out);
                }
                out.push(b']');
            }
        }
    }
}

fn at_member(members: &mut Vec<(String, Node<'_>)>, name: &str, change: &Change<'_>) {
    let there = members.iter().any(|(own, _)| own == name);
    match change {
        Change::Remove => members.retain(|(own, _)| own != name),
        Change::Rename(new) if there => {
            // One of that name already would be there twice.
            members.retain(|(own, _)| own != new || own == name);
            for (own, _) in members.iter_mut().filter(|(own, _)| own == name) {
                (*new).clone_into(own);
            }
        }
        Change::Add(_) if there => {}
        Change::Set(value) if there => {
            let mut first = true;
            members.retain(|(own, _)| own != name || std::mem::take(&mut first));
            for (_, node) in members.iter_mut().filter(|(own, _)| own == name) {
                *node = Node::Made((*value).clone());
            }
        }
        Change::Set(value) | Change::Add(value) => {
            members.push((name.to_owned(), Node::Made((*value).clone())));
        }
        Change::Rename(_) => {}
    }
}

fn write_json(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    // Strings and values write themselves, and a Vec takes every write.
    let _ = serde_json::to_writer(out, value);
}

/// An object's members in order, also those that are there twice.
struct Members<'b>(Vec<(String, &'b RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Whether a body of this type is one of JSON: `application/json`, `…+json`.
#[must_use]
pub fn is_json(content_type: &[u8]) -> bool {
    let end = content_type.iter().position(|&byte| byte == b';').unwrap_or(content_type.len());
    let essence = content_type[..end].trim_ascii().to_ascii_lowercase();
    essence == b"application/json"
        || essence.starts_with(b"application/") && essence.ends_with(b"+json")
}

/// In this order: removed, renamed, set, added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryChanges {
    pub remove: Vec<String>,
    pub rename: Vec<(String, String)>,
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
}

impl QueryChanges {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.rename.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }

    /// Appends the query with the changes; what no change touches stays byte for byte.
    pub fn write(&self, query: &str, out: &mut Vec<u8>) {
        let begin = out.len();
        let separate = |out: &mut Vec<u8>| {
            if out.len() > begin {
                out.push(b'&');
            }
        };
        let named = |list: &[(String, String)], name: &[u8]| {
            list.iter().position(|(own, _)| own.as_bytes() == name)
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').map_or((pair, None), |(k, v)| (k, Some(v)));
            let name = super::credential::decoded(key).unwrap_or_else(|| key.as_bytes().to_vec());
            let gone = self.remove.iter().any(|own| own.as_bytes() == name);
            let renamed = named(&self.rename, &name).map(|at| self.rename[at].1.as_bytes());
            let last = renamed.unwrap_or(&name);
            if gone || named(&self.set, last).is_some() {
                continue;
            }
            separate(out);
            match renamed {
                Some(new) => {
                    write_escaped(new, out);
                    if let Some(value) = value {
                        out.push(b'=');
                        out.extend_from_slice(value.as_bytes());
                    }
                }
                None => out.extend_from_slice(pair.as_bytes()),
            }
        }
        for (name, value) in self.set.iter().chain(&self.add) {
            separate(out);
            write_escaped(name.as_bytes(), out);
            out.push(b'=');
            write_escaped(value.as_bytes(), out);
        }
    }
}

/// All but unreserved characters (RFC 3986 §2.3) become escapes.
fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    use std::io::Write as _;
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn applied(changes: &BodyChanges, body: &str) -> String {
        String::from_utf8(changes.apply(body.as_bytes()).unwrap()).unwrap()
    }

    fn removes(member: &str) -> BodyChanges {
        BodyChanges { remove: vec![Member::parse(member)], ..BodyChanges::default() }
    }

    #[test]
    fn what_no_change_touches_keeps_its_digits_and_its_order() {
        let body = r#"{"z": 12345678901234567890.10, "a":{"b":1e400 , "c":"\u0041"},"d":0}"#;
        let told = applied(&removes("d"), body);
        assert_eq!(told, r#"{"z":12345678901234567890.10,"a":{"b":1e400 , "c":"\u0041"}}"#);
        assert_eq!(applied(&removes("/a/b"), r#"{"a":{"b":1,"c":2}}"#), r#"{"a":{"c":2}}"#);
    }

    #[test]
    fn a_member_that_is_there_twice_is_removed_twice() {
        assert_eq!(applied(&removes("role"), r#"{"role":1,"a":2,"r\u006fle":3}"#), r#"{"a":2}"#);
    }

    #[test]
    fn changes_come_in_their_order_whatever_they_are_written_in() {
        let changes = BodyChanges {
            remove: vec![Member::parse("secret")],
            rename: vec![(Member::parse("user"), "owner".to_owned())],
            set: vec![
                (Member::parse("/meta/by"), json!("gateway")),
                (Member::parse("n"), json!(2)),
            ],
            add: vec![(Member::parse("n"), json!(3)), (Member::parse("v"), json!(true))],
        };
        let told = applied(&changes, r#"{"secret":1,"user":"a","owner":"b","n":1}"#);
        assert_eq!(told, r#"{"owner":"a","n":2,"meta":{"by":"gateway"},"v":true}"#);
    }

    #[test]
    fn items_of_lists_are_named_by_their_number() {
        let told = applied(&removes("/a/1"), r#"{"a":[1,2,3]}"#);
        assert_eq!(told, r#"{"a":[1,3]}"#);
        let told = applied(&removes("/a/x"), r#"{"a":[1,2,3]}"#);
        assert_eq!(told, r#"{"a":[1,2,3]}"#);
        let told = applied(&removes("/0/k"), r#"[{"k":1},{"k":2}]"#);
        assert_eq!(told, r#"[{},{"k":2}]"#);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in ["", "{", "{\"a\":1}x", "{'a':1}", "nul", "{\"a\":01}"] {
            assert_eq!(removes("a").apply(bad.as_bytes()), Err(NotJson), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(removes("/0/0").apply(deep.as_bytes()), Err(NotJson));
    }

    #[test]
    fn json_is_told_by_its_type() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/hal+json"]
        {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in ["text/json", "application/jsonp", "", "application/x-www-form-urlencoded"] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_query_is_changed_by_name_whatever_way_it_is_escaped() {
        let changes = QueryChanges {
            remove: vec!["debug".to_owned()],
            rename: vec![("q".to_owned(), "search".to_owned())],
            set: vec![("v".to_owned(), "2".to_owned())],
            add: vec![("by".to_owned(), "a&b".to_owned())],
        };
        let mut out = Vec::new();
        changes.write("q=%41&d%65bug=1&v=1&x=%zz&v=3&debug", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "search=%41&x=%zz&v=2&by=a%26b");
    }

    proptest! {
        #[test]
        fn removing_what_is_not_there_changes_no_value(value in arbitrary_json()) {
            let text = value.to_string();
            let told = applied(&removes("/no such/member"), &text);
            prop_assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), value);
        }
    }

    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
