//! TLS for a check, as the pool's traffic has it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Failure, Stream, TargetTls, broken};
use crate::tls::starttls::{self, Answer};

/// Speaks TLS to the server, after PostgreSQL's question where that is the way.
pub(in crate::control) async fn connect<S: Stream>(
    mut stream: S,
    target: TargetTls<'_>,
) -> Result<TlsStream<S>, Failure> {
    if target.starttls {
        ask(&mut stream).await?;
    }
    let (config, name) = target.tls.for_check(target.name.clone());
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| Failure::Server(format!("TLS: {error}")))
}

async fn ask(stream: &mut impl Stream) -> Result<(), Failure> {
    stream.write_all(&starttls::SSL_REQUEST).await.map_err(broken)?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map_err(broken)?;
    match starttls::answer(&byte) {
        Answer::Tls => Ok(()),
        Answer::NoTls => Err(Failure::server("it has no TLS")),
        Answer::More | Answer::Bad => Err(Failure::server("it does not answer as PostgreSQL")),
    }
}
