//! The rows of the key table for the process as a whole: `[runtime]`, `[admin]`, `[log]`. What a
//! row can be says [`keys`](super::keys); the other sections are in [`table`](super::table).

use super::keys::{Key, Kind, Section, Text};
use super::table::{CONNS_MAX, MS, time, time_or_off, word};
use super::table_http::{CERT, PEM, PRIVATE, PRIVATE_KEY};
use super::units::DURATION_MAX;

/// Threads, each pinned to a CPU; the largest machines have fewer CPUs.
pub const WORKERS_MAX: i64 = 1_024;
/// Fields of a request in its line of the log.
pub const LOG_HEADERS_MAX: usize = 32;

pub static RUNTIME: Section = Section {
    noun: "`[runtime]`",
    heading: "[runtime]",
    doc: "The process as a whole.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "workers",
            Kind::Integer { min: 1, max: WORKERS_MAX },
            "Threads that carry sessions, each pinned to a CPU.",
        )
        .or_described("the CPUs this process may use"),
        Key::new(
            "engine",
            word(&["auto", "io_uring", "epoll"]),
            "What carries the sessions. \"auto\": io_uring, or epoll with a warning where the system refuses it; \"io_uring\": exit with 71 there.",
        )
        .or("auto"),
        Key::new(
            "drain_timeout",
            time(MS, DURATION_MAX),
            "After SIGTERM or SIGINT: how long sessions may go on before they are reset.",
        )
        .or("30s"),
        Key::new(
            "shutdown_delay",
            time_or_off(MS, DURATION_MAX),
            "After SIGTERM: how long `/readyz` says 503 while clients are still accepted, before the drain begins.",
        )
        .or("off"),
        Key::new(
            "max_conns",
            Kind::IntegerOrAuto { min: 1, max: CONNS_MAX },
            "Sessions in all. \"auto\": from the descriptor limit, with a reserve for admin, checks and logs.",
        )
        .or_described("\"auto\""),
        Key::new("dns", Kind::Table(&DNS), "How `dns:` and `srv:` servers are resolved."),
        Key::new(
            "watch",
            Kind::Bool,
            "Reload when a file of the configuration changes: the one that was named, those that it includes, those that `file:` names for secrets and bodies; and when `include` finds another. Certificates and their keys are looked at in any case.",
        )
        .or_bool(false),
    ],
};

pub static DNS: Section = Section {
    noun: "`dns`",
    heading: "[runtime.dns]",
    doc: "How `dns:` and `srv:` servers are resolved.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "servers",
            Kind::List { of: &Kind::Text(Text::Resolver), max: 16 },
            "Name servers, `\"9.9.9.9\"` or `\"9.9.9.9:53\"`.",
        )
        .or_described("those of `/etc/resolv.conf`"),
        Key::new("min_ttl", time(MS, DURATION_MAX), "An answer is used at least this long.")
            .or("1s"),
        Key::new("max_ttl", time(MS, DURATION_MAX), "An answer is used at most this long.")
            .or("5m"),
        Key::new(
            "refuse",
            Kind::List {
                of: &word(&["loopback", "link-local", "multicast", "unspecified"]),
                max: 4,
            },
            "Kinds of address that a name must not resolve to. The name `localhost` is spared.",
        )
        .or_words(&["loopback", "link-local", "multicast", "unspecified"]),
    ],
};

pub static ADMIN: Section = Section {
    noun: "`[admin]`",
    heading: "[admin]",
    doc: "The admin API. Without this table there is no admin listener.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "bind",
            Kind::Text(Text::Bind),
            "Where it listens, `\"127.0.0.1:9901\"` or `\"unix:/path\"`. An address that is not loopback needs `token`.",
        )
        .or("127.0.0.1:9901"),
        Key::new(
            "token",
            Kind::Text(Text::Secret { min: 16 }),
            "Bearer token for all but `/healthz` and `/readyz`. At least 16 bytes.",
        ),
        Key::new(
            "read_token",
            Kind::Text(Text::Secret { min: 16 }),
            "Bearer token for GET requests except `/v1/config`. At least 16 bytes.",
        ),
        Key::new(
            "hosts",
            Kind::List { of: &Kind::Text(Text::Host), max: 64 },
            "Host values that are accepted beside IP addresses and `localhost`.",
        ),
        Key::new("tls", Kind::Table(&ADMIN_TLS), "Speak TLS. Not with a unix socket."),
    ],
};

static ADMIN_TLS: Section = Section {
    noun: "`tls`",
    heading: "[admin.tls]",
    doc: "The admin API over TLS, for https:// addresses in `ctl`, `top`, scrapers and browsers. Tokens are asked for all the same.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new("cert", PEM, CERT).required(),
        Key::new("key", PRIVATE, PRIVATE_KEY).required(),
        Key::new(
            "client_ca",
            PEM,
            "Authorities whose client certificates are taken, as PEM; without one of them nobody gets in, not even to `/healthz`.",
        ),
    ],
};

pub static LOG: Section = Section {
    noun: "`[log]`",
    heading: "[log]",
    doc: "The access log, and what the process says about itself.",
    tag: None,
    short: None,
    variants: &[],
    keys: &[
        Key::new(
            "access",
            Kind::Text(Text::LogTarget),
            "One line for each session of a TCP listener and each request of an HTTP listener: `\"stdout\"`, \
             `\"file:/path\"` or `\"off\"`.",
        )
        .or("stdout"),
        Key::new(
            "format",
            word(&["json", "combined"]),
            "`json`: one object a line. `combined`: Apache's format; see docs/operations.md for lines of TCP sessions.",
        )
        .or("json"),
        Key::new(
            "sample",
            Kind::Share,
            "How many of the lines with reason `ok` and a status below 500 are written, evenly spread; all others are \
             written always, as are those with something in `dry_run`.",
        )
        .or("100%"),
        Key::new("query", Kind::Bool, "Requests are written with their query (JSON: in the field `query`).")
            .or_bool(false),
        Key::new(
            "headers",
            Kind::List { of: &Kind::Text(Text::LoggedHeader), max: LOG_HEADERS_MAX },
            "Fields of requests that are written to the JSON field `headers`. None that carries a credential or a \
             cookie.",
        ),
        Key::new(
            "level",
            word(&["error", "warn", "info", "debug"]),
            "How much the process says on stderr about itself.",
        )
        .or("info"),
    ],
};
