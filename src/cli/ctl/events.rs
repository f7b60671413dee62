//! `ctl events`: what happened, one line each, and then what happens.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use serde::Deserialize;

use super::client::Client;

/// One event, as `GET /v1/events` has it.
#[derive(Debug, Deserialize)]
struct Told {
    at: String,
    kind: String,
    text: String,
}

/// Follows until interrupted, or until nobody reads.
pub(super) fn follow(client: &Client, json: bool) -> Result<ExitCode, String> {
    let mut failed = None;
    client.follow("/v1/events", |line| {
        let Some(data) = line.strip_prefix("data: ") else { return true };
        let line = if json { format!("{data}\n") } else { row(data) };
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        failed = written.err();
        failed.is_none()
    })?;
    match failed {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn row(data: &str) -> String {
    match serde_json::from_str::<Told>(data) {
        Ok(Told { at, kind, text }) => format!("{at}  {kind:<18} {text}\n"),
        Err(_) => format!("{data}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let data = r#"{"id":1,"at":"2026-11-24T15:04:05Z","kind":"server-up","text":"a is up"}"#;
        assert_eq!(row(data), "2026-11-24T15:04:05Z  server-up          a is up\n");
        assert_eq!(row("what?"), "what?\n");
    }
}
