//! What the keys of policies, consumers and breakers mean together.
//!
//! Everything but the lints at the end makes the configuration unusable. A key whose value was
//! refused counts as said.

use std::collections::{HashMap, HashSet};

use sluicegate_l7::policy::algorithm::Algorithm;
use sluicegate_l7::policy::chain::{Chain, Mention};
use sluicegate_l7::policy::spec::{Credential, Kind, LimitKey, Phase, PolicySpec};

use super::build::{Draft, ListenerDraft};
use super::code;
use super::cross_http::{add, excludes, needs};
use super::fields::{Fields, Item, Said};
use super::keys;
use super::lint::plain_secret;
use super::plan::Mode;
use super::report::{Finding, Findings};
use super::source::Place;
use super::value::{Scalar, clip};

/// Reports every contradiction, and what looks unmeant.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let named = draft.root.named("policy");
    for (at, (name, said)) in named.iter().enumerate() {
        if let Some(fields) = said.fields() {
            policy_alone(draft, at, fields, found);
            if fields.section.tag_word() == Some("any") {
                alternatives(draft, name, fields, found);
            }
        }
    }
    let mut used = HashSet::new();
    for listener in &draft.listeners {
        listener_chains(draft, listener, &mut used, found);
    }
    consumers(draft, found);
    breakers(draft, found);
    unused(draft, &used, found);
}

fn plain_secrets(fields: &Fields, found: &mut Findings) {
    let store = fields.knows("store").then(|| fields.table("store")).flatten();
    for table in [Some(fields), store].into_iter().flatten() {
        for key in ["secret", "client_secret", "redis"] {
            if table.knows(key) {
                plain_secret(table, key, found);
            }
        }
    }
}

fn policy_alone(draft: &Draft<'_>, at: usize, fields: &Fields, found: &mut Findings) {
    plain_secrets(fields, found);
    match fields.section.tag_word().unwrap_or_default() {
        "jwt" => jwt(fields, found),
        "api-key" => excludes(fields, "header", "query", "a key stands in one place", found),
        "forward-auth" => forward_auth(draft, fields, found),
        "cors" => {
            let open = fields.said("origins").is_some_and(|said| {
                said.scalars()
                    .iter()
                    .any(|scalar| matches!(scalar, Scalar::Text(text) if text == "*"))
            });
            if open && matches!(fields.scalar("credentials"), Some(Scalar::Bool(true))) {
                let message =
                    format!("`credentials` of {} does not go with the origin \"*\"", fields.title);
                let hint = "name the origins: any page could act for a user who is logged in";
                add(found, code::CONFLICT, fields, "credentials", message, hint);
            }
        }
        "ip" | "headers" | "transform" => empty(fields, found),
        "rate-limit" => early(&draft.policies.specs[at], fields, found),
        _ => {}
    }
}

fn jwt(fields: &Fields, found: &mut Findings) {
    const KEYS: [&str; 3] = ["jwks", "keys", "secret"];
    let said: Vec<&str> = KEYS.into_iter().filter(|key| fields.has(key)).collect();
    match said.as_slice() {
        [] => {
            let message = format!(
                "{} has no keys: one of `jwks`, `keys` and `secret` is missing",
                fields.title
            );
            found.add(Finding::new(
                code::MISSING_KEY,
                fields.place,
                fields.path_of("jwks"),
                message,
            ));
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                excludes(fields, first, other, "keys come from one place", found);
            }
        }
    }
    let Some(Said { item: Item::List(items), place, .. }) = fields.said("algorithms") else {
        return;
    };
    if items.is_empty() {
        let message = format!("`algorithms` of {} is empty, so no token is good", fields.title);
        found.add(Finding::new(code::CONFLICT, *place, fields.path_of("algorithms"), message));
    }
    for item in items {
        let Some(Scalar::Word(word)) = item.scalar() else { continue };
        let symmetric = word.starts_with("HS");
        if said.len() == 1 && symmetric != fields.has("secret") {
            let message = format!(
                "\"{word}\" in `algorithms` of {} does not go with `{}`",
                fields.title, said[0]
            );
            let hint = if symmetric {
                "HS256, HS384 and HS512 take a `secret`: with public keys everybody could sign"
            } else {
                "a `secret` is for HS256, HS384 and HS512"
            };
            let finding =
                Finding::new(code::CONFLICT, item.place, fields.path_of("algorithms"), message);
            found.add(finding.hint(hint));
        }
    }
    let named = items.iter().filter_map(|item| match item.scalar() {
        Some(Scalar::Word(word)) => Algorithm::parse(word),
        _ => None,
    });
    if let Some(longest) = named.max_by_key(|algorithm| algorithm.secret_bytes_min()) {
        secret_for(longest, fields, found);
    }
}

/// A secret is no shorter than the hash that it signs with: no token would be good.
fn secret_for(algorithm: Algorithm, fields: &Fields, found: &mut Findings) {
    let Some(Scalar::Secret { value, .. }) = fields.scalar("secret") else { return };
    let (min, has) = (algorithm.secret_bytes_min(), value.len());
    if has >= min {
        return;
    }
    let name = algorithm.name();
    let message = format!(
        "`secret` of {} must have at least {min} bytes for {name} (RFC 7518 section 3.2: no fewer \
         than the hash), this one has {has}",
        fields.title
    );
    let hint = "make one with `openssl rand -hex 32`, and give it to whoever signs the tokens";
    add(found, code::BAD_SECRET, fields, "secret", message, hint);
}

fn forward_auth(draft: &Draft<'_>, fields: &Fields, found: &mut Findings) {
    excludes(fields, "url", "pool", "the service is in one place", found);
    needs(fields, "path", "pool", "with `url` the path stands in it", found);
    if fields.has("verify") && fields.has("pool") {
        let message =
            format!("`verify` of {} goes with `url`; a pool has its own `tls`", fields.title);
        add(found, code::NOT_HERE, fields, "verify", message, "");
    }
    if !fields.has("url") && !fields.has("pool") {
        let message = format!("{} asks nobody: one of `url` and `pool` is missing", fields.title);
        found.add(Finding::new(code::MISSING_KEY, fields.place, fields.path_of("url"), message));
    }
    pool_exists(draft, fields, found);
}

/// Pools that policies and fallbacks name.
pub(super) fn pools_named<'d>(draft: &'d Draft<'_>) -> impl Iterator<Item = &'d str> {
    let policies = draft.root.named("policy").iter().filter_map(|(_, said)| said.fields());
    let asked = policies.filter(|fields| fields.knows("pool"));
    let breakers = draft.pools.iter().filter_map(|pool| pool.fields.table("breaker"));
    let fallbacks = breakers.filter_map(|breaker| breaker.table("fallback"));
    asked.chain(fallbacks).filter_map(|fields| match fields.said("pool")?.scalar()? {
        Scalar::Text(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The pool that a policy or a fallback names.
fn pool_exists(draft: &Draft<'_>, fields: &Fields, found: &mut Findings) {
    let Some(Scalar::Text(name)) = fields.said("pool").and_then(Said::scalar) else { return };
    if draft.pool_names.contains_key(name.as_str()) {
        return;
    }
    let message = format!("{} sends to pool `{}`, which does not exist", fields.title, clip(name));
    let near = keys::nearest(name, draft.pool_names.keys().copied());
    let hint = near.map(|near| format!("did you mean `{near}`?")).unwrap_or_default();
    let (place, path) = (fields.place_of("pool"), fields.path_of("pool"));
    found.add(Finding::new(code::NO_SUCH_POOL, place, path, message).hint(hint));
}

/// A policy in which nothing is said but its type.
fn empty(fields: &Fields, found: &mut Findings) {
    let says =
        fields.section.keys.iter().any(|key| {
            !["type", "dry_run", "max_body"].contains(&key.name) && fields.has(key.name)
        });
    if !says {
        let keys = fields.section.keys.iter().map(|key| format!("`{}`", key.name));
        let keys: Vec<String> = keys
            .filter(|key| !["`type`", "`dry_run`", "`max_body`"].contains(&key.as_str()))
            .collect();
        let message = format!("{} does nothing: {} is missing", fields.title, keys.join(" or "));
        found.add(Finding::new(code::MISSING_KEY, fields.place, fields.path.clone(), message));
    }
}

fn early(spec: &PolicySpec, fields: &Fields, found: &mut Findings) {
    let Kind::Rate(limit) = &spec.kind else { return };
    if !limit.early {
        return;
    }
    let why = "nobody is known yet before authentication";
    if limit.key.contains(&LimitKey::Consumer) {
        let message =
            format!("`early` of {} does not go with the key `consumer`: {why}", fields.title);
        add(found, code::CONFLICT, fields, "early", message, "count by `ip`, or leave `early` out");
    }
    if fields.has("by_group") {
        let message = format!("`early` of {} does not go with `by_group`: {why}", fields.title);
        add(found, code::CONFLICT, fields, "early", message, "");
    }
}

/// Reports a name that is no policy's.
fn no_such(
    draft: &Draft<'_>,
    title: &str,
    name: &str,
    place: Place,
    path: String,
    found: &mut Findings,
) {
    let near = keys::nearest(name, draft.policy_names.keys().copied());
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if draft.policy_names.is_empty() => {
            format!("there is no policy; add `[policy.{}]`", clip(name))
        }
        None => String::new(),
    };
    let message = format!("{title} names policy `{}`, which does not exist", clip(name));
    found.add(Finding::new(code::NO_SUCH_POLICY, place, path, message).hint(hint));
}

fn texts(said: &Said) -> impl Iterator<Item = (&str, Place)> {
    let items: Vec<&Said> = match &said.item {
        Item::List(items) => items.iter().collect(),
        _ => vec![said],
    };
    items.into_iter().filter_map(|said| match said.scalar() {
        Some(Scalar::Text(text)) => Some((text.as_str(), said.place)),
        _ => None,
    })
}

const ALTERNATIVES: &str =
    "it can have jwt, api-key, basic, client-cert, introspection and, as the last, forward-auth";

fn no_alternative(name: &str, own: &str) -> String {
    format!("`{name}` in `of` of policy `{own}` is no policy that finds out who it is")
}

fn alternatives(draft: &Draft<'_>, own: &str, fields: &Fields, found: &mut Findings) {
    let Some(said) = fields.said("of") else { return };
    let mut names = texts(said).peekable();
    while let Some((name, place)) = names.next() {
        let path = fields.path_of("of");
        let Some(&at) = draft.policy_names.get(name) else {
            no_such(draft, &fields.title, name, place, path, found);
            continue;
        };
        let (name, own) = (clip(name), clip(own));
        let (message, hint) = match &draft.policies.specs[at].kind {
            Kind::Auth(auth) => match auth.by {
                Credential::ForwardAuth(_) if names.peek().is_some() => (
                    format!(
                        "`{name}` in `of` of policy `{own}` asks its service about every request, \
                         so what stands behind it is never tried"
                    ),
                    "put the policy of type forward-auth last",
                ),
                Credential::Any(_) => (no_alternative(&name, &own), ALTERNATIVES),
                _ => continue,
            },
            _ => (no_alternative(&name, &own), ALTERNATIVES),
        };
        found.add(Finding::new(code::BAD_CHAIN, place, path, message).hint(hint));
    }
}

/// What the names of policies in listeners and routes are, and whether they go together.
fn listener_chains(
    draft: &Draft<'_>,
    listener: &ListenerDraft<'_>,
    used: &mut HashSet<usize>,
    found: &mut Findings,
) {
    let Some(http) = &listener.plan.http else { return };
    mentions(draft, listener.fields, None, found);
    let own = http.routes.iter().zip(&listener.routes);
    for (route, fields) in own {
        mentions(draft, fields, Some(&http.policies), found);
        let chain = Chain::of(&http.policies, &route.policies, &draft.policies.specs);
        used.extend(chain.steps());
        chain_alone(draft, listener, &chain, fields, found);
    }
    let chain = Chain::of(&http.policies, &[], &draft.policies.specs);
    used.extend(chain.steps());
    if listener.routes.is_empty() || listener.plan.pool.is_some() {
        chain_alone(draft, listener, &chain, listener.fields, found);
    }
}

/// `above`: what the listener of a route names; `None` for the listener's own.
fn mentions(draft: &Draft<'_>, fields: &Fields, above: Option<&[Mention]>, found: &mut Findings) {
    let Some(said) = fields.said("policies") else { return };
    let mut held: Vec<usize> = Vec::new();
    for mention in above.unwrap_or_default() {
        match mention {
            Mention::Add(policy) => held.push(*policy),
            Mention::Drop(policy) => held.retain(|one| one != policy),
            Mention::DropAll => held.clear(),
        }
    }
    for (text, place) in texts(said) {
        let path = fields.path_of("policies");
        let (drops, name) = text.strip_prefix('!').map_or((false, text), |name| (true, name));
        if drops && name == "*" {
            held.clear();
            if above.is_none() {
                let message = format!(
                    "\"!*\" in `policies` of {} drops nothing: nothing is above a listener",
                    fields.title
                );
                let finding = Finding::new(code::BAD_CHAIN, place, path, message);
                found.add(finding.hint("leave out what is not wanted; it is for routes"));
            }
            continue;
        }
        let Some(&at) = draft.policy_names.get(name) else {
            no_such(draft, &fields.title, name, place, path, found);
            continue;
        };
        if drops && !held.contains(&at) {
            let message = format!(
                "\"{}\" in `policies` of {} drops nothing: the listener does not name it",
                clip(text),
                fields.title
            );
            found.add(Finding::new(code::BAD_CHAIN, place, path, message));
        } else if drops {
            held.retain(|&one| one != at);
        } else {
            held.push(at);
        }
    }
}

/// Whether one of the policies that it names is not known, or not what it is: it may be any.
fn names_unknown(draft: &Draft<'_>, fields: &Fields) -> bool {
    let Some(said) = fields.said("policies") else { return false };
    let named = draft.root.named("policy");
    texts(said).map(|(text, _)| text.strip_prefix('!').unwrap_or(text)).any(|name| {
        let policy = draft.policy_names.get(name).and_then(|&at| named[at].1.fields());
        name != "*" && policy.is_none_or(|fields| fields.section.tag_word().is_none())
    })
}

fn chain_alone(
    draft: &Draft<'_>,
    listener: &ListenerDraft<'_>,
    chain: &Chain,
    fields: &Fields,
    found: &mut Findings,
) {
    let policies = &draft.policies.specs;
    let any_auth = chain.of_phase(Phase::Auth, policies).next().is_some()
        || names_unknown(draft, listener.fields)
        || names_unknown(draft, fields);
    let place = fields.said("policies").map_or(fields.place, |said| said.key_place);
    for &step in chain.steps() {
        let name = clip(&policies[step].name);
        let told = match &policies[step].kind {
            Kind::Acl(_) if !any_auth => Some((
                format!(
                    "policy `{name}` (acl) of {} has nobody to judge: no policy says who it is",
                    fields.title
                ),
                "name one of type jwt, api-key, basic, client-cert, introspection or forward-auth beside it",
            )),
            Kind::Auth(auth)
                if matches!(auth.by, Credential::ClientCert { .. }) && !asks_clients(listener) =>
            {
                Some((
                    format!(
                        "policy `{name}` (client-cert) of {} asks for a certificate that no client is asked for",
                        fields.title
                    ),
                    "add `client_ca` to the listener's `tls`",
                ))
            }
            _ => None,
        };
        if let Some((message, hint)) = told {
            let finding = Finding::new(code::BAD_CHAIN, place, fields.path_of("policies"), message);
            found.add(finding.hint(hint));
        }
    }
}

fn asks_clients(listener: &ListenerDraft<'_>) -> bool {
    let tls = listener.fields.table("tls");
    tls.is_some_and(|tls| {
        tls.has("client_ca") || tls.tables("certs").any(|entry| entry.has("client_ca"))
    })
}

/// A key of two consumers would be the one's or the other's.
fn consumers(draft: &Draft<'_>, found: &mut Findings) {
    let mut seen: HashMap<String, (&str, Place)> = HashMap::new();
    for (name, said) in draft.root.named("consumer") {
        let Some(fields) = said.fields() else { continue };
        for key in fields.tables("keys") {
            let Some(Scalar::Text(hash)) = key.scalar("hash") else { continue };
            let place = key.place_of("hash");
            if let Some((first, at)) = seen.insert(hash.to_ascii_lowercase(), (name, place)) {
                let message = if first == name {
                    format!("consumer `{}` has the same key twice", clip(name))
                } else {
                    format!("consumers `{}` and `{}` have the same key", clip(first), clip(name))
                };
                let finding = Finding::new(code::CONFLICT, place, fields.path_of("keys"), message);
                found.add(finding.related(at, "the first is here"));
            }
        }
    }
}

fn breakers(draft: &Draft<'_>, found: &mut Findings) {
    let http: HashSet<usize> = draft
        .listeners
        .iter()
        .filter(|listener| listener.plan.mode == Mode::Http)
        .flat_map(ListenerDraft::pools)
        .collect();
    for (at, pool) in draft.pools.iter().enumerate() {
        let Some(breaker) = pool.fields.table("breaker") else { continue };
        if !http.contains(&at) {
            let message =
                format!("{} has no effect: no HTTP listener sends to the pool", breaker.title);
            add(found, code::NO_EFFECT, pool.fields, "breaker", message, "");
        }
        needs(breaker, "fallback_on", "fallback", "", found);
        let Some(fallback) = breaker.table("fallback") else { continue };
        pool_exists(draft, fallback, found);
        for key in ["status", "body", "content_type"] {
            excludes(fallback, "pool", key, "it is a pool or a fixed answer", found);
        }
        let own = matches!(fallback.scalar("pool"), Some(Scalar::Text(name)) if name == pool.name);
        if own {
            let message = format!("{} is the pool itself", fallback.title);
            add(found, code::CONFLICT, fallback, "pool", message, "name another pool");
        }
    }
}

fn unused(draft: &Draft<'_>, used: &HashSet<usize>, found: &mut Findings) {
    if draft.listeners.len() != draft.root.named("listener").len() {
        return; // One that was refused may use any of them.
    }
    let mut all = draft.listeners.iter().flat_map(|one| one.routes.iter().chain([&one.fields]));
    if all.any(|fields| names_unknown(draft, fields)) {
        return; // So may one that is misspelled.
    }
    let alternative = |at: usize| {
        draft.policies.specs.iter().enumerate().any(|(by, spec)| {
            used.contains(&by)
                && matches!(&spec.kind, Kind::Auth(auth) if matches!(&auth.by, Credential::Any(of) if of.contains(&at)))
        })
    };
    for (at, (name, said)) in draft.root.named("policy").iter().enumerate() {
        if !used.contains(&at) && !alternative(at) {
            let message = format!("policy `{}` is used by no listener and no route", clip(name));
            let path = format!("policy.{name}");
            found.add(Finding::new(code::UNUSED_POLICY, said.key_place, path, message));
        }
    }
}
