//! `runtime.watch`: a reload when the files of the configuration change, those that `file:` names
//! for secrets and bodies among them.
//!
//! Looked at once a second, by inode, size and time, with whatever the patterns of `include` find
//! by then. A change is acted upon when it has stayed the same for one more look, so that a file
//! is not read while it is being written.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::Command;
use super::commands::Teller;
use super::desk::Desk;
use super::reload::Reloader;
use crate::config::include::found_by;

const PERIOD: Duration = Duration::from_secs(1);

/// What is known of a file without reading it.
type Stamp = (PathBuf, Option<(u64, u64, i64, i64)>);

/// Watches for ever, while the configuration says so.
pub(super) async fn watch(desk: Rc<Desk>, reloader: Rc<Reloader>, commands: Teller) {
    let mut known: Option<Vec<Stamp>> = None;
    let mut changed: Option<Vec<Stamp>> = None;
    let mut period = Duration::ZERO;
    loop {
        sleep(std::mem::replace(&mut period, PERIOD)).await;
        let (files, patterns) = reloader.files();
        if !desk.instance.plan().runtime.watch || files.is_empty() {
            (known, changed) = (None, None);
            continue;
        }
        // It panicked: a defect, which has been printed.
        let Ok(now) = tokio::task::spawn_blocking(move || look(&files, &patterns)).await else {
            return;
        };
        match &known {
            None => known = Some(now),
            Some(before) if *before == now => changed = None,
            Some(_) if changed.as_ref() == Some(&now) => {
                (known, changed) = (Some(now), None);
                desk.log.info("the configuration files have changed");
                // Full: a reload is coming anyway.
                let _ = commands.try_send(Command::Reload(None));
            }
            Some(_) => changed = Some(now),
        }
    }
}

/// The files, and what the patterns find now.
fn look(files: &[PathBuf], patterns: &[PathBuf]) -> Vec<Stamp> {
    let mut all: BTreeSet<PathBuf> = files.iter().cloned().collect();
    // A directory that is gone has lost its files, which shows.
    all.extend(patterns.iter().filter_map(|pattern| found_by(pattern).ok()).flatten());
    all.into_iter().map(stamp).collect()
}

fn stamp(path: PathBuf) -> Stamp {
    let of = |meta: std::fs::Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    let stamp = std::fs::metadata(&path).ok().map(of);
    (path, stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_new_and_a_lost_file_are_seen_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main.toml");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        let part = dir.path().join("conf.d/a.toml");
        std::fs::write(&main, "1").unwrap();
        std::fs::write(&part, "1").unwrap();
        let files = [main.clone(), part.clone()];
        std::fs::create_dir(dir.path().join("empty.d")).unwrap();
        let patterns = [dir.path().join("conf.d/*.toml"), dir.path().join("empty.d/*.conf")];
        let look = || look(&files, &patterns);
        let mut last = look();
        assert_eq!(last, look());
        std::fs::write(dir.path().join("access.log"), "x").unwrap();
        std::fs::write(dir.path().join("conf.d/notes.txt"), "x").unwrap();
        std::fs::write(dir.path().join("empty.d/a.toml"), "x").unwrap();
        assert_eq!(last, look());
        let mut differs = |what: &str| {
            let now = look();
            assert_ne!(last, now, "{what}");
            last = now;
        };
        std::fs::write(&main, "12").unwrap();
        differs("another size");
        std::fs::write(dir.path().join("conf.d/b.toml"), "1").unwrap();
        differs("one more");
        std::fs::write(dir.path().join("empty.d/a.conf"), "1").unwrap();
        differs("the first that a pattern finds");
        std::fs::remove_file(&part).unwrap();
        differs("one less");
        std::fs::write(dir.path().join("new"), "12").unwrap();
        std::fs::rename(dir.path().join("new"), &main).unwrap();
        differs("another inode of the same size");
    }
}
