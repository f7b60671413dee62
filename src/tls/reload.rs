//! Certificate files that change under a running process.
//!
//! Polled by the control thread, about once a second: files are looked at by size and time, and
//! read only when those differ or are too young to be trusted. A good new set replaces the old;
//! a bad one (a certificate without its key yet, half a file) is reported once and the old
//! stays, until the files change again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::certificates::{self, LoadError};
use super::server::ServerTls;
use super::upstream::ClientTls;
use super::{Digest, sha256};
use crate::config::plan::Pem;

/// Something built out of files.
pub trait Reloadable: Sized {
    /// Its files as they were before it read them: what changed since is news.
    fn stamps(&self) -> Vec<Stamp>;

    /// # Errors
    ///
    /// A file that cannot be used; `self` goes on to serve.
    fn rebuild(&self) -> Result<Self, LoadError>;
}

impl Reloadable for ServerTls {
    fn stamps(&self) -> Vec<Stamp> {
        self.stamps().to_vec()
    }

    fn rebuild(&self) -> Result<Self, LoadError> {
        self.rebuild()
    }
}

impl Reloadable for ClientTls {
    fn stamps(&self) -> Vec<Stamp> {
        self.stamps().to_vec()
    }

    fn rebuild(&self) -> Result<Self, LoadError> {
        self.rebuild()
    }
}

/// One thing and its files.
#[derive(Debug)]
pub struct Watched<T> {
    current: Arc<T>,
    files: Vec<Stamp>,
}

/// What one look at the files found.
#[derive(Debug)]
pub enum Found<T> {
    Unchanged,
    /// To be given to all workers; connections keep what they have.
    Fresh(Arc<T>),
    /// The files changed and cannot be used: the old set stays.
    Kept(LoadError),
}

impl<T: Reloadable> Watched<T> {
    #[must_use]
    pub fn new(current: Arc<T>) -> Self {
        let files = current.stamps();
        Self { current, files }
    }

    /// What is in use.
    #[must_use]
    pub const fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Looks once. Reads files, so it may wait for the disk.
    pub fn poll(&mut self) -> Found<T> {
        // All of them, also after the first that changed: each is to be seen as it is before the
        // build reads it, so that a change during the build is found the next time.
        let changed = self.files.iter_mut().map(Stamp::renew).filter(|changed| *changed).count();
        if changed == 0 {
            return Found::Unchanged;
        }
        match self.current.rebuild() {
            Ok(fresh) => {
                self.current = Arc::new(fresh);
                Found::Fresh(Arc::clone(&self.current))
            }
            Err(error) => Found::Kept(error),
        }
    }
}

/// A file as it was last seen.
#[derive(Clone, Debug)]
pub struct Stamp {
    path: PathBuf,
    meta: Option<Meta>,
    /// `None`: it could not be read.
    content: Option<Digest>,
    /// The time of change was long enough ago, when we read, for a later one to show.
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    modified: SystemTime,
    len: u64,
}

impl Stamp {
    /// Each file as it is now.
    pub(super) fn of_all(files: Vec<PathBuf>) -> Vec<Self> {
        files.into_iter().map(Self::of).collect()
    }

    /// Whose it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn of(path: PathBuf) -> Self {
        let mut stamp = Self { path, meta: None, content: None, settled: false };
        stamp.renew();
        stamp
    }

    /// Whether the content is another than at the last look.
    fn renew(&mut self) -> bool {
        /// Clocks of file systems tick in up to 2 seconds; two changes in one tick look like one.
        const TICK: Duration = Duration::from_secs(2);
        let meta = Meta::of(&self.path);
        if self.settled && meta == self.meta {
            return false;
        }
        let age = meta.and_then(|meta| SystemTime::now().duration_since(meta.modified).ok());
        let content = certificates::bytes(&Pem::File(self.path.clone()));
        let content = content.ok().map(|bytes| sha256(&bytes));
        let changed = content != self.content;
        self.settled = content.is_some() && age.is_some_and(|age| age > TICK);
        self.meta = meta;
        self.content = content;
        changed
    }
}

impl Meta {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok()?, len: metadata.len() })
    }
}
