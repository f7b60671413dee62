//! A chain of policies, step by step.

use std::net::IpAddr;
use std::rc::Rc;

use sluicegate_l7::http1::Framing;
use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::spec::{Kind, PolicySpec};

use super::super::errand::{Case, Errand};
use super::super::office::Office;
use super::super::session::Peers;
use super::super::site::Site;
use super::gate::{BodyLimit, Refusal};
use super::{auth, limits};
use crate::runtime::driver::Driver;

/// What a step looks at.
pub(super) struct Step<'s, 'c, D: Driver> {
    pub office: &'s Rc<Office<D>>,
    pub site: &'s Site,
    pub peers: &'s Peers,
    pub case: &'s Case<'c>,
    /// The policy.
    pub at: usize,
    pub spec: &'s PolicySpec,
}

impl<D: Driver> Step<'_, '_, D> {
    pub fn client(&self) -> Option<IpAddr> {
        self.case.client.ip
    }
}

/// Runs the policies of the request's route. What they found and took is in `errand.gate`.
///
/// # Errors
/// The first refusal.
pub async fn run<D: Driver>(
    office: &Rc<Office<D>>,
    site: &Site,
    peers: &Peers,
    case: &Case<'_>,
    errand: &mut Errand,
) -> Result<(), Refusal> {
    let steps = site.chain(errand.route()).steps();
    if steps.is_empty() {
        return Ok(());
    }
    errand.gate.costs.reserve_exact(steps.len());
    let mut began = office.clock();
    for &at in steps {
        let spec = &site.rules.specs()[at];
        let step = Step { office, site, peers, case, at, spec };
        let result = one(&step, errand).await;
        let ended = office.clock();
        let took = ended.since(began);
        errand.gate.costs.push((at as u16, took));
        errand.gate.took += took;
        began = ended;
        let Err(refusal) = result else { continue };
        if spec.dry_run {
            errand.gate.denied.push(at as u16);
            continue;
        }
        // Its answer to a preflight is no refusal.
        if !matches!(refusal, Refusal::Preflight(_)) {
            errand.gate.denied.push(at as u16);
        }
        return Err(refusal);
    }
    Ok(())
}

async fn one<D: Driver>(step: &Step<'_, '_, D>, errand: &mut Errand) -> Result<(), Refusal> {
    let denied = Refusal::Denied;
    match &step.spec.kind {
        Kind::Ip { .. } => {
            let list = step.site.rules.access(step.at);
            // A unix client has no address, and nothing that could be judged.
            let permits = match (list, step.client()) {
                (Some(list), Some(ip)) => list.permits(ip),
                _ => true,
            };
            if permits { Ok(()) } else { Err(denied(Denial::new("denied", 403))) }
        }
        Kind::Cors(cors) => {
            if step.case.preflight {
                let mut lines = Vec::new();
                cors.write_preflight(&step.case.lines, &mut lines);
                return Err(Refusal::Preflight(lines));
            }
            if !step.spec.dry_run {
                cors.write_answer(&step.case.lines, &mut errand.answer_lines);
            }
            Ok(())
        }
        Kind::Size { body, header } => size(step, errand, *body, *header).map_err(denied),
        Kind::Auth(spec) => auth::run(step, spec, errand).await,
        Kind::Acl(acl) => {
            let principal = errand.gate.principal.as_deref();
            if acl.permits(principal) {
                return Ok(());
            }
            Err(denied(match principal {
                Some(_) => Denial::forbidden(),
                // Optional authentication, and nobody gave a credential.
                None => auth::challenge_of_chain(step),
            }))
        }
        Kind::Rate(limit) => limits::rate(step, limit, errand).await.map_err(denied),
        Kind::Quota(limit) => limits::quota(step, limit, errand).await.map_err(denied),
        Kind::Concurrency { key, limit } => {
            limits::concurrency(step, key, *limit, errand).map_err(denied)
        }
        // Where heads and bodies are written.
        Kind::Headers { .. } | Kind::Transform(_) => Ok(()),
    }
}

fn size<D: Driver>(
    step: &Step<'_, '_, D>,
    errand: &mut Errand,
    body: u64,
    header: Option<u64>,
) -> Result<(), Denial> {
    let lines = &step.case.lines;
    let bytes = || lines.fields.iter(lines.bytes).map(|(name, value)| name.len() + value.len() + 4);
    if header.is_some_and(|max| bytes().sum::<usize>() as u64 > max) {
        return Err(Denial::new("too-large", 431));
    }
    match step.case.head.framing {
        Framing::Length(length) if length > body => return Err(Denial::new("too-large", 413)),
        Framing::Chunked | Framing::UntilClose => {
            let limit = BodyLimit { policy: step.at as u16, max: body, dry: step.spec.dry_run };
            errand.gate.body_limits.push(limit);
        }
        Framing::None | Framing::Length(_) => {}
    }
    Ok(())
}
