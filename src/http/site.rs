//! One HTTP listener, made ready from the plan: its routes, limits and rules for fields.

use std::time::Duration;

use sluicegate_l7::http1::Limits;
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
            spared: http.keep_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            owned: Vec::new(),
            keep_underscores: http.limits.underscores_keep,
        };
        let logs = log_is_on
            && (listener.access_log || routes.iter().any(|route| route.access_log == Some(true)));
        let secret = crate::runtime::sys::secret();
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
            via: format!("sluicegate-{:08x}", secret[0] as u32),
        })
    }

    /// Whether requests of a route (`None`: of none) have a line in the access log.
    #[must_use]
    pub fn logs_route(&self, route: Option<u32>) -> bool {
        let own = route.and_then(|route| self.table.spec(route as usize).access_log);
        self.logs && own.unwrap_or(self.logged)
    }

    /// From the request's last byte to the answer's head.
    #[must_use]
    pub fn request_timeout(&self, route: usize) -> Duration {
        self.table.spec(route).timeout.unwrap_or(self.plan.timeouts.request)
    }
}
