//! What the operator sets for all logs: how long entries are kept at least, how long when nobody says, and how heads are signed.
//!
//! Plain values. Must never let a tenant go below the operator's minimum.

use std::time::Duration;

/// How long entries are kept when nobody says otherwise, in days: seven years.
pub const RETENTION_DAYS: u32 = 2_557;
/// LIMIT: longest retention, in days; about a hundred years.
pub const RETENTION_DAYS_MAX: u32 = 36_525;

/// The operator's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long when a log's owner set nothing, in days.
    pub retention_days: u32,
    /// The least that an owner may set, in days.
    pub retention_days_min: u32,
    /// Whether heads carry a post-quantum cosignature too.
    pub post_quantum: PostQuantum,
    /// Time between two rounds of looking for what is due.
    pub sweep_every: Duration,
}

/// Whether heads carry an ML-DSA-44 cosignature beside the Ed25519 signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostQuantum {
    /// They do.
    On,
    /// They do not.
    Off,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            retention_days: RETENTION_DAYS,
            retention_days_min: 365,
            post_quantum: PostQuantum::Off,
            sweep_every: Duration::from_secs(600),
        }
    }
}
