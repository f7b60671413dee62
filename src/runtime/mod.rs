//! What a worker stands on: the seam to the kernel, memory, time, mail.

pub mod async_runtime;
pub mod budget;
pub mod buffers;
mod calls;
pub mod cpus;
pub mod driver;
pub mod engine;
pub mod epoll;
pub mod listen;
pub mod mail;
mod pipes;
mod ports;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[allow(unsafe_code)]
pub mod sys;
pub mod tasks;
pub mod time;
pub mod timer;
pub mod token;
pub mod uring;
pub mod worker;
