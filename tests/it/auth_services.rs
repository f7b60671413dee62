//! Services that are asked who somebody is: forward auth and introspection.

use std::sync::{Arc, Condvar, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::backend::{Backend, Reply};
use super::deadline::{PATIENCE, until};
use super::gate::Gate;
use super::gateway::{SECRET, config, echo, field, gate, get, last, status, token, unix_now};

#[test]
fn a_service_decides_and_what_it_says_is_copied_both_ways() {
    let auth = Backend::start(|seen| match seen.field("Authorization") {
        Some("Token good") => Reply {
            bytes: b"HTTP/1.1 204 No Content\r\nX-User: carol\r\nX-Role: ops\r\n\r\n".to_vec(),
            closes: false,
        },
        _ => Reply::raw(
            "HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nContent-Length: 4\r\n\r\ngo!\n",
        ),
    });
    let backend = echo();
    let rest = format!(
        "[policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/check?x=1\"\n\
         copy = [\"X-Role\"]\nconsumer = \"header:X-User\"\n",
        auth.address
    );
    let gate = gate(&backend, "policies = [\"decider\"]", &rest);
    let passed = get(&gate, "/a?b=c", "Authorization: Token good\r\nX-Role: root\r\n");
    assert_eq!(status(&passed), 200, "{passed}");
    let seen = last(&backend);
    assert_eq!((seen.field("X-Role"), seen.field("X-Consumer-Id")), (Some("ops"), Some("carol")));
    let asked = &auth.seen()[0];
    assert_eq!(asked.line(), "GET /check?x=1 HTTP/1.1");
    assert_eq!(asked.field("X-Forwarded-Uri"), Some("/a?b=c"));
    assert_eq!(asked.field("X-Forwarded-Method"), Some("GET"));
    let sent_away = get(&gate, "/a", "");
    assert_eq!(status(&sent_away), 302, "{sent_away}");
    assert_eq!(field(&sent_away, "Location"), Some("https://login.test/"));
    assert!(sent_away.ends_with("\r\n\r\ngo!\n"), "{sent_away}");
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_token_that_means_nothing_here_is_asked_about_once_for_all_who_bring_it() {
    let idp = Backend::start(|seen| {
        let good = seen.body.starts_with(b"token=opaque-1&");
        let body = if good {
            "{\"active\":true,\"client_id\":\"dora\",\"scope\":\"read\"}"
        } else {
            "{\"active\":false}"
        };
        Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    });
    let backend = echo();
    let rest = format!(
        "[policy.opaque]\ntype = \"introspection\"\nurl = \"http://{}/introspect\"\n\
         client_id = \"gate\"\nclient_secret = \"s3cret\"\nconsumer = \"claim:client_id\"\n",
        idp.address
    );
    let gate = gate(&backend, "policies = [\"opaque\"]", &rest);
    // On enough connections for each worker to meet the token.
    for _ in 0..16 {
        assert_eq!(status(&get(&gate, "/a", "Authorization: Bearer opaque-1\r\n")), 200);
    }
    assert_eq!(last(&backend).field("X-Consumer-Id"), Some("dora"));
    let asked = idp.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line(), "POST /introspect HTTP/1.1");
    let login = format!("Basic {}", STANDARD.encode("gate:s3cret"));
    assert_eq!(asked[0].field("Authorization"), Some(login.as_str()));
    assert_eq!(status(&get(&gate, "/a", "Authorization: Bearer opaque-2\r\n")), 401);
    assert_eq!(status(&get(&gate, "/a", "")), 401);
}

#[test]
fn without_its_auth_service_requests_get_503_or_pass_as_the_policy_says() {
    let backend = echo();
    let nobody = super::peers::free_address();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/open/*\" }}\npolicies = [\"lenient\"]\npool = \"app\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/shut/*\" }}\npolicies = [\"strict\"]\npool = \"app\"\n\
         [policy.strict]\ntype = \"forward-auth\"\nurl = \"http://{nobody}/\"\n\
         [policy.lenient]\ntype = \"forward-auth\"\nurl = \"http://{nobody}/\"\non_error = \"allow\"\n"
    );
    let gate = gate(&backend, "", &rest);
    let shut = get(&gate, "/shut", "");
    assert_eq!(status(&shut), 503, "{shut}");
    assert!(shut.contains("\"error\":\"auth-unavailable\""), "{shut}");
    assert_eq!(status(&get(&gate, "/open", "")), 200);
}

/// An issuer that knows every token, with `members` of its answer.
fn issuer(members: &'static str) -> Backend {
    Backend::start(move |_| Reply::ok(&format!("{{\"active\":true{members}}}")))
}

fn opaque(idp: &Backend, more: &str) -> String {
    format!(
        "[policy.opaque]\ntype = \"introspection\"\nurl = \"http://{}/introspect\"\n\
         client_id = \"gate\"\nclient_secret = \"s3cret\"\n{more}",
        idp.address
    )
}

#[test]
fn a_refusal_that_is_remembered_is_the_one_that_was_given() {
    let idp = issuer(",\"sub\":\"erin\",\"scope\":\"read\"");
    let backend = echo();
    let rest = opaque(&idp, "required = { scope = \"write\" }\n");
    let gate = gate(&backend, "policies = [\"opaque\"]", &rest);
    let ask = || get(&gate, "/a", "Authorization: Bearer opaque\r\n");
    let (asked, remembered) = (ask(), ask());
    assert_eq!(status(&asked), 403, "{asked}");
    assert_eq!(status(&remembered), 403, "{remembered}");
    let body = |answer: &str| answer.split("\r\n\r\n").nth(1).map(str::to_owned);
    assert_eq!(body(&asked), body(&remembered));
}

#[test]
fn a_remembered_answer_of_a_service_is_its_answer() {
    let auth = Backend::start(|seen| match seen.field("X-Forwarded-Uri") {
        Some("/cookie") => Reply::raw(
            "HTTP/1.1 401 Unauthorized\r\nSet-Cookie: login=1\r\nContent-Length: 0\r\n\r\n",
        ),
        Some("/large") => Reply::raw(format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 20000\r\n\r\n{}",
            "x".repeat(20_000)
        )),
        _ => Reply::raw(
            "HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\nContent-Length: 4\r\n\r\ngo!\n",
        ),
    });
    let backend = echo();
    let rest = format!(
        "[policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n\
         cache = {{ negative = \"1m\" }}\n",
        auth.address
    );
    let gate = gate(&backend, "policies = [\"decider\"]", &rest);
    for (path, expected, asked) in [("/a", 302, 1), ("/cookie", 401, 3), ("/large", 403, 3)] {
        auth.forget();
        for _ in 0..3 {
            let answer = get(&gate, path, "");
            assert_eq!(status(&answer), expected, "{answer}");
            if path == "/a" {
                assert_eq!(field(&answer, "Location"), Some("https://login.test/"));
                assert!(answer.ends_with("\r\n\r\ngo!\n"), "{answer}");
            }
        }
        assert_eq!(auth.seen().len(), asked, "{path}");
    }
}

#[test]
fn a_client_whom_the_service_refuses_too_often_has_to_wait() {
    let auth = Backend::start(|seen| match seen.field("X-Forwarded-Uri") {
        Some("/in") => Reply::ok(""),
        Some("/no") => Reply::raw("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
    });
    let backend = echo();
    let rest = format!(
        "[policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n\
         max_failures = \"2/h\"\ncache = {{ negative = \"1m\" }}\n",
        auth.address
    );
    let gate = gate(&backend, "policies = [\"decider\"]", &rest);
    let tries: Vec<u16> = ["/no", "/no", "/no", "/in", "/out", "/out", "/out", "/in"]
        .map(|path| status(&get(&gate, path, "")))
        .to_vec();
    assert_eq!(tries, [403, 403, 403, 200, 401, 401, 429, 429]);
    let waits = get(&gate, "/in", "");
    assert!(field(&waits, "Retry-After").is_some(), "{waits}");
    assert!(waits.contains("\"error\":\"rate-limited\""), "{waits}");
}

#[test]
fn who_tries_many_bad_credentials_at_once_hears_of_no_more_of_them_than_one_after_the_other() {
    const TRIES: usize = 12;
    let (asked, changed) = (Mutex::new(0), Condvar::new());
    // Nobody is answered before all have asked.
    let auth = Backend::start(move |seen| {
        let mut count = asked.lock().expect("not poisoned");
        *count += 1;
        changed.notify_all();
        let some = |count: &mut usize| *count < TRIES;
        drop(changed.wait_timeout_while(count, PATIENCE, some).expect("not poisoned"));
        Reply::raw(match seen.field("Authorization") {
            Some("Token right") => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        })
    });
    let backend = echo();
    let rest = format!(
        "[policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n\
         max_failures = \"2/h\"\nsend = [\"Authorization\"]\n",
        auth.address
    );
    let gate = gate(&backend, "policies = [\"decider\"]", &rest);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = |at| {
            let gate = &gate;
            scope.spawn(move || status(&get(gate, "/a", &format!("Authorization: Token {at}\r\n"))))
        };
        let asking: Vec<_> = (0..TRIES).map(ask).collect();
        asking.into_iter().map(|one| one.join().expect("answered")).collect()
    });
    let count = |wanted| statuses.iter().filter(|&&status| status == wanted).count();
    assert_eq!((count(401), count(429)), (2, TRIES - 2), "{statuses:?}");
    let right = get(&gate, "/a", "Authorization: Token right\r\n");
    assert_eq!(status(&right), 429, "{right}");
}

/// How many ask a service, and whether the first of them is to be answered.
#[derive(Default)]
struct Desk {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

/// Those behind the first are answered when so many have asked: they do not wait for each other.
const AT_ONCE: usize = 8;

impl Desk {
    /// A service that answers when it is to.
    fn service(self: &Arc<Self>, answer: &'static str) -> Backend {
        let desk = Arc::clone(self);
        Backend::start(move |_| {
            let mut state = desk.state.lock().expect("not poisoned");
            state.0 += 1;
            let first = state.0 == 1;
            desk.changed.notify_all();
            let holds =
                |state: &mut (usize, bool)| if first { !state.1 } else { state.0 < AT_ONCE };
            drop(desk.changed.wait_timeout_while(state, PATIENCE, holds).expect("not poisoned"));
            Reply::raw(answer)
        })
    }

    /// The statuses of [`CROWD`] requests at once, the first question of which is answered when
    /// all have come.
    fn crowd(&self, gate: &Gate, line: &str) -> Vec<u16> {
        std::thread::scope(|scope| {
            let ask = || scope.spawn(|| status(&get(gate, "/a", line)));
            let asking: Vec<_> = (0..CROWD).map(|_| ask()).collect();
            until("all are there", || {
                let active = gate.metric("sluicegate_connections_active{listener=\"web\"}");
                if active == Some(CROWD as f64) { Ok(()) } else { Err(format!("{active:?}")) }
            });
            self.state.lock().expect("not poisoned").1 = true;
            self.changed.notify_all();
            asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
        })
    }
}

const CROWD: usize = 16;

const NO: &str = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";

fn decider(auth: &Backend, cache: &str) -> String {
    format!(
        "[policy.decider]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\ntimeout = \"10s\"\n\
         cache = {{ {cache} = \"1m\" }}\n",
        auth.address
    )
}

#[test]
fn of_many_at_once_one_asks_for_those_of_all_workers() {
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"active\":true,\"sub\":\"eve\"}";
    let backend = echo();
    let desk = Arc::<Desk>::default();
    let idp = desk.service(good);
    let rest = opaque(&idp, "timeout = \"10s\"\n");
    let token = gate(&backend, "policies = [\"opaque\"]", &rest);
    assert_eq!(desk.crowd(&token, "Authorization: Bearer opaque\r\n"), [200; CROWD]);
    assert_eq!(idp.seen().len(), 1);
    let desk = Arc::<Desk>::default();
    let auth = desk.service(NO);
    let decided = gate(&backend, "policies = [\"decider\"]", &decider(&auth, "negative"));
    assert_eq!(desk.crowd(&decided, ""), [403; CROWD]);
    assert_eq!(auth.seen().len(), 1);
}

#[test]
fn an_answer_that_is_not_kept_makes_those_who_waited_ask_at_once() {
    let backend = echo();
    let desk = Arc::<Desk>::default();
    let auth = desk.service(NO);
    let gate = gate(&backend, "policies = [\"decider\"]", &decider(&auth, "ttl"));
    assert_eq!(desk.crowd(&gate, ""), [403; CROWD]);
    assert_eq!(auth.seen().len(), CROWD);
}

#[test]
fn what_was_heard_outlives_a_reload_that_does_not_change_its_policy() {
    let idp = issuer(",\"sub\":\"erin\"");
    let backend = echo();
    let before = config(&backend, "policies = [\"opaque\"]", &opaque(&idp, ""));
    let gate = Gate::start(&before);
    let ask = || status(&get(&gate, "/a", "Authorization: Bearer opaque\r\n"));
    for (change, asked) in [
        ("", 1),
        ("[policy.other]\ntype = \"size-limit\"\nbody = \"1MiB\"\n", 1),
        ("[consumer.bob]\ngroups = [\"staff\"]\n", 2),
    ] {
        gate.rewrite(&format!("{before}{change}"));
        let (code, said) = gate.admin("POST", "/v1/reload");
        assert_eq!(code, 200, "{said}");
        for _ in 0..8 {
            assert_eq!(ask(), 200);
        }
        assert_eq!(idp.seen().len(), asked, "{change}");
    }
}

/// A service that lets everybody in and says something of them, but not who they are.
fn tagging() -> (Backend, String) {
    let auth = Backend::start(|_| Reply {
        bytes: b"HTTP/1.1 200 OK\r\nX-User: u-7\r\nContent-Length: 0\r\n\r\n".to_vec(),
        closes: false,
    });
    let policy = format!(
        "[policy.ask]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\ncopy = [\"X-User\"]\n",
        auth.address
    );
    (auth, policy)
}

#[test]
fn a_service_that_names_nobody_hides_no_consumer_and_is_heard_behind_one_too() {
    let (_auth, ask) = tagging();
    let backend = echo();
    let rest = format!(
        "[[listener.web.route]]\nmatch = {{ path = \"/first/*\" }}\n\
         policies = [\"ask\", \"token\", \"gold\"]\npool = \"app\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/last/*\" }}\n\
         policies = [\"token\", \"ask\", \"gold\"]\npool = \"app\"\n{ask}\
         [policy.gold]\ntype = \"acl\"\nallow = [\"group:gold\"]\n\
         [policy.token]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\ngroups = \"claim:roles\"\n\
         forward_claims = {{ X-Tenant = \"claim:tenant\" }}\n"
    );
    let gate = gate(&backend, "", &rest);
    let token = token(&json!({
        "sub": "bob", "exp": unix_now() + 600, "roles": ["gold"], "tenant": "blue",
    }));
    for path in ["/first", "/last"] {
        let passed = get(&gate, path, &format!("Authorization: Bearer {token}\r\n"));
        assert_eq!(status(&passed), 200, "{path}: {passed}");
        let seen = last(&backend);
        for (name, value) in [
            ("X-Consumer-Id", "bob"),
            ("X-Consumer-Groups", "gold"),
            ("X-Consumer-Auth", "token"),
            ("X-Tenant", "blue"),
            ("X-User", "u-7"),
        ] {
            assert_eq!(seen.field(name), Some(value), "{path}: {}", seen.head);
        }
    }
}

#[test]
fn somebody_whom_a_service_does_not_name_is_no_consumer() {
    let (_auth, ask) = tagging();
    let (backend, other) = (echo(), echo());
    let route = |path: &str, then: &str| {
        format!("[[listener.web.route]]\nmatch = {{ path = \"{path}/*\" }}\n{then}\n")
    };
    let rest = [
        route("/acl", "policies = [\"not-eve\"]\npool = \"app\""),
        route("/limit", "policies = [\"each\"]\npool = \"app\""),
        route("/split", "split = { app = 1, other = 1 }\nsplit_by = \"consumer\""),
        ask,
        "[policy.not-eve]\ntype = \"acl\"\ndeny = [\"consumer:eve\"]\n".to_owned(),
        "[policy.each]\ntype = \"rate-limit\"\nkey = \"consumer\"\nlimit = \"1/h\"\n".to_owned(),
        format!("[pool.other]\nservers = {{ b = \"{}\" }}\n", other.address),
    ];
    let listener = "policies = [\"ask\"]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let gate = gate(&backend, listener, &rest.concat());
    let from =
        |path: &str, last: u8| get(&gate, path, &format!("X-Forwarded-For: 192.0.2.{last}\r\n"));
    assert_eq!(status(&from("/acl", 1)), 401);
    let limited = [1, 2, 1].map(|last| status(&from("/limit", last)));
    assert_eq!(limited, [200, 200, 429], "counted by address");
    backend.forget();
    for last in 0..32 {
        assert_eq!(status(&from("/split", last)), 200);
    }
    assert!(!backend.seen().is_empty() && !other.seen().is_empty(), "parted by address");
    assert_eq!(backend.seen()[0].field("X-Consumer-Id"), None);
}

#[test]
fn a_service_that_names_a_consumer_who_cannot_be_one_lets_nobody_in() {
    let long = "x".repeat(257);
    let auth = Backend::start(move |seen| {
        let line = match seen.field("X-Forwarded-Uri") {
            Some("/spaced") => "X-User: carol smith\r\n".to_owned(),
            Some("/utf8") => "X-User: carl\u{f6}\r\n".to_owned(),
            Some("/long") => format!("X-User: {long}\r\n"),
            Some("/empty") => "X-User:\r\n".to_owned(),
            Some("/good") => "X-User: carol\r\n".to_owned(),
            _ => String::new(),
        };
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n"))
    });
    let backend = echo();
    let rest = format!("{}consumer = \"header:X-User\"\n", decider(&auth, "negative"));
    let gate = gate(&backend, "policies = [\"decider\"]", &rest);
    for path in ["/spaced", "/utf8", "/long", "/empty"] {
        for _ in 0..2 {
            let refused = get(&gate, path, "");
            assert_eq!(status(&refused), 401, "{path}: {refused}");
            assert!(field(&refused, "WWW-Authenticate").is_some(), "{refused}");
            assert!(refused.contains("\"error\":\"unauthorized\""), "{refused}");
        }
    }
    assert_eq!((auth.seen().len(), backend.seen().len()), (4, 0), "a refusal is remembered");
    for (path, consumer) in [("/good", Some("carol")), ("/nobody", None)] {
        assert_eq!(status(&get(&gate, path, "")), 200, "{path}");
        assert_eq!(last(&backend).field("X-Consumer-Id"), consumer, "{path}");
    }
}

#[test]
fn among_alternatives_a_service_is_asked_when_no_other_credential_is_there() {
    let auth = Backend::start(|seen| match seen.field("Cookie") {
        Some("login=carol") => Reply::raw("HTTP/1.1 204 No Content\r\nX-User: carol\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
    });
    let backend = echo();
    let rest = format!(
        "[policy.either]\ntype = \"any\"\nof = [\"token\", \"ask\"]\n\
         [policy.token]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\n\
         [policy.ask]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n\
         consumer = \"header:X-User\"\n",
        auth.address
    );
    let gate = gate(&backend, "policies = [\"either\"]", &rest);
    let known = |fields: &str| {
        let answer = get(&gate, "/a", fields);
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = last(&backend);
        ["X-Consumer-Id", "X-Consumer-Auth"].map(|name| seen.field(name).unwrap_or("").to_owned())
    };
    let claims = json!({ "sub": "bob", "exp": unix_now() + 600 });
    let bearer = format!("Authorization: Bearer {}\r\n", token(&claims));
    assert_eq!(known(&bearer), ["bob", "token"]);
    assert_eq!(auth.seen().len(), 0, "the token decides");
    assert_eq!(known("Cookie: login=carol\r\n"), ["carol", "ask"]);
    assert_eq!(status(&get(&gate, "/a", "")), 401);
    assert_eq!(auth.seen().len(), 2);
    let bad = "Authorization: Bearer nonsense\r\nCookie: login=carol\r\n";
    assert_eq!(status(&get(&gate, "/a", bad)), 401);
    assert_eq!(auth.seen().len(), 2, "a bad token decides too");
}

#[test]
fn a_group_that_would_be_two_in_a_list_is_none() {
    let idp = issuer(",\"sub\":\"erin\",\"roles\":[\"a,b\",\"c\"]");
    let backend = echo();
    let rest = opaque(&idp, "groups = \"claim:roles\"\n");
    let rest = format!(
        "{rest}[policy.token]\ntype = \"jwt\"\nsecret = \"{SECRET}\"\ngroups = \"claim:roles\"\n\
         [[listener.web.route]]\nmatch = {{ path = \"/jwt\" }}\npool = \"app\"\n\
         policies = [\"!opaque\", \"token\"]\n"
    );
    let gate = gate(&backend, "policies = [\"opaque\"]", &rest);
    let claims = json!({ "sub": "erin", "exp": unix_now() + 600, "roles": ["a,b", "c"] });
    for (path, token) in [("/a", "opaque".to_owned()), ("/jwt", token(&claims))] {
        let answer = get(&gate, path, &format!("Authorization: Bearer {token}\r\n"));
        assert_eq!(status(&answer), 200, "{answer}");
        assert_eq!(last(&backend).field("X-Consumer-Groups"), Some("c"), "{path}");
    }
}

#[test]
fn the_log_tells_a_service_that_broke_from_one_that_refuses() {
    let auth = Backend::start(|seen| {
        let status = seen.field("X-Forwarded-Uri").unwrap_or("/500").trim_start_matches('/');
        Reply::raw(format!("HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n"))
    });
    let backend = echo();
    let rest =
        format!("[policy.ask]\ntype = \"forward-auth\"\nurl = \"http://{}/\"\n", auth.address);
    let gate = gate(&backend, "policies = [\"ask\"]", &rest);
    let told = [
        (401, "unauthorized"),
        (403, "forbidden"),
        (500, "auth-unavailable"),
        (503, "auth-unavailable"),
    ];
    for (code, _) in told {
        assert_eq!(status(&get(&gate, &format!("/{code}"), "")), code);
    }
    // Two workers, two queues: the lines need not come in the order of the requests.
    let logged = gate.log(told.len());
    for (code, reason) in told {
        let line = logged.iter().find(|line| line["status"] == code).expect("a line");
        assert_eq!(line["reason"], reason, "{line}");
    }
}
