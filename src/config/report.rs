//! Findings and how they are shown, to people and to machines.
//!
//! [`Findings`] collects while a configuration is read; [`Report`] is the finished, ordered
//! list with the text it points into. Two rules keep it to what the operator has to fix: what
//! lies where the syntax is broken is not reported besides the syntax error, and a file with a
//! syntax error is never said to lack something. Secrets are masked in every source line.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::json;

use super::code::{Code, Severity};
use super::snippet::Snippet;
use super::source::{FileId, Place, Sources};

/// Findings that are kept; more are counted. Nobody reads the two thousandth, and a file of
/// 16 MiB could hold millions.
pub const FINDINGS_MAX: usize = 2_000;

/// One thing to fix, with the place to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub code: Code,
    pub place: Place,
    /// A sentence without a full stop that names the thing.
    pub message: String,
    /// What to do or to write instead; empty when the message says it all.
    pub hint: String,
    /// For example `pool.pg.servers.pg2.weight`; empty when no key is concerned.
    pub key: String,
    /// Other places that the message is about, each with a clause.
    pub related: Vec<(Place, String)>,
}

impl Finding {
    #[must_use]
    pub fn new(
        code: Code,
        place: Place,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let (key, message) = (key.into(), message.into());
        Self { code, place, message, hint: String::new(), key, related: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn related(mut self, place: Place, clause: impl Into<String>) -> Self {
        self.related.push((place, clause.into()));
        self
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    errors: usize,
    warnings: usize,
    /// Where the syntax is broken: nothing read from there can be trusted.
    torn: Vec<(FileId, Range<u32>)>,
    /// Values that must not be printed.
    secrets: Vec<Place>,
}

impl Findings {
    /// Adds a finding, unless it only follows from a syntax error.
    pub fn add(&mut self, finding: Finding) {
        let follows = finding.code != super::code::SYNTAX
            && !self.torn.is_empty()
            && (finding.code.is_about_absence() || self.is_torn(finding.place));
        if follows {
            return;
        }
        match finding.code.severity() {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        if !self.is_full() {
            self.list.push(finding);
        }
    }

    /// Marks a range of a file as unreadable.
    pub fn tear(&mut self, file: FileId, range: Range<usize>) {
        let place = Place::new(file, range);
        self.torn.push((file, place.start..place.end));
    }

    /// Keeps the text of this place out of everything printed.
    pub fn mask(&mut self, place: Place) {
        self.secrets.push(place);
    }

    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Whether further findings are only counted, so that nothing need be looked up for them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.list.len() >= FINDINGS_MAX
    }

    fn is_torn(&self, place: Place) -> bool {
        let meets = |range: &Range<u32>| place.start <= range.end && range.start <= place.end;
        self.torn.iter().any(|(file, range)| *file == place.file && meets(range))
    }

    /// Puts everything into file order.
    #[must_use]
    pub fn finish(mut self, sources: Sources) -> Report {
        self.list.sort_by(|a, b| (a.place, a.code.id).cmp(&(b.place, b.code.id)));
        self.secrets.sort_unstable();
        let Self { list, errors, warnings, secrets, torn } = self;
        Report { sources, findings: list, errors, warnings, secrets, torn: !torn.is_empty() }
    }
}

/// Everything found in one configuration, in file order.
#[derive(Clone, Debug)]
pub struct Report {
    sources: Sources,
    findings: Vec<Finding>,
    errors: usize,
    warnings: usize,
    secrets: Vec<Place>,
    torn: bool,
}

impl Report {
    /// At most [`FINDINGS_MAX`]; [`Report::errors`] counts all.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors
    }

    #[must_use]
    pub fn warnings(&self) -> usize {
        self.warnings
    }

    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The last line: `2 errors, 1 warning; nothing was applied`; empty when nothing was found.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{n} {word}s")),
        };
        let counts = [count(self.errors, "error"), count(self.warnings, "warning")];
        let text = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if self.errors > 0 { text + "; nothing was applied" } else { text }
    }

    /// The text for a person, ending in the summary line; empty when nothing was found.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = String::new();
        for finding in &self.findings {
            self.render_one(finding, paint, &mut out);
        }
        let untold = (self.errors + self.warnings).saturating_sub(self.findings.len());
        if untold > 0 {
            let _ = writeln!(out, "… and {untold} more");
        }
        if !self.findings.is_empty() {
            let _ = writeln!(out, "{}", self.summary());
        }
        out
    }

    fn render_one(&self, finding: &Finding, paint: Paint, out: &mut String) {
        let severity = finding.code.severity();
        let head = format!("{}[{}]", severity.word(), finding.code.id);
        let head = paint.severity(severity, &head);
        let _ = writeln!(out, "{head}: {}", paint.bold(&finding.message));
        self.render_place("-->", finding.place, &finding.hint, paint, out);
        for (place, clause) in &finding.related {
            self.render_place(":::", *place, clause, paint, out);
        }
    }

    /// Place line, source line, and the caret line with the hint.
    fn render_place(&self, arrow: &str, place: Place, hint: &str, paint: Paint, out: &mut String) {
        let file = self.sources.file(place.file);
        let at = file.position(place.start);
        let arrow = paint.frame(arrow);
        if file.text.is_empty() {
            // Nothing to show: the file could not be read, or is empty.
            let _ = writeln!(out, "  {arrow} {}", file.shown);
            if !hint.is_empty() {
                let _ = writeln!(out, "  {} {hint}", paint.frame("="));
            }
            return;
        }
        let _ = writeln!(out, "  {arrow} {}:{}:{}", file.shown, at.line, at.column);
        let snippet = Snippet::of(file, place, &self.secrets, self.torn);
        let gutter = at.line.to_string();
        let bar = paint.frame("|");
        let blank = " ".repeat(gutter.len());
        let _ = writeln!(out, "{blank} {bar}");
        let _ = writeln!(out, "{} {bar} {}", paint.frame(&gutter), snippet.line);
        let caret = format!("{}{}", " ".repeat(snippet.indent), "^".repeat(snippet.carets));
        let line = if hint.is_empty() { caret } else { format!("{caret} {hint}") };
        let _ = writeln!(out, "{blank} {bar} {}", paint.caret(&line));
    }

    /// An array with one object for each finding. `line` and `column` count from 1.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.findings.iter().map(|finding| self.finding_json(finding)).collect()
    }

    fn finding_json(&self, finding: &Finding) -> serde_json::Value {
        let related = finding.related.iter().map(|(place, clause)| {
            let mut object = self.place_json(*place);
            object["message"] = json!(clause);
            object
        });
        let mut object = json!({
            "code": finding.code.id,
            "severity": finding.code.severity().word(),
            "message": finding.message,
        });
        if let (Some(object), serde_json::Value::Object(place)) =
            (object.as_object_mut(), self.place_json(finding.place))
        {
            object.extend(place);
        }
        let or_null = |text: &str| if text.is_empty() { json!(null) } else { json!(text) };
        object["key"] = or_null(&finding.key);
        object["hint"] = or_null(&finding.hint);
        object["related"] = related.collect();
        object
    }

    fn place_json(&self, place: Place) -> serde_json::Value {
        let file = self.sources.file(place.file);
        let at = file.position(place.start);
        json!({ "file": file.shown, "line": at.line, "column": at.column })
    }
}

/// Colours, or none. Blue frames, bold sentences, red errors, yellow warnings.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Error => self.with("1;31", text),
            Severity::Warning => self.with("1;33", text),
        }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn frame(self, text: &str) -> String {
        self.with("1;34", text)
    }

    fn caret(self, text: &str) -> String {
        self.with("1;36", text)
    }
}
