//! What a route says: the plain data that a checked configuration hands over.
//!
//! Owns no behaviour. Texts with variables are parsed by [`Template::parse`] when the
//! configuration is read, so an unknown variable is an error of the file, with its place.
//! Pools are indices into the plan.

use std::time::Duration;

use super::template::Template;
use crate::policy::chain::Mention;

/// One `[[listener.NAME.route]]`.
#[derive(Clone, Debug, Default)]
pub struct RouteSpec {
    /// Label in metrics, log and limits.
    pub name: String,
    pub matches: MatchSpec,
    pub rewrite: RewriteSpec,
    pub headers: HeaderSpec,
    pub response_headers: HeaderSpec,
    pub action: ActionSpec,
    pub mirror: Option<MirrorSpec>,
    pub retries: RetrySpec,
    pub sticky: Option<StickySpec>,
    /// From the request's last byte to the answer's head; `None`: the listener's.
    pub timeout: Option<Duration>,
    /// Upgrades to WebSocket (and other protocols) go through.
    pub websocket: bool,
    pub access_log: Option<bool>,
    /// `None`: the listener's; `Some(None)`: switched off here.
    pub compression: Option<Option<CompressionSpec>>,
    /// Beside those of the listener.
    pub policies: Vec<Mention>,
}

/// All that is given must fit; an empty list asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct MatchSpec {
    /// Exact names or `*.example.org`, lower case.
    pub hosts: Vec<String>,
    pub path: PathSpec,
    /// Upper case.
    pub methods: Vec<String>,
    /// Names in lower case.
    pub headers: Vec<(String, ValueSpec)>,
    pub query: Vec<(String, ValueSpec)>,
    pub cookies: Vec<(String, ValueSpec)>,
    /// Letters of the path match in either case.
    pub ignore_case: bool,
}

/// How a path fits.
#[derive(Clone, Debug, Default)]
pub enum PathSpec {
    /// Every path.
    #[default]
    Any,
    /// As written: `/v1/users`, `/v1/users/*` (segment-safe), `/o/{id}/items/*`.
    Pattern(String),
    /// The whole path, linear time.
    Regex(regex::Regex),
}

/// What a header, query parameter or cookie must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSpec {
    /// `"*"`
    Present,
    /// One of these.
    Any(Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct RewriteSpec {
    pub strip_prefix: Option<String>,
    pub path: Option<Template>,
    pub host: Option<Template>,
    /// `host = "{server}"`: that of the server, which is chosen after the head is written.
    pub host_of_server: bool,
}

/// Operations on the fields of a head: remove, then set, then add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderSpec {
    pub add: Vec<(String, Template)>,
    pub set: Vec<(String, Template)>,
    pub remove: Vec<String>,
}

impl HeaderSpec {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.set.is_empty() && self.remove.is_empty()
    }
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum ActionSpec {
    Pool(usize),
    Split { pools: Vec<(usize, u32)>, by: SplitBy },
    Redirect(RedirectSpec),
    Respond(RespondSpec),
}

impl Default for ActionSpec {
    fn default() -> Self {
        Self::Pool(0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBy {
    #[default]
    Request,
    Client,
    Consumer,
}

/// `to`, or changes of scheme and port to the request's own address.
#[derive(Clone, Debug, Default)]
pub struct RedirectSpec {
    pub to: Option<Template>,
    pub scheme: Option<String>,
    pub port: Option<u16>,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespondSpec {
    pub status: u16,
    pub body: String,
    pub content_type: String,
}

#[derive(Clone, Debug)]
pub struct MirrorSpec {
    pub pool: usize,
    /// 0–100
    pub share_percent: u8,
    pub body_max: u64,
    pub in_flight_max: u32,
}

/// When a request is tried again, on another server while there is one.
#[derive(Clone, Debug)]
pub struct RetrySpec {
    /// Every try counts, the first too.
    pub attempts: u32,
    pub on_connect: bool,
    pub on_reset: bool,
    pub on_timeout: bool,
    /// Statuses of an answer.
    pub on_status: Vec<u16>,
    /// Of the pool's requests in 10 s, at least 10.
    pub budget_percent: u8,
    pub body_max: u64,
    pub backoff: Duration,
    pub timeout_try: Option<Duration>,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            attempts: 2,
            on_connect: true,
            on_reset: true,
            on_timeout: false,
            on_status: Vec::new(),
            budget_percent: 20,
            body_max: 64 << 10,
            backoff: Duration::from_millis(25),
            timeout_try: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickySpec {
    pub cookie: String,
    /// `None`: a session cookie.
    pub ttl: Option<Duration>,
    /// A draining server keeps its clients.
    pub keep_on_drain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressionSpec {
    /// In order of preference: `br`, `gzip`.
    pub algorithms: Vec<Algorithm>,
    /// `text/*`, `application/json`
    pub types: Vec<String>,
    pub size_min: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Brotli,
    Gzip,
}
