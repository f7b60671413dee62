//! The rows of the key table for policies and circuit breakers; those that say who asks, and
//! consumers, are in [`table_auth`](super::table_auth). What a row can be
//! says [`keys`](super::keys); the other sections are in [`table`](super::table).

use std::time::Duration;

use sluicegate_l7::policy::redis_script::LEASE_MAX;

use super::keys::{Key, Kind, Names, Section, Text};
use super::table::{MS, NETWORKS_MAX, time, word};
use super::table_auth::{
    ANY, API_KEY_POLICY, BASIC, CLIENT_CERT, FORWARD_AUTH, INTROSPECTION, JWT,
};
use super::table_http::{BODY_MADE, HEADERS, RESPONSE_HEADERS, STATUS_MADE, TYPE_MADE};
use super::units::{DURATION_MAX, SIZE_MAX};

/// Policies get 16-bit ids, as limits are told apart by them.
pub const POLICIES_MAX: usize = 10_000;
/// Consumers are found by hash, so the bound is only for memory.
pub const CONSUMERS_MAX: usize = 1_000_000;
/// Policies of one listener or route: all are gone through for each request.
pub const POLICIES_PER_ROUTE_MAX: usize = 64;
/// Entries of a list that is looked through for each request.
const ITEMS_MAX: usize = 256;
/// Rates of one limit: each is a bucket that every request takes from.
pub const RATES_MAX: usize = 4;
/// A bucket in the table takes some tens of bytes.
const ENTRIES_MAX: i64 = 100_000_000;

pub(super) const POLICY_REFS: Kind =
    Kind::List { of: &Kind::Text(Text::PolicyRef), max: POLICIES_PER_ROUTE_MAX };

pub(super) const fn list(of: &'static Kind) -> Kind {
    Kind::List { of, max: ITEMS_MAX }
}
pub(super) const fn one_or_list(of: &'static Kind) -> Kind {
    Kind::OneOrList { of, min: 1, max: ITEMS_MAX }
}
pub(super) const fn section(
    noun: &'static str,
    heading: &'static str,
    doc: &'static str,
    keys: &'static [Key],
) -> Section {
    Section { noun, heading, doc, keys, tag: None, short: None, variants: &[] }
}
pub(super) const fn kind_of(
    heading: &'static str,
    doc: &'static str,
    keys: &'static [Key],
) -> Section {
    Section { noun: "policy", heading, doc, keys, tag: Some("type"), short: None, variants: &[] }
}

pub(super) const TYPE: &str = "What kind of policy it is.";
const DRY_RUN: Key =
    Key::new("dry_run", Kind::Bool, "Counts what it would refuse, logs it, and lets it pass.")
        .or_bool(false);
const DRY_CHANGES: Key =
    Key::new("dry_run", Kind::Bool, "Nothing is changed, and nothing refused.").or_bool(false);
const LIMIT_KEY: Kind = one_or_list(&Kind::Text(Text::LimitKey));
const KEY_DOC: &str = "What is counted by: `consumer`, `ip`, `header:NAME`, `route`, `listener`, or a list of these. Without a consumer or that header it is the address.";
const STORE_KEY: Key = Key::new(
    "store",
    Kind::Table(&STORE),
    "Where it is counted when several instances share the limit.",
)
.or_described("in this process");

pub(super) static POLICY: Section = Section {
    noun: "policy",
    heading: "[policy.NAME]",
    doc: "Who may pass, how often, and what they see. A policy counts where a listener or a route names it in `policies`; whatever order they are named in, they run in a fixed one.",
    tag: Some("type"),
    short: None,
    keys: &[Key::new(
        "type",
        word(&[
            "ip",
            "cors",
            "size-limit",
            "jwt",
            "api-key",
            "basic",
            "client-cert",
            "introspection",
            "forward-auth",
            "any",
            "acl",
            "rate-limit",
            "quota",
            "concurrency",
            "headers",
            "transform",
        ]),
        TYPE,
    )
    .required()],
    variants: &[
        &IP,
        &CORS,
        &SIZE_LIMIT,
        &JWT,
        &API_KEY_POLICY,
        &BASIC,
        &CLIENT_CERT,
        &INTROSPECTION,
        &FORWARD_AUTH,
        &ANY,
        &ACL,
        &RATE_LIMIT,
        &QUOTA,
        &CONCURRENCY,
        &HEADERS_POLICY,
        &TRANSFORM,
    ],
};

const NETWORKS: Kind = Kind::List { of: &Kind::Text(Text::Network), max: NETWORKS_MAX };

static IP: Section = kind_of(
    "[policy.NAME] type = \"ip\"",
    "By the client's address, which is the one that a trusted proxy names.",
    &[
        Key::new("type", word(&["ip"]), TYPE).required(),
        Key::new("allow", NETWORKS, "Who passes; nobody else does.").or_described("everybody"),
        Key::new("deny", NETWORKS, "Who does not, whatever `allow` says."),
        DRY_RUN,
    ],
);

static CORS: Section = kind_of(
    "[policy.NAME] type = \"cors\"",
    "Which pages of other origins may read the answers (the CORS protocol). Preflights are answered here, with 204.",
    &[
        Key::new("type", word(&["cors"]), TYPE).required(),
        Key::new(
            "origins",
            one_or_list(&Kind::Text(Text::Origin)),
            "`\"https://app.example.com\"`, or `\"*\"`.",
        )
        .required(),
        Key::new("methods", list(&Kind::Text(Text::Method)), "Methods that may be used.")
            .or_words(&["GET", "HEAD", "POST"]),
        Key::new(
            "headers",
            list(&Kind::Text(Text::Header { written: false })),
            "Header fields that a request may have.",
        ),
        Key::new(
            "expose",
            list(&Kind::Text(Text::Header { written: false })),
            "Header fields of answers that a page may read.",
        ),
        Key::new("credentials", Kind::Bool, "Requests with cookies. Not with the origin `\"*\"`.")
            .or_bool(false),
        Key::new(
            "max_age",
            time(Duration::from_secs(1), Duration::from_secs(86_400)),
            "How long a browser remembers a preflight.",
        )
        .or("10m"),
        DRY_RUN,
    ],
);

static SIZE_LIMIT: Section = kind_of(
    "[policy.NAME] type = \"size-limit\"",
    "How large a request may be: 413 for the body, 431 for the head. A body of a length that is told is refused at once, another while it streams.",
    &[
        Key::new("type", word(&["size-limit"]), TYPE).required(),
        Key::new("body", Kind::Size { min: 1, max: SIZE_MAX }, "The body.").or("1MiB"),
        Key::new("header", Kind::Size { min: 64, max: 1 << 20 }, "All header fields."),
        DRY_RUN,
    ],
);

static ACL: Section = kind_of(
    "[policy.NAME] type = \"acl\"",
    "What a consumer must be: 403 for others. One entry that fits is enough, and `deny` wins.",
    &[
        Key::new("type", word(&["acl"]), TYPE).required(),
        Key::new(
            "allow",
            list(&Kind::Text(Text::AclEntry)),
            "`\"group:gold\"`, `\"consumer:alice\"`, `\"claim:tier=gold\"`.",
        )
        .or_described("every consumer"),
        Key::new(
            "deny",
            list(&Kind::Text(Text::AclEntry)),
            "Who does not pass, whatever `allow` says.",
        ),
        DRY_RUN,
    ],
);

const BY_GROUP: &str = "Other limits for members of a group; of several groups the best one.";

static RATE_LIMIT: Section = kind_of(
    "[policy.NAME] type = \"rate-limit\"",
    "Token buckets, exact whatever the number of workers: 429 when one is empty. Of several rates all are taken or none.",
    &[
        Key::new("type", word(&["rate-limit"]), TYPE).required(),
        Key::new("key", LIMIT_KEY, KEY_DOC).required(),
        Key::new(
            "limit",
            Kind::OneOrList { of: &Kind::Rate, min: 1, max: RATES_MAX },
            "One rate or several: `\"100/min\"`, `[\"10/s burst 20\", \"1000/h\"]`.",
        )
        .required(),
        Key::new(
            "by_group",
            Kind::Fields {
                names: Names::Group,
                of: &Kind::OneOrList { of: &Kind::Rate, min: 1, max: RATES_MAX },
                max: 256,
            },
            BY_GROUP,
        ),
        Key::new("early", Kind::Bool, "Before it is known who asks. Not with key `consumer`.")
            .or_bool(false),
        Key::new(
            "entries",
            Kind::Integer { min: 1, max: ENTRIES_MAX },
            "Buckets at once. Who comes when all are taken shares one.",
        )
        .or_integer(1_000_000),
        STORE_KEY,
        DRY_RUN,
    ],
);

static QUOTA: Section = kind_of(
    "[policy.NAME] type = \"quota\"",
    "So many requests in an hour, day or month of the calendar, in UTC.",
    &[
        Key::new("type", word(&["quota"]), TYPE).required(),
        Key::new("key", LIMIT_KEY, KEY_DOC).required(),
        Key::new(
            "limit",
            Kind::Text(Text::Quota),
            "`\"10000/day\"`; units `/hour`, `/day`, `/month`.",
        )
        .required(),
        Key::new(
            "by_group",
            Kind::Fields { names: Names::Group, of: &Kind::Text(Text::Quota), max: 256 },
            BY_GROUP,
        ),
        Key::new(
            "entries",
            Kind::Integer { min: 1, max: ENTRIES_MAX },
            "Counts at once. Who comes when all are taken shares one.",
        )
        .or_integer(1_000_000),
        STORE_KEY,
        DRY_RUN,
    ],
);

static CONCURRENCY: Section = kind_of(
    "[policy.NAME] type = \"concurrency\"",
    "Requests at once: over it 503, and 429 where it is counted by consumer or address.",
    &[
        Key::new("type", word(&["concurrency"]), TYPE).required(),
        Key::new("key", LIMIT_KEY, KEY_DOC).or("route"),
        Key::new("limit", Kind::Integer { min: 1, max: 1_000_000 }, "How many.").or_integer(100),
        DRY_RUN,
    ],
);

static STORE: Section = section(
    "`store`",
    "[policy.NAME.store]",
    "A Redis in which several instances count together. What is in it is worked out by Redis alone, in one step.",
    &[
        Key::new("redis", Kind::Text(Text::RedisUrl), "`redis://[user:password@]host:port[/database]`, `rediss://…` under TLS, or `\"env:NAME\"`.")
            .required(),
        Key::new("verify", Kind::Text(Text::Verify), "Whose certificate is believed, with `rediss://`.").or("system"),
        Key::new("timeout", time(MS, Duration::from_secs(10)), "How long an answer is waited for; a connection that is made for it included.").or("5ms"),
        Key::new("cooldown", time(MS, DURATION_MAX), "After a failure nobody waits for it so long.").or("1s"),
        Key::new("lease", Kind::Integer { min: 1, max: LEASE_MAX as i64 }, "Tokens that a worker takes at once. More than 1 saves round trips; the limit may be overshot by as many for each worker.")
            .or_integer(1),
        Key::new("prefix", Kind::Text(Text::Free { max: 64 }), "How its keys begin.").or("sg"),
        Key::new("on_error", word(&["local", "allow", "deny"]), "When it does not answer: count here, let pass, or 503.")
            .or("local"),
    ],
);

static HEADERS_POLICY: Section = kind_of(
    "[policy.NAME] type = \"headers\"",
    "Changes to header fields, for all routes that name it; before the route's own.",
    &[
        Key::new("type", word(&["headers"]), TYPE).required(),
        Key::new("headers", Kind::Table(&HEADERS), "Of the request."),
        Key::new("response_headers", Kind::Table(&RESPONSE_HEADERS), "Of the answer."),
        DRY_CHANGES,
    ],
);

static TRANSFORM: Section = kind_of(
    "[policy.NAME] type = \"transform\"",
    "Changes to bodies of JSON objects, and to the query. Bodies of other types, and parts of bodies (206), pass unchanged; where answers are changed, servers are not asked for parts (Range). JSON that is encoded, or of a second type too: 415, too large: 413, malformed: 400; from servers: 502 for each.",
    &[
        Key::new("type", word(&["transform"]), TYPE).required(),
        Key::new("request", Kind::Table(&BODY_CHANGES), "The body of the request."),
        Key::new("response", Kind::Table(&BODY_CHANGES), "The body of the answer."),
        Key::new("query", Kind::Table(&QUERY_CHANGES), "Parameters of the query."),
        Key::new(
            "max_body",
            Kind::Size { min: 1, max: 64 << 20 },
            "A larger body is refused: it is held in memory.",
        )
        .or("1MiB"),
        DRY_CHANGES,
    ],
);

static BODY_CHANGES: Section = section(
    "`request` or `response`",
    "[policy.NAME.request], [policy.NAME.response]",
    "Members by name, or by a JSON pointer (`/a/b`). Removed, renamed, set, added, in this order.",
    &[
        Key::new("remove", list(&Kind::Text(Text::JsonMember)), "Members that are removed."),
        Key::new(
            "rename",
            Kind::Fields {
                names: Names::JsonMember,
                of: &Kind::Text(Text::Free { max: 256 }),
                max: 64,
            },
            "New names for members.",
        ),
        Key::new(
            "set",
            Kind::Fields { names: Names::JsonMember, of: &Kind::Json, max: 64 },
            "Values, whether the member is there or not.",
        ),
        Key::new(
            "add",
            Kind::Fields { names: Names::JsonMember, of: &Kind::Json, max: 64 },
            "Values for members that are not there.",
        ),
    ],
);

static QUERY_CHANGES: Section = section(
    "`query`",
    "[policy.NAME.query]",
    "Parameters of the query. Removed, renamed, set, added, in this order.",
    &[
        Key::new(
            "remove",
            list(&Kind::Text(Text::Free { max: 256 })),
            "Parameters that are removed.",
        ),
        Key::new(
            "rename",
            Kind::Fields { names: Names::Query, of: &Kind::Text(Text::Free { max: 256 }), max: 64 },
            "New names.",
        ),
        Key::new(
            "set",
            Kind::Fields {
                names: Names::Query,
                of: &Kind::Text(Text::Free { max: 1_024 }),
                max: 64,
            },
            "Values that replace all of that name.",
        ),
        Key::new(
            "add",
            Kind::Fields {
                names: Names::Query,
                of: &Kind::Text(Text::Free { max: 1_024 }),
                max: 64,
            },
            "Values that are added.",
        ),
    ],
);

pub(super) static BREAKER: Section = section(
    "`breaker`",
    "[pool.NAME.breaker]",
    "A pool that fails gets a pause: requests are answered at once, until a few probes have gone well.",
    &[
        Key::new("errors", Kind::Share, "Opens when this share of a window failed.").or("50%"),
        Key::new(
            "min_requests",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Fewer in a window say nothing.",
        )
        .or_integer(20),
        Key::new("window", time(MS, DURATION_MAX), "How far it looks back.").or("10s"),
        Key::new("open_for", time(MS, DURATION_MAX), "How long the pause is.").or("10s"),
        Key::new(
            "probes",
            Kind::Integer { min: 1, max: 1_000 },
            "Requests that go through after it, all of which must go well.",
        )
        .or_integer(3),
        Key::new(
            "count",
            list(&word(&["connect", "reset", "timeout", "5xx"])),
            "What is a failure.",
        )
        .or_words(&["connect", "reset", "timeout", "5xx"]),
        Key::new("slow", Kind::Table(&SLOW), "Opens for slow answers too."),
        Key::new("fallback", Kind::Table(&FALLBACK), "What clients get instead."),
        Key::new(
            "fallback_on",
            list(&word(&["open", "no-server", "502", "504"])),
            "When they get it.",
        )
        .or_words(&["open", "no-server"]),
    ],
);

static SLOW: Section = section(
    "`slow`",
    "[pool.NAME.breaker.slow]",
    "Answers that are as bad as none.",
    &[
        Key::new("over", time(MS, DURATION_MAX), "An answer whose head takes longer is slow.")
            .required(),
        Key::new("share", Kind::Share, "Opens when this share of a window was slow.").or("50%"),
    ],
);

static FALLBACK: Section = section(
    "`fallback`",
    "[pool.NAME.breaker.fallback]",
    "A fixed answer, or another pool.",
    &[
        Key::new("pool", Kind::Text(Text::PoolName), "The pool that stands in."),
        Key::new("status", STATUS_MADE, "Status code of the answer.").or_integer(503),
        BODY_MADE,
        TYPE_MADE,
    ],
);
