//! One HTTP listener, made ready from the plan: its routes, limits and rules for fields.

use std::sync::LazyLock;

use sluicegate_l7::http1::{Known, Limits};
use sluicegate_l7::identity::Sieve;
use sluicegate_l7::route::{Table, TableError};

use crate::config::plan::{ClientCertField, HttpListener, Listener};
use crate::registry::ListenerId;

/// Immutable, shared by all workers.
#[derive(Debug)]
pub struct Site {
    pub listener: ListenerId,
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
    pub client_cert_headers: Vec<ClientCertField>,
    /// Our name in Via: another gateway's is another, so that a loop can be told.
    pub via: String,
}

impl Site {
    /// # Errors
    /// A route whose path is no pattern; `check` has said so before.
    pub fn new(
        id: ListenerId,
        listener: &Listener,
        http: &HttpListener,
        log_is_on: bool,
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
        let logs = log_is_on
            && (listener.access_log || routes.iter().any(|route| route.access_log == Some(true)));
        Ok(Self {
            listener: id,
            table: Table::build(routes)?,
            sieve,
            limits,
            plan: http.clone(),
            secure: listener.tls.is_some(),
            logged: log_is_on && listener.access_log,
            logs,
            client_cert_headers: listener
                .tls
                .as_ref()
                .map(|tls| tls.client_cert_headers.clone())
                .unwrap_or_default(),
            via: via(),
        })
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
