//! A client of TLS that is as strict as can be, and shows what it was shown.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::authority::Authority;
use super::gate::Gate;

pub type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Trusts `authority` alone; resumes nothing. `pair`: the stem of its own certificate.
pub fn trusting(authority: &Authority, pair: Option<&str>) -> Arc<ClientConfig> {
    let certificate = |file: &Path| CertificateDer::from_pem_file(file).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&authority.path("ca.pem"))).expect("an authority");
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the usual versions")
        .with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(stem) => {
            let cert = certificate(&authority.path(&format!("{stem}.pem")));
            let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{stem}.key")));
            builder.with_client_auth_cert(vec![cert], key.expect("a key")).expect("a pair")
        }
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A handshake with the listener for `name`, to its end.
pub fn shake(
    gate: &Gate,
    listener: &str,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<Secure> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, gate.connect(listener));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}
