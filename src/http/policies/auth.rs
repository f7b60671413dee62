//! Who asks: credentials found, judged, and made a principal of.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::claims::Claims;
use sluicegate_l7::policy::consumer::{Principal, is_group, is_id};
use sluicegate_l7::policy::credential::{self, Found};
use sluicegate_l7::policy::jwt;
use sluicegate_l7::policy::limit_lines::LimitLine;
use sluicegate_l7::policy::rate::{Decision, Rate};
use sluicegate_l7::policy::spec::{
    AuthSpec, CertName, Credential, Declared, IdentitySpec, JwtPolicy, Kind,
};
use sluicegate_l7::policy::token_cache::{self, TokenKey};

use super::super::errand::Errand;
use super::gate::Refusal;
use super::run::Step;
use super::{forward, introspect, limits, passwords};
use crate::runtime::driver::Driver;
use crate::runtime::time::Time;

/// What a policy made of a request.
pub(super) enum Outcome {
    /// Its credential is not there.
    Absent,
    /// `None`: the service that would know did not answer, and requests pass without it.
    Known(Option<Arc<Principal>>),
    /// The credential is bad.
    Bad(Denial),
    /// Not the credential's fault, or it is good and not enough.
    Refused(Refusal),
}

impl Outcome {
    /// Whether it counts for `max_failures`. Of an answer of forward auth it is not known whether
    /// there was a credential at all; 401 says that none was good.
    const fn is_failure(&self) -> bool {
        matches!(self, Self::Bad(_) | Self::Refused(Refusal::Relayed { status: 401, .. }))
    }
}

impl From<Result<Arc<Principal>, Denial>> for Outcome {
    fn from(result: Result<Arc<Principal>, Denial>) -> Self {
        match result {
            Ok(principal) => Self::Known(Some(principal)),
            Err(denial) => Refusal::Denied(denial).into(),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denial) if denial.status == 401 => Self::Bad(denial),
            refusal => Self::Refused(refusal),
        }
    }
}

/// Good tokens that a worker remembers, and how long at most: their keys may be taken back.
const TOKENS_MAX: usize = 100_000;
const REMEMBERED: Duration = Duration::from_secs(60);

/// How long a request with a token of an unknown key waits while keys are fetched, and how often
/// it looks.
const NEW_KEY_PATIENCE: Duration = Duration::from_secs(2);
const NEW_KEY_LOOK: Duration = Duration::from_millis(5);

/// Runs a policy that says who it is.
pub(super) async fn run<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    errand: &mut Errand,
) -> Result<(), Refusal> {
    let mut outcome = Outcome::Absent;
    let mut by = step.at;
    for part in step.site.rules.with_parts(step.at) {
        let Kind::Auth(own) = &step.site.rules.specs()[part].kind else { continue };
        if matches!(own.by, Credential::Any(_)) {
            continue;
        }
        by = part;
        outcome = one(step, part, own, errand).await;
        if !matches!(outcome, Outcome::Absent) {
            break;
        }
    }
    match outcome {
        Outcome::Known(principal) => {
            if let Some(principal) = principal {
                errand.gate.found(principal, by);
            }
            Ok(())
        }
        Outcome::Absent if spec.optional => Ok(()),
        Outcome::Absent => Err(Refusal::Denied(challenges(step, step.at))),
        Outcome::Bad(denial) => Err(Refusal::Denied(denial)),
        Outcome::Refused(refusal) => Err(refusal),
    }
}

async fn one<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    errand: &mut Errand,
) -> Outcome {
    if let Some(counted) = failures(step, at, spec, false).filter(|now| !now.1.allowed) {
        return too_many(step, at, counted, errand);
    }
    let began = step.office.now();
    let outcome = judged(step, at, spec).await;
    let fails = outcome.is_failure();
    if !fails && step.office.now() == began {
        return outcome;
    }
    // Others of this client were judged meanwhile: who tries many at once hears of no more of them
    // than who tries one after the other.
    let counted = failures(step, at, spec, fails);
    match counted.filter(|(_, decision)| !decision.allowed) {
        Some(counted) => too_many(step, at, counted, errand),
        None => outcome,
    }
}

/// What a client with too many bad credentials hears, whatever this one is.
fn too_many<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    (rate, decision): (Rate, Decision),
    errand: &mut Errand,
) -> Outcome {
    let name = &step.site.rules.specs()[at].name;
    if let Some(line) = LimitLine::of_rates(name, &[rate], &decision) {
        errand.gate.standings.push((at as u16, limits::standing(&line)));
    }
    Outcome::Refused(Refusal::Denied(limits::too_many("rate-limited", &decision)))
}

/// How this client stands with its bad credentials, where they are counted; `takes`: here is one
/// more.
fn failures<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    takes: bool,
) -> Option<(Rate, Decision)> {
    let (rate, client) = (spec.failures?, step.client()?);
    let table = step.office.limits();
    let address = crate::limits::scope_of(client);
    let key = table.key(&[&address]);
    // A policy that says who it is limits nothing else, so its number is free.
    let (policy, now) = (at as u16, step.office.now().0);
    let decision = if takes {
        table.take(policy, key, &[rate], now)
    } else {
        table.look(policy, key, &[rate], now)
    };
    Some((rate, decision))
}

async fn judged<D: Driver>(step: &Step<'_, '_, D>, at: usize, spec: &AuthSpec) -> Outcome {
    let fields = &step.case.lines;
    let rules = &step.site.rules;
    let bad = |what: &'static str| Outcome::Bad(challenge(spec, Some(what)));
    match &spec.by {
        Credential::ApiKey(from) => {
            match credential::key(fields, step.case.query.unwrap_or_default(), from) {
                Found::Absent => Outcome::Absent,
                Found::Malformed => bad("the key cannot be read"),
                Found::Here(key) => {
                    match rules.consumers.by_key(&key, step.office.unix_now() as i64) {
                        Some(principal) => Outcome::Known(Some(principal)),
                        None => bad("the key is not known"),
                    }
                }
            }
        }
        Credential::Basic => match credential::basic(fields) {
            Found::Absent => Outcome::Absent,
            Found::Malformed => bad("the credentials cannot be read"),
            Found::Here((name, password)) => {
                match passwords::verify(step.office, rules, &name, &password).await {
                    Ok(Some(principal)) => Outcome::Known(Some(principal)),
                    Ok(None) => bad("the name or the password is wrong"),
                    Err(denial) => Outcome::Refused(Refusal::Denied(denial)),
                }
            }
        },
        Credential::ClientCert { from, declared } => client_cert(step, spec, *from, *declared),
        Credential::Jwt(policy) => match credential::token(fields, &policy.from) {
            Found::Absent => Outcome::Absent,
            Found::Malformed => bad("the token cannot be read"),
            Found::Here(token) => jwt(step, at, spec, policy, token).await.into(),
        },
        Credential::Introspection(asked) => match credential::token(fields, &asked.from) {
            Found::Absent => Outcome::Absent,
            Found::Malformed => bad("the token cannot be read"),
            Found::Here(token) => Box::pin(introspect::run(step, at, spec, asked, token)).await,
        },
        Credential::ForwardAuth(asked) => Box::pin(forward::run(step, at, spec, asked)).await,
        Credential::Any(_) => Outcome::Absent,
    }
}

fn client_cert<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    from: CertName,
    declared: Declared,
) -> Outcome {
    let client = step.peers.tls.as_ref().and_then(|tls| tls.client.as_ref());
    let Some(client) = client else { return Outcome::Absent };
    let id = match from {
        CertName::CommonName => Some(client.name.as_str()),
        CertName::San => client.first_san(),
        CertName::Fingerprint => Some(client.fingerprint.as_str()),
    };
    match id.filter(|id| is_id(id)) {
        Some(id) => {
            let unknown = Principal {
                id: id.to_owned(),
                groups: Vec::new(),
                declared: None,
                claims: None,
                lines: Vec::new(),
            };
            declare(step, spec, declared, unknown).into()
        }
        None => Outcome::Bad(challenge(spec, Some("the certificate has no such name"))),
    }
}

/// The principal as the consumer of that name, if there is one and it shall be.
fn declare<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    declared: Declared,
    mut principal: Principal,
) -> Result<Arc<Principal>, Denial> {
    if declared == Declared::Ignore {
        return Ok(Arc::new(principal));
    }
    let consumers = &step.site.rules.consumers;
    if consumers.is_disabled(&principal.id) {
        return Err(challenge(spec, Some("the consumer is switched off")));
    }
    match consumers.by_name(&principal.id) {
        Some(own) => {
            principal.declared = own.declared;
            let more = own.groups.iter().filter(|group| !principal.is_in(group)).cloned();
            let more: Vec<String> = more.collect();
            principal.groups.extend(more);
            Ok(Arc::new(principal))
        }
        None if declared == Declared::Require => Err(Denial::forbidden()),
        None => Ok(Arc::new(principal)),
    }
}

async fn jwt<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    spec: &AuthSpec,
    policy: &JwtPolicy,
    token: &[u8],
) -> Result<Arc<Principal>, Denial> {
    let patience = step.office.now() + NEW_KEY_PATIENCE;
    loop {
        let Some((keys, generation)) = step.office.jwt_keys(&step.site.rules, at) else {
            return Err(Denial::unavailable());
        };
        let now = step.office.unix_time();
        let answers = step.office.answers(&step.site.rules, at, TOKENS_MAX);
        let key = TokenKey::of(token);
        if let Some(principal) = answers.find(&key, generation, now) {
            return Ok(principal);
        }
        let claims = match jwt::verify(&policy.check, &keys, token, now) {
            Ok(claims) => claims,
            Err(jwt::Refusal::UnknownKey) if newer_keys(step, at, generation, patience).await => {
                continue;
            }
            Err(refusal) => return Err(refused(spec, refusal)),
        };
        let until = token_cache::until(claims.expires_at(), Some(REMEMBERED), now);
        let principal = principal_of(step, spec, &policy.identity, claims)?;
        answers.keep(key, generation, Arc::clone(&principal), until, now);
        return Ok(principal);
    }
}

/// Asks for newer keys and waits for them, if they may be here soon.
async fn newer_keys<D: Driver>(
    step: &Step<'_, '_, D>,
    at: usize,
    generation: u64,
    until: Time,
) -> bool {
    let Some(shared) = step.site.rules.keys(at) else { return false };
    shared.want();
    let shell = step.office.shell();
    loop {
        if shared.generation() != generation {
            return true;
        }
        if !shared.asks() || shell.now() >= until {
            return false;
        }
        shell.sleep_until(shell.now() + NEW_KEY_LOOK).await;
    }
}

/// Who it is by claims that are believed.
pub(super) fn principal_of<D: Driver>(
    step: &Step<'_, '_, D>,
    spec: &AuthSpec,
    identity: &IdentitySpec,
    claims: Claims,
) -> Result<Arc<Principal>, Denial> {
    let Some(id) = claims.consumer_id(&identity.consumer).map(Cow::into_owned) else {
        return Err(challenge(spec, Some("the token names no consumer")));
    };
    let groups = identity.groups.as_ref().map(|selector| {
        claims.texts(selector).map(Cow::into_owned).filter(|group| is_group(group)).collect()
    });
    let mut lines = Vec::new();
    for (name, selector) in &identity.forward {
        let Some(value) = claims.text(selector) else { continue };
        let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if value.is_empty() || !value.bytes().all(visible) {
            continue;
        }
        for part in [name, ": ", value.trim(), "\r\n"] {
            lines.extend_from_slice(part.as_bytes());
        }
    }
    let groups = groups.unwrap_or_default();
    let unknown = Principal { id, groups, declared: None, claims: Some(claims), lines };
    declare(step, spec, identity.declared, unknown)
}

/// What a token's client is told that was refused (RFC 6750 §3.1).
pub(super) fn refused(spec: &AuthSpec, refusal: jwt::Refusal) -> Denial {
    if refusal.status() == 403 {
        return Denial::forbidden().with_detail(refusal.detail());
    }
    let realm = quoted(&spec.realm);
    let detail = refusal.detail();
    let error = refusal.error();
    let challenge =
        format!("Bearer realm={realm}, error=\"{error}\", error_description=\"{detail}\"");
    Denial::unauthorized(&challenge).with_detail(detail)
}

/// 401 with the policy's challenge (RFC 9110 §11.6.1).
pub(super) fn challenge(spec: &AuthSpec, what: Option<&'static str>) -> Denial {
    let realm = quoted(&spec.realm);
    let challenge = match &spec.by {
        Credential::Basic => format!("Basic realm={realm}, charset=\"UTF-8\""),
        Credential::ApiKey(_) => format!("ApiKey realm={realm}"),
        Credential::ClientCert { .. } => format!("ClientCertificate realm={realm}"),
        _ => match what {
            Some(_) => format!("Bearer realm={realm}, error=\"invalid_token\""),
            None => format!("Bearer realm={realm}"),
        },
    };
    Denial::unauthorized(&challenge).with_detail(what.unwrap_or_default())
}

/// 401 with the challenge of the policy, or of each of its alternatives.
fn challenges<D: Driver>(step: &Step<'_, '_, D>, at: usize) -> Denial {
    let mut denial = Denial::new("unauthorized", 401);
    for part in step.site.rules.with_parts(at) {
        if let Kind::Auth(spec) = &step.site.rules.specs()[part].kind
            && !matches!(spec.by, Credential::Any(_))
        {
            denial.lines.extend(challenge(spec, None).lines);
        }
    }
    denial
}

/// 401 for somebody whom no policy of the chain knows, and one would have to.
pub(super) fn challenge_of_chain<D: Driver>(step: &Step<'_, '_, D>) -> Denial {
    let route = match step.case.found {
        sluicegate_l7::route::Found::Route { route, .. } => Some(route),
        _ => None,
    };
    let steps = step.site.chain(route).steps().iter();
    let auth = steps.copied().find(|&at| matches!(step.site.rules.specs()[at].kind, Kind::Auth(_)));
    auth.map_or_else(Denial::forbidden, |at| challenges(step, at))
}

/// RFC 9110 §5.6.4
fn quoted(text: &str) -> String {
    let visible = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
    let mut out = String::from("\"");
    for c in visible {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
