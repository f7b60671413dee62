//! A service that decides about each request ("forward auth").

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_l7::http1::{Known as Name, Lines};
use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::consumer::{Principal, is_id};
use sluicegate_l7::policy::spec::{AuthSpec, ForwardAuthSpec};
use sluicegate_l7::policy::token_cache::TokenKey;
use sluicegate_l7::route::Fields as _;

use super::super::shared_answers::{Found, Known};
use super::ask::{Reply, ask};
use super::auth::{Outcome, challenge};
use super::gate::Refusal;
use super::run::Step;
use crate::runtime::driver::Driver;

/// Bytes of an answer that is kept: it says why not, or where to log in.
const KEPT_BYTES_MAX: usize = 16 << 10;

pub(super) async fn run<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    asked: &ForwardAuthSpec,
) -> Outcome {
    let mut request = Vec::with_capacity(1_024);
    write_question(step, asked, &mut request);
    let until = step.office.now() + asked.timeout;
    let answers = step.site.rules.answers(at).filter(|_| asked.cache.keeps());
    let Some(answers) = answers else {
        let reply = ask(step.office, asked.pool, &request, until).await;
        return reply.map_or_else(|_| nobody(asked), |reply| judged(spec, asked, reply).0);
    };
    // The question is all that the answer can depend on.
    let key = TokenKey::of(&request);
    let flight = match answers.find(step.office, &key, until).await {
        Found::Known(Ok(principal)) => return Outcome::Known(Some(principal)),
        Found::Known(Err(refusal)) => return Refusal::clone(&refusal).into(),
        Found::Nobody => return nobody(asked),
        Found::Ask(flight) => flight,
    };
    let Ok(reply) = ask(step.office, asked.pool, &request, until).await else {
        return nobody(asked);
    };
    let (outcome, kept) = judged(spec, asked, reply);
    if let Some((known, ttl)) = kept {
        let now = step.office.unix_time();
        answers.keep(key, known, now.saturating_add(ttl), now);
    }
    if let Some(flight) = flight {
        flight.land();
    }
    outcome
}

/// What an answer comes to, and what of it others may have for how long.
fn judged(
    spec: &AuthSpec,
    asked: &ForwardAuthSpec,
    reply: Reply,
) -> (Outcome, Option<(Known, Duration)>) {
    let (refusal, own) = if (200..300).contains(&reply.status) {
        match principal_of(spec, asked, &reply) {
            Ok(principal) => {
                let principal = Arc::new(principal);
                let kept = asked.cache.ttl.map(|ttl| (Ok(Arc::clone(&principal)), ttl));
                return (Outcome::Known(Some(principal)), kept);
            }
            Err(denial) => (Refusal::Denied(denial), false),
        }
    } else {
        let own = sets_cookie(&reply);
        (relayed(reply), own)
    };
    let small = refusal.weight() <= KEPT_BYTES_MAX;
    let negative = asked.cache.negative.filter(|_| small && !own);
    let kept = negative.map(|ttl| (Err(Arc::new(refusal.clone())), ttl));
    (refusal.into(), kept)
}

/// No answer in time.
fn nobody(asked: &ForwardAuthSpec) -> Outcome {
    if asked.allow_on_error {
        Outcome::Known(None)
    } else {
        Outcome::Refused(Refusal::Denied(Denial::unavailable()))
    }
}

fn write_question<D: Driver>(step: &Step<'_, '_, D>, asked: &ForwardAuthSpec, out: &mut Vec<u8>) {
    let case = step.case;
    let bytes = case.lines.bytes;
    let host = case.head.host.map_or(&b""[..], |span| span.of(bytes));
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    line("GET ", &[asked.path.as_bytes(), b" HTTP/1.1"].concat());
    line("Host: ", if asked.host.is_empty() { host } else { asked.host.as_bytes() });
    line("X-Forwarded-Method: ", case.method.as_bytes());
    line("X-Forwarded-Proto: ", case.scheme.as_bytes());
    line("X-Forwarded-Host: ", host);
    let query = case.query.map(|query| format!("?{query}")).unwrap_or_default();
    line("X-Forwarded-Uri: ", format!("{}{query}", case.path).as_bytes());
    if let Some(client) = step.client() {
        line("X-Forwarded-For: ", client.to_canonical().to_string().as_bytes());
    }
    for name in &asked.send {
        for at in 0.. {
            let Some(value) = case.lines.line(name, at) else { break };
            line(&format!("{name}: "), value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Who it is by the answer of the service, and what servers are told of it. Without the field that
/// names a consumer it is nobody.
///
/// # Errors
/// What the field says is no name that could be told on.
fn principal_of(
    spec: &AuthSpec,
    asked: &ForwardAuthSpec,
    reply: &Reply,
) -> Result<Principal, Denial> {
    let lines = Lines { bytes: &reply.head, fields: &reply.fields };
    let named = asked.consumer.as_ref().and_then(|name| lines.line(name, 0));
    let id = match named.map(std::str::from_utf8) {
        None => "",
        Some(Ok(id)) if is_id(id) => id,
        Some(_) => return Err(challenge(spec, Some("the auth service names no consumer"))),
    };
    let mut copied = Vec::new();
    for name in &asked.copy {
        for at in 0.. {
            let Some(value) = lines.line(&name.to_ascii_lowercase(), at) else { break };
            // A Vec takes every write.
            let _ = write!(copied, "{name}: ");
            copied.extend_from_slice(value);
            copied.extend_from_slice(b"\r\n");
        }
    }
    Ok(Principal {
        id: id.to_owned(),
        groups: Vec::new(),
        declared: None,
        claims: None,
        lines: copied,
    })
}

/// Whether an answer is for one client: others get no cookie of its session.
fn sets_cookie(reply: &Reply) -> bool {
    reply.fields.end_to_end().any(|field| field.known == Some(Name::SetCookie))
}

/// The answer of the service as the client gets it.
fn relayed(reply: Reply) -> Refusal {
    let mut lines = Vec::new();
    for field in reply.fields.end_to_end() {
        if matches!(
            field.known,
            Some(
                Name::ContentLength
                    | Name::Server
                    | Name::XPoweredBy
                    | Name::Via
                    | Name::XRequestId
            )
        ) {
            continue;
        }
        for part in [field.name.of(&reply.head), b": ", field.value.of(&reply.head), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    Refusal::Relayed { status: reply.status, lines, body: reply.body }
}
