//! Writing to the log's file without making its thread wait: through the ring, or on a blocking
//! thread where there is none.

use std::fs::File as StdFile;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File as RingFile;

use super::PERIOD_BUSY;
use crate::runtime::engine::Engine;

/// What came of one write: the bytes, how many of them were taken, and why not all.
pub(super) type Written = (Vec<u8>, usize, io::Result<()>);

#[derive(Clone)]
pub(super) enum LogFile {
    Ring(Rc<RingFile>),
    Blocking(Arc<StdFile>),
}

impl LogFile {
    pub fn new(file: StdFile, engine: Engine) -> Self {
        match engine {
            Engine::Uring => Self::Ring(Rc::new(RingFile::from_std(file))),
            Engine::Epoll => Self::Blocking(Arc::new(file)),
        }
    }

    /// Writes all of `bytes`, going on after short writes.
    pub async fn write_all(self, mut bytes: Vec<u8>) -> Written {
        let mut taken = 0;
        while taken < bytes.len() {
            let result;
            (result, bytes) = self.write(bytes, taken).await;
            match result {
                Ok(0) => return (bytes, taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody else has made our stdout non-blocking; the stall clock is running.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(PERIOD_BUSY).await;
                }
                Err(error) => return (bytes, taken, Err(error)),
            }
        }
        (bytes, taken, Ok(()))
    }

    /// One write of what stands from `from` on.
    async fn write(&self, bytes: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>) {
        /// An offset of -1 is the file's own position, which is what pipes and terminals need
        /// and what append mode ignores.
        const AT_POSITION: u64 = u64::MAX;
        match self {
            Self::Ring(file) => {
                let (result, slice) =
                    file.write_at(bytes.slice(from..), AT_POSITION).submit().await;
                (result, slice.into_inner())
            }
            Self::Blocking(file) => {
                let file = Arc::clone(file);
                let write = move || ((&*file).write(&bytes[from..]), bytes);
                // Lost only if the runtime was abandoned, and then nobody asks.
                let lost = |error| (Err(io::Error::other(error)), Vec::new());
                tokio::task::spawn_blocking(write).await.unwrap_or_else(lost)
            }
        }
    }
}
