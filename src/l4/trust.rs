//! What sessions say of their server to `outlier`: that it answered, or failed in a row once more.
//!
//! A connect that goes well says nothing, because the kernel takes it: a process that resets all
//! that comes, or cannot speak TLS, would never be found. The first byte from it does.

use std::sync::Arc;

use super::gate::Gate;
use super::session::Side;
use crate::config::plan::Outlier;
use crate::observe::reason::Reason;
use crate::registry::ServerState;
use crate::runtime::driver::Driver;
use crate::runtime::worker::Shared;

/// One server, and whom to tell of it.
#[derive(Debug)]
pub struct Witness {
    shared: Arc<Shared>,
    server: Arc<ServerState>,
    outlier: Option<Outlier>,
}

impl Witness {
    /// It answered.
    pub fn trust(&self) {
        self.server.trust();
    }

    /// It failed a client after it was connected to.
    pub fn suspect(&self) {
        self.shared.suspect(&self.server, self.outlier, None);
    }
}

impl<D: Driver> Gate<D> {
    /// For a task, which cannot ask the gate.
    pub(super) fn witness(&self, slot: u32) -> Option<Witness> {
        let session = &self.sessions[slot];
        let server = Arc::clone(&self.snapshot.servers[session.server?.0 as usize]);
        let outlier = self.snapshot.plan.pools[usize::from(session.pool.0)].outlier;
        Some(Witness { shared: Arc::clone(&self.shared), server, outlier })
    }

    /// The first byte from the session's server has come.
    pub(super) fn trust_server(&self, slot: u32) {
        if let Some(server) = self.sessions[slot].server {
            self.snapshot.servers[server.0 as usize].trust();
        }
    }

    /// The session is over. `answered`: before it became a relay.
    pub(super) fn judge_server(&self, slot: u32, reason: Reason, answered: bool) {
        let session = &self.sessions[slot];
        let [sent, received] = [Side::Client, Side::Upstream].map(|side| session.half(side).total);
        // Some servers only listen: one that took all and closed in order has not failed.
        if received > 0 || (reason == Reason::Ok && sent > 0) {
            self.trust_server(slot);
        } else if reason == Reason::ServerReset
            && !answered
            && let Some(witness) = self.witness(slot)
        {
            witness.suspect();
        }
    }
}
