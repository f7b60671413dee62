//! Reading files the operator named: regular files only, bounded, never waiting.
//!
//! A pipe must not hang a reload, a device must not fill the memory, and a path may be swapped
//! between a look and a read; so the file is opened without blocking, and what was opened is
//! asked what it is. Secrets in files and in the environment are read here too.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::code::{self, Code};

/// A configuration file: room for 100,000 entries of 160 bytes.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// A file with a secret: a token or a password, not a document.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub code: Code,
    /// A clause that follows the file's name, for example "is a directory".
    pub clause: String,
}

/// All bytes of a regular file of at most `bytes_max`.
///
/// # Errors
/// A missing or forbidden file, anything that is not a regular file, and larger ones.
pub fn bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > bytes_max {
        let clause = format!("is larger than {} KiB", bytes_max >> 10);
        return Err(ReadError { code: code::TOO_LARGE, clause });
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, ReadError> {
    // O_NONBLOCK: opening a pipe without a writer would wait for one. O_NOCTTY: a terminal
    // must not become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        // A socket cannot be opened at all (ENXIO); say what it is.
        Err(error) => return Err(odd_kind(path).unwrap_or_else(|| unreadable(&error))),
    };
    let kind = file.metadata().map_err(|error| unreadable(&error))?.file_type();
    match not_regular(kind) {
        Some(what) => Err(not_a_file(what)),
        None => Ok(file),
    }
}

fn odd_kind(path: &Path) -> Option<ReadError> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    not_regular(kind).map(not_a_file)
}

fn not_regular(kind: std::fs::FileType) -> Option<&'static str> {
    match kind {
        k if k.is_file() => None,
        k if k.is_dir() => Some("a directory"),
        k if k.is_fifo() => Some("a pipe"),
        k if k.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

fn not_a_file(what: &str) -> ReadError {
    ReadError { code: code::NOT_A_FILE, clause: format!("is {what}, not a regular file") }
}

fn unreadable(error: &std::io::Error) -> ReadError {
    let clause = match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    ReadError { code: code::UNREADABLE, clause }
}

/// Where a secret is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// `env:NAME`
    Environment(String),
    /// `file:/path`, already joined to the directory of the naming file.
    File(PathBuf),
    /// In the configuration itself.
    Plain(String),
}

impl SecretFrom {
    #[must_use]
    pub fn parse(text: &str, dir: &Path) -> Self {
        if let Some(name) = text.strip_prefix("env:") {
            Self::Environment(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:") {
            Self::File(dir.join(path))
        } else {
            Self::Plain(text.to_owned())
        }
    }

    /// The secret itself.
    ///
    /// # Errors
    /// A clause that continues "`token` …"; it never has the secret in it.
    pub fn fetch(&self) -> Result<String, String> {
        let text = match self {
            Self::Plain(text) => text.clone(),
            Self::Environment(name) => from_environment(name)?,
            Self::File(path) => {
                let named = |clause: &str| format!("is in {}, which {clause}", path.display());
                let bytes = bytes(path, SECRET_BYTES_MAX).map_err(|error| named(&error.clause))?;
                let mut text = String::from_utf8(bytes).map_err(|_| named("is not UTF-8 text"))?;
                // One newline, as editors and `echo` leave it; more belong to the secret.
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                text
            }
        };
        if text.is_empty() { Err("is an empty secret".to_owned()) } else { Ok(text) }
    }
}

fn from_environment(name: &str) -> Result<String, String> {
    // `var_os` may panic on names that no environment can hold.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("names no environment variable: \"env:{}\"", name.escape_debug()));
    }
    match std::env::var(name) {
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotPresent) => {
            Err(format!("needs the environment variable {name}, which is not set"))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("needs the environment variable {name}, which is not UTF-8 text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_nothing_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "x = 1").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        for (name, clause) in [
            ("pipe", "is a pipe, not a regular file"),
            ("zero", "is a device, not a regular file"),
            ("socket", "is a socket, not a regular file"),
            (".", "is a directory, not a regular file"),
        ] {
            let error = bytes(&at(name), 100).unwrap_err();
            assert_eq!((error.code, error.clause.as_str()), (code::NOT_A_FILE, clause));
        }
        assert_eq!(bytes(&at("none"), 100).unwrap_err().code, code::UNREADABLE);
        assert_eq!(bytes(&at("link"), 5).unwrap(), b"x = 1");
        assert_eq!(bytes(&at("link"), 4).unwrap_err().code, code::TOO_LARGE);
    }

    #[test]
    fn one_newline_is_cut_from_a_secret_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "abc\n\n").unwrap();
        assert_eq!(SecretFrom::parse("file:s", dir.path()).fetch().unwrap(), "abc\n");
    }

    #[test]
    fn a_secret_that_is_not_there_is_an_error() {
        let dir = Path::new("/");
        for text in ["env:SLUICEGATE_TEST_NEVER_SET", "env:", "env:A=B", "file:/none", ""] {
            assert!(SecretFrom::parse(text, dir).fetch().is_err(), "{text}");
        }
    }
}
