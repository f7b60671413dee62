//! What a request may say behind its body, and of whom.

use super::backend::{Backend, Reply, Seen};
use super::gateway::{ask, echo, gate, last, status};

/// Fields that are nobody's to say but the gateway's, in both spellings.
const FORGED: &str = "X-User: root\r\nX_User: root\r\nX-Tenant: root\r\nx_tenant: root\r\n\
                      X-Own: root\r\nX_Own: root\r\nX-Gone: root\r\nx_gone: root\r\n\
                      X-Forwarded-Prefix: /root\r\nX_Forwarded_Prefix: /root\r\n\
                      X-Consumer-Id: root\r\nX_Consumer_Id: root\r\n";

/// A service that knows everybody, in front of routes that have operations and a mirror.
fn rules(auth: &Backend, shadow: &Backend, underscores: &str) -> (String, String) {
    let listener =
        format!("policies = [\"ask\", \"marks\"]\nhttp = {{ underscores = \"{underscores}\" }}\n");
    let rest = format!(
        "[[listener.web.route]]\npool = \"app\"\nmirror = \"shadow\"\n\
         headers = {{ remove = [\"X-Gone\"] }}\n\
         [policy.marks]\ntype = \"headers\"\nheaders = {{ set = {{ X-Own = \"1\" }} }}\n\
         [policy.ask]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n\
         copy = [\"X-User\", \"X-Tenant\"]\n\
         [pool.shadow]\nservers = {{ s = \"{}\" }}\n",
        auth.address, shadow.address
    );
    (listener, rest)
}

fn knows_all() -> Backend {
    Backend::start(|_| Reply {
        bytes: b"HTTP/1.1 200 OK\r\nX-User: u-7\r\nContent-Length: 0\r\n\r\n".to_vec(),
        closes: false,
    })
}

/// The lines of the client's that a server got, of the head and behind the body.
fn heard(seen: &Seen) -> (Vec<String>, &str) {
    let own = |line: &&str| line.contains(": root") || line.contains(": /root");
    (seen.head.lines().filter(own).map(str::to_owned).collect(), &seen.trailers)
}

#[test]
fn nobody_says_in_a_trailer_or_with_underscores_what_the_gateway_says() {
    let (auth, backend) = (knows_all(), echo());
    for (underscores, kept) in [("keep", "x_sum: 2\r\n"), ("drop", "")] {
        let shadow = echo();
        let (listener, rest) = rules(&auth, &shadow, underscores);
        let gate = gate(&backend, &listener, &rest);
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n{FORGED}\
             Connection: close, X-Hop\r\nConnection: x-other\r\n\r\n3\r\nabc\r\n0\r\n{FORGED}\
             X-Hop: 1\r\nX-Other: 1\r\nX-Sum: 1\r\nx_sum: 2\r\n\r\n"
        );
        let answer = ask(&gate, request.as_bytes());
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = last(&backend);
        let passing = format!("X-Sum: 1\r\n{kept}");
        assert_eq!(heard(&seen), (Vec::new(), &*passing), "{}", seen.head);
        assert_eq!((seen.field("X-User"), seen.field("X-Own")), (Some("u-7"), Some("1")));
        assert_eq!(seen.body, b"abc");
        super::deadline::until("the copy is there", || match shadow.seen().first() {
            Some(copy) if copy.trailers == passing => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}
