//! `sluicegate doctor`: what this host gives a balancer, and what to do about the rest.
//!
//! Each check is a function from what was read to a [`Finding`]; reading stands beside it, so
//! that the judgement can be tested with other hosts' numbers. Nothing is changed and no
//! traffic is sent. `bad` is kept for what `run` cannot start without.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::json;

mod host;
mod limits;
mod ring;

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Works, but a limit or a feature is less than it could be.
    Warn,
    /// `run` cannot start with it.
    Bad,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }

    /// The SGR code of its colour.
    const fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warn => 33,
            Self::Bad => 31,
        }
    }
}

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// For example `open files`.
    name: &'static str,
    verdict: Verdict,
    /// What is there, with units and what it means for a balancer.
    found: String,
    /// What to do about it; always there unless the verdict is `ok`.
    remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name, verdict: Verdict::Warn, found: found.into(), remedy }
    }

    fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name, verdict: Verdict::Bad, found: found.into(), remedy }
    }
}

/// Prints every finding. Exit 0, or 71 when something needed is refused.
#[must_use]
pub fn run(args: &DoctorArgs) -> ExitCode {
    let findings: Vec<Finding> =
        [host::examine(), ring::examine(), limits::examine()].into_iter().flatten().collect();
    let colour = std::io::stdout().is_terminal() && !crate::observe::logger::no_color();
    let text = if args.json { as_json(&findings) } else { as_table(&findings, colour) };
    let printed = super::print_all(text.as_bytes());
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad) {
        return ExitCode::from(super::REFUSED);
    }
    printed
}

fn as_json(findings: &[Finding]) -> String {
    let checks: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "name": finding.name,
                "verdict": finding.verdict.as_str(),
                "found": finding.found,
                "remedy": finding.remedy,
            })
        })
        .collect();
    let ok = !findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    let mut text =
        serde_json::to_string_pretty(&json!({ "ok": ok, "checks": checks })).unwrap_or_default();
    text.push('\n');
    text
}

fn as_table(findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let verdict = format!("{:<4}", finding.verdict.as_str());
        let verdict = if colour {
            format!("\x1b[{}m{verdict}\x1b[0m", finding.verdict.colour())
        } else {
            verdict
        };
        let _ = writeln!(text, "{verdict}  {:width$}  {}", finding.name, finding.found);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "      {:width$}  → {remedy}", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let summary = match (count(Verdict::Bad), count(Verdict::Warn)) {
        (0, 0) => "nothing to do".to_owned(),
        (0, warnings) => format!("runs here; {warnings} to look at"),
        (bad, _) => format!("does not run here: {bad} needed and refused"),
    };
    let _ = writeln!(text, "\n{summary}");
    text
}

/// A number in a file of /proc or /sys; `None` if it is not there or not a number.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number as people read it: `28,232`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [0, 999, 1_000, 28_232, 1_048_576].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "28,232", "1,048,576"]);
    }

    #[test]
    fn the_table_says_what_to_do_and_ends_with_a_verdict() {
        let findings = [Finding::ok("kernel", "6.1"), Finding::warn("ports", "100", "widen it")];
        let expected = "ok    kernel  6.1\n\
                        warn  ports   100\n              → widen it\n\
                        \nruns here; 1 to look at\n";
        assert_eq!(as_table(&findings, false), expected);
    }

    #[test]
    fn the_json_says_the_same() {
        let text = as_json(&[Finding::bad("io_uring", "refused", "allow it")]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["ok"], false);
        assert_eq!(value["checks"][0]["verdict"], "bad");
        assert_eq!(value["checks"][0]["remedy"], "allow it");
    }

    #[test]
    fn every_finding_on_this_host_that_is_not_ok_has_a_remedy() {
        let findings = [host::examine(), ring::examine(), limits::examine()].concat();
        // Without io_uring there is nothing to say about its features.
        assert!(findings.len() > 6, "{findings:?}");
        for finding in findings {
            assert_eq!(finding.verdict == Verdict::Ok, finding.remedy.is_none(), "{finding:?}");
        }
    }
}
