//! The `postgres` check: a start-up message must be answered by a server that takes clients.
//!
//! An authentication request passes. So does an error, because the user need not exist,
//! except SQLSTATE 57P03: the server is starting up, shutting down or recovering.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Failure, Stream, broken, ms};

/// Protocol 3.0.
const PROTOCOL: u32 = 196_608;
/// `Terminate`: the server need not log that we just vanished.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
/// `cannot_connect_now`.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// The longest message read: an error with all its fields is a few hundred bytes.
const MESSAGE_MAX: u32 = 8_192;

pub(super) async fn ask(
    mut stream: impl Stream,
    user: &str,
    started: Instant,
) -> Result<String, Failure> {
    stream.write_all(&startup(user)).await.map_err(broken)?;
    let kind = stream.read_u8().await.map_err(broken)?;
    let length = stream.read_u32().await.map_err(broken)?;
    if !(4..=MESSAGE_MAX).contains(&length) {
        return Err(Failure::server("answered something that is not PostgreSQL"));
    }
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await.map_err(broken)?;
    // It has answered; whether it reads our goodbye does not matter.
    let _ = stream.write_all(&TERMINATE).await;
    match kind {
        b'R' => Ok(format!("asks for authentication, in {}", ms(started.elapsed()))),
        b'E' => {
            let (state, text) = (field(&body, b'C'), field(&body, b'M'));
            if state == CANNOT_CONNECT_NOW {
                Err(Failure::Server(text))
            } else {
                Ok(format!("answered error {state} in {}", ms(started.elapsed())))
            }
        }
        _ => Err(Failure::server("answered something that is not PostgreSQL")),
    }
}

fn startup(user: &str) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(PROTOCOL.to_be_bytes());
    for text in ["user", user, ""] {
        message.extend(text.as_bytes());
        message.push(0);
    }
    let length = (message.len() as u32).to_be_bytes();
    message[..4].copy_from_slice(&length);
    message
}

/// A field of an `ErrorResponse`: a type byte, a string, a NUL, and so on until a NUL.
fn field(body: &[u8], wanted: u8) -> String {
    let fields = body.split(|&byte| byte == 0);
    let found = fields.filter_map(|field| field.split_first()).find(|(kind, _)| **kind == wanted);
    found.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_startup_message_counts_itself() {
        let message = startup("lb");
        assert_eq!(message, b"\0\0\0\x11\0\x03\0\0user\0lb\0\0");
    }

    #[test]
    fn fields_of_an_error_are_found_by_their_type() {
        let body = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0";
        assert_eq!(field(body, b'C'), "57P03");
        assert_eq!(field(body, b'M'), "the database system is starting up");
        assert_eq!(field(body, b'H'), "");
    }
}
