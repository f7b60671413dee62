//! The access log: one line for each ended session or request.
//!
//! Workers leave fixed-size records in bounded queues; a thread of the log's own turns them
//! into lines and writes them through `io_uring`, or where that is refused by a blocking thread.
//! Its own, because a ring under tokio submits only when its thread has nothing else to do, and
//! the control thread may always have. The log may be late or lose lines, it never makes a
//! session wait:
//!
//! - A1: one write is in flight at a time, so lines keep their order and are never mixed.
//! - A2: a write that takes longer than [`WRITE_DEADLINE`] means the log is stalled. From
//!   then until it completes, records are counted as dropped and thrown away.
//! - A3: a failed write (a full disk) loses its lines, which are counted; the next batch is
//!   tried anew, and a torn line is ended first. Said once on stderr, not once a line.
//! - A4: the file is opened anew between two writes, and a write is whole lines; so each line is
//!   in one file, the old or the new one.
//! - A5: opening a pipe waits for nobody: one without a reader is an error. Nor does the end of
//!   the process wait for this thread past [`FINISH_DEADLINE`], whatever the thread waits for.

use std::fs::{File as StdFile, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::{Notify, oneshot};

use super::clock::WallClock;
use super::lines::LineFormat;
use super::logger::Log;
use super::record::SessionRecord;
use super::requests::RequestRecord;
use crate::config::plan;
use crate::registry::Snapshot;
use crate::runtime::async_runtime::AsyncRuntime;
use crate::runtime::worker::Shared;
use file::{LogFile, Written};

mod file;

/// A write that takes longer is a log that does not take lines.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(1);

/// How long the end of the process waits for the thread: what it allows itself, and as long again
/// for a disk that lets it wait.
const FINISH_DEADLINE: Duration = WRITE_DEADLINE.saturating_mul(2);

/// How often the queues are emptied: often enough that 8,192 places are a second's worth at
/// 80,000 sessions, seldom enough that an idle process sleeps.
const PERIOD: Duration = Duration::from_millis(100);
/// The same while a queue was found a quarter full.
const PERIOD_BUSY: Duration = Duration::from_millis(20);

/// Bytes of finished lines that wait for the write before them. About 4,000 lines.
const PENDING_MAX: usize = 1 << 20;

/// What the log has lost, for status and metrics.
#[derive(Debug, Default)]
pub struct LogState {
    pub dropped: AtomicU64,
    pub stalled: AtomicBool,
    reopen: Notify,
}

impl LogState {
    /// Asks for the file to be opened anew by what the current plan says: somebody has renamed it,
    /// or a new plan has another one. Returns at once; done when no write is in flight. If it
    /// cannot be opened, the old one goes on to be written.
    pub fn reopen(&self) {
        self.reopen.notify_one();
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Target {
    file: StdFile,
    /// What is there ends in the middle of a line: whoever wrote it was killed.
    torn: bool,
}

/// Opens what the plan says, before anything is served: a log that cannot be opened is an
/// error at start. `None`: off.
///
/// # Errors
/// open(2)'s or dup(2)'s.
pub fn open(access: &plan::AccessLog) -> io::Result<Option<Target>> {
    match access {
        plan::AccessLog::Off => Ok(None),
        plan::AccessLog::Stdout => {
            let file = StdFile::from(io::stdout().as_fd().try_clone_to_owned()?);
            Ok(Some(Target { file, torn: false }))
        }
        plan::AccessLog::File(path) => {
            let file = open_at_once(StdFile::options().append(true).create(true), path)?;
            let torn = file.metadata()?.is_file() && ends_within_a_line(path);
            Ok(Some(Target { file, torn }))
        }
    }
}

/// Opens without waiting for the other side of a pipe (A5). What is open then waits as any other
/// file: the stall clock sees it.
fn open_at_once(options: &mut OpenOptions, path: &Path) -> io::Result<StdFile> {
    let file = options.custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Why [`open`] failed, in a sentence that says what to do.
#[must_use]
pub fn explain(access: &plan::AccessLog, error: &io::Error) -> String {
    let plan::AccessLog::File(path) = access else {
        return format!("the access log cannot be opened: {error}");
    };
    let remedy = match error.kind() {
        // fifo(7), of a pipe; unix(7), of a socket's file.
        _ if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
            "it is a pipe that nobody reads, so start its reader first"
        }
        io::ErrorKind::NotFound => "make the directory that it is in",
        io::ErrorKind::PermissionDenied => "let the user that this runs as write there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        _ => "name a file that can be written",
    };
    let path = path.display();
    format!(
        "the access log {path} cannot be opened: {error}; {remedy}, or set `access` of `[log]` to \
         another file, \"stdout\" or \"off\""
    )
}

/// Whether the last byte is none that ends a line. A file that may be written and not read is
/// taken to be whole.
fn ends_within_a_line(path: &Path) -> bool {
    let mut last = [b'\n'];
    let read = open_at_once(StdFile::options().read(true), path).and_then(|mut file| {
        file.seek(io::SeekFrom::End(-1))?;
        file.read_exact(&mut last)
    });
    read.is_ok() && last != [b'\n']
}

/// Finished lines.
#[derive(Debug, Default)]
struct Batch {
    text: String,
    lines: u64,
}

struct Writing {
    work: Pin<Box<dyn Future<Output = Written>>>,
    started: Instant,
}

/// The running log.
#[derive(Debug)]
pub struct AccessLog {
    /// Dropped to stop.
    stop: oneshot::Sender<()>,
    /// Says at first how the start went; closed when the thread has ended.
    thread: Receiver<io::Result<()>>,
}

impl AccessLog {
    /// Starts the thread. `file` is what [`open`] returned, `snapshot` gives the current one.
    ///
    /// # Errors
    /// When the thread or its ring cannot be made.
    pub fn start(
        shared: Arc<Shared>,
        file: Option<Target>,
        state: Arc<LogState>,
        log: Log,
        snapshot: impl Fn() -> Arc<Snapshot> + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, thread) = sync_channel(1);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let runtime = match AsyncRuntime::new(shared.engine) {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Whoever started us waits for this.
            let _ = ready.send(Ok(()));
            let writer = Writer::new(shared, file, state, log);
            let clean = runtime.block_on(writer.run(snapshot, async { drop(stopped.await) }));
            // A write that nobody takes would keep its end waiting for ever.
            if clean {
                runtime.finish();
            } else {
                runtime.abandon();
            }
            drop(ready);
        })?;
        thread.recv().unwrap_or_else(|_| Err(io::Error::other("the log died at its start")))?;
        Ok(Self { stop, thread })
    }

    /// Writes what is left, for at most [`WRITE_DEADLINE`]. Blocks, for no longer than
    /// [`FINISH_DEADLINE`].
    pub fn finish(self) {
        drop(self.stop);
        // It says nothing more. A panic there has been printed, and a thread that waits for a
        // disk that is gone ends with the process: there is nothing to save.
        let _ = self.thread.recv_timeout(FINISH_DEADLINE);
    }
}

/// The task that writes.
struct Writer {
    shared: Arc<Shared>,
    state: Arc<LogState>,
    log: Log,
    /// `None`: the log is off, records are only thrown away.
    file: Option<LogFile>,
    format: LineFormat,
    pending: Batch,
    writing: Option<Writing>,
    /// The last write failed: already said.
    failing: bool,
    /// The last write ended in the middle of a line.
    torn: bool,
    /// The file is to be opened anew.
    reopens: bool,
}

impl Writer {
    fn new(shared: Arc<Shared>, target: Option<Target>, state: Arc<LogState>, log: Log) -> Self {
        let mut writer = Self {
            shared,
            state,
            log,
            file: None,
            format: LineFormat::default(),
            pending: Batch::default(),
            writing: None,
            failing: false,
            torn: false,
            reopens: false,
        };
        writer.use_target(target);
        writer
    }

    fn use_target(&mut self, target: Option<Target>) {
        self.torn = target.as_ref().is_some_and(|target| target.torn);
        let engine = self.shared.engine;
        self.file = target.map(|target| LogFile::new(target.file, engine));
    }

    /// Writes until `stop` resolves, then what is left, for at most [`WRITE_DEADLINE`].
    /// `snapshot` gives the current one, for names. `true`: nothing is left in flight.
    async fn run(
        mut self,
        snapshot: impl Fn() -> Arc<Snapshot>,
        stop: impl Future<Output = ()>,
    ) -> bool {
        let state = Arc::clone(&self.state);
        let mut stop = std::pin::pin!(stop);
        let mut period = PERIOD;
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(period) => period = self.collect(&snapshot),
                written = finished(&mut self.writing) => self.on_written(written),
                () = state.reopen.notified() => self.reopens = true,
            }
            self.reopen(&snapshot());
            self.submit_write();
        }
        self.finish(&snapshot).await
    }

    /// A4. Opening may wait for a disk; this thread has nothing else to do.
    fn reopen(&mut self, snapshot: &Snapshot) {
        if !self.reopens || self.writing.is_some() {
            return;
        }
        self.reopens = false;
        let access = &snapshot.plan.log.access;
        match open(access) {
            Ok(target) => {
                if target.is_none() {
                    // Where they were to go is no log any more, and another is not theirs.
                    self.drop_pending();
                }
                self.use_target(target);
            }
            Err(error) => self.log.error(format_args!(
                "{}; until then lines go where they went before",
                explain(access, &error)
            )),
        }
    }

    async fn finish(&mut self, snapshot: &impl Fn() -> Arc<Snapshot>) -> bool {
        let deadline = tokio::time::Instant::now() + WRITE_DEADLINE;
        loop {
            self.collect(snapshot);
            self.submit_write();
            if self.writing.is_none() {
                return true;
            }
            let next = finished(&mut self.writing);
            let Ok(written) = tokio::time::timeout_at(deadline, next).await else {
                self.drop_pending();
                return false;
            };
            self.on_written(written);
        }
    }

    /// Empties the queues into lines. Returns when to come back.
    fn collect(&mut self, snapshot: &impl Fn() -> Arc<Snapshot>) -> Duration {
        self.notice_stall();
        let mut fullest = 0;
        let sessions = take_all(&self.shared.records, &mut fullest);
        let requests = take_all(&self.shared.requests, &mut fullest);
        if self.file.is_some() && !(sessions.is_empty() && requests.is_empty()) {
            // Of after the queues: nobody writes of a listener that it does not have.
            let snapshot = snapshot();
            self.format.update(&snapshot);
            if self.state.stalled.load(Ordering::Relaxed) || self.pending.text.len() > PENDING_MAX {
                let logged = sessions.iter().filter(|record| {
                    snapshot.plan.listeners[usize::from(record.listener.0)].access_log
                });
                let lost = logged.count() + requests.len();
                self.state.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            } else {
                self.append(&sessions, &requests);
            }
        }
        let quarter = crate::runtime::worker::RECORDS_MAX / 4;
        if fullest >= quarter { PERIOD_BUSY } else { PERIOD }
    }

    fn append(&mut self, sessions: &[SessionRecord], requests: &[RequestRecord]) {
        let clock = WallClock::read();
        for record in sessions {
            let logged = self.format.write(record, clock, &mut self.pending.text);
            self.pending.lines += u64::from(logged);
        }
        for record in requests {
            self.format.write_request(record, clock, &mut self.pending.text);
        }
        self.pending.lines += requests.len() as u64;
    }

    /// A2.
    fn notice_stall(&mut self) {
        let late = self.writing.as_ref().is_some_and(|w| w.started.elapsed() > WRITE_DEADLINE);
        if late && !self.state.stalled.swap(true, Ordering::Relaxed) {
            self.log
                .error("log stalled: the access log takes no lines; they are dropped and counted");
            self.drop_pending();
        }
    }

    fn drop_pending(&mut self) {
        let lost = std::mem::take(&mut self.pending).lines;
        self.state.dropped.fetch_add(lost, Ordering::Relaxed);
    }

    fn submit_write(&mut self) {
        let (Some(file), None) = (&self.file, &self.writing) else { return };
        if self.pending.text.is_empty() {
            return;
        }
        let mut text = std::mem::take(&mut self.pending).text;
        if std::mem::take(&mut self.torn) {
            text.insert(0, '\n');
        }
        let work = Box::pin(file.clone().write_all(text.into_bytes()));
        self.writing = Some(Writing { work, started: Instant::now() });
    }

    fn on_written(&mut self, (bytes, taken, result): Written) {
        self.writing = None;
        if self.state.stalled.swap(false, Ordering::Relaxed) {
            let lost = self.state.dropped.load(Ordering::Relaxed);
            self.log.warn(format_args!("the access log takes lines again; {lost} lost in all"));
        }
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                let lost = self.state.dropped.load(Ordering::Relaxed);
                self.log.warn(format_args!("the access log is written again; {lost} lost in all"));
            }
            Ok(()) => {}
            Err(error) => {
                // No line is empty: this one ends what another write has left.
                let mended = bytes.first() == Some(&b'\n');
                let lines = &bytes[taken.max(usize::from(mended))..];
                #[allow(clippy::naive_bytecount)] // only after a failure
                let lost = lines.iter().filter(|&&byte| byte == b'\n').count();
                self.state.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                self.torn = if taken == 0 { mended } else { bytes[taken - 1] != b'\n' };
                if !std::mem::replace(&mut self.failing, true) {
                    self.log.error(format_args!(
                        "the access log cannot be written ({error}); lines are lost and counted \
                         until it can"
                    ));
                }
            }
        }
    }
}

/// What is in the queues now, and not what comes meanwhile: a worker may fill them as fast as we
/// empty them. `fullest` grows to the length of the longest.
fn take_all<T>(queues: &[ArrayQueue<T>], fullest: &mut usize) -> Vec<T> {
    let mut taken = Vec::new();
    for queue in queues {
        let length = queue.len();
        *fullest = (*fullest).max(length);
        taken.extend((0..length).map_while(|_| queue.pop()));
    }
    taken
}

/// The write in flight; pends for ever if there is none.
async fn finished(writing: &mut Option<Writing>) -> Written {
    match writing {
        Some(writing) => writing.work.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
