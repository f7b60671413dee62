//! A new plan at the table of the old one: what has the same name keeps its index.
//!
//! Sessions, counters and queues know listeners, pools and policies by index, and live longer
//! than a plan. So a plan that replaces another takes its seats: what stays keeps its own, what
//! is new gets the next ones, and what is gone keeps an empty chair (`retired`) for the sessions
//! that still use it. A name that comes back finds its old seat.

use sluicegate_l7::policy::chain::Mention;
use sluicegate_l7::policy::spec::{Credential, Fallback, Kind, PolicySpec, StoreSpec};
use sluicegate_l7::route::spec::ActionSpec;

use super::plan::{Listener, Plan, Pool, SniRoutes};
use crate::registry::{LISTENERS_MAX, POOLS_MAX};

/// More names than one process has room for, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooMany(pub String);

/// Something that has a seat.
trait Seated: Clone {
    fn is(&self, other: &Self) -> bool;
    /// What is left of it when it is no longer in the file.
    fn retire(&mut self);
}

impl Seated for Listener {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn retire(&mut self) {
        self.retired = true;
        self.bind.clear();
    }
}

impl Seated for Pool {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn retire(&mut self) {
        self.retired = true;
        self.servers.clear();
        self.check = None;
        self.hold = None;
    }
}

impl Seated for PolicySpec {
    /// One that is of another type now has nothing in common with what was counted.
    fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.type_word() == other.type_word()
    }

    fn retire(&mut self) {
        self.retired = true;
    }
}

impl Plan {
    /// This plan with the seats of `old`, which it replaces.
    ///
    /// # Errors
    /// When one process cannot tell so many names apart; a new process can.
    pub fn seated(mut self, old: &Self) -> Result<Self, TooMany> {
        let listeners = seats(&self.listeners, &old.listeners);
        let pools = seats(&self.pools, &old.pools);
        let policies = seats(&self.policies, &old.policies);
        self.remap(&pools, &policies);
        self.listeners = seat(self.listeners, &old.listeners, &listeners);
        self.pools = seat(self.pools, &old.pools, &pools);
        self.policies = seat(self.policies, &old.policies, &policies);
        let bounds = [
            ("listeners", self.listeners.len(), LISTENERS_MAX),
            ("pools", self.pools.len(), POOLS_MAX),
            ("policies", self.policies.len(), usize::from(u16::MAX)),
        ];
        for (what, count, max) in bounds {
            if count > max {
                return Err(TooMany(format!(
                    "this process has had {count} {what} of different names, and can tell {max} \
                     apart; restart it, or upgrade it in place"
                )));
            }
        }
        Ok(self)
    }

    /// Rewrites every index of a pool and of a policy. A kind of reference that is new has to
    /// find its way in here; the matches have no rest for that reason.
    fn remap(&mut self, pools: &[usize], policies: &[usize]) {
        for listener in &mut self.listeners {
            remap_listener(listener, pools, policies);
        }
        for pool in &mut self.pools {
            let fallback = pool.breaker.as_mut().and_then(|breaker| breaker.fallback.as_mut());
            match fallback {
                Some(Fallback::Pool(pool)) => *pool = pools[*pool],
                Some(Fallback::Respond(_)) | None => {}
            }
        }
        for policy in &mut self.policies {
            remap_policy(&mut policy.kind, pools, policies);
        }
    }
}

fn remap_listener(listener: &mut Listener, pools: &[usize], policies: &[usize]) {
    let to = |pool: &mut usize| *pool = pools[*pool];
    listener.pool.as_mut().map(to);
    if let Some(SniRoutes { exact, wildcard, any, no_sni }) = &mut listener.sni {
        exact
            .iter_mut()
            .chain(wildcard)
            .map(|(_, pool)| pool)
            .chain(any)
            .chain(no_sni)
            .for_each(to);
    }
    let Some(http) = &mut listener.http else { return };
    let mention = |mention: &mut Mention| match mention {
        Mention::Add(policy) | Mention::Drop(policy) => *policy = policies[*policy],
        Mention::DropAll => {}
    };
    http.policies.iter_mut().for_each(mention);
    for route in &mut http.routes {
        match &mut route.action {
            ActionSpec::Pool(pool) => to(pool),
            ActionSpec::Split { pools, by: _ } => pools.iter_mut().for_each(|(pool, _)| to(pool)),
            ActionSpec::Redirect(_) | ActionSpec::Respond(_) => {}
        }
        route.mirror.iter_mut().for_each(|mirror| to(&mut mirror.pool));
        route.policies.iter_mut().for_each(mention);
    }
}

fn remap_policy(kind: &mut Kind, pools: &[usize], policies: &[usize]) {
    let store = |store: &mut Option<StoreSpec>| {
        if let Some(store) = store {
            store.pool = pools[store.pool];
        }
    };
    match kind {
        Kind::Auth(auth) => match &mut auth.by {
            Credential::Any(of) => of.iter_mut().for_each(|policy| *policy = policies[*policy]),
            Credential::Introspection(asked) => asked.pool = pools[asked.pool],
            Credential::ForwardAuth(asked) => asked.pool = pools[asked.pool],
            Credential::Jwt(_)
            | Credential::ApiKey(_)
            | Credential::Basic
            | Credential::ClientCert { .. } => {}
        },
        Kind::Rate(limit) => store(&mut limit.store),
        Kind::Quota(limit) => store(&mut limit.store),
        Kind::Ip { .. }
        | Kind::Cors(_)
        | Kind::Size { .. }
        | Kind::Acl(_)
        | Kind::Concurrency { .. }
        | Kind::Headers { .. }
        | Kind::Transform(_) => {}
    }
}

/// For each of `new` its seat.
fn seats<T: Seated>(new: &[T], old: &[T]) -> Vec<usize> {
    let mut next = old.len();
    let seat = |one: &T| {
        old.iter().position(|other| other.is(one)).unwrap_or_else(|| {
            next += 1;
            next - 1
        })
    };
    new.iter().map(seat).collect()
}

/// `new` by seat, with what is left of those of `old` that are gone.
fn seat<T: Seated>(new: Vec<T>, old: &[T], seats: &[usize]) -> Vec<T> {
    let mut seated = old.to_vec();
    seated.iter_mut().for_each(T::retire);
    let mut fresh = Vec::new();
    for (one, &seat) in new.into_iter().zip(seats) {
        match seated.get_mut(seat) {
            Some(chair) => *chair = one,
            // Fresh seats were given in this order.
            None => fresh.push(one),
        }
    }
    seated.extend(fresh);
    seated
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::config::load_text;
    use crate::config::plan::Plan;

    fn plan(text: &str) -> Plan {
        load_text("main.toml", text.as_bytes()).unwrap().plan
    }

    /// Listeners and policies of all kinds, with pools and policies in this order.
    fn file(pools: &[&str], policies: &[&str]) -> String {
        let mut text = "version = 1\n".to_owned();
        for name in pools {
            let _ = writeln!(text, "[pool.{name}]\nservers = {{ s = \"127.0.0.1:80\" }}");
        }
        for name in policies {
            let _ = writeln!(text, "[policy.{name}]");
            text += match *name {
                "either" => "type = \"any\"\nof = [\"keys\", \"ask\"]\n",
                "keys" => "type = \"api-key\"\n",
                "ask" => {
                    "type = \"introspection\"\nurl = \"http://127.0.0.1:9/\"\n\
                          client_id = \"i\"\nclient_secret = \"env:PATH\"\n"
                }
                "fwd" => "type = \"forward-auth\"\npool = \"b\"\npath = \"/\"\n",
                _ => "type = \"rate-limit\"\nkey = \"ip\"\nlimit = \"10/s\"\n",
            };
        }
        text
    }

    const LISTENERS: &str = r#"
[listener.l4]
bind = "127.0.0.1:1"
pool = "b"
[listener.l7]
bind = "127.0.0.1:2"
mode = "http"
policies = ["either", "limit"]
pool = "a"
[[listener.l7.route]]
match = { path = "/x/*" }
policies = ["!limit"]
split = { a = 50, b = 50 }
"#;

    /// What the plan says in names alone.
    fn names(plan: &Plan) -> String {
        let pool = |at: usize| plan.pools[at].name.clone();
        let mut out = String::new();
        for listener in plan.listeners.iter().filter(|one| !one.retired) {
            let _ = writeln!(out, "{} -> {:?}", listener.name, listener.pool.map(pool));
            let Some(http) = &listener.http else { continue };
            let named = |mention: &super::Mention| match mention {
                super::Mention::Add(at) => plan.policies[*at].name.clone(),
                super::Mention::Drop(at) => format!("!{}", plan.policies[*at].name),
                super::Mention::DropAll => "!*".to_owned(),
            };
            let _ = writeln!(out, "{:?}", http.policies.iter().map(named).collect::<Vec<_>>());
            for route in &http.routes {
                let to: Vec<_> = match &route.action {
                    super::ActionSpec::Pool(at) => vec![pool(*at)],
                    super::ActionSpec::Split { pools, .. } => {
                        pools.iter().map(|one| pool(one.0)).collect()
                    }
                    _ => vec![],
                };
                let own: Vec<_> = route.policies.iter().map(named).collect();
                let _ = writeln!(out, "{to:?} {own:?}");
            }
        }
        for policy in plan.policies.iter().filter(|one| !one.retired) {
            let super::Kind::Auth(auth) = &policy.kind else { continue };
            match &auth.by {
                super::Credential::Any(of) => {
                    let of: Vec<_> = of.iter().map(|&at| &plan.policies[at].name).collect();
                    let _ = writeln!(out, "{of:?}");
                }
                super::Credential::ForwardAuth(asked) => out += &(pool(asked.pool) + "\n"),
                super::Credential::Introspection(asked) => out += &(pool(asked.pool) + "\n"),
                _ => {}
            }
        }
        out
    }

    #[test]
    fn what_stays_keeps_its_seat_and_all_references_follow() {
        let old =
            plan(&(file(&["a", "b"], &["keys", "limit", "ask", "fwd", "either"]) + LISTENERS));
        let text = file(&["new", "b", "a"], &["fwd", "ask", "fresh", "either", "limit", "keys"])
            + LISTENERS;
        let text = text.replace("pool = \"a\"", "pool = \"new\"");
        let unseated = plan(&text);
        let new = unseated.clone().seated(&old).unwrap();
        let pools: Vec<_> = new.pools.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!(pools, ["a", "b", "policy:ask", "new"]);
        let policies: Vec<_> = new.policies.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(policies, ["keys", "limit", "ask", "fwd", "either", "fresh"]);
        let mut lines: Vec<_> = names(&new).lines().map(str::to_owned).collect();
        let mut wanted: Vec<_> = names(&unseated).lines().map(str::to_owned).collect();
        lines.sort();
        wanted.sort();
        assert_eq!(lines, wanted);
    }

    #[test]
    fn what_is_gone_leaves_an_empty_chair_and_finds_it_when_it_returns() {
        let first = plan(&(file(&["a", "b"], &["keys", "limit", "ask", "either"]) + LISTENERS));
        let less = "version = 1\n[listener.l7]\nbind = \"127.0.0.1:2\"\nmode = \"http\"\n\
                    pool = \"b\"\n[pool.b]\nservers = { s = \"127.0.0.1:80\" }\n";
        let second = plan(less).seated(&first).unwrap();
        assert_eq!(second.listeners[1].pool, Some(1));
        assert!(second.listeners[0].retired && second.listeners[0].bind.is_empty());
        assert!(second.pools[0].retired && second.pools[0].servers.is_empty());
        assert!(second.policies.iter().all(|policy| policy.retired));
        let third = plan(&(file(&["b", "a"], &["limit", "keys", "ask", "either"]) + LISTENERS));
        let third = third.seated(&second).unwrap();
        assert_eq!(names(&third), names(&first));
        assert!(!third.pools[0].retired && !third.listeners[0].retired);
    }

    #[test]
    fn a_policy_of_another_type_gets_a_seat_of_its_own() {
        let with = |kind: &str| {
            plan(&format!(
                "version = 1\n[listener.l7]\nbind = \"127.0.0.1:2\"\nmode = \"http\"\n\
                 pool = \"b\"\npolicies = [\"x\"]\n[pool.b]\n\
                 servers = {{ s = \"127.0.0.1:80\" }}\n[policy.x]\n{kind}"
            ))
        };
        let old = with("type = \"rate-limit\"\nkey = \"ip\"\nlimit = \"10/s\"\n");
        let new =
            with("type = \"quota\"\nkey = \"ip\"\nlimit = \"10/day\"\n").seated(&old).unwrap();
        assert_eq!(new.policies.len(), 2);
        assert_eq!(new.listeners[0].http.as_ref().unwrap().policies, [super::Mention::Add(1)]);
    }
}
