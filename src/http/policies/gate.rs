//! What policies found out about a request, and what they took for it.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::limit_lines::{LimitLine, write_rate_limit, write_rate_limit_policy};

use super::super::site::Site;
use crate::limits::Permit;

/// Of one request, until it is over.
#[derive(Debug, Default)]
pub struct Gate {
    /// Who asks.
    pub principal: Option<Arc<Principal>>,
    /// The policy that found that out.
    pub auth: Option<u16>,
    /// Places among requests in flight.
    pub permits: Vec<Permit>,
    /// How limits stand, by policy.
    pub standings: Vec<(u16, Standing)>,
    /// What each policy took, and all of them.
    pub costs: Vec<(u16, Duration)>,
    pub took: Duration,
    /// The policy that refused, also if that was only counted.
    pub denied: Vec<u16>,
    /// The body may be no larger.
    pub body_max: Option<u64>,
    /// What the answer says of what policies took; `None`: it says nothing of times.
    pub timing: Option<Vec<u8>>,
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
    /// Appends the lines that its answer has.
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Denied(denial) => &denial.lines,
            Self::Preflight(lines) | Self::Relayed { lines, .. } => lines,
        });
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
    /// Appends what servers are told of who asks.
    pub fn write_consumer(&self, site: &Site, out: &mut Vec<u8>) {
        let Some(principal) = &self.principal else { return };
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        };
        if !principal.id.is_empty() {
            line("X-Consumer-Id", &principal.id);
            if !principal.groups.is_empty() {
                line("X-Consumer-Groups", &principal.groups.join(","));
            }
            if let Some(auth) = self.auth {
                line("X-Consumer-Auth", &site.rules.specs()[usize::from(auth)].name);
            }
        }
        out.extend_from_slice(&principal.lines);
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

/// Appends one item of the list, in milliseconds.
fn push_metric(name: &str, took: Duration, list: &mut Vec<u8>) {
    use std::io::Write as _;
    let comma = if list.is_empty() { "" } else { ", " };
    // A Vec takes every write.
    let _ = write!(list, "{comma}{name};dur={:.3}", took.as_secs_f64() * 1e3);
}
