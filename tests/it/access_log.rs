//! The access log under what its place can do: formats, samples, a full disk, a killed process.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use serde_json::Value;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;

fn config(log: &str, backend: &Backend) -> String {
    format!(
        "version = 1\n[runtime]\nworkers = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\n{log}\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [listener.raw]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app]\n[pool.app.servers]\na = \"{}\"\n",
        backend.address
    )
}

fn answer(mut stream: TcpStream, target: &str, fields: &str) -> String {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
    answer
}

/// One session of the TCP listener: the server keeps its connections until the client has ended.
fn session(gate: &Gate) {
    let mut stream = gate.connect("raw");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("it is sent");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
}

/// Lines of a file, once there are so many.
fn lines(path: &Path, count: usize) -> Vec<String> {
    until(&format!("{count} lines"), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count && text.ends_with('\n') { Ok(lines) } else { Err(text) }
    })
}

#[test]
fn json_lines_have_the_query_and_the_fields_that_are_asked_for() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let log = "access = \"stdout\"\nquery = true\nheaders = [\"User-Agent\", \"X-Tenant\"]";
    let gate = Gate::start(&config(log, &backend));
    answer(gate.connect("web"), "/a?x=1&y", "User-Agent: me/1\r\nX-Tenant: a\r\nX-Tenant: b\r\n");
    answer(gate.connect("web"), "/plain", "");
    let lines = gate.log(2);
    let with = |path: &str| lines.iter().find(|line| line["path"] == path).expect("its line");
    assert_eq!(with("/a")["query"], "x=1&y");
    assert_eq!(with("/a")["headers"]["User-Agent"], "me/1");
    assert_eq!(with("/a")["headers"]["X-Tenant"], "a, b");
    let plain = with("/plain");
    assert!(plain["query"].is_null() && plain["headers"]["User-Agent"].is_null(), "{plain}");
}

#[test]
fn the_combined_format_is_what_tools_for_apache_read() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("access.log");
    let log = format!("access = \"file:{}\"\nformat = \"combined\"", path.display());
    let gate = Gate::start(&config(&log, &backend));
    answer(gate.connect("web"), "/a?secret", "User-Agent: \"me\"\r\nReferer: http://b.test/\r\n");
    session(&gate);
    let lines = lines(&path, 2);
    let of = |part: &str| lines.iter().find(|line| line.contains(part)).expect("its line");
    let request = of("GET /a HTTP/1.1");
    assert!(request.starts_with("127.0.0.1 - - ["), "{request}");
    let end = "] \"GET /a HTTP/1.1\" 200 5 \"http://b.test/\" \"\\\"me\\\"\"";
    assert!(request.ends_with(end), "{request}");
    let session = of("TCP raw app/a");
    assert!(session.contains("\" ok ") && session.contains(" retries=0\""), "{session}");
}

#[test]
fn a_tenth_of_what_went_well_is_written_and_all_that_did_not() {
    let backend = Backend::start(|seen| match seen.path() {
        "/bad" => Reply::raw("HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n"),
        _ => Reply::ok("hello"),
    });
    let mut gate = Gate::start(&config("access = \"stdout\"\nsample = \"10%\"", &backend));
    for n in 0..100 {
        answer(gate.connect("web"), "/good", "");
        if n % 20 == 0 {
            answer(gate.connect("web"), "/bad", "");
        }
    }
    for _ in 0..30 {
        session(&gate);
    }
    gate.signal(Signal::SIGTERM);
    assert!(gate.wait_exit().success());
    let lines = gate.log(usize::MAX);
    let count = |is: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| is(line)).count();
    assert_eq!(count(&|line| line["path"] == "/good"), 10);
    assert_eq!(count(&|line| line["path"] == "/bad"), 5);
    assert_eq!(count(&|line| line["listener"] == "raw"), 3);
}

/// A file system in memory, as small as it is told, until it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: &Path, bytes: u32) -> nix::Result<Self> {
        let options = format!("size={bytes}");
        let (kind, none) = (Some("tmpfs"), MsFlags::empty());
        mount(None::<&str>, at, kind, none, Some(options.as_str()))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_loses_lines_and_not_requests_until_there_is_room_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Ok(disk) = Tmpfs::new(dir.path(), 64 << 10) else {
        let (name, root) = (std::thread::current(), Uid::effective().is_root());
        println!("SKIPPED {:?}: needs to mount (root: {root})", name.name());
        return;
    };
    let (path, ballast) = (disk.0.join("access.log"), disk.0.join("ballast"));
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = Gate::start(&config(&format!("access = \"file:{}\"", path.display()), &backend));
    std::fs::write(&ballast, vec![0; 128 << 10]).expect_err("the disk is full");
    let asked = until("a lost line", || {
        let answer = answer(gate.connect("web"), "/", "");
        assert!(answer.ends_with("hello"), "{answer}");
        let lost = gate.metric("sluicegate_log_dropped_total");
        lost.filter(|lost| *lost > 0.0).ok_or(lost)
    });
    assert!(gate.status()["log"]["dropped"].as_f64() >= Some(asked));
    let said = gate.diagnostics();
    assert_eq!(said.matches("cannot be written").count(), 1, "{said}");
    std::fs::remove_file(&ballast).expect("it is there");
    until("lines again", || {
        answer(gate.connect("web"), "/again", "");
        let text = std::fs::read_to_string(&path).expect("it is there");
        if text.lines().any(|line| line.contains("/again")) { Ok(()) } else { Err(text) }
    });
    let text = std::fs::read_to_string(&path).expect("it is there");
    // What was torn by the full disk is one line by itself.
    let torn = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err());
    assert!(torn.count() <= 1, "{text}");
}

#[test]
fn a_killed_process_leaves_whole_lines_and_the_next_one_goes_on_below() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("access.log");
    let log = format!("access = \"file:{}\"", path.display());
    for round in 1..=2 {
        let mut gate = Gate::start(&config(&log, &backend));
        for _ in 0..50 {
            answer(gate.connect("web"), &format!("/{round}"), "");
        }
        lines(&path, 1);
        gate.signal(Signal::SIGKILL);
        gate.wait_exit();
    }
    let gate = Gate::start(&config(&log, &backend));
    answer(gate.connect("web"), "/last", "");
    let text = until("the last line", || {
        let text = std::fs::read_to_string(&path).expect("it is there");
        if text.contains("/last") && text.ends_with('\n') { Ok(text) } else { Err(text) }
    });
    let broken: Vec<&str> =
        text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    // Each of the two may have been killed within a write.
    assert!(broken.len() <= 2, "{broken:?}");
    assert!(text.contains("\"/1\""), "{text}");
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_neither_a_reload_nor_the_log_nor_the_end() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, old) = (dir.path().join("access.log"), dir.path().join("old.log"));
    let text = config(&format!("access = \"file:{}\"", path.display()), &backend);
    let mut gate = Gate::start(&text);
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("it is new");
    gate.rewrite(&text.replace("access.log", "pipe"));
    let (_, answer) = gate.admin("POST", "/v1/reload");
    assert!(answer.contains("a pipe that nobody reads"), "{answer}");
    // The same by SIGHUP, where nobody waits for an answer: the path is a pipe now.
    gate.rewrite(&text);
    std::fs::rename(&path, &old).expect("it is there");
    std::fs::rename(&pipe, &path).expect("it is there");
    gate.signal(Signal::SIGHUP);
    until("it says that the old file goes on", || {
        let said = gate.diagnostics();
        if said.contains("lines go where they went before") { Ok(()) } else { Err(said) }
    });
    self::answer(gate.connect("web"), "/after", "");
    let lines = lines(&old, 1);
    assert!(lines[0].contains("/after"), "{lines:?}");
    gate.signal(Signal::SIGTERM);
    assert!(gate.wait_exit().success());
}
