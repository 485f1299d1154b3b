//! The host's own dice and clock, for benchmarks that open rooms of the host themselves, and a clock that stands still.
//!
//! Must never be what is measured: a clock that stands still costs nothing, and the rest costs what it costs the host.

use std::time::Duration;

use ringfence_core::Clock;

// The host is a program, not a library: its file is taken as it is, so that nothing here can differ from it.
#[path = "../../host/server/src/ambient.rs"]
mod host;

pub use host::{SystemClock, SystemEntropy};

/// A clock that stands still.
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}
