//! Waiting. Clocks are no need: every component has them.
//!
//! Must never spin: a wait is the host's, and costs no CPU time of the plugin's budget.

use std::time::Duration;

/// Waits at least this long.
pub async fn sleep(duration: Duration) {
    wstd::task::sleep(wstd::time::Duration::from(duration)).await;
}
