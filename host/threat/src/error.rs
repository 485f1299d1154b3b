//! What can go wrong in detection and response.

use ringfence_audit::AuditError;
use ringfence_store::StoreError;

/// A failure of this room.
#[derive(Debug, thiserror::Error)]
pub enum ThreatError {
    /// There is no such thing, or it is another's.
    #[error("there is no such thing here")]
    NotFound,
    /// A rule is not one that can be followed.
    #[error("the rule cannot be followed: {what}")]
    BadRule {
        /// Where and why.
        what: String,
    },
    /// A response cannot be made like this.
    #[error("the response cannot be made: {what}")]
    BadResponse {
        /// Why.
        what: String,
    },
    /// A response would touch others than it is for.
    #[error("the response would touch others: {what}")]
    TooWide {
        /// Whom.
        what: String,
    },
    /// Settings that cannot be followed.
    #[error("the settings cannot be followed: {what}")]
    BadSettings {
        /// Why.
        what: String,
    },
    /// Intelligence that cannot be read.
    #[error("the bundle cannot be read: {what}")]
    BadBundle {
        /// Why.
        what: String,
    },
    /// An incident cannot go that way.
    #[error("the incident cannot go that way: {what}")]
    BadTransition {
        /// Why.
        what: String,
    },
    /// A step of an incident says what cannot be understood, or not what it needs.
    #[error("the step cannot be understood: {what}")]
    BadStep {
        /// What of it, and what it could be.
        what: String,
    },
    /// Another person must do this.
    #[error("another person than the one who asked must agree")]
    SecondPerson,
    /// A limit is reached.
    #[error("there are {count_max} already, and no more can be kept: {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count_max: usize,
    },
    /// It is not what its writer saw any more.
    #[error("it was changed since you read it")]
    Changed,
    /// What is to be taken back holds no more.
    #[error("there is nothing to take back: {how}")]
    Over {
        /// How and when it ended.
        how: String,
    },
    /// Another step of the same owner takes too long.
    #[error("another step is being taken here; try again")]
    Busy,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log refused, so nothing was done.
    #[error(transparent)]
    Audit(#[from] AuditError),
}
