//! The command line as scripts see it: exit codes, and which stream says what.

use std::process::{Command, Output};

fn sluicegate(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn version_goes_to_stdout() {
    let version = format!("sluicegate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(sluicegate(&["--version"]), (Some(0), version, String::new()));
}

#[test]
fn no_command_is_wrong_usage_and_shows_the_commands() {
    let (code, stdout, stderr) = sluicegate(&[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("explain-reason"), "{stderr}");
}

#[test]
fn a_key_for_a_name_that_no_consumer_can_have_is_wrong_usage() {
    let (code, stdout, stderr) = sluicegate(&["key", "new", "--name", "Alice Smith"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("\"Alice Smith\" cannot be the name of a consumer"), "{stderr}");
}

#[test]
fn an_unknown_command_is_wrong_usage_with_a_suggestion() {
    let (code, stdout, stderr) = sluicegate(&["explain-reson"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("explain-reason"), "{stderr}");
}

#[test]
fn every_reason_is_explained() {
    for reason in sluicegate::observe::reason::REASONS {
        let (code, stdout, stderr) = sluicegate(&["explain-reason", reason.as_str()]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_eq!(stdout.trim_end(), reason.explain());
    }
}

#[test]
fn an_unknown_reason_is_wrong_usage_with_a_suggestion() {
    let (code, stdout, stderr) = sluicegate(&["explain-reason", "idle-timout"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("did you mean `idle-timeout`?"), "{stderr}");
}

#[test]
fn completions_and_the_man_page_name_every_command() {
    for args in [&["completions", "bash"][..], &["completions", "fish"], &["man"]] {
        let (code, stdout, _) = sluicegate(args);
        assert_eq!(code, Some(0), "{args:?}");
        // roff writes a hyphen as `\-`.
        let stdout = stdout.replace('\\', "");
        for command in
            ["run", "check", "explain", "schema", "ctl", "bench", "demo", "doctor", "man"]
        {
            assert!(stdout.contains(command), "{args:?} lacks {command}");
        }
    }
}

#[test]
fn doctor_says_in_json_whether_it_would_run_here() {
    let (code, stdout, stderr) = sluicegate(&["doctor", "--json"]);
    assert_eq!(stderr, "");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(code, Some(if report["ok"] == true { 0 } else { 71 }));
    let names = report["checks"].as_array().expect("a list").iter().map(|check| &check["name"]);
    assert!(names.into_iter().any(|name| name == "io_uring"), "{stdout}");
}

#[test]
fn the_configuration_in_the_readme_is_without_a_mistake() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```toml\n").expect("a configuration in the README");
    let (config, _) = rest.split_once("```").expect("its end");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("main.toml");
    std::fs::write(&file, config).expect("written");
    let (code, stdout, stderr) = sluicegate(&["check", file.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}

#[test]
fn an_access_log_that_cannot_be_opened_is_a_mistake_of_the_configuration() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("main.toml");
    let run = |access: &str| {
        let text = format!(
            "version = 1\n[log]\naccess = \"file:{access}\"\n[listener.a]\n\
             bind = \"unix:{0}/a.sock\"\npool = \"p\"\n[pool.p]\nservers.s = \"unix:{0}/s.sock\"\n",
            dir.path().display()
        );
        std::fs::write(&file, text).expect("written");
        sluicegate(&["run", "--config", file.to_str().expect("UTF-8")])
    };
    // What `check` tells, and what only opening does.
    for (access, says) in [
        ("no/such/a.log", "make it: mkdir -p"),
        (".", "which is a directory"),
        ("/proc/no-file-can-be-made-here", "the access log /proc/no-file-can-be-made-here cannot"),
    ] {
        let (code, stdout, stderr) = run(access);
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
        assert!(!dir.path().join("a.sock").exists(), "something was bound");
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_told_with_what_to_do_whoever_wants_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let taken = taken.local_addr().expect("bound");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("main.toml");
    let run = |admin: &str, listener: &str| {
        let text = format!(
            "version = 1\n[admin]\nbind = \"{admin}\"\ntoken = \"env:PATH\"\n[listener.a]\n\
             bind = \"{listener}\"\npool = \"p\"\n[pool.p]\nservers.s = \"127.0.0.1:1\"\n"
        );
        std::fs::write(&file, text).expect("written");
        let (code, _, stderr) = sluicegate(&["run", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(71), "{stderr}");
        stderr
    };
    let (free, taken) = ("127.0.0.1:0", taken.to_string());
    // Of documentation (RFC 5737): no interface has it.
    let foreign = "203.0.113.1:8080";
    for (address, remedy) in [(taken.as_str(), "choose another port"), (foreign, "0.0.0.0:8080")] {
        for said in [run(address, free), run(free, address)] {
            assert!(said.contains(address) && said.contains(remedy), "{said}");
        }
    }
    assert!(run(&taken, free).contains(&format!("(pid {})", std::process::id())));
}

#[test]
fn a_wrong_value_on_the_command_line_is_wrong_usage_shown_where_it_stands() {
    let good = ["run", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1"];
    for (more, says) in [
        (["--listen", "bad"], "--listen bad"),
        (["--to", "db:5432"], "dns:db:5432"),
        (["--balance", "lest-conn"], "did you mean \"least-conn\"?"),
        (["--mode", "udp"], "\"tcp\", \"http\""),
    ] {
        let (code, stdout, stderr) = sluicegate(&[&good[..], &more].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
}
