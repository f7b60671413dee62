//! What the process says about itself on stderr: one sentence a line, naming the thing.
//!
//! A line never makes its caller wait: it goes through a bounded queue to a thread of its
//! own, because a terminal that is stopped or a pipe that nobody reads must not stop health
//! checks. What does not fit is counted, and said when there is room again. Sessions are not
//! logged here but in the access log. The journal gets no time and no word, for it has its own:
//! the level goes there as sd-daemon(3) says.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::clock;
use crate::config::plan::Level;

/// Lines that wait for stderr. A burst this long is a storm that nobody reads to the end.
const LINES_MAX: usize = 1_024;

/// Whoever started us wants no colour: `NO_COLOR` is set and not empty (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    says_no_color(std::env::var_os("NO_COLOR").as_deref())
}

fn says_no_color(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}

/// A handle that can be cloned into every task.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As a number.
    level: AtomicU8,
    sink: Sink,
    /// Stderr is the journal.
    journal: bool,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Sink {
    Queue(SyncSender<Line>),
    Memory(Mutex<Vec<String>>),
    Nowhere,
}

#[derive(Debug)]
enum Line {
    Text(String),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

impl Log {
    /// Writes lines of `level` and graver to stderr. Colour only on a terminal, and not if
    /// `NO_COLOR` is set.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        let (sender, receiver) = sync_channel(LINES_MAX);
        let started = std::thread::Builder::new().name("log".into()).spawn(move || run(&receiver));
        // Without a thread there is no log, and the process will not get far either.
        let sink = if started.is_ok() { Sink::Queue(sender) } else { Sink::Nowhere };
        Self::with(level, sink)
    }

    /// Says nothing: for an embedding that shows events itself.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::with(Level::Error, Sink::Nowhere)
    }

    /// Keeps every line, for tests: see [`Log::lines`].
    #[must_use]
    pub fn memory() -> Self {
        Self::with(Level::Debug, Sink::Memory(Mutex::default()))
    }

    fn with(level: Level, sink: Sink) -> Self {
        let level = AtomicU8::new(level as u8);
        let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
        Self(Arc::new(Inner { level, sink, journal, dropped: AtomicU64::new(0) }))
    }

    /// From now on lines of `level` and graver.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    pub fn error(&self, text: impl Display) {
        self.say(Level::Error, text);
    }

    pub fn warn(&self, text: impl Display) {
        self.say(Level::Warn, text);
    }

    pub fn info(&self, text: impl Display) {
        self.say(Level::Info, text);
    }

    pub fn debug(&self, text: impl Display) {
        self.say(Level::Debug, text);
    }

    /// What [`Log::memory`] kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match &self.0.sink {
            Sink::Memory(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Queue(_) | Sink::Nowhere => Vec::new(),
        }
    }

    /// Waits until what was said is written, at most `deadline`.
    pub fn flush(&self, deadline: Duration) {
        if let Sink::Queue(sender) = &self.0.sink {
            let (done, written) = sync_channel(1);
            if sender.try_send(Line::Flush(done)).is_ok() {
                let _ = written.recv_timeout(deadline);
            }
        }
    }

    fn line(&self, level: Level, text: impl Display) -> Line {
        Line::Text(if self.0.journal { journal_lines(level, text) } else { line(level, text) })
    }

    fn say(&self, level: Level, text: impl Display) {
        if level as u8 > self.0.level.load(Ordering::Relaxed) {
            return;
        }
        match &self.0.sink {
            Sink::Nowhere => {}
            Sink::Memory(lines) => lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("{}: {text}", word(level))),
            Sink::Queue(sender) => {
                let lost = self.0.dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let text = format!("{lost} log lines were lost: stderr did not take them");
                    if sender.try_send(self.line(Level::Warn, text)).is_err() {
                        self.0.dropped.fetch_add(lost, Ordering::Relaxed);
                    }
                }
                if sender.try_send(self.line(level, text)).is_err() {
                    self.0.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

fn line(level: Level, text: impl Display) -> String {
    let colour = std::io::stderr().is_terminal() && !no_color();
    let (on, off) = match level {
        _ if !colour => ("", ""),
        Level::Error => ("\x1b[31m", "\x1b[0m"),
        Level::Warn => ("\x1b[33m", "\x1b[0m"),
        Level::Info | Level::Debug => ("\x1b[2m", "\x1b[0m"),
    };
    format!("{} {on}{:<5}{off} {text}\n", clock::rfc3339(SystemTime::now()), word(level))
}

/// Whether stderr is the stream of the journal that `variable` names (systemd.exec(5)): somebody
/// may have led it elsewhere since.
fn is_journal(variable: Option<&str>) -> bool {
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    variable == Some(&format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Each line with its priority (syslog(3)).
fn journal_lines(level: Level, text: impl Display) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug => 7,
    };
    let text = text.to_string();
    let lines: Vec<_> = text.lines().map(|line| format!("<{priority}>{line}\n")).collect();
    lines.concat()
}

fn run(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        match line {
            // Nobody can be told that stderr is gone.
            Line::Text(text) => drop(std::io::stderr().write_all(text.as_bytes())),
            Line::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_no_color_asks_for_nothing() {
        assert!(says_no_color(Some(OsStr::new("1"))));
        assert!(!says_no_color(Some(OsStr::new(""))) && !says_no_color(None));
    }

    #[test]
    fn the_journal_gets_the_level_of_each_line_and_neither_time_nor_word() {
        assert_eq!(journal_lines(Level::Error, "a\nb"), "<3>a\n<3>b\n");
        assert_eq!(journal_lines(Level::Info, "ready"), "<6>ready\n");
        let stderr = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stderr.dev(), stderr.ino()))));
        assert!(!is_journal(Some(&format!("{}:{}", stderr.dev(), stderr.ino() + 1))));
        assert!(!is_journal(None));
    }

    #[test]
    fn lines_below_the_level_are_not_said() {
        let log = Log::with(Level::Warn, Sink::Memory(Mutex::default()));
        log.info("server pg/pg1 is up");
        log.warn("server pg/pg1 is down: refused");
        assert_eq!(log.lines(), ["warn: server pg/pg1 is down: refused"]);
    }
}
