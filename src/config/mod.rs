//! Configuration: raw file → checked plan.
//!
//! ```text
//! file ─▶ include ─▶ parse_toml ┐                ┌─▶ cross (errors)
//!         (read)     parse_json ┴▶ tree ─▶ walk ─▶ build ─▶ draft ─▶ plan
//!                                    by table    └─▶ lint (warnings)
//! ```
//!
//! Everything wrong is found in one run and told in file order; a plan comes out only when
//! nothing is. Unknown keys are errors: nothing is accepted and ignored. Besides the named
//! files, `file:` secrets, the environment, where the access log is to be and the addresses of
//! interfaces nothing outside is looked at, so `check` says the same on a machine without a ring.

use std::path::{Path, PathBuf};

pub mod address;
pub mod blank;
mod build;
mod build_auth;
mod build_http;
mod build_policy;
mod build_tls;
mod certificates;
mod circles;
pub mod code;
mod cross;
mod cross_http;
mod cross_log;
mod cross_policy;
mod fields;
pub mod include;
pub mod keys;
mod lint;
mod lint_http;
mod one_liner;
mod outline;
mod parse_json;
mod parse_toml;
pub mod plan;
mod plan_http;
pub mod read;
pub mod reference;
pub mod report;
pub mod schema;
mod seats;
mod shown;
mod snippet;
pub mod source;
mod synonyms;
pub mod table;
mod table_auth;
mod table_http;
mod table_policy;
mod table_process;
mod text_http;
mod text_policy;
mod tree;
pub mod units;
pub mod value;
mod walk;

pub use one_liner::one_liner;
pub use outline::Outline;
pub use report::Report;
pub use seats::TooMany;
pub use walk::{NAME_BYTES_MAX, is_name};

use fields::Fields;
use include::Reading;
use plan::Plan;
use report::Findings;
use source::{FileId, Place, Sources};
use tree::Table;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// Lints only; perhaps none.
    pub warnings: Report,
    /// The named file first, then what it includes, then those that `file:` names for secrets and
    /// bodies: what a watcher has to watch.
    pub files: Vec<PathBuf>,
    /// By which `include` may come to find more of them.
    pub patterns: Vec<PathBuf>,
    /// To tell what another one changes.
    pub outline: Outline,
}

/// Reads and checks one file and what it includes. Takes time with the size of the files (a
/// second for 16 MiB); never waits for anything but the disk.
///
/// # Errors
/// The report, with at least one error, when any of it cannot be used.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let mut reading = Reading::default();
    let root = reading.read(path);
    check(reading, root)
}

/// The files that [`load`] would read, and its patterns, whatever it would say of them.
#[must_use]
pub fn files(path: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut reading = Reading::default();
    let root = reading.read(path);
    let Reading { sources, mut found, mut paths, patterns, .. } = reading;
    paths.extend(walk(&sources, &mut found, root).1);
    (paths, patterns)
}

/// The same for text that is in no file yet; `name` decides the format and stands in messages.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &[u8]) -> Result<Loaded, Report> {
    let mut reading = Reading::default();
    let root = reading.read_text(Path::new(name), text.to_vec());
    check(reading, root)
}

fn check(reading: Reading, root: Table) -> Result<Loaded, Report> {
    let hash = reading.hash();
    let Reading { sources, mut found, mut paths, patterns, .. } = reading;
    if found.errors() > 0 && root.entries.is_empty() {
        // The file itself could not be read: it lacks nothing else.
        return Err(found.finish(sources));
    }
    let shown = shown::root(&root);
    let (fields, named) = walk(&sources, &mut found, root);
    paths.extend(named);
    let draft = build::Draft::new(&fields, &mut found);
    cross::check(&draft, &mut found);
    cross_http::check(&draft, &mut found);
    cross_policy::check(&draft, &mut found);
    cross_log::check(&draft, &mut found);
    certificates::check(&draft, &mut found);
    lint::check(&draft, &mut found);
    lint_http::check(&draft, &mut found);
    if found.errors() > 0 {
        return Err(found.finish(sources));
    }
    let outline = Outline::of(&fields, &sources);
    let plan = draft.into_plan(shown, hash);
    Ok(Loaded { plan, warnings: found.finish(sources), files: paths, patterns, outline })
}

/// What the files say, and the files that stand for some of the values.
fn walk(sources: &Sources, found: &mut Findings, root: Table) -> (Fields, Vec<PathBuf>) {
    let mut walk = walk::Walk { sources, found, hides: false, files: Vec::new() };
    let fields = walk.root(root, Place::top(FileId(0)));
    (fields, walk.files)
}

#[cfg(test)]
mod tests;
