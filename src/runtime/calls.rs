//! What both drivers over the kernel do by the same calls.

/// The methods of [`Driver`](super::driver::Driver) that need neither a ring nor what is known of
/// a socket's readiness. Inside of both `impl`s, so that the simulation, which must not reach the
/// kernel, cannot inherit one by forgetting its own.
macro_rules! shared_calls {
    () => {
        fn keep_alive_now(&mut self, fd: Fd, options: &TcpOptions) {
            // Refused only on a socket that is not TCP, which needs none of it.
            let _ = sys::set_keep_alive(fd.0, options);
        }

        fn lift_ports_now(&mut self, fd: Fd) -> bool {
            Ports::lift(fd.0)
        }

        fn finish_now(&mut self, fd: Fd) {
            sys::shutdown_write(fd.0);
        }

        fn unsent_now(&mut self, fd: Fd) -> u32 {
            sys::unsent(fd.0)
        }

        fn path_now(&mut self, fd: Fd) -> Option<PathInfo> {
            sys::path(fd.0)
        }

        fn peer_now(&mut self, fd: Fd) -> Option<SocketAddr> {
            sys::peer(fd.0)
        }

        fn local_now(&mut self, fd: Fd) -> Option<SocketAddr> {
            sys::local(fd.0)
        }

        fn take_pipe(&mut self) -> Option<PipeId> {
            self.pipes.take()
        }

        fn give_pipe(&mut self, pipe: PipeId, empty: bool) {
            self.pipes.give(pipe, empty);
        }

        fn pipe_capacity(&self, pipe: PipeId) -> u32 {
            self.pipes.capacity(pipe)
        }

        fn splice_out_now(&mut self, pipe: PipeId, fd: Fd, max: u32) -> Result<u32, Errno> {
            sys::splice(self.pipes.end(pipe, 0), fd.0, max)
        }

        fn read_pipe_now(&mut self, pipe: PipeId, chunk: ChunkId) -> u32 {
            let n = sys::read(self.pipes.end(pipe, 0), self.buffers.tail(chunk)).unwrap_or(0);
            self.buffers.extend(chunk, n);
            n
        }

        fn buffers(&mut self) -> &mut Buffers {
            &mut self.buffers
        }
    };
}

pub(super) use shared_calls;
