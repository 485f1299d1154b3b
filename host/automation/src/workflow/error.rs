//! What can go wrong with runs, apart from their own code.
//!
//! Must never carry a payload: errors reach logs.

use ringfence_store::StoreError;

use crate::workflow::command::Refusal;

/// A failure around a run.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// There is no such run in this tenant.
    #[error("there is no such run")]
    UnknownRun,
    /// There is already a run of that key, of other things.
    #[error("a run was begun under this key with another workflow or input")]
    OtherRun,
    /// The plugin, or this version of it, is not there or has no workflow.
    #[error("{0}")]
    NoWorkflow(String),
    /// A word or size that does not fit.
    #[error("{what} is over its limit of {max}")]
    Limit {
        /// What.
        what: &'static str,
        /// How much there may be.
        max: u64,
    },
    /// Something that is not JSON.
    #[error("{0} is not JSON")]
    NotJson(&'static str),
    /// The run is in no state for this.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WorkflowError {
    /// Whether a record rotted: trying again does not help.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged | StoreError::Form(_)))
    }
}
