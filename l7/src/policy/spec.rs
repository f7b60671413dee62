//! What a policy says: the plain data that a checked configuration hands over.
//!
//! Owns no behaviour but the order of kinds. Policies are indices into the plan's list.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::acl::Acl;
use super::breaker::BreakerPlan;
use super::claims::{ClaimRules, Selector};
use super::cors::Cors;
use super::credential::{KeyFrom, TokenFrom};
use super::jwt::JwtSpec;
use super::quota::QuotaSpec;
use super::rate::Rate;
use super::transform::{BodyChanges, QueryChanges};
use crate::route::spec::{HeaderSpec, RespondSpec};

/// One `[policy.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    pub name: String,
    /// What it would refuse is counted and passes.
    pub dry_run: bool,
    /// No longer in the file: kept for the requests that are under way.
    pub retired: bool,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Ip {
        allow: Vec<IpNet>,
        deny: Vec<IpNet>,
    },
    Cors(Cors),
    /// Bytes.
    Size {
        body: u64,
        header: Option<u64>,
    },
    Auth(Box<AuthSpec>),
    Acl(Acl),
    Rate(LimitSpec<Vec<Rate>>),
    Quota(LimitSpec<QuotaSpec>),
    Concurrency {
        key: Vec<LimitKey>,
        limit: u32,
    },
    Headers {
        request: HeaderSpec,
        response: HeaderSpec,
    },
    Transform(TransformSpec),
}

/// When a policy runs, in this order whatever order they are named in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Ip,
    EarlyLimit,
    /// Those before run also where no route was found.
    Cors,
    Size,
    Auth,
    Acl,
    Limit,
    Headers,
    Transform,
}

impl Phase {
    /// It needs no route.
    #[must_use]
    pub fn is_early(self) -> bool {
        self <= Self::EarlyLimit
    }
}

impl PolicySpec {
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match &self.kind {
            Kind::Ip { .. } => Phase::Ip,
            Kind::Rate(limit) if limit.early => Phase::EarlyLimit,
            Kind::Cors(_) => Phase::Cors,
            Kind::Size { .. } => Phase::Size,
            Kind::Auth(_) => Phase::Auth,
            Kind::Acl(_) => Phase::Acl,
            Kind::Rate(_) | Kind::Quota(_) | Kind::Concurrency { .. } => Phase::Limit,
            Kind::Headers { .. } => Phase::Headers,
            Kind::Transform(_) => Phase::Transform,
        }
    }

    /// Keys that it counts at once; `None` for one that counts by none.
    #[must_use]
    pub const fn entries(&self) -> Option<usize> {
        match &self.kind {
            Kind::Rate(limit) => Some(limit.entries),
            Kind::Quota(limit) => Some(limit.entries),
            _ => None,
        }
    }

    /// The word in the configuration.
    #[must_use]
    pub const fn type_word(&self) -> &'static str {
        match &self.kind {
            Kind::Ip { .. } => "ip",
            Kind::Cors(_) => "cors",
            Kind::Size { .. } => "size-limit",
            Kind::Auth(auth) => auth.by.type_word(),
            Kind::Acl(_) => "acl",
            Kind::Rate(_) => "rate-limit",
            Kind::Quota(_) => "quota",
            Kind::Concurrency { .. } => "concurrency",
            Kind::Headers { .. } => "headers",
            Kind::Transform(_) => "transform",
        }
    }

    /// Where the keys of its tokens are fetched from, if they are.
    #[must_use]
    pub fn fetched_keys(&self) -> Option<&JwksSpec> {
        let Kind::Auth(auth) = &self.kind else { return None };
        match &auth.by {
            Credential::Jwt(JwtPolicy { keys: JwtKeys::Url(from), .. }) => Some(from),
            _ => None,
        }
    }

    /// Names of header fields that it writes for servers, and that no client may send.
    pub fn owned_headers(&self) -> impl Iterator<Item = &str> {
        let (claims, copied): (&[(String, Selector)], &[String]) = match &self.kind {
            Kind::Auth(auth) => match &auth.by {
                Credential::Jwt(jwt) => (&jwt.identity.forward, &[]),
                Credential::Introspection(asked) => (&asked.identity.forward, &[]),
                Credential::ForwardAuth(asked) => (&[], &asked.copy),
                _ => (&[], &[]),
            },
            _ => (&[], &[]),
        };
        claims.iter().map(|(name, _)| name.as_str()).chain(copied.iter().map(String::as_str))
    }
}

/// A policy that says who it is.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSpec {
    /// Without a credential the request passes.
    pub optional: bool,
    pub realm: String,
    /// Bad credentials of one client address.
    pub failures: Option<Rate>,
    /// Servers do not see the credential.
    pub hide: bool,
    pub by: Credential,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Credential {
    Jwt(JwtPolicy),
    ApiKey(KeyFrom),
    Basic,
    ClientCert {
        from: CertName,
        declared: Declared,
    },
    Introspection(IntrospectionSpec),
    ForwardAuth(ForwardAuthSpec),
    /// Policies, the first whose credential is there decides.
    Any(Vec<usize>),
}

impl Credential {
    #[must_use]
    pub const fn type_word(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "jwt",
            Self::ApiKey(_) => "api-key",
            Self::Basic => "basic",
            Self::ClientCert { .. } => "client-cert",
            Self::Introspection(_) => "introspection",
            Self::ForwardAuth(_) => "forward-auth",
            Self::Any(_) => "any",
        }
    }
}

/// What of a certificate names the consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertName {
    #[default]
    CommonName,
    San,
    Fingerprint,
}

/// What the name of a declared consumer in a claim means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Declared {
    /// Nothing.
    #[default]
    Ignore,
    /// It is that consumer, with its groups.
    Merge,
    /// And nobody else may.
    Require,
}

/// Who it is by claims.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentitySpec {
    pub consumer: Selector,
    pub groups: Option<Selector>,
    /// Header fields for servers.
    pub forward: Vec<(String, Selector)>,
    pub declared: Declared,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JwtPolicy {
    pub from: TokenFrom,
    pub check: JwtSpec,
    pub keys: JwtKeys,
    pub identity: IdentitySpec,
}

#[derive(Clone, PartialEq)]
pub enum JwtKeys {
    Url(JwksSpec),
    /// A JSON Web Key Set.
    Set(String),
    Secret(Vec<u8>),
}

impl std::fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(spec) => f.debug_tuple("Url").field(spec).finish(),
            Self::Set(_) => f.write_str("Set(…)"),
            Self::Secret(_) => f.write_str("Secret(…)"),
        }
    }
}

/// Keys that are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSpec {
    pub url: String,
    pub refresh: Duration,
    pub grace: Duration,
    pub cooldown: Duration,
    pub timeout: Duration,
    pub verify: Authority,
}

/// Whose certificate is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    #[default]
    System,
    File(PathBuf),
    Anybody,
}

/// How long answers of an auth service are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    pub ttl: Option<Duration>,
    pub negative: Option<Duration>,
    pub entries: usize,
}

impl CacheSpec {
    /// Whether any are.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.ttl.is_some() || self.negative.is_some()
    }
}

#[derive(Clone, PartialEq)]
pub struct IntrospectionSpec {
    /// The pool that stands for its `url`.
    pub pool: usize,
    /// With its query.
    pub path: String,
    pub host: String,
    pub client_id: String,
    pub client_secret: String,
    pub timeout: Duration,
    /// Without an answer the request passes without a consumer.
    pub allow_on_error: bool,
    pub cache: CacheSpec,
    pub from: TokenFrom,
    pub rules: ClaimRules,
    pub identity: IdentitySpec,
}

impl std::fmt::Debug for IntrospectionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IntrospectionSpec").field("host", &self.host).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAuthSpec {
    /// The pool of the service, or the one that stands for its `url`.
    pub pool: usize,
    /// With its query.
    pub path: String,
    /// Of the `url`; empty: the client's.
    pub host: String,
    pub timeout: Duration,
    pub allow_on_error: bool,
    pub cache: CacheSpec,
    pub send: Vec<String>,
    pub copy: Vec<String>,
    /// The field of its answer that names the consumer.
    pub consumer: Option<String>,
}

/// What a limit is counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    Consumer,
    Ip,
    Header(String),
    Route,
    Listener,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitSpec<L> {
    pub key: Vec<LimitKey>,
    pub limit: L,
    pub by_group: Vec<(String, L)>,
    pub early: bool,
    pub entries: usize,
    pub store: Option<StoreSpec>,
}

/// A Redis in which several instances count together.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// With its password.
    pub redis: String,
    /// The pool that stands for its address.
    pub pool: usize,
    pub timeout: Duration,
    pub cooldown: Duration,
    pub lease: u32,
    pub prefix: String,
    pub on_error: OnError,
}

impl std::fmt::Debug for StoreSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSpec").field("on_error", &self.on_error).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Each instance counts for itself.
    #[default]
    Local,
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TransformSpec {
    pub request: BodyChanges,
    pub response: BodyChanges,
    pub query: QueryChanges,
    pub body_max: u64,
}

/// A pool's circuit breaker, and what clients get meanwhile.
#[derive(Clone, Debug)]
pub struct BreakerPolicy {
    pub breaker: BreakerPlan,
    pub on_connect: bool,
    pub on_reset: bool,
    pub on_timeout: bool,
    pub on_5xx: bool,
    pub fallback: Option<Fallback>,
    pub fallback_open: bool,
    pub fallback_no_server: bool,
    /// Statuses of the gateway's own answers that the fallback replaces.
    pub fallback_status: Vec<u16>,
}

#[derive(Clone, Debug)]
pub enum Fallback {
    Respond(RespondSpec),
    Pool(usize),
}
