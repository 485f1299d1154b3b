//! Dice and a clock for benchmarks that open rooms of the host themselves.
//!
//! Must never be what is measured: the dice are the host's own call to the kernel, the clock costs nothing.

use std::time::{Duration, Instant};

use ringfence_core::{Clock, Entropy};

/// The kernel's dice, as the host has them.
pub struct KernelDice;

impl Entropy for KernelDice {
    fn fill(&self, into: &mut [u8]) {
        // The kernel answers requests of this size whole once it has started; a benchmark may stop if not.
        let _ = rustix::rand::getrandom(into, rustix::rand::GetRandomFlags::empty());
    }
}

/// The system's clocks, as the host has them.
pub struct WallClock(Instant);

impl WallClock {
    /// Starts the monotonic one at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "what is measured is when things happen")]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

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
