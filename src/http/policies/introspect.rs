//! Tokens that their issuer is asked about (RFC 7662).

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::introspection::{self, Answer};
use sluicegate_l7::policy::spec::{AuthSpec, IntrospectionSpec};
use sluicegate_l7::policy::token_cache::{self, TokenKey};

use super::super::kept_answers::Kept;
use super::Refusal;
use super::ask::ask;
use super::auth::{Outcome, challenge, principal_of, refused};
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
            Some(Some(principal)) => return Outcome::Known(Some(principal)),
            Some(None) => return Outcome::Bad(challenge(spec, Some("the token is not active"))),
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
    match introspection::read(&reply.body, &asked.rules, now) {
        Answer::Active(claims) => {
            let until = token_cache::until(claims.expires_at(), asked.cache.ttl, now);
            match principal_of(step, spec, &asked.identity, claims) {
                Ok(principal) => {
                    if asked.cache.ttl.is_some() {
                        answers.keep(key, 0, Some(principal.clone()), until, now);
                    }
                    Outcome::Known(Some(principal))
                }
                Err(denial) => Err(denial).into(),
            }
        }
        Answer::Refused(refusal) => {
            if let Some(negative) = asked.cache.negative {
                answers.keep(key, 0, None, now.saturating_add(negative), now);
            }
            Err(refused(spec, refusal)).into()
        }
        Answer::Unusable(_) => nobody(asked),
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
