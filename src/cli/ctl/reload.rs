//! `ctl reload`: has the configuration read again, and shows what came of it.

use std::process::ExitCode;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::client::Client;
use crate::cli::{CONFIG, print_all};

/// Reading, checking and building a file of 16 MiB takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the admin API answers.
#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<String>,
    changes: Option<Vec<String>>,
    pending: Vec<String>,
    warnings: String,
}

/// Exit 0 when it is in use, 78 with the report when it is not.
///
/// # Errors
/// When nobody can be asked.
pub(super) fn run(client: &Client, json: bool) -> Result<ExitCode, String> {
    let (status, body) = client.exchange(Method::POST, "/v1/reload", None, DEADLINE)?;
    if status != StatusCode::UNPROCESSABLE_ENTITY {
        client.judge(status, &body)?;
    }
    if json {
        let printed = print_all(&body);
        return Ok(if status == StatusCode::OK { printed } else { ExitCode::from(CONFIG) });
    }
    let answer: Answer = client.read(&body)?;
    if let Some(error) = answer.error {
        eprintln!("{}", error.trim_end());
        return Ok(ExitCode::from(CONFIG));
    }
    Ok(print_all(answer.text().as_bytes()))
}

impl Answer {
    fn text(&self) -> String {
        let changes = self.changes.as_deref().unwrap_or_default();
        let mut lines: Vec<String> = changes.to_vec();
        lines.extend(self.pending.iter().map(|pending| format!("waits: {pending}")));
        if !self.warnings.is_empty() {
            lines.push(self.warnings.trim_end().to_owned());
        }
        if changes.is_empty() {
            lines.push("reloaded; nothing in the files has changed".to_owned());
        } else {
            lines.push("reloaded".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_and_what_waits_is_told_before_the_word() {
        let answer = Answer {
            error: None,
            changes: Some(vec!["pool.a: added".into()]),
            pending: vec!["`runtime.workers` …".into()],
            warnings: String::new(),
        };
        assert_eq!(answer.text(), "pool.a: added\nwaits: `runtime.workers` …\nreloaded\n");
        let nothing = Answer { changes: Some(vec![]), pending: vec![], ..answer };
        assert_eq!(nothing.text(), "reloaded; nothing in the files has changed\n");
    }
}
