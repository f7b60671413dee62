//! The policies and consumers of a plan, made ready once.

use std::sync::Arc;

use sluicegate_l7::policy::chain::Chain;
use sluicegate_l7::policy::consumer::Consumers;
use sluicegate_l7::policy::credential::{KeyFrom, TokenFrom};
use sluicegate_l7::policy::jwks::KeySet;
use sluicegate_l7::policy::spec::{
    AuthSpec, CacheSpec, Credential, IntrospectionSpec, JwtKeys, JwtPolicy, Kind, PolicySpec,
    TransformSpec,
};
use sluicegate_l7::policy::transform::{BodyChanges, QueryChanges};

use super::super::shared_answers::SharedAnswers;
use crate::config::plan::Plan;
use crate::control::jwks::SharedKeys;
use crate::limits::AccessList;
use crate::observe::labels::Labels;

/// Immutable, shared by all workers.
#[derive(Debug, Default)]
pub struct Rules {
    specs: Vec<PolicySpec>,
    pub consumers: Consumers,
    /// By policy: what of it takes work to make.
    made: Vec<Made>,
}

#[derive(Clone, Debug)]
enum Made {
    Nothing,
    Access(Arc<AccessList>),
    Keys(Arc<SharedKeys>),
    Answers(Arc<SharedAnswers>),
}

impl Rules {
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self::after(&Self::default(), plan, &mut Labels::default())
    }

    /// For a plan that has the seats of the one before it: keys that are fetched from where they
    /// were are kept, and what services said of who is who while nothing about that is changed.
    #[must_use]
    pub fn after(before: &Self, plan: &Plan, labels: &mut Labels) -> Self {
        // Who somebody is depends on the consumers there are.
        let same = before.consumers.specs() == plan.consumers;
        let made = |(at, spec): (usize, &PolicySpec)| {
            let old = before.specs.get(at);
            match (before.same_keys(at, spec), before.answers(at)) {
                (Some(kept), _) => Made::Keys(Arc::clone(kept)),
                (_, Some(kept)) if same && old == Some(spec) => Made::Answers(Arc::clone(kept)),
                _ => made(spec),
            }
        };
        Self {
            specs: plan.policies.clone(),
            consumers: Consumers::new(plan.consumers.clone(), |name| labels.number(name)),
            made: plan.policies.iter().enumerate().map(made).collect(),
        }
    }

    /// The keys of a policy, if it was here and fetched them from where `spec` says. When they are
    /// fetched may be another matter now.
    fn same_keys(&self, policy: usize, spec: &PolicySpec) -> Option<&Arc<SharedKeys>> {
        let (old, new) = (self.specs.get(policy)?.fetched_keys()?, spec.fetched_keys()?);
        let same = old.url == new.url && old.verify == new.verify;
        same.then(|| self.keys(policy)).flatten()
    }

    #[must_use]
    pub fn specs(&self) -> &[PolicySpec] {
        &self.specs
    }

    #[must_use]
    pub fn access(&self, policy: usize) -> Option<&AccessList> {
        match &self.made[policy] {
            Made::Access(list) => Some(list),
            _ => None,
        }
    }

    /// The keys of a policy's tokens.
    #[must_use]
    pub fn keys(&self, policy: usize) -> Option<&Arc<SharedKeys>> {
        match &self.made[policy] {
            Made::Keys(keys) => Some(keys),
            _ => None,
        }
    }

    /// What the service of a policy has said.
    #[must_use]
    pub fn answers(&self, policy: usize) -> Option<&Arc<SharedAnswers>> {
        match self.made.get(policy)? {
            Made::Answers(answers) => Some(answers),
            _ => None,
        }
    }

    fn auth(&self, policy: usize) -> Option<&AuthSpec> {
        match &self.specs[policy].kind {
            Kind::Auth(auth) => Some(auth),
            _ => None,
        }
    }

    /// The policy and, if it is one of alternatives, those.
    pub fn with_parts(&self, policy: usize) -> impl Iterator<Item = usize> + '_ {
        let parts: &[usize] = match self.auth(policy).map(|auth| &auth.by) {
            Some(Credential::Any(of)) => of,
            _ => &[],
        };
        std::iter::once(policy).chain(parts.iter().copied())
    }

    fn hiding<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r Credential> + 'r {
        let parts = chain.steps().iter().flat_map(|&step| self.with_parts(step));
        parts.filter_map(|part| self.auth(part).filter(|auth| auth.hide).map(|auth| &auth.by))
    }

    /// Whether servers do not see this field, as it has a credential.
    #[must_use]
    pub fn hides(&self, chain: &Chain, name: &[u8], value: &[u8]) -> bool {
        if chain.is_empty() {
            return false;
        }
        let is = |own: &str| name.eq_ignore_ascii_case(own.as_bytes());
        let scheme = |scheme: &str| {
            is("authorization")
                && value.len() > scheme.len()
                && value[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes())
        };
        self.hiding(chain).any(|credential| match credential {
            Credential::ApiKey(KeyFrom::Header(own)) => is(own),
            Credential::Basic => scheme("basic "),
            Credential::Jwt(jwt) => hides_token(&jwt.from, is, scheme),
            Credential::Introspection(asked) => hides_token(&asked.from, is, scheme),
            _ => false,
        })
    }

    /// The cookies that have credentials which servers do not see.
    pub fn hidden_cookies<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r str> {
        self.hiding(chain).filter_map(|credential| match credential {
            Credential::Jwt(JwtPolicy { from: TokenFrom::Cookie(name), .. })
            | Credential::Introspection(IntrospectionSpec {
                from: TokenFrom::Cookie(name), ..
            }) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The parameters that have credentials which servers do not see.
    pub fn hidden_queries<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r str> {
        self.hiding(chain).filter_map(|credential| match credential {
            Credential::ApiKey(KeyFrom::Query(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether a policy says who may read answers, and answers preflights itself.
    #[must_use]
    pub fn is_cors(&self, policy: usize) -> bool {
        let spec = &self.specs[policy];
        matches!(spec.kind, Kind::Cors(_)) && !spec.dry_run
    }

    /// Changes to the query.
    pub fn query_changes<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r QueryChanges> {
        self.transforms(chain).map(|spec| &spec.query).filter(|changes| !changes.is_empty())
    }
}

impl Rules {
    fn transforms<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r TransformSpec> {
        let specs = chain.steps().iter().map(|&step| &self.specs[step]);
        specs.filter(|spec| !spec.dry_run).filter_map(|spec| match &spec.kind {
            Kind::Transform(transform) => Some(transform),
            _ => None,
        })
    }

    /// Changes to the bodies of requests.
    pub fn request_changes<'r>(
        &'r self,
        chain: &'r Chain,
    ) -> impl Iterator<Item = &'r BodyChanges> {
        self.transforms(chain).map(|spec| &spec.request).filter(|changes| !changes.is_empty())
    }

    /// Changes to the bodies of answers.
    pub fn answer_changes<'r>(&'r self, chain: &'r Chain) -> impl Iterator<Item = &'r BodyChanges> {
        self.transforms(chain).map(|spec| &spec.response).filter(|changes| !changes.is_empty())
    }

    /// How large a body may be that is changed.
    #[must_use]
    pub fn body_max(&self, chain: &Chain) -> u64 {
        self.transforms(chain).map(|spec| spec.body_max).min().unwrap_or(0)
    }
}

fn hides_token(from: &TokenFrom, is: impl Fn(&str) -> bool, scheme: impl Fn(&str) -> bool) -> bool {
    match from {
        TokenFrom::Bearer => scheme("bearer "),
        TokenFrom::Header(name) => is(name),
        // Cut out of its line; see `hidden_cookies`.
        TokenFrom::Cookie(_) => false,
    }
}

fn made(spec: &PolicySpec) -> Made {
    match &spec.kind {
        Kind::Ip { allow, deny } => Made::Access(Arc::new(AccessList::new(allow, deny))),
        Kind::Auth(auth) => match &auth.by {
            Credential::Jwt(jwt) => keys_of(&jwt.keys),
            Credential::Introspection(asked) => answers_of(&asked.cache),
            Credential::ForwardAuth(asked) => answers_of(&asked.cache),
            _ => Made::Nothing,
        },
        _ => Made::Nothing,
    }
}

fn answers_of(cache: &CacheSpec) -> Made {
    Made::Answers(Arc::new(SharedAnswers::new(cache.entries)))
}

fn keys_of(keys: &JwtKeys) -> Made {
    match keys {
        // Both were read when the file was checked.
        JwtKeys::Secret(secret) => made_keys(KeySet::of_secret(secret).ok()),
        JwtKeys::Set(text) => made_keys(KeySet::parse_jwks(text.as_bytes()).ok()),
        JwtKeys::Url(_) => Made::Keys(Arc::default()),
    }
}

fn made_keys(keys: Option<KeySet>) -> Made {
    keys.map_or(Made::Nothing, |keys| Made::Keys(Arc::new(SharedKeys::fixed(keys))))
}
