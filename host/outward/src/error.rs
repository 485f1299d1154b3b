//! What can go wrong on the way out.

use ringfence_audit::AuditError;
use ringfence_store::StoreError;
use ringfence_threat::ThreatError;

/// A failure of this room.
#[derive(Debug, thiserror::Error)]
pub enum OutwardError {
    /// There is no such thing, or it is another's.
    #[error("there is no such thing here")]
    NotFound,
    /// The name is taken.
    #[error("there is one of that name already")]
    Exists,
    /// Nothing can be carried there.
    #[error("the destination cannot be used: {what}")]
    BadDestination {
        /// Why.
        what: String,
    },
    /// Nothing can be fetched from there.
    #[error("the feed cannot be used: {what}")]
    BadFeed {
        /// Why.
        what: String,
    },
    /// A limit is reached.
    #[error("there are {count_max} {what} already, and no more can be kept")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count_max: usize,
    },
    /// As much is under way as may be.
    #[error("as much is under way as this host does at once")]
    Busy,
    /// The mail server of the configuration cannot be used.
    #[error("the mail server cannot be used: {what}")]
    BadMail {
        /// Why.
        what: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log refused, so nothing was done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Intelligence was refused.
    #[error(transparent)]
    Threat(#[from] ThreatError),
}
