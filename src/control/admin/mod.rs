//! The admin API: a small HTTP/1.1 server on the control thread.
//!
//! Bounded on every side: [`CONNECTIONS_MAX`] connections, each with a time to send its head
//! and a life of at most [`LIFE_MAX`]; no request body is read. Whatever takes longer than a
//! millisecond (asking the workers, rendering) runs on a blocking thread.

mod guard;
mod page;
mod routes;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::desk::Desk;
use super::instance::Instance;
use super::start::AdminSocket;
use crate::config::plan::{Admin, BindAddr};

/// Connections at once; more wait in the backlog. Scrapers, a few people and their scripts.
const CONNECTIONS_MAX: usize = 256;

/// Time for a request's head, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one connection may last: a peer that does not read its answer gives its place back.
const LIFE_MAX: Duration = Duration::from_secs(300);

/// Pause after an accept that failed: without it, a lack of descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(super) async fn serve(socket: AdminSocket, admin: Admin, desk: Rc<Desk>) {
    let admin = Rc::new(admin);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let listener = match Listener::try_from(socket) {
        Ok(listener) => listener,
        Err(error) => {
            desk.log.error(format_args!("the admin API cannot serve: {error}"));
            return;
        }
    };
    loop {
        // Never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = match &listener {
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| connection(stream, permit, &admin, &desk))
            }
            Listener::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| connection(stream, permit, &admin, &desk))
            }
        };
        if let Err(error) = accepted {
            desk.log.debug(format_args!("the admin API could not accept: {error}"));
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
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

fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    permit: OwnedSemaphorePermit,
    admin: &Rc<Admin>,
    desk: &Rc<Desk>,
) {
    let (admin, instance) = (admin.clone(), desk.instance.clone());
    tokio::task::spawn_local(async move {
        let _permit = permit;
        let service = service_fn(move |request| {
            let (admin, instance) = (admin.clone(), instance.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&request, &admin, &instance).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        // An error here is the peer's: it went away or sent nonsense, and got its 400.
        let _ = tokio::time::timeout(LIFE_MAX, connection).await;
    });
}

async fn answer<B>(
    request: &hyper::Request<B>,
    admin: &Admin,
    instance: &Arc<Instance>,
) -> routes::Answer {
    let over_unix = matches!(admin.bind, BindAddr::Unix(_));
    match guard::check(request, admin, over_unix) {
        Ok(()) => routes::answer(request, instance).await,
        Err(refusal) => refusal.answer(),
    }
}
