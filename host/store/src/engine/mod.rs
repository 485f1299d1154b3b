//! What the store asks of a database: ordered bytes, atomic batches, and a word on when they are durable.
//!
//! Engines know nothing of tenants, keys or sealing. Must never panic, whatever is on the disk.

mod memory;
mod sled;

use std::ops::Bound;

pub(crate) use self::memory::MemoryEngine;
pub use self::memory::{Fault, Faults};
pub(crate) use self::sled::{OpenFailure, SledEngine};

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
    /// Tries to come back after a failure; at once `Ok` when nothing is wrong.
    fn recover(&self) -> Result<(), EngineError>;
    fn bytes_on_disk(&self) -> u64;
    fn close(&self);
}

/// Collects pairs until a limit of the span; what both engines do with their iterators.
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
