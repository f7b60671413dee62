//! `ctl drain`, `ready`, `maint` and `weight`: one server of a running instance.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;

use super::client::Client;
use crate::cli::{FAILED, fail, print_all};
use crate::observe::status::{ServerStatus, Status};
use crate::registry::AdminState;

/// Between two looks at how many sessions are left. An answer asks every worker, which is little
/// work, and a script that waits does not notice a fifth of a second.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `POOL/SERVER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerPath {
    pool: String,
    server: String,
}

impl FromStr for ServerPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As the configuration has names, so that they can stand in a path.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(fits);
        match text.split_once('/') {
            Some((pool, server)) if is_name(pool) && is_name(server) => {
                Ok(Self { pool: pool.into(), server: server.into() })
            }
            _ => Err("a server is named as POOL/SERVER, as in `pg/pg1`".into()),
        }
    }
}

impl fmt::Display for ServerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.server)
    }
}

pub(super) fn state(
    client: &Client,
    server: &ServerPath,
    state: AdminState,
    json: bool,
) -> Result<ExitCode, String> {
    let (body, status) = change(client, server, &json!({ "state": state.as_str() }))?;
    Ok(tell(server, &body, &status, json))
}

pub(super) fn weight(
    client: &Client,
    server: &ServerPath,
    weight: u16,
    json: bool,
) -> Result<ExitCode, String> {
    let (body, status) = change(client, server, &json!({ "weight": weight }))?;
    Ok(tell(server, &body, &status, json))
}

pub(super) fn drain(
    client: &Client,
    server: &ServerPath,
    wait: Option<Duration>,
    json: bool,
) -> Result<ExitCode, String> {
    let until = wait.map(|wait| Instant::now() + wait);
    let wanted = json!({ "state": AdminState::Drain.as_str() });
    let (mut body, mut status) = change(client, server, &wanted)?;
    let Some(until) = until else { return Ok(tell(server, &body, &status, json)) };
    while status.active > 0 {
        if status.admin != AdminState::Drain.as_str() {
            return Err(format!("{server} was made {} meanwhile", status.admin));
        }
        if Instant::now() >= until {
            if json {
                print_all(&body);
            }
            let left = sessions(status.active);
            return Ok(fail(FAILED, format_args!("{server} drains, and {left} left")));
        }
        client.pause(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
        let mut all: Status = client.read(&client.get("/v1/status")?)?;
        let pool = all.pools.get_mut(&server.pool);
        let found = pool.and_then(|pool| pool.servers.remove(&server.server));
        status = found.ok_or_else(|| format!("{server} is not there any more"))?;
        body = serde_json::to_vec(&status).unwrap_or_default();
        body.push(b'\n');
    }
    Ok(tell(server, &body, &status, json))
}

fn change(
    client: &Client,
    server: &ServerPath,
    wanted: &serde_json::Value,
) -> Result<(Vec<u8>, ServerStatus), String> {
    let path = format!("/v1/pools/{}/servers/{}", server.pool, server.server);
    let body = client.send(Method::PATCH, &path, Some(wanted))?;
    let status = client.read(&body)?;
    Ok((body, status))
}

fn tell(server: &ServerPath, body: &[u8], status: &ServerStatus, json: bool) -> ExitCode {
    if json {
        return print_all(body);
    }
    print_all(sentence(server, status).as_bytes())
}

/// Where the server stands now.
fn sentence(server: &ServerPath, status: &ServerStatus) -> String {
    let configured = status.configured.weight;
    let weight = match status.weight {
        weight
            if weight == configured || status.members.is_some() && status.r#override.is_none() =>
        {
            format!("weight {weight}")
        }
        weight => format!("weight {weight}, configured {configured}"),
    };
    let (state, detail) = (&status.state, &status.health.detail);
    let left = sessions(status.active);
    format!("{server} is {state}, {weight}; {left} there; check: {detail}\n")
}

fn sessions(count: u32) -> String {
    match count {
        0 => "no session is".into(),
        1 => "1 session is".into(),
        count => format!("{count} sessions are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_pool_and_server() {
        let path = "pg/pg1".parse::<ServerPath>().unwrap();
        assert_eq!((path.pool.as_str(), path.server.as_str()), ("pg", "pg1"));
        for wrong in ["", "pg", "pg/", "/pg1", "pg/pg1/x", "p g/x", "pg/?x", "../x/y"] {
            let error = wrong.parse::<ServerPath>().unwrap_err();
            assert!(error.contains("POOL/SERVER"), "{wrong}");
        }
    }
}
