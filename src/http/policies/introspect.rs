//! Tokens that their issuer is asked about (RFC 7662).

use std::sync::Arc;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::claims::UnixTime;
use sluicegate_l7::policy::consumer::Principal;
use sluicegate_l7::policy::introspection::{self, Answer};
use sluicegate_l7::policy::spec::{AuthSpec, IntrospectionSpec};
use sluicegate_l7::policy::token_cache::{self, TokenKey};

use super::super::shared_answers::Found;
use super::Refusal;
use super::ask::ask;
use super::auth::{Outcome, principal_of, refused};
use super::run::Step;
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

pub(super) async fn run<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    asked: &IntrospectionSpec,
    token: &[u8],
) -> Outcome {
    let until = step.office.now() + asked.timeout;
    let answers = step.site.rules.answers(at).filter(|_| asked.cache.keeps());
    let Some(answers) = answers else {
        let judged = fresh(step, spec, asked, token, until).await;
        return judged.map_or_else(|| nobody(asked), |judged| judged.result.into());
    };
    let key = TokenKey::of(token);
    let flight = match answers.find(step.office, &key, until).await {
        Found::Known(Ok(principal)) => return Outcome::Known(Some(principal)),
        Found::Known(Err(refusal)) => return Refusal::clone(&refusal).into(),
        Found::Nobody => return nobody(asked),
        Found::Ask(flight) => flight,
    };
    let Some(Judged { result, ends }) = fresh(step, spec, asked, token, until).await else {
        return nobody(asked);
    };
    let (known, ttl) = match &result {
        Ok(principal) => (Ok(Arc::clone(principal)), asked.cache.ttl),
        Err(denial) => (Err(Arc::new(Refusal::Denied(denial.clone()))), asked.cache.negative),
    };
    if ttl.is_some() {
        let now = step.office.unix_time();
        answers.keep(key, known, token_cache::until(ends, ttl, now), now);
    }
    if let Some(flight) = flight {
        flight.land();
    }
    result.into()
}

/// What an answer says of a token.
struct Judged {
    result: Result<Arc<Principal>, Denial>,
    /// When the token does.
    ends: Option<UnixTime>,
}

/// Asks. `None`: there was no answer, or none that says anything.
async fn fresh<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    asked: &IntrospectionSpec,
    token: &[u8],
    until: Time,
) -> Option<Judged> {
    let request = question(asked, token);
    let reply = ask(step.office, asked.pool, &request, until).await.ok()?;
    if reply.status != 200 {
        return None;
    }
    match introspection::read(&reply.body, &asked.rules, step.office.unix_time()) {
        Answer::Active(claims) => {
            let ends = claims.expires_at();
            Some(Judged { result: principal_of(step, spec, &asked.identity, claims), ends })
        }
        Answer::Refused(refusal) => {
            Some(Judged { result: Err(refused(spec, refusal)), ends: None })
        }
        Answer::Unusable(_) => None,
    }
}

fn question(asked: &IntrospectionSpec, token: &[u8]) -> Vec<u8> {
    let body = introspection::question(token);
    let login =
        introspection::authorization(asked.client_id.as_bytes(), asked.client_secret.as_bytes());
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nAccept: \
         application/json\r\nAuthorization: ",
        asked.path,
        asked.host,
        introspection::CONTENT_TYPE,
        body.len()
    );
    [head.as_bytes(), &login, b"\r\n\r\n", &body].concat()
}

/// Nobody answered.
fn nobody(asked: &IntrospectionSpec) -> Outcome {
    if asked.allow_on_error {
        Outcome::Known(None)
    } else {
        Outcome::Refused(Refusal::Denied(Denial::unavailable()))
    }
}
