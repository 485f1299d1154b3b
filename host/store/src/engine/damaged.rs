//! A database that did not open, or not whole: what of it can still be read, row by row, past the places that cannot.
//!
//! For copies only: opening mends what it can. Must never be written to, and never be trusted: what it gives is compared with
//! its seal by whoever reads it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Builder, Database, ReadableDatabase};

use super::redb::{FILE, ROWS};
use super::{Backend, OpenFailure};
use crate::key::successor;

/// LIMIT: rows read at a time.
const STEP_COUNT: usize = 1_000;

type Pair = (Vec<u8>, Vec<u8>);

/// A damaged database, open for reading what is left of it.
pub(crate) enum Damaged {
    Sled(sled::Db),
    Redb(Database),
}

// === impl Damaged ===

impl Damaged {
    /// Opens a copy in `directory` as far as it goes.
    pub(crate) fn open(backend: Backend, directory: &Path, cache_bytes: u64) -> Result<Self, OpenFailure> {
        let corrupt = |reason: String| OpenFailure::Corrupt(reason);
        match backend {
            Backend::Sled => {
                let open = || {
                    let config = sled::Config::new().path(directory).cache_capacity(cache_bytes).flush_every_ms(None);
                    catch_unwind(AssertUnwindSafe(|| config.open()))
                };
                if let Ok(Ok(db)) = open() {
                    return Ok(Self::Sled(db));
                }
                // A snapshot is a summary of the log: without it the log is read from its start.
                remove_snapshots(directory)?;
                match open() {
                    Ok(Ok(db)) => Ok(Self::Sled(db)),
                    Ok(Err(error)) => Err(corrupt(error.to_string())),
                    Err(_panic) => Err(corrupt("the database could not be read".to_owned())),
                }
            }
            Backend::Redb => {
                let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
                let opened = catch_unwind(AssertUnwindSafe(|| {
                    Builder::new().set_cache_size(cache_bytes).open(directory.join(FILE))
                }));
                match opened {
                    Ok(Ok(db)) => Ok(Self::Redb(db)),
                    Ok(Err(error)) => Err(corrupt(error.to_string())),
                    Err(_panic) => Err(corrupt("the database could not be read".to_owned())),
                }
            }
        }
    }

    /// Gives every row that can be read, in order; says how many places could not be. `seeds` are keys behind which
    /// something may lie, for finding a way past a place where nothing is known.
    pub(crate) fn walk<E>(
        &self,
        seeds: &BTreeSet<Vec<u8>>,
        mut each: impl FnMut(Vec<Pair>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut gaps_count = 0;
        let mut from = Bound::Unbounded;
        loop {
            let (pairs, whole) = self.read(&from, STEP_COUNT);
            let last = pairs.last().map(|(key, _)| key.clone());
            let is_end = pairs.len() < STEP_COUNT;
            each(pairs)?;
            if whole && is_end {
                return Ok(gaps_count);
            }
            if !whole {
                gaps_count += 1;
                let stuck = last.or_else(|| key_of(&from)).unwrap_or_default();
                match self.past(&stuck, seeds) {
                    Some(next) => from = Bound::Included(next),
                    None => return Ok(gaps_count),
                }
            } else if let Some(last) = last {
                from = Bound::Excluded(last);
            }
        }
    }

    /// The nearest place behind `stuck` from where reading works again: behind what shares ever less of its beginning.
    fn past(&self, stuck: &[u8], seeds: &BTreeSet<Vec<u8>>) -> Option<Vec<u8>> {
        let shorter = (1..=stuck.len()).filter_map(|length| successor(stuck.get(..length)?));
        let later = seeds.range::<[u8], _>((Bound::Excluded(stuck), Bound::Unbounded)).cloned();
        let places: BTreeSet<Vec<u8>> = shorter.chain(later).collect();
        places.into_iter().find(|place| self.read(&Bound::Included(place.clone()), 1).1)
    }

    /// Rows from a place on, as many as can be read; and whether nothing stood in the way.
    fn read(&self, from: &Bound<Vec<u8>>, count_max: usize) -> (Vec<Pair>, bool) {
        let mut pairs: Vec<Pair> = Vec::new();
        let whole = catch_unwind(AssertUnwindSafe(|| self.fill(from, count_max, &mut pairs).is_some()));
        // Out of order is as good as unreadable: going on from there could go round in circles.
        let sorted = pairs.windows(2).take_while(|pair| matches!(pair, [a, b] if a.0 < b.0)).count() + 1;
        let in_order = sorted >= pairs.len();
        pairs.truncate(sorted);
        (pairs, matches!(whole, Ok(true)) && in_order)
    }

    fn fill(&self, from: &Bound<Vec<u8>>, count_max: usize, pairs: &mut Vec<Pair>) -> Option<()> {
        let span: (Bound<&[u8]>, Bound<&[u8]>) = (from.as_ref().map(Vec::as_slice), Bound::Unbounded);
        match self {
            Self::Sled(db) => {
                for pair in db.range::<&[u8], _>(span).take(count_max) {
                    let (key, value) = pair.ok()?;
                    pairs.push((key.to_vec(), value.to_vec()));
                }
            }
            Self::Redb(db) => {
                let table = db.begin_read().ok()?.open_table(ROWS).ok()?;
                for pair in table.range::<&[u8]>(span).ok()?.take(count_max) {
                    let (key, value) = pair.ok()?;
                    pairs.push((key.value().to_vec(), value.value().to_vec()));
                }
            }
        }
        Some(())
    }
}

fn key_of(bound: &Bound<Vec<u8>>) -> Option<Vec<u8>> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    }
}

fn remove_snapshots(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
