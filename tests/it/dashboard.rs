//! The dashboard in a real browser: what it shows, whom it asks for a token, what it does not
//! run, how it fits.

use serde_json::{Value, json};

use super::browser::{CHROMIUM, Page};
use super::gate::Gate;
use super::peers::{Peer, free_address, need};

pub const DESK: (u32, u32) = (1440, 1000);
const PHONE: (u32, u32) = (360, 740);

/// What is ready to be looked at: the page has been told something.
const LOADED: &str = "document.querySelector('#phase').textContent === 'ready'";

/// The row of a server, as an expression.
pub fn row(server: &str) -> String {
    format!(
        "[...document.querySelectorAll('.servers tbody tr')]\
         .find((row) => row.querySelector('td.name b')?.textContent === {})",
        json!(server)
    )
}

/// Where the page is.
pub fn url(gate: &Gate) -> String {
    format!("http://{}/", gate.address("admin"))
}

/// A pool of Redis servers, checked often.
pub fn two_servers(first: &Peer, second: &Peer) -> String {
    format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.cache]\nbind = \"127.0.0.1:0\"\npool = \"cache\"\n[pool.cache]\n\
         check = {{ type = \"redis\", every = \"200ms\", timeout = \"5s\", fall = 2, rise = 1 }}\n\
         [pool.cache.servers]\none = \"{}\"\ntwo = \"{}\"\n",
        first.address, second.address
    )
}

#[test]
fn a_server_that_is_killed_is_shown_as_down_with_the_reason() {
    if !need(&[CHROMIUM, "redis-server"]) {
        return;
    }
    let (mut first, second) = (Peer::redis(), Peer::redis());
    let gate = Gate::start(&two_servers(&first, &second));
    let mut page = Page::open(&url(&gate), DESK);
    page.until("both are up", &format!("{}?.dataset.state === 'up'", row("two")));
    assert_eq!(page.eval(&format!("{}.dataset.state", row("one"))), "up");
    first.kill();
    page.until("the first is down", &format!("{}.dataset.state === 'down'", row("one")));
    let told = page.eval(&format!("{}.innerText", row("one")));
    assert!(told.as_str().is_some_and(|told| told.contains("refused")), "{told}");
    assert_eq!(page.eval(&format!("{}.dataset.state", row("two"))), "up");
    // Not by colour alone, and also for those who hear it.
    let shape = format!("{}.querySelector('.shape use').getAttribute('href')", row("one"));
    assert_eq!(page.eval(&shape), "#shape-down");
    let heard = page.text("#heard");
    assert!(heard.as_str().is_some_and(|heard| heard.contains("cache/one is down")), "{heard}");
    assert!(page.eval("document.title").as_str().is_some_and(|title| title.contains("1 down")));
    // Of many servers only these can be asked for.
    page.click(".chip[data-state=down]");
    page.until("the other is hidden", &format!("!{} && !!{}", row("two"), row("one")));
    page.assert_no_complaints();
}

#[test]
fn names_out_of_the_configuration_stay_texts() {
    if !need(&[CHROMIUM]) {
        return;
    }
    let hostile = "<img src=x onerror=alert(1)>";
    let gate = Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\n[log]\naccess = \"stdout\"\n\
         [listener.web]\nbind = \"127.0.0.1:0\"\nmode = \"http\"\n\
         [[listener.web.route]]\nname = \"{hostile}\"\nmatch = {{ path = \"/*\" }}\n\
         respond = {{ status = 200, body = \"ok\" }}\n"
    ));
    let mut page = Page::open(&url(&gate), DESK);
    page.until("the page is there", LOADED);
    assert_eq!(page.text("#route-list tbody b"), hostile);
    assert_eq!(page.eval("document.images.length"), 0);
    page.assert_no_complaints();
}

fn with_tokens() -> Gate {
    let server = free_address();
    Gate::start(&format!(
        "version = 1\n[admin]\nbind = \"{{admin}}\"\ntoken = \"the-token-of-the-operator\"\n\
         read_token = \"the-token-of-a-reader\"\n[log]\naccess = \"stdout\"\n\
         [listener.in]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         [pool.app.servers]\nsolo = \"{server}\"\n"
    ))
}

fn enter_token(page: &mut Page, token: &str) {
    page.until("it asks for a token", "document.querySelector('#ask-token').open");
    page.type_in(token);
    page.press("Enter");
}

#[test]
fn it_asks_for_the_token_and_keeps_it_in_the_tab() {
    if !need(&[CHROMIUM]) {
        return;
    }
    let gate = with_tokens();
    let mut page = Page::open(&url(&gate), DESK);
    enter_token(&mut page, "a-token-of-somebody-else");
    page.until("it says so", "document.querySelector('#token-error').textContent");
    assert_eq!(page.eval(&format!("{} ?? null", row("solo"))), Value::Null);
    enter_token(&mut page, "the-token-of-the-operator");
    page.until("it is shown", &format!("{}?.dataset.state === 'up'", row("solo")));
    page.eval("location.reload()");
    page.until("it is shown again", &format!("{}?.dataset.state === 'up'", row("solo")));
    let kept = "[sessionStorage.length, localStorage.length, document.cookie, location.search]";
    assert_eq!(page.eval(kept), json!([1, 0, "", ""]));
    page.assert_no_complaints();
}

#[test]
fn a_reader_is_told_why_nothing_can_be_changed() {
    if !need(&[CHROMIUM]) {
        return;
    }
    let gate = with_tokens();
    let mut page = Page::open(&url(&gate), DESK);
    enter_token(&mut page, "the-token-of-a-reader");
    page.until("it is shown", &format!("{}?.dataset.state === 'up'", row("solo")));
    // By keyboard alone.
    page.eval(&format!("{}.querySelector('.acts button:nth-child(2)').focus()", row("solo")));
    page.press("Enter");
    page.until("it asks back", "document.querySelector('#confirm').open");
    page.press("Enter");
    page.until("the reason", "document.querySelector('#confirm-error').textContent");
    page.press("Escape");
    page.until("the question is gone", "!document.querySelector('#confirm').open");
    let reason = page.text("#refusal");
    assert!(reason.as_str().is_some_and(|reason| reason.contains("read token")), "{reason}");
    let enabled =
        "document.querySelectorAll('.acts button:enabled, .weight button:enabled').length";
    assert_eq!(page.eval(enabled), 0);
    page.assert_no_complaints();
}

#[test]
fn nothing_is_wider_than_a_phone() {
    if !need(&[CHROMIUM, "redis-server"]) {
        return;
    }
    let (first, second) = (Peer::redis(), Peer::redis());
    let gate = Gate::start(&two_servers(&first, &second));
    let mut page = Page::open(&url(&gate), PHONE);
    page.until("the page is there", &format!("!!({})", row("two")));
    assert_eq!(page.eval("document.documentElement.scrollWidth"), PHONE.0);
    page.assert_no_complaints();
}

#[test]
fn an_instance_that_is_gone_is_not_shown_as_well() {
    if !need(&[CHROMIUM]) {
        return;
    }
    let gate = with_tokens();
    let mut page = Page::open(&url(&gate), DESK);
    enter_token(&mut page, "the-token-of-the-operator");
    page.until("the page is there", LOADED);
    drop(gate);
    page.until("it says so", "document.querySelector('[data-about=unreachable]')?.textContent");
    assert_eq!(page.text("#phase"), "not reachable");
    page.assert_no_complaints();
}
