//! The product under test: the real binary with a configuration in a temporary directory.
//!
//! [`Gate::start`] returns when it printed `ready`; the addresses of its listeners are those it
//! printed, so a configuration binds port 0. Dropping a gate kills it, by pid; what it wrote to
//! stderr is shown if the test is failing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::deadline::{PATIENCE, until};

/// A running process of the product.
pub struct Gate {
    child: Child,
    pub dir: TempDir,
    /// Listeners by the name they are printed with, and `admin`.
    bound: BTreeMap<String, Vec<SocketAddr>>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

/// What a started process did instead of getting ready.
pub struct Refusal {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Gate {
    /// Runs with `config` (TOML), waits until it is ready.
    ///
    /// Put `access = "stdout"` and port 0 into it to use [`Gate::log`] and [`Gate::address`];
    /// `{admin}` stands for an address of the admin listener, which is not printed.
    pub fn start(config: &str) -> Self {
        Self::start_wrapped(&[], config)
    }

    /// Runs with `wrapper` before the binary on the command line: `ip netns exec NAME`, or
    /// `sh -c 'ulimit -n 256; exec "$0" "$@"'`.
    pub fn start_wrapped(wrapper: &[&str], config: &str) -> Self {
        Self::try_start(wrapper, config).unwrap_or_else(|refusal| {
            panic!("did not start: exit {:?}\n{}{}", refusal.code, refusal.stdout, refusal.stderr)
        })
    }

    /// Runs with `config`, which is expected to be refused at start.
    pub fn refused(config: &str) -> Refusal {
        match Self::try_start(&[], config) {
            Ok(_) => panic!("started, but should have refused:\n{config}"),
            Err(refusal) => refusal,
        }
    }

    pub fn try_start(wrapper: &[&str], config: &str) -> Result<Self, Refusal> {
        loop {
            match Self::try_once(wrapper, config) {
                // A port of the kernel's choice was that which was free for `{admin}` before.
                Err(refusal)
                    if refusal.stderr.contains("the admin API cannot bind")
                        && refusal.stderr.contains("the port is in use")
                        && config.contains("{admin}") => {}
                other => return other,
            }
        }
    }

    fn try_once(wrapper: &[&str], config: &str) -> Result<Self, Refusal> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("main.toml");
        let admin = super::peers::free_address();
        let config = config.replace("{admin}", &admin.to_string());
        std::fs::write(&file, config).expect("the configuration is written");
        let words = [wrapper, &[env!("CARGO_BIN_EXE_sluicegate")]].concat();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["run", "--config"])
            .arg(&file)
            .current_dir(dir.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = Lines::follow(child.stdout.take().expect("piped"));
        let stderr = Lines::follow(child.stderr.take().expect("piped"));
        let is_ready = |line: &String| line == "ready";
        let printed = stdout.wait("`ready`", |lines, ended| ended || lines.iter().any(is_ready));
        if !printed.iter().any(is_ready) {
            let status = child.wait().expect("it has ended");
            let stderr = stderr.wait("end of stderr", |_, ended| ended).join("\n");
            return Err(Refusal { code: status.code(), stdout: printed.join("\n"), stderr });
        }
        let before = printed.iter().take_while(|line| !is_ready(line));
        let listeners = before.filter_map(|line| read_ready_line(line));
        let bound = listeners.chain([("admin".to_owned(), vec![admin])]).collect();
        Ok(Self { child, dir, bound, stdout, stderr })
    }

    /// Puts another configuration in place of the one it runs with, in one step.
    pub fn rewrite(&self, config: &str) {
        let fresh = self.dir.path().join("fresh");
        let config = config.replace("{admin}", &self.address("admin").to_string());
        std::fs::write(&fresh, config).expect("the configuration is written");
        std::fs::rename(fresh, self.dir.path().join("main.toml")).expect("it is ours");
    }

    /// Where the listener with this name accepts.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let addresses = self.bound.get(listener);
        *addresses.and_then(|all| all.first()).unwrap_or_else(|| {
            panic!("no listener `{listener}` among the ready lines: {:?}", self.bound)
        })
    }

    /// A client connection to the listener with this name, with a deadline on its reads.
    pub fn connect(&self, listener: &str) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address(listener), PATIENCE)
            .unwrap_or_else(|error| panic!("connect to `{listener}`: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option of a socket");
        stream
    }

    /// One request to the admin listener: status and body.
    pub fn admin(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = self.connect("admin");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (code, if chunked { join_chunks(body) } else { body.to_owned() })
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Value {
        let (code, body) = self.admin("GET", "/v1/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("status: {error}\n{body}"))
    }

    /// The value of a sample in `GET /metrics`, by its whole name with labels.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let (code, body) = self.admin("GET", "/metrics");
        assert_eq!(code, 200, "{body}");
        let value = body.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number"))
    }

    /// Waits for `count` lines of the access log on stdout and returns all there are.
    pub fn log(&self, count: usize) -> Vec<Value> {
        let is_record = |line: &&String| line.starts_with('{');
        let lines = self.stdout.wait(&format!("{count} log lines"), |lines, ended| {
            ended || lines.iter().filter(is_record).count() >= count
        });
        let records = lines.iter().filter(is_record);
        records
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect()
    }

    /// What it wrote to stderr so far.
    pub fn diagnostics(&self) -> String {
        self.stderr.wait("stderr", |_, _| true).join("\n")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is still there");
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        until("the end of the process", || {
            self.child.try_wait().expect("our own child").ok_or("still running")
        })
    }

    /// Open descriptors of the process.
    pub fn descriptors(&self) -> usize {
        descriptors(self.pid())
    }

    /// Resident memory of the process in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }

    /// The most that [`Gate::resident`] has been since [`Gate::forget_peak`].
    pub fn resident_peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("our own child");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is there");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub fn forget_peak(&self) {
        // 5 sets the peak to what is resident now: proc_pid_clear_refs(5).
        let path = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(path, "5").expect("our own child");
    }

    /// CPU time of the process so far, user and system, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("our own child").flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("-- stderr of the gate\n{}", self.diagnostics());
        }
    }
}

/// Open descriptors of a process.
pub fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// Resident memory of a process in bytes.
pub fn resident(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("Rss is there");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// `(name, addresses)` of a ready line. Which words stand around them is not relied upon.
fn read_ready_line(line: &str) -> Option<(String, Vec<SocketAddr>)> {
    const FILLERS: &[&str] = &["", "listener", "listening", "on", "tcp", "ready", "at"];
    let words = line.split([' ', ',', '\t', '(', ')']);
    let (mut name, mut addresses) = (None, Vec::new());
    for word in words {
        let bare = word.trim_matches(['`', ':', '"']);
        match bare.trim_start_matches("http://").trim_end_matches('/').parse() {
            Ok(address) => addresses.push(address),
            Err(_) if name.is_none() && !FILLERS.contains(&bare) => name = Some(bare.to_owned()),
            Err(_) => {}
        }
    }
    Some((name?, addresses))
}

fn join_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        joined.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    joined
}

/// The lines of a pipe, read by a thread of their own so that the writer never blocks.
struct Lines {
    /// The lines so far, and whether the pipe has ended.
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn follow(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let reader = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                reader.state.lock().expect("no panic while held").0.push(line);
                reader.changed.notify_all();
            }
            reader.state.lock().expect("no panic while held").1 = true;
            reader.changed.notify_all();
        });
        lines
    }

    /// All lines, once `enough` says so of them and of whether the pipe has ended.
    fn wait(&self, what: &str, enough: impl Fn(&[String], bool) -> bool) -> Vec<String> {
        let state = self.state.lock().expect("no panic while held");
        let (state, timeout) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |(lines, ended)| !enough(lines, *ended))
            .expect("no panic while held");
        let said = state.0.clone();
        drop(state);
        assert!(!timeout.timed_out(), "no {what} within {PATIENCE:?}, only:\n{}", said.join("\n"));
        said
    }
}

#[test]
fn a_ready_line_gives_the_name_and_the_address() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    for line in [
        "listening pg tcp 127.0.0.1:5432",
        "listener `pg` on 127.0.0.1:5432 (tcp)",
        "pg: 127.0.0.1:5432",
    ] {
        assert_eq!(read_ready_line(line), Some(("pg".to_owned(), vec![address("127.0.0.1:5432")])));
    }
    let admin = read_ready_line("admin http://127.0.0.1:9901/").expect("a name");
    assert_eq!(admin, ("admin".to_owned(), vec![address("127.0.0.1:9901")]));
    let v6 = read_ready_line("listener pg [::1]:5432").expect("a name");
    assert_eq!(v6, ("pg".to_owned(), vec![address("[::1]:5432")]));
}
