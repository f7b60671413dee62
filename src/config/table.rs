//! The rows of the key table, section by section, in the order of the reference page. Those of
//! TLS and HTTP are in [`table_http`](super::table_http), those of policies in
//! [`table_policy`](super::table_policy), those of the process in
//! [`table_process`](super::table_process).

use std::time::Duration;

use super::keys::{Key, Kind, Names, Section, Text};
use super::table_auth::CONSUMER;
use super::table_http::{
    COMPRESSION, ERROR_PAGE, HTTP, HTTP_ONLY, KEEPALIVE as UNUSED, LISTENER_TLS, POOL_TLS, ROUTE,
    ROUTES_MAX, SNI_KIND, TCP_ONLY,
};
use super::table_policy::{BREAKER, CONSUMERS_MAX, POLICIES_MAX, POLICY, POLICY_REFS};
use super::table_process::{ADMIN, LOG, RUNTIME};
use super::units::DURATION_MAX;

/// Listening sockets times workers are descriptors; more listeners than this are a mistake.
pub const LISTENERS_MAX: usize = 1_024;
/// Addresses of one listener.
pub const BINDS_MAX: usize = 64;
/// Pools get 16-bit ids; four for each listener is generous.
pub const POOLS_MAX: usize = 4_096;
/// Servers of one pool: each costs a check, and every worker looks at all of them to pick.
pub const SERVERS_PER_POOL_MAX: usize = 1_000;
/// Servers in all: half of what the registry holds, the rest is for members of names.
pub const SERVERS_MAX: usize = 8_192;
/// Networks of one list, searched for each new connection.
pub const NETWORKS_MAX: usize = 1_024;
/// Patterns in `include`.
pub const INCLUDES_MAX: usize = 64;
/// Sessions a limit may name; far above what descriptors allow.
pub const CONNS_MAX: i64 = 100_000_000;

pub(super) const MS: Duration = Duration::from_millis(1);
/// Sessions and checks are timed in milliseconds.
pub(super) const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, off: false }
}
pub(super) const fn time_or_off(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, off: true }
}
pub(super) const fn word(words: &'static [&'static str]) -> Kind {
    Kind::Word { words }
}

pub static ROOT: Section = Section {
    noun: "the top level",
    heading: "Top level",
    doc: "The file is TOML or, when its name ends in `.json`, the same tables as one JSON object.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("version", Kind::Integer { min: 1, max: 1 }, "The version of this format.")
            .or_integer(1),
        Key::new(
            "include",
            Kind::OneOrList { of: &Kind::Text(Text::Pattern), min: 0, max: INCLUDES_MAX },
            "Files to read as if their tables stood here, for example `[\"conf.d/*.toml\"]`; `*` and `?` may stand \
             in the last part. Relative to this file. An included file includes nothing itself. Tables merge; \
             the same name twice is an error.",
        ),
        Key::new("runtime", Kind::Table(&RUNTIME), "The process as a whole."),
        Key::new(
            "admin",
            Kind::Table(&ADMIN),
            "The admin API. Without this table there is no admin listener.",
        ),
        Key::new(
            "log",
            Kind::Table(&LOG),
            "The access log, and what the process says about itself.",
        ),
        Key::new(
            "defaults",
            Kind::Table(&DEFAULTS),
            "Timeouts that any listener or pool may override.",
        ),
        Key::new(
            "listener",
            Kind::Named { section: &LISTENER, max: LISTENERS_MAX },
            "Listeners by name. There must be at least one.",
        ),
        Key::new(
            "pool",
            Kind::Named { section: &POOL, max: POOLS_MAX },
            "Pools of servers by name.",
        ),
        Key::new(
            "policy",
            Kind::Named { section: &POLICY, max: POLICIES_MAX },
            "Policies of HTTP listeners and routes by name.",
        ),
        Key::new(
            "consumer",
            Kind::Named { section: &CONSUMER, max: CONSUMERS_MAX },
            "Who may ask, by name.",
        ),
    ],
};

const CONNECT: &str = "One attempt to connect to a server, and waiting for one with room.";
const IDLE: &str = "A session without a byte in either direction ends after this; so does an answer that has begun and does not go on, and a silent gRPC stream.";
const HALF_CLOSED: &str = "The same, once one side has finished sending.";
const SESSION: &str = "The longest a session may last.";
const KEEPALIVE: &str =
    "TCP keep-alive begins after this long without a byte; then every 5 s, 3 times.";
const HANDSHAKE: &str =
    "A TLS handshake, with clients and with servers, and a ClientHello that is only looked at.";
const PROXY: &str = "A PROXY header of a client.";
const HEADER: &str =
    "The head of a request: the first from accept or TLS on, later ones from their first byte on.";
const REQUEST: &str = "From the last byte of a request to the head of its answer, all attempts and waiting for a server included.";
const BODY: &str = "A body of a request that does not come on, or an answer that is not taken.";
const BETWEEN: &str = "A connection of a client between two requests.";
const EARLY: &str = "Belongs to a listener: it is over before a pool is chosen, so that here it has no effect and is a warning.";
const TOTAL: &str = "A whole request, bodies and streams included.";
/// `TCP_KEEPIDLE` takes whole seconds up to this.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

const CONNECT_KIND: Kind = time(MS, DURATION_MAX);
const IDLE_KIND: Kind = time(MS, DURATION_MAX);
const SESSION_KIND: Kind = time_or_off(MS, DURATION_MAX);
const KEEPALIVE_KIND: Kind = time(Duration::from_secs(1), KEEPALIVE_MAX);
const FROM_DEFAULTS: &str = "as in `[defaults]`";
const FROM_LISTENER: &str = "as the listener has it, else `[defaults]`";

pub static DEFAULTS: Section = Section {
    noun: "`[defaults]`",
    heading: "[defaults]",
    doc: "Timeouts that any listener or pool may override: pool before listener before this table.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("connect_timeout", CONNECT_KIND, CONNECT).or("3s"),
        Key::new("idle_timeout", IDLE_KIND, IDLE).or("10m"),
        Key::new("half_closed_timeout", IDLE_KIND, HALF_CLOSED).or("1m"),
        Key::new("session_timeout", SESSION_KIND, SESSION).or("off"),
        Key::new("tcp_keepalive", KEEPALIVE_KIND, KEEPALIVE).or("15s"),
        Key::new("handshake_timeout", IDLE_KIND, HANDSHAKE).or("10s"),
        Key::new("proxy_timeout", IDLE_KIND, PROXY).or("3s"),
        Key::new("header_timeout", IDLE_KIND, HEADER).or("10s"),
        Key::new("request_timeout", IDLE_KIND, REQUEST).or("60s"),
        Key::new("body_timeout", IDLE_KIND, BODY).or("30s"),
        Key::new("keepalive_timeout", IDLE_KIND, BETWEEN).or("60s"),
        Key::new("total_timeout", SESSION_KIND, TOTAL).or("off"),
    ],
};

static LISTENER: Section = Section {
    noun: "listener",
    heading: "[listener.NAME]",
    doc: "One or more addresses, and where their clients go: one `pool`, or pools by server name (`sni`), or routes.",
    tag: Some("mode"),
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "bind",
            Kind::OneOrList { of: &Kind::Text(Text::Bind), min: 1, max: BINDS_MAX },
            "Where it listens: `\"0.0.0.0:5432\"`, `\"[::]:5432\"`, `\"unix:/path\"`, or a list of these. Port 0 is a \
             free port, printed at start.",
        )
        .required(),
        Key::new("mode", word(&["tcp", "http"]), "What the clients speak.").or("tcp"),
        Key::new(
            "pool",
            Kind::Text(Text::PoolName),
            "The pool its clients go to. With routes: the pool of all requests that no route matches.",
        ),
        Key::new("sni", SNI_KIND, "Pools by the server name in a TLS ClientHello, which goes on undecrypted: exact names, `*.example.com`, and `*` for every other name.").only(TCP_ONLY),
        Key::new("no_sni", Kind::Text(Text::PoolName), "The pool of clients whose ClientHello has no name. Goes with `sni`.").or_described("they are refused").only(TCP_ONLY),
        Key::new("tls", Kind::Table(&LISTENER_TLS), "TLS ends here."),
        Key::new("accept_proxy", Kind::Bool, "Peers in `trusted` send a PROXY header (v1 or v2) first. Goes with `trusted`.").or_bool(false),
        Key::new(
            "trusted",
            Kind::List { of: &Kind::Text(Text::Network), max: NETWORKS_MAX },
            "Whose PROXY header is read. From others it is data.",
        ),
        Key::new(
            "route",
            Kind::Tables { section: &ROUTE, max: ROUTES_MAX },
            "Routes, `[[listener.NAME.route]]`. The most specific one wins, wherever it stands.",
        ).only(HTTP_ONLY),
        Key::new(
            "trusted_proxies",
            Kind::List { of: &Kind::Text(Text::Network), max: NETWORKS_MAX },
            "Peers whose X-Forwarded-* and X-Request-Id are believed.",
        ).only(HTTP_ONLY),
        Key::new(
            "keep_headers",
            Kind::List { of: &Kind::Text(Text::KeptHeader), max: 5 },
            "Header fields of clients that go on, of those that are dropped otherwise: X-Original-URL, X-Rewrite-URL, \
             X-HTTP-Method-Override, True-Client-IP, CF-Connecting-IP.",
        ).only(HTTP_ONLY),
        Key::new("policies", POLICY_REFS, "Policies that hold for every route.").only(HTTP_ONLY),
        Key::new("server_timing", Kind::Bool, "Answers say in `Server-Timing` what each policy took, and as `upstream` the server that answered.")
            .or_bool(false)
            .only(HTTP_ONLY),
        Key::new("http", Kind::Table(&HTTP), "What a request may have.").only(HTTP_ONLY),
        Key::new("compression", Kind::TableOrFalse(&COMPRESSION), "Compresses answers that clients can read compressed.").or_described("none").only(HTTP_ONLY),
        Key::new(
            "errors",
            Kind::Named { section: &ERROR_PAGE, max: 64 },
            "Own bodies for answers that the gateway itself makes, by status code.",
        ).or_described("JSON with `error` and `detail`").only(HTTP_ONLY),
        Key::new("limit", Kind::Table(&LIMIT), "What one listener and one client may take."),
        Key::new(
            "allow",
            Kind::List { of: &Kind::Text(Text::Network), max: NETWORKS_MAX },
            "Networks whose clients are let in; nobody else is.",
        )
        .or_described("everybody"),
        Key::new(
            "deny",
            Kind::List { of: &Kind::Text(Text::Network), max: NETWORKS_MAX },
            "Networks whose clients are refused, whatever `allow` says.",
        ),
        Key::new(
            "backlog",
            Kind::Integer { min: 1, max: 65_535 },
            "Clients the kernel keeps waiting for accept, for each worker. `net.core.somaxconn` bounds it.",
        )
        .or_integer(4_096),
        Key::new("unix_mode", Kind::Text(Text::Mode), "Permission bits of a unix socket, in octal.").or("0660"),
        Key::new("access_log", Kind::Bool, "Whether its sessions are written to the access log.").or_bool(true),
        Key::new("connect_timeout", CONNECT_KIND, CONNECT).or_described(FROM_DEFAULTS),
        Key::new("idle_timeout", IDLE_KIND, IDLE).or_described(FROM_DEFAULTS),
        Key::new("half_closed_timeout", IDLE_KIND, HALF_CLOSED).or_described(FROM_DEFAULTS),
        Key::new("session_timeout", SESSION_KIND, SESSION).or_described(FROM_DEFAULTS),
        Key::new("tcp_keepalive", KEEPALIVE_KIND, KEEPALIVE).or_described(FROM_DEFAULTS),
        Key::new("handshake_timeout", IDLE_KIND, HANDSHAKE).or_described(FROM_DEFAULTS),
        Key::new("proxy_timeout", IDLE_KIND, PROXY).or_described(FROM_DEFAULTS),
        Key::new("header_timeout", IDLE_KIND, HEADER).or_described(FROM_DEFAULTS).only(HTTP_ONLY),
        Key::new("request_timeout", IDLE_KIND, REQUEST).or_described(FROM_DEFAULTS).only(HTTP_ONLY),
        Key::new("body_timeout", IDLE_KIND, BODY).or_described(FROM_DEFAULTS).only(HTTP_ONLY),
        Key::new("keepalive_timeout", IDLE_KIND, BETWEEN).or_described(FROM_DEFAULTS).only(HTTP_ONLY),
        Key::new("total_timeout", SESSION_KIND, TOTAL).or_described(FROM_DEFAULTS).only(HTTP_ONLY),
    ],
};

static LIMIT: Section = Section {
    noun: "`limit`",
    heading: "[listener.NAME.limit]",
    doc: "What is over a limit is accepted, reset and counted. One address is one IPv4 address or one IPv6 /64.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("max_conns", Kind::Integer { min: 1, max: CONNS_MAX }, "Sessions of this listener at once.")
            .or_described("no limit")
            .range_hint("leave the key out to have no limit"),
        Key::new("conns_per_ip", Kind::Integer { min: 1, max: CONNS_MAX }, "Sessions of one client address at once.")
            .or_described("no limit")
            .range_hint("leave the key out to have no limit"),
        Key::new(
            "new_conns_per_ip",
            Kind::Rate,
            "New sessions of one client address, for example `\"20/s burst 40\"`: refilled evenly, `burst` at once.",
        )
        .or_described("no limit"),
    ],
};

static POOL: Section = Section {
    noun: "pool",
    heading: "[pool.NAME]",
    doc: "Servers that can stand in for each other, and how one is chosen.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("servers", Kind::Named { section: &SERVER, max: SERVERS_PER_POOL_MAX }, "The servers by name, at least one."),
        Key::new(
            "balance",
            word(&["round-robin", "least-conn", "ip-hash", "random-two", "maglev"]),
            "How a server is chosen. `round-robin`: in turn, by weight. `least-conn`: the fewest sessions for its \
             weight. `ip-hash`: the same client address to the same server. `random-two`: the less busy of two random \
             ones. `maglev`: as `ip-hash`, by a table.",
        )
        .or("round-robin"),
        Key::new(
            "hash",
            Kind::Text(Text::HashKey),
            "What `maglev` goes by: `ip`, or, of HTTP requests, `header:NAME`, `cookie:NAME`, `consumer` or `path` \
             (without the query, before a rewrite). Without that value, by the client's address.",
        )
        .or("ip"),
        Key::new("check", Kind::Table(&CHECK), "An active health check. Without one, servers count as up."),
        Key::new("send_proxy", word(&["off", "v1", "v2"]), "Whether servers get a PROXY header with the client's address.")
            .or("off"),
        Key::new(
            "slow_start",
            time_or_off(MS, DURATION_MAX),
            "A server that came back gets a growing share, from a tenth of its weight to all of it, over this long.",
        )
        .or("off"),
        Key::new(
            "hold",
            time_or_off(MS, DURATION_MAX),
            "How long new clients wait while no server is up, or all are full, instead of being refused.",
        )
        .or("off"),
        Key::new(
            "max_held",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Clients that may wait at once, for a server to come up or to have room.",
        )
        .or_integer(1_000),
        Key::new(
            "on_down",
            word(&["keep", "close-sessions"]),
            "What happens to the sessions of a server that goes down. Requests in flight there are tried again elsewhere, if their route lets them, or end with 502.",
        )
        .or("keep"),
        Key::new("outlier", Kind::Table(&OUTLIER), "Takes out servers that fail real clients. Without it, none is."),
        Key::new("breaker", Kind::Table(&BREAKER), "A pause for a pool that fails. For HTTP."),
        Key::new("tls", Kind::Table(&POOL_TLS), "Speak TLS to the servers."),
        Key::new(
            "protocol",
            word(&["http/1.1", "h2", "h2c"]),
            "What HTTP listeners speak to the servers. `h2`: HTTP/2 over TLS. `h2c`: HTTP/2 without TLS.",
        )
        .or("http/1.1"),
        Key::new("keepalive", Kind::Table(&UNUSED), "Connections to servers that wait for the next request."),
        Key::new(
            "source",
            Kind::OneOrList { of: &Kind::Text(Text::Ip), min: 1, max: 64 },
            "Local addresses to connect from, in turn: each brings its own ports.",
        )
        .or_described("the kernel chooses"),
        Key::new("connect_timeout", CONNECT_KIND, CONNECT).or_described(FROM_LISTENER),
        Key::new("idle_timeout", IDLE_KIND, IDLE).or_described(FROM_LISTENER),
        Key::new("half_closed_timeout", IDLE_KIND, HALF_CLOSED).or_described(FROM_LISTENER),
        Key::new("session_timeout", SESSION_KIND, SESSION).or_described(FROM_LISTENER),
        Key::new("tcp_keepalive", KEEPALIVE_KIND, KEEPALIVE).or_described(FROM_LISTENER),
        Key::new("handshake_timeout", IDLE_KIND, HANDSHAKE).or_described(FROM_LISTENER),
        Key::new("request_timeout", IDLE_KIND, REQUEST).or_described(FROM_LISTENER),
        Key::new("body_timeout", IDLE_KIND, BODY).or_described(FROM_LISTENER),
        Key::new("total_timeout", SESSION_KIND, TOTAL).or_described(FROM_LISTENER),
        Key::new("header_timeout", IDLE_KIND, EARLY).or_described(FROM_LISTENER),
        Key::new("keepalive_timeout", IDLE_KIND, EARLY).or_described(FROM_LISTENER),
        Key::new("proxy_timeout", IDLE_KIND, EARLY).or_described(FROM_LISTENER),
    ],
};

static SERVER: Section = Section {
    noun: "server",
    heading: "[pool.NAME.servers.NAME]",
    doc: "One server. `pg1 = \"10.0.0.11:5432\"` is short for `pg1 = { addr = \"10.0.0.11:5432\" }`.",
    tag: None,
    short: Some("addr"),
    variants: &[],
    keys: &[
        Key::new(
            "addr",
            Kind::Text(Text::Server),
            "`\"10.0.0.11:5432\"`, `\"[2001:db8::1]:5432\"`, `\"unix:/path\"`, `\"dns:host:port\"` (one member for \
             each address), or `\"srv:_service._tcp.name\"` (port, priority and weight from the record).",
        )
        .required(),
        Key::new("weight", Kind::Integer { min: 1, max: 1_000 }, "Its share, relative to the others.")
            .or_integer(1)
            .range_hint("to take a server out of rotation use `drain`: `sluicegate ctl drain POOL/SERVER`"),
        Key::new("max_conns", Kind::Integer { min: 1, max: CONNS_MAX }, "Sessions it may have at once, exact over all workers.")
            .or_described("no limit")
            .range_hint("leave the key out to have no limit"),
        Key::new("backup", Kind::Bool, "Used only while no server that is not a backup is up.").or_bool(false),
    ],
};

static CHECK: Section = Section {
    noun: "`check`",
    heading: "[pool.NAME.check]",
    doc: "An active health check of every server of the pool.",
    tag: Some("type"),
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "type",
            word(&["tcp", "http", "redis", "postgres"]),
            "`tcp`: it accepts. `http`: it answers a request as expected. `redis`: it answers PING. `postgres`: it \
             answers a start-up message.",
        )
        .required(),
        Key::new("every", time(Duration::from_millis(10), DURATION_MAX), "From one check of a server to the next.").or("2s"),
        Key::new("timeout", time(MS, DURATION_MAX), "A check that takes longer has failed.").or("1s"),
        Key::new("fall", Kind::Integer { min: 1, max: 100 }, "Failures in a row until a server is down.").or_integer(3),
        Key::new("rise", Kind::Integer { min: 1, max: 100 }, "Passes in a row until a server is up.").or_integer(2),
        Key::new(
            "init",
            word(&["wait", "up", "down"]),
            "What a server counts as before its first result. `wait`: clients wait for that result.",
        )
        .or("wait"),
        Key::new("port", Kind::Integer { min: 1, max: 65_535 }, "Port to check.").or_described("the server's own"),
        Key::new("tls", Kind::Bool, "Check over TLS. Goes with `tls` of the pool.").or_described("`true` if the pool has `tls`"),
        Key::new("method", Kind::Text(Text::Method), "Method of the request.").or("GET").only(&["http"]),
        Key::new("path", Kind::Text(Text::RequestPath), "Path, perhaps with a query.").or("/").only(&["http"]),
        Key::new("host", Kind::Text(Text::Host), "The Host header.").or_described("`sni` of the pool's `tls`, else the server's address").only(&["http"]),
        Key::new(
            "expect",
            Kind::OneOrList { of: &Kind::Statuses, min: 1, max: 32 },
            "Status codes that pass: `200`, `\"200-399\"`, or a list of these.",
        )
        .or("200-399")
        .only(&["http"]),
        Key::new("headers", Kind::Fields { names: Names::HeaderWritten, of: &Kind::Text(Text::FieldValue), max: 32 }, "Header fields of the request.").or_described("none").only(&["http"]),
        Key::new("body", Kind::Text(Text::Free { max: 1_024 }), "Text that the answer's body must contain.").only(&["http"]),
        Key::new("password", Kind::Text(Text::Secret { min: 1 }), "Sent with AUTH before PING.").only(&["redis"]),
        Key::new("user", Kind::Text(Text::Free { max: 63 }), "User name in the start-up message.").or("lb").only(&["postgres"]),
    ],
};

static OUTLIER: Section = Section {
    noun: "`outlier`",
    heading: "[pool.NAME.outlier]",
    doc: "A server that fails real clients is ejected for a while. The last eligible server never is.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "errors",
            Kind::Integer { min: 1, max: 1_000 },
            "Failures in a row until a server is ejected.",
        )
        .or_integer(5),
        Key::new("eject_for", time(MS, DURATION_MAX), "How long it stays out.").or("30s"),
        Key::new("max_ejected", Kind::Share, "At most this share of the pool is out at once.")
            .or("50%"),
    ],
};
