//! The admin API: a small HTTP/1.1 server on the control thread.
//!
//! Bounded on every side: connections by [`places`], a head by [`HEAD_MAX`] and
//! [`HEADER_TIMEOUT`], a body by [`body`], an answer that nobody takes by [`patience`]. Whatever
//! takes longer than a millisecond (asking the workers, rendering) runs on a blocking thread.
//!
//! To add a route: add its row to `routes::ROUTES` and its arm to `routes::answer`.

mod answers;
mod body;
mod guard;
mod page;
mod patience;
mod places;
mod routes;
mod servers;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::checks::Checks;
use super::commands::Teller;
use super::desk::Desk;
use super::start::AdminSocket;
use crate::config::plan::BindAddr;
use crate::runtime::worker::pairs_max;
use answers::Answer;
use patience::Patience;
use places::{Busy, Place, Places};

/// Connections at once where descriptors are plenty: scrapers, a few people, their scripts.
const CONNECTIONS_MAX: usize = 256;

/// Connections at once where they are few: a scraper and a person still get in.
const CONNECTIONS_LEAST: usize = 16;

/// Time for a request's head, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a head and of what is read at once: a token, a Host and a long user agent fit many
/// times; more is a 431.
const HEAD_MAX: usize = 16 << 10;

/// How long a connection takes new requests. What it answers by then is finished, and a stream
/// of events goes on for as long as it is read.
const LIFE_MAX: Duration = Duration::from_secs(300);

/// How long a peer may take nothing of what it asked for: two heartbeats of a stream, so one that
/// is slow for a moment stays.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Between two signs of life on a quiet stream: proxies and firewalls forget what is silent for
/// longer than a minute, and a reader that is gone is found out.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Pause after an accept that failed: without it, a lack of descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every request is answered from.
#[derive(Debug)]
struct Context {
    desk: Rc<Desk>,
    checks: Rc<Checks>,
    streams: stream::Streams,
    commands: Teller,
}

/// Accepts for ever.
pub(super) async fn serve(
    socket: AdminSocket,
    desk: Rc<Desk>,
    checks: Rc<Checks>,
    commands: Teller,
) {
    let listener = match Listener::try_from(socket) {
        Ok(listener) => listener,
        Err(error) => {
            desk.log.error(format_args!("the admin API cannot serve: {error}"));
            return;
        }
    };
    // A part of the descriptors kept for control, as probes have theirs.
    let places_max = (pairs_max() as usize / 16).clamp(CONNECTIONS_LEAST, CONNECTIONS_MAX);
    let places = Places::new(places_max);
    let streams = stream::Streams::new(places_max / 4, HEARTBEAT);
    let context = Rc::new(Context { desk, checks, streams, commands });
    loop {
        let accepted = match &listener {
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    let place = places.enter().await;
                    tokio::task::spawn_local(admit(stream, place, context.clone()));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Listener::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    let place = places.enter().await;
                    tokio::task::spawn_local(admit(stream, place, context.clone()));
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = accepted {
            context.desk.log.debug(format_args!("the admin API could not accept: {error}"));
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        // Whoever had to make room closes now, so that a crowd holds no more than its places.
        tokio::task::yield_now().await;
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl TryFrom<AdminSocket> for Listener {
    type Error = std::io::Error;

    fn try_from(socket: AdminSocket) -> std::io::Result<Self> {
        Ok(match socket {
            AdminSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            AdminSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }
}

/// Serves a connection, under TLS if the plan in use says so: a certificate that was renewed, or
/// `tls` that came with a reload, holds for the next one.
async fn admit(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: Rc<Place>,
    context: Rc<Context>,
) {
    let Some(tls) = context.desk.instance.snapshot().fronts.admin.clone() else {
        return connection(stream, place, context).await;
    };
    let handshake = TlsAcceptor::from(Arc::clone(tls.default_config())).accept(stream);
    let secured = tokio::select! {
        secured = tokio::time::timeout(HEADER_TIMEOUT, handshake) => secured,
        () = place.asked_to_leave() => return,
    };
    match secured {
        Ok(Ok(stream)) => connection(stream, place, context).await,
        Ok(Err(error)) => {
            context.desk.log.debug(format_args!("the admin API: no TLS with a client: {error}"));
        }
        Err(_) => context.desk.log.debug("the admin API: a client did not finish its handshake"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: Rc<Place>,
    context: Rc<Context>,
) {
    let service = service_fn(|request| {
        let (place, context) = (place.clone(), context.clone());
        async move {
            let busy = place.busy();
            let mut answer = answer(request, &context, &busy).await;
            answer.body_mut().keep(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Patience::new(stream, STALL_MAX)), service);
    let mut connection = pin!(connection);
    let asked_to_leave = place.asked_to_leave();
    tokio::select! {
        // An error here is the peer's: it went away or sent nonsense, and got its 400.
        _ = &mut connection => return,
        () = &mut pin!(asked_to_leave) => return,
        () = tokio::time::sleep(LIFE_MAX) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = place.asked_to_leave() => {}
    }
}

async fn answer(request: Request<Incoming>, context: &Context, busy: &Busy) -> Answer {
    // Tokens and names may change with a reload; the address is that of the start.
    let plan = context.desk.instance.plan();
    let Some(admin) = &plan.admin else { return answers::busy("the admin API ends") };
    let over_unix = matches!(admin.bind, BindAddr::Unix(_));
    match guard::check(&request, admin, over_unix) {
        Ok(()) => routes::answer(request, context, busy).await,
        Err(refusal) => refusal.answer(),
    }
}
