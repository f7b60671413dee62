//! Lints of TLS and HTTP: what can be used, but hardly is what somebody meant.

use sluicegate_l7::route::Table;
use sluicegate_l7::route::spec::{ActionSpec, RouteSpec};

use super::build::{Draft, ListenerDraft, PoolDraft};
use super::code;
use super::cross_http::normal_form;
use super::fields::Fields;
use super::lint::plain_secret;
use super::plan::{HttpListener, Verify};
use super::report::{Finding, Findings};
use super::units::duration_text;
use super::value::{Scalar, clip};

/// Reports everything that looks unmeant.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    for listener in &draft.listeners {
        trusts_all(listener, found);
        if let Some(tls) = listener.fields.table("tls") {
            plain_keys(tls, found);
            tls.tables("certs").for_each(|entry| plain_keys(entry, found));
        }
        if let Some(http) = &listener.plan.http {
            limits(listener, http, found);
            routes(listener, http, draft, found);
        }
    }
    if let Some(tls) = draft.admin.as_ref().and_then(|(_, fields)| fields.table("tls")) {
        plain_keys(tls, found);
    }
    for pool in &draft.pools {
        pool_alone(pool, found);
    }
}

fn add(
    found: &mut Findings,
    code: code::Code,
    fields: &Fields,
    key: &str,
    message: String,
    hint: &str,
) {
    found.add(Finding::new(code, fields.place_of(key), fields.path_of(key), message).hint(hint));
}

fn trusts_all(listener: &ListenerDraft<'_>, found: &mut Findings) {
    for key in ["trusted", "trusted_proxies"] {
        for (scalar, place) in listener.fields.list(key) {
            match scalar {
                Scalar::Network { net, .. } if net.prefix_len() == 0 => {
                    let message = format!(
                        "`{key}` of {} has {net}: everybody can claim any address",
                        listener.fields.title
                    );
                    let finding = Finding::new(
                        code::TRUSTS_ALL,
                        place,
                        listener.fields.path_of(key),
                        message,
                    );
                    found.add(finding.hint("name the networks of your own proxies"));
                }
                Scalar::Network { net, host_bits: true } => {
                    let message = format!(
                        "a network in `{key}` of {} has bits after its prefix",
                        listener.fields.title
                    );
                    let finding =
                        Finding::new(code::HOST_BITS, place, listener.fields.path_of(key), message);
                    found.add(finding.hint(format!("it is read as \"{net}\"")));
                }
                _ => {}
            }
        }
    }
}

fn plain_keys(fields: &Fields, found: &mut Findings) {
    for key in ["key", "client_key"] {
        // Not every table has both.
        if fields.knows(key) {
            plain_secret(fields, key, found);
        }
    }
}

fn limits(listener: &ListenerDraft<'_>, http: &HttpListener, found: &mut Findings) {
    let Some(fields) = listener.fields.table("http") else { return };
    let good = |key: &str| fields.said(key).is_none_or(|said| said.scalar().is_some());
    // A smaller `max_header` than the default of the other was not meant against it.
    if http.limits.uri_bytes_max > http.limits.header_bytes_max
        && fields.has("max_uri")
        && good("max_uri")
        && good("max_header")
    {
        let message = format!("`max_uri` of {} is above its `max_header`", fields.title);
        add(
            found,
            code::TIMEOUT_ORDER,
            fields,
            "max_uri",
            message,
            "the whole head is then too large first",
        );
    }
    if fields.has("h2c") && listener.fields.has("tls") {
        let message = format!("`h2c` of {} has no effect: with `tls`, ALPN decides", fields.title);
        add(found, code::NO_EFFECT, fields, "h2c", message, "");
    }
}

fn routes(
    listener: &ListenerDraft<'_>,
    http: &HttpListener,
    draft: &Draft<'_>,
    found: &mut Findings,
) {
    for (later, first) in shadowed(&http.routes) {
        let (Some(fields), Some(before)) = (listener.routes.get(later), listener.routes.get(first))
        else {
            continue;
        };
        let message =
            format!("{} is never taken: another before it matches the same requests", fields.title);
        let finding =
            Finding::new(code::SHADOWED_ROUTE, fields.place, fields.path.clone(), message);
        found.add(finding.related(before.place, "this one comes first"));
    }
    for (route, fields) in http.routes.iter().zip(&listener.routes) {
        let limit = route.timeout.unwrap_or_else(|| match &route.action {
            ActionSpec::Pool(pool) => {
                draft.pools.get(*pool).map_or(http.timeouts.request, |pool| {
                    pool.plan.timeouts_http.over(http.timeouts).request
                })
            }
            _ => http.timeouts.request,
        });
        if let (Some(one), Some(table)) = (route.retries.timeout_try, fields.table("retries"))
            && one >= limit
        {
            let message = format!(
                "`try_timeout` ({}) of {} is not below the {} that all tries have",
                duration_text(one),
                table.title,
                duration_text(limit)
            );
            add(found, code::TIMEOUT_ORDER, table, "try_timeout", message, "");
        }
    }
}

/// More routes are not compared with each other, which takes the square of their number.
const ROUTES_COMPARED_MAX: usize = 2_000;

/// Routes that no request can take: pairs of the hidden one and one that takes its requests.
/// Those that are written alike are an error of their own.
fn shadowed(routes: &[RouteSpec]) -> Vec<(usize, usize)> {
    if routes.len() > ROUTES_COMPARED_MAX {
        return Vec::new();
    }
    let Ok(table) = Table::build(routes.to_vec()) else { return Vec::new() };
    let mut pairs = table.shadowed();
    pairs.retain(|&(later, first)| {
        normal_form(&routes[later].matches) != normal_form(&routes[first].matches)
    });
    pairs
}

fn pool_alone(pool: &PoolDraft<'_>, found: &mut Findings) {
    let (fields, name) = (pool.fields, clip(pool.name));
    for key in ["header_timeout", "keepalive_timeout", "proxy_timeout"] {
        if fields.has(key) {
            let message = format!(
                "`{key}` of pool `{name}` has no effect: it is over before a pool is chosen"
            );
            add(
                found,
                code::NO_EFFECT,
                fields,
                key,
                message,
                "write it in the listener or in `[defaults]`",
            );
        }
    }
    let Some(tls) = fields.table("tls") else { return };
    plain_keys(tls, found);
    if let Some(plan) = &pool.plan.tls
        && plan.verify == Verify::Insecure
        && tls.has("verify")
    {
        let message = format!("{} takes anybody for a server", tls.title);
        add(
            found,
            code::TRUSTS_ALL,
            tls,
            "verify",
            message,
            "write \"system\", or \"file:ca.pem\" with your own authority",
        );
    }
}
