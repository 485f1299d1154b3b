//! Moving a data directory from one database to another: offline, compared row by row, all or nothing.
//!
//! The copy is made beside the original under a name nobody opens; the one step that counts is the renaming of `FORMAT`.
//! Rows go as they are, sealed, so no key is needed. Must never change the original, nor remove it: it is moved aside
//! for the operator to delete.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::directory::{self, Format};
use crate::engine::{Backend, Engine, OpenFailure, Order, Rows, Span, Write};
use crate::error::StoreError;
use crate::store::{Found, LESS, state};

/// LIMIT: rows and bytes copied at a time.
const STEP_COUNT: usize = 1_000;
const STEP_BYTES: usize = 4 << 20;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Rows of the database: records, and what the store keeps about them.
    pub rows_count: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 over all of them as they were read back from the copy, each key and value after its length, in hex.
    pub sha256: String,
    /// Where the database lies that was moved from.
    pub kept: PathBuf,
}

/// Moves the store in `dir` from one backend to another, with `cache_bytes` of memory for the pages of each. `progress`
/// hears how many rows were copied, now and then.
///
/// Fails with [`StoreError::WrongBackend`] when the store is not on `from`, [`StoreError::InUse`] while a host has it open,
/// [`StoreError::Unavailable`] when it is damaged or the disk is full: then everything is as it was before.
pub fn migrate(
    dir: &Path,
    from: Backend,
    to: Backend,
    cache_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Moved, StoreError> {
    if directory::made_by(dir)?.is_none() {
        return Err(StoreError::unavailable(format!("there is no store in `{}`", dir.display())));
    }
    let _lock = directory::lock(dir)?;
    let version = match directory::read_format(dir)? {
        Some(Format { backend: found, .. }) if found != from => {
            return Err(StoreError::WrongBackend { path: dir.to_owned(), found, asked: from });
        }
        _ if from == to => return Err(StoreError::unavailable(format!("it is on {to} already"))),
        Some(Format { version, .. }) => version,
        None => return Err(StoreError::unavailable(format!("there is no store in `{}`", dir.display()))),
    };
    let part = dir.join(format!("{}.part", to.directory()));
    remove(&part).map_err(StoreError::unavailable)?;
    let copied = copy(dir, (from, to), &part, cache_bytes, progress);
    let (rows_count, bytes, sha256) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            // What is left of it goes now or at the next attempt.
            let _ = remove(&part);
            return Err(error);
        }
    };
    let kept = switch(dir, from, Format { version, backend: to }, &part).map_err(StoreError::unavailable)?;
    Ok(Moved { rows_count, bytes, sha256, kept })
}

/// Makes the copy, durably, and compares it.
fn copy(
    dir: &Path,
    (from, to): (Backend, Backend),
    part: &Path,
    cache_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(u64, u64, String), StoreError> {
    let source = open(from, &dir.join(from.directory()), cache_bytes)?;
    let marked = directory::read_mark(dir).map_err(StoreError::unavailable)?;
    if !matches!(state(&*source, marked)?, Found::Whole) {
        return Err(StoreError::unavailable(format!("it is damaged ({LESS})")));
    }
    directory::make(part).map_err(StoreError::unavailable)?;
    let target = open(to, part, cache_bytes)?;
    let mut rows_count = 0_u64;
    walk(&*source, |rows| {
        rows_count = rows_count.saturating_add(rows.len() as u64);
        target.apply(rows.into_iter().map(|(key, value)| Write { key, value: Some(value) }).collect())?;
        target.sync()?;
        progress(rows_count);
        Ok(())
    })?;
    target.sync()?;
    target.close();
    drop(target);
    let target = open(to, part, cache_bytes)?;
    let compared = compare(&*source, &*target)?;
    source.close();
    target.close();
    directory::sync(part).map_err(StoreError::unavailable)?;
    Ok(compared)
}

/// Reads both to the end; gives count, bytes and digest of what the second holds.
fn compare(source: &dyn Engine, target: &dyn Engine) -> Result<(u64, u64, String), StoreError> {
    let (mut count, mut bytes, mut digest) = (0_u64, 0_u64, Sha256::new());
    let mut from = Bound::Unbounded;
    loop {
        let [expected, found] = [source.range(&step(from.clone()))?, target.range(&step(from))?];
        if expected.pairs != found.pairs || expected.more != found.more {
            return Err(StoreError::unavailable("the copy is not what was copied"));
        }
        for (key, value) in &found.pairs {
            count = count.saturating_add(1);
            bytes = bytes.saturating_add((key.len() as u64).saturating_add(value.len() as u64));
            for part in [key, value] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part);
            }
        }
        match found.pairs.into_iter().next_back() {
            Some((last, _)) if found.more => from = Bound::Excluded(last),
            _ => return Ok((count, bytes, HEXLOWER.encode(&digest.finalize()))),
        }
    }
}

/// Puts the copy in place, of the version that it was of. A crash before the format is written leaves the store as it was, one
/// after it as it will be.
fn switch(dir: &Path, from: Backend, format: Format, part: &Path) -> io::Result<PathBuf> {
    let to = format.backend;
    let place = dir.join(to.directory());
    if place.exists() {
        directory::move_aside(dir, "aside", &[to.directory()])?;
    }
    std::fs::rename(part, &place)?;
    directory::sync(dir)?;
    directory::write_format(dir, format)?;
    directory::move_aside(dir, "aside", &[from.directory()])
}

/// Gives all rows of a database in order, some at a time.
pub(crate) fn walk(
    engine: &dyn Engine,
    mut each: impl FnMut(Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut from = Bound::Unbounded;
    loop {
        let Rows { pairs, more } = engine.range(&step(from))?;
        let last = pairs.last().map(|(key, _)| key.clone());
        each(pairs)?;
        match last {
            Some(last) if more => from = Bound::Excluded(last),
            _ => return Ok(()),
        }
    }
}

fn step(from: Bound<Vec<u8>>) -> Span {
    Span { from, to: Bound::Unbounded, order: Order::Forward, count_max: STEP_COUNT, bytes_max: STEP_BYTES }
}

/// Opens a database that must be whole, and says no more of one that is not.
pub(crate) fn open(
    backend: Backend,
    directory: &Path,
    cache_bytes: u64,
) -> Result<std::sync::Arc<dyn Engine>, StoreError> {
    backend.open(directory, cache_bytes).map_err(|failure| match failure {
        OpenFailure::Corrupt(reason) => StoreError::unavailable(format!("it is damaged ({reason})")),
        OpenFailure::Io(error) => StoreError::unavailable(error),
    })
}

fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
