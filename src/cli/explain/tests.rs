//! What is said of clients and requests.

use super::*;
use crate::control::fixture;

fn plan(balance: Balance) -> Plan {
    let servers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(|text| text.parse().unwrap());
    let mut plan = fixture::plan(&servers);
    plan.pools[0].balance = balance;
    plan.pools[0].servers[2].backup = true;
    plan
}

fn of(client: &str) -> Question {
    Question { client: Some(client.parse().unwrap()), ..Question::default() }
}

fn said(plan: Plan, client: &str) -> String {
    explain(&Arc::new(plan), "front", &of(client)).unwrap()
}

#[test]
fn says_the_server_and_why_not_the_others() {
    let text = said(plan(Balance::LeastConn), "192.0.2.1");
    assert_eq!(text.matches("\nserver    s").count(), 1, "{text}");
    assert!(text.contains("takes new sessions"), "{text}");
    assert!(text.contains("s2 (10.0.0.3:80), weight 1: backup, not needed"), "{text}");
}

#[test]
fn a_hashing_pool_gives_each_client_its_own_answer_every_time() {
    let answers: std::collections::BTreeSet<_> = (1..=64)
        .map(|last| {
            let client = format!("192.0.2.{last}");
            let text = said(plan(Balance::IpHash), &client);
            assert_eq!(text, said(plan(Balance::IpHash), &client));
            text.lines().find(|line| line.starts_with("server")).unwrap().to_owned()
        })
        .collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
}

#[test]
fn a_denied_client_goes_nowhere() {
    let mut plan = plan(Balance::RoundRobin);
    plan.listeners[0].deny = vec!["192.0.2.0/24".parse().unwrap()];
    let text = said(plan, "192.0.2.1");
    assert!(text.contains("denied: `deny` has 192.0.2.0/24"), "{text}");
    assert!(!text.contains("pool"), "{text}");
}

#[test]
fn an_unknown_listener_is_answered_with_those_there_are() {
    let error = explain(&Arc::new(plan(Balance::Maglev)), "fornt", &of("1.1.1.1"));
    assert_eq!(error.unwrap_err(), "there is no listener `fornt`; there are: front");
}

fn named() -> Plan {
    let mut plan = plan(Balance::RoundRobin);
    let mut other = plan.pools[0].clone();
    other.name = "other".into();
    plan.pools.push(other);
    plan.listeners[0].pool = None;
    plan.listeners[0].sni = Some(SniRoutes {
        exact: vec![("db.example.com".into(), 0)],
        wildcard: vec![(".example.com".into(), 1)],
        any: None,
        no_sni: None,
    });
    plan
}

fn with_name(sni: Option<&str>) -> String {
    let question = Question { sni: sni.map(str::to_owned), ..of("192.0.2.1") };
    explain(&Arc::new(named()), "front", &question).unwrap()
}

#[test]
fn a_hello_goes_where_its_name_says() {
    let text = with_name(Some("DB.example.com."));
    assert!(text.contains("sni       db.example.com: by its own line\npool      back"), "{text}");
    let text = with_name(Some("www.example.com"));
    assert!(text.contains("by `*.example.com`\npool      other"), "{text}");
}

#[test]
fn an_unknown_or_missing_name_is_refused_with_its_reason() {
    for (sni, why) in [(Some("example.org"), "fits example.org"), (None, "no name")] {
        let text = with_name(sni);
        assert!(text.contains(why) && text.contains("`sni-unknown`"), "{text}");
        assert!(!text.contains("\npool"), "{text}");
    }
}

#[test]
fn a_question_that_does_not_suit_the_listener_is_answered_with_one_that_does() {
    let ask =
        |plan: Plan, question: Question| explain(&Arc::new(plan), "front", &question).unwrap_err();
    let request = || Question { request: Some("GET /".into()), ..Question::default() };
    assert!(ask(named(), request()).contains("ask with --client"));
    assert!(ask(named(), Question::default()).contains("--client IP"));
    let sni = Question { sni: Some("a.test".into()), ..of("192.0.2.1") };
    assert!(ask(plan(Balance::Maglev), sni).contains("does not route by name"));
}
