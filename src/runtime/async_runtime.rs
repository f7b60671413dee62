//! The runtime of threads that run futures of tokio: control and the access log.
//!
//! With io_uring it is tokio's current thread with a ring beside it, which writes files; without,
//! it is tokio alone, and files are written by its blocking threads.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;

use tokio::task::LocalSet;

use super::engine::Engine;

pub enum AsyncRuntime {
    Uring(ManuallyDrop<tokio_uring::Runtime>),
    Plain(tokio::runtime::Runtime),
}

impl std::fmt::Debug for AsyncRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uring(_) => "AsyncRuntime::Uring",
            Self::Plain(_) => "AsyncRuntime::Plain",
        })
    }
}

impl AsyncRuntime {
    /// For the calling thread.
    ///
    /// # Errors
    /// io_uring_setup(2)'s, or no descriptor left.
    pub fn new(engine: Engine) -> io::Result<Self> {
        match engine {
            Engine::Uring => {
                let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
                Ok(Self::Uring(ManuallyDrop::new(runtime)))
            }
            Engine::Epoll => {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                builder.enable_all().build().map(Self::Plain)
            }
        }
    }

    /// Runs `future` and what it spawns locally, until it is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Plain(runtime) => LocalSet::new().block_on(runtime, future),
        }
    }

    /// Ends it when nothing is in flight.
    pub fn finish(self) {
        if let Self::Uring(runtime) = self {
            drop(ManuallyDrop::into_inner(runtime));
        }
    }

    /// Ends it without waiting for what is still in flight, which may never end.
    pub fn abandon(self) {
        match self {
            // Left as it is: the end of a ring waits for all that it has in flight.
            Self::Uring(_) => {}
            Self::Plain(runtime) => runtime.shutdown_background(),
        }
    }
}
