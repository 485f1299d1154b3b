//! What the store asks of a database: ordered bytes, atomic batches, and a word on when they are durable.
//!
//! Engines know nothing of tenants, keys or sealing. Must never panic, whatever is on the disk.

mod damaged;
mod guard;
mod memory;
mod redb;
mod sled;

#[cfg(test)]
mod power;
#[cfg(test)]
mod suite;

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::damaged::Damaged;
pub(crate) use self::memory::MemoryEngine;
pub use self::memory::{Fault, Faults};
use self::redb::RedbEngine;
use self::sled::SledEngine;

/// A database under the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A log-structured tree, behind a wrapper that makes it durable. What a host runs on unless told otherwise.
    Sled,
    /// A copy-on-write tree with its own durability, in one file.
    Redb,
}

impl Backend {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// Its name in configuration and in a data directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }

    /// The backend of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }

    /// Where its files lie in a data directory: a place of its own each, so that one name in one file decides.
    pub(crate) const fn directory(self) -> &'static str {
        match self {
            Self::Sled => "db",
            Self::Redb => "redb",
        }
    }

    /// Opens the database in `directory`, which must exist and belong to this process alone, and reads all of it, so
    /// that damage shows now and not in the middle of a request.
    pub(crate) fn open(self, directory: &Path, cache_bytes: u64) -> Result<Arc<dyn Engine>, OpenFailure> {
        Ok(match self {
            Self::Sled => Arc::new(SledEngine::open(directory, cache_bytes)?),
            Self::Redb => Arc::new(RedbEngine::open(directory, cache_bytes)?),
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a database did not open.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// The files are damaged.
    Corrupt(String),
    /// The disk or the system said no.
    Io(io::Error),
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for OpenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(reason) => f.write_str(reason),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// The engine cannot serve: the disk failed, or it was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineError {
    Failed(String),
    Closed,
}

impl From<EngineError> for crate::StoreError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Failed(reason) => Self::Unavailable { reason },
            EngineError::Closed => Self::Closed,
        }
    }
}

/// One change: a value, or none to delete.
pub(crate) struct Write {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Which keys to read and from which end.
pub(crate) struct Span {
    pub(crate) from: Bound<Vec<u8>>,
    pub(crate) to: Bound<Vec<u8>>,
    pub(crate) order: Order,
    /// LIMIT: most pairs to read.
    pub(crate) count_max: usize,
    /// LIMIT: stop after the pair that reaches this many bytes.
    pub(crate) bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Backward,
}

/// What a span held, as far as its limits went.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether there is at least one more.
    pub(crate) more: bool,
}

pub(crate) trait Engine: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;
    fn range(&self, span: &Span) -> Result<Rows, EngineError>;
    /// Applies all writes or none; visible to reads at once, durable after the next [`Engine::sync`].
    fn apply(&self, writes: Vec<Write>) -> Result<(), EngineError>;
    /// Returns once everything applied before survives a power cut. After an error, all that was not synced is in doubt.
    fn sync(&self) -> Result<(), EngineError>;
    /// Applies all writes or none and returns once they, and everything applied before, survive a power cut.
    fn commit(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        self.apply(writes)?;
        self.sync()
    }
    /// Tries to come back after a failure; at once `Ok` when nothing is wrong.
    fn recover(&self) -> Result<(), EngineError>;
    fn bytes_on_disk(&self) -> u64;
    fn close(&self);
}

/// Collects pairs until a limit of the span; what all engines do with their iterators.
pub(crate) fn collect<E>(span: &Span, pairs: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Rows, E> {
    let mut rows = Rows::default();
    let mut bytes = 0_usize;
    for pair in pairs {
        let pair = pair?;
        if rows.pairs.len() >= span.count_max || bytes >= span.bytes_max {
            rows.more = true;
            break;
        }
        bytes = bytes.saturating_add(pair.0.len()).saturating_add(pair.1.len());
        rows.pairs.push(pair);
    }
    Ok(rows)
}

fn borrow(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Whether a span cannot hold anything; some databases panic on such.
fn is_empty(span: &Span) -> bool {
    match (&span.from, &span.to) {
        (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from > to,
        _ => false,
    }
}
