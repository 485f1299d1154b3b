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
    /// What was asked for was deleted after its retention.
    #[error("the entries of `{log}` before {before} were deleted after their retention")]
    Deleted {
        /// The log's name.
        log: String,
        /// The first entry that is there.
        before: u64,
    },
    /// A legal hold keeps the log as it is.
    #[error("the legal hold `{hold}` keeps this log as it is")]
    Held {
        /// Which.
        hold: String,
    },
    /// There is no such entry or hold.
    #[error("there is no such entry or hold")]
    NoSuch,
    /// It takes two people.
    #[error("another person than the one who asked must agree")]
    OnePerson,
    /// A hold of the operators is lifted by operators, one of the tenant by the tenant.
    #[error("whose people set a hold, lift it")]
    OtherSide,
    /// The entry is one of the host's own.
    #[error("entry {seq} is the host's own, which stays until its retention is over")]
    NotErasable {
        /// Which.
        seq: u64,
    },
    /// There are as many as there may be.
    #[error("there are too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// So many days nobody may set.
    #[error("a retention is {min} to {max} days")]
    Days {
        /// The operator's minimum.
        min: u32,
        /// The most.
        max: u32,
    },
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
            Self::Deleted { .. } => "audit-retention",
            Self::Held { .. } => "legal-hold",
            Self::NoSuch => "no-entry",
            Self::OnePerson => "second-person-needed",
            Self::OtherSide => "hold-of-others",
            Self::NotErasable { .. } => "not-erasable",
            Self::TooMany { .. } => "too-many",
            Self::Days { .. } => "bad-retention",
        }
    }
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Unavailable | Self::Broken { .. } | Self::Unrepresentable => Blame::Host,
            _ => Blame::Caller,
        }
    }
}
