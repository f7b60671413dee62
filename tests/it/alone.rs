//! Tests that measure their own process: descriptors, threads, memory. `cargo nextest` gives each
//! test a process; where many share one, such a test starts itself again.

use std::process::Command;

/// Whether this is a process of this test alone; else it has just been run in one and went well.
pub fn is_alone(test: &str) -> bool {
    const MARK: &str = "SLUICEGATE_TEST_ALONE";
    if std::env::var_os("NEXTEST").is_some() || std::env::var_os(MARK).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("we run");
    let mut again = Command::new(own);
    again.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "1");
    let output = again.output().expect("it starts");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{stdout}");
    let ran = stdout.contains("1 passed");
    assert!(output.status.success() && ran, "{test} in a process of its own: {stdout}{stderr}");
    false
}
