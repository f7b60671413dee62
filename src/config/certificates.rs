//! What is in the files that `tls` names: certificates, keys, authorities, revocation lists.
//!
//! Looked into while the configuration is checked, so that what would fail at start is told
//! with the place of the key that names it; and last what would serve is built. A certificate
//! that has expired still starts: it is a warning, since no service at all helps nobody. What is
//! read here is not kept; those who serve read the files again, and watch them.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, GeneralName, X509Certificate, X509Version,
};

use super::build::Draft;
use super::build_tls::pem;
use super::code::{self, Code};
use super::fields::Fields;
use super::plan::{ListenerTls, Pem, Verify};
use super::read;
use super::report::{Finding, Findings};
use super::value::{Scalar, clip};
use crate::tls::server::ServerTls;

/// One file: a bundle of all public authorities has 200 KiB, large revocation lists some MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Certificates of one chain; real ones have three.
const CHAIN_MAX: usize = 16;

/// Reports files that cannot be read or used, and certificates that are out of date.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    for listener in &draft.listeners {
        let Some(tls) = listener.fields.table("tls") else { continue };
        let errors = found.errors();
        for fields in std::iter::once(tls).chain(tls.tables("certs")) {
            pair(fields, "cert", "key", now, found);
            authorities(fields, found);
            revocations(fields, found);
        }
        if found.errors() == errors {
            as_run_does(listener.plan.tls.as_ref(), tls, found);
        }
    }
    if let Some((admin, fields)) = &draft.admin
        && let Some(tls) = fields.table("tls")
    {
        let errors = found.errors();
        pair(tls, "cert", "key", now, found);
        authorities(tls, found);
        if found.errors() == errors {
            as_run_does(admin.tls.as_ref(), tls, found);
        }
    }
    for pool in &draft.pools {
        let Some(tls) = pool.fields.table("tls") else { continue };
        pair(tls, "client_cert", "client_key", now, found);
        believed(tls, found);
    }
    for policy in draft.root.named("policy").iter().filter_map(|(_, said)| said.fields()) {
        let within = ["jwks", "store"].into_iter().filter(|key| policy.knows(key));
        let within = within.filter_map(|key| policy.table(key));
        for fields in std::iter::once(policy).chain(within).filter(|one| one.knows("verify")) {
            believed(fields, found);
        }
    }
}

/// Builds what would serve, since the library that does may want more than was looked at here.
fn as_run_does(plan: Option<&ListenerTls>, tls: &Fields, found: &mut Findings) {
    // Without a certificate something was refused, and that is told.
    let Some(plan) = plan.filter(|plan| !plan.certs.is_empty()) else { return };
    let Err(error) = ServerTls::new(plan, Arc::default()) else { return };
    let why: String = error.why.chars().filter(|c| !c.is_control()).collect();
    // The admin API has one certificate.
    let more = tls.knows("certs").then(|| tls.tables("certs"));
    for fields in std::iter::once(tls).chain(more.into_iter().flatten()) {
        for key in ["cert", "key", "client_ca", "client_crl"] {
            if fields.knows(key)
                && let Some(pem) = pem(fields, key).filter(|pem| error.is_about(pem))
            {
                let clause = format!("{} cannot be used: {why}", named(&pem));
                return report(fields, key, trouble(code::BAD_PEM, clause, ""), found);
            }
        }
    }
    let message = format!("{} cannot be used: {why}", tls.title);
    found.add(Finding::new(code::BAD_PEM, tls.place, tls.path.clone(), message));
}

/// Why something cannot be used: a clause that continues "`cert` of …", and what to do.
struct Trouble {
    code: Code,
    clause: String,
    hint: String,
}

fn trouble(code: Code, clause: impl Into<String>, hint: impl Into<String>) -> Trouble {
    Trouble { code, clause: clause.into(), hint: hint.into() }
}

fn report(fields: &Fields, key: &str, trouble: Trouble, found: &mut Findings) {
    let message = format!("`{key}` of {} {}", fields.title, trouble.clause);
    let finding = Finding::new(trouble.code, fields.place_of(key), fields.path_of(key), message);
    found.add(finding.hint(trouble.hint));
}

/// A certificate with its chain, and its key. Both are looked at, whatever is wrong with one.
fn pair(fields: &Fields, cert_key: &str, key_key: &str, now: i64, found: &mut Findings) {
    let chain = pem(fields, cert_key).and_then(|cert| match read_chain(&cert) {
        Ok(chain) => Some((cert, chain)),
        Err(trouble) => {
            report(fields, cert_key, trouble, found);
            None
        }
    });
    let key = pem(fields, key_key).and_then(|key| match read_key(&key) {
        Ok(private) => Some((key, private)),
        Err(trouble) => {
            report(fields, key_key, trouble, found);
            None
        }
    });
    if let (Some((cert, chain)), Some((key, private))) = (&chain, key)
        && let Err(trouble) = fits(chain, cert, &private, &key)
    {
        let key = if trouble.code == code::WRONG_KEY { key_key } else { cert_key };
        report(fields, key, trouble, found);
        return;
    }
    let Some((_, chain)) = chain else { return };
    if let Err(trouble) = in_order(&chain) {
        report(fields, cert_key, trouble, found);
    }
    for trouble in leaf_doubts(&chain[0], fields, now) {
        report(fields, cert_key, trouble, found);
    }
}

fn read_chain(cert: &Pem) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let chain: Vec<CertificateDer<'static>> = all(cert, "certificate")?;
    if chain.len() > CHAIN_MAX {
        let clause = format!(
            "{} has {} certificates, and {CHAIN_MAX} is the most",
            named(cert),
            chain.len()
        );
        return Err(trouble(
            code::BAD_PEM,
            clause,
            "a chain is one certificate and those above it",
        ));
    }
    for (index, der) in chain.iter().enumerate() {
        let whole = X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty());
        if !whole {
            let clause = format!("{} has no X.509 certificate at place {}", named(cert), index + 1);
            return Err(trouble(code::BAD_PEM, clause, ""));
        }
    }
    // What is sent beside it is not looked at, by us.
    let is_v3 = |(_, leaf): (&[u8], X509Certificate<'_>)| leaf.version() == X509Version::V3;
    if !chain.first().is_some_and(|der| X509Certificate::from_der(der).is_ok_and(is_v3)) {
        let clause = format!(
            "{} has a certificate of X.509 version 1, and TLS takes version 3",
            named(cert)
        );
        let hint =
            "issue it with extensions, such as subjectAltName: `openssl x509 -req -extfile …`";
        return Err(trouble(code::BAD_PEM, clause, hint));
    }
    Ok(chain)
}

fn read_key(key: &Pem) -> Result<PrivateKeyDer<'static>, Trouble> {
    let bytes = bytes(key)?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        // An encrypted key has other words in its frame, so it looks like no key at all.
        if bytes.windows(9).any(|word| word == b"ENCRYPTED") {
            let hint = "take the passphrase off: `openssl pkey -in KEY -out NEW`";
            return trouble(code::BAD_PEM, format!("{} has an encrypted key", named(key)), hint);
        }
        pem_trouble(key, "private key", &error)
    })?;
    if any_supported_type(&private).is_ok() {
        return Ok(private);
    }
    let clause = format!("{} has a key of a kind that cannot be used", named(key));
    let hint = "RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) or Ed25519";
    Err(trouble(code::BAD_PEM, clause, hint))
}

/// Whether the key belongs to the first certificate.
fn fits(
    chain: &[CertificateDer<'static>],
    cert: &Pem,
    private: &PrivateKeyDer<'static>,
    key: &Pem,
) -> Result<(), Trouble> {
    let Ok(signing) = any_supported_type(private) else { return Ok(()) };
    let belongs = |der: &CertificateDer<'static>| {
        CertifiedKey::new(vec![der.clone()], signing.clone()).keys_match()
    };
    // A key that cannot show its public half is not known to be wrong.
    let unknown = rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown);
    let fits = |result: &Result<(), rustls::Error>| {
        result.as_ref().map_or_else(|error| *error == unknown, |()| true)
    };
    let Some(first) = chain.first() else { return Ok(()) };
    if fits(&belongs(first)) {
        return Ok(());
    }
    if let Some(at) = chain.iter().position(|der| fits(&belongs(der))) {
        let clause = format!(
            "{} has the certificate of the key at place {}, after others",
            named(cert),
            at + 1
        );
        return Err(trouble(code::CHAIN_ORDER, clause, "put it first, then what it was issued by"));
    }
    let clause =
        format!("{} is not the key of the certificate in {}", named(key), named_short(cert));
    Err(trouble(code::WRONG_KEY, clause, ""))
}

/// Each certificate is issued by the next one (RFC 5246 §7.4.2; RFC 8446 relaxes it, clients
/// do not all).
fn in_order(chain: &[CertificateDer<'static>]) -> Result<(), Trouble> {
    let parsed: Vec<X509Certificate<'_>> =
        chain.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
    for (index, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            let clause = format!(
                "has a certificate at place {} that was not issued by the one after it",
                index + 1
            );
            return Err(trouble(
                code::CHAIN_ORDER,
                clause,
                "the chain is the certificate itself, then what it was issued by, each above the one before",
            ));
        }
    }
    Ok(())
}

/// What is doubtful about a certificate that works.
fn leaf_doubts(der: &CertificateDer<'static>, fields: &Fields, now: i64) -> Vec<Trouble> {
    let Ok((_, leaf)) = X509Certificate::from_der(der) else { return Vec::new() };
    let mut doubts = Vec::new();
    let validity = leaf.validity();
    if validity.not_after.timestamp() < now {
        let clause = format!("has expired ({})", validity.not_after);
        doubts.push(trouble(code::CERT_DATES, clause, "clients refuse it"));
    } else if validity.not_before.timestamp() > now {
        let clause = format!("is not valid yet ({})", validity.not_before);
        doubts.push(trouble(
            code::CERT_DATES,
            clause,
            "clients refuse it, unless this machine's clock is wrong",
        ));
    }
    if fields.knows("names") {
        let own = dns_names(&leaf);
        for (name, _) in fields.list("names") {
            let Scalar::Text(name) = name else { continue };
            if !own.iter().any(|own| covers(own, &name)) {
                let clause = format!("is not for `{}`, which is in `names`", clip(&name));
                let hint = match own.as_slice() {
                    [] => "it is for no DNS name at all".to_owned(),
                    own => format!("it is for {}", clip(&own.join(", "))),
                };
                doubts.push(trouble(code::CERT_NAMES, clause, hint));
            }
        }
    }
    doubts
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// RFC 6125 §6.4.3: `*` is one whole label.
fn covers(own: &str, name: &str) -> bool {
    own == name
        || own.strip_prefix("*.").is_some_and(|rest| {
            name.split_once('.').is_some_and(|(first, of)| first != "*" && of == rest)
        })
}

fn authorities(fields: &Fields, found: &mut Findings) {
    if let Some(ca) = pem(fields, "client_ca") {
        roots(fields, "client_ca", &ca, found);
    }
}

/// The authorities that a server's certificate must be from.
fn believed(fields: &Fields, found: &mut Findings) {
    if let Some(Scalar::Verify(Verify::File(path))) = fields.scalar("verify") {
        roots(fields, "verify", &Pem::File(path), found);
    }
}

fn roots(fields: &Fields, key: &str, ca: &Pem, found: &mut Findings) {
    let added = all::<CertificateDer<'static>>(ca, "certificate").and_then(|ders| {
        let mut store = RootCertStore::empty();
        for (index, der) in ders.into_iter().enumerate() {
            store.add(der).map_err(|_| {
                let clause = format!("{} has no authority at place {}", named(ca), index + 1);
                trouble(code::BAD_PEM, clause, "")
            })?;
        }
        Ok(())
    });
    if let Err(trouble) = added {
        report(fields, key, trouble, found);
    }
}

fn revocations(fields: &Fields, found: &mut Findings) {
    let Some(crl) = pem(fields, "client_crl") else { return };
    let read =
        all::<CertificateRevocationListDer<'static>>(&crl, "revocation list").and_then(|ders| {
            for der in &ders {
                let Ok((_, list)) = CertificateRevocationList::from_der(der.as_ref()) else {
                    let clause = format!("{} has no revocation list that can be read", named(&crl));
                    return Err(trouble(code::BAD_PEM, clause, ""));
                };
                // RFC 5280 §5.1.2.1: absent is version 1, and the version 2 of its profile is a must.
                if list.version().is_none() {
                    let clause = format!(
                        "{} has a revocation list of version 1, and version 2 is needed",
                        named(&crl)
                    );
                    let hint = "give `openssl ca -gencrl` a `crl_extensions` in its configuration";
                    return Err(trouble(code::BAD_PEM, clause, hint));
                }
            }
            Ok(())
        });
    if let Err(trouble) = read {
        report(fields, "client_crl", trouble, found);
    }
}

/// All items of a kind, at least one.
fn all<T: PemObject>(pem: &Pem, what: &str) -> Result<Vec<T>, Trouble> {
    let bytes = bytes(pem)?;
    let items: Result<Vec<T>, pem::Error> = T::pem_slice_iter(&bytes).collect();
    match items {
        Ok(items) if items.is_empty() => Err(pem_trouble(pem, what, &pem::Error::NoItemsFound)),
        Ok(items) => Ok(items),
        Err(error) => Err(pem_trouble(pem, what, &error)),
    }
}

fn pem_trouble(pem: &Pem, what: &str, error: &pem::Error) -> Trouble {
    let article = if what.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    match error {
        pem::Error::NoItemsFound => {
            let clause = format!("{} has no {what} in it", named(pem));
            trouble(
                code::BAD_PEM,
                clause,
                format!("it must have {article} {what} as PEM, -----BEGIN …-----"),
            )
        }
        error => trouble(code::BAD_PEM, format!("{} is not PEM: {error}", named(pem)), ""),
    }
}

fn bytes(pem: &Pem) -> Result<Vec<u8>, Trouble> {
    match pem {
        Pem::Text(secret) => Ok(secret.0.clone().into_bytes()),
        Pem::File(path) => read::bytes(path, FILE_BYTES_MAX).map_err(|error| {
            trouble(error.code, format!("names {}, which {}", shown(path), error.clause), "")
        }),
    }
}

/// "names file.pem, which" or "is a text that", before "has …".
fn named(pem: &Pem) -> String {
    match pem {
        Pem::File(path) => format!("names {}, which", shown(path)),
        Pem::Text(_) => "is a text that".to_owned(),
    }
}

fn named_short(pem: &Pem) -> String {
    match pem {
        Pem::File(path) => shown(path),
        Pem::Text(_) => "the text".to_owned(),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_certificate_is_one_label() {
        assert!(covers("*.a.test", "x.a.test"));
        assert!(covers("*.a.test", "*.a.test"));
        assert!(!covers("*.a.test", "x.y.a.test"));
        assert!(!covers("*.a.test", "a.test"));
        assert!(!covers("x.a.test", "*.a.test"));
    }
}
