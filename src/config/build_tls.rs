//! Typed fields → what the plan says about TLS: certificates, client authentication, names.
//!
//! What an entry of `certs` leaves out it has from the listener's `tls`. Files are named here
//! and not read; [`certificates`](super::certificates) looks into them.

use super::build::{PoolRef, boolean, choice, text};
use super::fields::Fields;
use super::plan::{
    CertEntry, ClientAuth, ClientCertField, ListenerTls, Mode, Pem, PoolTls, SniRoutes, TlsVersion,
    Verify,
};
use super::value::Scalar;

/// The `tls` table of a listener.
#[must_use]
pub fn listener_tls(fields: &Fields, mode: Mode) -> ListenerTls {
    const VERSIONS: [(&str, TlsVersion); 2] =
        [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    const CLIENT_FIELDS: [(&str, ClientCertField); 3] = [
        ("subject", ClientCertField::Subject),
        ("san", ClientCertField::San),
        ("fingerprint", ClientCertField::Fingerprint),
    ];
    let nothing = Clients::default();
    let inherited = Clients::of(fields, &nothing);
    let first = entry(fields, &nothing);
    let others = fields.tables("certs").filter_map(|table| entry(table, &inherited));
    let alpn = match (fields.said("alpn"), mode) {
        (Some(_), _) => texts(fields, "alpn"),
        (None, Mode::Http) => vec!["h2".to_owned(), "http/1.1".to_owned()],
        (None, Mode::Tcp) => Vec::new(),
    };
    let sent = fields.list("client_cert_headers");
    ListenerTls {
        certs: first.into_iter().chain(others).collect(),
        version_min: choice(fields.scalar("min_version").as_ref(), &VERSIONS).unwrap_or_default(),
        alpn,
        strict_sni: boolean(fields, "strict_sni").unwrap_or(false),
        starttls_postgres: fields.scalar("starttls").is_some(),
        client_cert_headers: sent
            .iter()
            .filter_map(|(scalar, _)| choice(Some(scalar), &CLIENT_FIELDS))
            .collect(),
    }
}

/// What a name asks of clients.
#[derive(Clone, Debug, Default)]
struct Clients {
    ca: Option<Pem>,
    auth: ClientAuth,
    crl: Option<Pem>,
}

impl Clients {
    /// What the table says; without an authority of its own, with that of `below`.
    fn of(fields: &Fields, below: &Self) -> Self {
        const AUTH: [(&str, ClientAuth); 2] =
            [("require", ClientAuth::Require), ("request", ClientAuth::Request)];
        let said = choice(fields.scalar("client_auth").as_ref(), &AUTH);
        let own_crl = pem(fields, "client_crl");
        match pem(fields, "client_ca") {
            // An authority is there to be asked for.
            Some(ca) => {
                Self { ca: Some(ca), auth: said.unwrap_or(ClientAuth::Require), crl: own_crl }
            }
            None => Self {
                ca: below.ca.clone(),
                auth: said.unwrap_or(below.auth),
                crl: own_crl.or_else(|| below.crl.clone()),
            },
        }
    }
}

/// One certificate; `None` when one half of it is missing or refused.
fn entry(fields: &Fields, below: &Clients) -> Option<CertEntry> {
    let clients = Clients::of(fields, below);
    // The listener's own certificate has no such key.
    let names = if fields.knows("names") { texts(fields, "names") } else { Vec::new() };
    Some(CertEntry {
        cert: pem(fields, "cert")?,
        key: pem(fields, "key")?,
        names,
        client_ca: clients.ca,
        client_auth: clients.auth,
        client_crl: clients.crl,
    })
}

/// The `tls` table of `[admin]`: whoever has no certificate of `client_ca` is refused.
#[must_use]
pub fn admin_tls(fields: &Fields) -> ListenerTls {
    let client_ca = pem(fields, "client_ca");
    let client_auth = if client_ca.is_some() { ClientAuth::Require } else { ClientAuth::Off };
    let pair = pem(fields, "cert").zip(pem(fields, "key"));
    let entry = pair.map(|(cert, key)| CertEntry {
        cert,
        key,
        names: Vec::new(),
        client_ca,
        client_auth,
        client_crl: None,
    });
    let alpn = vec!["http/1.1".to_owned()];
    ListenerTls { certs: entry.into_iter().collect(), alpn, ..ListenerTls::default() }
}

/// The `tls` table of a pool.
#[must_use]
pub fn pool_tls(fields: &Fields) -> PoolTls {
    let verify = match fields.scalar("verify") {
        Some(Scalar::Verify(verify)) => verify,
        _ => Verify::System,
    };
    PoolTls {
        verify,
        sni: text(fields, "sni"),
        client: pem(fields, "client_cert").zip(pem(fields, "client_key")),
        starttls_postgres: fields.scalar("starttls").is_some(),
    }
}

/// Pools by server name, from the references that `sni` and `no_sni` make.
#[must_use]
pub fn sni_routes(refs: &[PoolRef<'_>]) -> SniRoutes {
    let mut routes = SniRoutes::default();
    for reference in refs {
        let Some(pool) = reference.pool else { continue };
        let name = reference.server_name.strip_suffix('.').unwrap_or(reference.server_name);
        match (reference.key, name) {
            ("no_sni", _) => routes.no_sni = Some(pool),
            ("sni", "*") => routes.any = Some(pool),
            ("sni", name) => match name.strip_prefix('*') {
                Some(rest) => routes.wildcard.push((rest.to_ascii_lowercase(), pool)),
                None => routes.exact.push((name.to_ascii_lowercase(), pool)),
            },
            _ => {}
        }
    }
    routes
}

/// A certificate, key or list that was not refused.
#[must_use]
pub fn pem(fields: &Fields, key: &str) -> Option<Pem> {
    match fields.scalar(key) {
        Some(Scalar::Pem { pem, .. }) => Some(pem),
        _ => None,
    }
}

fn texts(fields: &Fields, key: &str) -> Vec<String> {
    let text = |(scalar, _)| match scalar {
        Scalar::Text(text) => Some(text),
        _ => None,
    };
    fields.list(key).into_iter().filter_map(text).collect()
}
