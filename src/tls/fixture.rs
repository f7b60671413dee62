//! Certificates made on the fly and two ends of TLS in memory, for the tests of this module.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use rustls::{ClientConnection, ServerConnection};
use serde_json::Value;

use super::server::{Opening, Refused, ServerTls};
use crate::config::plan::{CertEntry, ClientAuth, Pem};

/// `[[hex, times], …]`, as the corpus has bytes.
pub(crate) fn corpus_bytes(parts: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts.as_array().unwrap() {
        let hex = part[0].as_str().unwrap();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let one: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        bytes.extend(one.repeat(part[1].as_u64().unwrap() as usize));
    }
    bytes
}

/// A directory of PEM files and the authority that signs for it.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// `stem.pem` and `stem.key` for a server with these names.
    pub(super) fn server(&self, stem: &str, names: &[&str]) -> CertEntry {
        self.issue(stem, names, &KeyPair::generate().unwrap(), |_| {})
    }

    pub(super) fn issue(
        &self,
        stem: &str,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertEntry {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, stem);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let pem = params.signed_by(key, &self.issuer).unwrap().pem();
        self.put(stem, &pem, &key.serialize_pem())
    }

    fn put(&self, stem: &str, cert: &str, key: &str) -> CertEntry {
        let (cert_path, key_path) = (format!("{stem}.pem"), format!("{stem}.key"));
        std::fs::write(self.path(&cert_path), cert).unwrap();
        std::fs::write(self.path(&key_path), key).unwrap();
        CertEntry {
            cert: Pem::File(self.path(&cert_path)),
            key: Pem::File(self.path(&key_path)),
            names: Vec::new(),
            client_ca: None,
            client_auth: ClientAuth::Off,
            client_crl: None,
        }
    }

    /// A list with these serial numbers in it, good for ten years.
    pub(super) fn revoke(&self, file: &str, serials: &[u64]) -> Pem {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        std::fs::write(self.path(file), pem).unwrap();
        Pem::File(self.path(file))
    }
}

/// Asks clients of an entry for certificates.
pub(super) fn mutual(entry: CertEntry, auth: ClientAuth, ca: &Path) -> CertEntry {
    CertEntry { client_ca: Some(Pem::File(ca.to_owned())), client_auth: auth, ..entry }
}

/// Why a handshake in memory did not come to its end.
#[derive(Debug)]
#[allow(dead_code, reason = "the errors are shown when a test fails")]
pub(super) enum Failed {
    /// The listener would send this alert and close.
    Refused(Refused),
    Server(rustls::Error),
    Client(rustls::Error),
}

/// Both ends until neither has anything to say; then one byte each way.
pub(super) fn meet(
    server: &Arc<ServerTls>,
    client: &mut ClientConnection,
) -> Result<ServerConnection, Failed> {
    let mut incoming = server.accept();
    let pending = loop {
        let hello = written(|out| client.write_tls(out));
        assert!(!hello.is_empty(), "the client has said all it has to say");
        match incoming.read(&hello) {
            Opening::More => {}
            Opening::Ready(pending) => break pending,
            Opening::Refused(refused) => return Err(Failed::Refused(refused)),
        }
    };
    let mut server = pending.handshake().map_err(Failed::Refused)?;
    std::io::Write::write_all(&mut server.writer(), b"s").unwrap();
    std::io::Write::write_all(&mut client.writer(), b"c").unwrap();
    talk(&mut server, client)?;
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(server)
}

/// Carries bytes both ways until there are none.
pub(super) fn talk(
    server: &mut ServerConnection,
    client: &mut ClientConnection,
) -> Result<(), Failed> {
    loop {
        let down = written(|out| server.write_tls(out));
        feed(&down, |bytes| client.read_tls(bytes));
        let client_says = client.process_new_packets().map_err(Failed::Client);
        let up = written(|out| client.write_tls(out));
        feed(&up, |bytes| server.read_tls(bytes));
        // The server's reason comes first: the client's is often only its alert.
        server.process_new_packets().map_err(Failed::Server)?;
        client_says?;
        if down.is_empty() && up.is_empty() {
            return Ok(());
        }
    }
}

fn written(mut write: impl FnMut(&mut Vec<u8>) -> std::io::Result<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while write(&mut bytes).unwrap() > 0 {}
    bytes
}

fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(&mut bytes).unwrap();
    }
}
