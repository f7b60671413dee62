//! Tokens that their issuer is asked about (RFC 7662).

use std::sync::Arc;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::introspection::{self, Answer};
use sluicegate_l7::policy::spec::{AuthSpec, IntrospectionSpec};
use sluicegate_l7::policy::token_cache::{self, TokenKey};

use super::super::kept_answers::Kept;
use super::Refusal;
use super::ask::ask;
use super::auth::{Outcome, principal_of, refused};
use super::run::Step;
use crate::runtime::driver::Driver;

pub(super) async fn run<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    asked: &IntrospectionSpec,
    token: &[u8],
) -> Outcome {
    let answers = step.office.answers(at, asked.cache.entries);
    let key = TokenKey::of(token);
    let until = step.office.now() + asked.timeout;
    loop {
        match answers.find(&key, 0, step.office.unix_time()) {
            Some(Ok(principal)) => return Outcome::Known(Some(principal)),
            Some(Err(refusal)) => return Refusal::clone(&refusal).into(),
            None => {}
        }
        // Only one asks; the others hear what it heard.
        if let Some(_flight) = answers.fly(&key) {
            return fresh(step, spec, asked, token, &answers, key).await;
        }
        answers.landing(&key, step.office.shell(), until).await;
        if step.office.now() >= until {
            return nobody(asked);
        }
    }
}

async fn fresh<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    asked: &IntrospectionSpec,
    token: &[u8],
    answers: &Kept,
    key: TokenKey,
) -> Outcome {
    let request = question(asked, token);
    let until = step.office.now() + asked.timeout;
    let Ok(reply) = ask(step.office, asked.pool, &request, until).await else {
        return nobody(asked);
    };
    if reply.status != 200 {
        return nobody(asked);
    }
    let now = step.office.unix_time();
    let (result, ends) = match introspection::read(&reply.body, &asked.rules, now) {
        Answer::Active(claims) => {
            let ends = claims.expires_at();
            (principal_of(step, spec, &asked.identity, claims), ends)
        }
        Answer::Refused(refusal) => (Err(refused(spec, refusal)), None),
        Answer::Unusable(_) => return nobody(asked),
    };
    let (known, ttl) = match &result {
        Ok(principal) => (Ok(Arc::clone(principal)), asked.cache.ttl),
        Err(denial) => (Err(Arc::new(Refusal::Denied(denial.clone()))), asked.cache.negative),
    };
    if ttl.is_some() {
        answers.keep(key, 0, known, token_cache::until(ends, ttl, now), now);
    }
    result.into()
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
