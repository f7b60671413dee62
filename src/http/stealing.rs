//! A connection that another worker keeps and does not use, taken instead of opening a new one.
//!
//! ```text
//! thief: nothing kept, a hint ── Steal ──▶ owner: unused the longest, its watch is ended
//!        kept, taken ◀── Stolen, its descriptor or none ──┘ (nothing in flight, nothing came)
//! ```
//!
//! The thief waits a bounded time and then connects as if nobody had been asked. An answer that
//! comes later is not lost: what it brings is kept like any other unused connection.
//!
//! What has TLS or a PROXY header stays where it is: its state is more than a descriptor, or it
//! speaks for one client.

use std::rc::Rc;
use std::time::Duration;

use super::office::Office;
use super::upstream::before;
use super::waiting::{Told, Word};
use crate::config::plan::{Protocol, SendProxy};
use crate::registry::{ServerId, ServerState};
use crate::runtime::driver::Driver;
use crate::runtime::mail::{Mail, Steal, Stolen};
use crate::runtime::tasks::Socket;
use crate::runtime::time::Time;
use crate::stream::Stream;

/// What was used since is in use where it is, and would only be stolen back. Who has asked in vain
/// does not ask again for as long.
const UNUSED_MIN: Duration = Duration::from_millis(100);

/// The wait for an answer. An idle worker takes a tenth of a millisecond; for a busy one, a connect
/// is the better half.
const WAIT_MAX: Duration = Duration::from_millis(2);

impl<D: Driver> Office<D> {
    /// Connections to this server may change hands.
    fn shares(&self, server: &ServerState) -> bool {
        let plan = self.pool_plan(server.pool);
        let is_plain = plan.protocol == Protocol::Http1 && plan.tls.is_none();
        let is_anyones = is_plain && plan.send_proxy == SendProxy::Off;
        is_anyones && plan.keepalive.idle_max > 0 && !self.is_draining() && !server.is_taken_out()
    }

    /// The worker that may have what is not here.
    pub(super) fn whom_to_ask(&self, server: &ServerState) -> Option<u16> {
        let random = self.random();
        self.kept().whom_to_ask(server, self.now(), random).filter(|_| self.shares(server))
    }

    /// Asks `owner` for an unused connection and waits a moment for it.
    pub(super) async fn steal(
        self: &Rc<Self>,
        owner: u16,
        server: &ServerState,
        until: Time,
    ) -> Option<Stream<D>> {
        let word = Word::new(Rc::clone(self));
        let Told { ticket, generation, .. } = word.told();
        let steal = Steal { server: server.id, thief: self.worker(), ticket, generation };
        let until = until.min(self.now() + WAIT_MAX);
        let sent = self.post(owner, Mail::Steal(steal)).is_ok();
        if sent && self.shell().timeout(until, word.heard()).await == Ok(true) {
            let oldest = self.oldest(server.pool, self.now());
            return self.kept().take(server.id, oldest);
        }
        self.kept().ask_later(server.id, self.now() + UNUSED_MIN);
        None
    }

    /// Another worker asks for a connection of ours.
    pub fn on_steal(&self, steal: Steal, now: Time) {
        match self.give(steal.server, now) {
            // Answered once nothing is in flight on it.
            Some((socket, since)) => socket.part(Stolen { steal, fd: None, since }),
            // Who is not told waits no longer than it would have.
            None => drop(self.answer(Stolen { steal, fd: None, since: Time::ZERO })),
        }
    }

    fn give(&self, server: ServerId, now: Time) -> Option<(Socket<D>, Time)> {
        let server = self.server(server).filter(|server| self.shares(server))?;
        let (oldest, latest) = (self.oldest(server.pool, now), before(now, UNUSED_MIN));
        let (stream, since) = self.kept().give(server.id, oldest, latest)?;
        Some((stream.into_socket().ok()?, since))
    }

    /// Tells whoever has asked what came of it.
    ///
    /// # Errors
    /// When its mailbox is full: a descriptor is then still ours.
    pub fn answer(&self, stolen: Stolen) -> Result<(), Mail> {
        self.post(stolen.steal.thief, Mail::Stolen(stolen))
    }

    /// Keeps what another worker gave, for whoever has asked or the next request, in a task.
    pub fn on_stolen(self: &Rc<Self>, stolen: Stolen) {
        let Stolen { steal: Steal { server, ticket, generation, .. }, fd, since } = stolen;
        if let (Some(fd), Some(state)) = (fd, self.server(server)) {
            let socket = self.shell().adopt_shared(fd, state.address.is_unix());
            if let Some(socket) = socket.filter(|_| self.shares(&state)) {
                // What was sent again before was counted there.
                socket.path();
                socket.belongs_to(server.0);
                self.count_stolen(server);
                self.kept().put(&state, Stream::plain(socket), since);
            }
        }
        // Nobody may wait any more.
        self.tickets().tell(ticket, generation, fd.is_some());
    }
}
