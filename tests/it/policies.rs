//! What policies do to a request besides letting it pass or not: who it is said to come from,
//! what of it its server does not see, and what is told of it.

use serde_json::json;

use super::authority::Authority;
use super::backend::{Backend, Reply};
use super::gate::Gate;
use super::gateway::{
    SECRET, ask, config, echo, field, gate, get, key_hash, last, status, token, unix_now,
};
use super::peers::{command, need, run};
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

#[test]
fn a_hidden_token_is_cut_out_of_the_cookies_that_the_server_gets() {
    let backend = echo();
    let rest = format!(
        "[policy.session]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\nfrom = \"cookie:session\"\n\
         hide = true\nconsumer = \"claim:sub\"\n"
    );
    let gate = gate(&backend, "policies = [\"session\"]", &rest);
    let token = token(&json!({"sub": "alice", "exp": unix_now() + 60}));
    for (sent, goes_on) in [
        (format!("a=1; session={token}; b=2"), Some("a=1; b=2")),
        (format!("session={token}"), None),
    ] {
        assert_eq!(status(&get(&gate, "/a", &format!("Cookie: {sent}\r\n"))), 200);
        assert_eq!(last(&backend).field("Cookie"), goes_on, "HTTP/1");
        assert_eq!(last(&backend).field("X-Consumer-Id"), Some("alice"));
        if need(&["curl"]) {
            let (url, cookies) = (format!("http://{}/b", gate.address("web")), ["--cookie", &sent]);
            run(command("curl").args(["--silent", "--http2-prior-knowledge", &url]).args(cookies));
            assert_eq!(last(&backend).field("Cookie"), goes_on, "HTTP/2");
            assert_eq!(last(&backend).path(), "/b");
        }
    }
}

#[test]
fn an_answer_says_what_policies_and_the_server_took() {
    let backend = echo();
    let rest = "[[listener.web.route]]\nmatch = { path = \"/limited\" }\npolicies = [\"few\"]\n\
                pool = \"app\"\n[policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1/h\"\n";
    let gate = gate(&backend, "server_timing = true", rest);
    let told = |path: &str| {
        let answer = get(&gate, path, "");
        let told = field(&answer, "Server-Timing").unwrap_or_default().to_owned();
        let of = |metric: &str| {
            metric.split_once(";dur=").map(|(name, took)| {
                assert!(took.parse::<f64>().is_ok_and(|took| took >= 0.0), "{told}");
                name.to_owned()
            })
        };
        (status(&answer), told.split(", ").filter_map(of).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(told("/"), (200, "upstream".to_owned()), "no policy");
    assert_eq!(told("/limited"), (200, "few upstream".to_owned()));
    assert_eq!(told("/limited"), (429, "few".to_owned()), "no server");
}

#[test]
fn the_log_names_policies_that_would_have_refused() {
    let backend = echo();
    let rest = "[policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1/h\"\ndry_run = true\n\
                [policy.small]\ntype = \"size-limit\"\nbody = \"1KiB\"\nheader = \"200B\"\n\
                dry_run = true\n";
    let listener = "policies = [\"few\", \"small\"]\n";
    let gate = gate(&backend, listener, rest);
    let large = format!("X-Long: {}\r\n", "x".repeat(200));
    for (path, lines) in [("/first", ""), ("/second", ""), ("/third", &*large)] {
        assert_eq!(status(&get(&gate, path, lines)), 200);
    }
    let logged = gate.log(3);
    let told = |path: &str| {
        let line = logged.iter().find(|line| line["path"] == path).expect("a line");
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("ok")));
        line["dry_run"].clone()
    };
    assert!(told("/first").is_null());
    assert_eq!(told("/second"), json!(["few"]));
    assert_eq!(told("/third"), json!(["small", "few"]));
}

#[test]
fn a_sample_of_the_log_has_all_that_would_have_been_refused() {
    let backend = echo();
    let rest =
        "[policy.few]\ntype = \"rate-limit\"\nkey = \"ip\"\nlimit = \"1/h\"\ndry_run = true\n";
    let config = config(&backend, "policies = [\"few\"]", rest);
    let gate = Gate::start(&config.replace("access =", "sample = \"1%\"\naccess ="));
    for _ in 0..4 {
        assert_eq!(status(&get(&gate, "/", "")), 200);
    }
    assert!(gate.log(3).iter().all(|line| line["dry_run"] == json!(["few"])));
}

#[test]
fn whatever_parameter_a_key_may_stand_in_no_server_sees_it() {
    let (backend, shadow) = (echo(), echo());
    let rest = format!(
        "[[listener.web.route]]\npool = \"app\"\nmirror = \"shadow\"\n\
         [policy.either]\ntype = \"any\"\nof = [\"one\", \"two\"]\n\
         [policy.one]\ntype = \"api-key\"\nquery = \"key\"\n\
         [policy.two]\ntype = \"api-key\"\nquery = \"token\"\n\
         [consumer.alice]\nkeys = [\"{}\"]\n[pool.shadow]\nservers = {{ s = \"{}\" }}\n",
        key_hash("k-1"),
        shadow.address
    );
    let gate = gate(&backend, "policies = [\"either\"]", &rest);
    for query in ["key=k-1", "token=k-1", "key=k-1&token=k-1", "token=k-1&to%6ben=x&key=k-1"] {
        assert_eq!(status(&get(&gate, &format!("/a?b=c&{query}"), "")), 200, "{query}");
        assert_eq!(last(&backend).path(), "/a?b=c", "{query}");
    }
    super::deadline::until("the copies are there", || {
        let seen = shadow.seen();
        if seen.len() == 4 { Ok(()) } else { Err(format!("{}", seen.len())) }
    });
    assert!(shadow.seen().iter().all(|copy| copy.path() == "/a?b=c"));
}

#[test]
fn a_body_that_grows_too_large_while_it_streams_is_counted_and_logged_also_by_a_dry_run() {
    let backend = echo();
    let rest = "[policy.small]\ntype = \"size-limit\"\nbody = \"8B\"\n\
                [policy.tiny]\ntype = \"size-limit\"\nbody = \"4B\"\ndry_run = true\n\
                [policy.reshape]\ntype = \"transform\"\nrequest = { set = { a = 1 } }\n";
    let gate = gate(&backend, "policies = [\"small\", \"tiny\", \"reshape\"]", rest);
    let post = |path: &str, lines: &str, chunks: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\
             Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
        );
        status(&ask(&gate, head.as_bytes()))
    };
    assert_eq!(post("/fits", "", "4\r\n1234\r\n"), 200);
    assert_eq!(post("/dry", "", "4\r\n1234\r\n1\r\n5\r\n"), 200);
    assert_eq!(last(&backend).body, b"12345");
    assert_eq!(post("/over", "", "8\r\n12345678\r\n1\r\n9\r\n"), 413);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(post("/changed", json, "8\r\n{\"b\":12}\r\n1\r\n \r\n"), 413);
    let logged = gate.log(4);
    let told = |path: &str| {
        let line = logged.iter().find(|line| line["path"] == path).expect("a line");
        (line["bytes_in"].as_u64(), line["dry_run"].clone())
    };
    assert_eq!(told("/fits"), (Some(4), json!(null)));
    assert_eq!(told("/dry"), (Some(5), json!(["tiny"])));
    assert_eq!(told("/over"), (Some(9), json!(["tiny"])));
    assert_eq!(told("/changed"), (Some(9), json!(["tiny"])));
    let denied = |policy: &str| {
        gate.metric(&format!("sluicegate_policy_denied_total{{policy=\"{policy}\",route=\"\"}}"))
    };
    super::deadline::until("both are counted", || {
        let counts = (denied("small"), denied("tiny"));
        if counts == (Some(2.0), Some(3.0)) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

#[test]
fn a_dry_run_of_cors_answers_nothing_says_nothing_and_takes_nothing_away() {
    let backend = Backend::start(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://own.test\r\n\
             Content-Length: 2\r\n\r\nok",
        )
    });
    let rest = "[policy.pages]\ntype = \"cors\"\norigins = [\"https://app.test\"]\n\
                dry_run = true\n";
    let gate = gate(&backend, "policies = [\"pages\"]", rest);
    let origin = "Origin: https://app.test\r\n";
    let answer = get(&gate, "/plain", origin);
    let allowed = "Access-Control-Allow-Origin";
    assert_eq!(field(&answer, allowed), Some("https://own.test"), "{answer}");
    assert_eq!((answer.matches(allowed).count(), field(&answer, "Vary")), (1, None), "{answer}");
    let preflight = format!(
        "OPTIONS /asked HTTP/1.1\r\nHost: a.test\r\n{origin}Connection: close\r\n\
         Access-Control-Request-Method: GET\r\n\r\n"
    );
    let answer = ask(&gate, preflight.as_bytes());
    assert_eq!((status(&answer), field(&answer, allowed)), (200, Some("https://own.test")));
    assert_eq!(last(&backend).line(), "OPTIONS /asked HTTP/1.1");
    let logged = gate.log(2);
    let told = |path: &str| logged.iter().find(|line| line["path"] == path).expect("a line");
    assert!(told("/plain")["dry_run"].is_null());
    assert_eq!(told("/asked")["dry_run"], json!(["pages"]), "it would not have reached the server");
}
