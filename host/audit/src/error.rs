//! What can go wrong with an audit log. Texts never carry an event's values.

use ringfence_core::Blame;

/// Why the log did not do what was asked. The effect that needed the entry must then not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The entry could not be made durable in time. Nothing may be done that needed it; try again later.
    #[error("the audit log cannot be written now")]
    Unavailable,
    /// The log on disk contradicts itself. Nothing is appended until an operator has looked.
    #[error("the audit log `{log}` is broken at entry {seq}: {what}")]
    Broken {
        /// The log's name.
        log: String,
        /// Where.
        seq: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// The tenant, and its log with it, was deleted.
    #[error("the tenant of this audit log was deleted")]
    Gone,
    /// The keys of this log's tenant are disabled.
    #[error("the keys of this audit log's tenant are disabled")]
    KeyDisabled,
    /// The event has no canonical form, or its fixed parts are too long.
    #[error("the event cannot be recorded: it is too long or has no canonical form")]
    Unrepresentable,
}

impl AuditError {
    /// Stable slug, also the name of its page in the error reference.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable | Self::Broken { .. } => "audit-unavailable",
            Self::Gone => "not-found",
            Self::KeyDisabled => "key-disabled",
            Self::Unrepresentable => "host-error",
        }
    }
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Gone | Self::KeyDisabled => Blame::Caller,
            _ => Blame::Host,
        }
    }
}
