//! TLS of a listener: which certificate, which clients, which tickets.
//!
//! ```text
//!  bytes ─▶ Incoming ─▶ Pending ─▶ ServerConnection ─▶ relay or HTTP
//!              │ broken    │ unknown name, nothing in common
//!              └───────────┴─▶ Refused (with the alert to send)
//! ```
//!
//! The hello is read first and cheaply; [`Pending::handshake`] is where a signature and a key
//! exchange are paid, so a worker can take its turns before it. The name chooses a *host*: the
//! certificates of that name (ECDSA and RSA) with their policy for clients and their tickets.
//!
//! - T1: a ticket resumes only at a host with the names and the policy it was issued under
//!   (CVE-2025-23419 was the lack of that). Each host has its own key, kept in [`Tickets`] by
//!   exactly these things; it changes with the content of an authority or a revocation list.
//! - T2: a built [`ServerTls`] never changes. New files make a new one; connections keep theirs.
//! - T3: no early data: it could be replayed (RFC 8446 §8).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::server::{
    Accepted, Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, SignatureAlgorithm, SupportedProtocolVersion};

use super::certificates::{self, Certificate, LoadError};
use super::reload::Stamp;
use super::{Alert, Digest, digest_of, hello, listener_provider};
use crate::config::plan::{CertEntry, ClientAuth, ListenerTls, Pem, TlsVersion};

/// Tickets after a full handshake: a browser that opens two connections next resumes both, and
/// the second ticket costs a hundredth of the handshake that it saves.
const TICKETS_SENT: usize = 2;

/// TLS of one listener, immutable; all workers share it.
pub struct ServerTls {
    plan: ListenerTls,
    stamps: Vec<Stamp>,
    tickets: Arc<Tickets>,
    certificates: Vec<Certificate>,
    hosts: Vec<Host>,
    /// Host by name.
    exact: HashMap<String, usize>,
    /// Host by what follows the first label, with its dot.
    wildcard: HashMap<String, usize>,
    /// Host of the first entry.
    default: usize,
    /// All hosts ask the same of clients.
    is_uniform: bool,
}

/// The certificates of the same names.
struct Host {
    config: Arc<ServerConfig>,
    policy: Policy,
}

/// What a host asks of clients. Equal for hosts that take the same clients, also across reloads:
/// a request for a host with another policy than its connection's is misdirected (421).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Policy(Digest);

/// Why a client is turned away, and what to tell it.
#[derive(Debug)]
pub struct Refused {
    /// To be sent as it is before closing; may be empty.
    pub alert: Vec<u8>,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// `strict_sni`, and no certificate has the name (`None`: it gave none).
    UnknownName(Option<String>),
    Failed(rustls::Error),
}

/// The host of a listener that a connection was made with, and so the certificate that its
/// client was asked for.
#[derive(Clone, Debug)]
pub struct Admission {
    tls: Arc<ServerTls>,
    policy: Policy,
}

impl Admission {
    /// Whether a client that was let in here would have been at the host with this name too: a
    /// Host as it is matched, empty for none.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.tls.is_uniform || self.tls.policy_for(Some(host)) == self.policy
    }
}

impl ServerTls {
    /// Reads all files. `tickets` is the listener's, over all reloads.
    ///
    /// # Errors
    ///
    /// The first file that cannot be used, or entries that contradict each other.
    pub fn new(plan: &ListenerTls, tickets: Arc<Tickets>) -> Result<Self, LoadError> {
        let stamps = Stamp::of_all(watch_list(plan));
        let provider = listener_provider();
        let load = |entry| Certificate::load(entry, &provider);
        let certificates: Vec<Certificate> =
            plan.certs.iter().map(load).collect::<Result<_, _>>()?;
        let mut tls = Self {
            plan: plan.clone(),
            stamps,
            tickets,
            certificates,
            hosts: Vec::new(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: 0,
            is_uniform: false,
        };
        tls.build_hosts()?;
        tls.is_uniform = tls.hosts.windows(2).all(|two| two[0].policy == two[1].policy);
        Ok(tls)
    }

    /// Of its listener, over all reloads.
    #[must_use]
    pub const fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// The same plan with the files as they are now.
    ///
    /// # Errors
    ///
    /// As [`ServerTls::new`]; this one goes on to serve.
    pub fn rebuild(&self) -> Result<Self, LoadError> {
        Self::new(&self.plan, Arc::clone(&self.tickets))
    }

    /// The files whose change is a reason for [`ServerTls::rebuild`], as they were before this
    /// was built.
    #[must_use]
    pub fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    /// Starts reading a new client. Costs no handshake.
    #[must_use]
    pub fn accept(self: &Arc<Self>) -> Incoming {
        Incoming { acceptor: Acceptor::default(), tls: Arc::clone(self), taken: 0 }
    }

    /// What the default host speaks with, for whoever reads hellos otherwise.
    #[must_use]
    pub fn default_config(&self) -> &Arc<ServerConfig> {
        &self.hosts[self.default].config
    }

    /// The policy for a name as a request's Host has it: lower case, no port.
    #[must_use]
    pub fn policy_for(&self, name: Option<&str>) -> Policy {
        self.hosts[self.host_for(name).unwrap_or(self.default)].policy
    }

    /// Names and dates of the entries, in the order of the plan.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Exact, then a wildcard for one label.
    fn host_for(&self, name: Option<&str>) -> Option<usize> {
        let name = name?;
        let wild = || self.wildcard.get(&name[name.find('.')?..]);
        self.exact.get(name).or_else(wild).copied()
    }

    fn build_hosts(&mut self) -> Result<(), LoadError> {
        let mut entries_by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, certificate) in self.certificates.iter().enumerate() {
            if certificate.names.is_empty() && at > 0 {
                let why = "the certificate has no DNS name: say `names` for it";
                return Err(LoadError::new(&self.plan.certs[at].cert, why));
            }
            for name in &certificate.names {
                let entries = entries_by_name.entry(name).or_default();
                if !entries.contains(&at) {
                    entries.push(at);
                }
            }
        }
        let mut names_by_entries: BTreeMap<Vec<usize>, Vec<String>> = BTreeMap::new();
        for (name, entries) in entries_by_name {
            names_by_entries.entry(entries).or_default().push(name.to_owned());
        }
        if self.certificates[0].names.is_empty() {
            names_by_entries.insert(vec![0], Vec::new());
        }
        let default_name = self.certificates[0].names.first().cloned();
        for (entries, names) in names_by_entries {
            let host = Host::build(self, &entries, &names)?;
            let at = self.hosts.len();
            if entries.contains(&0) && default_name.as_ref().is_none_or(|name| names.contains(name))
            {
                self.default = at;
            }
            for name in names {
                match name.strip_prefix('*') {
                    Some(suffix) => self.wildcard.insert(suffix.to_owned(), at),
                    None => self.exact.insert(name, at),
                };
            }
            self.hosts.push(host);
        }
        Ok(())
    }
}

fn watch_list(plan: &ListenerTls) -> Vec<PathBuf> {
    certificates::files(plan.certs.iter().flat_map(|entry| {
        let optional = entry.client_ca.iter().chain(&entry.client_crl);
        [&entry.cert, &entry.key].into_iter().chain(optional)
    }))
}

impl Host {
    fn build(tls: &ServerTls, entries: &[usize], names: &[String]) -> Result<Self, LoadError> {
        let plan = |at: &usize| &tls.plan.certs[*at];
        let first = plan(&entries[0]);
        let policy = Policy::of(first)?;
        for other in &entries[1..] {
            if Policy::of(plan(other))? != policy {
                let name = &names[0];
                let why = format_args!(
                    "another entry is for {name} too, and asks clients for other certificates"
                );
                return Err(LoadError::new(&plan(other).cert, why));
            }
        }
        let mut keys: Vec<_> =
            entries.iter().map(|at| Arc::clone(&tls.certificates[*at].key)).collect();
        // Stable: the order of the file among keys of a kind. A signature of RSA costs ten of ECDSA.
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        let mut config = config_for(tls.plan.version_min, first, Arc::new(ByScheme(keys)))?;
        config.alpn_protocols =
            tls.plan.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        let ticket_key = names.iter().map(String::as_bytes).chain([policy.0.as_slice()]);
        config.ticketer = tls
            .tickets
            .ticketer_for(digest_of(ticket_key))
            .map_err(|error| LoadError::new(&first.key, error))?;
        Ok(Self { config: Arc::new(config), policy })
    }
}

/// The configuration of rustls for one host, but for protocols and tickets.
fn config_for(
    version_min: TlsVersion,
    entry: &CertEntry,
    keys: Arc<ByScheme>,
) -> Result<ServerConfig, LoadError> {
    static BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let versions = match version_min {
        TlsVersion::Tls12 => BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    };
    let builder = ServerConfig::builder_with_provider(listener_provider())
        .with_protocol_versions(versions)
        .map_err(|error| LoadError::new(&entry.cert, error))?;
    let builder = match &entry.client_ca {
        Some(ca) if entry.client_auth != ClientAuth::Off => {
            builder.with_client_cert_verifier(client_verifier(entry, ca)?)
        }
        // Asked for certificates without an authority to judge them: nobody may pass for verified.
        None if entry.client_auth != ClientAuth::Off => {
            return Err(LoadError::new(&entry.cert, "client_auth needs a client_ca"));
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(keys);
    // Ours is the cheaper one first; the client's is an accident of its library.
    config.ignore_client_order = true;
    config.max_early_data_size = 0; // T3
    config.send_tls13_tickets = TICKETS_SENT;
    // Tickets alone resume: a table of sessions would be per process and need a bound.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_verifier(
    entry: &CertEntry,
    ca: &Pem,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, LoadError> {
    let roots = Arc::new(certificates::authorities(ca)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, listener_provider());
    if let Some(crl) = &entry.client_crl {
        // As elsewhere, a list past its date refuses everybody: it may hide a revocation.
        builder = builder
            .with_crls(certificates::revocations(crl)?)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    if entry.client_auth == ClientAuth::Request {
        builder = builder.allow_unauthenticated();
    }
    let source = entry.client_crl.as_ref().unwrap_or(ca);
    builder.build().map_err(|error| LoadError::new(source, error))
}

impl Policy {
    fn of(entry: &CertEntry) -> Result<Self, LoadError> {
        let read = |pem: &Option<Pem>| pem.as_ref().map_or(Ok(Vec::new()), certificates::bytes);
        Ok(Self(match entry.client_auth {
            ClientAuth::Off => digest_of([b"off".as_slice()]),
            ClientAuth::Request | ClientAuth::Require => {
                let mode: &[u8] =
                    if entry.client_auth == ClientAuth::Require { b"require" } else { b"request" };
                digest_of([mode, &read(&entry.client_ca)?, &read(&entry.client_crl)?])
            }
        }))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

/// The first key that can sign for the client.
#[derive(Debug)]
struct ByScheme(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByScheme {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        // With none that fits, the first: the handshake then fails as such, not as "access denied".
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

/// The ticket keys of a listener, by what a ticket is good for (T1).
///
/// A key lives as long as some [`ServerTls`] uses it, so the number of keys is that of the hosts
/// in use. Each rotates every 6 hours and is known for 12.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<BTreeMap<Digest, Weak<dyn ProducesTickets>>>);

impl Tickets {
    fn ticketer_for(&self, key: Digest) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ticketer) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(ticketer);
        }
        known.retain(|_, ticketer| ticketer.strong_count() > 0);
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        known.insert(key, Arc::downgrade(&ticketer));
        Ok(ticketer)
    }
}

/// A client whose hello is being read. Holds at most [`hello::WIRE_MAX`] bytes of it.
pub struct Incoming {
    acceptor: Acceptor,
    tls: Arc<ServerTls>,
    taken: usize,
}

/// What the bytes of a client have come to.
#[derive(Debug)]
pub enum Opening {
    More,
    /// A good hello for a host of ours. Not to be fed to [`Incoming`] any more.
    Ready(Box<Pending>),
    Refused(Refused),
}

impl Incoming {
    /// Takes all of `bytes`, which are never empty.
    pub fn read(&mut self, bytes: &[u8]) -> Opening {
        let mut rest = bytes;
        // rustls takes up to 4 KiB at once.
        while !rest.is_empty() {
            self.taken += rest.len();
            if let Err(error) = self.acceptor.read_tls(&mut rest) {
                return Opening::Refused(Refused::internal(&error));
            }
            self.taken -= rest.len();
            match self.acceptor.accept() {
                Ok(None) if self.taken > hello::WIRE_MAX => {
                    return Opening::Refused(Refused {
                        alert: Alert::DecodeError.record().to_vec(),
                        why: Why::Failed(rustls::InvalidMessage::HandshakePayloadTooLarge.into()),
                    });
                }
                Ok(None) => {}
                Ok(Some(accepted)) => return self.open(accepted, rest),
                Err((error, alert)) => return Opening::Refused(Refused::failed(error, alert)),
            }
        }
        Opening::More
    }

    fn open(&self, accepted: Accepted, rest: &[u8]) -> Opening {
        let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        let host = match self.tls.host_for(name.as_deref()) {
            Some(host) => host,
            None if self.tls.plan.strict_sni => {
                return Opening::Refused(Refused {
                    alert: Alert::UnrecognizedName.record().to_vec(),
                    why: Why::UnknownName(name),
                });
            }
            None => self.tls.default,
        };
        let Host { config, policy } = &self.tls.hosts[host];
        let admission = Admission { tls: Arc::clone(&self.tls), policy: *policy };
        let config = Arc::clone(config);
        Opening::Ready(Box::new(Pending { accepted, config, admission, rest: rest.to_vec() }))
    }
}

/// A client that said hello and waits for its turn.
pub struct Pending {
    accepted: Accepted,
    config: Arc<ServerConfig>,
    admission: Admission,
    /// What came behind the hello.
    rest: Vec<u8>,
}

impl Pending {
    /// The host that the name chose.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Our part of the handshake: the costly call, a signature and a key exchange unless a
    /// ticket resumes. All bytes that came are taken; what is to be sent waits in the connection.
    ///
    /// # Errors
    ///
    /// Nothing in common with the client, or garbage behind its hello.
    pub fn handshake(self) -> Result<ServerConnection, Refused> {
        let mut connection = self
            .accepted
            .into_connection(self.config)
            .map_err(|(error, alert)| Refused::failed(error, alert))?;
        let mut rest = self.rest.as_slice();
        loop {
            if let Err(error) = connection.process_new_packets() {
                let mut alert = Vec::new();
                while connection.wants_write() {
                    connection.write_tls(&mut alert).map_err(|error| Refused::internal(&error))?;
                }
                return Err(Refused { alert, why: Why::Failed(error) });
            }
            if rest.is_empty() {
                return Ok(connection);
            }
            connection.read_tls(&mut rest).map_err(|error| Refused::internal(&error))?;
        }
    }
}

impl Refused {
    fn failed(error: rustls::Error, mut alert: rustls::server::AcceptedAlert) -> Self {
        let mut bytes = Vec::new();
        // A Vec takes everything.
        let _ = alert.write_all(&mut bytes);
        Self { alert: bytes, why: Why::Failed(error) }
    }

    fn internal(error: &std::io::Error) -> Self {
        let why = Why::Failed(rustls::Error::General(error.to_string()));
        Self { alert: Alert::InternalError.record().to_vec(), why }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(Some(name)) => write!(f, "no certificate for {name}"),
            Self::UnknownName(None) => f.write_str("the client named no host"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("admission", &self.admission).finish_non_exhaustive()
    }
}
