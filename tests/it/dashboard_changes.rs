//! The dashboard as the operator's hand: what is changed by it, and what it says of a reload.

use std::fs;

use nix::sys::signal::Signal;

use super::browser::{CHROMIUM, Page};
use super::dashboard::{DESK, row, two_servers, url};
use super::gate::Gate;
use super::peers::{Peer, need};

/// Two servers that are up, and a page that shows them.
fn watched() -> (Gate, Page, [Peer; 2]) {
    let servers = [Peer::redis(), Peer::redis()];
    let gate = Gate::start(&two_servers(&servers[0], &servers[1]));
    let mut page = Page::open(&url(&gate), DESK);
    page.until("both are up", &format!("{}?.dataset.state === 'up'", row("two")));
    (gate, page, servers)
}

#[test]
fn a_server_is_drained_by_a_click_and_made_ready_by_keys() {
    if !need(&[CHROMIUM, "redis-server"]) {
        return;
    }
    let (gate, mut page, _servers) = watched();
    page.click("[aria-label='Drain one']");
    page.until("it asks back", "document.querySelector('#confirm').open");
    assert_eq!(gate.status()["pools"]["cache"]["servers"]["one"]["state"], "up");
    page.click("#confirm-yes");
    page.until("it is shown", &format!("{}.dataset.state === 'draining'", row("one")));
    assert_eq!(gate.status()["pools"]["cache"]["servers"]["one"]["state"], "draining");
    let told = page.eval(&format!("{}.innerText", row("one")));
    assert!(told.as_str().is_some_and(|told| told.contains("override")), "{told}");
    let of_it = "[...document.querySelectorAll('#event-list .what')]\
                 .some((event) => event.textContent.includes('cache/one'))";
    page.until("an event tells of it", of_it);

    page.eval("document.querySelector(\"[aria-label='Ready one']\").focus()");
    page.press("Enter");
    page.until("it asks back", "document.querySelector('#confirm').open");
    page.press("Enter");
    page.until("it is up again", &format!("{}.dataset.state === 'up'", row("one")));
    page.assert_no_complaints();
}

#[test]
fn a_weight_is_changed_and_shown_as_an_override() {
    if !need(&[CHROMIUM, "redis-server"]) {
        return;
    }
    let (gate, mut page, _servers) = watched();
    page.click("[aria-label^='Weight of two']");
    page.until("it asks for one", "document.querySelector('#confirm').open");
    // The old one is selected, so that typing replaces it.
    page.type_in("25");
    page.press("Enter");
    let shown = format!("{}.querySelector('td.weight').innerText", row("two"));
    page.until("it is shown", &format!("{shown}.startsWith('25')"));
    let told = page.eval(&shown);
    assert!(told.as_str().is_some_and(|told| told.contains("override")), "{told}");
    assert_eq!(gate.status()["pools"]["cache"]["servers"]["two"]["weight"], 25);
    page.assert_no_complaints();
}

#[test]
fn a_reload_that_failed_is_told_with_its_report_until_one_succeeds() {
    if !need(&[CHROMIUM, "redis-server"]) {
        return;
    }
    let (gate, mut page, _servers) = watched();
    let file = gate.dir.path().join("main.toml");
    let good = fs::read_to_string(&file).expect("it was started from it");
    let bad = good.replace("pool = \"cache\"", "pool = \"cahce\"");
    fs::write(&file, bad).expect("the file is written");
    gate.signal(Signal::SIGHUP);
    let banner = "document.querySelector('[data-about=reload] pre')?.innerText ?? ''";
    page.until("the report", &format!("({banner}).includes('cahce')"));
    let title = page.text("[data-about=reload] strong");
    assert_eq!(title, "The last reload failed");
    fs::write(&file, good).expect("the file is written");
    gate.signal(Signal::SIGHUP);
    page.until("it is over", "!document.querySelector('[data-about=reload]')");
    page.assert_no_complaints();
}
