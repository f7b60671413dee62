//! The checked configuration: what `check` returns and everything else reads.
//!
//! Owns no behaviour and no text of the file: every value here is in range, every reference
//! is an index that exists, every default is filled in. Raw TOML or JSON never gets past
//! `check.rs`. A plan is immutable; a new file makes a new plan.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use sluicegate_l7::policy::consumer::ConsumerSpec;
pub use sluicegate_l7::policy::rate::Rate;
use sluicegate_l7::policy::spec::{BreakerPolicy, Fallback, PolicySpec};
use sluicegate_l7::route::spec::{ActionSpec, RouteSpec};

pub use super::plan_http::{
    CertEntry, ClientAuth, ClientCertField, ErrorPage, HashBy, HttpLimits, HttpListener,
    HttpTimeoutOverrides, HttpTimeouts, KeepAlive, ListenerTls, Pem, PoolTls, Protocol, TlsVersion,
    Verify,
};

/// Everything one file (and what it includes) says.
#[derive(Clone, Debug)]
pub struct Plan {
    pub runtime: Runtime,
    pub admin: Option<Admin>,
    pub log: Log,
    /// In file order, after a reload by seat (`seats.rs`); `ListenerId` indexes it.
    pub listeners: Vec<Listener>,
    /// In file order, then those that stand for addresses of auth services; `PoolId` indexes it.
    pub pools: Vec<Pool>,
    /// In file order.
    pub policies: Vec<PolicySpec>,
    pub consumers: Vec<ConsumerSpec>,
    /// What was read, as JSON, with secrets blanked: what `GET /v1/config` shows.
    pub shown: serde_json::Value,
    /// Hex digest of the bytes that were read, shown as `config.hash`.
    pub hash: String,
}

/// Process-wide settings, read once at start.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// What carries the sessions.
    pub engine: EngineChoice,
    /// `None`: the CPUs this process may use.
    pub workers: Option<u16>,
    pub timeout_drain: Duration,
    /// After SIGTERM: `/readyz` says 503 while accepting goes on for this long.
    pub delay_shutdown: Option<Duration>,
    /// Sessions in all; `None`: from `RLIMIT_NOFILE`, with a reserve.
    pub max_conns: Option<u32>,
    pub dns: Dns,
    /// Reload when the files change.
    pub watch: bool,
}

/// `runtime.engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring, or epoll where that is refused.
    Auto,
    Uring,
    Epoll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// Kinds of address that a name must not resolve to.
    pub refuse: Vec<AddressKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    Loopback,
    LinkLocal,
    Multicast,
    Unspecified,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub bind: BindAddr,
    /// Bearer token for everything; obligatory when `bind` is not loopback or unix.
    pub token: Option<Secret>,
    /// Bearer token for GET, except `/v1/config`.
    pub read_token: Option<Secret>,
    /// Host values accepted beside IP literals and `localhost`.
    pub hosts: Vec<String>,
    /// One certificate, perhaps with an authority of clients.
    pub tls: Option<ListenerTls>,
}

/// A value that must not be printed: `Debug` shows only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Clone, Debug)]
pub struct Log {
    pub access: AccessLog,
    pub level: Level,
    pub lines: LogLines,
}

/// What lines of the access log are like, and which there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLines {
    pub form: LogForm,
    /// Percent of the lines with reason `ok` and a status below 500; all others always.
    pub sample: u8,
    /// Requests are logged with their query.
    pub query: bool,
    /// Fields of requests that JSON lines have.
    pub headers: Vec<String>,
}

impl Default for LogLines {
    fn default() -> Self {
        Self { form: LogForm::Json, sample: 100, query: false, headers: Vec::new() }
    }
}

impl LogLines {
    /// Fields of a request that its line is made of.
    #[must_use]
    pub fn fields_read(&self) -> Vec<String> {
        match self.form {
            LogForm::Json => self.headers.clone(),
            LogForm::Combined => vec!["Referer".to_owned(), "User-Agent".to_owned()],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// One object a line.
    Json,
    /// Apache's combined format.
    Combined,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// How much the process says on stderr about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Where a listener or the admin API binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindAddr {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl BindAddr {
    /// The admin API can be reached by others there.
    #[must_use]
    pub const fn needs_token(&self) -> bool {
        matches!(self, Self::Ip(address) if !address.ip().is_loopback())
    }
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub bind: Vec<BindAddr>,
    pub mode: Mode,
    /// Index into [`Plan::pools`]; `None` where SNI or routes say it.
    pub pool: Option<usize>,
    /// A peer in `trusted` sends a PROXY header first.
    pub accept_proxy: bool,
    pub trusted: Vec<IpNet>,
    /// Pools by the name in a ClientHello, which goes on undecrypted.
    pub sni: Option<SniRoutes>,
    pub tls: Option<ListenerTls>,
    /// `Some` exactly if `mode` is [`Mode::Http`].
    pub http: Option<HttpListener>,
    pub limit: ConnLimit,
    /// Empty: everybody who is not in `deny`.
    pub allow: Vec<IpNet>,
    /// Wins over `allow`.
    pub deny: Vec<IpNet>,
    pub backlog: u32,
    /// Permission bits of a unix socket.
    pub unix_mode: u32,
    pub access_log: bool,
    pub timeouts: TimeoutOverrides,
    /// `[defaults]` as they stand below, for a listener that answers without a pool.
    pub defaults: Timeouts,
    /// No longer in the file: kept for the sessions it still has.
    pub retired: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Tcp,
    Http,
}

/// Pools by server name. Names are lower case, without a last dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SniRoutes {
    pub exact: Vec<(String, usize)>,
    /// `*.example.com` as `.example.com`: one or more labels before it; the longest wins.
    pub wildcard: Vec<(String, usize)>,
    /// `"*"`: every other name.
    pub any: Option<usize>,
    /// A hello without a name.
    pub no_sni: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnLimit {
    pub max_conns: Option<NonZeroU32>,
    pub conns_per_ip: Option<NonZeroU32>,
    pub new_conns_per_ip: Option<Rate>,
}

/// The L4 timeouts of one listener with one pool, all filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub idle: Duration,
    pub half_closed: Duration,
    /// `None`: a session may last for ever.
    pub session: Option<Duration>,
    /// First keep-alive probe after this long without a byte (then every 5 s, 3 times).
    pub keepalive: Duration,
    /// A TLS handshake, and a ClientHello.
    pub handshake: Duration,
    /// A PROXY header.
    pub proxy: Duration,
}

/// What a listener or a pool says of its own; pool > listener > `[defaults]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    pub connect: Option<Duration>,
    pub idle: Option<Duration>,
    pub half_closed: Option<Duration>,
    /// `Some(None)`: said to be off here.
    pub session: Option<Option<Duration>>,
    pub keepalive: Option<Duration>,
    pub handshake: Option<Duration>,
    pub proxy: Option<Duration>,
}

impl TimeoutOverrides {
    /// `self` where it says something, else `below`.
    #[must_use]
    pub fn over(&self, below: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(below.connect),
            idle: self.idle.unwrap_or(below.idle),
            half_closed: self.half_closed.unwrap_or(below.half_closed),
            session: self.session.unwrap_or(below.session),
            keepalive: self.keepalive.unwrap_or(below.keepalive),
            handshake: self.handshake.unwrap_or(below.handshake),
            proxy: self.proxy.unwrap_or(below.proxy),
        }
    }
}

impl Default for Timeouts {
    /// The built-in values, before `[defaults]`.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            idle: Duration::from_secs(600),
            half_closed: Duration::from_secs(60),
            session: None,
            keepalive: Duration::from_secs(15),
            handshake: Duration::from_secs(10),
            proxy: Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    pub balance: Balance,
    /// With `maglev`.
    pub hash: HashBy,
    pub check: Option<Check>,
    pub send_proxy: SendProxy,
    pub slow_start: Option<Duration>,
    /// How long a new client waits while no server is up; `None`: refuse at once. While all are
    /// full, see [`Pool::wait_for_room`].
    pub hold: Option<Duration>,
    /// Clients waiting at once in this pool, whatever they wait for.
    pub max_held: u32,
    pub on_down: OnDown,
    pub outlier: Option<Outlier>,
    /// For HTTP listeners.
    pub breaker: Option<BreakerPolicy>,
    /// Local addresses to connect from, taken in turn; empty: the kernel chooses.
    pub source: Vec<IpAddr>,
    pub tls: Option<PoolTls>,
    pub protocol: Protocol,
    pub keepalive: KeepAlive,
    pub servers: Vec<Server>,
    pub timeouts: TimeoutOverrides,
    /// Those of HTTP; they hold before the listener's.
    pub timeouts_http: HttpTimeoutOverrides,
    /// `[defaults]` as they stand below listener and pool.
    pub defaults: Timeouts,
    /// No longer in the file: kept for the sessions it still has.
    pub retired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConn,
    IpHash,
    RandomTwo,
    Maglev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    Off,
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    Keep,
    CloseSessions,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier {
    /// Failures in a row before a server is ejected.
    pub errors: NonZeroU32,
    pub eject_for: Duration,
    /// At most this share of a pool's servers is out at once, in percent (1–100).
    pub max_ejected_percent: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub every: Duration,
    pub timeout: Duration,
    /// Failures in a row until down.
    pub fall: NonZeroU8,
    /// Passes in a row until up.
    pub rise: NonZeroU8,
    pub init: Init,
    /// Port to check instead of the server's own.
    pub port: Option<u16>,
    /// Over TLS, with what [`Pool::tls`] says (which is then there).
    pub tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    Http(HttpCheck),
    /// Sends `PING` (after `AUTH` with a password), wants `+PONG`.
    Redis {
        password: Option<Secret>,
    },
    /// Sends a start-up message, wants an authentication request or an error other than "starting up".
    Postgres {
        user: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    /// `None`: the server's address.
    pub host: Option<String>,
    pub expect: Vec<RangeInclusive<u16>>,
    pub headers: Vec<(String, String)>,
    /// The body must contain this.
    pub body: Option<String>,
}

/// What a server counts as before its first check result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    Wait,
    Up,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: ServerAddr,
    /// 1–1000.
    pub weight: u16,
    pub max_conns: Option<NonZeroU32>,
    pub backup: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddr {
    Ip(SocketAddr),
    Unix(PathBuf),
    /// `dns:host:port`: A and AAAA, one member an address.
    Dns {
        host: String,
        port: u16,
    },
    /// `srv:_service._proto.name`: port, priority and weight from the record.
    Srv {
        name: String,
    },
}

impl Listener {
    /// A TCP listener with nothing said about it but these.
    #[must_use]
    pub fn tcp(name: &str, bind: Vec<BindAddr>, pool: usize) -> Self {
        Self {
            name: name.to_owned(),
            bind,
            mode: Mode::Tcp,
            pool: Some(pool),
            accept_proxy: false,
            trusted: Vec::new(),
            sni: None,
            tls: None,
            http: None,
            limit: ConnLimit::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            backlog: 4096,
            unix_mode: 0o660,
            access_log: true,
            timeouts: TimeoutOverrides::default(),
            defaults: Timeouts::default(),
            retired: false,
        }
    }

    /// A pool of this listener: what holds until SNI or a route has chosen one. `None`: it answers
    /// all by itself.
    #[must_use]
    pub fn first_pool(&self) -> Option<usize> {
        let of_sni = |sni: &SniRoutes| {
            let named = sni.exact.iter().chain(&sni.wildcard).map(|&(_, pool)| pool);
            named.chain(sni.any).chain(sni.no_sni).next()
        };
        let of_route = |route: &RouteSpec| match &route.action {
            ActionSpec::Pool(pool) => Some(*pool),
            ActionSpec::Split { pools, .. } => pools.first().map(|&(pool, _)| pool),
            ActionSpec::Redirect(_) | ActionSpec::Respond(_) => None,
        };
        let of_http = |http: &HttpListener| http.routes.iter().find_map(of_route);
        self.pool
            .or_else(|| self.sni.as_ref().and_then(of_sni))
            .or_else(|| self.http.as_ref().and_then(of_http))
    }
}

impl Pool {
    /// How long a client waits while all servers are full, with this `connect_timeout`: who is
    /// willing to hold clients is so then too.
    #[must_use]
    pub fn wait_for_room(&self, connect: Duration) -> Duration {
        self.hold.map_or(connect, |hold| hold.max(connect))
    }

    /// A pool with nothing said about it but these.
    #[must_use]
    pub fn of(name: &str, servers: Vec<Server>) -> Self {
        Self {
            name: name.to_owned(),
            balance: Balance::RoundRobin,
            hash: HashBy::Ip,
            check: None,
            send_proxy: SendProxy::Off,
            slow_start: None,
            hold: None,
            max_held: 1000,
            on_down: OnDown::Keep,
            outlier: None,
            breaker: None,
            source: Vec::new(),
            tls: None,
            protocol: Protocol::default(),
            keepalive: KeepAlive::default(),
            servers,
            timeouts: TimeoutOverrides::default(),
            timeouts_http: HttpTimeoutOverrides::default(),
            defaults: Timeouts::default(),
            retired: false,
        }
    }
}

impl Plan {
    /// The timeouts that hold for sessions of `listener` (pool > listener > defaults).
    #[must_use]
    pub fn timeouts(&self, listener: &Listener) -> Timeouts {
        match listener.first_pool() {
            Some(pool) => self.timeouts_with(listener, pool),
            None => listener.timeouts.over(listener.defaults),
        }
    }

    /// The timeouts that hold for sessions of `listener` that go to `pool`.
    #[must_use]
    pub fn timeouts_with(&self, listener: &Listener, pool: usize) -> Timeouts {
        match self.pools.get(pool) {
            Some(pool) => pool.timeouts.over(listener.timeouts.over(pool.defaults)),
            // Nobody asks for one that is not there.
            None => listener.timeouts.over(listener.defaults),
        }
    }

    /// The HTTP timeouts that hold for requests of `listener` that go to `pool`; a route's own
    /// `timeout` holds before their `request`.
    #[must_use]
    pub fn http_timeouts(&self, listener: &HttpListener, pool: usize) -> HttpTimeouts {
        let own = self.pools.get(pool).map(|pool| pool.timeouts_http).unwrap_or_default();
        own.over(listener.timeouts)
    }

    /// The pool that gets a pool's requests when that is of no use.
    #[must_use]
    pub fn fallback_pool(&self, pool: usize) -> Option<usize> {
        match self.pools.get(pool)?.breaker.as_ref()?.fallback.as_ref()? {
            Fallback::Pool(other) => Some(*other),
            Fallback::Respond(_) => None,
        }
    }

    /// This pool and that of its fallback, as far as they go by something else than addresses,
    /// and what they go by.
    #[must_use]
    pub fn hashes(&self, pool: usize) -> Vec<(usize, HashBy)> {
        let all = [Some(pool), self.fallback_pool(pool)].into_iter().flatten();
        let by = |at: usize| Some((at, self.pools.get(at)?.hash.clone()));
        all.filter_map(by).filter(|(_, by)| *by != HashBy::Ip).collect()
    }
}
