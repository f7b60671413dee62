//! The [`Driver`] side of the simulation: every call checks its caller, then acts.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use super::ops::{Kernel, Kind};
use super::socket::{FAR, OURS, Phase};
use super::world::{Deed, Open};
use super::{Sim, State, lock};
use crate::net::Endpoint;
use crate::runtime::buffers::{Buffers, ChunkId};
use crate::runtime::driver::{
    Completion, Driver, Fd, Interest, PathInfo, PipeId, StreamOptions, TcpOptions,
};
use crate::runtime::time::Time;
use crate::runtime::token::Token;

impl Driver for Sim {
    fn clock(&self) -> Time {
        self.now()
    }

    fn now(&self) -> Time {
        lock(&self.state).world.now
    }

    fn turn(&mut self, deadline: Time, out: &mut Vec<Completion>) -> std::io::Result<()> {
        let state = &mut *lock(&self.state);
        let free = self.buffers.blocks_free();
        assert!(free <= self.buffers.sizes().block_count, "a block was given back twice");
        let until = deadline.min(state.horizon);
        state.world.now =
            state.world.now + Duration::from_nanos(1_000 + state.world.rng.below(20_000));
        state.ops.arm(&mut state.world);
        loop {
            state.world.settle();
            let State { world, ops, ring, .. } = state;
            ops.progress(&mut Kernel { world, ring, buffers: &mut self.buffers });
            if state.ops.waiting() > 0 || state.world.now >= until {
                break;
            }
            let next = state.due().unwrap_or(Time::NEVER).min(until);
            assert!(next != Time::NEVER, "waits for ever: {:?}", state.ops);
            state.world.now = next.max(state.world.now + Duration::from_nanos(1));
        }
        let State { world, ops, .. } = state;
        ops.hand_out(&mut world.rng, out);
        Ok(())
    }

    fn submit_accept(&mut self, listener: Fd, many: bool, token: Token) {
        let state = &mut *lock(&self.state);
        assert_eq!(state.world.open(listener), Open::Listener, "accept on a stream");
        state.ops.submit(token, listener, Kind::Accept { many });
    }

    fn submit_connect(&mut self, fd: Fd, to: &Endpoint, token: Token) {
        let state = &mut *lock(&self.state);
        assert_eq!(state.world.open(fd), Open::Stream(None), "second connect of {fd:?}");
        state.ops.submit(token, fd, Kind::Connect { to: to.clone(), started: false });
    }

    fn submit_recv(&mut self, fd: Fd, many: bool, token: Token) {
        let state = &mut *lock(&self.state);
        let unix = state.world.conn_of(fd).is_some_and(|id| state.world.links[id].conn.unix);
        assert!(!(unix && many), "a multishot receive can miss the EOF of a unix socket");
        state.ops.submit(token, fd, Kind::Recv { many });
    }

    fn submit_recv_into(&mut self, fd: Fd, chunk: ChunkId, token: Token) {
        let state = &mut *lock(&self.state);
        let _ = state.world.conn_of(fd);
        state.ring.assert_owned(&self.buffers, chunk, "receive");
        assert!(self.buffers.room(chunk) > 0, "a receive into a full chunk");
        assert!(!state.ops.uses(chunk), "a receive into {chunk:?}, which is in an operation");
        state.ops.submit(token, fd, Kind::RecvInto { chunk });
    }

    fn submit_send(&mut self, fd: Fd, chunk: ChunkId, wait_all: bool, token: Token) {
        let state = &mut *lock(&self.state);
        let _ = state.world.conn_of(fd);
        state.ring.assert_owned(&self.buffers, chunk, "send");
        let (start, len) = self.buffers.span(chunk);
        assert!(len > 0, "a send of nothing on {fd:?}");
        let kind = Kind::Send { chunk, start: start as usize, len, done: 0, wait_all };
        state.ops.submit(token, fd, kind);
    }

    fn submit_poll(&mut self, fd: Fd, interest: Interest, token: Token) {
        let state = &mut *lock(&self.state);
        let _ = state.world.open(fd);
        state.ops.submit(token, fd, Kind::Poll { interest });
    }

    fn submit_cancel(&mut self, token: Token) {
        lock(&self.state).ops.cancel(token);
    }

    fn accept_now(&mut self, listener: Fd) -> Result<Fd, Errno> {
        lock(&self.state).world.accept(listener)
    }

    fn bar_now(&mut self, listener: Fd) {
        lock(&self.state).world.bar(listener);
    }

    fn send_now(&mut self, fd: Fd, chunk: ChunkId) -> Result<u32, Errno> {
        self.send(fd, chunk)
    }

    fn send_bytes_now(&mut self, fd: Fd, bytes: &[u8]) -> Result<u32, Errno> {
        lock(&self.state).send_now(fd, bytes)
    }

    fn send_parts_now(&mut self, fd: Fd, parts: &[IoSlice<'_>]) -> Result<u32, Errno> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        lock(&self.state).send_now(fd, &bytes)
    }

    fn recv_bytes_now(&mut self, fd: Fd, room: &mut [u8]) -> Result<u32, Errno> {
        let state = &mut *lock(&self.state);
        state.ops.assert_no_receive(fd, "a receive");
        let id = state.world.conn_of(fd).ok_or(Errno::ENOTCONN)?;
        let has_bytes = state.world.links[id].conn.ways[FAR].received.len();
        let most = state.world.short(room.len(), has_bytes);
        let mut bytes = Vec::new();
        let got =
            state.world.with(id, |conn, now, rng| conn.receive(OURS, most, &mut bytes, now, rng));
        room[..bytes.len()].copy_from_slice(&bytes);
        got.map(|n| n as u32)
    }

    fn open_now(&mut self, _to: &Endpoint, _options: &StreamOptions) -> Result<Fd, Errno> {
        lock(&self.state).world.open_socket()
    }

    fn lift_ports_now(&mut self, fd: Fd) -> bool {
        lock(&self.state).world.lift_ports(fd)
    }

    fn keep_alive_now(&mut self, fd: Fd, _options: &TcpOptions) {
        lock(&self.state).world.open(fd);
    }

    fn finish_now(&mut self, fd: Fd) {
        lock(&self.state).ops.assert_no_send(fd, "a FIN");
        self.deed(fd, Deed::Finish, |world, id| {
            world.with(id, |conn, now, rng| conn.finish(OURS, now, rng));
        });
    }

    fn reset_now(&mut self, fd: Fd) {
        self.deed(fd, Deed::Reset, |world, id| {
            world.with(id, |conn, now, rng| conn.reset(OURS, now, rng));
        });
    }

    fn close_now(&mut self, fd: Fd) {
        let state = &mut *lock(&self.state);
        let open = state.world.open(fd);
        let armed = state.ops.on(fd).next();
        assert!(armed.is_none(), "D4: {fd:?} is closed under {armed:?}");
        state.world.set_open(fd, Open::Nothing);
        match open {
            Open::Stream(Some(id)) => {
                let unread = state.world.with(id, |conn, now, rng| conn.close(OURS, now, rng));
                let deed = if unread { Deed::ResetByClose } else { Deed::Close };
                state.world.links[id].deeds.push(deed);
            }
            Open::Listener => state.world.close_listener(fd),
            Open::Stream(None) | Open::Nothing => {}
        }
    }

    fn forget_now(&mut self, fd: Fd) {
        let state = &mut *lock(&self.state);
        state.world.open(fd);
        let armed = state.ops.on(fd).next();
        assert!(armed.is_none(), "D4: {fd:?} is forgotten under {armed:?}");
    }

    fn unsent_now(&mut self, fd: Fd) -> u32 {
        let world = &lock(&self.state).world;
        world.conn_of(fd).map_or(0, |id| world.links[id].conn.unsent(OURS))
    }

    /// A way of a millisecond on which nothing is lost.
    fn path_now(&mut self, fd: Fd) -> Option<PathInfo> {
        let world = &lock(&self.state).world;
        world.conn_of(fd).map(|_| PathInfo { rtt_us: 1_000, rttvar_us: 100, retransmits: 0 })
    }

    fn peer_now(&mut self, fd: Fd) -> Option<SocketAddr> {
        let world = &lock(&self.state).world;
        let link = &world.links[world.conn_of(fd)?];
        let gone = link.conn.ends[OURS].dead || link.conn.phase != Phase::Up;
        link.far_address.filter(|_| !gone)
    }

    fn local_now(&mut self, fd: Fd) -> Option<SocketAddr> {
        let world = &lock(&self.state).world;
        world.links[world.conn_of(fd)?].near_address
    }

    fn take_pipe(&mut self) -> Option<PipeId> {
        lock(&self.state).pipes.take()
    }

    fn give_pipe(&mut self, pipe: PipeId, empty: bool) {
        lock(&self.state).pipes.give(pipe, empty);
    }

    fn pipe_capacity(&self, _pipe: PipeId) -> u32 {
        lock(&self.state).pipes.capacity as u32
    }

    fn splice_in_now(&mut self, fd: Fd, pipe: PipeId, max: u32) -> Result<u32, Errno> {
        let state = &mut *lock(&self.state);
        state.ops.assert_no_receive(fd, "a splice");
        let id = state.world.conn_of(fd).ok_or(Errno::ENOTCONN)?;
        let has_bytes = state.world.links[id].conn.ways[FAR].received.len();
        let slots_full = has_bytes > 0 && state.world.rng.chance(state.world.faults.short_recv);
        let room = state.pipes.room(pipe, max, slots_full)?;
        let most = state.world.short(room, has_bytes);
        let mut bytes = Vec::new();
        let got =
            state.world.with(id, |conn, now, rng| conn.receive(OURS, most, &mut bytes, now, rng));
        state.pipes.bytes(pipe).extend(bytes);
        got.map(|n| n as u32)
    }

    fn splice_out_now(&mut self, pipe: PipeId, fd: Fd, max: u32) -> Result<u32, Errno> {
        let state = &mut *lock(&self.state);
        state.ops.assert_no_send(fd, "a splice");
        let bytes = state.pipes.bytes(pipe);
        let most = bytes.len().min(max as usize);
        if most == 0 {
            return Err(Errno::EAGAIN);
        }
        let sent = state.world.send(fd, &bytes.make_contiguous()[..most])?;
        bytes.drain(..sent);
        Ok(sent as u32)
    }

    fn read_pipe_now(&mut self, pipe: PipeId, chunk: ChunkId) -> u32 {
        let state = &mut *lock(&self.state);
        state.ring.assert_owned(&self.buffers, chunk, "read");
        assert!(!state.ops.uses(chunk), "a read into {chunk:?}, which is in an operation");
        let bytes = state.pipes.bytes(pipe);
        let n = self.buffers.write(chunk, bytes.make_contiguous());
        bytes.drain(..n as usize);
        n
    }

    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn release(&mut self, chunk: ChunkId) {
        let state = &mut *lock(&self.state);
        assert!(!state.ops.uses(chunk), "release of {chunk:?}, which is in an operation");
        state.ring.release(&mut self.buffers, chunk);
    }

    fn ring_free(&self) -> u32 {
        lock(&self.state).ring.free()
    }
}
