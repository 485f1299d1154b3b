//! What lies under the keys of a batch before it: read by whoever writes, beside the commit thread, which has to look itself only
//! where somebody wrote in between.
//!
//! Must never be taken for what the database has unless nothing was written under the key since it was read: that is what
//! [`Recent`] knows. INVARIANT: a reader notes what is applied before it reads, and the commit thread notes what it wrote before it
//! prepares the next group, so a row that is newer or older than what was noted is always among the recent ones.

use std::collections::{BTreeMap, HashMap};

use ringfence_keys::TenantKeys;

use crate::engine::{Engine, EngineError};
use crate::held;
use crate::record::{FileRef, revision_of};

/// LIMIT: keys remembered as written lately: those of some groups, which is how long a batch waits.
const RECENT_COUNT_MAX: usize = 16 << 10;

/// What a row counts that is replaced or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Old {
    pub(crate) revision: u64,
    /// As [`held::under`] has it.
    pub(crate) held_bytes: u64,
    pub(crate) file: Option<FileRef>,
}

/// What was read of the keys of a batch.
#[derive(Default)]
pub(crate) struct Prior {
    /// The newest revision that was applied before it was read.
    at: u64,
    rows: BTreeMap<Vec<u8>, Option<Old>>,
}

/// What was written lately. For the commit thread.
pub(crate) struct Recent {
    /// Whatever was written after this revision is in `written`.
    since: u64,
    /// The newest revision of each key.
    written: HashMap<Vec<u8>, u64>,
}

// === impl Old ===

impl Old {
    pub(crate) fn of(keys: &TenantKeys, key: &[u8], stored: Option<&[u8]>) -> Option<Self> {
        let (held_bytes, file) = held::under(keys, key, stored);
        stored.map(|stored| Self { revision: revision_of(stored), held_bytes, file })
    }
}

// === impl Prior ===

impl Prior {
    /// Reads what lies under some keys now; `at` is what was applied before.
    pub(crate) fn read<'a>(
        engine: &dyn Engine,
        at: u64,
        tenant_keys: &TenantKeys,
        keys: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<Self, EngineError> {
        let row = |key: &Vec<u8>| Ok((key.clone(), Old::of(tenant_keys, key, engine.get(key)?.as_deref())));
        Ok(Self { at, rows: keys.map(row).collect::<Result<_, EngineError>>()? })
    }

    /// What lies under a key, where that is known.
    pub(crate) fn get(&self, key: &[u8], recent: &Recent) -> Option<Option<Old>> {
        if recent.is_unchanged(key, self.at) { self.rows.get(key).copied() } else { None }
    }
}

// === impl Recent ===

impl Recent {
    /// Nothing is known of what was written up to this revision.
    pub(crate) fn after(revision: u64) -> Self {
        Self { since: revision, written: HashMap::new() }
    }

    /// These were written, the newest under this revision.
    pub(crate) fn wrote<'a>(&mut self, keys: impl Iterator<Item = &'a Vec<u8>>, newest: u64) {
        self.written.extend(keys.map(|key| (key.clone(), newest)));
        if self.written.len() > RECENT_COUNT_MAX {
            *self = Self::after(newest);
        }
    }

    fn is_unchanged(&self, key: &[u8], at: u64) -> bool {
        at >= self.since && self.written.get(key).is_none_or(|revision| *revision <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior(at: u64) -> Prior {
        let old = Old { revision: 3, held_bytes: 10, file: None };
        Prior { at, rows: [(b"k".to_vec(), Some(old)), (b"none".to_vec(), None)].into() }
    }

    fn keys(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_row_counts_only_as_long_as_nobody_wrote_it_since() {
        let mut recent = Recent::after(4);
        assert!(prior(3).get(b"k", &recent).is_none(), "of a time of which nothing is known");
        assert_eq!(prior(4).get(b"k", &recent).unwrap().unwrap().revision, 3);
        assert_eq!(prior(4).get(b"none", &recent), Some(None));
        assert_eq!(prior(4).get(b"other", &recent), None, "it was not read");
        recent.wrote(keys(&["k"]).iter(), 9);
        assert!(prior(8).get(b"k", &recent).is_none(), "it was written, and may have been read before or after");
        assert!(prior(8).get(b"none", &recent).is_some() && prior(9).get(b"k", &recent).is_some());
    }

    #[test]
    fn what_is_too_much_to_remember_makes_what_was_read_before_count_for_nothing() {
        let mut recent = Recent::after(0);
        let many: Vec<Vec<u8>> = (0..=RECENT_COUNT_MAX).map(|number| number.to_be_bytes().to_vec()).collect();
        recent.wrote(many.iter(), 7);
        assert!(recent.written.is_empty());
        assert!(prior(6).get(b"k", &recent).is_none() && prior(7).get(b"k", &recent).is_some());
    }
}
