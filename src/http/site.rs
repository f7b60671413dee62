//! One HTTP listener, made ready from the plan: its routes, limits and rules for fields.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use sluicegate_l7::http1::{Known, Limits};
use sluicegate_l7::identity::{self, Sieve};
use sluicegate_l7::policy::chain::{Chain, Mention};
use sluicegate_l7::policy::spec::Kind;
use sluicegate_l7::route::spec::{HeaderSpec, RouteSpec};
use sluicegate_l7::route::{Table, TableError, headers};

use super::policies::Rules;
use crate::config::plan::{self, ClientCertField, HttpListener, Listener};
use crate::observe::labels::Labels;
use crate::registry::ListenerId;

/// Immutable, shared by all workers.
#[derive(Debug)]
pub struct Site {
    pub listener: ListenerId,
    /// Of the listener.
    pub name: String,
    pub table: Table,
    pub sieve: Sieve,
    pub limits: Limits,
    pub plan: HttpListener,
    /// Clients reach it over TLS.
    pub secure: bool,
    /// The access log is on, and the listener's requests are in it unless their route says
    /// otherwise.
    pub logged: bool,
    /// Some route's requests are logged.
    pub logs: bool,
    /// Lines have the query, and these fields.
    pub log_query: bool,
    pub log_fields: Arc<[String]>,
    pub client_cert_headers: Vec<ClientCertField>,
    /// Our name in Via: another gateway's is another, so that a loop can be told.
    pub via: String,
    /// What policies there are.
    pub rules: Arc<Rules>,
    /// By route.
    chains: Vec<Chain>,
    /// By route.
    replaced: Vec<Replaced>,
    /// By route: what it is called in counters and records.
    labels: Vec<u32>,
    /// Where no route was found.
    early: Chain,
    /// Fields that policies write for servers, and that no client may send. Lower case.
    owned: Vec<String>,
}

/// A worker's hold on one: its requests count who holds it, and no other worker writes there.
pub type SiteRef = Rc<Arc<Site>>;

/// What is not as the other side says it.
#[derive(Debug, Default)]
pub struct Replaced {
    /// Fields that operations of policies and of the route remove or set. Lower case.
    pub request: Vec<String>,
    pub answer: Vec<String>,
    /// A policy says who may read answers: servers do not.
    pub cors: bool,
}

impl Replaced {
    fn of(rules: &Rules, chain: &Chain, spec: &RouteSpec) -> Self {
        let changes = || changes(rules, chain, spec);
        Self {
            request: headers::replaced(changes().map(|both| both.0)),
            answer: headers::replaced(changes().map(|both| both.1)),
            cors: chain.steps().iter().any(|&step| rules.is_cors(step)),
        }
    }
}

static NOTHING: Replaced = Replaced { request: Vec::new(), answer: Vec::new(), cors: false };

impl Site {
    /// # Errors
    /// A route whose path is no pattern; `check` has said so before.
    pub fn new(
        id: ListenerId,
        listener: &Listener,
        http: &HttpListener,
        rules: &Arc<Rules>,
        log: &plan::Log,
        labels: &mut Labels,
    ) -> Result<Self, TableError> {
        // A listener's `pool` is the last of them, a route for all.
        let routes = http.routes.clone();
        let limits = Limits {
            header_bytes_max: http.limits.header_bytes_max,
            headers_max: http.limits.headers_max,
            uri_bytes_max: http.limits.uri_bytes_max,
            encoded_slash_keep: http.limits.encoded_slash_keep,
            underscores_keep: http.limits.underscores_keep,
        };
        let sieve = Sieve {
            spared: http
                .keep_headers
                .iter()
                .filter_map(|name| Known::of(name.as_bytes()))
                .collect(),
            keep_underscores: http.limits.underscores_keep,
        };
        let log_is_on = log.access != plan::AccessLog::Off;
        let logs = log_is_on
            && (listener.access_log || routes.iter().any(|route| route.access_log == Some(true)));
        let specs = rules.specs();
        let chain = |own: &[Mention]| Chain::of(&http.policies, own, specs);
        let chains: Vec<Chain> = routes.iter().map(|route| chain(&route.policies)).collect();
        // Of all policies, whoever uses them: a server behind two listeners believes the same names.
        let mut owned: Vec<String> = specs
            .iter()
            .filter(|spec| !spec.retired)
            .flat_map(|spec| spec.owned_headers().map(str::to_ascii_lowercase))
            .collect();
        owned.sort_unstable();
        owned.dedup();
        Ok(Self {
            rules: Arc::clone(rules),
            early: chain(&[]).early(specs),
            replaced: routes
                .iter()
                .zip(&chains)
                .map(|(spec, chain)| Replaced::of(rules, chain, spec))
                .collect(),
            chains,
            labels: routes.iter().map(|route| labels.number(&route.name)).collect(),
            owned,
            listener: id,
            name: listener.name.clone(),
            table: Table::build(routes)?,
            sieve,
            limits,
            plan: http.clone(),
            secure: listener.tls.is_some(),
            logged: log_is_on && listener.access_log,
            logs,
            log_query: log.lines.query,
            log_fields: log.lines.fields_read().into(),
            client_cert_headers: listener
                .tls
                .as_ref()
                .map(|tls| tls.client_cert_headers.clone())
                .unwrap_or_default(),
            via: via(),
        })
    }

    /// The policies of a route, or those that run where there is none.
    #[must_use]
    pub fn chain(&self, route: Option<usize>) -> &Chain {
        route.and_then(|route| self.chains.get(route)).unwrap_or(&self.early)
    }

    /// Changes to the fields of a request and of its answer: those of policies, then the
    /// route's own.
    pub fn changes<'s>(
        &'s self,
        chain: &'s Chain,
        spec: &'s RouteSpec,
    ) -> impl Iterator<Item = (&'s HeaderSpec, &'s HeaderSpec)> + Clone + 's {
        changes(&self.rules, chain, spec)
    }

    /// What of them takes the place of something.
    #[must_use]
    pub fn replaced(&self, route: Option<usize>) -> &Replaced {
        route.and_then(|route| self.replaced.get(route)).unwrap_or(&NOTHING)
    }

    /// Whether it is the operator's and not a client's to say what servers get in this field:
    /// policies write it, or an operation of the route removes or sets it.
    #[must_use]
    pub fn takes(&self, route: Option<usize>, name: &[u8]) -> bool {
        let mut own = self.owned.iter().chain(&self.replaced(route).request);
        own.any(|own| identity::is_same_name(own.as_bytes(), name))
    }

    /// The number of the route's name in [`Labels`].
    #[must_use]
    pub fn label(&self, route: Option<u32>) -> Option<u32> {
        route.and_then(|route| self.labels.get(route as usize)).copied()
    }

    /// Whether requests of a route (`None`: of none) have a line in the access log.
    #[must_use]
    pub fn logs_route(&self, route: Option<u32>) -> bool {
        let own = route.and_then(|route| self.table.spec(route as usize).access_log);
        self.logs && own.unwrap_or(self.logged)
    }
}

/// Our name in Via: one for each process, so that a loop is told from a chain of two.
fn via() -> String {
    static NAME: LazyLock<u32> = LazyLock::new(|| crate::runtime::sys::secret()[0] as u32);
    format!("sluicegate-{:08x}", *NAME)
}

fn changes<'s>(
    rules: &'s Rules,
    chain: &'s Chain,
    spec: &'s RouteSpec,
) -> impl Iterator<Item = (&'s HeaderSpec, &'s HeaderSpec)> + Clone + 's {
    let specs = rules.specs();
    let policies = chain.steps().iter().map(|&step| &specs[step]);
    let of_policies = policies.filter(|spec| !spec.dry_run).filter_map(|spec| match &spec.kind {
        Kind::Headers { request, response } => Some((request, response)),
        _ => None,
    });
    of_policies.chain(std::iter::once((&spec.headers, &spec.response_headers)))
}
