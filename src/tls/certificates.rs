//! Certificates, keys, authorities and revocation lists, read from PEM.
//!
//! Every error names its file and what is wrong with it, for the operator. A chain is taken only
//! with the key that fits it. Dates are read and not judged: an expired certificate is better
//! than none, and the metric says when it was due. Reads files, so never on a worker.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::hello::is_host;
use crate::config::plan::{CertEntry, Pem};

/// Bytes of one file, at most. A bundle of all public authorities has 200 KiB, the largest public
/// revocation lists some MiB; what is larger is another file than the operator thinks.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why something could not be built: the file, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The path, or words for a text out of the environment.
    pub file: String,
    pub why: String,
}

impl LoadError {
    pub(super) fn new(pem: &Pem, why: impl fmt::Display) -> Self {
        let file = match pem {
            Pem::File(path) => path.display().to_string(),
            Pem::Text(_) => "the text from the environment".to_owned(),
        };
        Self { file, why: why.to_string() }
    }

    /// Whether it is about what `pem` names.
    #[must_use]
    pub fn is_about(&self, pem: &Pem) -> bool {
        Self::new(pem, "").file == self.file
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.why)
    }
}

impl std::error::Error for LoadError {}

/// A chain with its key, and what the certificate says about itself.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// From the plan, else the DNS names of the certificate; lower case. May be empty.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Certificate {
    /// # Errors
    ///
    /// A file that cannot be read, is not PEM, or a key that belongs to another certificate.
    pub fn load(entry: &CertEntry, provider: &CryptoProvider) -> Result<Self, LoadError> {
        let key = certified_key(&entry.cert, &entry.key, provider)?;
        let (_, parsed) = key
            .end_entity_cert()
            .ok()
            .and_then(|der| X509Certificate::from_der(der).ok())
            .ok_or_else(|| LoadError::new(&entry.cert, "not an X.509 certificate"))?;
        let names = if entry.names.is_empty() { dns_names(&parsed) } else { entry.names.clone() };
        let not_after = parsed.validity().not_after.timestamp();
        Ok(Self { key: Arc::new(key), names, not_after })
    }
}

/// A chain and the key that fits its first certificate.
pub(super) fn certified_key(
    cert: &Pem,
    key: &Pem,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, LoadError> {
    let chain: Vec<CertificateDer<'static>> = all(cert, "certificate")?;
    let bytes = bytes(key)?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        // An encrypted key has other words in its frame, so it looks like no key at all.
        let encrypted = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        match error {
            _ if encrypted => {
                LoadError::new(key, "the key is encrypted: give it without a passphrase")
            }
            pem::Error::NoItemsFound => LoadError::new(key, "no private key in it"),
            error => LoadError::new(key, pem_words(&error)),
        }
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let cert = LoadError::new(cert, "").file;
            LoadError::new(key, format_args!("the key is not that of the certificate in {cert}"))
        }
        rustls::Error::InvalidCertificate(_) => LoadError::new(cert, error),
        error => LoadError::new(key, error),
    })
}

/// Authorities to verify others by.
pub(super) fn authorities(pem: &Pem) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for der in all::<CertificateDer<'static>>(pem, "certificate")? {
        roots.add(der).map_err(|error| LoadError::new(pem, error))?;
    }
    Ok(roots)
}

pub(super) fn revocations(
    pem: &Pem,
) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    all(pem, "revocation list (X509 CRL)")
}

/// All bytes of the source, bounded.
pub(super) fn bytes(pem: &Pem) -> Result<Vec<u8>, LoadError> {
    let path = match pem {
        Pem::Text(secret) => return Ok(secret.0.clone().into_bytes()),
        Pem::File(path) => path,
    };
    let fail = |error: std::io::Error| LoadError::new(pem, error);
    // Not open first: opening a named pipe waits for its writer.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(LoadError::new(pem, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(fail)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::new(pem, "larger than 16 MiB"));
    }
    Ok(bytes)
}

/// The files behind some sources, for watching.
pub(super) fn files<'a>(sources: impl IntoIterator<Item = &'a Pem>) -> Vec<PathBuf> {
    let paths = sources.into_iter().filter_map(|pem| match pem {
        Pem::File(path) => Some(path.clone()),
        Pem::Text(_) => None,
    });
    let mut files: Vec<PathBuf> = paths.collect();
    files.sort();
    files.dedup();
    files
}

/// All items of one kind; at least one.
fn all<T: PemObject>(pem: &Pem, what: &str) -> Result<Vec<T>, LoadError> {
    let bytes = bytes(pem)?;
    let items: Vec<T> = T::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| LoadError::new(pem, pem_words(&error)))?;
    if items.is_empty() {
        return Err(LoadError::new(pem, format_args!("no {what} in it")));
    }
    Ok(items)
}

/// What is wrong with a text, without a byte of it: it may be a key.
const fn pem_words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "not PEM: a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "not PEM: a BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "not PEM: a section is not base64",
        _ => "not PEM",
    }
}

/// The DNS names that clients accept the certificate for. The common name has not counted for
/// any of them since RFC 6125 (§6.4.4); it does not here.
fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    names.filter(|name| is_host(name.strip_prefix("*.").unwrap_or(name))).collect()
}
