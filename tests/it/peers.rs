//! The servers that a balancer stands in front of, started for one test each.
//!
//! Every one has its own temporary directory and a port that was free a moment ago; if another
//! process was quicker, the start is repeated with another port. Ready means that it accepts a
//! connection. Dropping a peer ends it, by pid.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

use super::deadline::{PATIENCE, until, within};

/// Starts with another port this often if the first was taken meanwhile.
const STARTS_MAX: usize = 3;

/// Servers and clients in the languages they are written in.
pub const PEERS_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/peers.d");

/// Whether all `programs` are there; `if !need(&["redis-server"]) { return; }` begins a test.
///
/// Without them the test says that it skipped itself, or fails where they are required.
#[must_use]
pub fn need(programs: &[&str]) -> bool {
    let missing: Vec<&str> =
        programs.iter().filter(|program| find(program).is_none()).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let required = std::env::var_os("SLUICEGATE_REQUIRE_PEERS").is_some();
    assert!(!required, "{test} needs {}: run scripts/install-peers", missing.join(", "));
    println!("SKIPPED {test}: needs {}", missing.join(", "));
    false
}

/// Where a program is: in PATH, in sbin, or in `PostgreSQL`'s own directory.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    dirs.extend(versions.map(|version| version.path().join("bin")));
    dirs.into_iter().map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A command for a program that [`need`] has found.
pub fn command(program: &str) -> Command {
    let file = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
    let mut command = Command::new(file);
    command.stdin(Stdio::null());
    command
}

/// Debian's Python, which has the modules that its packages bring; another may come first in PATH.
pub const PYTHON: &str = "/usr/bin/python3";

/// A command for a script in `peers.d`, by [`PYTHON`].
pub fn python(script: &str) -> Command {
    let mut command = command(PYTHON);
    command.arg(Path::new(PEERS_DIR).join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a client to its end and returns what it printed; panics with it on failure.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// A server process of somebody else.
pub struct Peer {
    command: Command,
    child: Child,
    pub address: SocketAddr,
    pub dir: TempDir,
    /// What asks it to end at once.
    pub farewell: Signal,
}

impl Peer {
    pub fn redis() -> Self {
        Self::redis_with("--port", &[])
    }

    /// The same with more words; `--tls-port` is a port too.
    pub fn redis_with(port_is: &str, more: &[&str]) -> Self {
        Self::start(|port, dir| {
            let mut server = command("redis-server");
            if port_is != "--port" {
                server.args(["--port", "0"]);
            }
            server.args([port_is, &port.to_string(), "--bind", "127.0.0.1"]).args(more);
            server.args(["--save", "", "--maxclients", "8000", "--dir"]).arg(dir);
            server
        })
    }

    /// A database cluster with the superuser `lb` and trust authentication.
    pub fn postgres() -> Self {
        let postgres = Self::start(|port, dir| {
            let owner = postgres_owner(dir);
            let data = dir.join("data");
            let mut init = command("initdb");
            init.args(["--auth=trust", "--username=lb", "--no-sync", "--pgdata"]).arg(&data);
            run(as_user(init.current_dir(dir), owner.as_ref()));
            let mut server = command("postgres");
            server.arg("-D").arg(&data).arg("-k").arg(dir).args(["-p", &port.to_string()]);
            server.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
            as_user(server.current_dir(dir), owner.as_ref());
            server
        });
        // It accepts before it serves, and tells whoever asks that it is starting up.
        until("PostgreSQL serves", || {
            let said = postgres.output();
            if said.contains("ready to accept connections") { Ok(()) } else { Err(said) }
        });
        postgres
    }

    /// nginx with `locations` inside its one server.
    pub fn nginx(locations: &str) -> Self {
        Self::nginx_listening("", locations)
    }

    /// The same with more words in its `listen`.
    pub fn nginx_listening(listen: &str, locations: &str) -> Self {
        Self::start(|port, dir| {
            let config = format!(
                "master_process off; daemon off; pid nginx.pid; error_log stderr;\n\
                 events {{ worker_connections 8192; }}\n\
                 http {{ access_log off; keepalive_requests 1000000;\n\
                 client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;\n\
                 uwsgi_temp_path u; scgi_temp_path s;\n\
                 server {{ listen 127.0.0.1:{port} {listen} backlog=4096; {locations} }} }}\n"
            );
            fs::write(dir.join("nginx.conf"), config).expect("the configuration is written");
            let mut server = command("nginx");
            server.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
            server
        })
    }

    /// `HAProxy` with these sections after its `global`; `{port}` stands for its port.
    pub fn haproxy(sections: &str) -> Self {
        Self::start(|port, dir| {
            let sections = sections.replace("{port}", &port.to_string());
            let config = format!("global\n  nbthread 1\n{sections}\n");
            fs::write(dir.join("haproxy.cfg"), config).expect("the configuration is written");
            let mut server = command("haproxy");
            server.arg("-f").arg(dir.join("haproxy.cfg"));
            server
        })
    }

    pub fn iperf3() -> Self {
        Self::start(|port, _| {
            let mut server = command("iperf3");
            server.args(["--server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
            server
        })
    }

    /// Starts what `make(port, dir)` returns and waits until it accepts.
    pub fn start(make: impl Fn(u16, &Path) -> Command) -> Self {
        for _ in 1..STARTS_MAX {
            if let Ok(peer) = Self::start_once(&make) {
                return peer;
            }
        }
        Self::start_once(&make).unwrap_or_else(|complaint| panic!("{complaint}"))
    }

    fn start_once(make: &impl Fn(u16, &Path) -> Command) -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let address = free_address();
        let mut command = make(address.port(), dir.path());
        let log = fs::File::create(dir.path().join("output")).expect("the log is made");
        let both = log.try_clone().expect("a descriptor");
        let child = command.stdout(log).stderr(both).spawn().map_err(|error| error.to_string())?;
        let mut peer = Self { command, child, address, dir, farewell: Signal::SIGINT };
        match peer.accepts() {
            None => Ok(peer),
            Some(status) => {
                Err(format!("{:?} ended with {status}\n{}", peer.command, peer.output()))
            }
        }
    }

    /// Waits until it does; its status if it ended instead.
    fn accepts(&mut self) -> Option<ExitStatus> {
        let what = format!("{:?} accepts", self.command);
        until(&what, || {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Ok(Some(status));
            }
            TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).map(|_| None)
        })
    }

    /// Another of its kind in its place, with its address and its directory.
    pub fn restart(&mut self) {
        self.kill();
        self.child = self.command.spawn().expect("it has started before");
        let ended = self.accepts();
        assert!(ended.is_none(), "{ended:?}: {}", self.output());
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Kills it and waits for its end; its port refuses from then on.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // PostgreSQL's children end at once when their parent is asked to.
        let _ = kill(Pid::from_raw(self.child.id() as i32), self.farewell);
        let _ = within(PATIENCE / 4, || self.child.try_wait().ok().flatten().ok_or(()));
        self.kill();
        if std::thread::panicking() {
            eprintln!("-- output of the peer at {}\n{}", self.address, self.output());
        }
    }
}

/// A loopback address whose port nobody listens on now.
pub fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("a bound socket has an address")
}

/// `PostgreSQL` refuses to run as root; the package brings a user for it.
fn postgres_owner(dir: &Path) -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let user = User::from_name("postgres").ok().flatten().expect("the package made this user");
    chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may do this");
    Some(user)
}

fn as_user<'a>(command: &'a mut Command, user: Option<&User>) -> &'a mut Command {
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

#[test]
fn every_kind_of_peer_starts_and_ends() {
    if !need(&["redis-server", "postgres", "initdb", "nginx", "haproxy", "iperf3"]) {
        return;
    }
    let nginx = Peer::nginx("location / { return 200 'hello'; }");
    let behind = nginx.address;
    let haproxy = Peer::haproxy(&format!(
        "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n\
         listen it\n  bind 127.0.0.1:{{port}}\n  server s {behind}"
    ));
    let mut peers = [Peer::redis(), Peer::postgres(), Peer::iperf3(), haproxy, nginx];
    for peer in &mut peers {
        peer.kill();
        // A child of PostgreSQL that was just being forked has the socket a moment longer.
        let refused = || TcpStream::connect(peer.address).err().ok_or(());
        let refused = within(PATIENCE, refused);
        assert!(refused.is_ok(), "{} still accepts", peer.address);
    }
}
