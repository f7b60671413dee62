//! What becomes of records when the log is written, and when nobody takes it.

use std::io::Read;
use std::net::SocketAddr;

use super::*;
use crate::control::fixture;
use crate::control::membership::Membership;
use crate::observe::lines::tests::{request, session};
use crate::runtime::engine::Engine;

fn snapshot() -> Arc<Snapshot> {
    let plan = fixture::plan(&[SocketAddr::from(([127, 0, 0, 1], 80))]);
    Membership::plain(&Arc::new(plan)).snapshot()
}

fn shared(engine: Engine, records: usize) -> Arc<Shared> {
    let shared = Shared::new(&fixture::plan(&[]), &[None], engine).unwrap();
    for _ in 0..records {
        shared.records[0].push(session()).unwrap();
    }
    Arc::new(shared)
}

/// Runs a writer over `file` with `records` in the queue until `done`, then stops it.
fn write(
    file: Target,
    shared: &Arc<Shared>,
    done: impl Fn(&LogState) -> bool + 'static,
) -> (Arc<LogState>, Log, bool) {
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let runtime = AsyncRuntime::new(shared.engine).unwrap();
    let writer = Writer::new(shared.clone(), Some(file), state.clone(), log.clone());
    let snapshot = snapshot();
    let clean = runtime.block_on(async {
        let (stop, stopped) = oneshot::channel::<()>();
        let watched = state.clone();
        tokio::task::spawn_local(async move {
            let until = Instant::now() + Duration::from_secs(10);
            while !done(&watched) {
                assert!(Instant::now() < until, "never came to that");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(stop);
        });
        let stop = async { drop(stopped.await) };
        writer.run(|| snapshot.clone(), stop).await
    });
    if clean {
        runtime.finish();
    } else {
        runtime.abandon();
    }
    (state, log, clean)
}

fn every_record_of_sessions_and_requests_becomes_a_line_in_the_file(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let file = open(&plan::AccessLog::File(path.clone())).unwrap().unwrap();
    let shared = shared(engine, 1_000);
    for _ in 0..100 {
        shared.requests[0].push(request()).unwrap();
    }
    let (state, _, clean) = write(file, &shared, |_| true);
    assert!(clean);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 1_100);
    assert_eq!(text.lines().filter(|line| line.contains("\"request_id\"")).count(), 100);
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert_eq!(state.dropped.load(Ordering::Relaxed), 0);
}

fn a_full_disk_loses_lines_counts_them_and_says_so_once(engine: Engine) {
    let file =
        Target { file: StdFile::options().write(true).open("/dev/full").unwrap(), torn: false };
    let shared = shared(engine, 10);
    let again = shared.clone();
    let refilled = AtomicBool::new(false);
    let (state, log, clean) = write(file, &shared, move |state| {
        let dropped = state.dropped.load(Ordering::Relaxed);
        if dropped == 10 && !refilled.swap(true, Ordering::Relaxed) {
            for _ in 0..5 {
                again.records[0].push(session()).unwrap();
            }
        }
        dropped == 15
    });
    assert!(clean);
    assert_eq!(state.dropped.load(Ordering::Relaxed), 15);
    assert_eq!(log.lines().len(), 1, "{:?}", log.lines());
    assert!(log.lines()[0].contains("No space left"), "{:?}", log.lines());
}

fn a_reader_that_stops_makes_the_log_stalled_and_nothing_waits(engine: Engine) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let file = StdFile::from(std::os::fd::OwnedFd::from(writer));
    let file = Target { file, torn: false };
    let shared = shared(engine, 2_000); // more than a pipe's 64 KiB
    let again = shared.clone();
    let (state, log, clean) = write(file, &shared, move |state| {
        let _ = again.records[0].push(session());
        state.stalled.load(Ordering::Relaxed) && state.dropped.load(Ordering::Relaxed) > 0
    });
    assert!(!clean);
    assert!(state.stalled.load(Ordering::Relaxed));
    assert!(log.lines()[0].contains("log stalled"), "{:?}", log.lines());
    let mut some = [0; 4_096];
    assert_eq!(reader.read(&mut some).unwrap(), some.len());
}

/// A snapshot whose log is the file `path`.
fn snapshot_with(path: &Path) -> Arc<Snapshot> {
    let mut plan = fixture::plan(&[SocketAddr::from(([127, 0, 0, 1], 80))]);
    plan.log.access = plan::AccessLog::File(path.to_owned());
    Membership::plain(&Arc::new(plan)).snapshot()
}

fn a_file_that_is_renamed_again_and_again_loses_and_doubles_no_line(engine: Engine) {
    const LINES: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let (shared, snapshot) = (shared(engine, 0), snapshot_with(&path));
    let file = open(&snapshot.plan.log.access).unwrap();
    let names = snapshot.clone();
    let running =
        AccessLog::start(shared.clone(), file, state.clone(), log.clone(), move || names.clone())
            .unwrap();
    let filling = shared.clone();
    let filler = std::thread::spawn(move || {
        for bytes_in in 0..LINES {
            let mut record = SessionRecord { bytes_in, ..session() };
            while let Err(back) = filling.records[0].push(record) {
                record = back;
                std::thread::yield_now();
            }
            if bytes_in % 100 == 0 {
                // Spread over several turns of the writer.
                pause(Duration::from_millis(30));
            }
        }
    });
    let mut renamed = 0;
    let until = Instant::now() + Duration::from_secs(60);
    while !filler.is_finished() {
        assert!(Instant::now() < until, "never opened anew: {:?}", log.lines());
        // Not there: not opened yet. Empty: nothing would be shown.
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            let old = dir.path().join(format!("access.log.{renamed}"));
            std::fs::rename(&path, old).unwrap();
            state.reopen();
            renamed += 1;
        }
        pause(Duration::from_millis(5));
    }
    filler.join().unwrap();
    running.finish();
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            seen.push(line["bytes_in"].as_u64().unwrap());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..LINES).collect::<Vec<_>>());
    assert!(renamed > 1, "all in one file");
    assert_eq!(state.dropped.load(Ordering::Relaxed), 0);
}

fn a_file_that_cannot_be_opened_anew_goes_on_where_it_is(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (inner, path) = (dir.path().join("logs"), dir.path().join("logs/access.log"));
    std::fs::create_dir(&inner).unwrap();
    let file = open(&plan::AccessLog::File(path.clone())).unwrap();
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let (shared, snapshot) = (shared(engine, 3), snapshot_with(&path));
    std::fs::rename(&inner, dir.path().join("moved")).unwrap();
    state.reopen();
    let said = log.clone();
    let running = AccessLog::start(shared, file, state, log, move || snapshot.clone()).unwrap();
    until_said(&said);
    running.finish();
    let (line, path) = (&said.lines()[0], path.display().to_string());
    let told = [path.as_str(), "make the directory", "lines go where they went before"];
    assert!(told.iter().all(|words| line.contains(words)), "{line}");
    let text = std::fs::read_to_string(dir.path().join("moved/access.log")).unwrap();
    assert_eq!(text.lines().count(), 3);
}

/// Waits for the first word of a log.
fn until_said(log: &Log) {
    let until = Instant::now() + Duration::from_secs(30);
    while log.lines().is_empty() {
        assert!(Instant::now() < until, "never said so");
        pause(Duration::from_millis(5));
    }
}

fn pipe_in(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

/// What `work` returns, on a thread of its own, because the claim is that it returns.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waits.recv_timeout(Duration::from_secs(10)).expect("it returns")
}

#[test]
fn a_pipe_that_nobody_reads_is_refused_at_once_and_one_with_a_reader_waits_as_a_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let access = plan::AccessLog::File(pipe_in(dir.path()));
    let asked = access.clone();
    let error = in_time(move || open(&asked).map(drop)).unwrap_err();
    let said = explain(&access, &error);
    assert!(said.contains("a pipe that nobody reads"), "{said}");
    let reader = StdFile::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(dir.path().join("pipe"))
        .unwrap();
    let target = open(&access).unwrap().unwrap();
    let flags = OFlag::from_bits_retain(fcntl(&target.file, FcntlArg::F_GETFL).unwrap());
    assert!(flags.contains(OFlag::O_APPEND) && !flags.contains(OFlag::O_NONBLOCK), "{flags:?}");
    drop(reader);
}

fn a_pipe_that_nobody_reads_takes_no_lines_from_the_file_before_it(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old.log");
    let file = open(&plan::AccessLog::File(old.clone())).unwrap();
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let (shared, snapshot) = (shared(engine, 3), snapshot_with(&pipe_in(dir.path())));
    state.reopen();
    let said = log.clone();
    let running = AccessLog::start(shared, file, state, log, move || snapshot.clone()).unwrap();
    until_said(&said);
    in_time(move || running.finish());
    let line = &said.lines()[0];
    assert!(line.contains("nobody reads") && line.contains("went before"), "{line}");
    assert_eq!(std::fs::read_to_string(old).unwrap().lines().count(), 3);
}

fn the_end_waits_for_no_thread_that_waits_for_ever(engine: Engine) {
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let dir = tempfile::tempdir().unwrap();
    let file = open(&plan::AccessLog::File(dir.path().join("access.log"))).unwrap();
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let nothing = std::sync::Mutex::new(nothing);
    let hangs = move || {
        let _ = nothing.lock().unwrap().recv();
        snapshot()
    };
    let running = AccessLog::start(shared(engine, 1), file, state, log, hangs).unwrap();
    in_time(move || running.finish());
}

fn a_torn_line_is_ended_once_and_counts_as_no_other_however_long_the_disk_is_full(engine: Engine) {
    let (state, log) = (Arc::new(LogState::default()), Log::memory());
    let mut writer = Writer::new(shared(engine, 0), None, state.clone(), log);
    let full = || Err(io::ErrorKind::StorageFull.into());
    let mut after = |bytes: &[u8], taken, torn, lost| {
        writer.on_written((bytes.to_vec(), taken, full()));
        assert_eq!((writer.torn, state.dropped.load(Ordering::Relaxed)), (torn, lost));
    };
    after(b"{1}\n{2}\n", 6, true, 1);
    after(b"\n{3}\n{4}\n", 0, true, 3);
    after(b"\n{5}\n", 1, false, 4);
    after(b"{6}\n", 0, false, 5);
}

fn half_a_line_of_somebody_who_was_killed_is_ended_first(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    std::fs::write(&path, "{\"whole\":1}\n{\"half").unwrap();
    let file = open(&plan::AccessLog::File(path.clone())).unwrap().unwrap();
    write(file, &shared(engine, 2), |_| true);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[..2], ["{\"whole\":1}", "{\"half"]);
    assert!(!open(&plan::AccessLog::File(path)).unwrap().unwrap().torn);
}

/// Between two looks at what another thread does.
fn pause(span: Duration) {
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(span);
}

/// Every claim without a ring, and with one where there is one.
macro_rules! on_both_engines {
    ($($claim:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $claim() {
                match crate::runtime::uring::probe() {
                    Ok(()) => super::$claim(super::Engine::Uring),
                    Err(cause) => println!("not tested here: {cause}"),
                }
            })*
        }
        mod epoll {
            $(#[test] fn $claim() { super::$claim(super::Engine::Epoll); })*
        }
    };
}

on_both_engines! {
    every_record_of_sessions_and_requests_becomes_a_line_in_the_file,
    a_full_disk_loses_lines_counts_them_and_says_so_once,
    a_reader_that_stops_makes_the_log_stalled_and_nothing_waits,
    a_file_that_is_renamed_again_and_again_loses_and_doubles_no_line,
    a_file_that_cannot_be_opened_anew_goes_on_where_it_is,
    a_pipe_that_nobody_reads_takes_no_lines_from_the_file_before_it,
    the_end_waits_for_no_thread_that_waits_for_ever,
    a_torn_line_is_ended_once_and_counts_as_no_other_however_long_the_disk_is_full,
    half_a_line_of_somebody_who_was_killed_is_ended_first,
}
