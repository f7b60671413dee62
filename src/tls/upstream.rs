//! TLS towards the servers of a pool.
//!
//! A server is verified by the name of the plan (`sni`), else by its own: the `dns:` name or the
//! address. Verification is on unless the plan says `insecure`, and then only the handshake's
//! signature is checked. Sessions are resumed; early data is never sent.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::certificates::{self, LoadError};
use super::pool_provider;
use super::reload::Stamp;
use crate::config::plan::{Pem, PoolTls, Verify};

/// Server names with sessions to resume, per pool. A pool has one name, or the names of its
/// servers; past this the oldest are forgotten and get a full handshake.
const SESSIONS_MAX: usize = 256;

/// TLS of one pool, immutable; all workers share it.
#[derive(Debug)]
pub struct ClientTls {
    plan: PoolTls,
    stamps: Vec<Stamp>,
    alpn: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Reads all files. `alpn` is what the pool's protocol asks for, such as `h2`; may be empty.
    ///
    /// # Errors
    ///
    /// The first file that cannot be used, or an `sni` that is no host name.
    pub fn new(plan: &PoolTls, alpn: &[&[u8]]) -> Result<Self, LoadError> {
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.to_vec()).collect();
        let sni = plan.sni.as_deref().map(server_name).transpose()?;
        let stamps = Stamp::of_all(watch_list(plan));
        let config = Arc::new(config_for(plan, alpn.clone())?);
        Ok(Self { plan: plan.clone(), stamps, alpn, config, sni })
    }

    /// The same plan with the files as they are now. Sessions start anew: a server that was
    /// verified by the old authority is verified again.
    ///
    /// # Errors
    ///
    /// As [`ClientTls::new`]; this one goes on to serve.
    pub fn rebuild(&self) -> Result<Self, LoadError> {
        let (plan, alpn, sni) = (self.plan.clone(), self.alpn.clone(), self.sni.clone());
        let stamps = Stamp::of_all(watch_list(&plan));
        let config = Arc::new(config_for(&plan, alpn.clone())?);
        Ok(Self { plan, stamps, alpn, config, sni })
    }

    /// The files whose change is a reason for [`ClientTls::rebuild`], as they were before this
    /// was built.
    #[must_use]
    pub fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    /// A connection whose hello waits to be sent. `server` is the server's own name or address;
    /// the plan's `sni` wins over it. Costs one key share.
    ///
    /// # Errors
    ///
    /// No randomness left to rustls.
    pub fn connect(&self, server: ServerName<'static>) -> Result<ClientConnection, rustls::Error> {
        let name = self.sni.clone().unwrap_or(server);
        ClientConnection::new(Arc::clone(&self.config), name)
    }
}

impl ClientTls {
    /// What a check connects with: as traffic does, but it speaks no HTTP/2.
    #[must_use]
    pub fn for_check(
        &self,
        server: ServerName<'static>,
    ) -> (Arc<ClientConfig>, ServerName<'static>) {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols.clear();
        (Arc::new(config), self.sni.clone().unwrap_or(server))
    }
}

/// A host name or an address as rustls wants it.
///
/// # Errors
///
/// Neither a host name nor an address.
pub fn server_name(text: &str) -> Result<ServerName<'static>, LoadError> {
    ServerName::try_from(text.trim_end_matches('.').to_owned()).map_err(|_| LoadError {
        file: format!("server name {text:?}"),
        why: "neither a host name nor an IP address".to_owned(),
    })
}

fn watch_list(plan: &PoolTls) -> Vec<PathBuf> {
    let authority = match &plan.verify {
        Verify::File(path) => Some(Pem::File(path.clone())),
        Verify::System | Verify::Insecure => None,
    };
    let own = plan.client.iter().flat_map(|(cert, key)| [cert, key]);
    certificates::files(own.chain(&authority))
}

fn config_for(plan: &PoolTls, alpn: Vec<Vec<u8>>) -> Result<ClientConfig, LoadError> {
    let provider = pool_provider();
    let own = plan
        .client
        .as_ref()
        .map(|(cert, key)| certificates::certified_key(cert, key, &provider))
        .transpose()?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| system_error(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(&plan.verify, &provider)?);
    let mut config = match own {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn;
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}

fn verifier(
    verify: &Verify,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, LoadError> {
    let (roots, source) = match verify {
        Verify::Insecure => return Ok(Arc::new(AcceptsAnyCertificate(Arc::clone(provider)))),
        Verify::System => (system_authorities()?, "the system's certificates".to_owned()),
        Verify::File(path) => {
            let roots = certificates::authorities(&Pem::File(path.clone()))?;
            (Arc::new(roots), path.display().to_string())
        }
    };
    let built = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    let verifier = built.map_err(|error| LoadError { file: source, why: error.to_string() })?;
    Ok(verifier)
}

/// Loaded once: some 150 certificates, the same for all pools.
fn system_authorities() -> Result<Arc<RootCertStore>, LoadError> {
    static LOADED: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = LOADED.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let first = found.errors.first();
        return Err(first.map_or_else(
            || system_error(&"there are none: install ca-certificates, or give a file"),
            |error| system_error(error),
        ));
    }
    Ok(Arc::clone(LOADED.get_or_init(|| Arc::new(roots))))
}

fn system_error(why: &dyn std::fmt::Display) -> LoadError {
    LoadError { file: "the system's certificates".to_owned(), why: why.to_string() }
}

/// `verify = "insecure"`: whoever answers is believed to be the server. The signature is checked
/// all the same, so that a broken handshake does not pass for an unverified one.
#[derive(Debug)]
struct AcceptsAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
