//! Lints: a configuration that can be used, but hardly is what somebody meant.
//!
//! Only said settings are judged; defaults never are. A lint is silent where a value was
//! refused.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::build::{Draft, ListenerDraft, PoolDraft, says_servers};
use super::code;
use super::fields::{Fields, Said};
use super::plan::{Balance, BindAddr, HashBy, Mode, OnDown, Server, ServerAddr, Timeouts};
use super::report::{Finding, Findings};
use super::source::Place;
use super::units::duration_text;
use super::value::{Scalar, clip};

/// Reports everything that looks unmeant.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let used: HashSet<&str> = draft
        .listeners
        .iter()
        .flat_map(|l| l.refs.iter().map(|reference| reference.name.as_str()))
        .chain(super::cross_policy::pools_named(draft))
        .collect();
    // A listener whose pool was refused, or misspelled, may mean any of them.
    let all_known = draft.listeners.len() == draft.root.named("listener").len()
        && draft.listeners.iter().all(|l| {
            let says_where = !l.refs.is_empty() || !l.routes.is_empty();
            says_where && l.refs.iter().all(|reference| reference.pool.is_some())
        });
    for pool in &draft.pools {
        if all_known && !draft.listeners.is_empty() && !used.contains(pool.name) {
            let message = format!("pool `{}` is used by no listener", clip(pool.name));
            found.add(Finding::new(
                code::UNUSED_POOL,
                pool.name_place,
                pool.fields.path.clone(),
                message,
            ));
        }
        pool_alone(pool, draft.admin.is_some(), found);
    }
    for listener in &draft.listeners {
        on_unix(listener, draft, found);
        limits(listener, found);
        networks(listener, found);
        starttls(listener, draft, found);
    }
    timeouts(draft, found);
    secrets(draft, found);
}

fn add(
    found: &mut Findings,
    code: code::Code,
    fields: &Fields,
    key: &str,
    message: String,
    hint: &str,
) {
    let place = fields.said(key).map_or(fields.place, |said| said.place);
    found.add(Finding::new(code, place, fields.path_of(key), message).hint(hint));
}

/// `has_admin`: an operator can put servers into maintenance, where they are down.
fn pool_alone(pool: &PoolDraft<'_>, has_admin: bool, found: &mut Findings) {
    let (plan, fields, name) = (&pool.plan, pool.fields, clip(pool.name));
    if let (Some(check), Some(table)) = (&plan.check, fields.table("check"))
        // A default that is just as long as the period is nobody's mistake.
        && (check.timeout > check.every || check.timeout == check.every && table.said("timeout").is_some())
        && good(table, "timeout")
        && good(table, "every")
    {
        let (timeout, every) = (duration_text(check.timeout), duration_text(check.every));
        let key = if table.said("timeout").is_some() { "timeout" } else { "every" };
        let message = format!(
            "`check` of pool `{name}` may take {timeout}, but the next one is due after {every}"
        );
        add(
            found,
            code::CHECK_TOO_SLOW,
            table,
            key,
            message,
            "make `timeout` shorter than `every`",
        );
    }
    // A name that does not resolve is down without any check.
    let any_name =
        |server: &Server| matches!(server.address, ServerAddr::Dns { .. } | ServerAddr::Srv { .. });
    let nothing_notices = !has_admin
        && fields.said("check").is_none()
        && fields.said("outlier").is_none()
        && says_servers(fields)
        && !plan.servers.iter().any(any_name);
    // Clients also wait while all servers are full.
    let never_full = plan.servers.iter().all(|server| server.max_conns.is_none());
    let never = |key: &str, effect: &str, found: &mut Findings| {
        let message = format!("`{key}` of pool `{name}` never takes effect: {effect}");
        add(found, code::NEVER_DOWN, fields, key, message, "add `check`, `outlier` or `[admin]`");
    };
    if nothing_notices && never_full && plan.hold.is_some() {
        never("hold", "without `check`, `outlier` and `[admin]` no server is ever down", found);
    }
    if nothing_notices && plan.slow_start.is_some() {
        never(
            "slow_start",
            "without `check`, `outlier` and `[admin]` no server ever comes back",
            found,
        );
    }
    if nothing_notices && plan.on_down == OnDown::CloseSessions {
        never(
            "on_down",
            "without `check`, `outlier` and `[admin]` no server ever goes down",
            found,
        );
    }
    if plan.servers.len() > 1 && plan.servers.iter().all(|server| server.backup) {
        let message = format!("every server of pool `{name}` is a backup");
        add(
            found,
            code::ONLY_BACKUPS,
            fields,
            "servers",
            message,
            "take `backup` from those that should be used first",
        );
    }
    servers_twice(pool, found);
    records_say(pool, found);
}

/// Of a service, records say what the file may say of other servers.
fn records_say(pool: &PoolDraft<'_>, found: &mut Findings) {
    for (name, said) in pool.fields.named("servers") {
        let server = pool.plan.servers.iter().find(|server| *server.name == **name);
        let of_records = server.is_some_and(|one| matches!(one.address, ServerAddr::Srv { .. }));
        let Some(fields) = said.fields().filter(|_| of_records) else { continue };
        for key in ["weight", "backup"].into_iter().filter(|key| fields.has(key)) {
            let message = format!(
                "`{key}` of server `{}` of pool `{}` has no effect: its SRV records say it",
                clip(name),
                clip(pool.name)
            );
            add(found, code::NO_EFFECT, fields, key, message, "");
        }
    }
}

fn servers_twice(pool: &PoolDraft<'_>, found: &mut Findings) {
    let mut seen: HashMap<Key<'_>, usize> = HashMap::new();
    for (index, server) in pool.plan.servers.iter().enumerate() {
        let Some(first) = seen.insert(Key::of(&server.address), index) else { continue };
        let message = format!(
            "server `{}` of pool `{}` has the address of server `{}`",
            clip(&server.name),
            clip(pool.name),
            clip(&pool.plan.servers[first].name)
        );
        let key = format!("{}.servers.{}", pool.fields.path, server.name);
        let finding = Finding::new(code::SERVER_TWICE, pool.server_places[index], key, message);
        found.add(
            finding
                .hint("for a larger share use `weight`")
                .related(pool.server_places[first], "the first is here"),
        );
    }
}

/// A server address as a map key.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Ip(std::net::SocketAddr),
    Unix(&'a std::path::Path),
    Dns(String, u16),
    Srv(String),
}

impl<'a> Key<'a> {
    fn of(address: &'a ServerAddr) -> Self {
        match address {
            ServerAddr::Ip(address) => Self::Ip(*address),
            ServerAddr::Unix(path) => Self::Unix(path),
            ServerAddr::Dns { host, port } => Self::Dns(host.to_ascii_lowercase(), *port),
            ServerAddr::Srv { name } => Self::Srv(name.to_ascii_lowercase()),
        }
    }
}

/// Settings that need a client's address, where there is none.
fn on_unix(listener: &ListenerDraft<'_>, draft: &Draft<'_>, found: &mut Findings) {
    let binds = &listener.plan.bind;
    if binds.is_empty() || !binds.iter().all(|bind| matches!(bind, BindAddr::Unix(_))) {
        return;
    }
    let (fields, name) = (listener.fields, clip(listener.name));
    let mut lint = |fields: &Fields, key: &str, hint: &str| {
        if fields.said(key).is_some() {
            let message = format!(
                "`{key}` does nothing on listener `{name}`: clients of a unix socket have no address"
            );
            add(found, code::PER_IP_ON_UNIX, fields, key, message, hint);
        }
    };
    let who = "use `unix_mode` to say who may connect";
    lint(fields, "allow", who);
    lint(fields, "deny", who);
    if let Some(limit) = fields.table("limit") {
        lint(limit, "conns_per_ip", who);
        lint(limit, "new_conns_per_ip", who);
    }
    if listener.plan.accept_proxy {
        let data = "nobody is in `trusted`, and a PROXY header goes to the server as data";
        lint(fields, "accept_proxy", data);
    }
    for pool in listener.pools().into_iter().map(|pool| &draft.pools[pool]) {
        address_balance(listener, pool, found);
    }
}

fn address_balance(listener: &ListenerDraft<'_>, pool: &PoolDraft<'_>, found: &mut Findings) {
    let (fields, name) = (listener.fields, clip(listener.name));
    if matches!(pool.plan.balance, Balance::IpHash | Balance::Maglev)
        && pool.plan.hash == HashBy::Ip
    {
        let message = format!(
            "pool `{}` chooses by client address, but clients of unix listener `{name}` have none and go anywhere",
            clip(pool.name)
        );
        let place = pool.fields.place_of("balance");
        let finding =
            Finding::new(code::PER_IP_ON_UNIX, place, pool.fields.path_of("balance"), message);
        found.add(finding.related(fields.place_of("bind"), "the listener binds here"));
    }
}

fn limits(listener: &ListenerDraft<'_>, found: &mut Findings) {
    let limit = listener.plan.limit;
    let (Some(all), Some(one), Some(fields)) =
        (limit.max_conns, limit.conns_per_ip, listener.fields.table("limit"))
    else {
        return;
    };
    if one > all {
        let message = format!(
            "`conns_per_ip` of listener `{}` is above its `max_conns`",
            clip(listener.name)
        );
        add(found, code::TIMEOUT_ORDER, fields, "conns_per_ip", message, "");
    }
}

fn networks(listener: &ListenerDraft<'_>, found: &mut Findings) {
    for key in ["allow", "deny"] {
        for (scalar, place) in listener.fields.list(key) {
            if let Scalar::Network { net, host_bits: true } = scalar {
                let message = format!(
                    "a network in `{key}` of listener `{}` has bits after its prefix",
                    clip(listener.name)
                );
                let finding =
                    Finding::new(code::HOST_BITS, place, listener.fields.path_of(key), message);
                found.add(finding.hint(format!("it is read as \"{net}\"")));
            }
        }
    }
}

/// What a PostgreSQL client asks first, where TLS to the servers begins before the client's bytes:
/// the question would go through inside, and no server answers it there.
fn starttls(listener: &ListenerDraft<'_>, draft: &Draft<'_>, found: &mut Findings) {
    let fields = listener.fields;
    // With `sni` clients begin with a hello, and with `tls` they are answered by the listener.
    if listener.plan.mode != Mode::Tcp || fields.has("tls") || fields.has("sni") {
        return;
    }
    for pool in listener.pools().into_iter().map(|pool| &draft.pools[pool]) {
        let Some(tls) = pool.fields.table("tls").filter(|tls| tls.has("starttls")) else {
            continue;
        };
        let message = format!(
            "listener `{}` has no answer for PostgreSQL clients who ask for TLS, as they do by \
             default (sslmode=prefer): pool `{}` passes their question on inside its own TLS",
            clip(listener.name),
            clip(pool.name)
        );
        let hint = "give the listener tls = { cert, key, starttls = \"postgres\" }, or let clients \
                    say sslmode=disable";
        let (place, path) = (fields.place_of("pool"), fields.path_of("pool"));
        let finding = Finding::new(code::NO_STARTTLS, place, path, message).hint(hint);
        found.add(finding.related(tls.place_of("starttls"), "TLS begins here"));
    }
}

/// Timeouts of which one can never happen. Each contradiction is told once, at the nearer of the
/// two settings that was said.
fn timeouts(draft: &Draft<'_>, found: &mut Findings) {
    let mut told: HashSet<(Place, &'static str)> = HashSet::new();
    for listener in &draft.listeners {
        for pool in listener.pools().into_iter().map(|pool| &draft.pools[pool]) {
            timeouts_with(listener, pool, draft, &mut told, found);
        }
    }
}

fn timeouts_with<'a>(
    listener: &ListenerDraft<'a>,
    pool: &PoolDraft<'a>,
    draft: &Draft<'a>,
    told: &mut HashSet<(Place, &'static str)>,
    found: &mut Findings,
) {
    let times = pool.plan.timeouts.over(listener.plan.timeouts.over(pool.plan.defaults));
    let levels: Vec<&Fields> =
        [Some(pool.fields), Some(listener.fields), draft.root.table("defaults")]
            .into_iter()
            .flatten()
            .collect();
    for (longer, shorter, effect) in contradictions(times) {
        let keys = [longer, shorter];
        // A default was not meant against anything.
        let is_said = |key: &str| levels.iter().any(|fields| fields.said(key).is_some());
        if !keys.into_iter().all(is_said) {
            continue;
        }
        // A refused value anywhere would be judged by what stands in for it.
        if levels.iter().any(|fields| keys.iter().any(|key| !good(fields, key))) {
            continue;
        }
        let said = |fields: &Fields| keys.into_iter().find(|key| fields.said(key).is_some());
        let Some((fields, key)) = levels.iter().find_map(|fields| Some((*fields, said(fields)?)))
        else {
            continue;
        };
        if told.insert((fields.place_of(key), effect)) {
            let (l, s) = (time(times, longer), time(times, shorter));
            let (l, s) =
                (duration_text(l.unwrap_or_default()), duration_text(s.unwrap_or_default()));
            let message = format!(
                "`{longer}` ({l}) is longer than `{shorter}` ({s}) for listener `{}`",
                clip(listener.name)
            );
            add(found, code::TIMEOUT_ORDER, fields, key, message, effect);
        }
    }
}

fn contradictions(times: Timeouts) -> Vec<(&'static str, &'static str, &'static str)> {
    const PAIRS: [(&str, &str, &str); 4] = [
        (
            "connect_timeout",
            "idle_timeout",
            "a client waits longer for a server than it may be idle",
        ),
        ("half_closed_timeout", "idle_timeout", "the idle timeout always comes first"),
        (
            "idle_timeout",
            "session_timeout",
            "the session always ends before it can be idle that long",
        ),
        (
            "connect_timeout",
            "session_timeout",
            "a client waits longer for a server than its session may last",
        ),
    ];
    let longer = |(a, b, _): &(&str, &str, &str)| {
        time(times, a).zip(time(times, b)).is_some_and(|(a, b)| a > b)
    };
    PAIRS.into_iter().filter(longer).collect()
}

fn time(times: Timeouts, key: &str) -> Option<Duration> {
    match key {
        "connect_timeout" => Some(times.connect),
        "idle_timeout" => Some(times.idle),
        "half_closed_timeout" => Some(times.half_closed),
        _ => times.session,
    }
}

fn good(fields: &Fields, key: &str) -> bool {
    fields.said(key).is_none_or(|said| said.scalar().is_some())
}

fn secrets(draft: &Draft<'_>, found: &mut Findings) {
    let admin = draft.admin.as_ref().map(|(_, fields)| *fields);
    let checks = draft.pools.iter().filter_map(|pool| pool.fields.table("check"));
    for (fields, keys) in admin
        .map(|fields| (fields, &["token", "read_token"][..]))
        .into_iter()
        .chain(checks.map(|fields| (fields, &["password"][..])))
    {
        for key in keys {
            plain_secret(fields, key, found);
        }
    }
    if let Some(fields) = admin {
        same_tokens(fields, found);
    }
}

fn same_tokens(admin: &Fields, found: &mut Findings) {
    let value = |key| match admin.scalar(key) {
        Some(Scalar::Secret { value, .. }) => Some(value),
        _ => None,
    };
    let (token, read) = (value("token"), value("read_token"));
    if token.is_some() && token == read {
        let message = format!(
            "`read_token` of {} is the same as `token`: whoever has it can do everything",
            admin.title
        );
        let hint = "make another one with `openssl rand -hex 16`";
        let (place, path) = (admin.place_of("read_token"), admin.path_of("read_token"));
        let finding = Finding::new(code::SAME_TOKEN, place, path, message).hint(hint);
        found.add(finding.related(admin.place_of("token"), "`token` is here"));
    }
}

/// A secret that stands in the file itself.
pub(super) fn plain_secret(fields: &Fields, key: &str, found: &mut Findings) {
    let said = fields.said(key).and_then(Said::scalar);
    if let Some(Scalar::Secret { plain: true, .. } | Scalar::Pem { plain: true, .. }) = said {
        let message = format!("`{key}` of {} stands in the file in plain text", fields.title);
        let advice = "write \"env:NAME\" or \"file:/path\"";
        add(found, code::PLAIN_SECRET, fields, key, message, advice);
    }
}
