//! The gateway of the demo: an ordinary plan from an ordinary text, run in this process.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use super::servers::NAMES;
use super::web;
use crate::config;
use crate::config::plan::BindAddr;
use crate::control::instance::Phase;
use crate::control::{self, Running, ServeError, ServeOptions};

/// The listener's name.
pub const LISTENER: &str = "demo";
/// The pool with all servers.
pub const POOL: &str = "servers";

/// The first checks are over loopback; longer than this only a broken machine takes.
const START_MAX: Duration = Duration::from_secs(10);

/// Ports of the HTTP listeners and of the admin API, counted from the listener's.
const WEB_OFFSET: u16 = 1;
const ADMIN_OFFSET: u16 = 2;
const SECURE_OFFSET: u16 = 3;

/// Starts it in front of `servers`, on loopback only: clients on `port`, HTTP on `port` + 1,
/// admin on `port` + 2, HTTP in TLS on `port` + 3, or on a free one where that is taken.
///
/// # Errors
/// When the system refuses the port.
pub fn start(port: u16, key: &str, servers: &[SocketAddr]) -> Result<Running, ServeError> {
    let text = configuration(port, key, servers);
    let loaded = config::load_text("demo.toml", text.as_bytes()).map_err(|report| {
        ServeError::Failed(format!("a defect in the demo's plan: {}", report.render(false)))
    })?;
    let mut plan = loaded.plan;
    for listener in plan.listeners.iter_mut().filter(|one| one.name == web::SECURE) {
        listener.tls = Some(web::tls().map_err(ServeError::Failed)?);
    }
    let running = control::start(plan, ServeOptions::embedded())?;
    if running.instance.wait_started(START_MAX) == Phase::Ready {
        return Ok(running);
    }
    running.stop_now();
    running.join()?;
    Err(ServeError::Failed("the gateway did not get ready".into()))
}

/// The address of the admin API.
#[must_use]
pub fn admin(running: &Running) -> Option<SocketAddr> {
    match running.instance.admin {
        Some(BindAddr::Ip(address)) => Some(address),
        _ => None,
    }
}

/// `port` + `offset` where that is free, else 0: the kernel's choice.
fn port_beside(port: u16, offset: u16) -> u16 {
    let wanted = if port == 0 { 0 } else { port.saturating_add(offset) };
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).is_ok();
    if free && wanted > port { wanted } else { 0 }
}

/// The file that an operator would write for this.
fn configuration(port: u16, key: &str, servers: &[SocketAddr]) -> String {
    let admin = port_beside(port, ADMIN_OFFSET);
    let [web, secure] = [WEB_OFFSET, SECURE_OFFSET].map(|offset| port_beside(port, offset));
    let web = web::tables(web, secure, key, servers);
    let mut lines = String::new();
    for (name, address) in NAMES.iter().zip(servers) {
        let _ = writeln!(lines, "{name} = \"{address}\"");
    }
    format!(
        "\
version = 1
[runtime]
drain_timeout = \"1s\"
[admin]
bind = \"127.0.0.1:{admin}\"
[log]
access = \"off\"
[defaults]
connect_timeout = \"500ms\"
[listener.{LISTENER}]
bind = \"127.0.0.1:{port}\"
mode = \"tcp\"
pool = \"servers\"
[pool.servers]
balance = \"round-robin\"
check = {{ type = \"tcp\", every = \"500ms\", timeout = \"400ms\", fall = 2, rise = 1 }}
hold = \"10s\"
[pool.servers.servers]
{lines}{web}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_the_demo_has_neither_errors_nor_warnings() {
        let servers = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = configuration(0, "demo-key", &servers);
        let loaded = config::load_text("demo.toml", text.as_bytes());
        let loaded = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert_eq!(loaded.warnings.render(false), "");
        assert_eq!(loaded.plan.pools[0].servers.len(), 3);
    }

    #[test]
    fn a_taken_admin_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = taken.local_addr().expect("bound").port();
        assert_eq!(port_beside(port - ADMIN_OFFSET, ADMIN_OFFSET), 0);
        drop(taken);
        assert_eq!((port_beside(0, 1), port_beside(u16::MAX, 1)), (0, 0));
    }
}
