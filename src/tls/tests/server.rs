//! Two ends of TLS in memory: names, policies, tickets, changed files, servers.

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, SupportedCipherSuite,
    SupportedProtocolVersion, version,
};

use crate::config::plan::{CertEntry, ClientAuth, ListenerTls, Pem, PoolTls, TlsVersion, Verify};
use crate::tls::certificates;
use crate::tls::fixture::{Authority, Failed, meet, mutual};
use crate::tls::info::TlsInfo;
use crate::tls::reload::{Found, Stamp, Watched};
use crate::tls::server::{ServerTls, Tickets, Why};
use crate::tls::upstream::{self, ClientTls};

fn listener(certs: Vec<CertEntry>) -> Arc<ServerTls> {
    with_tickets(certs, &Arc::default())
}

fn with_tickets(certs: Vec<CertEntry>, tickets: &Arc<Tickets>) -> Arc<ServerTls> {
    let plan = ListenerTls { certs, ..Default::default() };
    Arc::new(ServerTls::new(&plan, Arc::clone(tickets)).unwrap())
}

/// TLS towards servers that the authority vouches for, as a client of a listener.
fn pool(authority: &Authority, client: Option<CertEntry>) -> ClientTls {
    let plan = PoolTls {
        verify: Verify::File(authority.ca()),
        sni: None,
        client: client.map(|entry| (entry.cert, entry.key)),
        starttls_postgres: false,
    };
    ClientTls::new(&plan, &[]).unwrap()
}

/// A client that believes anybody, so that it also sees certificates for other names.
fn credulous() -> ClientTls {
    let plan =
        PoolTls { verify: Verify::Insecure, sni: None, client: None, starttls_postgres: false };
    ClientTls::new(&plan, &[]).unwrap()
}

fn name(text: &str) -> ServerName<'static> {
    upstream::server_name(text).unwrap()
}

/// The certificate that a client of this name gets, as the bytes of its file.
fn served(tls: &Arc<ServerTls>, host: &str, entries: &[&CertEntry]) -> usize {
    let mut client = credulous().connect(name(host)).unwrap();
    meet(tls, &mut client).unwrap();
    place_of(&client, entries)
}

fn place_of(client: &ClientConnection, entries: &[&CertEntry]) -> usize {
    let got = &client.peer_certificates().unwrap()[0];
    let is_it = |entry: &&CertEntry| {
        let provider = aws_lc_rs::default_provider();
        certificates::certified_key(&entry.cert, &entry.key, &provider).unwrap().cert[0] == *got
    };
    entries.iter().position(is_it).unwrap()
}

/// A rustls client of our own making, where that of the pool does not offer what a test needs.
fn client_config(
    authority: &Authority,
    suites: &[SupportedCipherSuite],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let roots = certificates::authorities(&Pem::File(authority.ca())).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = suites.to_vec();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[test]
fn the_name_chooses_the_certificate_and_the_first_is_for_the_rest() {
    let ca = Authority::new();
    let first = ca.server("first", &["first.test"]);
    let exact = ca.server("exact", &["www.example.com"]);
    let wild = ca.server("wild", &["*.example.com", "example.com"]);
    let named = CertEntry { names: vec!["other.test".into()], ..ca.server("named", &["x.test"]) };
    let all = [&first, &exact, &wild, &named];
    let tls = listener(all.map(Clone::clone).to_vec());
    let check = |host, want| assert_eq!(served(&tls, host, &all), want, "{host}");
    check("first.test", 0);
    check("WWW.example.com", 1);
    check("a.example.com", 2);
    check("example.com", 2);
    check("a.b.example.com", 0); // a wildcard of a certificate is one label
    check("other.test", 3);
    check("x.test", 0); // `names` stand instead of the certificate's
    check("192.0.2.1", 0);
}

#[test]
fn a_strict_listener_answers_unknown_names_with_an_alert() {
    let ca = Authority::new();
    let certs = vec![ca.server("a", &["a.test"])];
    let plan = ListenerTls { certs, strict_sni: true, ..Default::default() };
    let tls = Arc::new(ServerTls::new(&plan, Arc::default()).unwrap());
    meet(&tls, &mut credulous().connect(name("a.test")).unwrap()).unwrap();
    for (host, unknown) in [("b.test", Some("b.test".to_owned())), ("192.0.2.1", None)] {
        let mut client = credulous().connect(name(host)).unwrap();
        let Err(Failed::Refused(refused)) = meet(&tls, &mut client) else {
            panic!("{host} is served");
        };
        assert_eq!(refused.why, Why::UnknownName(unknown));
        assert_eq!(refused.alert, [21, 3, 3, 0, 2, 2, 112]);
        client.read_tls(&mut refused.alert.as_slice()).unwrap();
        let error = client.process_new_packets().unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
}

#[test]
fn who_cannot_verify_ecdsa_gets_rsa() {
    let ca = Authority::new();
    let rsa_key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = ca.issue("rsa", &["a.test"], &rsa_key, |_| {});
    let ecdsa = ca.server("ecdsa", &["a.test"]);
    let tls = listener(vec![rsa.clone(), ecdsa.clone()]);
    let old = suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    for (suites, want) in [(&[old][..], 0), (aws_lc_rs::DEFAULT_CIPHER_SUITES, 1)] {
        let versions: &[_] = if want == 0 { &[&version::TLS12] } else { rustls::ALL_VERSIONS };
        let config = client_config(&ca, suites, versions);
        let mut client = ClientConnection::new(Arc::new(config), name("a.test")).unwrap();
        meet(&tls, &mut client).unwrap();
        assert_eq!(place_of(&client, &[&rsa, &ecdsa]), want);
    }
    // The default is the host of the first entry, with all its keys.
    assert_eq!(served(&tls, "unknown.test", &[&rsa, &ecdsa]), 1);
}

#[test]
fn the_oldest_version_is_what_the_listener_says() {
    let ca = Authority::new();
    let certs = vec![ca.server("a", &["a.test"])];
    let suites = aws_lc_rs::DEFAULT_CIPHER_SUITES;
    let old = Arc::new(client_config(&ca, suites, &[&version::TLS12]));
    for version_min in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let plan = ListenerTls { certs: certs.clone(), version_min, ..Default::default() };
        let tls = Arc::new(ServerTls::new(&plan, Arc::default()).unwrap());
        let mut client = ClientConnection::new(Arc::clone(&old), name("a.test")).unwrap();
        assert_eq!(meet(&tls, &mut client).is_ok(), version_min == TlsVersion::Tls12);
        meet(&tls, &mut pool(&ca, None).connect(name("a.test")).unwrap()).unwrap();
    }
}

#[test]
fn what_was_agreed_on_is_told_with_registered_names() {
    let ca = Authority::new();
    let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
    let plan = ListenerTls { certs: vec![ca.server("a", &["a.test"])], alpn, ..Default::default() };
    let tls = Arc::new(ServerTls::new(&plan, Arc::default()).unwrap());
    let suites = aws_lc_rs::DEFAULT_CIPHER_SUITES;
    let told = |version: &'static SupportedProtocolVersion, alpn: &[&[u8]]| {
        let mut config = client_config(&ca, suites, &[version]);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name("A.test")).unwrap();
        TlsInfo::of(&meet(&tls, &mut client).unwrap()).unwrap()
    };
    let new = told(&version::TLS13, &[b"http/1.1", b"h2"]);
    assert_eq!((new.version, new.cipher), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"));
    assert_eq!((new.alpn.as_deref(), new.sni.as_deref()), (Some("h2"), Some("a.test")));
    assert_eq!(new.client, None);
    let old = told(&version::TLS12, &[]);
    assert_eq!((old.version, old.alpn), ("TLSv1.2", None));
    assert_eq!(old.cipher, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
}

#[test]
fn the_group_is_the_first_of_the_client_that_we_have() {
    let ca = Authority::new();
    let tls = listener(vec![ca.server("a", &["a.test"])]);
    use aws_lc_rs::kx_group::{SECP384R1, X25519, X25519MLKEM768};
    for kx_groups in [vec![X25519MLKEM768, X25519], vec![X25519, X25519MLKEM768], vec![SECP384R1]] {
        let want = kx_groups[0].name();
        let roots = certificates::authorities(&Pem::File(ca.ca())).unwrap();
        let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name("a.test")).unwrap();
        let server = meet(&tls, &mut client).unwrap();
        assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), want);
    }
}

#[test]
fn required_certificates_are_verified_and_named() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let asks = |auth| listener(vec![mutual(ca.server("a", &["a.test"]), auth, &clients.ca())]);
    let good = |stem, names: &[&str]| Some(clients.server(stem, names));
    let meets = |tls: &Arc<ServerTls>, own: Option<CertEntry>| {
        let mut client = pool(&ca, own).connect(name("a.test")).unwrap();
        meet(tls, &mut client).map(|server| TlsInfo::of(&server).unwrap().client)
    };
    for (auth, without) in [(ClientAuth::Require, false), (ClientAuth::Request, true)] {
        let tls = asks(auth);
        let told = meets(&tls, good("ada", &["ada.test", "192.0.2.7"])).unwrap().unwrap();
        assert_eq!((told.name.as_str(), told.subject.as_str()), ("ada", "CN=ada"));
        assert_eq!(told.san, ["DNS:ada.test", "IP:192.0.2.7"]);
        assert_eq!(told.fingerprint.len(), 64);
        // One of another authority is refused even where none is needed.
        assert!(matches!(
            meets(&tls, Some(ca.server("eve", &["eve.test"]))),
            Err(Failed::Server(_))
        ));
        match meets(&tls, None) {
            Ok(told) => assert!(without && told.is_none()),
            Err(failed) => assert!(!without, "{failed:?}"),
        }
    }
}

#[test]
fn a_revoked_certificate_is_refused() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let mut entry = mutual(ca.server("a", &["a.test"]), ClientAuth::Require, &clients.ca());
    entry.client_crl = Some(clients.revoke("crl.pem", &[666]));
    let tls = listener(vec![entry]);
    for (serial, passes) in [(665, true), (666, false)] {
        let own = clients.issue("own", &[], &KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(rcgen::SerialNumber::from(serial));
        });
        let mut client = pool(&ca, Some(own)).connect(name("a.test")).unwrap();
        assert_eq!(meet(&tls, &mut client).is_ok(), passes, "serial {serial}");
    }
}

/// Sessions of all hosts under one name: a client that tries any ticket anywhere.
#[derive(Debug)]
struct OneDrawer(ClientSessionMemoryCache);

impl OneDrawer {
    fn key() -> ServerName<'static> {
        name("drawer.test")
    }
}

impl ClientSessionStore for OneDrawer {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::key(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::key())
    }

    fn set_tls12_session(
        &self,
        _: ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.0.set_tls12_session(Self::key(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::key())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::key());
    }

    fn insert_tls13_ticket(
        &self,
        _: ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(Self::key(), value);
    }

    fn take_tls13_ticket(
        &self,
        _: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::key())
    }
}

/// Connects and says whether a ticket resumed.
fn resumes(tls: &Arc<ServerTls>, config: &Arc<ClientConfig>, host: &str) -> bool {
    let mut client = ClientConnection::new(Arc::clone(config), name(host)).unwrap();
    let server = meet(tls, &mut client).unwrap();
    server.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn each_version(authority: &Authority, mut run: impl FnMut(Arc<ClientConfig>)) {
    for version in rustls::ALL_VERSIONS {
        let mut config = client_config(authority, aws_lc_rs::DEFAULT_CIPHER_SUITES, &[version]);
        config.resumption =
            Resumption::store(Arc::new(OneDrawer(ClientSessionMemoryCache::new(8))));
        run(Arc::new(config));
    }
}

#[test]
fn a_ticket_resumes_on_any_worker_and_after_a_renewal() {
    let ca = Authority::new();
    let tickets = Arc::default();
    let (one, other) = (
        with_tickets(vec![ca.server("a", &["a.test"])], &tickets),
        with_tickets(vec![ca.server("renewed", &["a.test"])], &tickets),
    );
    let stranger = listener(vec![ca.server("a", &["a.test"])]);
    each_version(&ca, |config| {
        assert!(!resumes(&one, &config, "a.test"));
        assert!(resumes(&one, &config, "a.test"));
        assert!(resumes(&other, &config, "a.test"));
        assert!(!resumes(&stranger, &config, "a.test"), "a listener with other tickets");
    });
}

#[test]
fn a_ticket_of_one_host_does_not_resume_at_another() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let open = ca.server("a", &["a.test"]);
    let closed = mutual(ca.server("b", &["b.test"]), ClientAuth::Request, &clients.ca());
    let tls = listener(vec![open, closed]);
    each_version(&ca, |config| {
        assert!(!resumes(&tls, &config, "a.test"));
        assert!(
            !resumes(&tls, &config, "b.test"),
            "it was issued without asking for a certificate"
        );
        assert!(resumes(&tls, &config, "b.test"));
    });
    assert_ne!(tls.policy_for(Some("a.test")), tls.policy_for(Some("b.test")));
    assert_eq!(tls.policy_for(Some("a.test")), tls.policy_for(Some("unknown.test")));
}

#[test]
fn a_ticket_does_not_outlive_the_authority_it_was_issued_under() {
    let (ca, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let tickets = Arc::default();
    let entry =
        |ca_of: &Authority| mutual(ca.server("a", &["a.test"]), ClientAuth::Request, &ca_of.ca());
    let before = with_tickets(vec![entry(&clients)], &tickets);
    let after = with_tickets(vec![entry(&others)], &tickets);
    each_version(&ca, |config| {
        assert!(!resumes(&before, &config, "a.test"));
        assert!(resumes(&before, &config, "a.test"));
        assert!(!resumes(&after, &config, "a.test"));
    });
}

fn overwrite(entry: &CertEntry, with: &CertEntry, key_too: bool) {
    let path = |pem: &Pem| match pem {
        Pem::File(path) => path.clone(),
        Pem::Text(_) => panic!("not a file"),
    };
    std::fs::copy(path(&with.cert), path(&entry.cert)).unwrap();
    if key_too {
        std::fs::copy(path(&with.key), path(&entry.key)).unwrap();
    }
}

#[test]
fn a_broken_new_pair_keeps_the_old_and_a_whole_one_replaces_it() {
    let ca = Authority::new();
    let entry = ca.server("a", &["a.test"]);
    let old = ca.server("old", &["a.test"]);
    overwrite(&entry, &old, true);
    let new = ca.server("new", &["a.test"]);
    let mut watched = Watched::new(listener(vec![entry.clone()]));
    assert!(matches!(watched.poll(), Found::Unchanged));
    overwrite(&entry, &new, false);
    let Found::Kept(error) = watched.poll() else { panic!("half a pair is taken") };
    assert!(error.file.ends_with("a.key"), "{error}");
    assert!(error.why.contains("not that of the certificate in"), "{error}");
    assert!(matches!(watched.poll(), Found::Unchanged), "it is said once");
    assert_eq!(served(watched.current(), "a.test", &[&old, &new]), 0);
    overwrite(&entry, &new, true);
    assert!(matches!(watched.poll(), Found::Fresh(_)));
    assert_eq!(served(watched.current(), "a.test", &[&old, &new]), 1);
    std::fs::remove_file(ca.path("a.pem")).unwrap();
    assert!(matches!(watched.poll(), Found::Kept(_)));
    assert_eq!(served(watched.current(), "a.test", &[&old, &new]), 1);
    overwrite(&entry, &old, true);
    assert!(matches!(watched.poll(), Found::Fresh(_)));
    assert_eq!(served(watched.current(), "a.test", &[&old, &new]), 0);
}

#[test]
fn a_change_between_the_build_and_the_first_look_is_found() {
    let ca = Authority::new();
    let (entry, new) = (ca.server("a", &["a.test"]), ca.server("new", &["a.test"]));
    let built = listener(vec![entry.clone()]);
    overwrite(&entry, &new, true);
    let mut watched = Watched::new(built);
    assert!(matches!(watched.poll(), Found::Fresh(_)));
    assert_eq!(served(watched.current(), "a.test", &[&entry, &new]), 0, "both are the new one");
    assert!(matches!(watched.poll(), Found::Unchanged));
}

#[test]
fn an_unusable_file_is_named_with_what_is_wrong() {
    let ca = Authority::new();
    let good = ca.server("a", &["a.test"]);
    let text = |text: &str| {
        std::fs::write(ca.path("bad.pem"), text).unwrap();
        Pem::File(ca.path("bad.pem"))
    };
    let check = |entry: CertEntry, says: &str| {
        let plan = ListenerTls { certs: vec![good.clone(), entry], ..Default::default() };
        let error = ServerTls::new(&plan, Arc::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error} does not say {says}");
    };
    let cert = |cert| CertEntry { cert, ..good.clone() };
    let key = |key| CertEntry { key, ..good.clone() };
    check(cert(Pem::File(ca.path("none.pem"))), "none.pem: No such file");
    check(cert(Pem::File(ca.path(""))), "not a regular file");
    check(cert(text("")), "bad.pem: no certificate in it");
    check(cert(text("-----BEGIN CERTIFICATE-----\nAAAA\n")), "a section has no END line");
    check(
        key(text(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        )),
        "encrypted",
    );
    check(key(good.cert.clone()), "no private key in it");
    check(key(ca.server("b", &["b.test"]).key), "b.key: the key is not that of the certificate in");
    let unasked = CertEntry { client_auth: ClientAuth::Require, ..ca.server("c", &["c.test"]) };
    check(unasked, "client_auth needs a client_ca");
    check(ca.server("nameless", &[]), "nameless.pem: the certificate has no DNS name");
    let other = mutual(ca.server("d", &["a.test"]), ClientAuth::Require, &ca.ca());
    check(other, "another entry is for a.test too");
}

#[test]
fn a_server_is_refused_for_its_name_its_authority_or_its_date() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = listener(vec![ca.server("a", &["a.test", "192.0.2.1"])]);
    let foreign = listener(vec![other.server("a", &["a.test"])]);
    let expired =
        listener(vec![ca.issue("x", &["a.test"], &KeyPair::generate().unwrap(), |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })]);
    let asks = |tls: &Arc<ServerTls>, client: &ClientTls, host: &str| {
        meet(tls, &mut client.connect(name(host)).unwrap()).is_ok()
    };
    let strict = pool(&ca, None);
    assert!(asks(&good, &strict, "a.test"));
    assert!(asks(&good, &strict, "192.0.2.1"));
    assert!(!asks(&good, &strict, "b.test"));
    assert!(!asks(&good, &strict, "192.0.2.2"));
    assert!(!asks(&foreign, &strict, "a.test"));
    assert!(!asks(&expired, &strict, "a.test"));
    for tls in [&good, &foreign, &expired] {
        assert!(asks(tls, &credulous(), "b.test"), "insecure is insecure");
    }
    let plan = PoolTls {
        verify: Verify::File(ca.ca()),
        sni: Some("a.test".into()),
        client: None,
        starttls_postgres: false,
    };
    let named = ClientTls::new(&plan, &[b"h2"]).unwrap();
    assert!(asks(&good, &named, "192.0.2.9"), "the plan's name wins over the server's");
    let watched: Vec<_> = named.stamps().iter().map(Stamp::path).collect();
    assert_eq!(watched, [ca.ca()]);
}

#[test]
fn a_pool_resumes_its_sessions() {
    let ca = Authority::new();
    let tls = listener(vec![ca.server("a", &["a.test"])]);
    let pool = pool(&ca, None);
    let kinds = [(); 3].map(|()| {
        let mut client = pool.connect(name("a.test")).unwrap();
        meet(&tls, &mut client).unwrap();
        let info = TlsInfo::of_upstream(&client).unwrap();
        assert_eq!((info.version, info.client), ("TLSv1.3", None));
        client.handshake_kind().unwrap()
    });
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}
