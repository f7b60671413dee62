//! The gateway of the demo: an ordinary plan from an ordinary text, run in this process.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use super::servers::NAMES;
use crate::config;
use crate::config::plan::BindAddr;
use crate::control::instance::Phase;
use crate::control::{self, Running, ServeError, ServeOptions};

/// The listener's name.
pub const LISTENER: &str = "demo";

/// The first checks are over loopback; longer than this only a broken machine takes.
const START_MAX: Duration = Duration::from_secs(10);

/// Port of the admin API, counted from the listener's; between them is that of a later one.
const ADMIN_OFFSET: u16 = 2;

/// Starts it in front of `servers`, on loopback only: clients on `port`, admin on `port` + 2,
/// or on a free one if that is taken.
///
/// # Errors
/// When the system refuses `io_uring` or the port.
pub fn start(port: u16, servers: &[SocketAddr]) -> Result<Running, ServeError> {
    let text = configuration(port, admin_port(port), servers);
    let plan = config::load_text("demo.toml", text.as_bytes()).map_err(|report| {
        ServeError::Failed(format!("a defect in the demo's plan: {}", report.render(false)))
    })?;
    let running = control::start(plan.plan, ServeOptions::embedded())?;
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

/// `port` + 2 where that is free, else 0: the kernel's choice.
fn admin_port(port: u16) -> u16 {
    let wanted = if port == 0 { 0 } else { port.saturating_add(ADMIN_OFFSET) };
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).is_ok();
    if free && wanted > port { wanted } else { 0 }
}

/// The file that an operator would write for this.
fn configuration(port: u16, admin: u16, servers: &[SocketAddr]) -> String {
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
{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_the_demo_has_neither_errors_nor_warnings() {
        let servers = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = configuration(8080, 8082, &servers);
        let loaded = config::load_text("demo.toml", text.as_bytes());
        let loaded = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert_eq!(loaded.warnings.render(false), "");
        assert_eq!(loaded.plan.pools[0].servers.len(), 3);
    }

    #[test]
    fn a_taken_admin_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = taken.local_addr().expect("bound").port();
        assert_eq!(admin_port(port - ADMIN_OFFSET), 0);
        drop(taken);
        assert_eq!((admin_port(0), admin_port(u16::MAX)), (0, 0));
    }
}
