//! What can go wrong in the store, and whose fault it is.
//!
//! Must never carry a value, a key name or a tenant's name: errors reach logs.

use std::path::PathBuf;

use ringfence_core::Blame;
use ringfence_keys::{Closed, KeysError};

use crate::engine::Backend;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition did not hold; nothing of the batch was written.
    #[error("changed by someone else in the meantime")]
    Conflict {
        /// Which precondition, counted from 0.
        precondition: usize,
    },
    /// The tenant was deleted; its handles are of no use any more.
    #[error("the tenant is gone")]
    Gone,
    /// There is already a tenant of that name.
    #[error("there is already a tenant of that name")]
    Exists,
    /// There is no tenant of that name.
    #[error("there is no tenant of that name")]
    UnknownTenant,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// The provider of the key that the tenant keeps itself does not open it: nothing of the tenant can be read or written.
    #[error("the tenant's own key provider does not open its key")]
    KeyRefused,
    /// An operator disabled the keys, or wants them destroyed: an operator enables them.
    #[error("an operator disabled the keys of this tenant, so an operator enables them")]
    Held,
    /// Too much is waiting to be written; nothing was. Try again later.
    #[error("too many writes are waiting")]
    Busy,
    /// More of the tenant was changed than a snapshot can follow while it was being read; reading it again may work.
    #[error("too much was changed while it was being read")]
    Overrun,
    /// The disk is below its floor of free space; nothing was written. Deleting still works.
    #[error("the disk is full: {free_bytes} bytes are free and {floor_bytes} are kept back")]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What is kept free.
        floor_bytes: u64,
    },
    /// The tenant holds as much as it may; nothing was written. Deleting still works.
    #[error("the tenant's quota of {bytes_max} bytes of storage is used up")]
    Quota {
        /// What it may hold.
        bytes_max: u64,
    },
    /// Nothing of the tenant is changed through this view; nothing was.
    #[error("nothing of this tenant is changed now")]
    ReadOnly,
    /// The disk failed. A write that got this answer may or may not be there later; it was not acknowledged.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What the disk or the engine said.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Another process has the store open.
    #[error("the store at `{}` is in use by another process", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// The directory was made by another backend than the one that is asked for. Nothing was touched.
    #[error("the store at `{}` was made by {found}, not {asked}: ask for {found}, or move it with `ringfence store migrate {found} {asked}`", path.display())]
    WrongBackend {
        /// Its directory.
        path: PathBuf,
        /// Which made it.
        found: Backend,
        /// Which was asked for.
        asked: Backend,
    },
    /// The directory was made by a later version of this program. Nothing was touched.
    #[error("the store at `{}` is of version {found} and this program knows versions up to {known}: run the program that made it, or a later one", path.display())]
    Newer {
        /// Its directory.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The last version that is known here.
        known: u64,
    },
    /// The files are damaged. They were moved aside whole; salvage them, or restore a backup.
    #[error("the store is damaged ({reason}) and was moved to `{}`: recover what opens with `ringfence store salvage`, or restore a backup", quarantined_to.display())]
    Corrupt {
        /// What was found.
        reason: String,
        /// Where the files are now.
        quarantined_to: PathBuf,
    },
    /// A record or file was altered, moved or cut on disk.
    #[error("stored data is damaged")]
    Damaged,
    /// A key of the key chain is not where it belongs.
    #[error("the wrapped key of {what} is missing from the store")]
    KeyMissing {
        /// Whose key, without naming a tenant.
        what: &'static str,
    },
    /// A value, batch, name or file is over its limit.
    #[error("{what} is over its limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, in bytes or in count as `what` says.
        max: u64,
    },
    /// A subject without a name.
    #[error("the subject has no name")]
    NoSubject,
    /// The key of this value's subject was destroyed.
    #[error("the subject was erased")]
    Erased,
    /// A page token that this store did not make.
    #[error("not a page token")]
    BadToken,
    /// A name of a stored file that this store did not make.
    #[error("not a file id")]
    BadBlobId,
    /// The tenant's keys are disabled, or its own key provider refuses them. Nothing of it can be read or written now.
    #[error("the tenant's keys are disabled")]
    KeyDisabled,
    /// The keys room refused.
    #[error(transparent)]
    Keys(KeysError),
    /// A value does not have the expected form.
    #[error("a stored value does not have the expected form")]
    Form(#[source] serde_json::Error),
}

impl StoreError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Conflict { .. }
            | Self::Gone
            | Self::Exists
            | Self::UnknownTenant
            | Self::Missing
            | Self::KeyDisabled
            | Self::Held
            | Self::KeyRefused
            | Self::Quota { .. }
            | Self::TooLarge { .. }
            | Self::NoSubject
            | Self::Erased
            | Self::BadToken
            | Self::BadBlobId => Blame::Caller,
            _ => Blame::Host,
        }
    }

    /// Whether the same call may work later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy | Self::Overrun | Self::Full { .. } | Self::Unavailable { .. })
    }

    /// Opening failed: the bytes are damaged, or the keys are closed and the bytes may be fine.
    pub(crate) fn opening(error: KeysError) -> Self {
        match error {
            KeysError::Closed(_) => error.into(),
            _ => Self::Damaged,
        }
    }

    pub(crate) fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }
}

impl From<KeysError> for StoreError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Closed(Closed::Destroyed) => Self::Gone,
            KeysError::Closed(Closed::Disabled) => Self::KeyDisabled,
            KeysError::Closed(Closed::Refused) => Self::KeyRefused,
            ref own if own.is_own() && !matches!(own, KeysError::OwnNotAllowed) => Self::KeyRefused,
            other => Self::Keys(other),
        }
    }
}
