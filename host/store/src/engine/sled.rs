//! sled behind its durability wrapper. Every rule here was measured before it was written:
//!
//! * sled's flush does not reach the disk on Linux; [`Engine::sync`] adds fdatasync on the database file, and fsync on the
//!   page files sled writes beside it without any.
//! * A crash leaves `snap.*.generating`, which the next open takes for a snapshot and fails; they are removed before.
//! * Damage makes sled open empty, fail, or panic. Panics are caught, and a mark in the database together with one beside
//!   it tells an empty store from a lost one. Damaged files are moved aside by the caller, never deleted.
//! * When the disk has no space at all, its threads can wait for each other for good. The floor of free space under every
//!   write keeps it from there; without one, writes would end at the caller's deadline until the process starts again.
//! * Its cache learns of what was read in lots of 64 accesses a shard: until then pages stay, however many there are. So
//!   what was read to find damage is let go of with its handle, and the library is given less than it may use.
//!
//! Must never acknowledge before [`Engine::sync`] returned, and never serve after it failed without opening again: pages
//! that failed to reach the disk are marked clean by the kernel, so a second fsync proves nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::guard::{Guard, forget_cached, is_damage};
use super::{Engine, EngineError, OpenFailure, Order, Rows, Span, Write, borrow, collect};

/// Longest wait for the database's own lock at opening.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long to wait between two looks at it.
const LOCK_LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Pages in memory that the library has not counted: 64 accesses wait in each of its 256 shards, about half of them of a page
/// that waits already, and 16 records make a page, which is some 4 KiB.
const UNCOUNTED_BYTES: u64 = 256 * 64 / 2 * 4_096;
/// How the library says that the lock is held.
const LOCK_WORDS: &str = "could not acquire lock";

pub(crate) struct SledEngine {
    directory: PathBuf,
    cache_bytes: u64,
    handle: Guard<Handle>,
    /// Page files that are durable already.
    synced: Mutex<BTreeSet<String>>,
}

type Handle = (sled::Db, File);

// === impl SledEngine ===

impl SledEngine {
    /// Opens the database in `directory`, which must exist and belong to this process alone.
    pub(crate) fn open(directory: &Path, cache_bytes: u64) -> Result<Self, OpenFailure> {
        let handle = Guard::new(open(directory, cache_bytes)?);
        Ok(Self { directory: directory.to_owned(), cache_bytes, handle, synced: Mutex::default() })
    }

    fn act<T>(&self, act: impl FnOnce(&sled::Db, &File) -> Result<T, sled::Error>) -> Result<T, EngineError> {
        self.handle.act(|(db, file)| act(db, file).map_err(|error| describe(&error)))
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.act(|db, _| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn range(&self, span: &Span) -> Result<Rows, EngineError> {
        self.act(|db, _| {
            let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (borrow(&span.from), borrow(&span.to));
            let own =
                |pair: sled::Result<(sled::IVec, sled::IVec)>| pair.map(|(key, value)| (key.to_vec(), value.to_vec()));
            let pairs = db.range::<&[u8], _>(bounds).map(own);
            match span.order {
                Order::Forward => collect(span, pairs),
                Order::Backward => collect(span, pairs.rev()),
            }
        })
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.act(|db, _| db.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.act(|db, file| {
            db.flush()?;
            sync_page_files(&self.directory, &self.synced)?;
            file.sync_data()?;
            Ok(())
        })
    }

    fn recover(&self) -> Result<(), EngineError> {
        self.handle.recover(|| {
            self.synced.lock().unwrap_or_else(PoisonError::into_inner).clear();
            forget_cached(&self.directory.join("db"))?;
            open(&self.directory, self.cache_bytes)
        })
    }

    fn bytes_on_disk(&self) -> u64 {
        self.act(|db, _| db.size_on_disk()).unwrap_or_default()
    }

    fn close(&self) {
        self.handle.close();
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        self.close();
    }
}

// === opening ===

/// Opens the database, waiting a little for its own lock: the directory's lock is ours by now, so whoever still holds
/// this one is a handle of this very process whose threads have not ended yet.
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match config.open() {
            // The library gives this error no kind of its own.
            Err(sled::Error::Io(error)) if error.to_string().contains(LOCK_WORDS) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_LOOK_AGAIN);
            }
            other => return other,
        }
    }
}

fn open(directory: &Path, cache_bytes: u64) -> Result<(sled::Db, File), OpenFailure> {
    remove_stale_snapshots(directory)?;
    let config = sled::Config::new().path(directory).cache_capacity(counted(cache_bytes)).flush_every_ms(None);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = open_when_free(&config)?;
        read_all(&db)?;
        Ok(db)
    }));
    let read = match opened {
        Ok(Ok(db)) => db,
        Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => return Err(OpenFailure::Io(error)),
        Ok(Err(error)) => return Err(OpenFailure::Corrupt(describe(&error))),
        Err(_panic) => return Err(OpenFailure::Corrupt("the database could not be read".to_owned())),
    };
    let db = afresh(read, &config)?;
    let file = File::open(directory.join("db"))?;
    file.sync_all()?;
    File::open(directory.join("conf"))?.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok((db, file))
}

/// Lets go of a handle that has all pages in memory, and opens one that has none. They were good a moment ago: what fails
/// now is the disk or the system, and nothing that files would be moved aside for.
fn afresh(read: sled::Db, config: &sled::Config) -> io::Result<sled::Db> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        // What opening it wrote: the handle swallows a failure when it is dropped, and the kernel tells of it once.
        read.flush()?;
        drop(read);
        open_when_free(config)
    }));
    match opened {
        Ok(opened) => opened.map_err(|error| io::Error::other(describe(&error))),
        Err(_panic) => Err(io::Error::other("the database stopped while it was opened")),
    }
}

/// Of the bytes that pages may take in memory, those that the library may count: never less than half.
fn counted(cache_bytes: u64) -> u64 {
    cache_bytes.saturating_sub(UNCOUNTED_BYTES).max(cache_bytes / 2)
}

/// Reads every page, so that damage shows now and not in the middle of a request.
/// LIMIT: opening takes time in proportion to the database (large values are in files of their own and not read).
fn read_all(db: &sled::Db) -> sled::Result<()> {
    let mut before: Option<sled::IVec> = None;
    for pair in db.iter() {
        let (key, _) = pair?;
        if before.as_ref().is_some_and(|before| *before >= key) {
            return Err(sled::Error::ReportableBug("keys are out of order".to_owned()));
        }
        before = Some(key);
    }
    Ok(())
}

fn remove_stale_snapshots(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removing a snapshot that a crash left half written");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes page files durable that sled wrote since the last time. There are few: only pages over 128 KiB get one.
fn sync_page_files(directory: &Path, synced: &Mutex<BTreeSet<String>>) -> io::Result<()> {
    let directory = directory.join("blobs");
    let mut synced = synced.lock().unwrap_or_else(PoisonError::into_inner);
    let mut present = BTreeSet::new();
    let mut fresh = 0;
    for entry in std::fs::read_dir(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !synced.contains(&name) {
            match File::open(directory.join(&name)) {
                // Collected in the meantime: the page has moved on.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?.sync_all()?,
            }
            fresh += 1;
        }
        present.insert(name);
    }
    *synced = present;
    if fresh > 0 { File::open(&directory)?.sync_all() } else { Ok(()) }
}

fn describe(error: &sled::Error) -> String {
    match error {
        sled::Error::Corruption { .. } => "a page does not match its checksum".to_owned(),
        sled::Error::Io(error) => error.to_string(),
        sled::Error::Unsupported(what) | sled::Error::ReportableBug(what) => what.chars().take(200).collect(),
        sled::Error::CollectionNotFound(_) => "a tree is missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{all, write};
    use super::*;

    const CACHE_BYTES: u64 = 1 << 20;

    #[test]
    fn a_sync_that_fails_is_never_acknowledged_and_nothing_is_served_until_the_disk_was_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(directory.path(), CACHE_BYTES).unwrap();
        engine.commit(vec![write("before", Some(b"1"))]).unwrap();
        drop(engine);
        // The kernel refuses to make a device durable: the log is written, and its fdatasync fails.
        let (db, _) = open(directory.path(), CACHE_BYTES).unwrap();
        let handle = Guard::new((db, File::open("/dev/null").unwrap()));
        let directory_of = directory.path().to_owned();
        let engine = SledEngine { directory: directory_of, cache_bytes: CACHE_BYTES, handle, synced: Mutex::default() };
        assert_eq!(engine.get(b"before").unwrap().unwrap(), b"1");
        let failed =
            |result: Result<(), EngineError>| assert!(matches!(result, Err(EngineError::Failed(_))), "{result:?}");
        failed(engine.commit(vec![write("during", Some(b"2"))]));
        failed(engine.sync());
        failed(engine.apply(vec![write("during", Some(b"3"))]));
        failed(engine.get(b"before").map(drop));
        failed(engine.range(&all()).map(drop));
        let deadline = Instant::now() + LOCK_WAIT_MAX * 4;
        while engine.recover().is_err() {
            assert!(Instant::now() < deadline, "it never came back");
            std::thread::sleep(LOCK_LOOK_AGAIN);
        }
        assert_eq!(engine.get(b"before").unwrap().unwrap(), b"1");
        // In doubt until now: it is there or not, and stays that way.
        let during = engine.get(b"during").unwrap();
        assert!(during.is_none() || during.as_deref() == Some(b"2"), "{during:?}");
        engine.commit(vec![write("after", Some(b"4"))]).unwrap();
        drop(engine);
        let engine = SledEngine::open(directory.path(), CACHE_BYTES).unwrap();
        assert_eq!(engine.get(b"during").unwrap(), during);
        assert_eq!(engine.get(b"after").unwrap().unwrap(), b"4");
    }

    #[test]
    fn the_library_may_count_what_is_left_beside_what_it_does_not_count_and_half_at_least() {
        assert_eq!([1, 64, 1_024].map(|mib: u64| counted(mib << 20) >> 10), [512, 32 << 10, 992 << 10]);
    }
}
