//! Typed fields → a draft of the plan, defaults filled in.
//!
//! The draft keeps, beside every plan value, the fields it came from, so that the checks that
//! follow can point into the file. Where a value was refused a default stands in: the error is
//! reported already and such a plan is never given out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use ipnet::IpNet;
use sluicegate_l7::policy::consumer::ConsumerSpec;
use sluicegate_l7::route::spec::{ActionSpec, RouteSpec};

use super::build_auth;
use super::build_http::{self, http_listener};
use super::build_policy::{self, Policies};
use super::build_tls;
use super::fields::{Fields, Item, Said};
use super::keys::Section;
use super::plan::{
    AccessLog, AddressKind, Admin, Balance, BindAddr, Check, CheckKind, ConnLimit, Dns,
    EngineChoice, HashBy, HttpCheck, HttpTimeouts, Init, KeepAlive, Level, Listener, Log, LogForm,
    LogLines, Mode, OnDown, Outlier, Plan, Pool, Protocol, Rate, Runtime, Secret, SendProxy,
    Server, TimeoutOverrides, Timeouts,
};
use super::report::Findings;
use super::source::Place;
use super::value::Scalar;
use super::{table, table_process};

/// A plan in the making, and where its parts stand in the file.
#[derive(Debug)]
pub struct Draft<'a> {
    pub root: &'a Fields,
    pub runtime: Runtime,
    pub admin: Option<(Admin, &'a Fields)>,
    pub log: Log,
    pub listeners: Vec<ListenerDraft<'a>>,
    pub pools: Vec<PoolDraft<'a>>,
    /// Every name of a pool; `None` for one that is no table, and so has no draft.
    pub pool_names: HashMap<&'a str, Option<usize>>,
    pub policies: Policies,
    /// Every name of a policy, and which of `policies` it is.
    pub policy_names: HashMap<&'a str, usize>,
    pub consumers: Vec<ConsumerSpec>,
}

#[derive(Debug)]
pub struct ListenerDraft<'a> {
    pub name: &'a str,
    pub fields: &'a Fields,
    pub plan: Listener,
    /// Beside each of `plan.bind`.
    pub bind_places: Vec<Place>,
    /// Every pool it names, in whatever way.
    pub refs: Vec<PoolRef<'a>>,
    /// Beside each of the routes it says, in file order.
    pub routes: Vec<&'a Fields>,
}

/// One mention of a pool.
#[derive(Debug)]
pub struct PoolRef<'a> {
    pub name: String,
    pub place: Place,
    /// The table that names it, and by which key.
    pub fields: &'a Fields,
    pub key: &'static str,
    /// With the key `sni`: for which name.
    pub server_name: &'a str,
    /// The pool, if it exists.
    pub pool: Option<usize>,
}

/// The pools there are, and the mentions of them that one listener makes.
#[derive(Debug)]
pub struct Pools<'a, 'b> {
    pub known: &'b HashMap<&'a str, Option<usize>>,
    pub refs: Vec<PoolRef<'a>>,
}

impl<'a> Pools<'a, '_> {
    /// The pool that a key names. `None`: the key is not there, or names none that exists.
    pub fn refer(&mut self, fields: &'a Fields, key: &'static str) -> Option<usize> {
        let name = text(fields, key)?;
        self.refer_name(fields, key, &name, fields.place_of(key), "")
    }

    pub fn refer_name(
        &mut self,
        fields: &'a Fields,
        key: &'static str,
        name: &str,
        place: Place,
        server_name: &'a str,
    ) -> Option<usize> {
        let pool = self.known.get(name).copied().flatten();
        self.refs.push(PoolRef { name: name.to_owned(), place, fields, key, server_name, pool });
        pool
    }
}

impl ListenerDraft<'_> {
    /// The pools its clients may come to, each once.
    #[must_use]
    pub fn pools(&self) -> Vec<usize> {
        let mut pools: Vec<usize> =
            self.refs.iter().filter_map(|reference| reference.pool).collect();
        pools.sort_unstable();
        pools.dedup();
        pools
    }
}

#[derive(Debug)]
pub struct PoolDraft<'a> {
    pub name: &'a str,
    pub name_place: Place,
    pub fields: &'a Fields,
    pub plan: Pool,
    /// Beside each of `plan.servers`: where its address stands.
    pub server_places: Vec<Place>,
}

impl<'a> Draft<'a> {
    #[must_use]
    pub fn new(root: &'a Fields, found: &mut Findings) -> Self {
        let section_defaults = section(root, "defaults", &table::DEFAULTS);
        let defaults = defaults(&section_defaults);
        let below = (defaults, build_http::default_timeouts(&section_defaults));
        let mut pools = Vec::new();
        let mut pool_names = HashMap::new();
        for (name, said) in root.named("pool") {
            let index = said.fields().map(|fields| {
                pools.push(pool(name, said, fields, defaults));
                pools.len() - 1
            });
            pool_names.insert(name.as_str(), index);
        }
        for pool in &mut pools {
            let table = pool.fields.table("breaker");
            pool.plan.breaker = table.map(|table| build_policy::breaker(table, &pool_names));
        }
        let policies = build_policy::policies(root, &pool_names, pools.len(), found);
        let policy_names = root.named("policy").iter().enumerate();
        let policy_names = policy_names.map(|(at, (name, _))| (name.as_str(), at)).collect();
        let names = (&pool_names, &policy_names);
        let listeners = root.named("listener").iter();
        let listeners = listeners
            .filter_map(|(name, said)| Some(listener(name, said.fields()?, below, names, found)));
        let listeners = listeners.collect();
        Self {
            policies,
            policy_names,
            consumers: build_auth::consumers(root),
            root,
            runtime: runtime(&section(root, "runtime", &table_process::RUNTIME)),
            admin: root.table("admin").map(|fields| (admin(fields), fields)),
            log: log(&section(root, "log", &table_process::LOG)),
            listeners,
            pools,
            pool_names,
        }
    }

    /// The plan. Only for a draft in which no error was found.
    #[must_use]
    pub fn into_plan(self, shown: serde_json::Value, hash: String) -> Plan {
        Plan {
            runtime: self.runtime,
            admin: self.admin.map(|(admin, _)| admin),
            log: self.log,
            listeners: self.listeners.into_iter().map(|draft| draft.plan).collect(),
            pools: self
                .pools
                .into_iter()
                .map(|draft| draft.plan)
                .chain(self.policies.pools)
                .collect(),
            policies: self.policies.specs,
            consumers: self.consumers,
            shown,
            hash,
        }
    }
}

/// The table as the file has it, or one in which nothing is said.
fn section<'a>(fields: &'a Fields, key: &str, section: &'static Section) -> Cow<'a, Fields> {
    match fields.table(key) {
        Some(fields) => Cow::Borrowed(fields),
        None => Cow::Owned(Fields::empty(section, fields.place)),
    }
}

fn runtime(fields: &Fields) -> Runtime {
    const ENGINES: [(&str, EngineChoice); 3] = [
        ("auto", EngineChoice::Auto),
        ("io_uring", EngineChoice::Uring),
        ("epoll", EngineChoice::Epoll),
    ];
    Runtime {
        engine: choice(fields.scalar("engine").as_ref(), &ENGINES).unwrap_or(EngineChoice::Auto),
        workers: integer(fields, "workers").map(|n| n as u16),
        timeout_drain: duration(fields, "drain_timeout").unwrap_or_default(),
        delay_shutdown: duration(fields, "shutdown_delay"),
        max_conns: integer(fields, "max_conns").map(|n| n as u32),
        dns: dns(&section(fields, "dns", &table_process::DNS)),
        watch: boolean(fields, "watch").unwrap_or(false),
    }
}

fn dns(fields: &Fields) -> Dns {
    const KINDS: [(&str, AddressKind); 4] = [
        ("loopback", AddressKind::Loopback),
        ("link-local", AddressKind::LinkLocal),
        ("multicast", AddressKind::Multicast),
        ("unspecified", AddressKind::Unspecified),
    ];
    let servers = fields.list("servers").into_iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Socket(address) => Some(address),
        _ => None,
    });
    Dns {
        servers: servers.collect(),
        ttl_min: duration(fields, "min_ttl").unwrap_or_default(),
        ttl_max: duration(fields, "max_ttl").unwrap_or_default(),
        refuse: fields
            .list("refuse")
            .iter()
            .filter_map(|(scalar, _)| choice(Some(scalar), &KINDS))
            .collect(),
    }
}

fn admin(fields: &Fields) -> Admin {
    let bind = match fields.scalar("bind") {
        Some(Scalar::Bind(bind)) => bind,
        // Refused; port 0 is nobody's server.
        _ => BindAddr::Ip(SocketAddr::from(([127, 0, 0, 1], 0))),
    };
    let hosts = fields.list("hosts").iter().filter_map(|(scalar, _)| text_of(scalar)).collect();
    Admin {
        bind,
        token: secret(fields, "token"),
        read_token: secret(fields, "read_token"),
        hosts,
        tls: fields.table("tls").map(build_tls::admin_tls),
    }
}

fn log(fields: &Fields) -> Log {
    const LEVELS: [(&str, Level); 4] = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];
    let access = match fields.scalar("access") {
        Some(Scalar::Log(access)) => access,
        _ => AccessLog::Off,
    };
    let level = choice(fields.scalar("level").as_ref(), &LEVELS);
    const FORMS: [(&str, LogForm); 2] = [("json", LogForm::Json), ("combined", LogForm::Combined)];
    let lines = LogLines {
        form: choice(fields.scalar("format").as_ref(), &FORMS).unwrap_or(LogForm::Json),
        sample: match fields.scalar("sample") {
            Some(Scalar::Share(percent)) => percent,
            _ => 100,
        },
        query: boolean(fields, "query").unwrap_or(false),
        headers: fields.list("headers").iter().filter_map(|(name, _)| text_of(name)).collect(),
    };
    Log { access, level: level.unwrap_or(Level::Info), lines }
}

fn defaults(fields: &Fields) -> Timeouts {
    Timeouts {
        connect: duration(fields, "connect_timeout").unwrap_or_default(),
        idle: duration(fields, "idle_timeout").unwrap_or_default(),
        half_closed: duration(fields, "half_closed_timeout").unwrap_or_default(),
        session: duration(fields, "session_timeout"),
        keepalive: duration(fields, "tcp_keepalive").unwrap_or_default(),
        handshake: duration(fields, "handshake_timeout").unwrap_or_default(),
        proxy: duration(fields, "proxy_timeout").unwrap_or_default(),
    }
}

fn overrides(fields: &Fields) -> TimeoutOverrides {
    // Absent must stay absent, so the defaults of the table are not asked.
    let said = |key| fields.said(key).and_then(Said::scalar);
    let time = |key| match said(key) {
        Some(Scalar::Duration(time)) => Some(*time),
        _ => None,
    };
    TimeoutOverrides {
        connect: time("connect_timeout"),
        idle: time("idle_timeout"),
        half_closed: time("half_closed_timeout"),
        session: match said("session_timeout") {
            Some(Scalar::Off) => Some(None),
            _ => time("session_timeout").map(Some),
        },
        keepalive: time("tcp_keepalive"),
        handshake: time("handshake_timeout"),
        proxy: time("proxy_timeout"),
    }
}

fn listener<'a>(
    name: &'a str,
    fields: &'a Fields,
    (defaults, http_defaults): (Timeouts, HttpTimeouts),
    (known, policies): (&HashMap<&'a str, Option<usize>>, &HashMap<&'a str, usize>),
    found: &mut Findings,
) -> ListenerDraft<'a> {
    const MODES: [(&str, Mode); 2] = [("tcp", Mode::Tcp), ("http", Mode::Http)];
    let mut bind = Vec::new();
    let mut bind_places = Vec::new();
    for (scalar, place) in fields.list("bind") {
        if let Scalar::Bind(address) = scalar {
            bind.push(address);
            bind_places.push(place);
        }
    }
    let mode = choice(fields.scalar("mode").as_ref(), &MODES).unwrap_or_default();
    let mut pools = Pools { known, refs: Vec::new() };
    let pool = pools.refer(fields, "pool");
    for (server_name, said) in fields.named("sni") {
        if let Some(Scalar::Text(pool)) = said.scalar() {
            pools.refer_name(fields, "sni", pool, said.place, server_name);
        }
    }
    pools.refer(fields, "no_sni");
    let sni = fields.has("sni").then(|| build_tls::sni_routes(&pools.refs));
    // A key of the other mode is an error; that nothing in it goes unread, it is built all the same.
    let is_http = mode == Mode::Http || fields.has("route");
    let mut http =
        is_http.then(|| http_listener(fields, http_defaults, policies, &mut pools, found));
    if let (Some(http), Some(pool)) = (&mut http, pool) {
        http.routes.push(RouteSpec { action: ActionSpec::Pool(pool), ..RouteSpec::default() });
    }
    let plan = Listener {
        mode,
        pool,
        accept_proxy: boolean(fields, "accept_proxy").unwrap_or(false),
        trusted: networks(fields, "trusted"),
        sni,
        tls: fields.table("tls").map(|table| build_tls::listener_tls(table, mode)),
        http,
        limit: fields.table("limit").map(limit).unwrap_or_default(),
        allow: networks(fields, "allow"),
        deny: networks(fields, "deny"),
        backlog: integer(fields, "backlog").map_or(0, |n| n as u32),
        unix_mode: match fields.scalar("unix_mode") {
            Some(Scalar::Mode(mode)) => mode,
            _ => 0,
        },
        access_log: boolean(fields, "access_log").unwrap_or(true),
        timeouts: overrides(fields),
        defaults,
        ..Listener::tcp(name, bind, 0)
    };
    let routes = fields.tables("route").collect();
    ListenerDraft { name, fields, plan, bind_places, refs: pools.refs, routes }
}

fn limit(fields: &Fields) -> ConnLimit {
    let rate: Option<Rate> = match fields.scalar("new_conns_per_ip") {
        Some(Scalar::Rate(rate)) => Some(rate),
        _ => None,
    };
    ConnLimit {
        max_conns: count(fields, "max_conns"),
        conns_per_ip: count(fields, "conns_per_ip"),
        new_conns_per_ip: rate,
    }
}

fn pool<'a>(name: &'a str, said: &Said, fields: &'a Fields, defaults: Timeouts) -> PoolDraft<'a> {
    const BALANCE: [(&str, Balance); 5] = [
        ("round-robin", Balance::RoundRobin),
        ("least-conn", Balance::LeastConn),
        ("ip-hash", Balance::IpHash),
        ("random-two", Balance::RandomTwo),
        ("maglev", Balance::Maglev),
    ];
    const PROXY: [(&str, SendProxy); 3] =
        [("off", SendProxy::Off), ("v1", SendProxy::V1), ("v2", SendProxy::V2)];
    const ON_DOWN: [(&str, OnDown); 2] =
        [("keep", OnDown::Keep), ("close-sessions", OnDown::CloseSessions)];
    const PROTOCOLS: [(&str, Protocol); 3] =
        [("http/1.1", Protocol::Http1), ("h2", Protocol::H2), ("h2c", Protocol::H2c)];
    let (servers, server_places) = fields
        .named("servers")
        .iter()
        .filter_map(|(name, said)| server(name, said.fields()?))
        .unzip();
    let source = fields.list("source").into_iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Ip(ip) => Some(ip),
        _ => None,
    });
    let word = |key| fields.scalar(key);
    let plan = Pool {
        balance: choice(word("balance").as_ref(), &BALANCE).unwrap_or(Balance::RoundRobin),
        hash: text(fields, "hash").map(|text| hash_by(&text)).unwrap_or_default(),
        check: fields.table("check").and_then(|table| check(table, fields.table("tls"))),
        send_proxy: choice(word("send_proxy").as_ref(), &PROXY).unwrap_or(SendProxy::Off),
        slow_start: duration(fields, "slow_start"),
        hold: duration(fields, "hold"),
        max_held: integer(fields, "max_held").map_or(0, |n| n as u32),
        on_down: choice(word("on_down").as_ref(), &ON_DOWN).unwrap_or(OnDown::Keep),
        outlier: fields.table("outlier").map(outlier),
        source: source.collect(),
        tls: fields.table("tls").map(build_tls::pool_tls),
        protocol: choice(word("protocol").as_ref(), &PROTOCOLS).unwrap_or_default(),
        keepalive: fields.table("keepalive").map(keepalive).unwrap_or_default(),
        timeouts: overrides(fields),
        timeouts_http: build_http::timeout_overrides(fields),
        defaults,
        ..Pool::of(name, servers)
    };
    PoolDraft { name, name_place: said.key_place, fields, plan, server_places }
}

fn hash_by(text: &str) -> HashBy {
    match text.split_once(':') {
        Some(("header", name)) => HashBy::Header(name.to_ascii_lowercase().into()),
        Some(("cookie", name)) => HashBy::Cookie(name.into()),
        _ if text == "consumer" => HashBy::Consumer,
        _ if text == "path" => HashBy::Path,
        _ => HashBy::Ip,
    }
}

/// `None` when the address was refused: there is nothing to compare with others.
fn server(name: &str, fields: &Fields) -> Option<(Server, Place)> {
    let Some(Scalar::Server(address)) = fields.scalar("addr") else { return None };
    let server = Server {
        name: name.to_owned(),
        address,
        weight: integer(fields, "weight").map_or(0, |n| n as u16),
        max_conns: count(fields, "max_conns"),
        backup: boolean(fields, "backup").unwrap_or(false),
    };
    Some((server, fields.place_of("addr")))
}

fn check(fields: &Fields, pool_tls: Option<&Fields>) -> Option<Check> {
    const INIT: [(&str, Init); 3] = [("wait", Init::Wait), ("up", Init::Up), ("down", Init::Down)];
    let in_a_row =
        |key| integer(fields, key).and_then(|n| NonZeroU8::new(n as u8)).unwrap_or(NonZeroU8::MIN);
    Some(Check {
        kind: check_kind(fields, pool_tls)?,
        every: duration(fields, "every").unwrap_or_default(),
        timeout: duration(fields, "timeout").unwrap_or_default(),
        fall: in_a_row("fall"),
        rise: in_a_row("rise"),
        init: choice(fields.scalar("init").as_ref(), &INIT).unwrap_or(Init::Wait),
        port: integer(fields, "port").map(|n| n as u16),
        tls: boolean(fields, "tls").unwrap_or(pool_tls.is_some()),
    })
}

fn check_kind(fields: &Fields, pool_tls: Option<&Fields>) -> Option<CheckKind> {
    let text = |key| fields.scalar(key).as_ref().and_then(text_of);
    let Some(Scalar::Word(word)) = fields.scalar("type") else { return None };
    Some(match word {
        "http" => {
            let expect = fields.list("expect").into_iter().filter_map(|(scalar, _)| match scalar {
                Scalar::Statuses(range) => Some(range),
                _ => None,
            });
            let headers = fields.named("headers").iter();
            let headers =
                headers.filter_map(|(name, said)| Some((name.clone(), text_of(said.scalar()?)?)));
            CheckKind::Http(HttpCheck {
                method: text("method").unwrap_or_default(),
                path: text("path").unwrap_or_default(),
                host: text("host")
                    .or_else(|| pool_tls.and_then(|tls| super::build::text(tls, "sni"))),
                expect: expect.collect(),
                headers: headers.collect(),
                body: text("body"),
            })
        }
        "redis" => CheckKind::Redis { password: secret(fields, "password") },
        "postgres" => CheckKind::Postgres { user: text("user").unwrap_or_default() },
        _ => CheckKind::Tcp,
    })
}

fn outlier(fields: &Fields) -> Outlier {
    Outlier {
        errors: count(fields, "errors").unwrap_or(NonZeroU32::MIN),
        eject_for: duration(fields, "eject_for").unwrap_or_default(),
        max_ejected_percent: match fields.scalar("max_ejected") {
            Some(Scalar::Share(percent)) => percent,
            _ => 0,
        },
    }
}

fn keepalive(fields: &Fields) -> KeepAlive {
    KeepAlive {
        idle_max: integer(fields, "idle").map_or(0, |n| n as u32),
        timeout: duration(fields, "timeout").unwrap_or_default(),
    }
}

/// Networks of a list, without those that were refused.
#[must_use]
pub fn networks(fields: &Fields, key: &str) -> Vec<IpNet> {
    let nets = fields.list(key).into_iter().filter_map(|(scalar, _)| match scalar {
        Scalar::Network { net, .. } => Some(net),
        _ => None,
    });
    nets.collect()
}

/// Bytes; 0 when it was refused.
#[must_use]
pub fn size(fields: &Fields, key: &str) -> u64 {
    match fields.scalar(key) {
        Some(Scalar::Size(bytes)) => bytes,
        _ => 0,
    }
}

#[must_use]
pub fn text(fields: &Fields, key: &str) -> Option<String> {
    fields.scalar(key).as_ref().and_then(text_of)
}

#[must_use]
pub fn duration(fields: &Fields, key: &str) -> Option<Duration> {
    match fields.scalar(key) {
        Some(Scalar::Duration(time)) => Some(time),
        _ => None,
    }
}

#[must_use]
pub fn integer(fields: &Fields, key: &str) -> Option<i64> {
    match fields.scalar(key) {
        Some(Scalar::Integer(number)) => Some(number),
        _ => None,
    }
}

fn count(fields: &Fields, key: &str) -> Option<NonZeroU32> {
    integer(fields, key).and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
}

#[must_use]
pub fn boolean(fields: &Fields, key: &str) -> Option<bool> {
    match fields.scalar(key) {
        Some(Scalar::Bool(on)) => Some(on),
        _ => None,
    }
}

fn secret(fields: &Fields, key: &str) -> Option<Secret> {
    match fields.scalar(key) {
        Some(Scalar::Secret { value, .. }) => Some(Secret(value)),
        _ => None,
    }
}

fn text_of(scalar: &Scalar) -> Option<String> {
    match scalar {
        Scalar::Text(text) => Some(text.clone()),
        _ => None,
    }
}

#[must_use]
pub fn choice<T: Copy>(scalar: Option<&Scalar>, choices: &[(&str, T)]) -> Option<T> {
    let Some(Scalar::Word(word)) = scalar else { return None };
    choices.iter().find(|(name, _)| name == word).map(|(_, choice)| *choice)
}

/// Whether the pool says it has servers, good or bad.
#[must_use]
pub fn says_servers(fields: &Fields) -> bool {
    match fields.said("servers").map(|said| &said.item) {
        Some(Item::Named(names)) => !names.is_empty(),
        Some(_) => true, // Bad, and reported.
        None => false,
    }
}
