//! The `redis` check: `PING` must get `+PONG`.
//!
//! A server that is loading its data or has lost its master answers with an error line. It
//! accepts connections, but must not get clients.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Failure, Stream, broken, ms};
use crate::config::plan::Secret;

/// The longest line read. Simple strings and errors of a `PING` are far shorter.
const LINE_MAX: usize = 512;

pub(super) async fn ask(
    mut stream: impl Stream,
    password: Option<&Secret>,
    started: Instant,
) -> Result<String, Failure> {
    if let Some(Secret(password)) = password {
        let auth = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len());
        stream.write_all(auth.as_bytes()).await.map_err(broken)?;
        expect(&line(&mut stream).await?, "+OK")?;
    }
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.map_err(broken)?;
    expect(&line(&mut stream).await?, "+PONG")?;
    Ok(format!("PONG in {}", ms(started.elapsed())))
}

fn expect(line: &str, wanted: &str) -> Result<(), Failure> {
    if line == wanted {
        return Ok(());
    }
    Err(Failure::Server(match line.strip_prefix('-') {
        Some(error) => error.to_owned(),
        None => format!("answered {line:?}, not {wanted}"),
    }))
}

/// One line without its end. Byte by byte: what follows belongs to no one, and it is short.
async fn line(stream: &mut impl Stream) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        if bytes.len() == LINE_MAX {
            return Err(Failure::server("answered a line without an end"));
        }
        bytes.push(stream.read_u8().await.map_err(broken)?);
    }
    bytes.truncate(bytes.len() - 2);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
