//! `io_uring`: whether it is allowed here, each feature that the workers use, and which engine
//! `run` would take. What is missing is no obstacle, it costs speed: there is epoll.
//!
//! Every feature is tried by setting up a small ring with it, in this process, so that a
//! seccomp filter or a sysctl shows as it would to a worker. Two of them are flags that no
//! probe reports; each came with an operation that the probe does report.

use io_uring::{Builder, IoUring, Probe, opcode};

use super::Finding;
use crate::config::plan::EngineChoice;
use crate::runtime::{engine, uring};

const NEWER_KERNEL: &str = "use Linux 6.1 or newer";

/// One line for the ring, one for each feature if there is a ring at all, one for the engine.
pub(super) fn examine() -> Vec<Finding> {
    let mut findings = ring();
    findings.push(engine());
    findings
}

/// What `engine = "auto"` comes to.
fn engine() -> Finding {
    match engine::choose(EngineChoice::Auto) {
        Ok(chosen) => {
            let auto = format!("\"auto\" takes {} here", chosen.engine.as_str());
            Finding::ok("engine", auto)
        }
        Err(cause) => {
            let remedy = format!("unset {}, or give it a known word", engine::ENGINE_VARIABLE);
            Finding::bad("engine", cause, remedy)
        }
    }
}

fn ring() -> Vec<Finding> {
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => {
            let cause = uring::explain(&error);
            let (found, remedy) = cause.split_once("; ").unwrap_or((&cause, NEWER_KERNEL));
            return vec![Finding::warn("io_uring", format!("{found} ({error})"), remedy)];
        }
    };
    let mut findings = vec![Finding::ok("io_uring", "allowed")];
    findings.push(setup("SINGLE_ISSUER", "one thread a ring, less locking", |builder| {
        builder.setup_single_issuer();
    }));
    findings.push(setup(
        "DEFER_TASKRUN",
        "completions in batches, on the worker's own terms",
        |builder| {
            builder.setup_single_issuer().setup_defer_taskrun();
        },
    ));
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    let since = |code: u8| probed.is_ok() && probe.is_supported(code);
    // OP_SOCKET came with 5.19, as multishot accept did; OP_SEND_ZC with 6.0, as multishot receive.
    findings.push(implied(
        "multishot accept",
        "one submission, many clients",
        since(opcode::Socket::CODE),
    ));
    findings.push(implied(
        "multishot receive",
        "idle sessions hold no buffer",
        since(opcode::SendZc::CODE),
    ));
    findings.push(whole());
    findings
}

fn setup(name: &'static str, gives: &str, flags: impl Fn(&mut Builder)) -> Finding {
    let mut builder = IoUring::builder();
    flags(&mut builder);
    match builder.build(8) {
        Ok(_) => Finding::ok(name, gives),
        Err(error) => Finding::warn(name, format!("refused ({error})"), NEWER_KERNEL),
    }
}

fn implied(name: &'static str, gives: &str, there: bool) -> Finding {
    if there {
        Finding::ok(name, gives)
    } else {
        Finding::warn(name, "not in this kernel", NEWER_KERNEL)
    }
}

/// The ring exactly as a worker makes it, with its provided buffers.
fn whole() -> Finding {
    match uring::probe() {
        Ok(()) => Finding::ok("buffer ring", "the kernel picks a buffer when bytes arrive"),
        Err(cause) => {
            let (found, remedy) = cause.split_once("; ").unwrap_or((&cause, NEWER_KERNEL));
            Finding::warn("buffer ring", found, remedy)
        }
    }
}
