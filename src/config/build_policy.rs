//! Typed fields → what the plan says about policies, consumers and circuit breakers.
//!
//! Whether they make sense together is checked in [`cross_policy`](super::cross_policy).

use std::collections::HashMap;
use std::num::NonZeroU32;

use sluicegate_l7::policy::acl::{Acl, Entry};
use sluicegate_l7::policy::breaker::{BreakerPlan, Slow};
use sluicegate_l7::policy::chain::Mention;
use sluicegate_l7::policy::claims::Selector;
use sluicegate_l7::policy::cors::Cors;
use sluicegate_l7::policy::quota::QuotaSpec;
use sluicegate_l7::policy::rate::Rate;
use sluicegate_l7::policy::redis_script::RedisUrl;
use sluicegate_l7::policy::spec::{
    BreakerPolicy, Fallback, Kind, LimitKey, LimitSpec, OnError, PolicySpec, StoreSpec,
    TransformSpec,
};
use sluicegate_l7::policy::transform::{BodyChanges, Member, QueryChanges};
use sluicegate_l7::route::spec::RespondSpec;

use super::build::{boolean, choice, duration, integer, networks, size, text};
use super::build_auth::auth;
use super::build_http::{operations, share, text_in, texts_in};
use super::fields::Fields;
use super::plan::{Pool, PoolTls, Server, ServerAddr, Verify};
use super::report::Findings;
use super::units;
use super::value::Scalar;

/// The policies of a file, and the pools that stand for the addresses of their services.
#[derive(Debug, Default)]
pub struct Policies {
    pub specs: Vec<PolicySpec>,
    /// Behind those of the file.
    pub pools: Vec<Pool>,
}

/// What names mean when a policy is read.
pub(super) struct Names<'a> {
    pub policies: HashMap<&'a str, usize>,
    pub pools: &'a HashMap<&'a str, Option<usize>>,
    /// The pools of the file.
    pub pools_len: usize,
}

/// All policies of the file, in its order. One whose type was refused has no spec, and stands as
/// one that lets everything pass: the error is reported already.
pub fn policies(
    root: &Fields,
    pools: &HashMap<&str, Option<usize>>,
    pools_len: usize,
    found: &mut Findings,
) -> Policies {
    let said_policies = root.named("policy");
    let policies =
        said_policies.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
    let names = Names { policies, pools, pools_len };
    let mut all = Policies::default();
    for (name, said) in said_policies {
        let empty = Kind::Ip { allow: Vec::new(), deny: Vec::new() };
        let kind = said.fields().and_then(|fields| kind(name, fields, &names, &mut all, found));
        let dry_run = said.fields().is_some_and(|fields| {
            fields.knows("dry_run") && boolean(fields, "dry_run") == Some(true)
        });
        all.specs.push(PolicySpec {
            name: name.clone(),
            dry_run,
            retired: false,
            kind: kind.unwrap_or(empty),
        });
    }
    all
}

fn kind(
    name: &str,
    fields: &Fields,
    names: &Names<'_>,
    all: &mut Policies,
    found: &mut Findings,
) -> Option<Kind> {
    Some(match fields.section.tag_word()? {
        "ip" => Kind::Ip { allow: networks(fields, "allow"), deny: networks(fields, "deny") },
        "cors" => Kind::Cors(cors(fields)),
        "size-limit" => Kind::Size {
            body: size(fields, "body"),
            header: fields.has("header").then(|| size(fields, "header")),
        },
        "acl" => Kind::Acl(Acl { allow: entries(fields, "allow"), deny: entries(fields, "deny") }),
        "rate-limit" => {
            Kind::Rate(LimitSpec { store: store(name, fields, names, all), ..rate_limit(fields) })
        }
        "quota" => {
            Kind::Quota(LimitSpec { store: store(name, fields, names, all), ..quota(fields) })
        }
        "concurrency" => {
            Kind::Concurrency { key: limit_key(fields), limit: count(fields, "limit") }
        }
        "headers" => {
            let mut changes = |key| {
                fields.table(key).map(|table| operations(table, &[], found)).unwrap_or_default()
            };
            Kind::Headers { request: changes("headers"), response: changes("response_headers") }
        }
        "transform" => Kind::Transform(transform(fields)),
        word => Kind::Auth(Box::new(auth(name, word, fields, names, all)?)),
    })
}

fn cors(fields: &Fields) -> Cors {
    Cors {
        origins: texts(fields, "origins"),
        methods: texts(fields, "methods"),
        headers: texts(fields, "headers"),
        expose: texts(fields, "expose"),
        credentials: boolean(fields, "credentials").unwrap_or(false),
        max_age: duration(fields, "max_age").unwrap_or_default().as_secs(),
    }
}

fn entries(fields: &Fields, key: &str) -> Vec<Entry> {
    let entry = |text: String| {
        Some(match text.split_once(':')? {
            ("group", name) => Entry::Group(name.to_owned()),
            ("consumer", name) => Entry::Consumer(name.to_owned()),
            (_, rest) => {
                let (claim, value) = rest.split_once('=')?;
                Entry::Claim(Selector::parse(claim)?, value.to_owned())
            }
        })
    };
    texts(fields, key).into_iter().filter_map(entry).collect()
}

fn limit_key(fields: &Fields) -> Vec<LimitKey> {
    let keys = texts(fields, "key").into_iter();
    let keys = keys.map(|key| match key.as_str() {
        "consumer" => LimitKey::Consumer,
        "ip" => LimitKey::Ip,
        "route" => LimitKey::Route,
        "listener" => LimitKey::Listener,
        header => {
            LimitKey::Header(header.strip_prefix("header:").unwrap_or(header).to_ascii_lowercase())
        }
    });
    keys.collect()
}

pub(super) fn rate(fields: &Fields, key: &str) -> Option<Rate> {
    match fields.scalar(key) {
        Some(Scalar::Rate(rate)) => Some(rate),
        _ => None,
    }
}

fn rates(scalars: impl IntoIterator<Item = Scalar>) -> Vec<Rate> {
    let rates = scalars.into_iter().filter_map(|scalar| match scalar {
        Scalar::Rate(rate) => Some(rate),
        _ => None,
    });
    rates.collect()
}

fn rate_limit(fields: &Fields) -> LimitSpec<Vec<Rate>> {
    let by_group = fields.named("by_group").iter();
    LimitSpec {
        key: limit_key(fields),
        limit: rates(fields.list("limit").into_iter().map(|(scalar, _)| scalar)),
        by_group: by_group
            .map(|(group, said)| (group.clone(), rates(said.scalars().into_iter().cloned())))
            .collect(),
        early: boolean(fields, "early").unwrap_or(false),
        entries: count(fields, "entries") as usize,
        store: None,
    }
}

fn quota(fields: &Fields) -> LimitSpec<QuotaSpec> {
    let read = |text: &str| units::parse_quota(text).ok();
    let by_group = fields.named("by_group").iter().filter_map(|(group, said)| {
        Some((group.clone(), read(&said.scalar().and_then(text_in)?)?))
    });
    let one =
        QuotaSpec { limit: NonZeroU32::MIN, window: sluicegate_l7::policy::quota::Window::Day };
    LimitSpec {
        key: limit_key(fields),
        limit: text(fields, "limit").and_then(|text| read(&text)).unwrap_or(one),
        by_group: by_group.collect(),
        early: false,
        entries: count(fields, "entries") as usize,
        store: None,
    }
}

fn store(name: &str, fields: &Fields, names: &Names<'_>, all: &mut Policies) -> Option<StoreSpec> {
    const ON_ERROR: [(&str, OnError); 3] =
        [("local", OnError::Local), ("allow", OnError::Allow), ("deny", OnError::Deny)];
    let fields = fields.table("store")?;
    let Some(Scalar::Secret { value: redis, .. }) = fields.scalar("redis") else { return None };
    // It was read when its text was checked.
    let url = RedisUrl::parse(&redis).ok()?;
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host };
    let address = super::address::of_web(&format!("{host}:{}", url.port), url.port)?;
    let verify = match fields.scalar("verify") {
        Some(Scalar::Verify(verify)) => verify,
        _ => Verify::System,
    };
    let tls = PoolTls { verify, sni: None, client: None, starttls_postgres: false };
    let pool = stand_in(name, address, url.secure.then_some(tls), names, all);
    Some(StoreSpec {
        redis,
        pool,
        timeout: duration(fields, "timeout").unwrap_or_default(),
        cooldown: duration(fields, "cooldown").unwrap_or_default(),
        lease: count(fields, "lease"),
        prefix: text(fields, "prefix").unwrap_or_default(),
        on_error: choice(fields.scalar("on_error").as_ref(), &ON_ERROR).unwrap_or_default(),
    })
}

/// A pool that stands for an address, so that it is resolved, connected to, kept and counted as
/// servers are. No name of a pool has a colon, so its name is its own.
pub(super) fn stand_in(
    policy: &str,
    address: ServerAddr,
    tls: Option<PoolTls>,
    names: &Names<'_>,
    all: &mut Policies,
) -> usize {
    let server =
        Server { name: "service".to_owned(), address, weight: 1, max_conns: None, backup: false };
    all.pools.push(Pool { tls, ..Pool::of(&format!("policy:{policy}"), vec![server]) });
    names.pools_len + all.pools.len() - 1
}

fn transform(fields: &Fields) -> TransformSpec {
    let body = |key| fields.table(key).map(body_changes).unwrap_or_default();
    TransformSpec {
        request: body("request"),
        response: body("response"),
        query: fields.table("query").map(query_changes).unwrap_or_default(),
        body_max: size(fields, "max_body"),
    }
}

fn body_changes(fields: &Fields) -> BodyChanges {
    let values = |key| {
        let named = fields.named(key).iter();
        let values = named.filter_map(|(member, said)| match said.scalar()? {
            Scalar::Json(value) => Some((Member::parse(member), value.clone())),
            _ => None,
        });
        values.collect()
    };
    let renamed = fields.named("rename").iter();
    BodyChanges {
        remove: texts(fields, "remove").iter().map(|member| Member::parse(member)).collect(),
        rename: renamed
            .filter_map(|(member, said)| {
                Some((Member::parse(member), said.scalar().and_then(text_in)?))
            })
            .collect(),
        set: values("set"),
        add: values("add"),
    }
}

fn query_changes(fields: &Fields) -> QueryChanges {
    let pairs = |key| {
        let named = fields.named(key).iter();
        named
            .filter_map(|(name, said)| Some((name.clone(), said.scalar().and_then(text_in)?)))
            .collect()
    };
    QueryChanges {
        remove: texts(fields, "remove"),
        rename: pairs("rename"),
        set: pairs("set"),
        add: pairs("add"),
    }
}

/// The mentions in a list of policies; unknown names are reported elsewhere.
pub fn mentions(fields: &Fields, names: &HashMap<&str, usize>) -> Vec<Mention> {
    let mention = |text: String| match text.strip_prefix('!') {
        Some("*") => Some(Mention::DropAll),
        Some(name) => names.get(name).copied().map(Mention::Drop),
        None => names.get(text.as_str()).copied().map(Mention::Add),
    };
    texts(fields, "policies").into_iter().filter_map(mention).collect()
}

/// `breaker` of a pool.
pub fn breaker(fields: &Fields, pools: &HashMap<&str, Option<usize>>) -> BreakerPolicy {
    let counted = texts_or_words(fields, "count");
    let counts = |word: &str| counted.iter().any(|one| one == word);
    let on = texts_or_words(fields, "fallback_on");
    let falls = |word: &str| on.iter().any(|one| one == word);
    BreakerPolicy {
        breaker: BreakerPlan {
            errors: share(fields, "errors"),
            min_requests: count(fields, "min_requests"),
            window: duration(fields, "window").unwrap_or_default(),
            open_for: duration(fields, "open_for").unwrap_or_default(),
            probes: count(fields, "probes"),
            slow: fields.table("slow").map(|table| Slow {
                over: duration(table, "over").unwrap_or_default(),
                share: share(table, "share"),
            }),
        },
        on_connect: counts("connect"),
        on_reset: counts("reset"),
        on_timeout: counts("timeout"),
        on_5xx: counts("5xx"),
        fallback: fields.table("fallback").map(|table| fallback(table, pools)),
        fallback_open: falls("open"),
        fallback_no_server: falls("no-server"),
        fallback_status: on.iter().filter_map(|word| word.parse().ok()).collect(),
    }
}

fn fallback(fields: &Fields, pools: &HashMap<&str, Option<usize>>) -> Fallback {
    match text(fields, "pool") {
        Some(pool) => Fallback::Pool(pools.get(pool.as_str()).copied().flatten().unwrap_or(0)),
        None => Fallback::Respond(RespondSpec {
            status: integer(fields, "status").map_or(503, |n| n as u16),
            body: text(fields, "body").unwrap_or_default(),
            content_type: text(fields, "content_type").unwrap_or_default(),
        }),
    }
}

pub(super) fn count(fields: &Fields, key: &str) -> u32 {
    integer(fields, key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

pub(super) fn texts(fields: &Fields, key: &str) -> Vec<String> {
    match fields.said(key) {
        Some(said) => texts_in(said).collect(),
        None => texts_or_words(fields, key),
    }
}

/// The words or texts of a list, or its default.
pub(super) fn texts_or_words(fields: &Fields, key: &str) -> Vec<String> {
    let texts = fields.list(key).into_iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Word(word) => Some(word.to_owned()),
        Scalar::Text(text) => Some(text),
        _ => None,
    });
    texts.collect()
}
