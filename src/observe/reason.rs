//! Why a session ended: one table for the log, the counters and `explain-reason`.

/// Declares the closed set once; everything else is derived from the same rows.
macro_rules! reasons {
    ($($variant:ident $word:literal $text:literal)*) => {
        /// The one reason a session ended. `as_str` is the stable word in logs and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($variant,)* }

        /// Every reason, in the order of the documentation.
        pub const REASONS: &[Reason] = &[$(Reason::$variant,)*];

        impl Reason {
            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What it means and what to look at, in a sentence or two.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    Ok "ok" "Both sides closed their direction with a FIN and every byte was delivered."
    ClientReset "client-reset" "The client aborted the connection with a RST, or stopped answering keep-alive probes. The server was reset too."
    ServerReset "server-reset" "The server aborted an established connection with a RST, or stopped answering keep-alive probes. The client was reset too, after every byte the server had sent."
    IdleTimeout "idle-timeout" "No byte moved in either direction for `idle_timeout`."
    HalfClosedTimeout "half-closed-timeout" "One side had sent its FIN and no byte moved for `half_closed_timeout` after it."
    SessionTimeout "session-timeout" "The session was older than `session_timeout`."
    ConnectRefused "connect-refused" "Every server that was tried refused the connection: nothing listens on its port, or a firewall rejects."
    ConnectTimeout "connect-timeout" "No server that was tried answered within `connect_timeout`: the host is down, the network drops, or its backlog is full."
    ConnectUnreachable "connect-unreachable" "The kernel had no route to any server that was tried, or an ICMP error came back."
    NoServer "no-server" "No server of the pool was up, and none came up within `hold`."
    ServerFull "server-full" "Every server of the pool that was up stayed at its `max_conns` for `connect_timeout`, or the wait queue was at `max_held`."
    PortsExhausted "ports-exhausted" "No local port was free to connect from (EADDRNOTAVAIL). Add addresses to the pool's `source`, or widen net.ipv4.ip_local_port_range."
    Denied "denied" "The listener's `deny` names the client, or its `allow` does not."
    ListenerLimit "listener-limit" "The listener was at its `limit.max_conns`."
    IpLimit "ip-limit" "The client's address was at `limit.conns_per_ip`, or the per-address table was full."
    IpRateLimit "ip-rate-limit" "The client's address opened connections faster than `limit.new_conns_per_ip`."
    FdLimit "fd-limit" "No file descriptor was left for the connection to the server. Raise `ulimit -n` (LimitNOFILE)."
    MemoryLimit "memory-limit" "The worker had no buffer left for the session."
    ProxyHeaderBad "proxy-header-bad" "A trusted peer sent something else than a PROXY header where the listener says `accept_proxy`."
    ProxyHeaderTimeout "proxy-header-timeout" "A trusted peer sent no whole PROXY header within `proxy_timeout`."
    TlsFailed "tls-failed" "The TLS handshake failed, with the client or with the server: no common version or name, a certificate that does not verify, or no TLS at all."
    TlsTruncated "tls-truncated" "A side ended the connection under TLS without saying so (no close_notify). The other side was reset: what it got may not be all."
    SniUnknown "sni-unknown" "The client's TLS names no server that the listener's `sni` has, or it sent no name and there is no `no_sni`."
    ServerDown "server-down" "The server went down and its pool says `on_down = \"close-sessions\"`."
    DrainTimeout "drain-timeout" "The process was stopping and the session outlived `drain_timeout`."
    Shutdown "shutdown" "The process was told to stop at once."
    ClientTimeout "client-timeout" "A client of an HTTP listener did not send its request in time: `header_timeout` for the head, `body_timeout` for a gap in the body, or it did not take the answer."
    BadRequest "bad-request" "The request was malformed, or two parsers could have read it in two ways. It was not forwarded."
    NoRoute "no-route" "No route of the listener fits the request's host, path and other conditions."
    Method "method" "Routes fit, but not with this method."
    TooLarge "too-large" "The request's head, address or body was larger than the listener allows."
    Unauthorized "unauthorized" "A policy asked for a credential, and there was none, or a bad one."
    Forbidden "forbidden" "It is known who asked, and a policy (`acl`, or an auth service) says that they may not."
    AuthUnavailable "auth-unavailable" "Credentials could not be checked: no keys were fetched yet, or the auth service did not answer within its `timeout`, or with an error of its own (5xx)."
    RateLimited "rate-limited" "A `rate-limit` policy had no token left for this client, or it had too many bad credentials (`max_failures`)."
    Quota "quota" "A `quota` policy was used up for this hour, day or month."
    Overloaded "overloaded" "A `concurrency` policy was at its limit, too many passwords waited, or the store of a limit did not answer and its policy says `on_error = \"deny\"`."
    BreakerOpen "breaker-open" "The circuit breaker of the pool was open: too many requests had failed or were slow."
    BadUpstream "bad-upstream" "The server's answer was not valid HTTP, or ended before its body did."
    RequestTimeout "request-timeout" "The server did not begin its answer within `request_timeout` (or the route's `timeout`)."
    Internal "internal" "A defect in Sluicegate: the session was closed to protect its neighbours. Please report it with the log line."
}

impl Reason {
    /// How many there are: the length of a counter array indexed by `reason as usize`.
    pub const COUNT: usize = REASONS.len();

    /// The reason that `word` names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        REASONS.iter().copied().find(|reason| reason.as_str() == word)
    }

    /// What it is that an auth service answers with this status.
    #[must_use]
    pub const fn of_refusal(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            429 => Self::RateLimited,
            300..=399 => Self::Ok,
            // It broke: nothing is known of who asks.
            500..=599 => Self::AuthUnavailable,
            _ => Self::Forbidden,
        }
    }

    /// Refused before a server was tried: counted in `refused_total` too.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::ListenerLimit | Self::IpLimit | Self::IpRateLimit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_leads_back_to_its_reason() {
        for &reason in REASONS {
            assert_eq!(Reason::from_word(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::from_word("no-such-word"), None);
    }
}
