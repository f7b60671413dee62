//! TOML text → spanned tree, by the `toml` crate with recovery.
//!
//! The crate goes on after an error and fills in what it must. What it filled in is not the
//! operator's mistake, so the lines of a syntax error are marked as torn: nothing read from
//! them is reported. After a broken table header that goes up to the next header, because the
//! keys between belong to no known table.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::code;
use super::report::{Finding, Findings};
use super::source::{FileId, Place};
use super::tree::{Entry, Node, Table, Value};

/// Syntax errors that are reported and searched for what follows from them.
const SYNTAX_ERRORS_MAX: usize = 50;
/// Errors in a beginning of a file after which the rest is not read.
const ERRORS_SEEN_MAX: usize = 1_000;

/// Reads the document. Syntax errors and duplicate keys go to `found`.
pub fn parse(text: &str, file: FileId, found: &mut Findings) -> Table {
    if let Some(broken) = broken_prefix(text) {
        // More of it would only be more of the same, and the crate keeps every error.
        let table = parse_whole(broken, file, found);
        found.tear(file, broken.len()..text.len());
        return table;
    }
    parse_whole(text, file, found)
}

/// The beginning of a large file, if it has as many errors as are reported at all.
fn broken_prefix(text: &str) -> Option<&str> {
    // Each costs an eighth of the next.
    const PREFIXES: [usize; 3] = [64 << 10, 512 << 10, 4 << 20];
    PREFIXES.into_iter().filter(|bytes| *bytes < text.len()).find_map(|bytes| {
        let newline = text.as_bytes()[..bytes].iter().rposition(|b| *b == b'\n');
        let prefix = &text[clamp(0..newline.unwrap_or(bytes), text)];
        let (_, errors) = DeTable::parse_recoverable(prefix);
        let lines: HashSet<usize> =
            errors.iter().take(ERRORS_SEEN_MAX).map(|e| start_line(prefix, e)).collect();
        (lines.len() > SYNTAX_ERRORS_MAX || errors.len() > ERRORS_SEEN_MAX).then_some(prefix)
    })
}

fn start_line(text: &str, error: &toml::de::Error) -> usize {
    line_of(text, clamp(error.span().unwrap_or_default(), text).start).start
}

fn parse_whole(text: &str, file: FileId, found: &mut Findings) -> Table {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut lines = HashSet::new();
    // The line of the error before: a file of one long line must not be searched for each.
    let mut line = line_of(text, 0);
    for error in &errors {
        let span = clamp(error.span().unwrap_or(text.len()..text.len()), text);
        if !(line.start..=line.end).contains(&span.start) {
            line = line_of(text, span.start);
        }
        if error.message() == "duplicate key" {
            if lines.len() < SYNTAX_ERRORS_MAX && lines.insert(line.start) {
                report_duplicate(text, file, span, found);
            }
            continue;
        }
        if lines.len() >= SYNTAX_ERRORS_MAX {
            found.tear(file, line.start..text.len());
            break;
        }
        // One line broken in one place often gives several errors; the first says it best.
        if !lines.insert(line.start) {
            continue;
        }
        let place = Place::new(file, span.clone());
        found.add(
            Finding::new(code::SYNTAX, place, "", sentence(error.message()))
                .hint(hint(text, &line)),
        );
        found.tear(file, torn_by(text, &line, span.end));
    }
    table(root.into_inner(), file)
}

fn table(table: DeTable<'_>, file: FileId) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| {
            let key_place = Place::new(file, key.span());
            Entry { key: key.into_inner().into_owned(), key_place, node: node(value, file) }
        })
        .collect();
    // The crate sorts by name; messages and plans want the order of the file.
    entries.sort_by_key(|entry| entry.key_place);
    Table { entries }
}

fn node(value: Spanned<DeValue<'_>>, file: FileId) -> Node {
    let place = Place::new(file, value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let text = number.as_str();
            let saturated = if text.starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(i128::from_str_radix(text, number.radix()).unwrap_or(saturated))
        }
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(on) => Value::Bool(on),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| node(item, file)).collect())
        }
        DeValue::Table(inner) => Value::Table(table(inner, file)),
    };
    Node { place, value }
}

/// The crate names the second key only; the first is found in the text.
fn report_duplicate(text: &str, file: FileId, span: Range<usize>, found: &mut Findings) {
    let key = &text[span.clone()];
    let shown = if key.is_empty() { "this key" } else { key };
    let message = format!("`{}` is given twice", shown.escape_debug());
    let place = Place::new(file, span.clone());
    let finding =
        Finding::new(code::DUPLICATE_KEY, place, key, message).hint("keep one of the two");
    found.add(match first_of(text, &span) {
        Some(first) => finding.related(Place::new(file, first), "the first is here"),
        None => finding,
    });
}

/// Where the key at `span` stands for the first time, if it looks the same there.
fn first_of(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let line = line_of(text, span.start);
    let header = header_of(&text[line.clone()]);
    let offset_of = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let mut earlier = text[..line.start].lines();
    let found = match header {
        Some(name) => earlier.find_map(|l| header_of(l).filter(|n| same(n, name)))?,
        None => earlier
            .rev()
            .take_while(|l| header_of(l).is_none())
            .filter_map(|l| l.split_once('=').map(|(key, _)| key.trim()))
            .filter(|key| same(key, text[span.clone()].trim()))
            .last()?,
    };
    let start = offset_of(found);
    Some(start..start + found.len())
}

fn same(a: &str, b: &str) -> bool {
    let bare =
        |s: &str| s.chars().filter(|c| !matches!(c, ' ' | '\t' | '"' | '\'')).collect::<String>();
    bare(a) == bare(b)
}

/// `pool.pg` of a line that reads `[pool.pg]`.
fn header_of(line: &str) -> Option<&str> {
    let inner = line.trim_start().strip_prefix('[')?.trim_start_matches('[');
    Some(inner.split(']').next().unwrap_or(inner).trim())
}

/// The lines of an error; after a broken header also what follows up to the next one.
fn torn_by(text: &str, first: &Range<usize>, end: usize) -> Range<usize> {
    let last = if end <= first.end { first.clone() } else { line_of(text, end) };
    if !text[first.clone()].trim_start().starts_with('[') {
        return first.start..last.end;
    }
    let rest = &text[last.end..];
    let next = rest
        .match_indices('\n')
        .find(|(at, _)| rest[at + 1..].trim_start_matches([' ', '\t']).starts_with('['));
    first.start..next.map_or(text.len(), |(at, _)| last.end + at)
}

fn line_of(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    start..end
}

/// The span within the text and on character boundaries, whatever the crate said.
fn clamp(span: Range<usize>, text: &str) -> Range<usize> {
    let floor =
        |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

fn sentence(message: &str) -> String {
    // Its messages are short clauses in lower case already; only line breaks would hurt.
    format!("not valid TOML: {}", message.replace('\n', " "))
}

fn hint(text: &str, line: &Range<usize>) -> &'static str {
    let line = text[line.clone()].trim();
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    if line.starts_with("---")
        || line.ends_with(':')
        || (line.contains(": ") && !line.contains('='))
    {
        "this looks like YAML; write `key = value` under `[table]` headers"
    } else if value.starts_with(|c: char| c.is_ascii_digit()) {
        "values with units and addresses are strings in quotes: \"10s\""
    } else if value.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "strings stand in quotes"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Report;
    use crate::config::source::{SourceFile, Sources};

    fn read(text: &str) -> (Table, Report) {
        let mut sources = Sources::default();
        let file = sources.add(SourceFile::new("x.toml".into(), "x.toml".as_ref(), text.into()));
        let mut found = Findings::default();
        let table = parse(text, file, &mut found);
        (table, found.finish(sources))
    }

    #[test]
    fn entries_stand_in_file_order_and_know_their_places() {
        let text = "z = 1\n[pool.b]\nx = \"é\"\n[pool.a]\n";
        let (table, report) = read(text);
        assert!(report.findings().is_empty());
        assert_eq!(table.entries[0].key, "z");
        let Value::Table(pools) = &table.get("pool").unwrap().node.value else { panic!() };
        assert_eq!(pools.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let Value::Table(b) = &pools.entries[0].node.value else { panic!() };
        assert_eq!(report.sources().slice(b.entries[0].node.place), "\"é\"");
        assert_eq!(report.sources().slice(pools.entries[0].node.place), "[pool.b]");
    }

    #[test]
    fn a_duplicate_names_both_places() {
        for (text, first) in
            [("[a]\nx = 1\ny = 2\nx = 3\n", "x"), ("[pool.a]\nx = 1\n[b]\n[pool.a]\n", "pool.a")]
        {
            let (_, report) = read(text);
            assert_eq!(report.findings().len(), 1, "{text}");
            let finding = &report.findings()[0];
            assert_eq!(finding.code, code::DUPLICATE_KEY);
            let (place, _) = finding.related[0];
            assert_eq!(report.sources().slice(place), first);
            assert!(place.start < finding.place.start);
        }
    }

    #[test]
    fn one_broken_line_is_one_error() {
        for text in [
            "a = \n",
            "a = @@@\n",
            "a = \"x\n",
            "[pool.\nx = 1\n",
            "just words\n",
            "a = 10s\n",
            "a: 1\n",
        ] {
            let (_, report) = read(text);
            assert_eq!(report.findings().len(), 1, "{text:?} {}", report.render(false));
            assert_eq!(report.findings()[0].code, code::SYNTAX);
        }
    }
}
