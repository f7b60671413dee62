//! JSON text → spanned tree. RFC 8259, with places, and stricter: no key twice.
//!
//! JSON has no recovery as TOML has: after the first syntax error the rest is unknown. What
//! was read before it is kept, so that mistakes in it are still reported.

use std::collections::HashMap;
use std::ops::Range;

use super::code;
use super::report::{Finding, Findings};
use super::source::{FileId, Place};
use super::tree::{Entry, Node, Table, Value};

/// Nested lists and tables. The deepest real configuration has 6; each level costs stack.
pub const DEPTH_MAX: usize = 64;

/// Reads the top-level object. Syntax errors and duplicate keys go to `found`.
pub fn parse(text: &str, file: FileId, found: &mut Findings) -> Table {
    let start = if text.starts_with('\u{FEFF}') { 3 } else { 0 };
    let mut reader = Reader { text, at: start, file, found };
    let mut root = Table::default();
    let outcome = reader.document(&mut root);
    if let Err(error) = outcome {
        let place = Place::new(file, error.at.clone());
        found.add(Finding::new(code::SYNTAX, place, "", error.message).hint(error.hint));
        found.tear(file, error.at.start..text.len());
    }
    root
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    file: FileId,
    found: &'a mut Findings,
}

struct SyntaxError {
    at: Range<usize>,
    message: String,
    hint: &'static str,
}

type Read<T> = Result<T, SyntaxError>;

impl Reader<'_> {
    fn document(&mut self, root: &mut Table) -> Read<()> {
        self.skip_space()?;
        if self.peek() != Some(b'{') {
            return Err(self.unexpected("`{`", "a configuration in JSON is one object"));
        }
        self.object(root, 0)?;
        self.skip_space()?;
        if self.at < self.text.len() {
            return Err(
                self.unexpected("the end of the file", "only one object may stand in the file")
            );
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Read<Node> {
        let start = self.at;
        if depth >= DEPTH_MAX {
            let message = format!("nested more than {DEPTH_MAX} levels deep");
            return Err(SyntaxError { at: start..start + 1, message, hint: "" });
        }
        let value = match self.peek() {
            Some(b'{') => {
                let mut table = Table::default();
                self.object(&mut table, depth)?;
                Value::Table(table)
            }
            Some(b'[') => Value::List(self.list(depth)?),
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'a'..=b'z' | b'A'..=b'Z') => self.word()?,
            _ => return Err(self.unexpected("a value", "")),
        };
        Ok(Node { place: self.place(start), value })
    }

    /// Fills `table` as it goes, so that a later error leaves what was read.
    fn object(&mut self, table: &mut Table, depth: usize) -> Read<()> {
        let mut seen: HashMap<String, Place> = HashMap::new();
        self.at += 1;
        self.skip_space()?;
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected(
                    "a key in double quotes",
                    "a comma after the last entry is not JSON",
                ));
            }
            let key = self.string()?;
            let key_place = self.place(start);
            self.skip_space()?;
            if !self.eat(b':') {
                return Err(self.unexpected("`:` after the key", ""));
            }
            self.skip_space()?;
            let node = self.entry_value(depth, &key, key_place, table)?;
            self.keep(table, &mut seen, Entry { key, key_place, node });
            self.skip_space()?;
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.unexpected("`,` or `}`", ""));
            }
            self.skip_space()?;
        }
    }

    /// The value of an entry. A table that breaks off is kept as far as it was read.
    fn entry_value(
        &mut self,
        depth: usize,
        key: &str,
        key_place: Place,
        into: &mut Table,
    ) -> Read<Node> {
        if self.peek() != Some(b'{') || depth + 1 >= DEPTH_MAX {
            return self.value(depth + 1);
        }
        let start = self.at;
        let mut table = Table::default();
        let outcome = self.object(&mut table, depth + 1);
        let node = Node { place: self.place(start), value: Value::Table(table) };
        match outcome {
            Ok(()) => Ok(node),
            Err(error) => {
                if into.get(key).is_none() {
                    into.entries.push(Entry { key: key.to_owned(), key_place, node });
                }
                Err(error)
            }
        }
    }

    fn keep(&mut self, table: &mut Table, seen: &mut HashMap<String, Place>, entry: Entry) {
        if let Some(first) = seen.get(&entry.key) {
            let message = format!("key `{}` is given twice", entry.key.escape_debug());
            let finding = Finding::new(code::DUPLICATE_KEY, entry.key_place, entry.key, message);
            self.found
                .add(finding.hint("keep one of the two").related(*first, "the first is here"));
            return;
        }
        seen.insert(entry.key.clone(), entry.key_place);
        table.entries.push(entry);
    }

    fn list(&mut self, depth: usize) -> Read<Vec<Node>> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space()?;
        if self.eat(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space()?;
            if self.eat(b']') {
                return Ok(items);
            }
            if !self.eat(b',') {
                return Err(self.unexpected("`,` or `]`", ""));
            }
            self.skip_space()?;
        }
    }

    /// A string whose opening quote is next.
    fn string(&mut self) -> Read<String> {
        let start = self.at;
        let mut out = String::new();
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c < ' ').unwrap_or(rest.len());
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(b'\n') | None => {
                    let message = "a string without its closing quote".to_owned();
                    return Err(SyntaxError { at: start..self.at, message, hint: "" });
                }
                Some(_) => {
                    return Err(self.unexpected(
                        "a character that is not a control character",
                        "write it as an escape",
                    ));
                }
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 2;
        let plain = match self.text.as_bytes().get(start + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{C}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            _ => return Err(self.bad_escape(start)),
        };
        Ok(plain)
    }

    /// `\uXXXX`, or two of them for a character outside the basic plane.
    fn unicode_escape(&mut self, start: usize) -> Read<char> {
        let first = self.four_digits(start)?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first).ok_or_else(|| self.bad_escape(start));
        }
        if !self.text[self.at..].starts_with("\\u") {
            return Err(self.bad_escape(start));
        }
        self.at += 2;
        let second = self.four_digits(start)?;
        if !(0xDC00..0xE000).contains(&second) {
            return Err(self.bad_escape(start));
        }
        let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        char::from_u32(code).ok_or_else(|| self.bad_escape(start))
    }

    fn four_digits(&mut self, start: usize) -> Read<u32> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let number = number.ok_or_else(|| self.bad_escape(start))?;
        self.at += 4;
        Ok(number)
    }

    fn bad_escape(&self, start: usize) -> SyntaxError {
        let message = "an escape that JSON does not have".to_owned();
        SyntaxError {
            at: start..self.char_end(start + 1),
            message,
            hint: "write `\\\\` for a backslash",
        }
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        self.eat(b'-');
        let whole = self.digits();
        let leading_zero = whole.len() > 1 && self.text.as_bytes()[whole.start] == b'0';
        let mut fraction = false;
        let mut complete = !whole.is_empty() && !leading_zero;
        if self.eat(b'.') {
            fraction = true;
            complete &= !self.digits().is_empty();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            fraction = true;
            self.at += 1;
            let _sign = self.eat(b'+') || self.eat(b'-');
            complete &= !self.digits().is_empty();
        }
        if !complete || matches!(self.peek(), Some(b'a'..=b'z' | b'A'..=b'Z' | b'_')) {
            let hint = "values with units are strings: \"10s\"";
            let message = "not a number as JSON writes it".to_owned();
            return Err(SyntaxError { at: start..self.at, message, hint });
        }
        if fraction {
            return Ok(Value::Float);
        }
        let text = &self.text[start..self.at];
        let saturated = if text.starts_with('-') { i128::MIN } else { i128::MAX };
        Ok(Value::Integer(text.parse().unwrap_or(saturated)))
    }

    fn digits(&mut self) -> Range<usize> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        start..self.at
    }

    fn word(&mut self) -> Read<Value> {
        let start = self.at;
        while matches!(self.peek(), Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-')) {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "null" => Ok(Value::Null),
            _ => {
                let message = "a word that JSON does not have".to_owned();
                Err(SyntaxError {
                    at: start..self.at,
                    message,
                    hint: "strings stand in double quotes",
                })
            }
        }
    }

    fn skip_space(&mut self) -> Read<()> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        if matches!(self.peek(), Some(b'/' | b'#')) {
            return Err(self.unexpected("JSON", "JSON has no comments; a .toml file does"));
        }
        Ok(())
    }

    fn unexpected(&self, wanted: &str, hint: &'static str) -> SyntaxError {
        let message = match self.text[self.at..].chars().next() {
            Some(c) => format!("found `{}` where {wanted} belongs", c.escape_debug()),
            None => format!("the file ends where {wanted} belongs"),
        };
        SyntaxError { at: self.at..self.char_end(self.at), message, hint }
    }

    /// The end of the character that begins at `at`, within the text.
    fn char_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or("");
        at.min(self.text.len()) + rest.chars().next().map_or(0, char::len_utf8)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn place(&self, start: usize) -> Place {
        Place::new(self.file, start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::{SourceFile, Sources};

    /// The tree as text, and the findings as `code at start..end`.
    fn read(text: &str) -> (String, Vec<String>) {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile::new("x.json".into(), "x.json".as_ref(), text.into()));
        let mut found = Findings::default();
        let table = parse(text, file, &mut found);
        let report = found.finish(sources);
        let line = |f: &Finding| format!("{} {}..{}", f.code.id, f.place.start, f.place.end);
        (show(&Value::Table(table)), report.findings().iter().map(line).collect())
    }

    fn show(value: &Value) -> String {
        match value {
            Value::Table(table) => {
                let entries =
                    table.entries.iter().map(|e| format!("{}:{}", e.key, show(&e.node.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
            Value::List(items) => {
                format!("[{}]", items.iter().map(|i| show(&i.value)).collect::<Vec<_>>().join(","))
            }
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            other => other.kind().to_owned(),
        }
    }

    #[test]
    fn values_of_every_kind_are_read() {
        let (tree, found) = read(
            "{\"a\": [1, -2, true, null, 1.5], \"b\": {\"c\": \"x\\u00e9\\ud83d\\ude00\\n\"}}",
        );
        assert_eq!(tree, "{a:[1,-2,true,null,a number with a fraction],b:{c:\"xé😀\\n\"}}");
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_key_given_twice_is_an_error_and_the_first_counts() {
        let (tree, found) = read("{\"a\": 1, \"a\": 2}");
        assert_eq!(tree, "{a:1}");
        assert_eq!(found, ["E007 9..12"]);
    }

    #[test]
    fn what_stands_before_a_syntax_error_is_kept() {
        let (tree, found) = read("{\"a\": 1, \"b\": {\"c\": 2, \"d\" 3}}");
        assert_eq!(tree, "{a:1,b:{c:2}}");
        assert_eq!(found, ["E006 27..28"]);
    }

    #[test]
    fn what_json_does_not_have_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":10s}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\t\"}",
            "{\"a\":'x'}",
            "{} x",
            "{\"a\":1} // c",
            "{\"a\":TRUE}",
            "{\"a\":\"",
            "{\"a\":\"\\",
            "{\"a\":\"\\u12",
            "{\"é\":\"\\é\"}",
        ] {
            let (_, found) = read(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("E006"), "{text}: {found:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&deep).1.len(), 1);
        let tables = "{\"a\":".repeat(100_000);
        assert_eq!(read(&tables).1.len(), 1);
    }

    #[test]
    fn a_number_too_large_for_any_integer_saturates() {
        assert_eq!(
            read(&format!("{{\"a\":{}}}", "9".repeat(60))).0,
            format!("{{a:{}}}", i128::MAX)
        );
    }
}
