//! Tasks that follow the configuration: lookups of names, fetches of keys, looks at certificate
//! files, checks of servers.
//!
//! [`Followers::follow`] makes them be those of the plan in use: at the start, and after every
//! reload. What is asked for as before goes on undisturbed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use sluicegate_l7::policy::keyring::Schedule;
use sluicegate_l7::policy::spec::{Authority, JwksSpec};
use tokio::task::AbortHandle;

use super::checks::Checks;
use super::desk::Desk;
use super::fetch::{Names, Source};
use super::jwks::{Jwks, keep_fetched};
use super::membership::{Change, NameId, names_of};
use super::{certificates, dns};
use crate::config::plan::{Dns, Plan, Server, Verify};
use crate::http::Rules;

/// See [`dns::of_host`].
type OfHost = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
pub(super) struct Followers {
    desk: Rc<Desk>,
    checks: Rc<Checks>,
    /// By name, with what it was asked for.
    names: RefCell<HashMap<NameId, Follower<Server>>>,
    /// By policy.
    keys: RefCell<HashMap<usize, Follower<JwksSpec>>>,
    certificates: RefCell<Option<AbortHandle>>,
    /// How names are looked up, by all of them, and what the host said then.
    dns: RefCell<Option<(Dns, OfHost)>>,
}

#[derive(Debug)]
struct Follower<T> {
    of: T,
    task: AbortHandle,
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followers {
    pub fn new(desk: Rc<Desk>, checks: Rc<Checks>) -> Self {
        Self {
            desk,
            checks,
            names: RefCell::default(),
            keys: RefCell::default(),
            certificates: RefCell::default(),
            dns: RefCell::default(),
        }
    }

    /// Starts and ends what the plan in use asks for.
    pub fn follow(&self) {
        let plan = self.desk.instance.plan();
        let dns = Some((plan.runtime.dns.clone(), dns::of_host()));
        if *self.dns.borrow() != dns {
            self.names.borrow_mut().clear();
            self.keys.borrow_mut().clear();
            *self.dns.borrow_mut() = dns;
        }
        self.follow_names(&plan);
        self.follow_keys(&plan);
        let watch = tokio::task::spawn_local(certificates::watch(self.desk.clone()));
        if let Some(before) = self.certificates.replace(Some(watch.abort_handle())) {
            before.abort();
        }
    }

    /// After a reload: checks of servers that came, went, or are checked in another way now.
    pub fn follow_checks(&self, before: &Plan, change: &Change) {
        for state in &change.removed {
            self.checks.stop(state.id);
        }
        let plan = &change.snapshot.plan;
        for member in change.snapshot.pools.iter().flat_map(|pool| &pool.members) {
            let pool = usize::from(member.state.pool.0);
            let check = plan.pools[pool].check.as_ref();
            let old = before.pools.get(pool).and_then(|pool| pool.check.as_ref());
            let is_new = change.added.iter().any(|state| state.id == member.state.id);
            if !is_new && check == old {
                continue;
            }
            match check {
                Some(_) if is_new => self.checks.start(&member.state),
                Some(_) => self.checks.renew(&member.state),
                None => self.checks.stop(member.state.id),
            }
        }
    }

    fn follow_names(&self, plan: &Plan) {
        let mut tasks = self.names.borrow_mut();
        tasks.retain(|name, task| name.of(plan) == Some(&task.of));
        let fresh: Vec<_> = names_of(plan).filter(|name| !tasks.contains_key(name)).collect();
        if fresh.is_empty() {
            return;
        }
        let resolver = match dns::resolver(&plan.runtime.dns) {
            Ok(resolver) => resolver,
            Err(error) => {
                self.desk.log.error(format_args!("no name can be resolved: {error}"));
                for name in fresh {
                    self.desk.instance.membership.unresolved(name, error.clone());
                    self.desk.name_answered(true);
                }
                return;
            }
        };
        for name in fresh {
            let Some(of) = name.of(plan).cloned() else { continue };
            let (desk, checks) = (self.desk.clone(), self.checks.clone());
            let task = dns::keep_resolved(name.clone(), resolver.clone(), desk, checks);
            let task = tokio::task::spawn_local(task).abort_handle();
            tasks.insert(name, Follower { of, task });
        }
    }

    fn follow_keys(&self, plan: &Plan) {
        let rules = Arc::clone(&self.desk.instance.snapshot().fronts.rules);
        let wanted = |policy: usize| {
            let spec = rules.specs().get(policy).filter(|spec| !spec.retired)?;
            spec.fetched_keys()
        };
        let mut tasks = self.keys.borrow_mut();
        tasks.retain(|&policy, task| wanted(policy) == Some(&task.of));
        let names = Names::new(&plan.runtime.dns);
        for policy in 0..rules.specs().len() {
            let Some(from) = wanted(policy).filter(|_| !tasks.contains_key(&policy)) else {
                continue;
            };
            if let Some(task) = self.fetch(&rules, policy, from, names.clone()) {
                tasks.insert(policy, Follower { of: from.clone(), task });
            }
        }
    }

    /// Keeps the keys of one policy's tokens up to date.
    fn fetch(
        &self,
        rules: &Rules,
        policy: usize,
        from: &JwksSpec,
        names: Names,
    ) -> Option<AbortHandle> {
        let log = &self.desk.log;
        let name = format!("policy `{}`", rules.specs()[policy].name);
        let verify = match &from.verify {
            Authority::System => Verify::System,
            Authority::File(path) => Verify::File(path.clone()),
            Authority::Anybody => Verify::Insecure,
        };
        let shared = Arc::clone(rules.keys(policy)?);
        match Source::new(&from.url, &verify) {
            Ok(source) => {
                let (refresh, grace, cooldown) = (from.refresh, from.grace, from.cooldown);
                let schedule = Schedule { refresh, grace, cooldown };
                let jwks = Jwks { name, source, schedule, timeout: from.timeout };
                let task = keep_fetched(jwks, names, shared, log.clone());
                Some(tokio::task::spawn_local(task).abort_handle())
            }
            Err(error) => {
                log.error(format_args!("the keys of {name} cannot be fetched: {error}"));
                None
            }
        }
    }
}
