//! Changes of the key that signs a log: what shows one to somebody who knows the key before.
//!
//! Pure. Must never trust a key because the host names it: a change counts only when the key before signed a head that covers
//! the entry about it.

use serde::{Deserialize, Serialize};

use crate::note::{SignedHead, Verifier};

/// LIMIT: changes of key that are followed.
pub const CHANGES_COUNT_MAX: usize = 256;

/// That a log goes on under another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The key before (C2SP vkey).
    pub old_vkey: String,
    /// The key after.
    pub new_vkey: String,
    /// Place of the entry about it.
    pub seq: u64,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// The log's head right after that entry, signed by both.
    pub checkpoint: String,
}

/// The keys that follow from one that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The known key and those it leads to, in order; never empty.
    verifiers: Vec<Verifier>,
    /// The changes that led there, each with its head.
    pub(crate) changes: Vec<(KeyChange, SignedHead)>,
}

impl Trust {
    /// What follows from `vkey`, the key of the log `origin` as once learnt; none when it is not a key of that log.
    pub fn follow(origin: &str, vkey: &str, changes: &[KeyChange]) -> Option<Self> {
        let known = Verifier::parse(vkey).filter(|verifier| verifier.name() == origin)?;
        let mut trust = Self { verifiers: vec![known.clone()], changes: Vec::new() };
        let mut last = known;
        for change in changes.iter().take(CHANGES_COUNT_MAX) {
            let new = Verifier::parse(&change.new_vkey).filter(|new| new.name() == origin);
            let Some(new) = new.filter(|_| change.old_vkey == last.vkey()) else { continue };
            let Some(head) = last.open(&change.checkpoint).filter(|head| change.seq < head.size) else { break };
            if new.open(&change.checkpoint).is_none() {
                break;
            }
            trust.changes.push((change.clone(), head));
            trust.verifiers.push(new.clone());
            last = new;
        }
        Some(trust)
    }

    /// Opens a checkpoint that any of the keys signed.
    pub fn open(&self, checkpoint: &str) -> Option<SignedHead> {
        self.verifiers.iter().rev().find_map(|verifier| verifier.open(checkpoint))
    }

    /// The text of a note that any of the keys signed.
    pub fn open_text(&self, note: &str, bytes_max: usize) -> Option<String> {
        self.verifiers.iter().rev().find_map(|verifier| verifier.open_text(note, bytes_max))
    }

    /// The newest key that is trusted.
    pub fn vkey(&self) -> String {
        self.verifiers.last().map(Verifier::vkey).unwrap_or_default()
    }
}
