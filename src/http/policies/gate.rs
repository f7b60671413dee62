//! What policies found out about a request, and what they took for it.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::limit_lines::{LimitLine, write_rate_limit, write_rate_limit_policy};

use super::super::reply::is_cors;
use super::super::site::Site;
use crate::limits::Permit;

/// Of one request, until it is over.
#[derive(Debug, Default)]
pub struct Gate {
    /// Who asks.
    pub principal: Option<Arc<Principal>>,
    /// The policy that found that out.
    pub auth: Option<u16>,
    /// What servers are told beside who asks, by every policy that had a word to say.
    lines: Vec<u8>,
    /// Places among requests in flight.
    pub permits: Vec<Permit>,
    /// How limits stand, by policy.
    pub standings: Vec<(u16, Standing)>,
    /// What each policy took, and all of them.
    pub costs: Vec<(u16, Duration)>,
    pub took: Duration,
    /// The policy that refused, also if that was only counted.
    pub denied: Vec<u16>,
    /// Bounds of a body whose length its head does not tell.
    pub body_limits: Vec<BodyLimit>,
    /// What the answer says of what policies took; `None`: it says nothing of times.
    pub timing: Option<Vec<u8>>,
}

/// How large a policy lets a body be that is judged while it comes.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit {
    pub policy: u16,
    pub max: u64,
    /// A larger one is only counted.
    pub dry: bool,
}

/// How a limit stands after a request, for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub quota: u32,
    pub window: u64,
    pub remaining: u32,
    pub reset_after: Duration,
}

/// An answer in place of a server's.
#[derive(Clone, Debug)]
pub enum Refusal {
    Denied(Denial),
    /// 204, with these lines.
    Preflight(Vec<u8>),
    /// What an auth service says, as it is.
    Relayed {
        status: u16,
        lines: Vec<u8>,
        body: Vec<u8>,
    },
}

impl Refusal {
    /// Appends the lines that its answer has. With `own_cors` those of CORS are the gateway's, and
    /// a browser takes no second ones.
    pub fn write_lines(&self, own_cors: bool, out: &mut Vec<u8>) {
        match self {
            Self::Denied(denial) => out.extend_from_slice(&denial.lines),
            Self::Relayed { lines, .. } if own_cors => {
                let lines = lines.split_inclusive(|&byte| byte == b'\n');
                lines.filter(|line| !is_cors(line)).for_each(|line| out.extend_from_slice(line));
            }
            Self::Preflight(lines) | Self::Relayed { lines, .. } => out.extend_from_slice(lines),
        }
    }

    /// Bytes that it holds.
    #[must_use]
    pub const fn weight(&self) -> usize {
        match self {
            Self::Denied(denial) => denial.lines.len(),
            Self::Preflight(lines) => lines.len(),
            Self::Relayed { lines, body, .. } => lines.len() + body.len(),
        }
    }
}

impl Gate {
    /// Notes what a policy found. The first consumer counts; a service that let the request pass
    /// and named nobody is no consumer, but what it says still goes to servers. So does what a
    /// later policy says, except in fields of which an earlier one has spoken.
    pub fn found(&mut self, principal: Arc<Principal>, policy: usize) {
        let before = self.lines.len();
        for line in principal.lines.split_inclusive(|&byte| byte == b'\n') {
            let told = self.lines[..before].split_inclusive(|&byte| byte == b'\n');
            if !told.map(name_of).any(|name| name.eq_ignore_ascii_case(name_of(line))) {
                self.lines.extend_from_slice(line);
            }
        }
        if self.principal.is_none() && !principal.id.is_empty() {
            self.principal = Some(principal);
            self.auth = Some(policy as u16);
        }
    }

    /// Payload that the request's body may have.
    #[must_use]
    pub fn body_max(&self) -> Option<u64> {
        self.body_limits.iter().filter(|limit| !limit.dry).map(|limit| limit.max).min()
    }

    /// Notes the policies for which `total` bytes of payload were too many.
    pub fn judge_body(&mut self, total: u64) {
        let over = self.body_limits.iter().filter(|limit| total > limit.max);
        self.denied.extend(over.map(|limit| limit.policy));
    }

    /// Appends what servers are told of who asks.
    pub fn write_consumer(&self, site: &Site, out: &mut Vec<u8>) {
        if let Some(principal) = &self.principal {
            let mut line = |name: &str, value: &str| {
                for part in [name, ": ", value, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            };
            line("X-Consumer-Id", &principal.id);
            if !principal.groups.is_empty() {
                line("X-Consumer-Groups", &principal.groups.join(","));
            }
            if let Some(auth) = self.auth {
                line("X-Consumer-Auth", &site.rules.specs()[usize::from(auth)].name);
            }
        }
        out.extend_from_slice(&self.lines);
    }

    /// Appends how limits stand.
    pub fn write_limits(&self, site: &Site, out: &mut Vec<u8>) {
        if self.standings.is_empty() {
            return;
        }
        let lines: Vec<LimitLine<'_>> = self
            .standings
            .iter()
            .map(|(policy, now)| LimitLine {
                name: &site.rules.specs()[usize::from(*policy)].name,
                quota: now.quota,
                window: now.window,
                remaining: now.remaining,
                reset_after: now.reset_after,
            })
            .collect();
        out.extend_from_slice(b"RateLimit: ");
        write_rate_limit(&lines, out);
        out.extend_from_slice(b"\r\nRateLimit-Policy: ");
        write_rate_limit_policy(&lines, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Notes what each policy took, for the answer to say.
    pub fn tell_times(&mut self, site: &Site) {
        let mut told = Vec::new();
        for (policy, took) in &self.costs {
            push_metric(&site.rules.specs()[usize::from(*policy)].name, *took, &mut told);
        }
        self.timing = Some(told);
    }

    /// Appends what policies took, and the server where one answered (Server Timing, W3C).
    pub fn write_timing(&self, upstream: Option<Duration>, out: &mut Vec<u8>) {
        let Some(policies) = &self.timing else { return };
        let mut told = policies.clone();
        if let Some(took) = upstream {
            push_metric("upstream", took, &mut told);
        }
        if !told.is_empty() {
            for part in [&b"Server-Timing: "[..], &told, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

/// The name of a line.
fn name_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or_default()
}

/// Appends one item of the list, in milliseconds.
fn push_metric(name: &str, took: Duration, list: &mut Vec<u8>) {
    use std::io::Write as _;
    let comma = if list.is_empty() { "" } else { ", " };
    // A Vec takes every write.
    let _ = write!(list, "{comma}{name};dur={:.3}", took.as_secs_f64() * 1e3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(id: &str, lines: &str) -> Arc<Principal> {
        Arc::new(Principal {
            id: id.to_owned(),
            groups: Vec::new(),
            declared: None,
            claims: None,
            lines: lines.as_bytes().to_vec(),
        })
    }

    fn found(steps: &[(&str, &str)]) -> (Option<String>, Option<u16>, String) {
        let mut gate = Gate::default();
        for (at, (id, lines)) in steps.iter().enumerate() {
            gate.found(principal(id, lines), at);
        }
        let lines = String::from_utf8(gate.lines).unwrap();
        (gate.principal.map(|principal| principal.id.clone()), gate.auth, lines)
    }

    #[test]
    fn the_first_consumer_counts_and_every_policy_is_heard() {
        let nobody_first = found(&[("", "X-User: u\r\n"), ("alice", "X-Tenant: t\r\n")]);
        let both = "X-User: u\r\nX-Tenant: t\r\n".to_owned();
        assert_eq!(nobody_first, (Some("alice".to_owned()), Some(1), both));
        let nobody_last = found(&[("alice", ""), ("", "X-User: u\r\n"), ("bob", "")]);
        assert_eq!(nobody_last, (Some("alice".to_owned()), Some(0), "X-User: u\r\n".to_owned()));
        assert_eq!(found(&[("", "")]), (None, None, String::new()), "nobody is no consumer");
    }

    #[test]
    fn a_body_is_held_to_the_least_bound_and_counted_by_each_that_it_was_over() {
        let limit = |policy, max, dry| BodyLimit { policy, max, dry };
        let limits = [limit(0, 8, false), limit(1, 4, true), limit(2, 16, false)];
        let mut gate = Gate { body_limits: limits.to_vec(), ..Gate::default() };
        assert_eq!(gate.body_max(), Some(8), "a dry one holds nobody");
        gate.judge_body(4);
        assert!(gate.denied.is_empty());
        gate.judge_body(9);
        assert_eq!(gate.denied, [0, 1]);
    }

    #[test]
    fn of_a_field_the_first_policy_has_the_word_with_all_its_lines() {
        let lines = "X-Role: a\r\nX-Role: b\r\n";
        let (.., told) = found(&[("alice", lines), ("bob", "x-role: root\r\nX-Own: 1\r\n")]);
        assert_eq!(told, format!("{lines}X-Own: 1\r\n"));
    }
}
