//! What policies do to a request besides letting it pass or not: who it is said to come from,
//! what of it its server does not see, and what is told of it.

use super::authority::Authority;
use super::gateway::{echo, gate, last};
use super::talk::Talk;
use super::tls_client::{shake, trusting};

#[test]
fn a_certificate_is_the_declared_consumer_of_its_alternative_name() {
    let authority = Authority::new();
    authority.write("client", "al.test");
    let backend = echo();
    let dir = authority.dir.path().display();
    let listener = format!(
        "policies = [\"cert\"]\n[listener.web.tls]\ncert = \"file:{dir}/inner.pem\"\n\
         key = \"file:{dir}/inner.key\"\nclient_ca = \"file:{dir}/ca.pem\"\n\
         client_cert_headers = [\"san\"]\n"
    );
    let rest = "[policy.cert]\ntype = \"client-cert\"\nconsumer = \"cert:san\"\n\
                declared = \"require\"\n[consumer.\"al.test\"]\ngroups = [\"staff\"]\n";
    let gate = gate(&backend, &listener, rest);
    let stream = shake(&gate, "web", &trusting(&authority, Some("client")), "inner.test");
    let mut talk = Talk::over(stream.expect("a handshake"));
    "inner.test".clone_into(&mut talk.host);
    assert_eq!(talk.get("/").status, 200);
    let seen = last(&backend);
    assert_eq!(seen.field("X-Consumer-Id"), Some("al.test"));
    assert_eq!(seen.field("X-Consumer-Groups"), Some("staff"));
    assert_eq!(seen.field("X-Client-Cert-San"), Some("DNS:al.test"));
}
