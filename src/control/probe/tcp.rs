//! The `tcp` check: whoever accepts a connection passes.

use std::time::Duration;

use super::ms;

pub(super) fn passed(took: Duration) -> String {
    format!("connected in {}", ms(took))
}
