//! What keys mean together: references, addresses used twice, contradictions.
//!
//! Works on the draft, in which refused values have no part, so no mistake is reported twice.

use std::collections::HashMap;
use std::net::IpAddr;

use super::address;
use super::build::{Draft, ListenerDraft, PoolDraft, says_servers};
use super::circles;
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
    circles::check(draft, found);
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
    let mut seen: HashMap<BindAddr, &Bound<'_>> = HashMap::new();
    let mut wild: HashMap<u16, &Bound<'_>> = HashMap::new();
    for bound in all.iter().filter(|bound| !is_any_port(bound.address)) {
        let place = match bound.address {
            BindAddr::Ip(_) => bound.address.clone(),
            BindAddr::Unix(path) => BindAddr::Unix(address::plain_path(path)),
        };
        if let Some(first) = seen.get(&place) {
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
        seen.insert(place, bound);
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
    if !admin.bind.needs_token() || fields.said("token").is_some() {
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
