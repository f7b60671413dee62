//! What a finished handshake was: for the log, the metrics and the servers behind.
//!
//! Text out of a client's certificate is printable ASCII whatever stands in the certificate, and
//! cannot be read as more fields than there are: it goes into logs and header values.

use std::fmt::Write;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::{ConnectionCommon, ProtocolVersion, ServerConnection};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use super::{sha256, suite_name};

/// Bytes of a subject or of all names that are told, at most: what follows is cut, as a header
/// of servers with small heads must still fit.
const TEXT_MAX: usize = 2 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// As registered at IANA.
    pub cipher: &'static str,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// The host that the client named.
    pub sni: Option<String>,
    /// `None`: it gave no certificate. One that is here was verified.
    pub client: Option<ClientCertificate>,
}

/// A client's certificate; always one that an authority of the plan vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name, else the first alternative name, else the fingerprint.
    pub name: String,
    /// RFC 4514, most specific first: `CN=ada,O=Example`.
    pub subject: String,
    /// Alternative names: `DNS:a.test,email:a@a.test,URI:…,IP:192.0.2.1`.
    pub san: Vec<String>,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
}

impl TlsInfo {
    /// `None` while the handshake goes on.
    #[must_use]
    pub fn of(connection: &ServerConnection) -> Option<Self> {
        let sni = connection.server_name().map(str::to_owned);
        Self::agreed(connection, sni)
    }

    /// Of a connection to a server: without names.
    #[cfg(test)]
    #[must_use]
    pub fn of_upstream(connection: &rustls::ClientConnection) -> Option<Self> {
        Some(Self { client: None, ..Self::agreed(connection, None)? })
    }

    fn agreed<Data>(connection: &ConnectionCommon<Data>, sni: Option<String>) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let cipher = suite_name(connection.negotiated_cipher_suite()?.suite());
        let alpn = connection.alpn_protocol().map(|name| name.escape_ascii().to_string());
        let client = connection.peer_certificates().and_then(<[_]>::first);
        let client = client.and_then(ClientCertificate::of);
        Some(Self { version, cipher, alpn, sni, client })
    }
}

impl ClientCertificate {
    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let fingerprint = sha256(der).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let common = certificate.subject().iter_common_name().next();
        let common = common.and_then(|name| name.as_str().ok()).map(|name| escaped(name, ""));
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut san = Vec::new();
        let mut room = TEXT_MAX;
        for text in names.iter().filter_map(alternative) {
            // With the comma that parts it from the next.
            let Some(left) = room.checked_sub(text.len() + 1) else { break };
            room = left;
            san.push(text);
        }
        let common = common.filter(|name| !name.is_empty());
        let subject = subject(certificate.subject());
        let mut told = Self { name: common.unwrap_or_default(), subject, san, fingerprint };
        if told.name.is_empty() {
            told.name = told.first_san().unwrap_or(&told.fingerprint).to_owned();
        }
        Some(told)
    }

    /// The first alternative name without its type: `a.test`, and `spiffe://a/b` of a URI.
    #[must_use]
    pub fn first_san(&self) -> Option<&str> {
        self.san.first()?.split_once(':').map(|(_, name)| name)
    }
}

fn alternative(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(name) => format!("DNS:{}", escaped(name, ",")),
        GeneralName::RFC822Name(name) => format!("email:{}", escaped(name, ",")),
        GeneralName::URI(name) => format!("URI:{}", escaped(name, ",")),
        GeneralName::IPAddress(bytes) => format!("IP:{}", address(bytes)?),
        _ => return None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A distinguished name in the order of RFC 4514 §2.1: the last part first.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        for (at, attribute) in part.iter().enumerate() {
            let oid = attribute.attr_type().to_id_string();
            let key = SHORT.iter().find(|(id, _)| *id == oid).map_or(oid.as_str(), |(_, key)| key);
            let value = match attribute.as_str() {
                Ok(value) => escaped(value, ",+\"\\<>;=#"),
                // Not text: RFC 4514 §2.4 writes its encoding in hex.
                Err(_) => attribute.as_slice().iter().fold("#".to_owned(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                }),
            };
            let before = match (text.is_empty(), at) {
                (true, _) => "",
                (false, 0) => ",",
                (false, _) => "+",
            };
            if text.len() + before.len() + key.len() + 1 + value.len() > TEXT_MAX {
                return text;
            }
            let _ = write!(text, "{before}{key}={value}");
        }
    }
    text
}

/// Attributes with a short name (RFC 4514 §3, and those that certificates have besides).
static SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Characters of `special` get a backslash; all that is not printable ASCII, the backslash too,
/// becomes a backslash and two hex digits a byte (RFC 4514 §2.4). Spaces at the edges too, which
/// a header value would lose.
fn escaped(text: &str, special: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' => out.push_str("\\5c"),
            b' ' if at == 0 || at == last => out.push_str("\\20"),
            b' '..=b'~' if special.as_bytes().contains(&byte) => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_it_is_by_an_alternative_name_is_the_name_without_its_type() {
        let named = |san: &[&str]| ClientCertificate {
            name: String::new(),
            subject: String::new(),
            san: san.iter().map(|&name| name.to_owned()).collect(),
            fingerprint: String::new(),
        };
        for (san, id) in [
            (&["DNS:al.example", "DNS:b.example"][..], Some("al.example")),
            (&["URI:spiffe://a.test/b"], Some("spiffe://a.test/b")),
            (&["IP:2001:db8::1"], Some("2001:db8::1")),
            (&[], None),
        ] {
            assert_eq!(named(san).first_san(), id);
        }
    }

    #[test]
    fn text_of_a_certificate_cannot_break_out_of_a_header_or_a_list() {
        assert_eq!(escaped("ada", ","), "ada");
        assert_eq!(escaped("a\r\nX-Admin: 1", ","), "a\\0d\\0aX-Admin: 1");
        assert_eq!(escaped("a.test,DNS:b.test", ","), "a.test\\,DNS:b.test");
        assert_eq!(escaped(" é\\ ", ","), "\\20\\c3\\a9\\5c\\20");
    }
}
