//! Connecting for a check, and whose fault it is when that fails.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::Failure;

pub(in crate::control) async fn tcp(
    to: SocketAddr,
    source: Option<IpAddr>,
) -> Result<TcpStream, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(judge)?;
    if let Some(source) = source {
        socket
            .bind(SocketAddr::new(source, 0))
            .map_err(|error| Failure::Ours(format!("cannot connect from {source}: {error}")))?;
    }
    let stream = socket.connect(to).await.map_err(judge)?;
    // Checks are a few small messages: never wait to fill a segment. Without it they work too.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

pub(super) async fn unix(path: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(path).await.map_err(judge)
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` hands it over
fn judge(error: io::Error) -> Failure {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return Failure::Server(error.to_string());
    };
    match errno {
        Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => Failure::Ours("no local port is free".into()),
        Errno::EMFILE | Errno::ENFILE => Failure::Ours("no file descriptor is left".into()),
        Errno::ENOBUFS | Errno::ENOMEM => Failure::Ours("the kernel has no memory left".into()),
        Errno::ECONNREFUSED => Failure::server("refused"),
        Errno::ECONNRESET => Failure::server("reset"),
        Errno::ETIMEDOUT => Failure::server("timeout"),
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => Failure::server("unreachable"),
        Errno::ENOENT => Failure::server("no such socket"),
        Errno::EAGAIN => Failure::server("its backlog is full"),
        other => Failure::Server(other.desc().to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_never_the_servers_fault() {
        for errno in [Errno::EADDRNOTAVAIL, Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS] {
            assert!(matches!(judge(errno.into()), Failure::Ours(_)), "{errno}");
        }
        assert_eq!(judge(Errno::ECONNREFUSED.into()), Failure::server("refused"));
    }
}
