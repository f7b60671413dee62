//! The rows of the key table for policies that say who asks, and for consumers.

use std::time::Duration;

use super::keys::{Key, Kind, Names, Section, Text};
use super::table::{MS, time, time_or_off, word};
use super::table_policy::{TYPE, kind_of, list, one_or_list, section};
use super::units::DURATION_MAX;

/// Keys of one consumer.
const KEYS_PER_CONSUMER_MAX: usize = 64;

const OPTIONAL: Key = Key::new(
    "optional",
    Kind::Bool,
    "A request without this credential passes. A bad credential never does.",
)
.or_bool(false);
const REALM: Key = Key::new(
    "realm",
    Kind::Text(Text::Label),
    "What `WWW-Authenticate` calls the thing that is protected.",
)
.or_described("the policy's name");
const FAILURES: Key = Key::new(
    "max_failures",
    Kind::RateOrOff,
    "Bad credentials of one client address, for example `\"30/min\"`; over it 429.",
)
.or("off");
const HIDE: Key = Key::new(
    "hide",
    Kind::Bool,
    "Servers do not see the credential: its field, or of the Cookie fields that one cookie.",
)
.or_bool(false);
const HIDE_USUAL: Key =
    Key::new("hide", Kind::Bool, "Servers do not see the credential.").or_bool(true);
const FROM: Key = Key::new(
    "from",
    Kind::Text(Text::TokenFrom),
    "Where the token is: `\"bearer\"` (the Authorization field), `\"header:NAME\"` or `\"cookie:NAME\"`.",
)
.or("bearer");
const ISSUER: Key =
    Key::new("issuer", Kind::Text(Text::Free { max: 1_024 }), "What the claim `iss` must be.")
        .or_described("any");
const AUDIENCE: Key = Key::new(
    "audience",
    one_or_list(&Kind::Text(Text::Free { max: 1_024 })),
    "Of what the claim `aud` must have one.",
)
.or_described("any");
const LEEWAY: Key = Key::new(
    "leeway",
    time_or_off(MS, Duration::from_secs(3_600)),
    "How far clocks may differ, for `exp` and `nbf`.",
)
.or("30s");
const REQUIRED: Key = Key::new(
    "required",
    Kind::Fields { names: Names::Claim, of: &Kind::Text(Text::Free { max: 1_024 }), max: 64 },
    "Claims and what they must be: equal, or a word of a spaced text, or an item of a list.",
);
const CLAIM_CONSUMER: Key =
    Key::new("consumer", Kind::Text(Text::Claim), "The claim that names the consumer.")
        .or("claim:sub");
const CLAIM_GROUPS: Key = Key::new(
    "groups",
    Kind::Text(Text::Claim),
    "The claim that has the consumer's groups, a list or a spaced text.",
)
.or_described("none");
const FORWARD_CLAIMS: Key = Key::new(
    "forward_claims",
    Kind::Fields { names: Names::HeaderWritten, of: &Kind::Text(Text::Claim), max: 32 },
    "Header fields for the servers, and the claims that they get: `{ X-Tenant = \"claim:tenant\" }`.",
);
const DECLARED: Key = Key::new(
    "declared",
    word(&["ignore", "merge", "require"]),
    "`merge`: a claim equal to the name of a `[consumer]` is that consumer, with its groups. `require`: and others get 403.",
)
.or("ignore");
const ON_ERROR: Key = Key::new(
    "on_error",
    word(&["deny", "allow"]),
    "When nobody answers: 503, or the request passes without a consumer.",
)
.or("deny");
const AUTH_TIMEOUT: Key =
    Key::new("timeout", time(MS, DURATION_MAX), "How long an answer is waited for.").or("1s");
pub(super) static JWT: Section = kind_of(
    "[policy.NAME] type = \"jwt\"",
    "A signed token (RFC 7519). Its keys come from exactly one of `jwks`, `keys` and `secret`.",
    &[
        Key::new("type", word(&["jwt"]), TYPE).required(),
        ISSUER,
        AUDIENCE,
        Key::new(
            "algorithms",
            list(&word(&[
                "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
                "EdDSA", "HS256", "HS384", "HS512",
            ])),
            "Signatures that are taken; each only with a key of its own type.",
        )
        .or_described("`[\"RS256\", \"ES256\"]`, with `secret`: `[\"HS256\"]`"),
        Key::new("jwks", Kind::Table(&JWKS), "Where the keys are fetched."),
        Key::new(
            "keys",
            Kind::Text(Text::Jwks),
            "The keys as a JSON Web Key Set: `\"file:/path\"`, `\"env:NAME\"`.",
        ),
        Key::new(
            "secret",
            Kind::Text(Text::Secret { min: 32 }),
            "The secret of HS256, HS384 and HS512.",
        ),
        LEEWAY,
        Key::new("require_exp", Kind::Bool, "A token without `exp` is refused.").or_bool(true),
        Key::new("max_token", Kind::Size { min: 64, max: 64 << 10 }, "A longer token is refused.")
            .or("16KiB"),
        FROM,
        REQUIRED,
        CLAIM_CONSUMER,
        CLAIM_GROUPS,
        FORWARD_CLAIMS,
        DECLARED,
        OPTIONAL,
        REALM,
        FAILURES,
        HIDE,
    ],
);

static JWKS: Section = section(
    "`jwks`",
    "[policy.NAME.jwks]",
    "Keys that are fetched, and fetched again. While none could be fetched yet, requests get 503.",
    &[
        Key::new("url", Kind::Text(Text::Url), "`https://idp.example.com/jwks.json`.").required(),
        Key::new(
            "refresh",
            time(Duration::from_secs(1), DURATION_MAX),
            "How often they are fetched.",
        )
        .or("10m"),
        Key::new(
            "grace",
            time(MS, DURATION_MAX),
            "How long the last good ones are used when that fails.",
        )
        .or("24h"),
        Key::new(
            "cooldown",
            time(MS, DURATION_MAX),
            "At most one fetch in so long for tokens whose key is not among them.",
        )
        .or("30s"),
        Key::new("timeout", time(MS, DURATION_MAX), "How long one fetch may take.").or("2s"),
        Key::new("verify", Kind::Text(Text::Verify), "Whose certificate is believed.").or("system"),
    ],
);

pub(super) static API_KEY_POLICY: Section = kind_of(
    "[policy.NAME] type = \"api-key\"",
    "A key of a `[consumer]`, as `sluicegate key new` makes them.",
    &[
        Key::new("type", word(&["api-key"]), TYPE).required(),
        Key::new(
            "header",
            Kind::Text(Text::Header { written: false }),
            "The header field that has it.",
        )
        .or_described("`\"X-Api-Key\"`, unless there is `query`"),
        Key::new(
            "query",
            Kind::Text(Text::Free { max: 128 }),
            "The parameter of the query that has it.",
        ),
        OPTIONAL,
        REALM,
        FAILURES,
        HIDE_USUAL,
    ],
);

pub(super) static BASIC: Section = kind_of(
    "[policy.NAME] type = \"basic\"",
    "The name and password of a `[consumer]` (RFC 7617). Hashes are worked out beside the workers, and what they say is kept for a while.",
    &[
        Key::new("type", word(&["basic"]), TYPE).required(),
        OPTIONAL,
        REALM,
        Key::new(
            "max_failures",
            Kind::RateOrOff,
            "Bad credentials of one client address; over it 429.",
        )
        .or("30/min"),
        HIDE_USUAL,
    ],
);

pub(super) static CLIENT_CERT: Section = kind_of(
    "[policy.NAME] type = \"client-cert\"",
    "The certificate of a client, which the listener's `client_ca` has verified.",
    &[
        Key::new("type", word(&["client-cert"]), TYPE).required(),
        Key::new(
            "consumer",
            word(&["cert:cn", "cert:san", "cert:fingerprint"]),
            "What of it names the consumer; `\"cert:san\"` is the first alternative name, without its type.",
        )
        .or("cert:cn"),
        DECLARED,
        OPTIONAL,
    ],
);

pub(super) static INTROSPECTION: Section = kind_of(
    "[policy.NAME] type = \"introspection\"",
    "A token that its issuer is asked about (RFC 7662).",
    &[
        Key::new("type", word(&["introspection"]), TYPE).required(),
        Key::new("url", Kind::Text(Text::Url), "The endpoint.").required(),
        Key::new("client_id", Kind::Text(Text::Free { max: 256 }), "Who asks.").required(),
        Key::new("client_secret", Kind::Text(Text::Secret { min: 1 }), "With what secret.")
            .required(),
        Key::new("verify", Kind::Text(Text::Verify), "Whose certificate is believed.").or("system"),
        AUTH_TIMEOUT,
        ON_ERROR,
        Key::new("cache", Kind::Table(&TOKEN_CACHE), "Answers that are kept, never past `exp`."),
        FROM,
        ISSUER,
        AUDIENCE,
        LEEWAY,
        REQUIRED,
        CLAIM_CONSUMER,
        CLAIM_GROUPS,
        FORWARD_CLAIMS,
        DECLARED,
        OPTIONAL,
        REALM,
        FAILURES,
        HIDE,
    ],
);

const KEPT_ENTRIES: Key =
    Key::new("entries", Kind::Integer { min: 1, max: 10_000_000 }, "How many in all.")
        .or_integer(100_000);

static TOKEN_CACHE: Section = section(
    "`cache`",
    "[policy.NAME.cache] (introspection)",
    "Answers that are kept, for all workers. Of several requests with one token only one asks, and the others wait for its answer.",
    &[
        Key::new("ttl", time_or_off(MS, DURATION_MAX), "Good ones.").or("30s"),
        Key::new("negative", time_or_off(MS, DURATION_MAX), "Bad ones.").or("5s"),
        KEPT_ENTRIES,
    ],
);

static FORWARD_CACHE: Section = section(
    "`cache`",
    "[policy.NAME.cache] (forward-auth)",
    "Answers that are kept, for all workers, by all that the service is asked: method, scheme, host, path, query, client address and all of `send`. Of several requests with one question only one asks, and the others wait for its answer.",
    &[
        Key::new("ttl", time_or_off(MS, DURATION_MAX), "Good ones.").or("off"),
        Key::new(
            "negative",
            time_or_off(MS, DURATION_MAX),
            "Others, as they are; not those with `Set-Cookie`, nor those over 16 KiB.",
        )
        .or("off"),
        KEPT_ENTRIES,
    ],
);

pub(super) static FORWARD_AUTH: Section = kind_of(
    "[policy.NAME] type = \"forward-auth\"",
    "A service decides: it gets a GET with X-Forwarded-Method, -Proto, -Host, -Uri and -For. 2xx passes; any other answer goes to the client as it is.",
    &[
        Key::new("type", word(&["forward-auth"]), TYPE).required(),
        Key::new("url", Kind::Text(Text::Url), "The service; or `pool` and `path`."),
        Key::new("pool", Kind::Text(Text::PoolName), "The pool that has the service."),
        Key::new("path", Kind::Text(Text::RequestPath), "Goes with `pool`.")
            .or_described("`\"/\"`"),
        Key::new(
            "verify",
            Kind::Text(Text::Verify),
            "Whose certificate is believed. Goes with `url`.",
        )
        .or("system"),
        AUTH_TIMEOUT,
        ON_ERROR,
        Key::new("cache", Kind::Table(&FORWARD_CACHE), "Answers that are kept."),
        Key::new(
            "send",
            list(&Kind::Text(Text::Header { written: false })),
            "Header fields of the request that the service sees.",
        )
        .or_words(&["Authorization", "Cookie"]),
        Key::new(
            "copy",
            list(&Kind::Text(Text::Header { written: true })),
            "Header fields of its answer that servers get.",
        ),
        Key::new(
            "consumer",
            Kind::Text(Text::FromHeader),
            "The header field of its answer that names the consumer: `\"header:X-User\"`.",
        ),
        Key::new(
            "max_failures",
            Kind::RateOrOff,
            "Answers of 401 to one client address, for example `\"30/min\"`; over it 429.",
        )
        .or("off"),
    ],
);

pub(super) static ANY: Section = kind_of(
    "[policy.NAME] type = \"any\"",
    "Alternatives: the first of them whose credential is there decides.",
    &[
        Key::new("type", word(&["any"]), TYPE).required(),
        Key::new(
            "of",
            Kind::OneOrList { of: &Kind::Text(Text::PolicyName), min: 1, max: 16 },
            "Policies that say who it is. One of type forward-auth, which asks about every request, only as the last.",
        )
        .required(),
        OPTIONAL,
    ],
);

pub(super) static CONSUMER: Section = section(
    "consumer",
    "[consumer.NAME]",
    "Somebody who may ask: known by keys, by a password, or by a claim or certificate with this name.",
    &[
        Key::new(
            "keys",
            Kind::List { of: &Kind::Table(&API_KEY), max: KEYS_PER_CONSUMER_MAX },
            "Hashes of keys, as `sluicegate key new` prints them.",
        ),
        Key::new("groups", list(&Kind::Text(Text::Label)), "Groups, for `acl` and `by_group`."),
        Key::new(
            "basic",
            Kind::Text(Text::PasswordHash),
            "Hash of the password, by argon2 or bcrypt: `\"$argon2id$…\"`, `\"env:NAME\"`, `\"file:/path\"`.",
        ),
        Key::new("enabled", Kind::Bool, "`false`: its credentials are bad ones.").or_bool(true),
    ],
);

static API_KEY: Section = Section {
    short: Some("hash"),
    ..section(
        "key",
        "[[consumer.NAME.keys]]",
        "One key. `\"sha256:…\"` is short for `{ hash = \"sha256:…\" }`.",
        &[
            Key::new("hash", Kind::Text(Text::KeyHash), "Its SHA-256.").required(),
            Key::new(
                "expires",
                Kind::Text(Text::Moment),
                "From then on it is a bad one: `\"2027-01-01T00:00:00Z\"`.",
            )
            .or_described("never"),
        ],
    )
};
