//! The house rules that a compiler does not check, as tests whose messages say what to do.
//!
//! Each rule reads the files of the repository as text. Rust is read through [`code_only`],
//! which blanks comments and literals and keeps the lines, so that a rule about code does not
//! stumble over prose. An exception stands in the rule's own table, with its reason.

#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "the tree is lower case")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Files past this are split by the order of events or by responsibility, never "part 2".
const FILE_LINES_MAX: usize = 600;
/// What a screen shows at once.
const FUNCTION_LINES_MAX: usize = 70;

/// The only files of the product that may say `unsafe`.
const UNSAFE_FILES: &[&str] =
    &["src/runtime/buffers.rs", "src/runtime/sys.rs", "src/runtime/uring.rs"];

/// Code generic over the driver, which a simulation must be able to repeat from a seed.
const REPEATABLE: &[&str] = &["src/l4/", "src/balance/", "src/health/", "src/limits/"];

/// Functions longer than [`FUNCTION_LINES_MAX`]: file, name, and why it reads better whole.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// `(what a line of code must not contain, what to do instead)`.
type Ban = (&'static str, &'static str);

const BANNED_ANYWHERE: &[Ban] = &[
    ("todo!(", "leave the feature out until it works"),
    ("unimplemented!(", "leave the feature out until it works"),
    ("dbg!(", "log it, or assert it"),
    ("#[ignore", "make it fast, or give it a short form that always runs"),
];

const BANNED_IN_REPEATABLE: &[Ban] = &[
    ("Instant::now", "take `now: Time` as an argument; the shell has Driver::now"),
    (
        "SystemTime::now",
        "take `now: Time` as an argument; wall-clock time is for the control thread",
    ),
    ("std::thread", "return a value; who runs on which thread is the shell's business"),
    ("std::env", "read it in the configuration and pass it on"),
    ("std::fs", "a worker never touches a file; the control thread does"),
    ("std::net::TcpStream", "go through Driver, so that the simulation sees it"),
    ("std::net::TcpListener", "go through Driver, so that the simulation sees it"),
    ("RandomState", "use balance::rng with a seed, or siphasher with a fixed key"),
    ("HashMap::new", "iteration order is random: a Vec by id, a BTreeMap, or a seeded hasher"),
    ("HashSet::new", "iteration order is random: a Vec by id, a BTreeSet, or a seeded hasher"),
];

const BANNED_OUTSIDE_TESTS: &[Ban] =
    &[(".unwrap()", "return the error, or `expect` with the reason why it cannot happen")];

#[test]
fn every_rust_file_begins_by_saying_what_it_owns() {
    rust_files().check(
        "begin the file with `//!`: what it owns, its invariants, what it does not do",
        |file| {
            let first = file.text.lines().next().unwrap_or_default();
            let says = first.starts_with("//!") || first.starts_with("#![doc");
            if says { vec![] } else { vec![(1, first.to_owned())] }
        },
    );
}

#[test]
fn no_file_is_longer_than_600_lines() {
    rust_files().check("split it by the order of events or by responsibility", |file| {
        let lines = file.text.lines().count();
        if lines <= FILE_LINES_MAX { vec![] } else { vec![(lines, format!("{lines} lines"))] }
    });
}

#[test]
fn no_function_is_longer_than_70_lines() {
    rust_files().check("name a step of it and move that step into its own function", |file| {
        functions(&code_only(&file.text))
            .into_iter()
            .filter(|found| found.lines > FUNCTION_LINES_MAX)
            .filter(|found| {
                !LONG_FUNCTIONS
                    .iter()
                    .any(|(path, name, _)| *path == file.path && *name == found.name)
            })
            .map(|found| (found.at, format!("fn {} has {} lines", found.name, found.lines)))
            .collect()
    });
}

#[test]
fn unsafe_stays_in_three_files() {
    let remedy = "use a safe wrapper (nix, socket2, rustix), or add the call to src/runtime/sys.rs";
    rust_files().check(remedy, |file| {
        if UNSAFE_FILES.contains(&file.path.as_str()) || is_counting_allocator(file) {
            return vec![];
        }
        lines_with(&code_only(&file.text), |line| has_word(line, "unsafe"))
    });
    assert!(UNSAFE_FILES.len() <= 3, "three places at most: more cannot be reviewed as a whole");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let remedy = "put `// SAFETY: …` above it: which invariant makes it sound, and who upholds it";
    rust_files().check(remedy, |file| {
        let raw: Vec<&str> = file.text.lines().collect();
        lines_with(&code_only(&file.text), |line| {
            has_word(line, "unsafe")
                && !line.contains("unsafe extern")
                && !line.contains("unsafe fn")
        })
        .into_iter()
        .filter(|(at, _)| {
            // The statement may have begun a few lines above the block.
            let from = at.saturating_sub(9);
            !raw[from..*at].iter().any(|line| line.contains("SAFETY:"))
        })
        .collect()
    });
}

#[test]
fn names_say_what_a_thing_does() {
    let banned = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];
    all_files(&["src", "tests", "benches", "scripts", "docs"]).check(
        "name it after what it does; see the words in src/ARCHITECTURE.md",
        |file| {
            let parts = file.path.split(['/', '.', '_', '-']);
            parts.filter(|part| banned.contains(part)).map(|part| (1, part.to_owned())).collect()
        },
    );
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    rust_files().check_bans(BANNED_ANYWHERE, |file| code_only(&file.text));
}

#[test]
fn code_that_the_simulation_runs_is_repeatable() {
    rust_files()
        .only(|path| REPEATABLE.iter().any(|dir| path.starts_with(dir)))
        .only(|path| !path.starts_with("src/l4/sim_tests")) // tests all through
        .check_bans(BANNED_IN_REPEATABLE, |file| without_tests(file, &code_only(&file.text)));
}

#[test]
fn nothing_unwraps_outside_tests() {
    rust_files()
        .only(|path| path.starts_with("src/"))
        .check_bans(BANNED_OUTSIDE_TESTS, |file| without_tests(file, &code_only(&file.text)));
}

#[test]
fn every_bound_has_a_reason() {
    let remedy = "write a `///` above it: why this number, and what happens at it";
    rust_files().only(|path| path.starts_with("src/")).check(remedy, |file| {
        let code = without_tests(file, &code_only(&file.text));
        let raw: Vec<&str> = file.text.lines().collect();
        lines_with(&code, |line| {
            line.contains("const ")
                && line.split(':').next().is_some_and(|name| name.trim_end().ends_with("_MAX"))
        })
        .into_iter()
        .filter(|(at, _)| {
            let mut above = raw[..at - 1].iter().rev().map(|line| line.trim_start());
            // A comment may speak for a group; a bound inside a function is explained by it.
            let speaks = above.find(|line| !line.starts_with("#[") && !line.contains("const "));
            !speaks.is_some_and(|line| {
                line.starts_with("//") || line.ends_with('{') && line.contains("fn ")
            })
        })
        .collect()
    });
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let mut wrong = Vec::new();
    let (mut in_dependencies, mut above) = (false, "");
    for (at, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if in_dependencies && line.contains('=') && !line.starts_with([' ', '#', ']']) {
            // One comment may speak for the lines directly below it.
            if above.is_empty() || above.starts_with('[') {
                wrong.push(format!("Cargo.toml:{}: {line}", at + 1));
            }
        }
        above = line;
    }
    report("put a comment above it: what it is for", &wrong);
}

#[test]
fn scripts_stop_at_the_first_error_and_spell_their_flags() {
    scripts().check(
        "begin with `#!`, and for bash `set -euo pipefail` before the first command",
        |file| {
            let bash = file.text.starts_with("#!/usr/bin/env bash\n");
            let strict = file.text.lines().any(|line| line == "set -euo pipefail");
            let fine =
                if bash { strict } else { file.text.starts_with("#!/usr/bin/env python3\n") };
            if fine {
                vec![]
            } else {
                vec![(1, file.text.lines().next().unwrap_or_default().to_owned())]
            }
        },
    );
    scripts().only(|path| !path.ends_with(".py")).check(
        "write the long flag: a script is read more often than typed",
        |file| {
            let numbered = file.text.lines().enumerate();
            numbered
                .filter(|(_, line)| has_short_flag(line))
                .map(|(at, line)| (at + 1, line.to_owned()))
                .collect()
        },
    );
}

#[test]
fn links_in_the_documentation_lead_to_a_file() {
    markdown_files().check("correct the path, or write the document", |file| {
        let here = Path::new(&file.path).parent().unwrap_or(Path::new("")).to_owned();
        let mut wrong = Vec::new();
        for (at, line) in file.text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next())
            {
                let outside = target.is_empty() || target.contains("://");
                if !outside && !root().join(&here).join(target).exists() {
                    wrong.push((at + 1, target.to_owned()));
                }
            }
        }
        wrong
    });
}

#[test]
fn the_map_names_every_module() {
    let map = read("src/ARCHITECTURE.md");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("src")).expect("src/ is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let module = if entry.path().is_dir() { format!("{name}/") } else { name.clone() };
        let is_module = entry.path().is_dir() || name.ends_with(".rs");
        if is_module
            && !["lib.rs", "main.rs"].contains(&name.as_str())
            && !map.contains(&format!("`{module}`"))
        {
            wrong.push(format!("src/{module}"));
        }
    }
    report("add its line to the code map in src/ARCHITECTURE.md, in the same commit", &wrong);
}

#[test]
fn the_reference_of_reasons_is_the_table_of_the_code() {
    let document = read("docs/reasons.md");
    let wrong: Vec<String> = sluicegate::observe::reason::REASONS
        .iter()
        .map(|reason| format!("| `{}` | {} |", reason.as_str(), reason.explain()))
        .filter(|row| !document.contains(row.as_str()))
        .collect();
    report("docs/reasons.md lacks these rows; copy them", &wrong);
}

// ---- the files ----

struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

struct Files(Vec<File>);

/// A line number and what is wrong there.
type Finding = (usize, String);

impl Files {
    fn only(self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.into_iter().filter(|file| wanted(&file.path)).collect())
    }

    /// Fails with every finding of every file, and what to do.
    fn check(&self, remedy: &str, rule: impl Fn(&File) -> Vec<Finding>) {
        let mut wrong = Vec::new();
        for file in &self.0 {
            for (at, what) in rule(file) {
                wrong.push(format!("{}:{at}: {}", file.path, what.trim()));
            }
        }
        report(remedy, &wrong);
    }

    fn check_bans(&self, bans: &[Ban], code: impl Fn(&File) -> String) {
        for (text, instead) in bans {
            self.check(&format!("instead of `{text}`: {instead}"), |file| {
                // This file has the words in its own tables.
                if file.path == "tests/tidy.rs" {
                    return vec![];
                }
                lines_with(&code(file), |line| line.contains(text))
            });
        }
    }
}

fn report(remedy: &str, wrong: &[String]) {
    let mut message = String::new();
    for line in wrong {
        let _ = writeln!(message, "  {line}");
    }
    assert!(wrong.is_empty(), "\n{remedy}:\n{message}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn all_files(dirs: &[&str]) -> Files {
    fn walk(dir: &Path, found: &mut Vec<File>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("walked from the root");
                found.push(File { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    let mut found = Vec::new();
    for dir in dirs {
        walk(&root().join(dir), &mut found);
    }
    assert!(!found.is_empty(), "nothing found in {dirs:?}: the rule would check nothing");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Files(found)
}

fn rust_files() -> Files {
    all_files(&["src", "tests", "benches", "l7"]).only(|path| path.ends_with(".rs"))
}

fn scripts() -> Files {
    all_files(&["scripts", ".ci"])
        .only(|path| !path.contains("__pycache__") && !path.ends_with(".md"))
        // What is packed has the forms of those who read it.
        .only(|path| !path.starts_with("scripts/packaging/"))
}

fn markdown_files() -> Files {
    let mut files = all_files(&["docs", "src"]).only(|path| path.ends_with(".md"));
    for path in ["README.md", "CHANGELOG.md"] {
        files.0.push(File { path: path.to_owned(), text: read(path) });
    }
    files
}

/// A test that counts allocations has to implement `GlobalAlloc`, which is an unsafe trait.
fn is_counting_allocator(file: &File) -> bool {
    file.text.contains("unsafe impl GlobalAlloc for")
}

// ---- reading Rust ----

fn lines_with(code: &str, wanted: impl Fn(&str) -> bool) -> Vec<Finding> {
    let numbered = code.lines().enumerate();
    numbered.filter(|(_, line)| wanted(line)).map(|(at, line)| (at + 1, line.to_owned())).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c| !is_word(c)).any(|part| part == word)
}

/// The code before the test module, which by the house's order stands last.
fn without_tests(file: &File, code: &str) -> String {
    let for_tests = ["/tests.rs", "/fixture.rs", "/model.rs"];
    if for_tests.iter().any(|name| file.path.ends_with(name)) || file.path.contains("/tests/") {
        return String::new();
    }
    code.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// The text with comments and the content of literals blanked; lines stay where they are.
fn code_only(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < source.len() {
        let Some(end) = literal_or_comment(&source, at) else {
            out.push(source[at]);
            at += 1;
            continue;
        };
        for &c in &source[at..end] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `None` if none begins there.
fn literal_or_comment(source: &[char], at: usize) -> Option<usize> {
    let rest = &source[at..];
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    if starts("//") {
        return Some(at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()));
    }
    if starts("/*") {
        return Some(end_of_block_comment(source, at));
    }
    let in_word = at > 0 && is_word(source[at - 1]);
    if !in_word
        && (starts("r\"") || starts("r#\"") || starts("r##\"") || starts("br\"") || starts("br#\""))
    {
        let hashes =
            rest.iter().skip_while(|&&c| c != '#' && c != '"').take_while(|&&c| c == '#').count();
        let open = at + rest.iter().position(|&c| c == '"').unwrap_or(0) + 1;
        let close: Vec<char> =
            std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
        let length = source[open..].windows(close.len()).position(|part| part == close);
        return Some(length.map_or(source.len(), |length| open + length + close.len()));
    }
    match rest[0] {
        '"' => Some(end_of_quoted(source, at, '"')),
        // A lifetime has no closing quote two characters on; an escape always is a character.
        '\'' if rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'') => {
            Some(end_of_quoted(source, at, '\''))
        }
        _ => None,
    }
}

fn end_of_block_comment(source: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < source.len() {
        match (source[i], source[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    source.len()
}

fn end_of_quoted(source: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < source.len() && source[i] != quote {
        i += if source[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(source.len())
}

struct Function {
    name: String,
    at: usize,
    lines: usize,
}

/// Every function with a body, by counting braces in blanked code.
fn functions(code: &str) -> Vec<Function> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(after) =
            line.find("fn ").filter(|&i| i == 0 || !is_word(line.as_bytes()[i - 1] as char))
        else {
            continue;
        };
        let name: String = line[after + 3..].chars().take_while(|&c| is_word(c)).collect();
        if !name.is_empty()
            && let Some(lines) = body_lines(&lines[at..], after)
        {
            found.push(Function { name, at: at + 1, lines });
        }
    }
    found
}

/// Lines from the signature to the brace that closes the body; `None` without a body.
fn body_lines(lines: &[&str], from: usize) -> Option<usize> {
    let (mut depth, mut brackets) = (0_i32, 0_i32);
    for (count, line) in lines.iter().enumerate() {
        for c in line.chars().skip(if count == 0 { from } else { 0 }) {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                '{' => depth += 1,
                '}' => depth -= 1,
                ';' if depth == 0 && brackets == 0 => return None,
                _ => continue,
            }
            if c == '}' && depth == 0 {
                return Some(count + 1);
            }
        }
    }
    None
}

// ---- reading bash ----

/// Builtins and programs that have no long form of what is used here.
const SHORT_ONLY: &[&str] = &[
    "set", "read", "ulimit", "command", "compgen", "declare", "local", "wait", "kill", "ip",
    "unset",
];

fn has_short_flag(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with('#') || line.contains("[[") {
        return false;
    }
    let commands = line.split(['|', ';', '&', '(', ')', '`']);
    let commands = commands.map(|command| {
        let command = command.trim_start().trim_start_matches("if ").trim_start_matches("while ");
        command.trim_start_matches("! ")
    });
    commands.filter_map(|command| command.split_once(' ')).any(|(program, rest)| {
        let is_short = |word: &str| word.len() == 2 && word.starts_with('-') && word != "--";
        !SHORT_ONLY.contains(&program)
            && rest.split_whitespace().take_while(|word| *word != "#").any(is_short)
    })
}

#[test]
fn the_reader_of_rust_is_not_fooled_by_literals() {
    let code =
        code_only("a('{', \"}\\\"{\", r#\"{\"}\"#, b\"{\"); // {\n/* { /* } */ */ fn f<'a>() {}\n");
    assert_eq!(code.matches('{').count(), 1, "{code}");
    assert_eq!(code.lines().count(), 2);
    assert!(code.contains("fn f<'a>() {}"));
}

#[test]
fn the_reader_of_rust_measures_a_function_from_its_signature() {
    let found = functions("fn short();\nfn long(\n    a: u8,\n) {\n    if a { }\n}\n");
    assert_eq!(found.iter().map(|f| (f.name.as_str(), f.lines)).collect::<Vec<_>>(), [("long", 5)]);
}

#[test]
fn the_reader_of_bash_tells_flags_from_tests_and_builtins() {
    assert!(has_short_flag("rm -f file"));
    assert!(has_short_flag("x | grep -q y"));
    assert!(!has_short_flag("if [[ -n \"$x\" ]]; then"));
    assert!(!has_short_flag("ulimit -S -n 20000"));
    assert!(!has_short_flag("rm --force file"));
}
