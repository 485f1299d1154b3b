//! The memory of one tenant: what all its running invocations hold together, against what it may hold.
//!
//! Shared by their meters. Must never give more than its size, nor take back more than it gave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory that a tenant's running invocations share.
#[derive(Debug)]
pub struct MemoryPool {
    bytes_max: AtomicU64,
    bytes: AtomicU64,
    refused_count: AtomicU64,
}

impl MemoryPool {
    /// An empty one of `bytes_max`.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max: AtomicU64::new(bytes_max),
            bytes: AtomicU64::new(0),
            refused_count: AtomicU64::new(0),
        })
    }

    /// Changes its size. What is held beyond a smaller size stays until it is let go; growth is refused at once.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Growth refused because it was full, since the start.
    pub fn refused_count(&self) -> u64 {
        self.refused_count.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing when they would go over.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let max = self.bytes_max.load(Ordering::Relaxed);
        let taken = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_add(bytes).filter(|sum| *sum <= max));
        if taken.is_err() {
            self.refused_count.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
    }
}
