//! What can go wrong with an upload, a route or a grant, in the words of whoever asked.

use ringfence_core::{Blame, Capability, Digest, Exhausted, Need, Needs, PluginName, QuotaKind, TenantId};
use ringfence_engine::{CompileError, CompileLimit, EngineError, RunError};
use ringfence_store::StoreError;
use semver::Version;

use crate::InspectError;

/// Why the registry did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The bytes are not a component this host runs.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The compiler refused the bytes.
    #[error("not a component: {0}")]
    Invalid(String),
    /// The component fits no world of this host.
    #[error("{0}")]
    Unfit(String),
    /// The upload ended before it was complete.
    #[error("the upload ended early: {why}")]
    Truncated {
        /// In the user's words.
        why: String,
    },
    /// The manifest says something that cannot be.
    #[error("plugin.toml: {0}")]
    BadManifest(String),
    /// The manifest is of something else.
    #[error("plugin.toml says {what} `{manifest}`, but the upload is for `{path}`")]
    NameMismatch {
        /// `name` or `version`.
        what: &'static str,
        /// What the manifest says.
        manifest: String,
        /// What the upload is for.
        path: String,
    },
    /// The label is taken by other bytes.
    #[error("`{plugin}@{version}` is already published with other bytes ({existing}); publish under a new version")]
    VersionExists {
        /// The plugin.
        plugin: PluginName,
        /// The label.
        version: Version,
        /// The digest published under it.
        existing: Digest,
        /// The digest of this upload.
        given: Digest,
    },
    /// Compiling took more than it may.
    #[error("compiling the component reached the limit of {0}")]
    CompileLimit(CompileLimit),
    /// The component does not start.
    #[error("the component does not start: {0}")]
    Rehearsal(RunError),
    /// The version needs what the tenant has not granted.
    #[error("`{plugin}@{version}` needs {}, which tenant `{tenant}` has not granted", words(missing))]
    NeedNotGranted {
        /// The tenant.
        tenant: TenantId,
        /// The plugin.
        plugin: PluginName,
        /// The version that was to answer.
        version: Box<Version>,
        /// All it needs.
        needs: Needs,
        /// Of the needs, what is not granted.
        missing: Vec<Need>,
        /// Of the needs, what the version that answers now does not need; none when nothing answers yet.
        added: Vec<Need>,
    },
    /// No such plugin.
    #[error("there is no plugin `{plugin}`")]
    PluginNotFound {
        /// What was asked for.
        plugin: PluginName,
    },
    /// No such version.
    #[error("there is no version `{version}` of `{plugin}`")]
    VersionNotFound {
        /// The plugin.
        plugin: PluginName,
        /// What was asked for.
        version: Version,
    },
    /// There was no version before.
    #[error("`{plugin}` has no earlier version to roll back to")]
    NothingToRollBack {
        /// The plugin.
        plugin: PluginName,
    },
    /// A canary needs another version beside it.
    #[error("`{plugin}@{version}` cannot take {percent} % of the calls: {why}")]
    BadPercent {
        /// The plugin.
        plugin: PluginName,
        /// The version to be tried.
        version: Version,
        /// The share asked for.
        percent: u8,
        /// In the user's words.
        why: &'static str,
    },
    /// The grant does not fit its capability.
    #[error("`{capability}` cannot be granted so: {why}")]
    BadGrant {
        /// The capability.
        capability: Capability,
        /// In the user's words.
        why: String,
    },
    /// The tenant has what it may have.
    #[error(transparent)]
    Quota(Exhausted),
    /// The host has too much to do.
    #[error("the host is busy with other uploads")]
    Busy,
    /// The disk is full.
    #[error("the host has no room for it")]
    Full,
    /// The tenant was deleted.
    #[error("the tenant was deleted")]
    Gone,
    /// What is stored of the tenant does not open.
    #[error("stored data is damaged")]
    Damaged,
    /// The store does not answer.
    #[error("the store cannot be reached now")]
    Unavailable,
    /// Something in the host is wrong; the log has more.
    #[error("the host failed: {0}")]
    Host(String),
}

impl RegistryError {
    /// Stable slug, also the name of its page in the error reference.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Inspect(error) => error.code(),
            Self::Invalid(_) => "not-a-component",
            Self::Unfit(_) => "unknown-import",
            Self::Truncated { .. } => "truncated",
            Self::BadManifest(_) => "bad-manifest",
            Self::NameMismatch { .. } => "name-mismatch",
            Self::VersionExists { .. } => "version-exists",
            Self::CompileLimit(_) => "compile-limit",
            Self::Rehearsal(_) => "rehearsal-failed",
            Self::NeedNotGranted { .. } => "need-not-granted",
            Self::PluginNotFound { .. } => "plugin-not-found",
            Self::VersionNotFound { .. } => "version-not-found",
            Self::NothingToRollBack { .. } => "nothing-to-roll-back",
            Self::BadPercent { .. } => "bad-percent",
            Self::BadGrant { .. } => "bad-scope",
            Self::Quota(_) => "quota-exhausted",
            Self::Busy => "overloaded",
            Self::Full => "store-full",
            Self::Gone => "not-found",
            Self::Unavailable => "store-unavailable",
            Self::Damaged | Self::Host(_) => "host-error",
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Busy | Self::Full | Self::Damaged | Self::Unavailable | Self::Host(_) => Blame::Host,
            _ => Blame::Caller,
        }
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Gone => Self::Gone,
            StoreError::Full { .. } => Self::Full,
            StoreError::Quota { bytes_max } => {
                let (kind, what) = (QuotaKind::Storage, "bytes of storage");
                Self::Quota(Exhausted { kind, what, max: bytes_max, retry_after_ms: None })
            }
            StoreError::Busy => Self::Busy,
            StoreError::Damaged | StoreError::Form(_) => Self::Damaged,
            other => {
                tracing::warn!(reason = %other, "the registry could not reach the store");
                Self::Unavailable
            }
        }
    }
}

impl From<CompileError> for RegistryError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Invalid(why) => Self::Invalid(why),
            CompileError::Limit(limit) => Self::CompileLimit(limit),
            CompileError::Failed(why) => Self::Host(why),
        }
    }
}

impl From<EngineError> for RegistryError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::UnknownImports { .. } | EngineError::Unfit(_) => Self::Unfit(error.to_string()),
            other => Self::Host(other.to_string()),
        }
    }
}

impl From<RunError> for RegistryError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Host(why) => Self::Host(why),
            RunError::Killed | RunError::Overloaded => Self::Busy,
            other => Self::Rehearsal(other),
        }
    }
}

fn words(needs: &[Need]) -> String {
    needs.iter().map(|need| format!("`{}`", need.capability)).collect::<Vec<_>>().join(", ")
}
