//! `runtime.watch`: a reload when the configuration files change.
//!
//! Looked at once a second, by inode, size and time. A change is acted upon when it has stayed
//! the same for one more look, so that a file is not read while it is being written.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Command;
use super::desk::Desk;
use super::reload::Reloader;

const PERIOD: Duration = Duration::from_secs(1);

/// What is known of a file without reading it.
type Stamp = (PathBuf, Option<(u64, u64, i64, i64)>);

/// Watches for ever, while the configuration says so.
pub(super) async fn watch(desk: Rc<Desk>, reloader: Rc<Reloader>, commands: mpsc::Sender<Command>) {
    let mut known: Option<Vec<Stamp>> = None;
    let mut changed: Option<Vec<Stamp>> = None;
    let mut period = Duration::ZERO;
    loop {
        sleep(std::mem::replace(&mut period, PERIOD)).await;
        let files = reloader.files();
        if !desk.instance.plan().runtime.watch || files.is_empty() {
            (known, changed) = (None, None);
            continue;
        }
        // It panicked: a defect, which has been printed.
        let Ok(now) = tokio::task::spawn_blocking(move || look(&files)).await else { return };
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

/// The files, and what else stands in the directories of those that are included.
fn look(files: &[PathBuf]) -> Vec<Stamp> {
    let dirs: BTreeSet<&Path> = files.iter().skip(1).filter_map(|file| file.parent()).collect();
    let listed = dirs.into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let is_configuration =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "toml" || end == "json");
    let mut all: BTreeSet<PathBuf> = files.iter().cloned().collect();
    all.extend(listed.map(|entry| entry.path()).filter(is_configuration));
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
        let mut last = look(&files);
        assert_eq!(last, look(&files));
        std::fs::write(dir.path().join("access.log"), "x").unwrap();
        std::fs::write(dir.path().join("conf.d/notes.txt"), "x").unwrap();
        assert_eq!(last, look(&files));
        let mut differs = |what: &str| {
            let now = look(&files);
            assert_ne!(last, now, "{what}");
            last = now;
        };
        std::fs::write(&main, "12").unwrap();
        differs("another size");
        std::fs::write(dir.path().join("conf.d/b.toml"), "1").unwrap();
        differs("one more");
        std::fs::remove_file(&part).unwrap();
        differs("one less");
        std::fs::write(dir.path().join("new"), "12").unwrap();
        std::fs::rename(dir.path().join("new"), &main).unwrap();
        differs("another inode of the same size");
    }
}
