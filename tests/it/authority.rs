//! An authority of one test, and certificates of it, as files.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub dir: TempDir,
}

/// A certificate with its key, as PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
    /// What a peer is shown of it.
    pub der: Vec<u8>,
}

impl Authority {
    /// With `ca.pem`, and `inner.pem` and `inner.key` of a server `inner.test`.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::default();
        // Not the name that leaves have by default: a certificate of the issuer's name would pass for
        // one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let issuer = issuer.expect("an authority");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it is written");
        let authority = Self { issuer, dir };
        authority.write("inner", "inner.test");
        authority
    }

    /// A new certificate for a server or a client.
    pub fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { cert: leaf.pem(), key: key.serialize_pem(), der: leaf.der().to_vec() }
    }

    /// Issues one to `STEM.pem` and `STEM.key`.
    pub fn write(&self, stem: &str, name: &str) -> Pair {
        let pair = self.issue(name);
        for (kind, text) in [("pem", &pair.cert), ("key", &pair.key)] {
            std::fs::write(self.path(&format!("{stem}.{kind}")), text).expect("it is written");
        }
        pair
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The `tls` table of a listener that is `inner.test`.
    pub fn listener(&self) -> String {
        let dir = self.dir.path().display();
        format!("tls = {{ cert = \"file:{dir}/inner.pem\", key = \"file:{dir}/inner.key\" }}")
    }
}
