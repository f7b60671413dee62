//! Typed fields → what the plan says about who asks: credentials, claims, auth services,
//! consumers.

use std::time::Duration;

use sluicegate_l7::policy::algorithm::Algorithm;
use sluicegate_l7::policy::claims::{ClaimRules, Selector};
use sluicegate_l7::policy::consumer::{ConsumerSpec, KeyHash, KeySpec, PasswordHash};
use sluicegate_l7::policy::credential::{KeyFrom, TokenFrom};
use sluicegate_l7::policy::jwt::JwtSpec;
use sluicegate_l7::policy::spec::{
    AuthSpec, Authority, CacheSpec, CertName, Credential, Declared, ForwardAuthSpec, IdentitySpec,
    IntrospectionSpec, JwksSpec, JwtKeys, JwtPolicy,
};

use super::build::{boolean, choice, duration, integer, size, text};
use super::build_http::text_in;
use super::build_policy::{Names, Policies, count, rate, stand_in, texts, texts_or_words};
use super::fields::{Fields, Said};
use super::plan::{PoolTls, Verify};
use super::value::Scalar;

pub(super) fn auth(
    name: &str,
    word: &str,
    fields: &Fields,
    names: &Names<'_>,
    all: &mut Policies,
) -> Option<AuthSpec> {
    let by = match word {
        "jwt" => Credential::Jwt(jwt(fields)?),
        "api-key" => Credential::ApiKey(match text(fields, "query") {
            Some(query) => KeyFrom::Query(query),
            None => KeyFrom::Header(
                text(fields, "header")
                    .unwrap_or_else(|| "X-Api-Key".to_owned())
                    .to_ascii_lowercase(),
            ),
        }),
        "basic" => Credential::Basic,
        "client-cert" => {
            const NAMES: [(&str, CertName); 3] = [
                ("cert:cn", CertName::CommonName),
                ("cert:san", CertName::San),
                ("cert:fingerprint", CertName::Fingerprint),
            ];
            let from = choice(fields.scalar("consumer").as_ref(), &NAMES).unwrap_or_default();
            Credential::ClientCert { from, declared: declared(fields) }
        }
        "introspection" => Credential::Introspection(introspection(name, fields, names, all)?),
        "forward-auth" => Credential::ForwardAuth(forward_auth(name, fields, names, all)),
        _ => {
            let of = texts(fields, "of");
            let of = of.iter().filter_map(|name| names.policies.get(name.as_str()).copied());
            Credential::Any(of.collect())
        }
    };
    let said = |key: &str| fields.knows(key).then(|| boolean(fields, key)).flatten();
    Some(AuthSpec {
        optional: said("optional").unwrap_or(false),
        realm: fields
            .knows("realm")
            .then(|| text(fields, "realm"))
            .flatten()
            .unwrap_or_else(|| name.to_owned()),
        failures: fields.knows("max_failures").then(|| rate(fields, "max_failures")).flatten(),
        hide: said("hide").unwrap_or(false),
        by,
    })
}

fn token_from(fields: &Fields) -> TokenFrom {
    let from = text(fields, "from").unwrap_or_default();
    match from.split_once(':') {
        Some(("header", name)) => TokenFrom::Header(name.to_ascii_lowercase()),
        Some(("cookie", name)) => TokenFrom::Cookie(name.to_owned()),
        _ => TokenFrom::Bearer,
    }
}

fn selector(fields: &Fields, key: &str) -> Option<Selector> {
    text(fields, key).and_then(|text| claim(&text))
}

/// From `claim:sub`, `claim:/a/b`.
pub(super) fn claim(text: &str) -> Option<Selector> {
    Selector::parse(text.strip_prefix("claim:")?)
}

fn declared(fields: &Fields) -> Declared {
    const WORDS: [(&str, Declared); 3] =
        [("ignore", Declared::Ignore), ("merge", Declared::Merge), ("require", Declared::Require)];
    choice(fields.scalar("declared").as_ref(), &WORDS).unwrap_or_default()
}

fn identity(fields: &Fields) -> Option<IdentitySpec> {
    let forward = fields.named("forward_claims").iter().filter_map(|(name, said)| {
        let selector = claim(&said.scalar().and_then(text_in)?)?;
        Some((name.clone(), selector))
    });
    Some(IdentitySpec {
        consumer: selector(fields, "consumer")?,
        groups: selector(fields, "groups"),
        forward: forward.collect(),
        declared: declared(fields),
    })
}

fn rules(fields: &Fields, require_exp: bool) -> ClaimRules {
    let required = fields.named("required").iter().filter_map(|(claim, said)| {
        let selector = Selector::parse(claim)?;
        Some((selector, said.scalar().and_then(text_in)?))
    });
    ClaimRules {
        issuer: text(fields, "issuer"),
        audience: texts(fields, "audience"),
        leeway: duration(fields, "leeway").unwrap_or(Duration::ZERO),
        require_exp,
        required: required.collect(),
    }
}

fn jwt(fields: &Fields) -> Option<JwtPolicy> {
    let named = texts_or_words(fields, "algorithms");
    let usual: &[&str] = if fields.has("secret") { &["HS256"] } else { &["RS256", "ES256"] };
    let named: Vec<&str> =
        if named.is_empty() { usual.to_vec() } else { named.iter().map(String::as_str).collect() };
    let keys = match (fields.table("jwks"), text(fields, "keys"), fields.scalar("secret")) {
        (Some(table), ..) => JwtKeys::Url(JwksSpec {
            url: text(table, "url").unwrap_or_default(),
            refresh: duration(table, "refresh").unwrap_or_default(),
            grace: duration(table, "grace").unwrap_or_default(),
            cooldown: duration(table, "cooldown").unwrap_or_default(),
            timeout: duration(table, "timeout").unwrap_or_default(),
            verify: authority(table),
        }),
        (None, Some(set), _) => JwtKeys::Set(set),
        (None, None, Some(Scalar::Secret { value, .. })) => JwtKeys::Secret(value.into_bytes()),
        _ => JwtKeys::Secret(Vec::new()),
    };
    Some(JwtPolicy {
        from: token_from(fields),
        check: JwtSpec {
            algorithms: named.iter().filter_map(|word| Algorithm::parse(word)).collect(),
            token_bytes_max: size(fields, "max_token") as usize,
            claims: rules(fields, boolean(fields, "require_exp").unwrap_or(true)),
        },
        keys,
        identity: identity(fields)?,
    })
}

fn authority(fields: &Fields) -> Authority {
    match fields.scalar("verify") {
        Some(Scalar::Verify(Verify::File(path))) => Authority::File(path),
        Some(Scalar::Verify(Verify::Insecure)) => Authority::Anybody,
        _ => Authority::System,
    }
}

fn cache(fields: &Fields, key: &str, usual: CacheSpec) -> CacheSpec {
    fields.table(key).map_or(usual, |table| CacheSpec {
        ttl: duration(table, "ttl"),
        negative: duration(table, "negative"),
        entries: count(table, "entries") as usize,
    })
}

fn introspection(
    name: &str,
    fields: &Fields,
    names: &Names<'_>,
    all: &mut Policies,
) -> Option<IntrospectionSpec> {
    let url = text(fields, "url").unwrap_or_default();
    let usual = CacheSpec {
        ttl: Some(Duration::from_secs(30)),
        negative: Some(Duration::from_secs(5)),
        entries: 100_000,
    };
    let client_secret = match fields.scalar("client_secret") {
        Some(Scalar::Secret { value, .. }) => value,
        _ => String::new(),
    };
    let service = service(name, &url, fields, names, all);
    Some(IntrospectionSpec {
        pool: service.pool,
        path: service.path,
        host: service.host,
        client_id: text(fields, "client_id").unwrap_or_default(),
        client_secret,
        timeout: duration(fields, "timeout").unwrap_or_default(),
        allow_on_error: allows_on_error(fields),
        cache: cache(fields, "cache", usual),
        from: token_from(fields),
        rules: rules(fields, false),
        identity: identity(fields)?,
    })
}

fn allows_on_error(fields: &Fields) -> bool {
    matches!(fields.scalar("on_error"), Some(Scalar::Word("allow")))
}

fn forward_auth(
    name: &str,
    fields: &Fields,
    names: &Names<'_>,
    all: &mut Policies,
) -> ForwardAuthSpec {
    let service = if let Some(url) = text(fields, "url") {
        service(name, &url, fields, names, all)
    } else {
        let pool = text(fields, "pool");
        let pool = pool.and_then(|pool| names.pools.get(pool.as_str()).copied().flatten());
        let path = text(fields, "path").unwrap_or_else(|| "/".to_owned());
        Service { pool: pool.unwrap_or(0), path, host: String::new() }
    };
    let lower = |names: Vec<String>| -> Vec<String> {
        names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
    };
    let off = CacheSpec { ttl: None, negative: None, entries: 0 };
    ForwardAuthSpec {
        pool: service.pool,
        path: service.path,
        host: service.host,
        timeout: duration(fields, "timeout").unwrap_or_default(),
        allow_on_error: allows_on_error(fields),
        cache: cache(fields, "cache", off),
        send: lower(texts(fields, "send")),
        copy: texts(fields, "copy"),
        consumer: text(fields, "consumer")
            .and_then(|text| text.strip_prefix("header:").map(str::to_ascii_lowercase)),
    }
}

/// Where a service is: a pool, and what is asked for there.
struct Service {
    pool: usize,
    path: String,
    /// As a Host field has it.
    host: String,
}

fn service(
    policy: &str,
    url: &str,
    fields: &Fields,
    names: &Names<'_>,
    all: &mut Policies,
) -> Service {
    let secure = url.starts_with("https://");
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let verify = match fields.scalar("verify") {
        Some(Scalar::Verify(verify)) => verify,
        _ => Verify::System,
    };
    let tls = PoolTls { verify, sni: None, client: None, starttls_postgres: false };
    let pool = match super::address::of_web(host, if secure { 443 } else { 80 }) {
        Some(address) => stand_in(policy, address, secure.then_some(tls), names, all),
        None => 0,
    };
    Service { pool, path: format!("{slash}{path}"), host: host.to_owned() }
}

/// All consumers of the file.
pub fn consumers(root: &Fields) -> Vec<ConsumerSpec> {
    let consumer = |(name, said): &(String, Said)| {
        let fields = said.fields()?;
        let keys = fields.tables("keys").filter_map(|table| {
            Some(KeySpec {
                hash: KeyHash::parse(&text(table, "hash")?)?,
                expires: integer(table, "expires"),
            })
        });
        Some(ConsumerSpec {
            name: name.clone(),
            keys: keys.collect(),
            groups: texts(fields, "groups"),
            basic: text(fields, "basic").and_then(|text| PasswordHash::parse(&text)),
            enabled: boolean(fields, "enabled").unwrap_or(true),
        })
    };
    root.named("consumer").iter().filter_map(consumer).collect()
}
