//! Waiting for a condition, never for a length of time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Longer than anything takes on two busy cores; reaching it is a failure, not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Asks `look` until it answers, and panics with `what` and its last complaint after
/// [`PATIENCE`].
pub fn until<T, E: Debug>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, look)
        .unwrap_or_else(|last| panic!("{what}: not within {PATIENCE:?}: {last:?}"))
}

/// The first answer, or the last complaint after `limit`.
pub fn within<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Err(_) if Instant::now() < end => pause(),
            done => return done,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls a condition")]
fn pause() {
    std::thread::sleep(INTERVAL);
}
