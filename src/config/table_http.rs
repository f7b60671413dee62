//! The rows of the key table for TLS and HTTP. What a row can be says [`keys`](super::keys); the
//! other sections are in [`table`](super::table).

use std::time::Duration;

use sluicegate_l7::http1::Limits;

use super::keys::{Key, Kind, Names, Section, Text};
use super::table::{MS, time, time_or_off, word};
use super::table_policy::POLICY_REFS;
use super::units::{DURATION_MAX, SIZE_MAX};
use crate::runtime::tasks;

/// Routes of one listener. They are found by hash and trie, so the bound is only for memory.
pub const ROUTES_MAX: usize = 100_000;
/// Certificates of one listener, each parsed at start and kept in memory.
pub const CERTS_MAX: usize = 1_000;
/// Names in one `sni` table.
pub const SERVER_NAMES_MAX: usize = 10_000;
/// A body that is kept in memory for every worker to send.
pub const BODY_BYTES_MAX: u64 = 1 << 20;
/// A head is read whole before anything is made of it.
const HEAD_BYTES_MAX: u64 = tasks::HEAD_BYTES_MAX as u64;
/// Conditions, operations and list items of one route: all are looked at for each request.
const ITEMS_MAX: usize = 64;

pub(super) const HTTP_ONLY: &[&str] = &["http"];
pub(super) const TCP_ONLY: &[&str] = &["tcp"];

pub(super) const SNI_KIND: Kind = Kind::Fields {
    names: Names::ServerName,
    of: &Kind::Text(Text::PoolName),
    max: SERVER_NAMES_MAX,
};

pub(super) const PEM: Kind = Kind::Text(Text::Pem { private: false });
pub(super) const PRIVATE: Kind = Kind::Text(Text::Pem { private: true });
const CLIENT_AUTH: Kind = word(&["require", "request"]);
const VALUE: Kind = Kind::OneOrList { of: &Kind::Text(Text::FieldValue), min: 1, max: ITEMS_MAX };
const FREE_VALUE: Kind =
    Kind::OneOrList { of: &Kind::Text(Text::Free { max: 4_096 }), min: 1, max: ITEMS_MAX };
pub(super) const STATUS_MADE: Kind = Kind::Integer { min: 200, max: 599 };

/// The body of an answer that is made here, and its type.
pub(super) const BODY_MADE: Key = Key::new(
    "body",
    Kind::Text(Text::Body { max: BODY_BYTES_MAX }),
    "The body, or `\"file:/path\"`.",
)
.or_described("empty");
pub(super) const TYPE_MADE: Key =
    Key::new("content_type", Kind::Text(Text::ContentType), "Its type.")
        .or("text/plain; charset=utf-8");
/// Methods, hosts and the like: one text or a list of them.
const fn one_or_list(of: &'static Kind) -> Kind {
    Kind::OneOrList { of, min: 1, max: ITEMS_MAX }
}
const fn section(
    noun: &'static str,
    heading: &'static str,
    doc: &'static str,
    keys: &'static [Key],
) -> Section {
    Section { noun, heading, doc, keys, tag: None, short: None, variants: &[] }
}

pub(super) const CERT: &str = "The certificate, then those that it was issued by, as PEM: `\"file:/path\"` or `\"env:NAME\"`. A file is watched.";
pub(super) const PRIVATE_KEY: &str = "Its private key as PEM: `\"file:/path\"` or `\"env:NAME\"`.";
const CLIENT_CA: &str = "Authorities whose client certificates are taken (mutual TLS), as PEM.";
const CLIENT_AUTH_DOC: &str = "`require`: a client without a good certificate is refused. `request`: it may have none. Goes with `client_ca`.";
const CLIENT_CRL: &str = "Revoked client certificates, as PEM. Goes with `client_ca`.";

pub(super) static LISTENER_TLS: Section = section(
    "`tls`",
    "[listener.NAME.tls]",
    "TLS ends at this listener. The first certificate is the default; others are chosen by the client's server name.",
    &[
        Key::new("cert", PEM, CERT),
        Key::new("key", PRIVATE, PRIVATE_KEY),
        Key::new(
            "certs",
            Kind::Tables { section: &CERTIFICATE, max: CERTS_MAX },
            "More certificates, or all of them.",
        ),
        Key::new("min_version", word(&["1.2", "1.3"]), "The oldest version of TLS that is spoken.")
            .or("1.2"),
        Key::new(
            "alpn",
            Kind::List { of: &Kind::Text(Text::Alpn), max: 16 },
            "Application protocols that are offered, the preferred one first.",
        )
        .or_described("`[\"h2\", \"http/1.1\"]` with mode `http`, else none"),
        Key::new(
            "strict_sni",
            Kind::Bool,
            "A client that gives no name, or one without certificate, gets an alert.",
        )
        .or_bool(false),
        Key::new("client_ca", PEM, CLIENT_CA),
        Key::new("client_auth", CLIENT_AUTH, CLIENT_AUTH_DOC)
            .or_described("`\"require\"` if there is a `client_ca`"),
        Key::new("client_crl", PEM, CLIENT_CRL),
        Key::new(
            "starttls",
            word(&["postgres"]),
            "Answer PostgreSQL's SSLRequest first. Only with mode `tcp`.",
        ),
        Key::new(
            "client_cert_headers",
            Kind::List { of: &word(&["subject", "san", "fingerprint"]), max: 3 },
            "What servers are told of a verified client certificate: X-Client-Cert-Subject, -San, -Fingerprint (SHA-256). Only with mode `http`.",
        ),
    ],
);

static CERTIFICATE: Section = section(
    "certificate",
    "[[listener.NAME.tls.certs]]",
    "One certificate, and what it asks of clients: what the listener's `tls` says, unless it says something itself. A request for a host that asks another thing than its connection's own did gets 421.",
    &[
        Key::new("cert", PEM, CERT).required(),
        Key::new("key", PRIVATE, PRIVATE_KEY).required(),
        Key::new(
            "names",
            one_or_list(&Kind::Text(Text::HostPattern)),
            "Server names that choose it. `*.example.com` is one label more.",
        )
        .or_described("those in the certificate"),
        Key::new("client_ca", PEM, CLIENT_CA),
        Key::new("client_auth", CLIENT_AUTH, CLIENT_AUTH_DOC),
        Key::new("client_crl", PEM, CLIENT_CRL),
    ],
);

pub(super) static HTTP: Section = section(
    "`http`",
    "[listener.NAME.http]",
    "What a request may have. What is over a bound is answered with 413, 414 or 431.",
    &[
        Key::new(
            "max_header",
            Kind::Size { min: 1 << 10, max: HEAD_BYTES_MAX },
            "All header fields of a request.",
        )
        .or("64KiB"),
        Key::new(
            "max_headers",
            Kind::Integer { min: 1, max: Limits::HEADERS_MAX as i64 },
            "Header fields of a request.",
        )
        .or_integer(128),
        Key::new(
            "max_uri",
            Kind::Size { min: 64, max: HEAD_BYTES_MAX },
            "Path and query of a request.",
        )
        .or("16KiB"),
        Key::new(
            "max_streams",
            Kind::Integer { min: 1, max: 10_000 },
            "Requests at once on one HTTP/2 connection.",
        )
        .or_integer(100),
        Key::new("h2c", Kind::Bool, "Without TLS: HTTP/2 for clients that begin with it.")
            .or_bool(true),
        Key::new("encoded_slash", word(&["reject", "keep"]), "What happens with `%2F` in a path.")
            .or("reject"),
        Key::new(
            "underscores",
            word(&["drop", "keep"]),
            "What happens with header fields that have `_` in their name.",
        )
        .or("drop"),
    ],
);

pub(super) static COMPRESSION: Section = section(
    "`compression`",
    "[listener.NAME.compression]",
    "Compresses answers for clients that accept it. `{}` means all the defaults; in a route `false` switches it off. A \
     worker compresses so many answers at once as fit into 64 MiB: 56 with `br`, 136 with `gzip`; what comes beyond goes \
     out as it is.",
    &[
        Key::new(
            "algorithms",
            Kind::List { of: &word(&["br", "gzip"]), max: 2 },
            "In order of preference.",
        )
        .or_words(&["br", "gzip"]),
        Key::new(
            "types",
            Kind::List { of: &Kind::Text(Text::MediaRange), max: ITEMS_MAX },
            "Content types that are compressed.",
        )
        .or_words(&["text/*", "application/json", "application/javascript"]),
        Key::new(
            "min_size",
            Kind::Size { min: 1, max: SIZE_MAX },
            "Smaller answers stay as they are.",
        )
        .or("1KiB"),
    ],
);

pub(super) static ERROR_PAGE: Section = section(
    "answer",
    "[listener.NAME.errors.STATUS]",
    "The body of an answer that the gateway itself makes with this status code.",
    &[
        Key::new(
            "body",
            Kind::Text(Text::Body { max: BODY_BYTES_MAX }),
            "The body, or `\"file:/path\"`.",
        )
        .required(),
        Key::new("content_type", Kind::Text(Text::ContentType), "Its type.")
            .or("text/plain; charset=utf-8"),
    ],
);

pub(super) static ROUTE: Section = Section {
    noun: "route",
    heading: "[[listener.NAME.route]]",
    doc: "Where requests that match go: exactly one of `pool`, `split`, `redirect` and `respond`.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("name", Kind::Text(Text::Label), "Label in metrics, log and limits.")
            .or_described("host and path as written, ` #2` for a repeat"),
        Key::new("match", Kind::Table(&MATCH), "Which requests.").or_described("all"),
        Key::new("pool", Kind::Text(Text::PoolName), "The pool they go to."),
        Key::new(
            "split",
            Kind::Fields {
                names: Names::Pool,
                of: &Kind::Integer { min: 1, max: 1_000_000 },
                max: ITEMS_MAX,
            },
            "Pools with their shares, relative to each other: `{ users = 90, users-canary = 10 }`.",
        )
        .range_hint("to send nothing there, leave the pool out"),
        Key::new(
            "split_by",
            word(&["request", "client", "consumer"]),
            "What is thrown for: each request, or once for a client or consumer.",
        )
        .or("request"),
        Key::new(
            "mirror",
            Kind::Table(&MIRROR),
            "Copies of the requests go to another pool, whose answers nobody sees.",
        ),
        Key::new("redirect", Kind::Table(&REDIRECT), "Send the client elsewhere."),
        Key::new("respond", Kind::Table(&RESPOND), "Answer at once."),
        Key::new("rewrite", Kind::Table(&REWRITE), "Path and host that the server sees."),
        Key::new("headers", Kind::Table(&HEADERS), "Changes to the header fields of the request."),
        Key::new(
            "response_headers",
            Kind::Table(&RESPONSE_HEADERS),
            "Changes to the header fields of the answer.",
        ),
        Key::new(
            "retries",
            Kind::Table(&RETRIES),
            "When a request is tried again, on another server while there is one.",
        ),
        Key::new(
            "sticky",
            Kind::Table(&STICKY),
            "A cookie keeps a client at its server, and so in its pool of a `split`.",
        ),
        Key::new(
            "timeout",
            time(MS, DURATION_MAX),
            "From the last byte of a request to the head of its answer.",
        )
        .or_described("`request_timeout` of the pool, the listener or `[defaults]`"),
        Key::new("websocket", Kind::Bool, "Upgrades to WebSocket and other protocols go through.")
            .or_bool(false),
        Key::new("access_log", Kind::Bool, "Whether its requests are written to the access log.")
            .or_described("as the listener"),
        Key::new(
            "policies",
            POLICY_REFS,
            "Policies that hold here beside those of the listener. `\"!name\"` drops one of these, `\"!*\"` all.",
        ),
        Key::new("compression", Kind::TableOrFalse(&COMPRESSION), "Its own, or `false`.")
            .or_described("as the listener"),
    ],
};

static MATCH: Section = section(
    "`match`",
    "[listener.NAME.route.match]",
    "All that is given must fit. A list means any of its values; `\"*\"` as a value means that the thing is there.",
    &[
        Key::new("host", one_or_list(&Kind::Text(Text::HostPattern)), "Names, or `*.example.org` (one or more labels).").or_described("any"),
        Key::new(
            "path",
            Kind::Text(Text::PathPattern),
            "`/v1/users`; `/v1/users/*` with all below it; `/o/{id}/items`, where `{id}` is one segment.",
        )
        .or_described("any"),
        Key::new("path_regex", Kind::Text(Text::Regex), "Instead of `path`: a regular expression for the whole path, in linear time."),
        Key::new("methods", one_or_list(&Kind::Text(Text::Method)), "Methods.").or_described("any"),
        Key::new("headers", Kind::Fields { names: Names::HeaderRead, of: &VALUE, max: ITEMS_MAX }, "Header fields and their values."),
        Key::new("query", Kind::Fields { names: Names::Query, of: &FREE_VALUE, max: ITEMS_MAX }, "Parameters of the query."),
        Key::new("cookies", Kind::Fields { names: Names::Cookie, of: &VALUE, max: ITEMS_MAX }, "Cookies."),
        Key::new("ignore_case", Kind::Bool, "Letters of the path fit in either case.").or_bool(false),
    ],
);

static REWRITE: Section = section(
    "`rewrite`",
    "[listener.NAME.route.rewrite]",
    "What the server sees instead of what the client asked for. The query goes on as it is.",
    &[
        Key::new(
            "strip_prefix",
            Kind::Text(Text::Prefix),
            "Segments that are cut from the beginning of the path.",
        ),
        Key::new("path", Kind::Text(Text::PathTemplate), "Another path: `/new`, `/items/{id}/*`."),
        Key::new("host", Kind::Text(Text::HostTemplate), "Another Host for the servers. `\"{server}\"` alone: the name of a `dns:` server, else its address, with its port unless that is the usual one.")
            .or_described("the client's"),
    ],
);

const ADD: &str = "Fields that are added. Values may have variables: `{client_ip}`, `{host}`, `{path}`, `{request_id}` …";
const SET: &str = "Fields that replace those of the same name.";
const REMOVE: &str = "Fields that are removed, before all else.";
const OPERATIONS: Kind =
    Kind::Fields { names: Names::HeaderWritten, of: &Kind::Text(Text::Template), max: ITEMS_MAX };
const REMOVED: Kind =
    Kind::List { of: &Kind::Text(Text::Header { written: true }), max: ITEMS_MAX };

pub(super) static HEADERS: Section = section(
    "`headers`",
    "[listener.NAME.route.headers]",
    "Changes to the header fields that the server sees.",
    &[
        Key::new("add", OPERATIONS, ADD),
        Key::new("set", OPERATIONS, SET),
        Key::new("remove", REMOVED, REMOVE),
    ],
);

pub(super) static RESPONSE_HEADERS: Section = section(
    "`response_headers`",
    "[listener.NAME.route.response_headers]",
    "Changes to the header fields that the client sees.",
    &[
        Key::new("add", OPERATIONS, ADD),
        Key::new("set", OPERATIONS, SET),
        Key::new("remove", REMOVED, REMOVE),
    ],
);

static REDIRECT: Section = section(
    "`redirect`",
    "[listener.NAME.route.redirect]",
    "Sends the client to `to`, or to the same address with another `scheme` or `port`.",
    &[
        Key::new(
            "to",
            Kind::Text(Text::AddressTemplate),
            "`/new/*`, `https://other.example.com/{path}`.",
        ),
        Key::new(
            "scheme",
            word(&["https", "http"]),
            "Another scheme. A request that has it already passes on to the next route that matches.",
        ),
        Key::new("port", Kind::Integer { min: 1, max: 65_535 }, "Another port."),
        Key::new("status", Kind::Integer { min: 300, max: 399 }, "301, 302, 303, 307 or 308.")
            .or_integer(308),
    ],
);

static RESPOND: Section = section(
    "`respond`",
    "[listener.NAME.route.respond]",
    "An answer without a server.",
    &[Key::new("status", STATUS_MADE, "Its status code.").or_integer(200), BODY_MADE, TYPE_MADE],
);

static RETRIES: Section = section(
    "`retries`",
    "[listener.NAME.route.retries]",
    "`connect` suits any request; the rest only idempotent ones whose body is within `max_body`, before any byte of the answer.",
    &[
        Key::new(
            "attempts",
            Kind::Integer { min: 1, max: 10 },
            "Every try counts, the first too; 1 means none is repeated.",
        )
        .or_integer(2),
        Key::new(
            "on",
            Kind::List { of: &Kind::Text(Text::RetryOn), max: ITEMS_MAX },
            "`\"connect\"`, `\"reset\"`, `\"timeout\"`, and status codes like `\"503\"`.",
        )
        .or_words(&["connect", "reset"]),
        Key::new("budget", Kind::Share, "Of the pool's requests in 10 s; at least 10.").or("20%"),
        Key::new(
            "max_body",
            Kind::Size { min: 1, max: 16 << 20 },
            "A larger body is not kept for another try.",
        )
        .or("64KiB"),
        Key::new("backoff", time_or_off(MS, Duration::from_secs(60)), "Wait before another try.")
            .or("25ms"),
        Key::new(
            "try_timeout",
            time_or_off(MS, DURATION_MAX),
            "One try, to the head of its answer.",
        )
        .or("off"),
    ],
);

static MIRROR: Section = Section {
    noun: "`mirror`",
    heading: "[listener.NAME.route.mirror]",
    doc: "A copy of the request, as the servers of the route get it, goes to another pool once all of its body is here. Its answer is read and thrown away, within that pool's `request_timeout`; the client neither waits for it nor sees it fail. A copy takes no limits and is not tried again; upgrades are not copied. `mirror = \"shadow\"` is short for `mirror = { pool = \"shadow\" }`.",
    tag: None,
    short: Some("pool"),
    variants: &[],
    keys: &[
        Key::new("pool", Kind::Text(Text::PoolName), "The pool that gets them.").required(),
        Key::new("share", Kind::Share, "Of the route's requests, by chance.").or("100%"),
        Key::new(
            "max_body",
            Kind::Size { min: 1, max: 16 << 20 },
            "A request with a larger body is not copied, and goes on as it is.",
        )
        .or("64KiB"),
        Key::new(
            "in_flight",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Copies of the route at once, over all workers; what is over it is not copied.",
        )
        .or_integer(100),
    ],
};

static STICKY: Section = section(
    "`sticky`",
    "[listener.NAME.route.sticky]",
    "A cookie says which server a client had.",
    &[
        Key::new("cookie", Kind::Text(Text::Cookie), "Its name.").or("sg"),
        Key::new(
            "ttl",
            time_or_off(Duration::from_secs(1), DURATION_MAX),
            "How long clients keep it; `\"off\"`: until they are closed.",
        )
        .or("off"),
        Key::new("on_drain", word(&["move", "keep"]), "`keep`: goes on to a draining server.")
            .or("move"),
    ],
);

pub(super) static POOL_TLS: Section = section(
    "`tls`",
    "[pool.NAME.tls]",
    "TLS to the servers of a pool.",
    &[
        Key::new(
            "verify",
            Kind::Text(Text::Verify),
            "Whose certificates are believed: `\"system\"` (the authorities of this machine), `\"file:ca.pem\"`, or `\"insecure\"` (anybody's).",
        )
        .or("system"),
        Key::new("sni", Kind::Text(Text::ServerName), "The name that is asked for and verified.").or_described("the `dns:` name, or the address"),
        Key::new("client_cert", PEM, "Our own certificate, for servers that ask for one."),
        Key::new("client_key", PRIVATE, PRIVATE_KEY),
        Key::new("starttls", word(&["postgres"]), "Send PostgreSQL's SSLRequest first. Only for listeners with mode `tcp`."),
    ],
);

pub(super) static KEEPALIVE: Section = section(
    "`keepalive`",
    "[pool.NAME.keepalive]",
    "Connections to servers that wait for the next HTTP request.",
    &[
        Key::new(
            "idle",
            Kind::Integer { min: 0, max: 100_000 },
            "How many stay unused at a server, for each worker. More are kept while the load takes them up again within a second. A worker that has none takes over, in plain text, what another has not used for 100 ms. 0: none, and no request goes over the connection of another.",
        )
        .or_integer(32),
        Key::new("timeout", time(MS, DURATION_MAX), "How long one waits.").or("30s"),
    ],
);
