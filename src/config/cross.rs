//! What keys mean together: references, addresses used twice, circles, contradictions.
//!
//! Works on the draft, in which refused values have no part, so no mistake is reported twice.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::build::{Draft, ListenerDraft, PoolDraft, says_servers};
use super::code;
use super::fields::Item;
use super::keys;
use super::plan::{Balance, BindAddr, ServerAddr};
use super::report::{Finding, Findings};
use super::source::Place;
use super::table::SERVERS_MAX;
use super::value::clip;

/// Names compared for one suggestion, and suggestions made: their product bounds the time for
/// a file in which every reference dangles.
const COMPARED_MAX: usize = 2_000;
const SUGGESTIONS_MAX: usize = 100;

/// Reports every contradiction that makes the configuration unusable.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let any_listener = draft.root.said("listener").is_some_and(|said| match &said.item {
        Item::Named(names) => !names.is_empty(),
        _ => true, // Bad, and reported.
    });
    if !any_listener {
        let finding =
            Finding::new(code::NO_LISTENER, draft.root.place, "listener", "there is no listener");
        found.add(finding.hint("add `[listener.NAME]` with `bind` and `pool`"));
    }
    references(draft, found);
    addresses_once(draft, found);
    for listener in &draft.listeners {
        empty_allow(listener, found);
    }
    for pool in &draft.pools {
        pool_alone(pool, found);
    }
    servers_in_all(draft, found);
    if let Some(dns) = draft.root.table("runtime").and_then(|runtime| runtime.table("dns")) {
        let ttl = &draft.runtime.dns;
        let good = |key: &str| dns.said(key).is_none_or(|said| said.scalar().is_some());
        if ttl.ttl_min > ttl.ttl_max && good("min_ttl") && good("max_ttl") {
            let place =
                dns.said("min_ttl").or(dns.said("max_ttl")).map_or(dns.place, |said| said.place);
            let message = "`min_ttl` of `dns` is longer than `max_ttl`";
            found.add(Finding::new(code::CONFLICT, place, dns.path_of("min_ttl"), message));
        }
    }
    admin_reach(draft, found);
    admin_tls(draft, found);
    admin_as_server(draft, found);
    circles(draft, found);
}

fn references(draft: &Draft<'_>, found: &mut Findings) {
    if draft.root.said("pool").is_some_and(|said| matches!(said.item, Item::Bad)) {
        return; // The names are not known.
    }
    let mut suggestions = 0;
    let refs = draft.listeners.iter().flat_map(|listener| &listener.refs);
    for reference in refs.filter(|one| !draft.pool_names.contains_key(one.name.as_str())) {
        let name = &reference.name;
        suggestions += 1;
        let names =
            draft.root.named("pool").iter().map(|(name, _)| name.as_str()).take(COMPARED_MAX);
        let near = if suggestions <= SUGGESTIONS_MAX { keys::nearest(name, names) } else { None };
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if draft.pool_names.is_empty() => {
                format!("there is no pool; add `[pool.{}]`", clip(name))
            }
            None => String::new(),
        };
        let message = format!(
            "{} sends to pool `{}`, which does not exist",
            reference.fields.title,
            clip(name)
        );
        let key = reference.fields.path_of(reference.key);
        found.add(Finding::new(code::NO_SUCH_POOL, reference.place, key, message).hint(hint));
    }
}

/// One bound address, whose it is, and where that is said.
struct Bound<'a> {
    address: &'a BindAddr,
    owner: String,
    place: Place,
    key: String,
}

fn all_bound<'a>(draft: &'a Draft<'_>) -> Vec<Bound<'a>> {
    let mut all = Vec::new();
    if let Some((admin, fields)) = &draft.admin {
        let (place, key) = (fields.place_of("bind"), fields.path_of("bind"));
        all.push(Bound { address: &admin.bind, owner: "the admin API".to_owned(), place, key });
    }
    for listener in &draft.listeners {
        for (address, place) in listener.plan.bind.iter().zip(&listener.bind_places) {
            let owner = format!("listener `{}`", clip(listener.name));
            all.push(Bound { address, owner, place: *place, key: listener.fields.path_of("bind") });
        }
    }
    all.sort_by_key(|bound| bound.place);
    all
}

/// The same address twice is an error; a wildcard beside a specific address is a lint, since
/// the kernel can tell them apart, but few people mean it.
fn addresses_once(draft: &Draft<'_>, found: &mut Findings) {
    let all = all_bound(draft);
    let mut seen: HashMap<&BindAddr, &Bound<'_>> = HashMap::new();
    let mut wild: HashMap<u16, &Bound<'_>> = HashMap::new();
    for bound in all.iter().filter(|bound| !is_any_port(bound.address)) {
        if let Some(first) = seen.get(bound.address) {
            let message = if first.owner == bound.owner {
                format!("{} binds {} twice", bound.owner, shown(bound.address))
            } else {
                format!(
                    "{} binds {}, which {} already has",
                    bound.owner,
                    shown(bound.address),
                    first.owner
                )
            };
            let finding =
                Finding::new(code::ADDRESS_TAKEN, bound.place, bound.key.clone(), message);
            found.add(finding.related(first.place, "the first is here"));
            continue;
        }
        seen.insert(bound.address, bound);
        if let BindAddr::Ip(address) = bound.address
            && address.ip().is_unspecified()
        {
            wild.entry(address.port()).or_insert(bound);
        }
    }
    for bound in &all {
        let BindAddr::Ip(address) = bound.address else { continue };
        let Some(all_addresses) = wild.get(&address.port()) else { continue };
        if address.ip().is_unspecified() {
            continue;
        }
        let message =
            format!("{} binds {} beside {}", bound.owner, address, shown(all_addresses.address));
        let finding = Finding::new(code::OVERLAP, bound.place, bound.key.clone(), message);
        let finding = finding.hint(format!("clients of {address} come here, all others there"));
        found.add(finding.related(all_addresses.place, "the wildcard is here"));
    }
}

fn is_any_port(address: &BindAddr) -> bool {
    matches!(address, BindAddr::Ip(address) if address.port() == 0)
}

fn shown(address: &BindAddr) -> String {
    match address {
        BindAddr::Ip(address) => address.to_string(),
        BindAddr::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn empty_allow(listener: &ListenerDraft<'_>, found: &mut Findings) {
    let Some(said) = listener.fields.said("allow") else { return };
    if matches!(&said.item, Item::List(items) if items.is_empty()) {
        let message = format!(
            "`allow` of listener `{}` is empty, so nobody could connect",
            clip(listener.name)
        );
        let finding =
            Finding::new(code::CONFLICT, said.place, listener.fields.path_of("allow"), message);
        found.add(finding.hint("leave it out to let everybody in"));
    }
}

fn pool_alone(pool: &PoolDraft<'_>, found: &mut Findings) {
    let (name, fields) = (clip(pool.name), pool.fields);
    if !says_servers(fields) {
        let place = fields.said("servers").map_or(fields.place, |said| said.key_place);
        let finding = Finding::new(
            code::NO_SERVERS,
            place,
            fields.path_of("servers"),
            format!("pool `{name}` has no servers"),
        );
        found.add(finding.hint(format!(
            "add `[pool.{name}.servers]` with lines like `s1 = \"10.0.0.11:5432\"`"
        )));
    }
    let balance_good = fields.said("balance").is_none_or(|said| said.scalar().is_some());
    if let Some(hash) = fields.said("hash")
        && pool.plan.balance != Balance::Maglev
        && balance_good
    {
        let message = format!("`hash` of pool `{name}` goes with balance = \"maglev\" only");
        let finding = Finding::new(code::NOT_HERE, hash.key_place, fields.path_of("hash"), message);
        found.add(finding.hint("write balance = \"maglev\""));
    }
    for (server, place) in pool.plan.servers.iter().zip(&pool.server_places) {
        let ServerAddr::Ip(address) = server.address else { continue };
        let same_family = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4();
        if pool.plan.source.is_empty() || pool.plan.source.iter().any(same_family) {
            continue;
        }
        let message = format!(
            "server `{}` of pool `{name}` cannot be reached from any `source` address",
            clip(&server.name)
        );
        let family = if address.is_ipv4() { "an IPv4" } else { "an IPv6" };
        let finding = Finding::new(code::CONFLICT, *place, fields.path_of("source"), message);
        found.add(
            finding
                .hint(format!("add {family} address to `source`"))
                .related(fields.place_of("source"), "the addresses"),
        );
    }
}

fn servers_in_all(draft: &Draft<'_>, found: &mut Findings) {
    let mut servers = 0;
    for pool in &draft.pools {
        servers += pool.plan.servers.len();
        if servers > SERVERS_MAX {
            let message = format!("there are more than {SERVERS_MAX} servers in all pools");
            found.add(Finding::new(
                code::TOO_MANY,
                pool.name_place,
                pool.fields.path.clone(),
                message,
            ));
            return;
        }
    }
}

fn admin_reach(draft: &Draft<'_>, found: &mut Findings) {
    let Some((admin, fields)) = &draft.admin else { return };
    let BindAddr::Ip(address) = admin.bind else { return };
    if address.ip().is_loopback() || fields.said("token").is_some() {
        return;
    }
    let message = format!("the admin API on {address} can be reached by others and has no `token`");
    let finding =
        Finding::new(code::ADMIN_OPEN, fields.place_of("bind"), fields.path_of("token"), message);
    found.add(finding.hint("add token = \"env:SG_TOKEN\", or bind 127.0.0.1"));
}

fn admin_tls(draft: &Draft<'_>, found: &mut Findings) {
    let Some((admin, fields)) = &draft.admin else { return };
    if let (Some(tls), BindAddr::Unix(_)) = (fields.said("tls"), &admin.bind) {
        let message = "`tls` of `[admin]` does not go with a unix socket";
        let finding = Finding::new(code::NOT_HERE, tls.key_place, fields.path_of("tls"), message);
        found.add(finding.hint("leave it out: what goes through the socket stays on this machine"));
    }
}

fn admin_as_server(draft: &Draft<'_>, found: &mut Findings) {
    let Some((admin, fields)) = &draft.admin else { return };
    for pool in &draft.pools {
        for (server, place) in pool.plan.servers.iter().zip(&pool.server_places) {
            if !reaches(&server.address, &admin.bind) {
                continue;
            }
            let message = format!(
                "server `{}` of pool `{}` is the admin API, which clients must not reach",
                clip(&server.name),
                clip(pool.name)
            );
            let key = format!("{}.servers.{}", pool.fields.path, server.name);
            let finding = Finding::new(code::ADMIN_AS_SERVER, *place, key, message);
            found.add(finding.related(fields.place_of("bind"), "the admin API binds here"));
        }
    }
}

/// Whether connecting to `server` ends at `bind`, as far as the file can tell.
fn reaches(server: &ServerAddr, bind: &BindAddr) -> bool {
    let address = match (server, bind) {
        (ServerAddr::Unix(server), BindAddr::Unix(bind)) => return server == bind,
        (ServerAddr::Ip(address), _) => *address,
        (ServerAddr::Dns { host, port }, _) if host.eq_ignore_ascii_case("localhost") => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, *port))
        }
        _ => return false,
    };
    let BindAddr::Ip(bind) = bind else { return false };
    let everywhere = bind.ip().is_unspecified() && address.ip().is_loopback();
    address.port() == bind.port() && (address.ip() == bind.ip() || everywhere)
}

/// Listeners by what a server address can reach, so that large files are not searched in pairs.
struct Reach {
    ports: HashMap<u16, Vec<usize>>,
    paths: HashMap<PathBuf, Vec<usize>>,
}

impl Reach {
    fn new(listeners: &[ListenerDraft<'_>]) -> Self {
        let mut reach = Self { ports: HashMap::new(), paths: HashMap::new() };
        for (index, listener) in listeners.iter().enumerate() {
            for bind in &listener.plan.bind {
                match bind {
                    BindAddr::Ip(address) => {
                        reach.ports.entry(address.port()).or_default().push(index);
                    }
                    BindAddr::Unix(path) => {
                        reach.paths.entry(path.clone()).or_default().push(index);
                    }
                }
            }
        }
        reach
    }

    fn candidates(&self, server: &ServerAddr) -> &[usize] {
        let found = match server {
            ServerAddr::Ip(address) => self.ports.get(&address.port()),
            ServerAddr::Dns { port, .. } => self.ports.get(port),
            ServerAddr::Unix(path) => self.paths.get(path),
            ServerAddr::Srv { .. } => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}

/// One step: a server of a pool of listener `from` is listener `to`.
#[derive(Clone, Copy)]
struct Step {
    to: usize,
    pool: usize,
    server: usize,
}

/// Finds listeners that send, over any number of listeners, to themselves.
fn circles(draft: &Draft<'_>, found: &mut Findings) {
    let reach = Reach::new(&draft.listeners);
    // By pool, since many listeners may share one.
    let mut steps_of: Vec<Vec<Step>> = Vec::new();
    for (index, pool) in draft.pools.iter().enumerate() {
        let mut steps = Vec::new();
        let mut seen = HashSet::new();
        for (server, address) in pool.plan.servers.iter().map(|server| &server.address).enumerate()
        {
            for &to in reach.candidates(address) {
                let hit = draft.listeners[to].plan.bind.iter().any(|bind| reaches(address, bind));
                if hit && seen.insert(to) {
                    steps.push(Step { to, pool: index, server });
                }
            }
        }
        steps_of.push(steps);
    }
    let listeners = draft.listeners.iter();
    let steps_of: Vec<Vec<Step>> = listeners
        .map(|listener| {
            listener.pools().iter().flat_map(|pool| steps_of[*pool].iter().copied()).collect()
        })
        .collect();
    let mut state = vec![Visit::Not; draft.listeners.len()];
    for start in 0..draft.listeners.len() {
        walk_circle(draft, &steps_of, start, &mut state, found);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    Not,
    OnPath,
    Done,
}

/// Depth first without recursion: a chain may be as long as there are listeners.
fn walk_circle(
    draft: &Draft<'_>,
    steps_of: &[Vec<Step>],
    start: usize,
    state: &mut [Visit],
    found: &mut Findings,
) {
    if state[start] != Visit::Not {
        return;
    }
    let mut path = vec![(start, 0)];
    state[start] = Visit::OnPath;
    while let Some((listener, next)) = path.last_mut() {
        let Some(step) = steps_of[*listener].get(*next).copied() else {
            state[*listener] = Visit::Done;
            path.pop();
            continue;
        };
        *next += 1;
        match state[step.to] {
            Visit::Not => {
                state[step.to] = Visit::OnPath;
                path.push((step.to, 0));
            }
            Visit::OnPath => {
                let begins = path.iter().position(|(l, _)| *l == step.to).unwrap_or(0);
                let members: Vec<usize> = path[begins..].iter().map(|(l, _)| *l).collect();
                report_circle(draft, step, &members, found);
            }
            Visit::Done => {}
        }
    }
}

fn report_circle(draft: &Draft<'_>, step: Step, members: &[usize], found: &mut Findings) {
    let pool = &draft.pools[step.pool];
    let target = &draft.listeners[step.to];
    let server = &pool.plan.servers[step.server];
    let names: Vec<String> =
        members.iter().take(8).map(|l| format!("`{}`", clip(draft.listeners[*l].name))).collect();
    let message = format!(
        "server `{}` of pool `{}` is listener `{}`, which sends to that pool{}: a circle",
        clip(&server.name),
        clip(pool.name),
        clip(target.name),
        if members.len() > 1 { format!(" by way of {}", names.join(", ")) } else { String::new() },
    );
    let key = format!("{}.servers.{}", pool.fields.path, server.name);
    let finding = Finding::new(code::CIRCLE, pool.server_places[step.server], key, message);
    found.add(finding.related(target.fields.place_of("bind"), "the listener binds here"));
}
