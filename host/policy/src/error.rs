//! What can be wrong with a policy text, in the words of whoever wrote it.
//!
//! Must never carry another tenant's text, nor a Rust type name.

use ringfence_core::Blame;

/// Why a policy was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is longer than the cap.
    #[error("the policy has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// The text holds more policies than the cap.
    #[error("the policy has {count} statements, and at most {count_max} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        count_max: usize,
    },
    /// Too many policies could apply to one and the same question.
    #[error(
        "{count} statements can apply to one request, and at most {count_max} may: name the principal, the action or the resource in more of them"
    )]
    TooBroad {
        /// How many can.
        count: usize,
        /// How many may.
        count_max: usize,
    },
    /// The text is no policy, or does not fit the schema, or names what it must not.
    #[error("line {line}, column {column}: {message}")]
    Invalid {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong.
        message: String,
        /// What may help, if anything is known.
        help: Option<String>,
    },
    /// The labels are no labels of this tenant.
    #[error("{place}: {message}")]
    Labels {
        /// Where in the text.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// The policies would leave nobody able to change them.
    #[error("these policies forbid a tenant-admin to `{action}`, so that nobody could change them again")]
    LocksOut {
        /// What an admin could no longer do.
        action: &'static str,
    },
    /// The tenant is not known here.
    #[error("`{tenant}` is not a tenant of this host")]
    UnknownTenant {
        /// Which.
        tenant: String,
    },
    /// The name is used by the platform's own principals.
    #[error("`{tenant}` is reserved and cannot be a tenant's name")]
    Reserved {
        /// Which.
        tenant: String,
    },
    /// The host's own schema or policies are broken.
    #[error("the platform's own policies cannot be loaded: {message}")]
    Platform {
        /// What is wrong.
        message: String,
    },
}

impl PolicyError {
    /// Who has to mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Platform { .. } => Blame::Host,
            _ => Blame::Caller,
        }
    }
}
