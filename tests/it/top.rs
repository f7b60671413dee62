//! `top` against the real binary: as a table, and on a terminal.

use std::process::Command;

use super::backend::{Backend, Reply};
use super::deadline::until;
use super::gate::Gate;
use super::peers::{command, need, run};

const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

fn gate(backend: &Backend) -> Gate {
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.front]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app]\n[pool.app.servers]\nblue = \"{}\"\ngreen = \"127.0.0.1:9\"\n",
        backend.address
    ))
}

fn admin(gate: &Gate) -> String {
    format!("http://{}", gate.address("admin"))
}

#[test]
fn once_is_one_table_with_rates() {
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = gate(&backend);
    let table = run(Command::new(BINARY)
        .args(["top", "--once", "--sort", "errors", "--admin"])
        .arg(admin(&gate)));
    let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("LISTENER").ends_with("REFUSED"), "{table}");
    assert!(line("front").contains(" 0.0 "), "{table}");
    assert!(line("SERVER").contains("P99"), "{table}");
    assert!(line("app/blue").contains(" up ") && !line("app/green").is_empty(), "{table}");
    assert!(!table.contains('\u{1b}'), "{table}");
}

#[test]
fn nobody_there_and_no_terminal_are_told() {
    let output =
        Command::new(BINARY).args(["top", "--once", "--admin", "http://127.0.0.1:9"]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is it running"));
    let output = command(BINARY).arg("top").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("top --once"));
}

/// A terminal of its own; its server ends when dropped.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn start(words: &str) -> Self {
        let socket = format!("sluicegate-test-{}-top", std::process::id());
        let tmux = Self { socket };
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", words]);
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        run(command("tmux").args(["-u", "-L", &self.socket]).args(args).env("LC_ALL", "C.UTF-8"))
    }

    fn shows(&self, part: &str) -> String {
        until(&format!("`{part}` on the screen"), || {
            let screen = self.run(&["capture-pane", "-p"]);
            if screen.contains(part) { Ok(screen) } else { Err(screen) }
        })
    }

    fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = command("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

#[test]
fn on_a_terminal_it_shows_filters_asks_and_gives_the_terminal_back() {
    if !need(&["tmux", "sh"]) {
        return;
    }
    let backend = Backend::start(|_| Reply::ok("hello"));
    let gate = gate(&backend);
    let pid = gate.dir.path().join("pid");
    // What comes after it shows that the terminal is as it was.
    let program = format!("{BINARY} top --admin {}", admin(&gate));
    let (first, second) = (
        format!("{program}; echo ended $?"),
        format!("echo $$ > {}; exec {program}", pid.display()),
    );
    let tmux =
        Tmux::start(&format!("{first}; sh -c '{second}'; echo stopped $?; stty -a; sleep 1000"));
    tmux.shows("app/blue");
    let screen = tmux.shows("q quit");
    assert!(screen.contains("app/green") && screen.contains("events"), "{screen}");
    tmux.press("/");
    tmux.press("g");
    tmux.press("r");
    tmux.press("Enter");
    let screen = tmux.shows("servers 1 with");
    assert!(!screen.contains("app/blue"), "{screen}");
    tmux.press("d");
    tmux.shows("drain app/green?");
    tmux.press("n");
    tmux.shows("q quit");
    tmux.run(&["resize-window", "-x", "120", "-y", "40"]);
    tmux.shows("app/green");
    tmux.press("q");
    // The second one ends by a signal.
    let pid = until("the second one", || {
        let text = std::fs::read_to_string(&pid).unwrap_or_default();
        text.trim().parse::<i32>().map_err(|_| text)
    });
    tmux.shows("app/green");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is there");
    let screen = tmux.shows("stopped 0");
    let sane = tmux.shows(" icanon");
    assert!(screen.contains("ended 0") && !sane.contains("-icanon"), "{screen}\n{sane}");
}
