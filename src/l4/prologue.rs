//! What is read before a session has a server: a PROXY header, a ClientHello, a handshake.
//!
//! Straight-line code: it reads top to bottom, uses one-shot operations only, and ends with
//! nothing in flight. It decides nothing about servers; that is `admit.rs`.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::proxy_header::{self, Header};
use super::seats::{How, Outcome, Stage, Welcome};
use super::tunnel::{Watchers, tunnel as run_tunnel};
use crate::config::plan::{self, SniRoutes, Timeouts};
use crate::fronts::Front;
use crate::http::Site;
use crate::limits::AccessList;
use crate::observe::reason::Reason;
use crate::registry::PoolId;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::{Inbox, Socket};
use crate::runtime::time::Time;
use crate::stream::{Stream, StreamError, Tls};
use crate::tls::server::{Admission, Opening, ServerTls};
use crate::tls::starttls::{self, Answer, Step};
use crate::tls::upstream::ClientTls;
use crate::tls::{Alert, hello};

/// What a listener wants to know first.
#[derive(Debug)]
pub(super) struct Prelude {
    /// Peers that send a PROXY header.
    trusted: Option<AccessList>,
    sni: Option<SniRoutes>,
    tls: Option<Arc<ServerTls>>,
    starttls: bool,
    site: Option<Arc<Site>>,
}

impl Prelude {
    pub fn new(listener: &plan::Listener, front: &Front) -> Self {
        Self {
            trusted: listener.accept_proxy.then(|| AccessList::new(&listener.trusted, &[])),
            sni: listener.sni.clone(),
            tls: front.tls.clone(),
            starttls: listener.tls.as_ref().is_some_and(|tls| tls.starttls_postgres),
            site: front.site.clone(),
        }
    }

    /// A session begins at once.
    pub fn is_none(&self) -> bool {
        self.is_silent() && self.site.is_none()
    }

    /// Nothing is read before the session's own first byte.
    pub fn is_silent(&self) -> bool {
        self.trusted.is_none() && self.sni.is_none() && self.tls.is_none()
    }

    /// Which pool it is, the client's hello says.
    pub const fn chooses_pool(&self) -> bool {
        self.sni.is_some()
    }

    /// What an HTTP listener is.
    pub fn site(&self) -> Option<Arc<Site>> {
        self.site.clone()
    }

    /// A peer with this address sends a PROXY header first.
    pub fn proxied(&self, ip: Option<IpAddr>) -> bool {
        self.trusted.as_ref().zip(ip).is_some_and(|(trusted, ip)| trusted.permits(ip))
    }
}

/// Why there will be no session, and what the client hears of it.
struct Refused {
    reason: Reason,
    how: How,
}

impl From<Reason> for Refused {
    /// There is nothing to say.
    fn from(reason: Reason) -> Self {
        Self { reason, how: How::Reset }
    }
}

impl Refused {
    /// Says why, and ends in order: an RST right behind it would take it away from the client.
    async fn saying<D: Driver>(reason: Reason, bytes: &[u8], stream: &mut Stream<D>) -> Self {
        let _ = stream.send(bytes).await;
        let _ = stream.finish().await;
        Self { reason, how: How::Linger }
    }
}

/// Reads what the listener wants to know.
pub(super) async fn prologue<D: Driver>(
    socket: Socket<D>,
    prelude: &Prelude,
    proxied: bool,
    timeouts: Timeouts,
) -> Outcome {
    let mut stream = Stream::plain(socket);
    let mut welcome = Welcome::default();
    match read(&mut stream, prelude, proxied, timeouts, &mut welcome).await {
        Ok(()) => {
            welcome.tls = stream.into_tls();
            Outcome::Ready(Box::new(welcome))
        }
        Err(Refused { reason, how }) => {
            Outcome::Refused { reason, how, at: welcome.stage, sni: welcome.sni }
        }
    }
}

async fn read<D: Driver>(
    stream: &mut Stream<D>,
    prelude: &Prelude,
    proxied: bool,
    timeouts: Timeouts,
    welcome: &mut Welcome,
) -> Result<(), Refused> {
    let shell = std::rc::Rc::clone(stream.socket().shell());
    welcome.proxied = proxied;
    if proxied {
        let until = shell.now() + timeouts.proxy;
        let header = read_proxy_header(stream, &mut welcome.inbox);
        let header = shell.timeout(until, header).await;
        welcome.peer = header
            .unwrap_or(Err(Reason::ProxyHeaderTimeout.into()))?
            .addresses
            .map(|(from, _)| from);
    }
    let until = shell.now() + timeouts.handshake;
    if let Some(sni) = &prelude.sni {
        let chosen = {
            let choosing = pin!(choose_by_name(stream, sni, welcome));
            shell.timeout(until, choosing).await
        };
        welcome.pool = Some(chosen.unwrap_or(Err(Reason::TlsFailed.into()))?);
    }
    if let Some(tls) = &prelude.tls {
        welcome.stage = Stage::Handshake;
        let inbox = std::mem::take(&mut welcome.inbox);
        let accepted = accept_tls(stream, tls, prelude.starttls, inbox);
        let accepted = shell.timeout(until, Box::pin(accepted)).await;
        welcome.admission = Some(accepted.unwrap_or(Err(Reason::TlsFailed.into()))?);
    }
    Ok(())
}

async fn read_proxy_header<D: Driver>(
    stream: &mut Stream<D>,
    inbox: &mut Inbox,
) -> Result<Header, Refused> {
    loop {
        match proxy_header::read(inbox.bytes()) {
            proxy_header::Verdict::More => {}
            proxy_header::Verdict::Header(header) => {
                inbox.consume(header.len);
                return Ok(header);
            }
            proxy_header::Verdict::Bad(_) => return Err(Reason::ProxyHeaderBad.into()),
        }
        match stream.recv(inbox).await {
            Ok(0) | Err(StreamError::TooLarge) => return Err(Reason::ProxyHeaderBad.into()),
            Ok(_) => {}
            Err(_) => return Err(Reason::ClientReset.into()),
        }
    }
}

/// Reads a ClientHello that goes on undecrypted, for the pool of its name.
async fn choose_by_name<D: Driver>(
    stream: &mut Stream<D>,
    sni: &SniRoutes,
    welcome: &mut Welcome,
) -> Result<PoolId, Refused> {
    let hello = read_hello(stream, &mut welcome.inbox).await?;
    welcome.sni = hello.server_name;
    let Some(pool) = sni.choose(welcome.sni.as_deref()) else {
        let alert = Alert::UnrecognizedName.record();
        return Err(Refused::saying(Reason::SniUnknown, &alert, stream).await);
    };
    Ok(PoolId(pool as u16))
}

async fn read_hello<D: Driver>(
    stream: &mut Stream<D>,
    inbox: &mut Inbox,
) -> Result<hello::Hello, Refused> {
    loop {
        match hello::read(inbox.bytes()) {
            hello::Verdict::More => {}
            hello::Verdict::Hello(hello) => return Ok(hello),
            hello::Verdict::NotTls | hello::Verdict::TooLarge => {
                return Err(Reason::TlsFailed.into());
            }
            hello::Verdict::Bad(alert) => {
                return Err(Refused::saying(Reason::TlsFailed, &alert.record(), stream).await);
            }
        }
        receive(stream, inbox).await?;
    }
}

/// The server's side of a handshake, after PostgreSQL's question for it where that is spoken.
async fn accept_tls<D: Driver>(
    stream: &mut Stream<D>,
    tls: &Arc<ServerTls>,
    starttls: bool,
    mut inbox: Inbox,
) -> Result<Admission, Refused> {
    if starttls {
        accept_starttls(stream, &mut inbox).await?;
    }
    let mut incoming = tls.accept();
    let pending = loop {
        if inbox.is_empty() {
            receive(stream, &mut inbox).await?;
        }
        let opening = incoming.read(inbox.bytes());
        inbox.consume(inbox.len());
        match opening {
            Opening::More => {}
            Opening::Ready(pending) => break pending,
            Opening::Refused(refused) => {
                return Err(Refused::saying(Reason::TlsFailed, &refused.alert, stream).await);
            }
        }
    };
    // A signature and a key exchange: a good part of a millisecond.
    stream.socket().shell().handshake_turn().await;
    let admission = pending.admission();
    match pending.handshake() {
        Ok(connection) => {
            stream.secure(Tls::new(connection.into()));
            match stream.handshake().await {
                Ok(()) => Ok(admission),
                Err(StreamError::Reset | StreamError::Refused) => Err(Reason::ClientReset.into()),
                // The alert is sent already.
                Err(_) => Err(Refused::saying(Reason::TlsFailed, b"", stream).await),
            }
        }
        Err(refused) => Err(Refused::saying(Reason::TlsFailed, &refused.alert, stream).await),
    }
}

async fn receive<D: Driver>(stream: &mut Stream<D>, inbox: &mut Inbox) -> Result<(), Refused> {
    match stream.recv(inbox).await {
        Ok(0) | Err(StreamError::TooLarge) => Err(Reason::TlsFailed.into()),
        Ok(_) => Ok(()),
        Err(_) => Err(Reason::ClientReset.into()),
    }
}

/// PostgreSQL's question for TLS (protocol 3.0, "SSL Session Encryption"), answered with yes.
async fn accept_starttls<D: Driver>(
    stream: &mut Stream<D>,
    inbox: &mut Inbox,
) -> Result<(), Refused> {
    let mut question = starttls::Question::default();
    loop {
        let step = question.read(inbox.bytes());
        let (answer, done) = match step {
            Step::More => {
                receive(stream, inbox).await?;
                continue;
            }
            Step::Again(answer) | Step::Refuse(answer) => (answer, false),
            Step::Tls(answer) => (answer, true),
        };
        inbox.consume(inbox.len());
        if let Step::Refuse(answer) = step {
            return Err(Refused::saying(Reason::TlsFailed, answer, stream).await);
        }
        stream.send(answer).await.map_err(|_| Reason::ClientReset)?;
        if done {
            return Ok(());
        }
    }
}

/// TLS towards the server if its pool says so, then bytes in both directions.
pub(super) async fn tunnel<D: Driver>(
    mut client: Stream<D>,
    upstream: Socket<D>,
    pending: Inbox,
    back: Option<(Arc<ClientTls>, ServerName<'static>, bool)>,
    timeouts: Timeouts,
    accepted_at: Time,
    watchers: Watchers,
) -> Outcome {
    let mut upstream = Stream::plain(upstream);
    if let Some((tls, name, starttls)) = back {
        let shell = std::rc::Rc::clone(client.socket().shell());
        let until = shell.now() + timeouts.handshake;
        let connected = {
            let connecting = Box::pin(connect_tls(&mut upstream, &tls, name, starttls));
            shell.timeout(until, connecting).await
        };
        if let Err(reason) = connected.unwrap_or(Err(Reason::TlsFailed)) {
            // A reset is counted at the session's end, like any before an answer.
            if let (Reason::TlsFailed, Some(witness)) = (reason, &watchers.witness) {
                witness.suspect();
            }
            return Outcome::Ended { how: How::Reset, reason, bytes_in: 0, bytes_out: 0 };
        }
    }
    run_tunnel(&mut client, &mut upstream, pending, timeouts, accepted_at, watchers).await
}

/// The client's side of a handshake.
pub async fn connect_tls<D: Driver>(
    upstream: &mut Stream<D>,
    tls: &ClientTls,
    name: ServerName<'static>,
    starttls: bool,
) -> Result<(), Reason> {
    if starttls {
        ask_starttls(upstream).await?;
    }
    let connection = tls.connect(name).map_err(|_| Reason::TlsFailed)?;
    upstream.secure(Tls::new(connection.into()));
    upstream.handshake().await.map_err(|error| match error {
        StreamError::Reset | StreamError::Refused => Reason::ServerReset,
        _ => Reason::TlsFailed,
    })
}

/// PostgreSQL's question for TLS, as a client asks it.
async fn ask_starttls<D: Driver>(upstream: &mut Stream<D>) -> Result<(), Reason> {
    let mut inbox = Inbox::default();
    upstream.send(&starttls::SSL_REQUEST).await.map_err(|_| Reason::ServerReset)?;
    loop {
        match starttls::answer(inbox.bytes()) {
            Answer::More => {}
            Answer::Tls => return Ok(()),
            Answer::NoTls | Answer::Bad => return Err(Reason::TlsFailed),
        }
        match upstream.recv(&mut inbox).await {
            Ok(1..) => {}
            Ok(0) => return Err(Reason::TlsFailed),
            Err(_) => return Err(Reason::ServerReset),
        }
    }
}
