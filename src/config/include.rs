//! The files of one configuration: the one that was named and those it includes, as one tree.
//!
//! One level only, so there is no circle to follow; a file that names itself is still told.
//! Tables of the top level merge, and so do the tables below them key by key; what is said
//! twice is an error with both places. Reads files, decides nothing about their content.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::code;
use super::read::{self, FILE_BYTES_MAX};
use super::report::{Finding, Findings};
use super::source::{FileId, Place, SourceFile, Sources};
use super::tree::{Entry, Node, Table, Value};
use super::{parse_json, parse_toml};

/// Files that all patterns together may find. Beyond this a pattern hit the wrong directory.
pub const INCLUDED_FILES_MAX: usize = 256;
/// Bytes of all files: what one check may keep in memory.
const ALL_BYTES_MAX: u64 = 4 * FILE_BYTES_MAX;
/// Entries of a directory that are looked at.
const DIRECTORY_ENTRIES_MAX: usize = 65_536;

/// All files that were read, and what was wrong with them so far.
#[derive(Debug, Default)]
pub struct Reading {
    pub sources: Sources,
    pub found: Findings,
    /// In the order read; the named file first. Also those that could not be read.
    pub paths: Vec<PathBuf>,
    /// What of `include` may come to find other files: where it looks, and for what names.
    pub patterns: Vec<PathBuf>,
    bytes: u64,
    digest: SipHasher13,
}

impl Reading {
    /// Reads the file and what it includes, and returns the merged tree.
    pub fn read(&mut self, path: &Path) -> Table {
        let Some((file, mut root)) = self.open(path, path.display().to_string(), None) else {
            return Table::default();
        };
        self.include(file, path, &mut root);
        root
    }

    /// The same for bytes that are in no file; includes are relative to the name.
    pub fn read_text(&mut self, path: &Path, bytes: Vec<u8>) -> Table {
        self.paths.push(path.to_path_buf());
        let Some((file, mut root)) = self.parse(path, &path.display().to_string(), bytes) else {
            return Table::default();
        };
        self.include(file, path, &mut root);
        root
    }

    /// Adds bytes to the digest.
    pub fn digest(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.digest.write_usize(bytes.len());
        self.digest.write(bytes);
    }

    /// Digest of all bytes read, in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:032x}", self.digest.finish128().as_u128())
    }

    /// One file as a tree; `None` after an error. `by`: the pattern that named it.
    fn open(&mut self, path: &Path, shown: String, by: Option<Place>) -> Option<(FileId, Table)> {
        self.paths.push(path.to_path_buf());
        let left = ALL_BYTES_MAX.saturating_sub(self.bytes).min(FILE_BYTES_MAX);
        let bytes = match read::bytes(path, left) {
            Ok(bytes) => bytes,
            Err(error) => {
                let message = format!("{shown} {}", error.clause);
                let place = by.unwrap_or_else(|| self.add_file(shown, path, String::new()));
                self.found.add(Finding::new(error.code, place, "", message));
                return None;
            }
        };
        self.parse(path, &shown, bytes)
    }

    /// Bytes as a tree; `None` after an error that leaves nothing to look at.
    fn parse(&mut self, path: &Path, shown: &str, bytes: Vec<u8>) -> Option<(FileId, Table)> {
        self.digest(&bytes);
        let bad = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to());
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            // Shown with marks where it is broken; the place stays right, all before it is valid.
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        let place = self.add_file(shown.to_owned(), path, text);
        let file = place.file;
        if let Some(at) = bad {
            let message = format!("{shown} is not UTF-8 text");
            let place = Place::new(file, at..at + '\u{FFFD}'.len_utf8());
            self.found.add(
                Finding::new(code::NOT_UTF8, place, "", message)
                    .hint("this byte begins no character"),
            );
            return None;
        }
        let Self { sources, found, .. } = self;
        let text = &sources.file(file).text;
        if text.trim_start_matches('\u{FEFF}').trim().is_empty() {
            let message = format!("{shown} is empty");
            let hint = "a half-written file looks like this; write a new file and rename it over the old one";
            found.add(Finding::new(code::EMPTY, place, "", message).hint(hint));
            return None;
        }
        let table = if is_json(path, text) {
            parse_json::parse(text, file, found)
        } else {
            parse_toml::parse(text, file, found)
        };
        Some((file, table))
    }

    fn add_file(&mut self, shown: String, path: &Path, text: String) -> Place {
        Place::top(self.sources.add(SourceFile::new(shown, path, text)))
    }

    fn include(&mut self, main: FileId, path: &Path, root: &mut Table) {
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let itself = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        for (pattern, place) in patterns(root) {
            for (found, shown) in self.matches(main, &pattern, place) {
                let real = std::fs::canonicalize(&found).unwrap_or_else(|_| found.clone());
                if real == itself {
                    let message = format!("{} includes itself", self.sources.file(main).shown);
                    let hint = "keep included files in a directory of their own, like conf.d/";
                    self.found.add(
                        Finding::new(code::SELF_INCLUDE, place, "include", message).hint(hint),
                    );
                    continue;
                }
                if !seen.insert(real) {
                    continue; // Two patterns found it: it is there once.
                }
                if seen.len() > INCLUDED_FILES_MAX {
                    let message = format!("`include` finds more than {INCLUDED_FILES_MAX} files");
                    self.found.add(Finding::new(code::TOO_MANY, place, "include", message));
                    return;
                }
                if let Some((file, table)) = self.open(&found, shown, Some(place)) {
                    self.merge_file(root, table, file);
                }
            }
        }
    }

    fn merge_file(&mut self, root: &mut Table, mut table: Table, file: FileId) {
        if let Some(nested) = table.take("include") {
            let message =
                format!("{} is included and includes files itself", self.sources.file(file).shown);
            let finding = Finding::new(code::NESTED_INCLUDE, nested.key_place, "include", message);
            self.found.add(
                finding.hint("includes go one level deep; name these files in the first file"),
            );
        }
        // Every file may say its version; that is no second setting.
        if root.get("version").is_some()
            && table.get("version").is_some_and(|e| matches!(e.node.value, Value::Integer(1)))
        {
            table.take("version");
        }
        merge(root, table, "", &mut self.found);
    }

    /// The files a pattern finds, in order of their names, with what to call them.
    fn matches(&mut self, main: FileId, pattern: &str, place: Place) -> Vec<(PathBuf, String)> {
        let dir = self.sources.file(main).dir.clone();
        let path = dir.join(pattern);
        let shown = |path: &Path| path.display().to_string();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            self.bad_pattern(
                place,
                format!("`include` names no file: \"{}\"", super::value::clip(pattern)),
                "",
            );
            return Vec::new();
        };
        let is_wild = |part: &str| part.contains(['*', '?', '[']);
        if is_wild(&parent.to_string_lossy()) || name.contains('[') {
            let hint = "write \"conf.d/*.toml\"; `*` and `?` may stand in the last part only";
            self.bad_pattern(
                place,
                format!("`include` cannot read the pattern \"{}\"", super::value::clip(pattern)),
                hint,
            );
            return Vec::new();
        }
        if !is_wild(name) {
            return vec![(path.clone(), shown(&path))];
        }
        self.patterns.push(path.clone());
        match found_by(&path) {
            Ok(found) => found.into_iter().map(|path| (path.clone(), shown(&path))).collect(),
            Err(error) => {
                let message = format!("`include` cannot list {}: {error}", parent.display());
                self.bad_pattern(place, message, "");
                Vec::new()
            }
        }
    }

    fn bad_pattern(&mut self, place: Place, message: String, hint: &str) {
        self.found.add(Finding::new(code::BAD_INCLUDE, place, "include", message).hint(hint));
    }
}

/// The files whose names fit the last part of `pattern`, in their order.
///
/// # Errors
/// When the directory cannot be listed.
pub fn found_by(pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(parent), Some(name)) =
        (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let listing = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let mut names: Vec<String> = std::fs::read_dir(listing)?
        .take(DIRECTORY_ENTRIES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // As in a shell, hidden files are found only by a pattern that begins with a dot.
        .filter(|found| (!found.starts_with('.') || name.starts_with('.')) && glob(name, found))
        .collect();
    names.sort_unstable();
    Ok(names.into_iter().map(|name| parent.join(name)).collect())
}

/// The patterns of `include` that are strings; the walk reports the others.
fn patterns(root: &Table) -> Vec<(String, Place)> {
    let text = |node: &Node| match &node.value {
        Value::Text(text) => Some((text.clone(), node.place)),
        _ => None,
    };
    match root.get("include").map(|entry| &entry.node) {
        Some(Node { value: Value::List(items), .. }) => {
            items.iter().take(super::table::INCLUDES_MAX).filter_map(text).collect()
        }
        Some(node) => text(node).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The file's name decides; without one, the first character does.
fn is_json(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => false,
        _ => text.trim_start_matches('\u{FEFF}').trim_start().starts_with('{'),
    }
}

/// Adds the entries of one table to another; the sections of the top level merge in turn.
fn merge(into: &mut Table, from: Table, path: &str, found: &mut Findings) {
    let known: HashMap<String, usize> =
        into.entries.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
    for entry in from.entries {
        let Some(first) = known.get(&entry.key).map(|index| &mut into.entries[*index]) else {
            into.entries.push(entry);
            continue;
        };
        match (&mut first.node.value, entry) {
            (
                Value::Table(into),
                Entry { node: Node { value: Value::Table(from), .. }, key, .. },
            ) if path.is_empty() => {
                merge(into, from, &key, found);
            }
            (_, entry) => {
                let thing = match path {
                    "listener" | "pool" => format!("{path} `{}`", entry.key.escape_debug()),
                    "" => format!("`{}`", entry.key.escape_debug()),
                    _ => format!("`{}` of `[{path}]`", entry.key.escape_debug()),
                };
                let key = if path.is_empty() { entry.key } else { format!("{path}.{}", entry.key) };
                let message = format!("{thing} is given in two files");
                let finding = Finding::new(code::SAME_NAME, entry.key_place, key, message);
                found.add(
                    finding
                        .hint("keep one of the two")
                        .related(first.key_place, "the first is here"),
                );
            }
        }
    }
}

/// Whether `*` (any characters) and `?` (one) of the pattern can cover the name.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: it takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after, taken)) => {
                    (p, n) = (after, taken + 1);
                    retry = Some((after, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_covers_whole_names() {
        for (pattern, name, covers) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml~", false),
            ("*.toml", ".toml", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxabx", true),
            ("*a*b*", "bbba", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, name), covers, "{pattern} {name}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_takes_no_exponential_time() {
        assert!(!glob(&("*a".repeat(60) + "b"), &"a".repeat(250)));
    }
}
