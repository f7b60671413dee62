//! Telling systemd: `READY=1`, `STOPPING=1` and `WATCHDOG=1` to the socket that `NOTIFY_SOCKET`
//! names (sd_notify(3), sd_watchdog_enabled(3)).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends `state` to the service manager, if there is one.
///
/// # Errors
/// When the socket that the environment names does not take it.
pub(super) fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => send(&socket, state),
        None => Ok(()),
    }
}

/// There is a service manager that wants to be told.
pub(super) fn has_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How long the service manager waits for a `WATCHDOG=1` before it kills; `None`: it does not.
#[must_use]
pub(super) fn watchdog() -> Option<Duration> {
    let of = |name| std::env::var(name).ok();
    watchdog_of(of("WATCHDOG_USEC").as_deref(), of("WATCHDOG_PID").as_deref())
}

fn watchdog_of(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    // Variables meant for a parent are inherited too.
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let usec = usec?.parse().ok().filter(|&usec| usec > 0)?;
    ours.then(|| Duration::from_micros(usec))
}

fn send(socket: &OsString, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    // It must not wait for a manager that does not read.
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrives(at: &UnixDatagram, socket: &OsString) {
        send(socket, "READY=1").unwrap();
        let mut text = [0; 64];
        at.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let count = at.recv(&mut text).unwrap();
        assert_eq!(&text[..count], b"READY=1");
    }

    #[test]
    fn the_watchdog_is_on_when_it_is_meant_for_this_process() {
        let ours = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_of(Some("1000000"), None), second);
        assert_eq!(watchdog_of(Some("1000000"), Some(&ours)), second);
        for (usec, pid) in [(None, None), (Some("0"), None), (Some("x"), None)] {
            assert_eq!(watchdog_of(usec, pid), None);
        }
        assert_eq!(watchdog_of(Some("1000000"), Some("1")), None);
    }

    #[test]
    fn reaches_a_socket_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        arrives(&UnixDatagram::bind(&path).unwrap(), &path.into_os_string());
        let name = format!("sluicegate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        arrives(&UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}").into());
    }
}
