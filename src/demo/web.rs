//! The HTTP listeners of the demo, the same in plain text and in TLS with a certificate made on
//! the fly: a path to each server, a route that wants a key and one that is limited.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sluicegate_l7::policy::consumer::KeyHash;

use super::servers::NAMES;
use crate::config::plan::{CertEntry, ClientAuth, ListenerTls, Pem, Secret, TlsVersion};
use crate::runtime::sys;

/// The listeners' names.
pub const LISTENER: &str = "web";
pub const SECURE: &str = "web-tls";

/// Requests that the limited route takes from one address in a minute.
const LIMIT: u32 = 3;

/// What a visitor of the listeners has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    pub address: SocketAddr,
    pub secure: SocketAddr,
    pub key: String,
}

impl Web {
    /// What to try: answers with 200, 401 and 429, and TLS.
    #[must_use]
    pub fn to_try(&self) -> Vec<String> {
        let Self { address, secure, key } = self;
        vec![
            format!("curl http://{address}/red       # or green, blue"),
            format!("curl -i http://{address}/keyed  # 401"),
            format!("curl -H 'X-Api-Key: {key}' http://{address}/keyed"),
            format!("curl -sw '%{{http_code}}\\n' 'http://{address}/few?[1-4]'  # 429"),
            format!("curl -k https://{secure}/red    # TLS, HTTP/2"),
        ]
    }
}

/// A key for this run.
#[must_use]
pub fn new_key() -> String {
    format!("demo-{:016x}", sys::secret()[0])
}

/// The tables of both listeners, their policies and their pools.
#[must_use]
pub fn tables(port: u16, secure: u16, key: &str, servers: &[SocketAddr]) -> String {
    let hash = KeyHash::of(key.as_bytes()).text();
    let mut text = listener(LISTENER, port) + &listener(SECURE, secure);
    // A String takes every write, here and below.
    let _ = write!(
        text,
        "\
[policy.keys]
type = \"api-key\"
[policy.few]
type = \"rate-limit\"
key = \"ip\"
limit = \"{LIMIT}/min\"
[consumer.visitor]
keys = [\"{hash}\"]
"
    );
    for (name, address) in NAMES.iter().zip(servers) {
        let _ = write!(
            text,
            "\
[pool.{name}]
check = {{ type = \"tcp\", every = \"500ms\", timeout = \"400ms\", fall = 2, rise = 1 }}
[pool.{name}.servers]
{name} = \"{address}\"
[pool.{name}.breaker]
fallback = {{ status = 503, body = \"{name} is away; it comes back\\n\" }}
"
        );
    }
    text
}

fn listener(listener: &str, port: u16) -> String {
    let mut text = format!(
        "\
[listener.{listener}]
bind = \"127.0.0.1:{port}\"
mode = \"http\"
pool = \"servers\"
[[listener.{listener}.route]]
match = {{ path = \"/keyed\" }}
policies = [\"keys\"]
pool = \"servers\"
[[listener.{listener}.route]]
match = {{ path = \"/few\" }}
policies = [\"few\"]
pool = \"servers\"
"
    );
    for name in NAMES {
        let _ = write!(
            text,
            "\
[[listener.{listener}.route]]
match = {{ path = \"/{name}/*\" }}
pool = \"{name}\"
"
        );
    }
    text
}

/// TLS with a certificate for this run, which nobody vouches for: hence `curl -k`.
///
/// # Errors
/// When no key could be made.
pub fn tls() -> Result<ListenerTls, String> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| format!("no certificate for the demo: {error}"))?;
    let text = |pem: String| Pem::Text(Secret(pem));
    let entry = CertEntry {
        cert: text(made.cert.pem()),
        key: text(made.signing_key.serialize_pem()),
        names: Vec::new(),
        client_ca: None,
        client_auth: ClientAuth::Off,
        client_crl: None,
    };
    Ok(ListenerTls {
        certs: vec![entry],
        version_min: TlsVersion::Tls12,
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..ListenerTls::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_try_shows_a_200_a_401_and_a_429_and_fits_a_small_screen() {
        let [address, secure] = [8081, 8083].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let web = Web { address, secure, key: new_key() };
        let lines = web.to_try();
        assert!(lines.iter().all(|line| line.len() <= 78), "{lines:?}");
        assert!(
            lines[2].contains(&web.key) && lines[1].contains("401") && lines[3].contains("429")
        );
    }
}
