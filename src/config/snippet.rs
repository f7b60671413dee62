//! The source line of a finding, fit for a terminal: cut to size, without control characters,
//! with secrets masked, and with the columns of the caret under it.

use super::keys;
use super::source::{Place, SourceFile};

/// Characters of a source line that are shown; a longer line is cut around the caret.
const LINE_CHARS_MAX: usize = 120;
/// How much of a long line stays before the caret.
const LEAD_CHARS: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    pub line: String,
    /// Spaces before the caret.
    pub indent: usize,
    /// At least one.
    pub carets: usize,
}

impl Snippet {
    /// `secrets` is sorted. With `torn` syntax, values after a secret key's name are masked by
    /// the look of the text, since no tree may know them.
    #[must_use]
    pub fn of(file: &SourceFile, place: Place, secrets: &[Place], torn: bool) -> Self {
        let line = file.line_range(place.start, 4 * LINE_CHARS_MAX);
        let (from, to) = (line.start, line.end);
        let start = (place.start as usize).min(to);
        let mut shown = Vec::new();
        let (mut caret_at, mut carets) = (None, 0);
        let hidden = if torn { hidden_by_look(&file.text[from..to]) } else { Vec::new() };
        for (at, c) in file.text[from..to].char_indices() {
            let offset = from + at;
            if offset >= start {
                caret_at.get_or_insert(shown.len());
                carets += usize::from(offset < place.end as usize);
            }
            let masked =
                is_secret(file, place, offset, secrets) || hidden.iter().any(|r| r.contains(&at));
            shown.push(if masked { '*' } else { printable(c) });
        }
        let caret_at = caret_at.unwrap_or(shown.len());
        let carets = carets.max(1);
        cut(&shown, !file.begins_line(from), caret_at, carets)
    }
}

/// The characters that fit, with `…` where some are left out.
fn cut(shown: &[char], more_before: bool, caret_at: usize, carets: usize) -> Snippet {
    let end = shown.iter().rposition(|c| *c != ' ').map_or(0, |n| n + 1).max(caret_at);
    let shown = &shown[..end.min(shown.len())];
    if shown.len() <= LINE_CHARS_MAX && !more_before {
        return Snippet { line: shown.iter().collect(), indent: caret_at, carets };
    }
    let from = caret_at.saturating_sub(LEAD_CHARS);
    let to = shown.len().min(from + LINE_CHARS_MAX);
    let mut line = String::new();
    let mut indent = caret_at - from;
    if from > 0 || more_before {
        line.push('…');
        indent += 1;
    }
    line.extend(&shown[from..to]);
    if to < shown.len() {
        line.push('…');
    }
    Snippet { line, indent, carets: carets.min((to - caret_at.min(to)).max(1)) }
}

fn is_secret(file: &SourceFile, place: Place, offset: usize, secrets: &[Place]) -> bool {
    let offset = offset as u32;
    let next = secrets.partition_point(|s| (s.file, s.start) <= (place.file, offset));
    let Some(secret) = next.checked_sub(1).map(|n| secrets[n]) else { return false };
    let quotes = matches!(file.text.as_bytes().get(offset as usize), Some(b'"' | b'\''));
    let edge = quotes && (offset == secret.start || offset + 1 == secret.end);
    secret.file == place.file && offset < secret.end && !edge
}

/// What stands after the name of a secret key and a `=` or `:`, to its closing quote.
fn hidden_by_look(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut hidden = Vec::new();
    for name in keys::secret_names() {
        for (at, _) in text.match_indices(name) {
            let rest = &text[at + name.len()..];
            let gap = rest.len() - rest.trim_start_matches(['"', '\'', ' ', '\t', '=', ':']).len();
            if !rest[..gap].contains(['=', ':']) {
                continue;
            }
            let value = &rest[gap..];
            let length = value.find(['"', '\'']).unwrap_or(value.len());
            let start = at + name.len() + gap;
            hidden.push(start..start + length);
        }
    }
    hidden
}

fn printable(c: char) -> char {
    match c {
        '\t' | '\r' => ' ',
        c if c.is_control() => '\u{FFFD}',
        // Marks that reorder or hide text would make the caret line lie.
        '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}'
        | '\u{FEFF}' => '\u{FFFD}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::FileId;
    use std::path::Path;

    fn snippet(text: &str, range: std::ops::Range<usize>, secrets: &[Place]) -> Snippet {
        let file = SourceFile::new("x.toml".into(), Path::new("x.toml"), text.into());
        Snippet::of(&file, Place::new(FileId(0), range), secrets, false)
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        let found = snippet("a = 1\nblance = \"x\"\r\nb = 2", 6..12, &[]);
        assert_eq!(found, Snippet { line: "blance = \"x\"".into(), indent: 0, carets: 6 });
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_caret() {
        let text = format!("{{{}\"bad\":1{}}}", "\"ü\":1,".repeat(50_000), " ".repeat(100));
        let at = text.find("\"bad\"").unwrap();
        let found = snippet(&text, at..at + 5, &[]);
        assert!(found.line.chars().count() <= LINE_CHARS_MAX + 2, "{}", found.line);
        let under: String = found.line.chars().skip(found.indent).take(found.carets).collect();
        assert_eq!(under, "\"bad\"");
    }

    #[test]
    fn a_secret_is_masked_between_its_quotes() {
        let text = "token = \"hunter2\"";
        let found = snippet(text, 8..17, &[Place::new(FileId(0), 8..17)]);
        assert_eq!(found.line, "token = \"*******\"");
    }

    #[test]
    fn a_secret_on_a_broken_line_is_masked_too() {
        assert_eq!(hidden_by_look("token = \"hunter2\", x"), vec![9..16]);
        assert_eq!(hidden_by_look("\"password\": \"a b"), vec![13..16]);
        assert!(hidden_by_look("the token is").is_empty());
    }

    #[test]
    fn a_place_past_the_end_shows_the_last_line() {
        let found = snippet("a = [", 5..5, &[]);
        assert_eq!(found, Snippet { line: "a = [".into(), indent: 5, carets: 1 });
    }
}
