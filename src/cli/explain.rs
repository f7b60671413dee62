//! `sluicegate explain`: where a client would go, and why not elsewhere.
//!
//! By the code that picks: the same access lists, the same verdicts, the same policy. No
//! traffic is sent, so servers count as up and without sessions, and names as unresolved.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use sluicegate_l7::route::spec::StickySpec;

mod http;

use super::check::print_report;
use super::{CONFIG, USAGE, fail, print_all};
use crate::balance::{AnyPolicy, FlowKey, Policy, Rng, Roster};
use crate::config;
use crate::config::plan::{Balance, HashBy, Listener, Plan, Pool, Server, ServerAddr, SniRoutes};
use crate::control::membership::Membership;
use crate::limits::AccessList;
use crate::observe::status::{address_text, balance_word, mode_word};
use crate::observe::view::bind_text;
use crate::registry::{ListenerId, Member};
use crate::runtime::time::Time;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The listener the client connects to
    #[arg(long, value_name = "NAME")]
    listener: String,
    #[command(flatten)]
    question: Question,
}

/// Who asks for what.
#[derive(Debug, Default, Args)]
struct Question {
    /// The client's address; for an HTTP listener the peer, and optional
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// The name in the client's TLS hello, for a listener with `sni`
    #[arg(long, value_name = "NAME", conflicts_with = "request")]
    sni: Option<String>,
    /// A request to an HTTP listener, as 'GET <https://host/path>'
    #[arg(long, value_name = "REQUEST")]
    request: Option<String>,
    /// A header of the request, as 'Name: value'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", requires = "request")]
    headers: Vec<String>,
}

/// Says it on stdout.
#[must_use]
pub fn run(args: &ExplainArgs) -> ExitCode {
    let plan = match config::load(&args.config) {
        Ok(loaded) => Arc::new(loaded.plan),
        Err(report) => {
            print_report(&report);
            return ExitCode::from(CONFIG);
        }
    };
    match explain(&plan, &args.listener, &args.question) {
        Ok(text) => print_all(text.as_bytes()),
        Err(error) => fail(USAGE, error),
    }
}

/// The answer as text.
///
/// # Errors
/// When there is no such listener: which there are. When the question does not suit it: which
/// does.
fn explain(plan: &Arc<Plan>, listener: &str, question: &Question) -> Result<String, String> {
    let Some(id) = plan.listeners.iter().position(|one| one.name == listener) else {
        let names: Vec<_> = plan.listeners.iter().map(|one| one.name.as_str()).collect();
        return Err(format!("there is no listener `{listener}`; there are: {}", names.join(", ")));
    };
    let listener = &plan.listeners[id];
    let mut text = String::new();
    let bind: Vec<_> = listener.bind.iter().map(bind_text).collect();
    let mode = mode_word(listener.mode);
    let tls = if listener.tls.is_some() { ", tls" } else { "" };
    // Writing to a String cannot fail.
    if let Some(client) = question.client {
        let _ = writeln!(text, "client    {client}");
    }
    let _ = writeln!(text, "listener  {} on {} ({mode}{tls})", listener.name, bind.join(", "));
    if let Some(client) = question.client {
        let _ = writeln!(text, "access    {}", access(listener, client));
        if !AccessList::new(&listener.allow, &listener.deny).permits(client) {
            return Ok(text);
        }
    }
    match &listener.http {
        Some(http) => http::explain(plan, ListenerId(id as u16), http, question, &mut text)?,
        None => session(plan, listener, question, &mut text)?,
    }
    text.push_str("This holds while all servers are up and have no sessions; nothing was sent.\n");
    Ok(text)
}

/// A client of a TCP listener.
fn session(
    plan: &Arc<Plan>,
    listener: &Listener,
    question: &Question,
    text: &mut String,
) -> Result<(), String> {
    let name = &listener.name;
    if question.request.is_some() {
        return Err(format!(
            "listener `{name}` is `mode = \"tcp\"` and knows no requests; ask with --client"
        ));
    }
    let Some(client) = question.client else {
        return Err(format!("listener `{name}` needs a client: give --client IP"));
    };
    let from = Asked { client: Some(client), ..Asked::default() };
    let Some(sni) = &listener.sni else {
        if question.sni.is_some() {
            return Err(format!("listener `{name}` does not route by name: it has no `sni`"));
        }
        if let Some(first) = listener.first_pool() {
            pool(plan, first, &from, text);
        }
        return Ok(());
    };
    // As a hello has it.
    let asked = question.sni.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    match (sni.choose(asked.as_deref()), asked) {
        (Some(chosen), asked) => {
            let _ = writeln!(text, "sni       {}", sni_rule(sni, asked.as_deref()));
            pool(plan, chosen, &from, text);
        }
        (None, Some(name)) => {
            let _ = writeln!(
                text,
                "sni       refused: no name of `sni` fits {name}; the client gets the alert \
                 unrecognized_name, reason `sni-unknown`"
            );
        }
        (None, None) => text.push_str(
            "sni       refused: the hello has no name and there is no `no_sni`; the client gets \
             the alert unrecognized_name, reason `sni-unknown`\n",
        ),
    }
    Ok(())
}

/// Which line of `sni` it was: the one whose own name is chosen for it.
fn sni_rule(sni: &SniRoutes, asked: Option<&str>) -> String {
    let Some(name) = asked else { return "no name in the hello: by `no_sni`".into() };
    if sni.exact.iter().any(|(exact, _)| exact == name) {
        return format!("{name}: by its own line");
    }
    let fitting = sni
        .wildcard
        .iter()
        .filter(|(suffix, _)| name.len() > suffix.len() && name.ends_with(suffix.as_str()));
    match fitting.max_by_key(|(suffix, _)| suffix.len()) {
        Some((suffix, _)) => format!("{name}: by `*{suffix}`"),
        None => format!("{name}: by `*`"),
    }
}

fn access(listener: &Listener, client: IpAddr) -> String {
    let net = |nets: &[ipnet::IpNet]| {
        nets.iter().find(|&&net| AccessList::new(&[net], &[]).permits(client)).copied()
    };
    if let Some(net) = net(&listener.deny) {
        format!("denied: `deny` has {net}; the client gets a RST, reason `denied`")
    } else if let Some(net) = net(&listener.allow) {
        format!("allowed: `allow` has {net}")
    } else if listener.allow.is_empty() {
        "allowed: there is no `allow`, and `deny` does not name the client".into()
    } else {
        "denied: `allow` does not name the client; it gets a RST, reason `denied`".into()
    }
}

/// What a pool is asked with.
#[derive(Default)]
struct Asked<'a> {
    client: Option<IpAddr>,
    /// What of a request the pool goes by, if not by the client's address.
    flow: Option<FlowKey>,
    sticky: Option<Sticky<'a>>,
}

/// A request's cookie of a route that keeps clients at their servers.
struct Sticky<'a> {
    spec: &'a StickySpec,
    value: u64,
}

impl Sticky<'_> {
    /// The server that it names, if that takes the request.
    fn pick(&self, pool: &str, members: &[Member]) -> Option<(usize, String)> {
        let index = members.iter().position(|Member { state, .. }| {
            let named = state.sticky_value(pool) == self.value;
            let again = self.spec.keep_on_drain && state.is_eligible_again(Time::ZERO);
            named && (again || state.is_eligible(Time::ZERO))
        })?;
        let cookie = &self.spec.cookie;
        Some((index, format!("by the cookie `{cookie}`, while this server is up and has room")))
    }
}

/// The server that a pool picks.
fn pool(plan: &Arc<Plan>, at: usize, asked: &Asked<'_>, text: &mut String) {
    let pool = &plan.pools[at];
    let word = balance_word(pool.balance);
    let _ = writeln!(text, "pool      {}, balance {word}", pool.name);
    let snapshot = Membership::plain(plan).snapshot();
    let members = &snapshot.pools[at].members;
    for member in members {
        member.state.up.store(true, Ordering::Relaxed);
    }
    let mut roster = Roster::new(members);
    roster.refresh(members, None, Time::ZERO);
    let named = asked.sticky.as_ref().and_then(|own| own.pick(&pool.name, members));
    let picked = named.or_else(|| pick(pool, asked, &roster));
    match &picked {
        Some((index, why)) => {
            let Member { state, weight, .. } = &members[*index];
            let _ = writeln!(text, "server    {} ({}), weight {weight}", state.name, state.address);
            let _ = writeln!(text, "          {why}");
        }
        None => {
            let _ =
                writeln!(text, "server    none: every server is a name, resolved only by `run`");
        }
    }
    let taken = picked.map(|(index, _)| index);
    let others = members.iter().enumerate().filter(|(at, _)| Some(*at) != taken);
    for (at, Member { state, weight, .. }) in others {
        let verdict = roster.view(&[]).verdict(at).as_str();
        let _ = writeln!(
            text,
            "not       {} ({}), weight {weight}: {verdict}",
            state.name, state.address
        );
    }
    for server in pool.servers.iter().filter(|server| is_name(server)) {
        let address = address_text(&server.address);
        let _ = writeln!(text, "unknown   {} ({address}): resolved only by `run`", server.name);
    }
}

/// The one that the pool's policy takes, and why.
fn pick(pool: &Pool, asked: &Asked<'_>, roster: &Roster) -> Option<(usize, String)> {
    let mut policy = AnyPolicy::new(pool.balance);
    policy.rebuild(roster.candidates());
    // A fixed seed: the same question gets the same answer.
    let mut rng = Rng::new(0);
    let key = asked.flow.unwrap_or_else(|| FlowKey::of(asked.client, &mut rng));
    let pick = policy.pick(roster.view(&[]), key, &mut rng).ok()?;
    Some((pick.index, why(pool, asked.client.is_some(), asked.flow.is_some())))
}

const fn is_name(server: &Server) -> bool {
    matches!(server.address, ServerAddr::Dns { .. } | ServerAddr::Srv { .. })
}

/// Why this server and no other that would take the client. `found`: the request has what the
/// pool goes by.
fn why(pool: &Pool, client_known: bool, found: bool) -> String {
    let always = "always, while this server is up";
    let example = "an example: it goes by the client's address; give it with --client";
    match pool.balance {
        Balance::RoundRobin => {
            "first in turn on a worker that has just started; the next clients get the others"
        }
        Balance::LeastConn => "none has fewer sessions for its weight; equals take turns",
        Balance::RandomTwo => "an example: two are drawn by weight, the less loaded one is taken",
        Balance::Maglev if pool.hash != HashBy::Ip => {
            let by = hash_word(&pool.hash);
            return match (found, client_known) {
                (true, _) => format!("by {by} of the request, {always}"),
                (false, true) => format!(
                    "by the client's address, {always}: nothing is known of {by}, which comes first"
                ),
                (false, false) => format!("{example}, or {by}, which comes first"),
            };
        }
        Balance::IpHash | Balance::Maglev if !client_known => example,
        Balance::IpHash | Balance::Maglev => return format!("by the client's address, {always}"),
    }
    .to_owned()
}

/// What a pool goes by, in words.
fn hash_word(by: &HashBy) -> String {
    match by {
        HashBy::Ip => "the client's address".to_owned(),
        HashBy::Header(name) => format!("the header `{name}`"),
        HashBy::Cookie(name) => format!("the cookie `{name}`"),
        HashBy::Consumer => "the consumer (policies are not run here)".to_owned(),
        HashBy::Path => "the path".to_owned(),
    }
}

#[cfg(test)]
mod tests;
