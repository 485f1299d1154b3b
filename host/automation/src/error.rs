//! Why this room did not do what it was asked.

use ringfence_store::StoreError;

use crate::invoke::CallError;

/// Why this room did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AutomationError {
    /// No such extension point, binding, queue, message or schedule.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A declaration of an extension point cannot be followed.
    #[error("the extension point cannot be declared: {0}")]
    BadPoint(String),
    /// A change would break bound plugins.
    #[error("plugins of {tenants_count} tenants are bound, and this would change for them: {what}")]
    Breaking {
        /// Which parts.
        what: String,
        /// How many tenants.
        tenants_count: usize,
    },
    /// A binding cannot be followed.
    #[error("the plugin cannot be bound: {0}")]
    BadBinding(String),
    /// The product's payload does not fit the point's schema.
    #[error("the payload does not fit the extension point: {0}")]
    BadPayload(String),
    /// A queue or a message is not as it must be.
    #[error("{0}")]
    BadQueue(String),
    /// A schedule is not as it must be.
    #[error("{0}")]
    BadSchedule(String),
    /// The schedule says that no run of it begins beside another.
    #[error("a run of this schedule is under way, and its `overlap` lets none begin beside it")]
    ScheduleRuns,
    /// The queue is full.
    #[error("the queue has as many messages as it may have")]
    QueueFull {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant has as many of these as it may have.
    #[error("a tenant has at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The plugin cannot be run.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
