//! Time and entropy as values that are passed in, so that rules stay pure and tests decide what time it is.
//!
//! The real ones live in `server`; no room calls the operating system's clock or dice by itself.

use std::time::Duration;

use jiff::Timestamp;

/// Where the time comes from. Two clocks, because the wall clock can step backwards and a deadline must not.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, UTC. May step; use it for records and expiry, never to measure how long something took.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary start, never going back.
    fn monotonic(&self) -> Duration;
}

/// Where random bytes come from. Must be a cryptographically secure generator outside of tests.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the whole of `into`.
    fn fill(&self, into: &mut [u8]);
}
