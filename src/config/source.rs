//! The text of the files that were read, and places in them.
//!
//! Owns the bytes until the last finding is printed. A [`Place`] is a byte range in one file,
//! eight bytes and a file number, so every node of a large tree can have one. Line and column
//! are computed when a finding is shown. Reads nothing and checks nothing.

use std::path::{Path, PathBuf};

/// Index of a file in [`Sources`]: the one named first, then what it includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u16);

/// A byte range in one file. Files are at most 16 MiB, so `u32` is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

impl Place {
    #[must_use]
    pub fn new(file: FileId, range: std::ops::Range<usize>) -> Self {
        let start = u32::try_from(range.start).unwrap_or(u32::MAX);
        let end = u32::try_from(range.end).unwrap_or(u32::MAX).max(start);
        Self { file, start, end }
    }

    /// The very beginning: for what the whole file lacks.
    #[must_use]
    pub const fn top(file: FileId) -> Self {
        Self { file, start: 0, end: 0 }
    }
}

/// Where a place is for a person: both count from 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As messages name it: the path the operator gave, or a path relative to that.
    pub shown: String,
    /// Where relative `file:` values of this file start from.
    pub dir: PathBuf,
    pub text: String,
    blocks: Vec<Block>,
}

/// What lies before every `BLOCK_BYTES`-th byte, so that a position in a file of one very long
/// line costs one block and not the whole file.
#[derive(Clone, Copy, Debug)]
struct Block {
    chars: u32,
    newlines: u32,
    /// Byte offset at which the line begins that reaches into this block.
    line_start: u32,
}

const BLOCK_BYTES: usize = 4_096;

impl SourceFile {
    #[must_use]
    pub fn new(shown: String, path: &Path, text: String) -> Self {
        let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let blocks = blocks_of(text.as_bytes());
        Self { shown, dir, text, blocks }
    }

    /// The text of a place; empty when it lies outside or cuts a character.
    #[must_use]
    pub fn slice(&self, place: Place) -> &str {
        self.text.get(place.start as usize..place.end as usize).unwrap_or("")
    }

    /// Line and column of a byte offset; offsets past the end mean the end.
    #[must_use]
    pub fn position(&self, offset: u32) -> Position {
        let bytes = self.text.as_bytes();
        let offset = (offset as usize).min(bytes.len());
        let before = self.blocks[offset / BLOCK_BYTES];
        let part = &bytes[offset / BLOCK_BYTES * BLOCK_BYTES..offset];
        let newlines = part.iter().map(|b| u32::from(*b == b'\n')).sum::<u32>();
        let start = self.line_start(offset);
        let column = self.chars_before(offset) - self.chars_before(start);
        Position { line: before.newlines + newlines + 1, column: column as u32 + 1 }
    }

    /// The byte range of the line (without its end) in which `offset` lies, at most `reach`
    /// bytes on either side: the line may be the whole file.
    #[must_use]
    pub fn line_range(&self, offset: u32, reach: usize) -> std::ops::Range<usize> {
        let bytes = self.text.as_bytes();
        let offset = (offset as usize).min(bytes.len());
        let floor =
            |at: usize| (0..=at).rev().find(|i| self.text.is_char_boundary(*i)).unwrap_or(0);
        let start = self.line_start(offset).max(floor(offset.saturating_sub(reach)));
        let window = &bytes[offset..bytes.len().min(offset + reach)];
        let end = window.iter().position(|b| *b == b'\n').unwrap_or(window.len());
        start..floor(offset + end)
    }

    /// Whether a line begins at this offset.
    #[must_use]
    pub fn begins_line(&self, offset: usize) -> bool {
        offset == 0 || self.text.as_bytes().get(offset - 1) == Some(&b'\n')
    }

    fn line_start(&self, offset: usize) -> usize {
        let block = offset / BLOCK_BYTES;
        let part = &self.text.as_bytes()[block * BLOCK_BYTES..offset];
        match part.iter().rposition(|b| *b == b'\n') {
            Some(newline) => block * BLOCK_BYTES + newline + 1,
            None => self.blocks[block].line_start as usize,
        }
    }

    fn chars_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK_BYTES;
        let part = &self.text.as_bytes()[block * BLOCK_BYTES..offset];
        self.blocks[block].chars as usize + part.iter().filter(|b| starts_char(**b)).count()
    }
}

fn blocks_of(bytes: &[u8]) -> Vec<Block> {
    let mut now = Block { chars: 0, newlines: 0, line_start: 0 };
    let mut blocks = vec![now];
    for (index, chunk) in bytes.chunks(BLOCK_BYTES).enumerate() {
        for (at, byte) in chunk.iter().enumerate() {
            now.chars += u32::from(starts_char(*byte));
            if *byte == b'\n' {
                now.newlines += 1;
                now.line_start = (index * BLOCK_BYTES + at + 1) as u32;
            }
        }
        blocks.push(now);
    }
    blocks
}

/// True for every byte but those that continue a UTF-8 sequence.
const fn starts_char(byte: u8) -> bool {
    byte & 0xC0 != 0x80
}

/// All files of one configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// # Panics
    /// Never: the include bound is far below 65,536 files.
    pub fn add(&mut self, file: SourceFile) -> FileId {
        let id = FileId(u16::try_from(self.files.len()).expect("bounded by INCLUDED_FILES_MAX"));
        self.files.push(file);
        id
    }

    #[must_use]
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[usize::from(id.0)]
    }

    #[must_use]
    pub fn slice(&self, place: Place) -> &str {
        self.file(place.file).slice(place)
    }

    pub fn iter(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("x.toml".into(), Path::new("x.toml"), text.into())
    }

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let file = file("ä = 1\nbß = 2\n");
        assert_eq!(file.position(0), Position { line: 1, column: 1 });
        assert_eq!(file.position(2), Position { line: 1, column: 2 });
        assert_eq!(file.position(7), Position { line: 2, column: 1 });
        assert_eq!(file.position(10), Position { line: 2, column: 3 });
        assert_eq!(file.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn positions_across_blocks_equal_a_plain_count() {
        let lines: Vec<String> = (0..3_000).map(|n| format!("key{n} = \"é{n}\"\n")).collect();
        let text = lines.concat();
        let file = file(&text);
        for offset in (0..text.len()).filter(|o| text.is_char_boundary(*o)).step_by(37) {
            let before = &text[..offset];
            let line = before.matches('\n').count() as u32 + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() as u32 + 1;
            assert_eq!(file.position(offset as u32), Position { line, column }, "{offset}");
        }
    }
}
