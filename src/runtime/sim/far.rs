//! How a test drives the other ends: clients, servers, the network itself.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::faults::Faults;
use super::socket::{FAR, Fin, OURS};
use super::world::{Backlog, Behaviour, ConnId, Deed, Open, Signal};
use super::{State, lock};
use crate::net::Endpoint;
use crate::runtime::driver::Fd;
use crate::runtime::time::Time;

/// Everything outside of the program under test. A handle: clones are the same network.
#[derive(Clone, Debug)]
pub struct Network(pub(super) Rc<RefCell<State>>);

impl Network {
    /// A listening socket of ours.
    ///
    /// # Panics
    /// When the descriptor limit is reached.
    #[must_use]
    pub fn listener(&self, unix: bool) -> Fd {
        let world = &mut lock(&self.0).world;
        let fd = world.allocate(Open::Listener).expect("room for a listener");
        world.backlogs.insert(fd.0, Backlog { unix, ..Backlog::default() });
        fd
    }

    /// A client that comes to `listener`.
    #[must_use]
    pub fn connect_client(&self, listener: Fd) -> Far {
        let id = lock(&self.0).world.connect_client(listener, None);
        Far { state: Rc::clone(&self.0), id }
    }

    /// A client with an address of the test's choice.
    #[must_use]
    pub fn connect_client_from(&self, listener: Fd, from: SocketAddr) -> Far {
        let id = lock(&self.0).world.connect_client(listener, Some(from));
        Far { state: Rc::clone(&self.0), id }
    }

    /// Puts a server there, or changes how it answers from now on.
    pub fn listen(&self, endpoint: &Endpoint, behaviour: Behaviour) {
        lock(&self.0).world.servers.insert(endpoint.clone(), behaviour);
    }

    /// Takes a server away: new attempts are refused, connections stay.
    pub fn unlisten(&self, endpoint: &Endpoint) {
        lock(&self.0).world.servers.remove(endpoint);
    }

    /// The oldest connection that a server accepted and nobody took yet.
    #[must_use]
    pub fn served(&self) -> Option<Far> {
        let id = lock(&self.0).world.served.pop_front()?;
        Some(Far { state: Rc::clone(&self.0), id })
    }

    /// Descriptors that may be open at once.
    pub fn limit_fds(&self, max: usize) {
        lock(&self.0).world.fds_max = max;
    }

    pub fn set_faults(&self, faults: Faults) {
        lock(&self.0).world.faults = faults;
    }

    /// No `turn` goes past this moment.
    pub fn set_horizon(&self, at: Time) {
        lock(&self.0).horizon = at;
    }

    #[must_use]
    pub fn now(&self) -> Time {
        lock(&self.0).world.now
    }

    /// Operations whose last completion was not handed out yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.0).ops.len()
    }

    /// Open descriptors, listeners included.
    #[must_use]
    pub fn fds_open(&self) -> usize {
        lock(&self.0).world.fds_open()
    }

    /// The connection behind an open descriptor: [`Far::id`] of its other end.
    #[must_use]
    pub fn link_of(&self, fd: Fd) -> Option<usize> {
        lock(&self.0).world.conn_of(fd)
    }

    /// What went through an open descriptor.
    ///
    /// # Panics
    /// When it is not connected.
    #[must_use]
    pub fn ledger(&self, fd: Fd) -> Ledger {
        let state = lock(&self.0);
        let id = state.world.conn_of(fd).expect("a connected descriptor");
        let link = &state.world.links[id];
        let (taken_unseen, given_unseen) = state.ops.unseen(fd);
        Ledger {
            taken: link.conn.ways[FAR].taken - taken_unseen,
            given: link.conn.ways[OURS].given - given_unseen,
        }
    }

    /// Ring buffers in completions that were not handed out yet.
    #[must_use]
    pub fn chunks_coming(&self) -> usize {
        lock(&self.0).ops.chunks_coming()
    }

    /// Accepted clients in completions that were not handed out yet.
    #[must_use]
    pub fn fds_coming(&self) -> usize {
        lock(&self.0).ops.fds_coming()
    }

    /// Pipes the program holds.
    #[must_use]
    pub fn pipes_taken(&self) -> usize {
        lock(&self.0).pipes.taken()
    }

    /// Whether anything will still happen by itself.
    #[must_use]
    pub fn is_still(&self) -> bool {
        let state = lock(&self.0);
        state.world.due().is_none() && state.ops.waiting() == 0
    }
}

/// Bytes of one descriptor, as far as the program was told about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Received by the program.
    pub taken: u64,
    /// Accepted from the program.
    pub given: u64,
}

/// The far end of one connection. A handle: clones are the same socket.
#[derive(Clone)]
pub struct Far {
    state: Rc<RefCell<State>>,
    id: ConnId,
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "far end of #{}", self.id)
    }
}

impl Far {
    /// The number [`super::Sim::describe`] shows it under.
    #[must_use]
    pub const fn id(&self) -> usize {
        self.id
    }

    /// Hands `bytes` to the far program's queue, which is written as fast as the socket takes.
    pub fn send(&self, bytes: &[u8]) {
        let world = &mut lock(&self.state).world;
        let app = &mut world.links[self.id].app;
        assert!(!app.finishing, "the far end sends after its FIN");
        app.outbox.extend(bytes);
        app.put += bytes.len() as u64;
        self.pump(world);
    }

    /// What arrived since the last call.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.state).world.links[self.id].app.inbox)
    }

    /// A FIN after everything that was handed to [`Self::send`].
    pub fn fin(&self) {
        let world = &mut lock(&self.state).world;
        world.links[self.id].app.finishing = true;
        self.pump(world);
    }

    /// An RST now. What did not arrive at our end yet may not.
    pub fn reset(&self) {
        let world = &mut lock(&self.state).world;
        world.links[self.id].app.give_up();
        world.with(self.id, |conn, now, rng| conn.reset(FAR, now, rng));
    }

    /// An RST after up to this long.
    pub fn reset_within(&self, most: Duration) {
        let world = &mut lock(&self.state).world;
        let wait = world.rng.below(most.as_nanos() as u64 + 1);
        world.links[self.id].app.reset_at = Some(world.now + Duration::from_nanos(wait));
        world.touch(self.id);
    }

    /// close(2): a FIN, or an RST if bytes are unread; bytes that still come bring an RST.
    pub fn close(&self) {
        let world = &mut lock(&self.state).world;
        self.pump(world);
        world.links[self.id].app.give_up();
        world.links[self.id].app.finishing = true;
        world.with(self.id, |conn, now, rng| conn.close(FAR, now, rng));
    }

    pub fn stop_reading(&self) {
        lock(&self.state).world.links[self.id].app.reading = false;
    }

    pub fn start_reading(&self) {
        let world = &mut lock(&self.state).world;
        world.links[self.id].app.reading = true;
        self.pump(world);
    }

    /// From now on nothing gets through in either direction.
    pub fn cut(&self) {
        lock(&self.state).world.links[self.id].conn.cut = true;
    }

    /// What was under way while the network was cut arrives now.
    pub fn mend(&self) {
        let world = &mut lock(&self.state).world;
        world.with(self.id, |conn, _, _| conn.cut = false);
    }

    /// How the far program saw the connection end. It must be reading to see anything.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        lock(&self.state).world.links[self.id].app.signal
    }

    /// Whether an RST arrived, seen by the program or not.
    #[must_use]
    pub fn got_reset(&self) -> bool {
        lock(&self.state).world.links[self.id].conn.ends[FAR].reset_arrived
    }

    /// Whether a FIN of ours arrived here.
    #[must_use]
    pub fn got_fin(&self) -> bool {
        lock(&self.state).world.links[self.id].conn.ways[OURS].fin == Fin::Delivered
    }

    /// Whether a FIN of this end arrived at ours.
    #[must_use]
    pub fn fin_arrived(&self) -> bool {
        lock(&self.state).world.links[self.id].conn.ways[FAR].fin == Fin::Delivered
    }

    /// Whether this end sent an RST, also one by closing with unread bytes.
    #[must_use]
    pub fn sent_reset(&self) -> bool {
        lock(&self.state).world.links[self.id].conn.ends[FAR].reset_sent
    }

    /// Whether an injected error touched this connection, which then may lack bytes.
    #[must_use]
    pub fn faulted(&self) -> bool {
        lock(&self.state).world.links[self.id].conn.faulted
    }

    /// Bytes of the far program that wait before or in its socket, not yet at our end.
    #[must_use]
    pub fn unsent(&self) -> usize {
        let state = lock(&self.state);
        let link = &state.world.links[self.id];
        link.app.outbox.len() + link.conn.ways[FAR].sent.len()
    }

    /// Bytes the program wrote, except those it gave up before its socket took them.
    #[must_use]
    pub fn put(&self) -> u64 {
        lock(&self.state).world.links[self.id].app.put
    }

    /// Bytes the program read.
    #[must_use]
    pub fn got(&self) -> u64 {
        lock(&self.state).world.links[self.id].app.got
    }

    /// Whether the program wrote its last byte: [`Self::fin`] or [`Self::close`] was called.
    #[must_use]
    pub fn finished(&self) -> bool {
        lock(&self.state).world.links[self.id].app.finishing
    }

    /// Whether nothing more happens here by itself.
    #[must_use]
    pub fn is_still(&self) -> bool {
        let state = lock(&self.state);
        let link = &state.world.links[self.id];
        link.conn.due().is_none() && link.app.reset_at.is_none()
    }

    /// Bytes at our end that our program did not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        lock(&self.state).world.links[self.id].conn.ways[FAR].received.len()
    }

    /// Bytes our program sent that are not yet with the far program.
    #[must_use]
    pub fn coming(&self) -> usize {
        let state = lock(&self.state);
        let way = &state.world.links[self.id].conn.ways[OURS];
        way.sent.len() + way.received.len()
    }

    /// Bytes that were lost on the way here, and on the way from here.
    #[must_use]
    pub fn lost(&self) -> (u64, u64) {
        let state = lock(&self.state);
        let ways = &state.world.links[self.id].conn.ways;
        (ways[OURS].lost, ways[FAR].lost)
    }

    /// What our program did to its end, in order.
    #[must_use]
    pub fn deeds(&self) -> Vec<Deed> {
        lock(&self.state).world.links[self.id].deeds.clone()
    }

    /// Whether the program gave up its socket, by close or reset, and may have missed bytes.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        let end = &lock(&self.state).world.links[self.id].conn.ends[FAR];
        end.closed || end.disconnected
    }

    /// Everything about this connection, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let link = &lock(&self.state).world.links[self.id];
        format!("#{} put {} got {} {link}", self.id, link.app.put, link.app.got)
    }

    /// The server's address, for the far end of a connection that we opened.
    #[must_use]
    pub fn endpoint(&self) -> Option<Endpoint> {
        lock(&self.state).world.links[self.id].endpoint.clone()
    }

    /// The address our program sees as the peer's.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        lock(&self.state).world.links[self.id].far_address
    }

    /// The address our end is bound to, as the far end sees it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        lock(&self.state).world.links[self.id].near_address
    }

    fn pump(&self, world: &mut super::world::World) {
        let now = world.now;
        world.links[self.id].pump(now, &mut world.rng);
        world.touch(self.id);
    }
}
