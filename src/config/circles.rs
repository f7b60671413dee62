//! Where connections to servers come out again: at the admin API, or at listeners that then send
//! to each other in a circle.
//!
//! Names but `localhost` are not resolved; what the file cannot show is a 508 when it happens.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use nix::ifaddrs::getifaddrs;

use super::address::plain_path;
use super::build::{Draft, ListenerDraft};
use super::code;
use super::plan::{BindAddr, ServerAddr};
use super::report::{Finding, Findings};
use super::value::{Scalar, clip};

/// Reports servers that are the admin API, and circles.
pub fn check(draft: &Draft<'_>, found: &mut Findings) {
    let host = Host::of(draft);
    admin_as_server(draft, &host, found);
    circles(draft, &host, found);
}

fn admin_as_server(draft: &Draft<'_>, host: &Host, found: &mut Findings) {
    let Some((admin, fields)) = &draft.admin else { return };
    for pool in &draft.pools {
        for (server, place) in pool.plan.servers.iter().zip(&pool.server_places) {
            if !host.reaches(&server.address, &admin.bind, Stack::Dual) {
                continue;
            }
            let message = format!(
                "server `{}` of pool `{}` is the admin API, which clients must not reach",
                clip(&server.name),
                clip(pool.name)
            );
            let key = format!("{}.servers.{}", pool.fields.path, server.name);
            let finding = Finding::new(code::ADMIN_AS_SERVER, *place, key, message);
            found.add(finding.related(fields.place_of("bind"), "the admin API binds here"));
        }
    }
}

/// Which families a socket at `[::]` takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stack {
    /// Listeners say so: `[::]` and `0.0.0.0` are two addresses.
    Own,
    /// The admin API leaves it to the system, where it is both.
    Dual,
}

/// What this machine is, beyond the file: its addresses, if a wildcard is bound at all.
struct Host {
    addresses: Vec<IpAddr>,
}

impl Host {
    fn of(draft: &Draft<'_>) -> Self {
        let admin = draft.admin.iter().map(|(admin, _)| &admin.bind);
        let mut binds = draft.listeners.iter().flat_map(|one| &one.plan.bind).chain(admin);
        let wild = |bind: &BindAddr| matches!(bind, BindAddr::Ip(ip) if ip.ip().is_unspecified());
        let interfaces = if binds.any(wild) { getifaddrs().ok() } else { None };
        let addresses = interfaces.into_iter().flatten().filter_map(|one| {
            let address = one.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        Self { addresses: addresses.collect() }
    }

    /// Whether connecting to `server` ends at `bind`, as far as the file and the interfaces tell.
    fn reaches(&self, server: &ServerAddr, bind: &BindAddr, stack: Stack) -> bool {
        match (server, bind) {
            (ServerAddr::Unix(server), BindAddr::Unix(bind)) => {
                plain_path(server) == plain_path(bind)
            }
            (ServerAddr::Ip(address), BindAddr::Ip(bind)) => self.meets(*address, *bind, stack),
            (ServerAddr::Dns { host, port }, BindAddr::Ip(bind)) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                host.eq_ignore_ascii_case("localhost")
                    && both.iter().any(|ip| self.meets(SocketAddr::new(*ip, *port), *bind, stack))
            }
            _ => false,
        }
    }

    fn meets(&self, address: SocketAddr, bind: SocketAddr, stack: Stack) -> bool {
        let (ip, all) = (address.ip(), bind.ip());
        let is_ours = || ip.is_loopback() || self.addresses.contains(&ip);
        let family = ip.is_ipv4() == all.is_ipv4() || all.is_ipv6() && stack == Stack::Dual;
        address.port() == bind.port() && (ip == all || all.is_unspecified() && family && is_ours())
    }
}

/// Listeners by what a server address can reach, so that large files are not searched in pairs.
struct Reach {
    ports: HashMap<u16, Vec<usize>>,
    paths: HashMap<PathBuf, Vec<usize>>,
}

impl Reach {
    fn new(listeners: &[ListenerDraft<'_>]) -> Self {
        let mut reach = Self { ports: HashMap::new(), paths: HashMap::new() };
        for (index, listener) in listeners.iter().enumerate() {
            for bind in &listener.plan.bind {
                match bind {
                    BindAddr::Ip(address) => {
                        reach.ports.entry(address.port()).or_default().push(index);
                    }
                    BindAddr::Unix(path) => {
                        reach.paths.entry(plain_path(path)).or_default().push(index);
                    }
                }
            }
        }
        reach
    }

    fn candidates(&self, server: &ServerAddr) -> &[usize] {
        let found = match server {
            ServerAddr::Ip(address) => self.ports.get(&address.port()),
            ServerAddr::Dns { port, .. } => self.ports.get(port),
            ServerAddr::Unix(path) => self.paths.get(&plain_path(path)),
            ServerAddr::Srv { .. } => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}

/// One step: a server of a pool of listener `from` is listener `to`.
#[derive(Clone, Copy)]
struct Step {
    to: usize,
    pool: usize,
    server: usize,
}

/// Finds listeners that send, over any number of listeners, to themselves.
fn circles(draft: &Draft<'_>, host: &Host, found: &mut Findings) {
    let reach = Reach::new(&draft.listeners);
    // By pool, since many listeners may share one.
    let mut steps_of: Vec<Vec<Step>> = Vec::new();
    for (index, pool) in draft.pools.iter().enumerate() {
        let mut steps = Vec::new();
        let mut seen = HashSet::new();
        for (server, address) in pool.plan.servers.iter().map(|server| &server.address).enumerate()
        {
            for &to in reach.candidates(address) {
                let mut binds = draft.listeners[to].plan.bind.iter();
                let hit = binds.any(|bind| host.reaches(address, bind, Stack::Own));
                if hit && seen.insert(to) {
                    steps.push(Step { to, pool: index, server });
                }
            }
        }
        steps_of.push(steps);
    }
    let listeners = draft.listeners.iter();
    let steps_of: Vec<Vec<Step>> = listeners
        .map(|listener| {
            let pools = with_fallbacks(draft, listener.pools());
            pools.iter().flat_map(|pool| steps_of[*pool].iter().copied()).collect()
        })
        .collect();
    let mut state = vec![Visit::Not; draft.listeners.len()];
    for start in 0..draft.listeners.len() {
        walk_circle(draft, &steps_of, start, &mut state, found);
    }
}

/// And the pools that requests go to when these fail them.
fn with_fallbacks(draft: &Draft<'_>, mut pools: Vec<usize>) -> Vec<usize> {
    let fallback = |pool: &usize| {
        let fields = draft.pools[*pool].fields.table("breaker")?.table("fallback")?;
        let Some(Scalar::Text(name)) = fields.scalar("pool") else { return None };
        draft.pool_names.get(name.as_str()).copied().flatten()
    };
    let others: Vec<usize> = pools.iter().filter_map(fallback).collect();
    pools.extend(others);
    pools.sort_unstable();
    pools.dedup();
    pools
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    Not,
    OnPath,
    Done,
}

/// Depth first without recursion: a chain may be as long as there are listeners.
fn walk_circle(
    draft: &Draft<'_>,
    steps_of: &[Vec<Step>],
    start: usize,
    state: &mut [Visit],
    found: &mut Findings,
) {
    if state[start] != Visit::Not {
        return;
    }
    let mut path = vec![(start, 0)];
    state[start] = Visit::OnPath;
    while let Some((listener, next)) = path.last_mut() {
        let Some(step) = steps_of[*listener].get(*next).copied() else {
            state[*listener] = Visit::Done;
            path.pop();
            continue;
        };
        *next += 1;
        match state[step.to] {
            Visit::Not => {
                state[step.to] = Visit::OnPath;
                path.push((step.to, 0));
            }
            Visit::OnPath => {
                let begins = path.iter().position(|(l, _)| *l == step.to).unwrap_or(0);
                let members: Vec<usize> = path[begins..].iter().map(|(l, _)| *l).collect();
                report_circle(draft, step, &members, found);
            }
            Visit::Done => {}
        }
    }
}

fn report_circle(draft: &Draft<'_>, step: Step, members: &[usize], found: &mut Findings) {
    let pool = &draft.pools[step.pool];
    let target = &draft.listeners[step.to];
    let server = &pool.plan.servers[step.server];
    let names: Vec<String> =
        members.iter().take(8).map(|l| format!("`{}`", clip(draft.listeners[*l].name))).collect();
    let message = format!(
        "server `{}` of pool `{}` is listener `{}`, which sends to that pool{}: a circle",
        clip(&server.name),
        clip(pool.name),
        clip(target.name),
        if members.len() > 1 { format!(" by way of {}", names.join(", ")) } else { String::new() },
    );
    let key = format!("{}.servers.{}", pool.fields.path, server.name);
    let finding = Finding::new(code::CIRCLE, pool.server_places[step.server], key, message);
    found.add(finding.related(target.fields.place_of("bind"), "the listener binds here"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_by_every_address_of_this_machine_of_its_family() {
        let host =
            Host { addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()] };
        let reaches = |server: &str, bind: &str, stack| {
            let server = super::super::address::server(server).unwrap();
            host.reaches(&server, &super::super::address::bind(bind).unwrap(), stack)
        };
        for (server, bind, own, dual) in [
            ("192.0.2.7:80", "0.0.0.0:80", true, true),
            ("192.0.2.7:81", "0.0.0.0:80", false, false),
            ("192.0.2.8:80", "0.0.0.0:80", false, false),
            ("192.0.2.7:80", "[::]:80", false, true),
            ("127.0.0.2:80", "[::]:80", false, true),
            ("[2001:db8::7]:80", "[::]:80", true, true),
            ("[2001:db8::7]:80", "0.0.0.0:80", false, false),
            ("dns:LOCALHOST.:80", "[::1]:80", true, true),
            ("dns:localhost:80", "[::]:80", true, true),
            ("dns:localhost.test:80", "[::1]:80", false, false),
            ("unix:/run/a/../x", "unix:/run/./x", true, true),
        ] {
            let found = (reaches(server, bind, Stack::Own), reaches(server, bind, Stack::Dual));
            assert_eq!(found, (own, dual), "{server} at {bind}");
        }
    }
}
