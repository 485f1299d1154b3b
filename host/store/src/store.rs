//! The store itself: opens the directory, owns engine, files and the commit thread, and closes them in order.
//!
//! Layout of the directory: see `directory.rs`. Must never delete what it cannot read.

use std::fs::File;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use cap_std::fs::Dir;
use tokio::task::spawn_blocking;

use crate::commit::{Committer, Counters};
use crate::directory::{self, Format};
use crate::engine::{Backend, Engine, Faults, MemoryEngine, OpenFailure, Order, Span, Write};
use crate::error::StoreError;
use crate::files::Files;
use crate::key::AREA_RECORDS;
use crate::tally;
use crate::tenant_keys::{PLATFORM_UID, read_key};
use crate::watch::Watchers;
use crate::watermark::Watermark;

/// The revision of the newest batch; written with each.
pub(crate) const REVISION_KEY: &[u8] = b"\0revision";
/// Says that the database was written by this program, and in which form.
pub(crate) const MARK_KEY: &[u8] = b"\0mark";
pub(crate) const MARK: &[u8] = b"ringfence store 1\n";
/// What is said of a database that came back with less than was durable.
pub(crate) const LESS: &str = "records that were durable are not there any more";

/// How to run the store on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// The database under it.
    pub backend: Backend,
    /// Most bytes of pages kept in memory: with sled about so many, since it counts them late and as they lie on disk.
    pub cache_bytes: u64,
    /// Bytes of the disk that writes leave free; deletes still work below.
    pub free_bytes_min: u64,
}

impl DiskOptions {
    /// What a host runs with unless told otherwise: sled, 64 MiB of cache, 128 MiB of the disk kept free.
    pub const RECOMMENDED: Self = Self { backend: Backend::Sled, cache_bytes: 64 << 20, free_bytes_min: 128 << 20 };
}

/// How the store is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of database, keys and files on disk.
    pub bytes_on_disk: u64,
    /// Bytes free for the host on that disk; none in memory.
    pub free_bytes: Option<u64>,
    /// Bytes that writes leave free.
    pub free_bytes_min: u64,
    /// Batches acknowledged since the start.
    pub commits: u64,
    /// Times the disk was asked to make them durable since the start.
    pub syncs: u64,
    /// The newest revision.
    pub revision: u64,
    /// Batches waiting for the commit thread.
    pub waiting: usize,
}

/// The store. Cheap to clone; closes when the last clone goes, better with [`Store::close`].
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) files: Files,
    pub(crate) committer: Committer,
    pub(crate) counters: Arc<Counters>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) free_bytes_min: u64,
    /// Held for as long as the store is open.
    lock: Mutex<Option<Arc<File>>>,
}

// === impl Store ===

impl Store {
    /// Opens the store in `dir`, making it when there is none. Blocks for as long as it takes to read the database.
    ///
    /// Damaged files are moved to `quarantine-<n>` inside `dir` and [`StoreError::Corrupt`] says so; the next opening
    /// begins empty unless a backup was put back. A directory of an earlier version becomes one of this, which earlier
    /// programs refuse. A second process gets [`StoreError::InUse`], another backend than the
    /// one that made the directory [`StoreError::WrongBackend`], a directory of a later version [`StoreError::Newer`].
    pub fn open(dir: &Path, options: DiskOptions) -> Result<Self, StoreError> {
        directory::make(dir).map_err(StoreError::unavailable)?;
        let lock = directory::lock(dir)?;
        let marked = directory::read_mark(dir).map_err(StoreError::unavailable)?;
        let version = directory::claim(dir, options.backend)?;
        let database = dir.join(options.backend.directory());
        directory::make(&database).map_err(StoreError::unavailable)?;
        let engine = match options.backend.open(&database, options.cache_bytes) {
            Ok(engine) => engine,
            Err(OpenFailure::Io(error)) => return Err(StoreError::unavailable(error)),
            Err(OpenFailure::Corrupt(reason)) => return Err(directory::quarantine(dir, reason)),
        };
        match state(&*engine, marked)? {
            Found::Whole => {}
            Found::New => {
                engine.apply(vec![Write { key: MARK_KEY.to_vec(), value: Some(MARK.to_vec()) }])?;
                engine.sync()?;
            }
            Found::Less => {
                drop(engine);
                return Err(directory::quarantine(dir, LESS.to_owned()));
            }
        }
        if version < directory::VERSION {
            // In this order, before any record is written: an earlier program may still open it until the format says no, and
            // whatever it does then to the tallies is made good at the next opening. Those that are there are not counted
            // anew: what the disk lost since must not be lost sight of.
            let is_tallied = version >= directory::VERSION_TALLIED;
            let tenants_count = if is_tallied { 0 } else { tally::count_all(&*engine)? };
            let format = Format { version: directory::VERSION, backend: options.backend };
            directory::write_format(dir, format).map_err(StoreError::unavailable)?;
            tracing::info!(
                tenants_count,
                version = format.version,
                "the data directory was made one of a newer version"
            );
        }
        let revision = revision(&*engine)?;
        let watermark = directory::open_mark(dir, revision).map_err(StoreError::unavailable)?;
        let directory = Dir::open_ambient_dir(dir, cap_std::ambient_authority()).map_err(StoreError::unavailable)?;
        Self::start(engine, Files::Disk(Arc::new(directory)), options.free_bytes_min, Some((watermark, lock)))
    }

    /// A store in memory, for tests: the same behaviour, gone with its last handle.
    pub fn memory() -> Self {
        Self::memory_with_faults(Faults::default())
    }

    /// A store in memory whose writes fail as planned.
    pub fn memory_with_faults(faults: Faults) -> Self {
        let files = Files::Memory(Arc::default());
        // INVARIANT: a fresh map has no revision that could be damaged, so starting on it cannot fail; were it to, the
        // store would be closed from the start instead of the process ending.
        Self::start(Arc::new(MemoryEngine::new(faults)), files.clone(), 0, None)
            .unwrap_or_else(|_| Self::for_reading(Arc::new(MemoryEngine::default()), files))
    }

    /// A store that refuses every write.
    pub(crate) fn for_reading(engine: Arc<dyn Engine>, files: Files) -> Self {
        Self(Arc::new(Shared {
            engine,
            files,
            committer: Committer::closed(),
            counters: Arc::default(),
            watchers: Arc::default(),
            free_bytes_min: 0,
            lock: Mutex::new(None),
        }))
    }

    /// Stops taking writes, makes the ones taken durable, and lets go of the files. Other handles answer
    /// [`StoreError::Closed`] from then on.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || {
            let synced = shared.committer.close();
            shared.engine.close();
            drop(shared.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
            synced
        })
        .await
        .map_err(StoreError::unavailable)?
    }

    /// Whether nothing was ever kept here, neither a key nor a record: a root key that is made now shuts nothing in. Blocks.
    pub fn is_new(&self) -> Result<bool, StoreError> {
        let any = Span {
            from: Bound::Included(vec![AREA_RECORDS]),
            to: Bound::Unbounded,
            order: Order::Forward,
            count_max: 1,
            bytes_max: 1,
        };
        Ok(read_key(self, &PLATFORM_UID)?.is_none() && self.0.engine.range(&any)?.pairs.is_empty())
    }

    /// How the store is doing. Walks the directory: for operators and metrics, not for the path of a request.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || {
            let below = |path| shared.files.bytes_below(path).map_err(StoreError::unavailable);
            Ok(Stats {
                bytes_on_disk: shared.engine.bytes_on_disk() + below("keys")? + below("blobs")?,
                free_bytes: shared.files.free_bytes(),
                free_bytes_min: shared.free_bytes_min,
                commits: shared.counters.commits.load(Ordering::Relaxed),
                syncs: shared.counters.syncs.load(Ordering::Relaxed),
                revision: shared.counters.revision.load(Ordering::Relaxed),
                waiting: shared.committer.waiting(),
            })
        })
        .await
        .map_err(StoreError::unavailable)?
    }

    fn start(
        engine: Arc<dyn Engine>,
        files: Files,
        free_bytes_min: u64,
        on_disk: Option<(Watermark, File)>,
    ) -> Result<Self, StoreError> {
        for directory in ["keys", "blobs"] {
            files.make_directory(directory).map_err(StoreError::unavailable)?;
        }
        let unfinished = files.sweep_unfinished("keys").map_err(StoreError::unavailable)?;
        if unfinished > 0 {
            tracing::warn!(unfinished, "removed key files that a crash left half written");
        }
        let (counters, watchers) = (Arc::new(Counters::default()), Arc::new(Watchers::default()));
        let (watermark, lock) = on_disk.map(|(watermark, lock)| (watermark, Arc::new(lock))).unzip();
        let (writer, counted) = (Arc::clone(&engine), (Arc::clone(&counters), Arc::clone(&watchers)));
        let committer = Committer::start(writer, files.clone(), counted, free_bytes_min, watermark, lock.clone())?;
        Ok(Self(Arc::new(Shared {
            engine,
            files,
            committer,
            counters,
            watchers,
            free_bytes_min,
            lock: Mutex::new(lock),
        })))
    }
}

impl Shared {
    /// Refuses when the disk is below its floor; waits for room that removed files still hold. Blocks.
    pub(crate) fn check_free(&self) -> Result<(), StoreError> {
        check_free(&self.files, self.free_bytes_min)
    }
}

pub(crate) fn check_free(files: &Files, floor_bytes: u64) -> Result<(), StoreError> {
    check_floor(files.free_bytes_above(floor_bytes), floor_bytes)
}

/// The same of what the disk said a moment ago; it may say nothing.
pub(crate) fn check_floor(free_bytes: Option<u64>, floor_bytes: u64) -> Result<(), StoreError> {
    match free_bytes {
        Some(free_bytes) if free_bytes < floor_bytes => Err(StoreError::Full { free_bytes, floor_bytes }),
        _ => Ok(()),
    }
}

/// What an opened database turned out to be.
pub(crate) enum Found {
    /// All there, as far as the mark beside it knows.
    Whole,
    /// New.
    New,
    /// Less than there was: damage at the right place makes a database look new; the mark beside it knows better.
    Less,
}

/// Compares a database with the mark beside it.
pub(crate) fn state(engine: &dyn Engine, marked: Option<u64>) -> Result<Found, StoreError> {
    match engine.get(MARK_KEY)?.as_deref() {
        Some(MARK) if revision(engine)? >= marked.unwrap_or(0) => Ok(Found::Whole),
        None if marked.is_none() => Ok(Found::New),
        Some(MARK) | None => Ok(Found::Less),
        Some(_) => Err(StoreError::unavailable("it was written by another version of this program")),
    }
}

/// The revision of the newest batch in a database; 0 where there is none.
pub(crate) fn revision(engine: &dyn Engine) -> Result<u64, StoreError> {
    let parsed = |bytes: Vec<u8>| bytes.as_slice().try_into().map(u64::from_be_bytes);
    engine.get(REVISION_KEY)?.map_or(Ok(0), parsed).map_err(|_| StoreError::Damaged)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<store>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::tenant_store::tests::tenant_in;

    const OPTIONS: DiskOptions = DiskOptions { backend: Backend::Sled, cache_bytes: 4 << 20, free_bytes_min: 0 };

    fn key(name: &str) -> Key {
        Key::new(["kv", "store", name])
    }

    /// As [`Store::open`] does it, on a disk where nothing can be written any more: nobody may write the mark.
    fn open_unwritable(dir: &Path, backend: Backend) -> Store {
        let lock = directory::lock(dir).unwrap();
        let engine = backend.open(&dir.join(backend.directory()), OPTIONS.cache_bytes).unwrap();
        let revision = revision(&*engine).unwrap();
        let watermark = Watermark::new(File::open(dir.join("mark")).unwrap(), revision);
        let directory = Dir::open_ambient_dir(dir, cap_std::ambient_authority()).unwrap();
        Store::start(engine, Files::Disk(Arc::new(directory)), 0, Some((watermark, lock))).unwrap()
    }

    #[tokio::test]
    async fn a_disk_that_takes_no_writes_refuses_them_without_effect_and_reads_go_on() {
        for backend in Backend::ALL {
            let place = tempfile::tempdir().unwrap();
            let dir = place.path().join("data");
            let open = || tenant_in(&Store::open(&dir, DiskOptions { backend, ..OPTIONS }).unwrap());
            let store = open();
            for name in ["a", "b"] {
                store.put(&key(name), name).await.unwrap();
            }
            store.store().close().await.unwrap();

            let store = tenant_in(&open_unwritable(&dir, backend));
            for _ in 0..3 {
                for refused in [store.put(&key("a"), "late").await.map(drop), store.delete(&key("b")).await.map(drop)] {
                    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{backend}: {refused:?}");
                }
                assert!(store.store().0.committer.erase([9; 16]).await.is_err(), "{backend}");
                assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value.as_slice(), b"a", "{backend}");
                assert_eq!(store.scan(&Key::new(["kv"]), None, 10).await.unwrap().records.len(), 2, "{backend}");
            }
            // Nothing was written, nor is anything in doubt.
            let _ = store.store().close().await;
            let store = open();
            assert_eq!(store.scan(&Key::new(["kv"]), None, 10).await.unwrap().records.len(), 2, "{backend}");
            store.put(&key("a"), "after").await.unwrap();
            store.store().close().await.unwrap();
        }
    }
}
