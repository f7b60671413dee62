//! What distributions and containers get: the package, the unit, the image, the profile.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::peers::{PYTHON, command, find, need, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).expect("it is there")
}

#[test]
fn the_package_has_what_it_promises() {
    if !need(&["dpkg-deb", "gzip"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = Path::new(ROOT).join("scripts/package");
    // A test binary is large, and nobody downloads it.
    let mut script = Command::new(script);
    script.env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    let package = run(script.arg(BINARY).arg(dir.path().join("debian")));
    let package = package.trim();
    let list = run(command("dpkg-deb").args(["--contents", package]));
    let has = |path: &str| list.lines().any(|line| line.ends_with(&format!(" .{path}")));
    for path in [
        "/usr/bin/sluicegate",
        "/usr/lib/systemd/system/sluicegate.service",
        "/usr/lib/systemd/system/sluicegate.socket",
        "/etc/sluicegate/main.toml",
        "/usr/share/man/man1/sluicegate.1.gz",
        "/usr/share/bash-completion/completions/sluicegate",
        "/usr/share/zsh/vendor-completions/_sluicegate",
        "/usr/share/fish/vendor_completions.d/sluicegate.fish",
        "/usr/share/doc/sluicegate/operations.md",
        "/usr/share/doc/sluicegate/examples/full.toml",
        "/usr/share/sluicegate/alerts.yml",
        "/usr/share/sluicegate/grafana.json",
        "/usr/share/sluicegate/seccomp.json",
    ] {
        assert!(has(path), "no {path} in\n{list}");
    }
    assert!(list.lines().all(|line| line.contains(" root/root ")), "{list}");
    let field = |name: &str| run(command("dpkg-deb").args(["--field", package, name]));
    assert_eq!(field("Version").trim(), format!("{}-1", env!("CARGO_PKG_VERSION")));
    let tree = dir.path().join("tree");
    run(command("dpkg-deb").arg("--extract").arg(package).arg(&tree));
    run(command("dpkg-deb").arg("--control").arg(package).arg(dir.path().join("control")));
    let conffiles = std::fs::read_to_string(dir.path().join("control/conffiles")).expect("there");
    assert_eq!(conffiles, "/etc/sluicegate/main.toml\n");
    // Unpacked, it is the same program, and its configuration is a good one.
    run(Command::new(tree.join("usr/bin/sluicegate"))
        .arg("check")
        .arg(tree.join("etc/sluicegate/main.toml")));
}

#[test]
fn cargo_deb_and_the_script_pack_the_same_files() {
    let manifest = text("Cargo.toml");
    let assets = manifest.split_once("[package.metadata.deb]").expect("the section").1;
    for file in [
        "sluicegate.service",
        "sluicegate.socket",
        "main.toml",
        "seccomp.json",
        "alerts.yml",
        "grafana.json",
    ] {
        assert!(assets.contains(file), "cargo deb does not pack {file}");
        assert!(text("scripts/package").contains(file), "scripts/package does not pack {file}");
    }
}

#[test]
fn the_socket_unit_listens_where_the_packages_configuration_binds() {
    let socket = text("scripts/packaging/sluicegate.socket");
    let address = socket.lines().find_map(|line| line.strip_prefix("ListenStream="));
    let bind = format!("bind = \"{}\"", address.expect("an address"));
    let config = text("scripts/packaging/main.toml");
    assert!(config.lines().any(|line| line == bind), "no {bind} in\n{config}");
}

#[test]
fn the_operators_page_shows_lines_of_the_packages_unit() {
    let page = text("docs/operations.md");
    let shown = page.split_once("```ini\n[Service]\n").expect("an example").1;
    let unit = text("scripts/packaging/sluicegate.service");
    for shown in shown.lines().take_while(|line| !line.starts_with("```")) {
        assert!(unit.lines().any(|line| line == shown), "the unit does not have {shown}");
    }
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    if !need(&["systemd-analyze"]) {
        return;
    }
    // It looks whether the program is there.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let unit = text("scripts/packaging/sluicegate.service").replace("/usr/bin/sluicegate", BINARY);
    let service = dir.path().join("sluicegate.service");
    std::fs::write(&service, unit).expect("written");
    let socket = dir.path().join("sluicegate.socket");
    std::fs::write(&socket, text("scripts/packaging/sluicegate.socket")).expect("written");
    let mut verify = command("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&service).arg(&socket).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    // Of a newer systemd than that of Debian 12, which says so and goes on.
    let known = |line: &&str| !line.contains("notify-reload");
    let ours: Vec<&str> =
        said.lines().filter(|line| line.contains("sluicegate")).filter(known).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_is_asked_how_it_is() {
    let docker = text("Dockerfile");
    let last_user = docker.lines().rfind(|line| line.starts_with("USER ")).expect("a user");
    assert!(!last_user.contains("root") && !last_user.contains(" 0"), "{last_user}");
    assert!(docker.contains("HEALTHCHECK") && docker.matches("\nFROM ").count() == 2, "{docker}");
    for line in docker.lines().filter_map(|line| line.strip_prefix("COPY scripts/")) {
        let file = line.split(' ').next().expect("a file");
        assert!(Path::new(ROOT).join("scripts").join(file).is_file(), "{file}");
    }
}

#[test]
fn the_profile_has_the_shape_that_docker_reads_and_io_uring() {
    let profile: Value =
        serde_json::from_str(&text("scripts/packaging/seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().expect("rules");
    let allowed: Vec<&str> = rules
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|rule| rule["names"].as_array().expect("names"))
        .filter_map(Value::as_str)
        .collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&call), "{call}");
    }
    for call in ["ptrace", "mount", "bpf", "kexec_load", "init_module", "unshare", "keyctl"] {
        assert!(!allowed.contains(&call), "{call}");
    }
}

#[test]
fn the_binary_serves_under_the_profile() {
    if !need(&[PYTHON]) {
        return;
    }
    let import = command(PYTHON).args(["-c", "import seccomp"]).output().expect("it runs");
    if !import.status.success() && !need(&["python3-seccomp"]) {
        return;
    }
    let backend = Backend::start(|_| Reply::ok("hello"));
    let script = Path::new(ROOT).join("tests/it/peers.d/seccomp_run.py");
    let profile = Path::new(ROOT).join("scripts/packaging/seccomp.json");
    let python = find(PYTHON).expect("it was found");
    let wrapper = [&python, &script, &profile].map(|path| path.to_str().expect("UTF-8").to_owned());
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let config = format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\npool = \"app\"\n\
         [pool.app]\ncheck = {{ type = \"http\", path = \"/\", every = \"100ms\", timeout = \"90ms\" }}\n\
         [pool.app.servers]\na = \"dns:localhost:{}\"\n",
        backend.address.port()
    );
    let mut gate = Gate::start_wrapped(&wrapper, &config);
    let mut stream = gate.connect("web");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(gate.log(1)[0]["reason"], "ok");
    // The filter is really there.
    let proc = format!("/proc/{}/status", gate.pid());
    let status = std::fs::read_to_string(proc).expect("our own child");
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    gate.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gate.wait_exit().success());
}
