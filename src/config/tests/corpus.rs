//! Bad configurations from `tests/corpus/config.jsonl`, each wrong in the one named way.
//!
//! `expect` lists every finding as `CODE file:line:column`; a case with `generate` makes a large
//! file and asserts the first one; `certs` puts those of `config/certs` beside it. `pending` cases wait for a feature and are never counted.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::{Report, load};

/// What one case may take, the largest included: a hang is a failure, not a wait.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn each_case_of_the_corpus_has_its_code_at_its_place() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/config.jsonl");
    let mut failures = String::new();
    let (mut ran, mut pending) = (0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if case["pending"].is_string() {
            pending += 1;
            continue;
        }
        ran += 1;
        if let Err(failure) = run(&case) {
            let _ = writeln!(failures, "{}: {failure}", case["id"]);
        }
    }
    println!("{ran} cases ran, {pending} pending");
    assert!(ran > 70, "the corpus is not there");
    assert!(failures.is_empty(), "\n{failures}");
}

fn run(case: &Value) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let main = prepare(case, dir.path());
    let start = Instant::now();
    let report = match load(&main) {
        Ok(loaded) => loaded.warnings,
        Err(report) if report.errors() == 0 => return Err("refused without an error".to_owned()),
        Err(report) => report,
    };
    let text = report.render(false);
    if start.elapsed() > DEADLINE {
        return Err(format!("took {:?}", start.elapsed()));
    }
    if case["generate"].is_string() {
        println!("{}: {} ms", case["id"], start.elapsed().as_millis());
    }
    let found = found(&report, dir.path());
    let expected: Vec<&str> =
        case["expect"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    let fits = if case["generate"].is_string() {
        found.first().map(String::as_str) == expected.first().copied()
    } else {
        found == expected
    };
    if !fits {
        let shown: String = text.chars().take(2_000).collect();
        return Err(format!(
            "expected {expected:?}, found {:?}\n{shown}",
            &found[..found.len().min(5)]
        ));
    }
    if let Some(says) = case["says"].as_str().filter(|says| !text.contains(says)) {
        return Err(format!("does not say {says:?}:\n{text}"));
    }
    let json = report.to_json().to_string();
    if let Some(hides) =
        case["hides"].as_str().filter(|hides| text.contains(hides) || json.contains(hides))
    {
        return Err(format!("prints the secret {hides:?}:\n{text}"));
    }
    Ok(())
}

fn found(report: &Report, dir: &Path) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    let line = |finding: &crate::config::report::Finding| {
        let file = report.sources().file(finding.place.file);
        let at = file.position(finding.place.start);
        let name = file.shown.strip_prefix(&prefix).unwrap_or(&file.shown);
        format!("{} {name}:{}:{}", finding.code.id, at.line, at.column)
    };
    report.findings().iter().map(line).collect()
}

/// Writes the files of a case and returns the one to load.
fn prepare(case: &Value, dir: &Path) -> std::path::PathBuf {
    let main = dir.join("main.toml");
    if let Some(kind) = case["make"].as_str() {
        match kind {
            "directory" => std::fs::create_dir(&main).unwrap(),
            "pipe" => nix::unistd::mkfifo(&main, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "zero" => std::os::unix::fs::symlink("/dev/zero", &main).unwrap(),
            "loop" => std::os::unix::fs::symlink(&main, &main).unwrap(),
            _ => {}
        }
        return main;
    }
    if let Some(what) = case["generate"].as_str() {
        let (name, text) = generate(what);
        std::fs::write(dir.join(name), text).unwrap();
        return dir.join(name);
    }
    if case["certs"].as_bool() == Some(true) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/certs");
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
    let mut first = None;
    for (name, text) in case["files"].as_object().unwrap() {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text.as_str().unwrap();
        let bytes = match case["latin1"].as_bool() {
            Some(true) => text.chars().map(|c| u8::try_from(c as u32).unwrap()).collect(),
            _ => text.as_bytes().to_vec(),
        };
        std::fs::write(&path, bytes).unwrap();
        first.get_or_insert(path);
    }
    first.unwrap()
}

fn generate(what: &str) -> (&'static str, String) {
    const ENTRIES: usize = 100_000;
    const BYTES: usize = 16 << 20;
    let mut text = String::from("[listener.web]\nbind = \"127.0.0.1:8080\"\npool = \"web\"\n");
    match what {
        "servers" => {
            text += "[pool.web]\n[pool.web.servers]\n";
            text = text.replace("[pool.web]\n", "");
            text.insert(0, '\n');
            for n in 0..ENTRIES {
                let _ = writeln!(text, "s{n} = \"10.{}.{}.{}:80\"", n >> 16, n >> 8 & 255, n & 255);
            }
        }
        "pools" => {
            text.insert(0, '\n');
            for n in 0..ENTRIES {
                let _ = writeln!(text, "[pool.p{n}]\nservers.s = \"10.0.0.1:80\"");
            }
        }
        "keys" => {
            text.insert(0, '\n');
            for n in 0..ENTRIES {
                let _ = writeln!(text, "kee{n} = {n}");
            }
        }
        "routes" => {
            text += "mode = \"http\"\n";
            for n in 0..ENTRIES {
                let _ = writeln!(
                    text,
                    "[[listener.web.route]]\nmatch = {{ path = \"/r{n}/*\" }}\npool = \"web\""
                );
            }
            text += "[pool.web]\nservers.s = \"10.0.0.1:80\"\n";
        }
        "too many routes" => {
            text += "mode = \"http\"\n";
            text += &"[[listener.web.route]]\npool = \"web\"\n".repeat(ENTRIES + 1);
            text += "[pool.web]\nservers.s = \"10.0.0.1:80\"\n";
        }
        "garbage" => text = "=]\"[{\n".repeat(BYTES / 6),
        "garbage line" => text = "]={\"".repeat(BYTES / 4),
        "json" => {
            let entries = (0..ENTRIES).map(|n| format!("\"key{n}\":[{n},\"ü\"]"));
            return ("main.json", format!("{{{}}}", entries.collect::<Vec<_>>().join(",")));
        }
        _ => text = "# too much\n".repeat(BYTES / 11 + 2),
    }
    ("main.toml", text)
}
