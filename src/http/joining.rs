//! A session that becomes a relay: after a 101 between two plain connections, HTTP is over, and
//! the bytes go on as those of any TCP session do, at the same cost.
//!
//! What stays with HTTP is the request's line in the log: it is written when the relay ends, and
//! until then the request holds what its policies gave it. Where TLS is on one side, or a time is
//! set that the relay does not know, a tunnel goes on in the session's task instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::account::{Account, Origin, record};
use super::errand::Errand;
use super::session::Session;
use super::upstream::{Place, Upstream};
use crate::l4::{Epilogue, Outcome, Upgrade};
use crate::registry::PoolId;
use crate::runtime::driver::Driver;
use crate::runtime::tasks::Socket;
use crate::stream::Stream;

/// A server's connection that waits to be joined to the client's, and the request that led there.
pub(super) struct Joined<D: Driver> {
    pool: PoolId,
    place: Place<D>,
    upstream: Socket<D>,
    request: Option<(Account, Box<Errand>)>,
}

impl<D: Driver> Joined<D> {
    /// The request that the relay answers.
    pub fn answers(&mut self, account: Account, errand: Box<Errand>) {
        self.request = Some((account, errand));
    }
}

/// Nothing is in flight on it, and nobody else's bytes are on it.
fn is_bare<D: Driver>(stream: &Stream<D>) -> bool {
    !stream.is_message() && stream.tls().is_none() && stream.socket().is_at_rest()
}

impl<D: Driver> Session<D> {
    /// Takes the server's connection for a relay, or gives it back.
    pub(super) fn join(
        &mut self,
        pool: PoolId,
        errand: &Errand,
        upstream: Upstream<D>,
    ) -> Result<(), Upstream<D>> {
        let timeouts = self.office.timeouts(self.site.listener, pool);
        let timed = errand.timeouts.total.is_some() || timeouts.session.is_some();
        if timed || !is_bare(&self.stream) || !is_bare(&upstream.stream) {
            return Err(upstream);
        }
        let Upstream { stream, place, reused, manner } = upstream;
        match stream.into_socket() {
            Ok(upstream) => {
                self.joined = Some(Box::new(Joined { pool, place, upstream, request: None }));
                Ok(())
            }
            Err(stream) => Err(Upstream { stream, place, reused, manner }),
        }
    }

    /// Leaves both connections to the relay.
    pub(super) fn into_relay(mut self, joined: Joined<D>) -> Outcome {
        let Joined { pool, place, mut upstream, request } = joined;
        let state = Arc::clone(&place.state);
        // The place is the session's from here on: one more, before the request's own goes.
        state.load.fetch_add(1, Ordering::AcqRel);
        drop(place);
        upstream.return_with(self.stream.socket());
        let (office, site, peers) = (self.office, self.site, self.peers);
        let epilogue = Epilogue::new(move |end| {
            let Some((mut account, errand)) = request else { return };
            account.reason = end.reason;
            account.bytes_in += end.bytes_in;
            account.bytes_out += end.bytes_out;
            let origin = Origin { office: &office, site: &site, peers: &peers, is_http2: false };
            let Errand { version, text, gate, .. } = *errand;
            record(&origin, &account, end.at, version, text, &gate);
        });
        Outcome::Upgraded(Box::new(Upgrade {
            fd: upstream.fd(),
            unix: state.address.is_unix(),
            pool,
            server: state.id,
            inbox: std::mem::take(&mut self.inbox),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            epilogue,
        }))
    }
}
