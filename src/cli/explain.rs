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

use super::check::print_report;
use super::{CONFIG, USAGE, fail, print_all};
use crate::balance::{AnyPolicy, FlowKey, Policy, Rng, Roster};
use crate::config;
use crate::config::plan::{Balance, Listener, Plan, Server, ServerAddr};
use crate::control::membership::Membership;
use crate::limits::AccessList;
use crate::observe::status::{address_text, balance_word};
use crate::observe::view::bind_text;
use crate::registry::Member;
use crate::runtime::time::Time;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The listener the client connects to
    #[arg(long, value_name = "NAME")]
    listener: String,
    /// The client's address
    #[arg(long, value_name = "IP")]
    client: IpAddr,
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
    match explain(&plan, &args.listener, args.client) {
        Ok(text) => print_all(text.as_bytes()),
        Err(error) => fail(USAGE, error),
    }
}

/// The answer as text.
///
/// # Errors
/// When there is no such listener: which there are.
fn explain(plan: &Arc<Plan>, listener: &str, client: IpAddr) -> Result<String, String> {
    let Some(listener) = plan.listeners.iter().find(|one| one.name == listener) else {
        let names: Vec<_> = plan.listeners.iter().map(|one| one.name.as_str()).collect();
        return Err(format!("there is no listener `{listener}`; there are: {}", names.join(", ")));
    };
    let mut text = String::new();
    let bind: Vec<_> = listener.bind.iter().map(bind_text).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "client    {client}");
    let _ = writeln!(text, "listener  {} on {} (tcp)", listener.name, bind.join(", "));
    let _ = writeln!(text, "access    {}", access(listener, client));
    if AccessList::new(&listener.allow, &listener.deny).permits(client) {
        pool(plan, listener, client, &mut text);
    }
    Ok(text)
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

fn pool(plan: &Arc<Plan>, listener: &Listener, client: IpAddr, text: &mut String) {
    let pool = &plan.pools[listener.first_pool()];
    let word = balance_word(pool.balance);
    let _ = writeln!(text, "pool      {}, balance {word}", pool.name);
    let snapshot = Membership::plain(plan).snapshot();
    let members = &snapshot.pools[listener.first_pool()].members;
    for member in members {
        member.state.up.store(true, Ordering::Relaxed);
    }
    let mut roster = Roster::new(members);
    roster.refresh(members, None, Time::ZERO);
    let mut policy = AnyPolicy::new(pool.balance);
    policy.rebuild(roster.candidates());
    // A fixed seed: the same question gets the same answer.
    let picked = policy.pick(roster.view(&[]), FlowKey::of_ip(client), &mut Rng::new(0));
    match picked {
        Ok(pick) => {
            let Member { state, weight, .. } = &members[pick.index];
            let _ = writeln!(text, "server    {} ({}), weight {weight}", state.name, state.address);
            let _ = writeln!(text, "          {}", why(pool.balance));
        }
        Err(_) => {
            let _ =
                writeln!(text, "server    none: every server is a name, resolved only by `run`");
        }
    }
    let others = members
        .iter()
        .enumerate()
        .filter(|(at, _)| picked.as_ref().map_or(true, |pick| pick.index != *at));
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
    text.push_str("This holds while all servers are up and have no sessions; nothing was sent.\n");
}

const fn is_name(server: &Server) -> bool {
    matches!(server.address, ServerAddr::Dns { .. } | ServerAddr::Srv { .. })
}

/// Why this server and no other that would take the client.
const fn why(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => {
            "first in turn on a worker that has just started; the next clients get the others"
        }
        Balance::LeastConn => "none has fewer sessions for its weight; equals take turns",
        Balance::RandomTwo => "an example: two are drawn by weight, the less loaded one is taken",
        Balance::IpHash | Balance::Maglev => {
            "by the client's address, always, while this server is up"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    fn plan(balance: Balance) -> Plan {
        let servers =
            ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(|text| text.parse().unwrap());
        let mut plan = fixture::plan(&servers);
        plan.pools[0].balance = balance;
        plan.pools[0].servers[2].backup = true;
        plan
    }

    fn said(plan: Plan, client: &str) -> String {
        explain(&Arc::new(plan), "front", client.parse().unwrap()).unwrap()
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
        let error = explain(&Arc::new(plan(Balance::Maglev)), "fornt", IpAddr::from([1; 4]));
        assert_eq!(error.unwrap_err(), "there is no listener `fornt`; there are: front");
    }
}
